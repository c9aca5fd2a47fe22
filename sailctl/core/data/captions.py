"""A source seen through sidecars: its samples are the rows of the captions made for it, its pictures stay in place.

Of a sidecar only its footer is known beforehand; a row of it says in which data shard and row its sample lies, and by
the sample's id whether that still stands there. What writes sidecars is `core/caption/sidecar.py`.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import Any

import numpy as np

from sailctl.core import files
from sailctl.core.data.layouts import conversation_turns
from sailctl.core.data.parquet import ParquetSource
from sailctl.core.data.sources import open_source
from sailctl.core.errors import DataError, SampleError, UsageError
from sailctl.core.records import Sample, Turn
from sailctl.core.schema.data import SourceConfig


class CaptionedSource(ParquetSource):
    """Samples numbered over the rows of the sidecars, in the order of the sidecars' names.

    A sample keeps the raw one's id, key and pictures; its turns are the row's, and a bare caption it had becomes its
    alt-text. A row whose sample is no longer where it says is a SampleError "caption_mismatch".
    """

    columns = ["id", "shard", "row", "key", "text", "turns"]  # noqa: RUF012 - the base class's is None

    def __init__(self, config: SourceConfig) -> None:
        assert config.captions is not None
        sidecars = files.list_shards(config.captions, (".parquet",))
        if not sidecars:
            raise UsageError(f"data source {config.name!r}: no sidecars (.parquet) at captions: {config.captions}"
                             f"{_tasks_in(config.captions)}")  # fmt: skip
        whole: dict[str, Any] = {"captions": None, "verdicts": [], "samples": None}
        self.raw = open_source(config.model_copy(update=whole), textless=True)
        self._numbers: dict[str, list[int]] = {}  # data shards of a name: folders may hold equal ones
        for number, shard in enumerate(self.raw.shards):
            self._numbers.setdefault(files.base_name(shard), []).append(number)
        self._found: dict[int, int] = {}  # sidecar → the data shard its rows turned out to lie in
        super().__init__(config, sidecars, "parquet")
        if len(self) == 0:
            raise UsageError(f"data source {config.name!r}: the sidecars at captions: {config.captions} hold no rows")

    def fingerprint(self) -> str:
        """A hash of the raw source's fingerprint and of the sidecars' names, counts and footers."""
        return hashlib.blake2b(f"{self.raw.fingerprint()} {self._fingerprint}".encode(), digest_size=16).hexdigest()

    def row_ids(self) -> np.ndarray:
        """The ids of all samples as the sidecars have them, 16 bytes each; no sample is read."""
        import pyarrow
        import pyarrow.parquet

        packed = []
        for shard in self.shards:
            try:
                with files.open_read(shard) as handle:
                    ids = pyarrow.parquet.read_table(handle, columns=["id"])["id"].to_pylist()
                packed += [bytes.fromhex(one).ljust(16, b"\0")[:16] for one in ids]
            except (OSError, ValueError, TypeError, pyarrow.ArrowException) as error:
                raise DataError(f"captions {shard} cannot be read: {str(error).splitlines()[0]}") from error
        return np.frombuffer(b"".join(packed), dtype="V16")

    def close(self) -> None:
        """Close what this process has open."""
        super().close()
        self.raw.close()

    def _check(self, shard: str, columns: list[str]) -> None:
        if missing := [name for name in self.columns if name not in columns]:
            raise DataError(
                f"captions {shard} is no sidecar of sailctl caption: column {', '.join(missing)} is missing; "
                "give the folder of a task, such as captions/detailed-en"
            )

    def _read(self, shard: int, row: int) -> Sample:
        record = self._record(shard, row)
        try:
            sample = self._raw_sample(record, shard)
            turns = _turns(record)
        except SampleError as error:
            error.key = error.key or str(record["key"])
            raise
        said = sample.turns[0].text if sample.is_bare_caption else None
        return replace(sample, turns=turns, alt_text=sample.alt_text if sample.alt_text is not None else said)

    def _raw_sample(self, record: dict[str, Any], sidecar: int) -> Sample:
        """The sample a row was made for, read anew and known by its id."""
        name, row = str(record["shard"]), int(record["row"])
        numbers = self._numbers.get(name, [])
        if sidecar in self._found:
            numbers = [self._found[sidecar]]
        seen, failure = "", None
        for number in numbers:
            if row >= self.raw.num_rows(number):
                continue
            try:
                sample = self.raw.read_row(number, row)
            except SampleError as error:
                failure = error
                continue
            if sample.id == record["id"]:
                self._found[sidecar] = number
                return sample
            seen = sample.id
        if failure is not None:
            raise failure
        there = (
            f"row {row} of it is {seen}" if seen else f"it has no row {row}" if numbers else "it is not in the source"
        )
        made_for = f"{self.shards[sidecar]} has a caption for sample {record['id']} of data shard {name}"
        raise SampleError("caption_mismatch", f"{made_for}, but {there}")


def _turns(record: dict[str, Any]) -> tuple[Turn, ...]:
    if record["turns"] is not None:
        return conversation_turns(record["turns"], "turns")
    text = str(record["text"] or "")
    if not text.strip():
        raise SampleError("no_answer", "the caption is empty")
    return (Turn("assistant", text),)


def _tasks_in(folder: str) -> str:
    """A hint at the folders of tasks where somebody named the one that holds them."""
    if files.is_url(folder) or not os.path.isdir(folder):
        return "; make them with: sailctl caption"
    tasks = sorted(
        entry.name for entry in os.scandir(folder) if entry.is_dir() and files.list_shards(entry.path, (".parquet",))
    )
    return f"; name a task: {', '.join(os.path.join(folder, name) for name in tasks)}" if tasks else ""
