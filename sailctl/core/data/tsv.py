"""Benchmark tables: tab-separated files with pictures in their cells, gigabytes long, read a row at a time.

Cells are split as pandas' `read_csv(sep="\\t")` splits them, for that is how VLMEvalKit reads the same files: a cell
that opens with a double quote may hold tabs and line ends, a doubled quote in it is one, blank lines are no rows, a row
that is short has empty cells at its end. Pictures in cells: `cells.py`; what is asked is bench's business.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sailctl.core.errors import DataError, UsageError


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it is read: its first byte and line in the file, its cells by column, how many it ends without."""

    offset: int
    line: int
    cells: dict[str, str]
    lacking: int = 0


class Table:
    """A table on disk; nothing of it is kept in memory but the names of its columns.

    Raises UsageError for a file that is not there, holds no header, or lacks one of `required` (naming what is missing
    and what was found), DataError for bytes that are no such table.
    """

    def __init__(self, path: Path, required: Sequence[str] = ()) -> None:
        self.path = path
        csv.field_size_limit(sys.maxsize)  # a picture is one cell
        needs = f"; it needs the columns {', '.join(required)}" if required else ""
        try:
            self._handle = open(path, "rb")  # noqa: SIM115 - for as long as the table is in use
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror}){needs}") from None
        first = next(self._records(0, 0), None)
        if first is None:
            raise UsageError(f"{path}: is empty; the first line names the columns{needs}")
        self._start, _, self._lines, names = first
        self.columns = tuple(names)
        if twice := [name for name in self.columns if names.count(name) > 1]:
            raise UsageError(f"{path}: column {twice[0]!r} is there twice; rename one of them")
        if missing := [name for name in required if name not in self.columns]:
            raise UsageError(
                f"{path}: lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
                f"found: {', '.join(self.columns)}"
            )

    def __iter__(self) -> Iterator[Row]:
        """All rows, in the file's order."""
        for _, offset, line, cells in self._records(self._start, self._lines):
            yield Row(offset, line, self._named(cells, line), len(self.columns) - len(cells))

    def row(self, offset: int) -> dict[str, str]:
        """The cells of the row that begins at a byte which `__iter__` told."""
        _, _, line, cells = next(self._records(offset, 0))
        return self._named(cells, line)

    def where(self, line: int) -> str:
        """How a message names a row."""
        return f"line {line}"

    def close(self) -> None:
        """Let go of the file."""
        self._handle.close()

    def _named(self, cells: list[str], line: int) -> dict[str, str]:
        if len(cells) > len(self.columns):
            raise DataError(
                f"{self.path}: line {line} has {len(cells)} cells, the header {len(self.columns)}; a tab or a quote is "
                "out of place there"
            )
        return dict(zip(self.columns, cells + [""] * (len(self.columns) - len(cells)), strict=True))

    def _records(self, offset: int, number: int) -> Iterator[tuple[int, int, int, list[str]]]:
        """Records from a byte on: where the next one begins, where it begins itself, its last line, its cells."""
        handle = self._handle
        while True:
            handle.seek(offset)  # somebody else may have read a row meanwhile
            line = handle.readline()
            if not line:
                return
            start, offset, number = offset, offset + len(line), number + 1
            if not line.strip(b"\r\n"):
                continue
            if b'"' in line:
                lines = _Lines(handle, line)
                try:
                    cells = next(csv.reader(lines, delimiter="\t"))
                except (UnicodeDecodeError, csv.Error) as error:
                    raise self._unreadable(number, error) from None
                if lines.ended:
                    raise DataError(f"{self.path}: the quote opened in line {number} is never closed")
                offset, number = offset + lines.more, number + lines.count
            else:
                body = line.removesuffix(b"\n").removesuffix(b"\r")
                if b"\r" in body:
                    raise DataError(f"{self.path}: line {number} holds a carriage return outside of quotes; quote it")
                try:
                    cells = body.decode().split("\t")
                except UnicodeDecodeError as error:
                    raise self._unreadable(number, error) from None
            if start == 0:
                cells[0] = cells[0].removeprefix("\ufeff")
            yield offset, start, number, cells

    def _unreadable(self, number: int, error: Exception) -> DataError:
        reason = f"is not UTF-8 ({error.reason})" if isinstance(error, UnicodeDecodeError) else f"is no row: {error}"
        return DataError(f"{self.path}: line {number} {reason}")


def plain_index(text: str) -> str:
    """An index as pandas and VLMEvalKit write it: whole numbers without leading zeros, all else as it is."""
    text = text.strip()
    return str(int(text)) if text.isascii() and text.isdigit() else text


class _Lines:
    """Feeds a csv reader a record's first line and as many more as it wants; `ended` if it wanted too many."""

    def __init__(self, handle: BinaryIO, first: bytes) -> None:
        self._handle = handle
        self._first: bytes | None = first
        self.more = self.count = 0
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line, self._first = self._first, None
        if line is None:
            line = self._handle.readline()
            if not line:
                self.ended = True
                raise StopIteration
            self.more += len(line)
            self.count += 1
        return line.decode()
