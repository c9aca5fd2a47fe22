"""The questions of a benchmark: rows of its VLMEvalKit table with their pictures, decoded when they are asked.

One pass over the table notes where each row lies, and what is drawn of it is hashed; a gigabyte of pictures leaves some
hundred bytes a row in memory. A row whose pictures cannot be used stays a question, that it may be scored as wrong, and
is told in `rejects`. The schema is VLMEvalKit's (`vlmeval/dataset/image_base.py`): `image` holds base64, a list of
such, or the index of a row whose picture it repeats; without that column `image_path` names files. Benchmarks that
sailctl scores itself are read from Parquet and tars, too (`layouts.py`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

from sailctl.core.bench.cells import unit_of, wrong_row
from sailctl.core.bench.layouts import Records, find_records
from sailctl.core.bench.prompts import Prompt, Rule, prompt, rule_of
from sailctl.core.bench.references import LOOKED_FOR, OWN_METRICS, PICTURES, references_of
from sailctl.core.data.cells import cell, is_reference, is_shown, picture_file, pictures
from sailctl.core.data.tsv import Row, Table, plain_index
from sailctl.core.errors import DataError, SampleError, UsageError
from sailctl.core.images import image_size

if TYPE_CHECKING:
    from sailctl.core.bench.suites import Benchmark

SEED = 0


@dataclass(frozen=True, slots=True)
class Question:
    """One question. `<image>` stands in the prompt only where pictures belong between certain words.

    `group` is equal for questions about the same pictures; `row` holds the table's other columns.
    """

    index: str
    prompt: str
    images: tuple[bytes, ...]
    group: str
    row: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reject:
    """Why a question cannot be asked: a word of `REJECT_REASONS`, and what was found."""

    reason: str
    detail: str


@dataclass(slots=True)
class _Entry:
    """What is remembered of a row: its place, a hash of all that is asked, and how long that will be."""

    index: str
    offset: int
    line: int
    group: str
    content: str
    prompt_chars: int
    sizes: tuple[tuple[int, int], ...]
    unit: str = ""  # what is drawn into a subset as one, where one is drawn


class Questions(Sequence[Question]):
    """The questions of one benchmark in the table's order; `rejects` by index, `excluded` rows counted by reason."""

    def __init__(self, benchmark: Benchmark, path: Path, *, seed: int = SEED) -> None:
        self.benchmark = benchmark
        self.path = path
        self.rejects: dict[str, Reject] = {}
        self.excluded: Counter[str] = Counter()
        rule = rule_of(benchmark.prompt)
        self._table = _open(benchmark, path, rule)
        self._has_images = bool({"image", "image_path"} & set(self._table.columns))
        self._needs_references = benchmark.metric in OWN_METRICS
        self._places: dict[str, int] = {}
        self._entries = self._select(self._scan(), seed)
        for position, entry in enumerate(self._entries):
            if not entry.content:
                self._entries[position] = self._entry(entry.index, entry.offset, entry.line)
        if isinstance(self._table, Records):
            self._table.close()  # what it holds for speed; the next question opens it again
        told = [reject.detail for reject in self.rejects.values() if reject.reason == "no_answer"]
        if told and len(told) == len(self._entries):
            raise UsageError(f"{path}: not one row has a reference; looked for {LOOKED_FOR}")

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, position: int) -> Question: ...
    @overload
    def __getitem__(self, position: slice) -> list[Question]: ...
    def __getitem__(self, position: int | slice) -> Question | list[Question]:
        """A question read anew from the table; a rejected one has no pictures."""
        if isinstance(position, slice):
            return [self[one] for one in range(*position.indices(len(self)))]
        entry = self._entries[position]
        cells = self._cells(entry)
        images: tuple[bytes, ...] = () if entry.index in self.rejects else self._images(cells, entry.offset)
        asked = self._prompt(cells, len(images))
        row = {name: text for name, text in cells.items() if name != "image"}
        return Question(entry.index, asked.text, tuple(images[i] for i in asked.order), entry.group, row)

    def __iter__(self) -> Iterator[Question]:
        return (self[position] for position in range(len(self)))

    @property
    def indexes(self) -> list[str]:
        """The index of every question."""
        return [entry.index for entry in self._entries]

    @property
    def groups(self) -> list[str]:
        """The group of every question, without looking at pictures again."""
        return [entry.group for entry in self._entries]

    def row(self, position: int) -> Mapping[str, str]:
        """A question's columns without its pictures, which are not looked at."""
        return {name: text for name, text in self._cells(self._entries[position]).items() if name != "image"}

    def content(self, position: int) -> str:
        """A hash of a question's prompt and pictures."""
        return self._entries[position].content

    def size(self, position: int) -> tuple[int, tuple[tuple[int, int], ...]]:
        """How long a question is: the prompt's characters, and width and height of its pictures."""
        entry = self._entries[position]
        return entry.prompt_chars, entry.sizes

    def close(self) -> None:
        """Let go of the table."""
        self._table.close()

    # --- the one pass --------------------------------------------------------------------------------------------

    def _scan(self) -> list[_Entry]:
        """An entry for each row that counts; without content where pictures are looked at later.

        That is so where only some are drawn, and of rows that show another row's picture, which may stand further down.
        """
        rows: list[_Entry] = []
        lines: dict[str, int] = {}
        wanted = self.benchmark.split
        is_table = isinstance(self._table, Table)
        at_once = is_table and self.benchmark.limit is None
        for row in self._table:
            index = self._index(row)
            if index in lines:
                raise DataError(
                    f"{self.path}: index {index!r} stands in {self._table.where(lines[index])} and again in "
                    f"{self._table.where(row.line)}; every question needs one of its own"
                )
            lines[index] = row.line
            self._places[index] = row.offset
            if wanted is not None and row.cells.get("split", "") != wanted:
                self.excluded[f"split is not {wanted}"] += 1
            elif self._has_images and not is_shown(row.cells):
                self.excluded["no image, which VLMEvalKit leaves out"] += 1
            elif (wrong := wrong_row(self.benchmark.metric, index, row.cells)) is not None:
                raise DataError(f"{self.path}: {self._table.where(row.line)}: {wrong}")
            elif at_once and not is_reference(cell(row.cells, "image")):
                rows.append(self._entry(index, row.offset, row.line, row.cells))
            else:
                unit = unit_of(self.benchmark.metric, index, row.cells)
                rows.append(_Entry(index, row.offset, row.line, "", "", 0, (), unit))
        return rows

    def _entry(self, index: str, offset: int, line: int, cells: Mapping[str, str] | None = None) -> _Entry:
        images: tuple[bytes, ...] = ()
        sizes: tuple[tuple[int, int], ...] = ()
        try:
            cells = self._table.row(offset) if cells is None else cells
            if self._needs_references:
                references_of(cells, self.benchmark.metric)
            images = self._images(cells, offset)
            sizes = tuple(image_size(image) for image in images)
        except SampleError as error:
            images = ()
            self.rejects[index] = Reject(error.reason, f"{self.path.name} {self._table.where(line)}: {error.detail}")
        asked = self._prompt(cells or {}, len(images))
        digests = [hashlib.blake2b(image, digest_size=16).hexdigest() for image in images]
        told = repr((asked.text, [digests[i] for i in asked.order]))
        content = hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        group = hashlib.blake2b("".join(digests).encode(), digest_size=8).hexdigest() if digests else index
        return _Entry(index, offset, line, group, content, len(asked.text), sizes)

    def _index(self, row: Row) -> str:
        if index := plain_index(row.cells["index"]):
            return index
        raise DataError(f"{self.path}: {self._table.where(row.line)} has no index")

    def _select(self, entries: list[_Entry], seed: int) -> list[_Entry]:
        """All questions, or a subset that depends on seed and index alone: a larger one holds every smaller one.

        What is judged together is drawn together.
        """
        limit = self.benchmark.limit
        if limit is None or len(entries) <= limit:
            return entries

        units: dict[str, list[_Entry]] = {}
        for entry in entries:
            units.setdefault(entry.unit, []).append(entry)
        drawn: set[str] = set()
        for unit in sorted(
            units, key=lambda name: hashlib.blake2b(f"{seed} {name}".encode("utf-8", "surrogatepass")).digest()
        ):
            if drawn and len(drawn) + len(units[unit]) > limit:
                break
            drawn |= {entry.index for entry in units[unit]}
        self.excluded["not drawn into the subset"] += len(entries) - len(drawn)
        return [entry for entry in entries if entry.index in drawn]

    # --- cells ---------------------------------------------------------------------------------------------------

    def _prompt(self, cells: Mapping[str, str], num_images: int) -> Prompt:
        return prompt(self.benchmark.prompt, self.benchmark.dataset, cells, num_images)

    def _cells(self, entry: _Entry) -> dict[str, str]:
        """The cells of a row; of one that cannot be read, its index."""
        try:
            return self._table.row(entry.offset)
        except SampleError:
            if entry.index not in self.rejects:
                raise DataError(f"{self.path}: {self._table.where(entry.line)} has changed since it was read") from None
            return {"index": entry.index}

    def _images(self, cells: Mapping[str, str], offset: int) -> tuple[bytes, ...]:
        """The encoded pictures of a row, in the row's order. Raises SampleError."""
        if isinstance(self._table, Records):
            return self._table.images(offset, self._file)
        return pictures(cells, self._repeated, self._file)

    def _repeated(self, index: str) -> Mapping[str, str] | None:
        place = self._places.get(index)
        return None if place is None else self._table.row(place)

    def _file(self, name: str) -> bytes:
        return picture_file(name, self.path, self.benchmark.dataset)


def questions(benchmark: Benchmark, root: Path, *, seed: int = SEED) -> Questions:
    """The questions of a benchmark from `root/DATASET.tsv`.

    Those of a metric in `OWN_METRICS` may lie in `root/DATASET.parquet` or the folder `root/DATASET` (Parquet or tars)
    instead. Raises UsageError where nothing is there, naming what was looked for and what it has to hold, or where a
    file lacks some; DataError for files that are damaged or use an index twice.
    """
    return Questions(benchmark, table_path(benchmark, root), seed=seed)


def table_path(benchmark: Benchmark, root: Path) -> Path:
    """Where a benchmark's questions lie, or would be looked for first."""
    path = root / f"{benchmark.dataset}.tsv"
    if benchmark.metric in OWN_METRICS and not path.is_file():
        others = (root / f"{benchmark.dataset}.parquet", root / benchmark.dataset)
        path = next((other for other in others if other.exists()), path)
    return path


def _open(benchmark: Benchmark, path: Path, rule: Rule) -> Table | Records:
    columns = ["index", *rule.columns, *(["split"] if benchmark.split is not None else [])]
    if benchmark.metric in OWN_METRICS:
        if path.suffix != ".tsv":
            return find_records(path, benchmark.metric, with_split=benchmark.split is not None)
        if not path.is_file():
            folder = path.with_suffix("")
            raise UsageError(
                f"{path}: not there, nor are {folder}.parquet and the folder {folder}; {benchmark.name} needs one of "
                f"them: a tab-separated table with the columns index, image (base64) or image_path, and references (a "
                f"JSON list) or answer; Parquet with a column of pictures ({', '.join(PICTURES[:3])}) and one of "
                f"references ({LOOKED_FOR}); or WebDataset tars with pictures and json or txt"
            )
    if not path.is_file():
        raise UsageError(
            f"{path}: not there; {benchmark.name} needs VLMEvalKit's table of {benchmark.dataset}: tab-separated, with "
            f"the columns {', '.join(columns)}, answer and image (base64) or image_path"
        )
    return Table(path, columns)
