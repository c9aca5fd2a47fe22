"""Benchmarks' tables as contamination is looked for in them: small copies of their pictures, words of their questions.

Each table is read once, to a file; workers load these. Tables are VLMEvalKit's: tab-separated, with `index`, `question`
and pictures in `image` (base64, lists of such, or another row's index) or `image_path`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sailctl.core import images
from sailctl.core.curate.decontaminate import alignment
from sailctl.core.curate.dedup import pictures, wording
from sailctl.core.curate.dedup.signatures import MAX_PIXELS, u32
from sailctl.core.curate.passes import file_of
from sailctl.core.data.cells import cell, picture_file
from sailctl.core.data.cells import pictures as pictures_of
from sailctl.core.data.tsv import Table, plain_index
from sailctl.core.errors import SampleError, UsageError

SCHEMA = {"index": "string", "asked": "binary", "hashes": "binary", "copies": "binary", "unreadable": "string"}
CUT = "row_cut"  # a writer of tables ends no row early, but a download that broke off does
SHORTEST = 8  # words of a whole question that may count; "What is shown in the picture?" never does


@dataclass(frozen=True, slots=True)
class BenchmarkTable:
    """A table to compare with; a task of a pass, by its name."""

    name: str
    path: Path

    def content(self) -> str:
        """A hash of the file."""
        with open(self.path, "rb") as handle:
            return hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def find_tables(paths: Sequence[str]) -> list[BenchmarkTable]:
    """Tables at paths: files, or folders of them. Raises UsageError where nothing is there or two have one name."""
    if not paths:
        raise UsageError("--against is missing: a benchmark's table (.tsv), or a folder of them; repeatable")
    found: dict[str, BenchmarkTable] = {}
    for text in paths:
        path = Path(text).expanduser()
        files = sorted(path.glob("*.tsv")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise UsageError(f"--against {text}: no table (.tsv) is there; VLMEvalKit keeps its own in $LMUData")
        for one in files:
            if one.stem in found and found[one.stem].path.resolve() != one.resolve():
                raise UsageError(f"--against {text}: {one.stem} is there twice ({found[one.stem].path}); leave one out")
            opened = Table(one, ("index",))
            if next(iter(opened), None) is None:
                raise UsageError(
                    f"--against {one}: has a header but no rows; is the file whole? leave it out otherwise"
                )
            opened.close()
            found[one.stem] = BenchmarkTable(one.stem, one)
    return [found[name] for name in sorted(found)]


def read_benchmark(table: BenchmarkTable) -> Any:
    """A row for each row of a table: its index, the words asked, hashes and small copies of its pictures.

    Pictures that cannot be used, and rows that end before their last cell, are told in `unreadable`. Raises DataError
    for a file that is damaged.
    """
    import pyarrow as pa

    opened = Table(table.path, ("index",))
    places = {plain_index(row.cells["index"]): row.offset for row in opened}

    def repeated(index: str) -> Mapping[str, str] | None:
        return opened.row(places[index]) if index in places else None

    records = []
    for row in opened:
        record: dict[str, Any] = {
            "index": plain_index(row.cells["index"]),
            "hashes": b"",
            "copies": b"",
            "unreadable": f"{CUT}: {row.lacking} cells are missing" if row.lacking else "",
        }
        record["asked"] = wording.numbers_of(wording.words_of(cell(row.cells, "question"))).tobytes()
        try:
            shown = pictures_of(row.cells, repeated, lambda name: picture_file(name, table.path, table.name))
            for data in shown:
                picture = images.decode(data, max_pixels=MAX_PIXELS)
                record["hashes"] += pictures.pixel_hash(picture)
                record["copies"] += pictures.small_copy(picture)
        except SampleError as error:
            record |= {"hashes": b"", "copies": b"", "unreadable": f"{error.reason}: {error.detail}"}
        records.append(record)
    opened.close()
    return pa.Table.from_pylist(records, pa.schema([(name, pa.type_for_alias(kind)) for name, kind in SCHEMA.items()]))


@dataclass(frozen=True, slots=True)
class Comparable:
    """The rows of a benchmark as numbers: which can be compared `by` picture or question, which not be read for it."""

    indexes: tuple[str, ...]
    by: dict[str, frozenset[int]]
    unreadable: int

    @property
    def usable(self) -> int:
        """Rows that can be compared at all."""
        return len(frozenset().union(*self.by.values()))


def comparable(folder: Path, name: str, by: Sequence[str]) -> Comparable:
    """What of the table that `read_benchmark` made can be compared; nothing by what `by` leaves out."""
    import pyarrow.parquet as pq

    path = file_of(folder, BenchmarkTable(name, folder))
    rows = pq.read_table(path, columns=["index", "asked", "hashes", "unreadable"]).to_pylist()
    found = {
        "image": frozenset(place for place, row in enumerate(rows) if row["hashes"]),
        "question": frozenset(place for place, row in enumerate(rows) if len(u32(row["asked"])) >= SHORTEST),
    }
    reasons = [row["unreadable"] for row in rows if row["unreadable"]]
    unreadable = sum("image" in by or reason.startswith(CUT) for reason in reasons)
    kept = {one: places if one in by else frozenset() for one, places in found.items()}
    return Comparable(tuple(row["index"] for row in rows), kept, unreadable)


@dataclass(frozen=True)
class Index:
    """All benchmarks in memory: P different pictures with their views, and runs of words by their hashes.

    `shown_in[p]` and `asked_in[i]` are rows, as numbers of benchmark and of row; `runs` rises.
    """

    indexes: list[list[str]]
    copies: np.ndarray
    hashes: dict[bytes, int]
    means: np.ndarray  # (P, 3)
    views: np.ndarray  # (P * V, D)
    shown_in: list[list[tuple[int, int]]]
    runs: np.ndarray
    asked_in: list[list[tuple[int, int]]]
    lengths: tuple[int, ...]


@lru_cache(maxsize=1)
def load_index(folder: Path, names: tuple[str, ...], ngram: int) -> Index:
    """The files that `read_benchmark` made, put together. A run of words counts only if it asks about one picture."""
    import pyarrow.parquet as pq

    hashes: dict[bytes, int] = {}
    copies: list[bytes] = []
    shown_in: list[list[tuple[int, int]]] = []
    runs: dict[int, list[tuple[int, int]]] = {}
    about: dict[int, set[bytes]] = {}
    indexes: list[list[str]] = []
    lengths: set[int] = set()
    for number, name in enumerate(names):
        rows = pq.read_table(file_of(folder, BenchmarkTable(name, folder))).to_pylist()
        indexes.append([row["index"] for row in rows])
        for place, row in enumerate(rows):
            for start in range(0, len(row["hashes"]), 16):
                own = row["hashes"][start : start + 16]
                if own not in hashes:
                    hashes[own] = len(copies)
                    at = start // 16 * pictures.COPY_BYTES
                    copies.append(row["copies"][at : at + pictures.COPY_BYTES])
                    shown_in.append([])
                shown_in[hashes[own]].append((number, place))
            words = u32(row["asked"])
            length = min(len(words), ngram)
            if length < SHORTEST:
                continue
            lengths.add(length)
            for run in set(wording.ngram_hashes(words, length).tolist()):
                runs.setdefault(run, []).append((number, place))
                about.setdefault(run, set()).add(row["hashes"] or row["asked"])
    kept = sorted(run for run in runs if len(about[run]) == 1)
    packed = np.frombuffer(b"".join(copies), np.uint8).reshape(-1, pictures.COPY_BYTES)
    views = np.zeros((0, alignment.LENGTH), np.float32)
    if len(packed):
        blank = pictures.is_blank(packed)  # a blank picture is no question's own
        some = [alignment.view_descriptors(pictures.lumas(packed[at : at + 256])) for at in range(0, len(packed), 256)]
        stacked = np.concatenate(some)
        stacked[blank] = 0
        views = stacked.reshape(-1, alignment.LENGTH)
        hashes = {own: at for own, at in hashes.items() if not blank[at]}
    asked_in = [runs[run] for run in kept]
    return Index(
        indexes, packed, hashes, alignment.means(packed), views, shown_in, np.array(kept, dtype=np.uint64), asked_in,
        tuple(sorted(lengths)),
    )  # fmt: skip
