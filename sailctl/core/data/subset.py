"""A seeded part of a source: the first so many of a random order; a smaller part lies within every larger one."""

from __future__ import annotations

import hashlib
from typing import Any

from sailctl.core.data.order import permute
from sailctl.core.data.sources import Source
from sailctl.core.errors import UsageError
from sailctl.core.records import Sample


class Subset:
    """`count` samples of a source, drawn without replacement by `seed`; behaves as a source of its own.

    Raises UsageError where the source holds fewer.
    """

    def __init__(self, source: Source, count: int, seed: int) -> None:
        if count > len(source):
            raise UsageError(
                f"data source {source.name!r}: samples = {count}, but it holds {len(source)}; ask for fewer"
            )
        self.inner, self.count, self.seed = source, count, seed
        self.name, self.shards = source.name, source.shards

    def __len__(self) -> int:
        return self.count

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":  # a copy being unpickled has no inner source yet
            raise AttributeError(name)
        return getattr(self.inner, name)

    def ordinal(self, number: int) -> int:
        """Which sample of the whole source stands at a place of this part."""
        if not 0 <= number < self.count:
            raise IndexError(f"ordinal {number} of {self.count} samples in source {self.name!r}")
        return permute(number, len(self.inner), self.seed, 0, 0)

    def locate(self, number: int) -> tuple[int, int]:
        """Shard number and row within it."""
        return self.inner.locate(self.ordinal(number))

    def read(self, number: int) -> Sample:
        """The sample of a number; raises as a source's own `read` does."""
        return self.inner.read(self.ordinal(number))

    def fingerprint(self) -> str:
        """A hash of the whole source's fingerprint, the count and the seed."""
        described = f"{self.inner.fingerprint()} {self.count} {self.seed}".encode()
        return hashlib.blake2b(described, digest_size=16).hexdigest()
