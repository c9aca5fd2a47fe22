"""Clusters of duplicates, and the one of each that is kept.

Samples hang together by pairs; but a chain of small differences may be long. So what is dropped has to be a duplicate
of the very sample that is kept for it: the best of what hangs together is kept, its duplicates are dropped, and of what
is left the best is kept again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sailctl.core.curate.dedup.relations import Remembered, Rules, kinds
from sailctl.core.curate.dedup.signatures import Signatures

KEEP = ("first", "largest", "longest")
SCOPES = ("all", "within", "across")
MEMBERS_AT_ONCE = 20_000
SCHEMA = {
    **{"sample": "int64", "kept": "int64", "kind": "string", "image": "float64", "text": "float64"},
    **{f"kept_{name}": kind for name, kind in (("id", "string"), ("source", "string"), ("shard", "string"),
                                               ("row", "int64"), ("key", "string"))},
}  # fmt: skip


def connected(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Samples that are in any pair, rising, and for each the least sample that it hangs together with."""
    members, joined = np.unique(np.concatenate([one, other]), return_inverse=True)
    left, right = joined[: len(one)], joined[len(one) :]
    least = np.arange(len(members))
    while True:  # every round the least label goes one pair further, and all the way along what is known
        before = least.copy()
        lower = np.minimum(least[left], least[right])
        np.minimum.at(least, left, lower)
        np.minimum.at(least, right, lower)
        np.minimum.at(least, before, least)
        while not np.array_equal(least, least[least]):
            least = least[least]
        if np.array_equal(before, least):
            return members, members[least]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of duplicates is kept: one of the first of `prefer` (source numbers), then by `keep`, then the first."""

    keep: str
    prefer: tuple[int, ...]
    scope: str

    def ranks(self, sources: np.ndarray, pixels: np.ndarray, words: np.ndarray) -> np.ndarray:
        """The order of samples, the best first; given in the order of the data."""
        place = np.full(max([*self.prefer, *sources.tolist()], default=0) + 1, len(self.prefer))
        for rank, source in enumerate(self.prefer):
            place[source] = rank
        worth = {"first": np.zeros(len(pixels)), "largest": -pixels, "longest": -words}[self.keep]
        return np.lexsort((np.arange(len(pixels)), worth, place[sources]))

    def allows(self, kept: int, others: np.ndarray) -> np.ndarray:
        """Whether samples of sources may be duplicates of one of a source."""
        if self.scope == "all":
            return np.ones(len(others), dtype=bool)
        return (others == kept) == (self.scope == "within")


@dataclass(frozen=True)
class Settle:
    """Decides over all that hangs together; a task of its own, in the order of the data."""

    signatures: Signatures
    rules: Rules
    choice: Choice
    pairs: tuple[np.ndarray, np.ndarray]

    def __call__(self, _task: Any) -> Any:
        """A row for each sample that is dropped, and for each that is kept for one."""
        import pyarrow as pa

        records: list[dict[str, Any]] = []
        for clusters in _batches(*connected(*self.pairs)):
            records += self._settle(clusters)
        records.sort(key=lambda record: record["sample"])
        return pa.Table.from_pylist(records, pa.schema([(k, pa.type_for_alias(v)) for k, v in SCHEMA.items()]))

    def _settle(self, clusters: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        numbers = np.sort(np.concatenate(clusters))
        remembered = Remembered(self.signatures, numbers)
        if self.rules.by != ("text",):
            remembered.read_copies(np.arange(len(numbers)))
        more = self.signatures.take(numbers, ("source", "shard", "row", "key", "pixels", "words"))
        pixels, words = np.array(more["pixels"]), np.array(more["words"])
        place = {name: remembered.columns[name] if name == "id" else more[name]
                 for name in ("id", "source", "shard", "row", "key")}  # fmt: skip
        records = []
        for cluster in clusters:
            at = remembered.places(cluster)
            left = at[self.choice.ranks(remembered.sources[at], pixels[at], words[at])]
            while len(left) > 1:
                kept, others = left[0], left[1:]
                joined, image, text = remembered.related(np.full(len(others), kept), others, self.rules)
                joined &= self.choice.allows(remembered.sources[kept], remembered.sources[others])
                told = {"kept": int(numbers[kept]), **{f"kept_{name}": column[kept] for name, column in place.items()}}
                if joined.any():
                    records.append({**told, "sample": told["kept"], "kind": "", "image": None, "text": None})
                for other in np.flatnonzero(joined):
                    kind = kinds(remembered.columns, int(kept), int(others[other]), image[other], text[other])
                    apart = {"image": _finite(image[other]), "text": _finite(text[other])}
                    records.append({**told, "sample": int(numbers[others[other]]), "kind": kind, **apart})
                left = others[~joined]
        return records


def _finite(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _batches(members: np.ndarray, least: np.ndarray) -> Iterator[list[np.ndarray]]:
    """What hangs together, whole, some thousand members at a time."""
    order = np.lexsort((members, least))
    cuts = np.flatnonzero(np.diff(least[order])) + 1
    held: list[np.ndarray] = []
    for cluster in np.split(members[order], cuts):
        if len(cluster) < 2:
            continue
        held.append(cluster)
        if sum(map(len, held)) >= MEMBERS_AT_ONCE:
            yield held
            held = []
    if held:
        yield held
