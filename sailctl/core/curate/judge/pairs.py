"""Pairs: the other captions of a sample, found by its id or by its pictures, in constant memory.

References are read once, their texts written one after another into a file, their ids and the hashes of their pictures
into sorted arrays that every worker maps: 40 bytes of it for a reference, whatever its length.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sailctl.core import files
from sailctl.core.curate.parts import Data, open_data
from sailctl.core.errors import DataError, UsageError
from sailctl.core.files import storage_errors
from sailctl.core.records import IMAGE_PLACEHOLDER, Sample
from sailctl.core.reporter import Reporter

_SIDECAR = ("id", "shard", "row", "text", "turns")  # columns by which sidecars of captions are known
_BATCH = 2000


class _Reference(NamedTuple):
    """A text and the names it is found by: 16 bytes each, of the pictures none where nothing is known of them."""

    identity: bytes
    pictures: bytes | None
    text: str


def caption_of(sample: Sample) -> str:
    """What is said of a sample's pictures: the last answer, as it is shown to people too; empty without one."""
    said = next((turn.text for turn in reversed(sample.turns) if turn.role == "assistant"), "")
    return said.replace(IMAGE_PLACEHOLDER, " ").strip()


def pictures_of(images: Sequence[bytes]) -> bytes | None:
    """A hash of encoded pictures, their number and order; None of none."""
    if not images:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for image in images:
        digest.update(hashlib.blake2b(image, digest_size=16).digest())
    return digest.digest()


@dataclass(frozen=True)
class ReferencePath:
    """Where references come from: sidecars of captions, or data (a mixture file, for one with captions of its own)."""

    path: str
    sidecars: tuple[str, ...] = ()
    data: Data | None = None

    def fingerprint(self) -> str:
        """A hash of what is there, whatever its path."""
        if self.data is not None:
            told = repr([source.fingerprint() for source in self.data.sources])
        else:
            told = repr([(files.base_name(one), *_footer(one)) for one in self.sidecars])
        return hashlib.blake2b(told.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()

    def first_problem(self) -> str:
        """Why the first sample is no reference, where none is."""
        if self.data is not None and self.data.parts:
            row = next(self.data.rows(self.data.parts[0]))
            return f"; the first sample is {row.problem() or f'{row.shard}, row {row.row}: nothing is said of it'}"
        return ""

    def references(self) -> Iterator[_Reference]:
        """All that have a text, in order. Raises DataError where a file is damaged."""
        if self.data is not None:
            for part in self.data.parts:
                for row in self.data.rows(part):
                    if row.sample is not None and (text := caption_of(row.sample)):
                        yield _Reference(bytes.fromhex(row.sample.id), pictures_of(row.sample.images), text)
            return
        for name in self.sidecars:
            for record in _records(name):
                turns = record["turns"] or []
                said = next((turn["content"] for turn in reversed(turns) if turn["role"] == "assistant"), None)
                text = (record["text"] if said is None else said) or ""
                if text := text.replace(IMAGE_PLACEHOLDER, " ").strip():
                    yield _Reference(bytes.fromhex(record["id"]), None, text)


def open_references(path: str) -> ReferencePath:
    """What --reference names: a task's folder of `sailctl caption`, or data. Raises UsageError for anything else."""
    sidecars = [one for one in files.list_shards(path, (".parquet",)) if one.lower().endswith(".parquet")]
    if sidecars and set(_SIDECAR) <= set(_columns(sidecars[0])):
        return ReferencePath(path, tuple(sidecars))
    return ReferencePath(path, (), open_data([path]))


@dataclass
class References:
    """An index of references in a folder; travels to workers, who map it."""

    folder: Path
    _opened: Any = field(default=None, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_opened": None}

    def build(self, source: ReferencePath, reporter: Reporter) -> None:
        """Make the index, unless it stands. Raises UsageError where no reference has a text."""
        if self.folder.is_dir():
            return
        made = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(made, ignore_errors=True)
        with storage_errors(self.folder):
            made.mkdir(parents=True)
            reporter.start("references", None if source.data is None else len(source.data))
            try:
                _write_index(source, made, reporter)
            finally:
                reporter.finish()
            os.replace(made, self.folder)

    def find(self, sample: Sample) -> str | None:
        """The text for a sample: of the same id, else of the same pictures; of several the first in the data."""
        if self._opened is None:
            self._opened = _Opened(self.folder)
        found = self._opened.find("ids", bytes.fromhex(sample.id))
        if found is None and (pictures := pictures_of(sample.images)) is not None:
            found = self._opened.find("pictures", pictures)
        return found if found is None else str(self._opened.text(found))


def _write_index(source: ReferencePath, folder: Path, reporter: Reporter) -> None:
    ends = array("q", [0])
    keys = {"ids": bytearray(), "pictures": bytearray()}
    owners = {"ids": array("q"), "pictures": array("q")}
    with open(folder / "texts", "wb") as handle:
        for number, one in enumerate(source.references()):
            ends.append(ends[-1] + handle.write(one.text.encode("utf-8", "surrogatepass")))
            for name, key in (("ids", one.identity), ("pictures", one.pictures)):
                if key is not None:
                    keys[name] += key
                    owners[name].append(number)
            if number % 500 == 0:
                reporter.update(number)
    if len(ends) == 1:
        raise UsageError(f"--reference {source.path}: nothing there has a caption{source.first_problem()}")
    np.save(folder / "ends.npy", np.asarray(ends))
    for name in keys:
        halves = np.frombuffer(bytes(keys[name]), dtype=">u8").reshape(-1, 2).astype(np.uint64)
        order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: of equal names the first in the data comes first
        np.save(folder / f"{name}.npy", halves[order])
        np.save(folder / f"{name}-of.npy", np.asarray(owners[name], dtype=np.int64)[order])


class _Opened:
    """The files of an index, mapped."""

    def __init__(self, folder: Path) -> None:
        def load(name: str) -> np.ndarray:
            stored = folder / f"{name}.npy"
            try:
                return np.load(stored, mmap_mode="r", allow_pickle=False)
            except ValueError:  # an empty array cannot be mapped
                return np.load(stored, allow_pickle=False)

        self.ends = load("ends")
        self.keys = {name: (load(name), load(f"{name}-of")) for name in ("ids", "pictures")}
        self.texts = open(folder / "texts", "rb", buffering=0)  # noqa: SIM115 - as long as the worker lives

    def find(self, name: str, key: bytes) -> int | None:
        """The first reference under a name, None without one."""
        halves, owners = self.keys[name]
        high, low = np.uint64(int.from_bytes(key[:8], "big")), np.uint64(int.from_bytes(key[8:], "big"))
        at = int(np.searchsorted(halves[:, 0], high))
        while at < len(halves) and halves[at, 0] == high:
            if halves[at, 1] == low:
                return int(owners[at])
            at += 1
        return None

    def text(self, number: int) -> str:
        """The text of a reference."""
        start, end = int(self.ends[number]), int(self.ends[number + 1])
        return os.pread(self.texts.fileno(), end - start, start).decode("utf-8", "surrogatepass")


def _columns(path: str) -> list[str]:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        with files.open_read(path) as handle:
            return [str(name) for name in pq.ParquetFile(handle).schema_arrow.names]
    except (OSError, pyarrow.ArrowException) as error:
        raise UsageError(f"--reference {path}: cannot be read: {str(error).splitlines()[0]}") from error


def _footer(path: str) -> tuple[int, str]:
    import pyarrow.parquet as pq

    with files.open_read(path) as handle:
        footer = pq.ParquetFile(handle).metadata
        handle.seek(-8 - footer.serialized_size, os.SEEK_END)
        return footer.num_rows, hashlib.blake2b(handle.read(footer.serialized_size), digest_size=16).hexdigest()


def _records(path: str) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        with files.open_read(path) as handle:
            for batch in pq.ParquetFile(handle).iter_batches(_BATCH, columns=["id", "text", "turns"]):
                yield from batch.to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"--reference {path}: cannot be read: {str(error).splitlines()[0]}") from error
