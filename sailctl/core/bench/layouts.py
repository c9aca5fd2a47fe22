"""Questions from other files than tables, read like a table's rows: names first, pictures when asked; here from tars.

The first pass reads names alone (a Parquet column, the headers of a tar), whatever the pictures weigh; later one
record is held at a time. Parquet is `layouts_parquet.py`'s business, what columns and members mean `references.py`'s.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sailctl.core.bench.references import cells_of
from sailctl.core.data.index import BrokenTar, walk_tar
from sailctl.core.data.layouts import IMAGE_SUFFIXES, parse_json
from sailctl.core.data.tsv import Row, plain_index
from sailctl.core.errors import DataError, SampleError, UsageError
from sailctl.core.files import list_shards

THERE = "there"  # stands in the cell `image` of a record that has a picture

ReadFile = Callable[[str], bytes]


class Records(ABC):
    """Records of a dataset that is no table, numbered in the order of its files' names.

    Iterating gives a Row each with the cells `index`, `image` (empty where there is no picture) and, where one split
    alone is wanted, `split`; offset and line are the record's number.
    """

    columns = ("index", "image")

    def __init__(self, metric: str, *, with_split: bool) -> None:
        self.metric = metric
        self.with_split = with_split

    @abstractmethod
    def __iter__(self) -> Iterator[Row]: ...

    @abstractmethod
    def record(self, number: int) -> dict[str, Any]:
        """What is said about a record. Raises SampleError where it cannot be read."""

    @abstractmethod
    def images(self, number: int, read_file: ReadFile) -> tuple[bytes, ...]:
        """Its encoded pictures; `read_file` opens one that is only named. Raises SampleError."""

    @abstractmethod
    def where(self, number: int) -> str:
        """How a message names a record."""

    @abstractmethod
    def index(self, number: int) -> str:
        """Its name."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and of what is held for speed; whatever is asked next opens them again."""

    def row(self, number: int) -> dict[str, str]:
        """Its cells: index, question where it has one, answer, references. Raises SampleError."""
        return cells_of(self.record(number), plain_index(self.index(number)), self.metric)


def find_records(path: Path, metric: str, *, with_split: bool) -> Records:
    """The records of a Parquet file, or of a folder of such or of tars (or of its folder `data`).

    In a folder with tars Parquet files do not count: img2dataset leaves some beside them. Raises UsageError for a
    folder without either and files that lack what is needed, DataError for one that is damaged.
    """
    from sailctl.core.bench.layouts_parquet import ParquetRecords

    for place in (path, path / "data"):
        if shards := [Path(name) for name in list_shards(place, (".tar", ".parquet"))]:
            is_tar = shards[0].suffix.lower() == ".tar"
            return (TarRecords if is_tar else ParquetRecords)(shards, metric, with_split=with_split)
    raise UsageError(f"{path}: holds neither *.tar nor *.parquet, nor does its folder data")


class TarRecords(Records):
    """Samples of WebDataset tars: pictures by suffix, `json`, `txt` and `ocr` about them.

    The index is the sample's key; where two tars use one key, all are `TAR/KEY`. Headers alone are read beforehand.
    """

    def __init__(self, shards: Sequence[Path], metric: str, *, with_split: bool) -> None:
        super().__init__(metric, with_split=with_split)
        self._shards = list(shards)
        self._samples: list[tuple[int, str, int, int, bool]] = []  # shard, key, offset, bytes, has a picture
        for shard, path in enumerate(self._shards):
            try:
                with open(path, "rb") as handle:
                    self._samples += [(shard, *one) for one in _samples(handle, path.stat().st_size)]
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror})") from None
            except BrokenTar as error:
                raise DataError(f"{path}: truncated or damaged tar: {error}") from None
        if not self._samples:
            raise UsageError(f"{self._shards[0].parent}: the tars hold no samples")
        uses = Counter(key for _, key in {(shard, key) for shard, key, *_ in self._samples})
        self._is_shared = max(uses.values()) > 1
        self._members: tuple[int, dict[str, bytes]] | None = None

    def __iter__(self) -> Iterator[Row]:
        for number, sample in enumerate(self._samples):
            cells = {"index": self.index(number), "image": THERE if sample[4] else ""}
            if self.with_split:
                try:
                    cells["split"] = str(self.record(number).get("split", ""))
                except SampleError:
                    cells["split"] = ""
            yield Row(number, number, cells)

    def record(self, number: int) -> dict[str, Any]:
        """Its JSON, with the text of `txt` and `ocr`."""
        members = self._read(number)
        found = parse_json(members["json"]) if "json" in members else {}
        for name in ("txt", "ocr"):
            if name in members:
                found[name] = members[name].decode("utf-8-sig", "replace")
        return found

    def images(self, number: int, read_file: ReadFile) -> tuple[bytes, ...]:
        """Its members with a picture's suffix, in the tar's order."""
        return tuple(data for suffix, data in self._read(number).items() if _is_picture(suffix))

    def where(self, number: int) -> str:
        """Key and tar."""
        return f"sample {self._samples[number][1]} of {self._shards[self._samples[number][0]].name}"

    def index(self, number: int) -> str:
        """The key, behind its tar's name where keys repeat."""
        shard, key, *_ = self._samples[number]
        return f"{self._shards[shard].stem}/{key}" if self._is_shared else key

    def close(self) -> None:
        """Nothing is open between two records."""
        self._members = None

    def _read(self, number: int) -> dict[str, bytes]:
        """The members by suffix."""
        if self._members is None or self._members[0] != number:
            shard, _, offset, size, _ = self._samples[number]
            try:
                with open(self._shards[shard], "rb") as handle:
                    handle.seek(offset)
                    data = handle.read(size)
                found = {
                    member.key_and_suffix()[1]: data[member.data : member.data + member.size]
                    for member in walk_tar(io.BytesIO(data), len(data), end_mark=False)
                    if member.is_file
                }
            except (OSError, BrokenTar) as error:
                raise DataError(f"{self._shards[shard]}: has changed since it was opened: {error}") from None
            self._members = (number, found)
        return self._members[1]


def _samples(handle: Any, size: int) -> Iterator[tuple[str, int, int, bool]]:
    """Key, offset, length and whether there is a picture, of consecutive members of one key. Raises BrokenTar."""
    key, start, end, suffixes = "", 0, 0, set[str]()
    for member in walk_tar(handle, size):
        name, suffix = member.key_and_suffix()
        if not name or not member.is_file:
            continue
        if name != key or suffix in suffixes:
            if key:
                yield key, start, end - start, any(map(_is_picture, suffixes))
            key, start, suffixes = name, member.header, set()
        suffixes.add(suffix)
        end = min(member.end, size)
    if key:
        yield key, start, end - start, any(map(_is_picture, suffixes))


def _is_picture(suffix: str) -> bool:
    return suffix.rsplit(".", 1)[-1] in IMAGE_SUFFIXES
