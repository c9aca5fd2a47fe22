"""Verdicts: Parquet tables of keep or drop, a row for every sample of a source; and a source seen through them.

A verdict knows its sample by where it lies (source, shard, row) and by its id: exact copies share an id, so the place
tells them apart, and where data were changed since, the id tells that. A source seen through captions has rows of its
own; verdicts made on the data themselves find them by the id alone. What makes verdicts is `core/curate/`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sailctl.core import files
from sailctl.core.data.sources import Source
from sailctl.core.errors import DataError, SampleError, UsageError
from sailctl.core.records import Sample
from sailctl.core.reporter import counted

VERDICTS = "verdicts"  # the folder of a pass in which its tables lie
COLUMNS = {"id": "string", "source": "string", "shard": "string", "row": "int64", "key": "string", "keep": "bool",
           "reason": "string", "detail": "string"}  # fmt: skip


def tables(path: str | Path) -> list[str]:
    """The verdict tables at a path: a file, a folder of tables, or the folder of a pass. Raises UsageError."""
    text = str(path).rstrip("/")
    for folder in (f"{text}/{VERDICTS}", text):
        found = files.list_shards(folder, (".parquet",)) or files.list_shards(f"{folder}/*/*.parquet", (".parquet",))
        if found:
            return found
    raise UsageError(f"{path}: no verdicts (.parquet) there; sailctl curate filter, dedup or sample make some")


@contextmanager
def opened(path: str, columns: Sequence[str]) -> Iterator[Any]:
    """A Parquet file that has these columns. Raises DataError naming it, also for what goes wrong within the block."""
    import pyarrow
    import pyarrow.parquet

    try:
        with files.open_read(path) as handle:
            file = pyarrow.parquet.ParquetFile(handle)
            if missing := [name for name in columns if name not in file.schema_arrow.names]:
                raise DataError(f"{path} is no table of verdicts: column {', '.join(missing)} is missing")
            yield file
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"verdicts {path} cannot be read: {str(error).splitlines()[0]}") from error


def read_table(path: str, columns: Sequence[str] | None = None) -> Any:
    """A verdict table as Arrow has it. Raises DataError where it is damaged or lacks what every verdict has."""
    with opened(path, columns or tuple(COLUMNS)) as file:
        return file.read(columns=None if columns is None else list(columns))


def read_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """All verdicts at a path as records, a table at a time."""
    for name in tables(path):
        yield from read_table(name).to_pylist()


class Judged:
    """A source without the samples that verdicts drop; behaves as a source of its own.

    `paths` are passes or tables; a sample stays where all of them keep it. Where verdicts were made on the data and the
    source is one of captions for these, its samples are known by their ids, and one stays where any verdict of its id
    keeps it: copies cannot be told apart. Raises UsageError where one says nothing of a sample that no other drops, or
    none is kept. A sample that is not the one judged is a SampleError "verdict_mismatch" when it is read.
    """

    def __init__(self, source: Source, paths: Iterable[str]) -> None:
        self.inner, self.name, self.shards = source, source.name, source.shards
        self._ids = np.zeros(len(source), dtype="V16")
        judged = [(path, *self._read(path)) for path in paths]
        keep, told = self._together(judged), hashlib.blake2b(source.fingerprint().encode(), digest_size=16)
        told.update(keep.tobytes())
        self._kept = np.flatnonzero(keep)
        self._ids = self._ids[self._kept]
        self._fingerprint = told.hexdigest()
        if not len(self._kept):
            raise UsageError(
                f"data source {source.name!r}: the verdicts drop all of it, {counted(len(source), 'sample')}"
            )

    def _together(self, judged: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> np.ndarray:
        """What all verdicts keep; one that drops a sample speaks for those that were made without it."""
        keep, dropped = np.ones(len(self.inner), dtype=bool), np.zeros(len(self.inner), dtype=bool)
        for _, kept, seen in judged:
            keep &= kept
            dropped |= seen & ~kept
        for path, _, seen in judged:
            if (missing := ~seen & ~dropped).any():
                first = self.inner.row_key(*self.inner.locate(int(np.argmax(missing))))
                raise UsageError(
                    f"data source {self.name!r}: the verdicts at {path} say nothing of {missing.sum()} of its "
                    f"{len(seen)} samples ({first} for one); judge the whole source, or name it as it was named then"
                )
        return keep

    def _read(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        """Whether each sample of the source is kept by the tables at a path, and whether they say anything of it."""
        found = tables(path)
        ids = self.inner.row_ids() if hasattr(self.inner, "row_ids") else None
        keep, seen = self._by_place(found, path, ids)
        return self._by_id(found, ids) if ids is not None and not seen.all() else (keep, seen)

    def _by_place(self, found: Sequence[str], path: str, ids: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Whether each sample is kept by the verdict on its place, and whether there is one.

        With `ids` of all samples a verdict on another id is none: sidecars may be called as the data's shards are.
        """
        starts: dict[str, list[int]] = {}
        for number, shard in enumerate(self.shards):
            starts.setdefault(files.base_name(shard), []).append(number)
        keep, seen = np.zeros(len(self.inner), dtype=bool), np.zeros(len(self.inner), dtype=bool)
        for name in found:
            table = read_table(name, ("id", "source", "shard", "row", "keep"))
            ordinals, rows = self._places(table, starts, path, strict=ids is None)
            if not len(ordinals):
                continue
            judged, kept = id_bytes(table["id"].take(rows) if len(rows) < len(table) else table["id"]), _kept(table)
            if ids is not None:
                same = judged.view("S16") == ids[ordinals].view("S16")
                ordinals, rows, judged = ordinals[same], rows[same], judged[same]
            seen[ordinals], keep[ordinals], self._ids[ordinals] = True, kept[rows], judged
        return keep, seen

    def _by_id(self, found: Sequence[str], ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether each sample of these ids is kept by any verdict of its id, and whether there is one."""
        known, which = np.unique(ids.view("S16"), return_inverse=True)
        keep, seen = np.zeros(len(known), dtype=bool), np.zeros(len(known), dtype=bool)
        for name in found:
            table = read_table(name, ("id", "source", "keep"))
            judged = id_bytes(table["id"]).view("S16")
            place = np.minimum(np.searchsorted(known, judged), len(known) - 1)
            hit = known[place] == judged
            if (own := _of_source(table, self.name)) is not None:
                hit &= own
            seen[place[hit]] = True
            keep[place[hit & _kept(table)]] = True
        self._ids = ids.copy()
        return keep[which], seen[which]

    def _places(
        self, table: Any, starts: dict[str, list[int]], path: str, *, strict: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ordinals in the source of a table's rows that belong to it, and which rows these are."""
        shards = table["shard"].dictionary_encode().combine_chunks()
        of_shard = shards.indices.to_numpy()
        number_of = np.full(len(shards.dictionary), -1)
        for place, shard in enumerate(shards.dictionary.to_pylist()):
            numbers = starts.get(shard, [])
            if len(numbers) > 1:
                raise UsageError(f"data source {self.name!r}: two of its shards are called {shard}; rename one of them")
            number_of[place] = numbers[0] if numbers else -1
        wanted = number_of[of_shard] >= 0
        if (own := _of_source(table, self.name)) is not None:
            wanted &= own
        rows = np.flatnonzero(wanted)
        numbers, row = number_of[of_shard[rows]], table["row"].to_numpy()[rows]
        sizes = np.array([self.inner.num_rows(number) for number in range(len(self.shards))])
        inside = row < sizes[numbers]
        if strict and not inside.all():
            raise DataError(f"data source {self.name!r}: {path} has verdicts on rows that its shards do not have; it "
                            "changed since")  # fmt: skip
        first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        return (first[numbers] + row)[inside], rows[inside]

    def __len__(self) -> int:
        return len(self._kept)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "inner":  # a copy being unpickled has no inner source yet
            raise AttributeError(name)
        return getattr(self.inner, name)

    def ordinal(self, number: int) -> int:
        """Which sample of the whole source stands at a place of this one."""
        if not 0 <= number < len(self._kept):
            raise IndexError(f"ordinal {number} of {len(self._kept)} samples in source {self.name!r}")
        return int(self._kept[number])

    def locate(self, number: int) -> tuple[int, int]:
        """Shard number and row within it."""
        return self.inner.locate(self.ordinal(number))

    def read(self, number: int) -> Sample:
        """The sample of a number; raises as a source's own `read` does."""
        sample = self.inner.read(self.ordinal(number))
        judged = self._ids[number].tobytes().hex()
        if sample.id != judged:
            error = SampleError("verdict_mismatch", f"{judged} was judged, but {sample.id} stands in its place now")
            error.key = sample.key
            raise error
        return sample

    def fingerprint(self) -> str:
        """A hash of the whole source's fingerprint and of what the verdicts keep."""
        return self._fingerprint


def _kept(table: Any) -> np.ndarray:
    return np.asarray(table["keep"].combine_chunks().to_numpy(zero_copy_only=False), dtype=bool)


def id_bytes(column: Any, where: str = "a verdict table") -> np.ndarray:
    """Ids of an Arrow column as 16 bytes each; zeros stand for none (a broken sample). Raises DataError."""
    try:
        packed = bytes.fromhex("".join([text if text else "0" * 32 for text in column.to_pylist()]))
        return np.frombuffer(packed, dtype=np.uint8).reshape(len(column), 16).view("V16")[:, 0]
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: its column id should hold 32 hex digits a row") from error


def _of_source(table: Any, name: str) -> np.ndarray | None:
    """Which rows are of a source; None where none is, for then it was called otherwise and its shards know it."""
    names = table["source"].dictionary_encode().combine_chunks()
    sources = names.dictionary.to_pylist()
    return names.indices.to_numpy() == sources.index(name) if name in sources else None
