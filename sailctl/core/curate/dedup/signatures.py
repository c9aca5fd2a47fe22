"""Signatures: a table for each part with what is remembered of its samples, read again by number.

A sample's number counts over all parts in their order. Columns that hold arrays hold their bytes (little endian).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sailctl.core import images
from sailctl.core.curate.dedup import pictures, wording
from sailctl.core.curate.parts import Part, Row
from sailctl.core.curate.passes import file_of
from sailctl.core.errors import SampleError
from sailctl.core.schema.data import DataConfig

MAX_PIXELS: int = DataConfig.model_fields["max_image_pixels"].default
PLACE = ("id", "source", "shard", "row", "key")
KINDS = {
    **{"id": "string", "source": "string", "shard": "string", "row": "int64", "key": "string"},
    **{"reason": "string", "detail": "string"},  # why a sample takes no part, else empty
    "pictures": "int32",
    "pixels": "int64",  # over all pictures
    "words": "int64",
    "pixel_hash": "binary",  # of all pictures as decoded; empty without one
    "text_hash": "uint64",  # of all words; 0 without one
    "copies": "binary",  # small copies, one after another
    "sizes": "binary",  # uint32 width and height of each picture
    "coarse": "binary",  # of the first picture
    "bits": "uint64",  # of the first picture; 0 of a blank one
    "asked": "binary",  # uint32 words
    "answered": "binary",
    "picture_keys": "binary",  # uint64
    "text_keys": "binary",
}


class Signer:
    """The signatures of rows, as a table; a function of a pass."""

    def __call__(self, rows: Iterator[Row]) -> Any:
        """A row for each row."""
        import pyarrow as pa

        records = [self._record(row) for row in rows]
        _set_picture_keys(records)
        return pa.Table.from_pylist(
            records, pa.schema([(name, pa.type_for_alias(kind)) for name, kind in KINDS.items()])
        )

    def _record(self, row: Row) -> dict[str, Any]:
        record: dict[str, Any] = {
            **row.place(), "reason": "", "detail": "", "pictures": 0, "pixels": 0, "words": 0, "pixel_hash": b"",
            "text_hash": 0, "copies": b"", "sizes": b"", "coarse": b"", "bits": 0, "asked": b"", "answered": b"",
            "picture_keys": b"", "text_keys": b"",
        }  # fmt: skip
        try:
            if row.sample is None:
                raise row.error or SampleError("unreadable", "")
            digest, copies, sizes = hashlib.blake2b(digest_size=16), [], []
            for data in row.sample.images:
                picture = images.decode(data, max_pixels=MAX_PIXELS)
                digest.update(pictures.pixel_hash(picture))
                copies.append(pictures.small_copy(picture))
                sizes += [picture.width, picture.height]
                record["pixels"] += picture.width * picture.height
        except SampleError as error:
            return {**record, "pixels": 0, "reason": error.reason, "detail": error.detail}
        asked, answered = wording.split_turns(row.sample.turns)
        both = np.concatenate([asked, answered])
        return {
            **record,
            "pictures": len(copies),
            "words": len(both),
            "pixel_hash": digest.digest() if copies else b"",
            "text_hash": int(wording.hash_of(both)),
            "copies": b"".join(copies),
            "sizes": np.array(sizes, dtype=np.uint32).tobytes(),
            "asked": asked.tobytes(),
            "answered": answered.tobytes(),
            "text_keys": wording.text_keys(both).tobytes(),
        }


def _set_picture_keys(records: Sequence[dict[str, Any]]) -> None:
    """Keys of samples with pictures: those of the first one, or of all pixels where it is blank; of equal number."""
    shown = [record for record in records if record["pictures"]]
    for start in range(0, len(shown), 256):
        some = shown[start : start + 256]
        first = np.frombuffer(b"".join(record["copies"][: pictures.COPY_BYTES] for record in some), np.uint8)
        copies = first.reshape(len(some), pictures.COPY_BYTES)
        bits, keys = pictures.band_keys(copies)
        front = np.ascontiguousarray(bits[:, :8]).view(np.uint64)[:, 0]
        glances = pictures.coarse(copies)
        rows = zip(some, pictures.is_blank(copies), front, keys, glances, strict=True)
        for record, blank, word, found, glance in rows:
            record["coarse"] = glance.tobytes()
            if blank:
                found = np.frombuffer(record["pixel_hash"][:8], np.uint64)
            else:
                record["bits"] = int(word)
            record["picture_keys"] = pictures.mix(found + np.uint64(record["pictures"])).tobytes()


@dataclass(frozen=True)
class Signatures:
    """The signatures of all parts, read by the samples' numbers."""

    folder: Path
    parts: tuple[Part, ...]

    @cached_property
    def starts(self) -> np.ndarray:
        """The first number of each part, then the number of samples."""
        return np.concatenate([[0], np.cumsum([part.stop - part.first for part in self.parts], dtype=np.int64)])

    def table(self, place: int, columns: Sequence[str]) -> Any:
        """Columns of one part."""
        import pyarrow.parquet as pq

        path = file_of(self.folder, self.parts[place])
        return pq.ParquetFile(path).read(columns=list(columns), use_threads=False)

    def take(self, numbers: np.ndarray, columns: Sequence[str]) -> dict[str, list[Any]]:
        """Columns of samples, whose numbers rise, as lists."""
        found: dict[str, list[Any]] = {name: [] for name in columns}
        places, first = np.unique(np.searchsorted(self.starts, numbers, side="right") - 1, return_index=True)
        for place, some in zip(places.tolist(), np.split(numbers, first[1:]), strict=True):
            table = self.table(place, columns).take(some - self.starts[place])
            for name in columns:
                found[name] += table[name].to_pylist()
        return found

    def source_of(self, numbers: np.ndarray) -> np.ndarray:
        """Which source samples are of."""
        return self._sources[np.searchsorted(self.starts, numbers, side="right") - 1]

    def place_of(self, part: Part) -> int:
        """Which of all parts one is."""
        return self._places[part.name]

    @cached_property
    def _sources(self) -> np.ndarray:
        return np.array([part.source for part in self.parts])

    @cached_property
    def _places(self) -> dict[str, int]:
        return {part.name: place for place, part in enumerate(self.parts)}


def u32(data: bytes) -> np.ndarray:
    """Words as a signature holds them."""
    return np.frombuffer(data, np.uint32)


def u64(data: bytes) -> np.ndarray:
    """Keys as a signature holds them."""
    return np.frombuffer(data, np.uint64)
