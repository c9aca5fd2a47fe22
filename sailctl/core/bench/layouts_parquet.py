"""Questions from Parquet files: names and texts a row group at a time, pictures a few rows at a time."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sailctl.core.bench.layouts import THERE, ReadFile, Records
from sailctl.core.bench.references import INDEXES, LOOKED_FOR, PICTURES, is_field
from sailctl.core.data.tsv import Row
from sailctl.core.errors import DataError, SampleError, UsageError

PICTURE_ROWS = 16  # decoded at a time


class ParquetRecords(Records):
    """Rows of Parquet files. A picture is bytes, a `{bytes, path}` struct, a path, or a list of these.

    A row's index is its column `index`, `id` or `__key__`, else its number over all files. Pictures of a row group are
    decoded a few rows at a time, so reading forwards costs each group once, and going back begins it anew. Parquet is
    read by pages: in memory is one, compressed and not, and some writers make a row group of 1000 pictures one page.
    """

    def __init__(self, shards: Sequence[Path], metric: str, *, with_split: bool) -> None:
        super().__init__(metric, with_split=with_split)
        self._shards = list(shards)
        self._open_shard: tuple[int, Any] | None = None
        self._groups: list[tuple[int, int, int, int]] = []  # shard, group in it, first record, records
        self._texts: tuple[int, Any] | None = None  # a row group's texts
        self._batches: Iterator[Any] = iter(())
        self._batch: tuple[int, int, Any] | None = None  # group, first row in it, pictures
        names = self._file(0).schema_arrow.names
        self._picture = self._picture_column(self._file(0).schema_arrow)
        kind = str(self._file(0).schema_arrow.field(self._picture).type)
        self._is_one = "binary" in kind and "list" not in kind  # one picture's bytes: null or there
        self._index_column = next((name for name in INDEXES if name in names), None)
        self._fields = [name for name in names if is_field(name)]
        if not [name for name in self._fields if name not in ("question", "split")]:
            raise UsageError(f"{self._shards[0]}: no column with references; looked for {LOOKED_FOR}; found: "
                             f"{', '.join(names)}")  # fmt: skip
        if with_split and "split" not in names:
            raise UsageError(f"{self._shards[0]}: lacks the column split; found: {', '.join(names)}")
        wanted = {self._picture, *self._fields, *([self._index_column] if self._index_column else [])}
        first = 0
        for shard, path in enumerate(self._shards):
            if lacking := wanted - set(self._file(shard).schema_arrow.names):
                raise DataError(f"{path}: lacks the column {min(lacking)}, which {self._shards[0].name} has")
            about = self._file(shard).metadata
            for group in range(about.num_row_groups):
                self._groups.append((shard, group, first, about.row_group(group).num_rows))
                first += about.row_group(group).num_rows
        self._indexes: list[str] = []

    def __iter__(self) -> Iterator[Row]:
        self._indexes = []
        columns = [name for name in (self._index_column, "split" if self.with_split else None) if name]
        for shard, group, first, count in self._groups:
            heads = self._read(shard, group, columns).to_pydict() if columns else {}
            shown = self._shown(shard, group)
            for row in range(count):
                named = heads[self._index_column][row] if self._index_column else first + row
                self._indexes.append("" if named is None else f"{named:g}" if isinstance(named, float) else str(named))
                cells = {"index": self._indexes[-1], "image": THERE if shown is None or shown[row] else ""}
                yield Row(first + row, first + row, cells | self._split(heads, row))

    def record(self, number: int) -> dict[str, Any]:
        """Its texts; those of its row group stay in memory, the pictures do not."""
        place, (shard, group, first, _) = self._place(number)
        if self._texts is None or self._texts[0] != place:
            self._texts = (place, self._read(shard, group, self._fields))
        try:
            found: dict[str, Any] = self._texts[1].slice(number - first, 1).to_pylist()[0]
        except ValueError as error:  # text that is not UTF-8
            raise SampleError("unreadable", f"{self.where(number)}: {str(error).splitlines()[0]}") from None
        return found

    def images(self, number: int, read_file: ReadFile) -> tuple[bytes, ...]:
        """Its pictures, as the file holds them."""
        value = self._value(number)
        return tuple(_picture(one, read_file) for one in (value if isinstance(value, list) else [value]))

    def where(self, number: int) -> str:
        """Row and file; rows count from 1."""
        _, (shard, *_) = self._place(number)
        before = next(start for of, _, start, _ in self._groups if of == shard)
        return f"row {number - before + 1} of {self._shards[shard].name}"

    def index(self, number: int) -> str:
        """The index that iterating told."""
        return self._indexes[number]

    def close(self) -> None:
        """Close the open file."""
        self._batches, self._batch, self._texts = iter(()), None, None
        if self._open_shard is not None:
            self._open_shard[1].close()
            self._open_shard = None

    def _split(self, heads: dict[str, list[Any]], row: int) -> dict[str, str]:
        return {"split": str(heads["split"][row])} if self.with_split else {}

    def _place(self, number: int) -> tuple[int, tuple[int, int, int, int]]:
        place = bisect_right(self._groups, number, key=lambda group: group[2]) - 1
        while not self._groups[place][3]:
            place -= 1  # of groups without rows, which begin where the next one does
        return place, self._groups[place]

    def _file(self, shard: int) -> Any:
        import pyarrow
        import pyarrow.parquet

        if self._open_shard is None or self._open_shard[0] != shard:
            self.close()
            try:
                # mapped: a group's bytes are in the page cache only
                self._open_shard = (shard, pyarrow.parquet.ParquetFile(self._shards[shard], memory_map=True))
            except (OSError, pyarrow.ArrowException) as error:
                raise _damaged(self._shards[shard], error) from None
        return self._open_shard[1]

    def _read(self, shard: int, group: int, columns: list[str]) -> Any:
        import pyarrow

        try:
            return self._file(shard).read_row_group(group, columns=columns, use_threads=False)
        except (OSError, pyarrow.ArrowException) as error:
            raise _damaged(self._shards[shard], error, group) from None

    def _value(self, number: int) -> Any:
        """What the picture's column holds."""
        import pyarrow

        place, (shard, group, first, _) = self._place(number)
        row = number - first
        held = self._batch
        try:
            if held is None or held[0] != place or row < held[1]:
                self._batches = self._file(shard).iter_batches(
                    PICTURE_ROWS, row_groups=[group], columns=[self._picture], use_threads=False
                )
                held = (place, 0, next(self._batches))
            while row >= held[1] + held[2].num_rows:
                held = (place, held[1] + held[2].num_rows, next(self._batches))
        except (OSError, pyarrow.ArrowException, StopIteration) as error:
            raise _damaged(self._shards[shard], error, group) from None
        self._batch = held
        return held[2].column(0)[row - held[1]].as_py()

    def _shown(self, shard: int, group: int) -> list[bool] | None:
        """Which rows of a group have a picture; None for all, which mostly the footer knows."""
        about = self._file(shard).metadata.row_group(group)
        leaves = [about.column(number) for number in range(about.num_columns)]
        mine = [leaf for leaf in leaves if leaf.path_in_schema.split(".")[0] == self._picture]
        data = next((leaf for leaf in mine if leaf.path_in_schema.endswith("bytes")), mine[0])
        told = data.statistics
        if self._is_one and told is not None and told.has_null_count and told.null_count == 0:
            return None
        import pyarrow

        try:
            batches = self._file(shard).iter_batches(
                PICTURE_ROWS, row_groups=[group], columns=[self._picture], use_threads=False
            )
            return [_is_shown(value) for batch in batches for value in batch.column(0).to_pylist()]
        except (OSError, pyarrow.ArrowException) as error:
            raise _damaged(self._shards[shard], error, group) from None

    def _picture_column(self, schema: Any) -> str:
        """The first of the known names whose column can hold pictures; a column of paths only where none holds any."""
        named = {name: str(schema.field(name).type) for name in PICTURES if name in schema.names}
        found = next((name for name, kind in named.items() if "binary" in kind), next(iter(named), None))
        if found is None:
            raise UsageError(f"{self._shards[0]}: no column with pictures; looked for {', '.join(PICTURES)}; found: "
                             f"{', '.join(schema.names)}")  # fmt: skip
        return found


def _is_shown(value: Any) -> bool:
    if isinstance(value, dict):
        return value.get("bytes") is not None or bool(value.get("path"))
    return any(map(_is_shown, value)) if isinstance(value, list) else value is not None and value != ""


def _picture(value: Any, read_file: ReadFile) -> bytes:
    if isinstance(value, dict):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and value:
        return read_file(value)
    raise SampleError("no_image", f"the picture is {type(value).__name__}, neither bytes nor a path")


def _damaged(path: Path, error: BaseException, group: int | None = None) -> DataError:
    said = str(error).splitlines()[0] if str(error) else "ends early"
    return DataError(f"{path}: cannot be read as Parquet{'' if group is None else f', row group {group}'}: {said}")
