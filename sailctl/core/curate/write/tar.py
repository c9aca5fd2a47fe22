"""Samples as members of a tar in WebDataset layout: equal samples give equal bytes, and are read back as they are.

A bare caption is written as img2dataset does (`key.jpg`, `key.txt`, `key.json` where there is more to keep), a
conversation as LLaVA has it (`key.jpg`, `key.json` with `conversations`). The reader is `core/data/layouts.py`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import tarfile
from collections.abc import Iterator
from typing import IO, Any

from sailctl.core.records import Sample

_MAX_KEY = 120
_FROM = {"user": "human", "assistant": "gpt", "system": "system"}
_MAGIC = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"BM", "bmp"), (b"II*\0", "tif"),
          (b"MM\0*", "tif"), (b"\0\0\0\x0cjP", "jp2"), (b"\xff\x4f\xff\x51", "jp2"))  # fmt: skip


class TarShard:
    """A tar being written to an open file, member by member: no times, no owners; size and SHA-256 as they come."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self._digest = hashlib.sha256()
        self.size = 0
        self._keys: set[str] = set()
        self._tar = tarfile.open(fileobj=self, mode="w", format=tarfile.PAX_FORMAT)  # type: ignore[call-overload]  # noqa: SIM115

    def write(self, data: bytes) -> int:
        """What `tarfile` writes through."""
        self._digest.update(data)
        self.size += len(data)
        return self._handle.write(data)

    def tell(self) -> int:
        """Where it stands."""
        return self.size

    def key_for(self, key: str) -> str:
        """A key for a sample that no other of this shard has, not even in other capitals; as its own as it can be."""
        plain = re.sub(r"[^\w-]+", "_", key)[:_MAX_KEY].strip("_") or "sample"
        found, number = plain, 1
        while found.casefold() in self._keys:
            number += 1
            found = f"{plain}-{number}"
        return found

    def add(self, key: str, members: dict[str, bytes]) -> None:
        """Add a sample under a key of `key_for`: its members by suffix, in order."""
        self._keys.add(key.casefold())
        for suffix, data in members.items():
            info = tarfile.TarInfo(f"{key}.{suffix}")
            info.size, info.mode = len(data), 0o644
            self._tar.addfile(info, io.BytesIO(data))

    def close(self) -> str:
        """Write the end mark; the SHA-256 of the whole file."""
        self._tar.close()
        return self._digest.hexdigest()


def members_of(sample: Sample, key: str) -> dict[str, bytes]:
    """The members of a sample by suffix; pictures' bytes are untouched."""
    several = len(sample.images) > 1
    found = {
        f"{number}.{_suffix(image)}" if several else _suffix(image): image for number, image in enumerate(sample.images)
    }
    record = {name: _plain(value) for name, value in sample.meta.items()}
    if sample.alt_text is not None:
        record["alt_text"] = sample.alt_text
    if key != sample.key:
        record.setdefault("source_key", sample.key)
    if sample.is_bare_caption:
        text = sample.turns[0].text
        bom = "\ufeff" if text.startswith("\ufeff") else ""  # one is taken off when it is read
        found["txt"] = f"{bom}{text}".encode()
    else:
        record["conversations"] = [{"from": _FROM[turn.role], "value": turn.text} for turn in sample.turns]
    if record:
        found["json"] = _json(record)
    return found


def _suffix(image: bytes) -> str:
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    if image[4:12] in (b"ftypavif", b"ftypavis"):
        return "avif"
    return next((suffix for magic, suffix in _MAGIC if image.startswith(magic)), "jpg")


def _json(record: dict[str, Any]) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair in some field that nobody reads
        return json.dumps(record).encode()


def _plain(value: Any) -> Any:
    """A value of a Parquet row as JSON has it: bytes as base64, times as text, what is no number as null."""
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def sha256_of(handle: IO[bytes]) -> str:
    """Of all that is left in an open file."""
    digest = hashlib.sha256()
    for chunk in _chunks(handle):
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(handle: IO[bytes]) -> Iterator[bytes]:
    while chunk := handle.read(1 << 20):
        yield chunk
