"""Parquet shards as a source: rows of records with the pictures' bytes in them, a row group at a time."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from typing import Any

import numpy as np

from sailctl.core import files, stores
from sailctl.core.data.sources import Source, unreachable
from sailctl.core.errors import DataError, SampleError
from sailctl.core.records import Sample

_CACHE_BYTES = 256 << 20  # decoded row groups a process keeps


class ParquetSource(Source):
    """Parquet with image bytes. A row group is the least that can be read; recently used ones stay decoded."""

    columns: list[str] | None = None  # what is read of a row; None: all of it
    _groups: list[np.ndarray]

    def _index_shard(self, shard: str, kind: str) -> tuple[np.ndarray, str]:
        import pyarrow
        import pyarrow.parquet

        try:
            with files.open_read(shard) as handle:
                opened = pyarrow.parquet.ParquetFile(handle)
                self._check(shard, opened.schema_arrow.names)
                footer = opened.metadata
                rows = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
                # the footer as it is: pyarrow cannot show statistics of text that is not UTF-8
                handle.seek(-8 - footer.serialized_size, os.SEEK_END)
                digest = hashlib.blake2b(handle.read(footer.serialized_size), digest_size=16).hexdigest()
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"shard {shard} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
        return np.cumsum(np.array(rows, dtype=np.int64)), digest

    def _check(self, shard: str, columns: list[str]) -> None:
        """Refuse a file that lacks what its rows are read by."""

    def _index(self, found: list[tuple[np.ndarray, str]]) -> tuple[list[int], list[str]]:
        self._groups = [ends for ends, _ in found]
        self._cache: OrderedDict[tuple[int, int], Any] = OrderedDict()
        return [int(ends[-1]) if len(ends) else 0 for ends in self._groups], [digest for _, digest in found]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_cache": OrderedDict()}

    def _open(self, shard: int) -> Any:
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(files.open_read(self.shards[shard]))

    def _table(self, shard: int, group: int) -> Any:
        import pyarrow

        if (shard, group) not in self._cache:
            try:
                # single-threaded: this runs in workers, of which there are already as many as there are cores
                table = self._handle(shard).read_row_group(group, columns=self.columns, use_threads=False)
            except stores.Unreachable as error:
                raise DataError(unreachable(f"shard {self.shards[shard]}", error)) from error
            except (OSError, pyarrow.ArrowException) as error:
                detail = f"{self.shards[shard]}, row group {group}: {str(error).splitlines()[0]}"
                raise SampleError("unreadable", detail) from error
            self._cache[shard, group] = table
            while len(self._cache) > 1 and sum(held.nbytes for held in self._cache.values()) > _CACHE_BYTES:
                self._cache.popitem(last=False)
        self._cache.move_to_end((shard, group))
        return self._cache[shard, group]

    def _read(self, shard: int, row: int) -> Sample:
        return self._sample_of(self._record(shard, row), shard, row)

    def _record(self, shard: int, row: int) -> dict[str, Any]:
        ends = self._groups[shard]
        group = int(np.searchsorted(ends, row, side="right"))
        first = int(ends[group - 1]) if group else 0
        table = self._table(shard, group)
        try:
            return table.slice(row - first, 1).to_pylist()[0]
        except ValueError as error:  # text that is not UTF-8, a time that Python has no value for
            raise SampleError("unreadable", f"row {row}: {str(error).splitlines()[0]}") from error
