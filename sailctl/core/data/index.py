"""Where each sample of a shard begins and ends: found once, kept beside the shard, so that any sample is one seek away.

An index holds byte spans and nothing of the content; what a span means is decided when it is read (`layouts.py`).
Parquet needs none: its footer is one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sailctl.core import files
from sailctl.core.errors import DataError, StorageError

INDEX_VERSION = 2
_BLOCK = 512
_MAX_NAME_BYTES = 1 << 20  # of a long-name or pax header; anything longer is an attack or damage
_KEY_AND_SUFFIX = re.compile(r"^((?:.*/)?[^./]+)\.([^/]*)$")
_PAX_FIELD = re.compile(rb"(\d{1,9}) ([^=]+)=")
_JSON_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Spans of a shard's samples: spans_N2 int64 (offset, length in bytes).

    `broken` says why a tar's tail cannot be read; the tail then is the last span and becomes one counted reject.
    `digest` stands for the content (of a tar: for its headers), `stamp` for the file it was made of (`file_stamp`).
    """

    spans: np.ndarray
    broken: str
    digest: str
    stamp: tuple[int, str] = (-1, "")

    def __len__(self) -> int:
        return len(self.spans)


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a tar: where its headers begin, where its data stand, and what kind of thing it is."""

    name: str
    header: int
    data: int
    size: int
    is_file: bool
    is_link: bool

    @property
    def end(self) -> int:
        """Offset behind the padded data."""
        return self.data + -(-self.size // _BLOCK) * _BLOCK

    @property
    def is_unsafe(self) -> bool:
        """Whether the name leaves the folder it would be unpacked in, or the member points elsewhere."""
        return self.is_link or self.name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", self.name)

    def key_and_suffix(self) -> tuple[str, str]:
        """WebDataset's convention: the key ends at the first dot of the file's name; ("", "") if it is no sample's."""
        match = _KEY_AND_SUFFIX.match(self.name.removeprefix("./"))
        if match and (self.is_file or self.is_unsafe):
            return match.group(1), match.group(2).lower()
        return (self.name, "") if self.is_unsafe else ("", "")


class BrokenTar(Exception):
    """A tar makes no sense from byte `position` on, where the headers of a sample `key`'s member begin (if known)."""

    def __init__(self, position: int, message: str, key: str = "") -> None:
        super().__init__(message)
        self.position = position
        self.key = key


def walk_tar(handle: BinaryIO, size: int, *, end_mark: bool = True) -> Iterator[Member]:
    """Members of a tar of `size` bytes from the handle's start, long names and pax headers resolved.

    Raises BrokenTar where it ends early or a header is damaged; Python's own reader takes both for a regular end.
    Without `end_mark` (a piece of a tar) it may end behind any member.
    """
    position, start, name, override = 0, -1, "", -1
    while True:
        handle.seek(position)
        block = handle.read(_BLOCK)
        if len(block) < _BLOCK:
            if not block and not end_mark:
                return
            raise BrokenTar(position if start < 0 else start, f"ends at byte {size} without an end mark")
        if not block.strip(b"\0"):
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise BrokenTar(position, f"bad header at byte {position}: {error}") from None
        if info.size < 0:
            raise BrokenTar(position, f"bad header at byte {position}: size {info.size}")
        start = position if start < 0 else start
        data = position + _BLOCK
        if info.type in (b"L", b"x", b"X"):
            if info.size > _MAX_NAME_BYTES:
                raise BrokenTar(position, f"bad header at byte {position}: a name of {info.size} bytes")
            text = handle.read(info.size)
            if info.type == b"L":
                name = text.rstrip(b"\0").decode("utf-8", "surrogateescape")
            else:
                name, override = _pax(text, name, override)
            position = data + -(-info.size // _BLOCK) * _BLOCK
            continue
        length = override if override >= 0 else info.size
        has_data = info.isreg() or info.type in (b"g", b"K")
        member = Member(name or info.name, start, data, length if has_data else 0, info.isreg(), _is_link(info))
        if member.data + member.size > size:
            there = max(0, size - member.data)
            message = f"{member.name!r} announces {member.size} bytes, {there} are there"
            raise BrokenTar(start, message, member.key_and_suffix()[0])
        if info.type not in (b"g", b"K"):
            yield member
            start, name, override = -1, "", -1
        position = member.end


def _is_link(info: tarfile.TarInfo) -> bool:
    return not (info.isreg() or info.isdir() or info.type in (b"g", b"K"))


def _pax(text: bytes, name: str, size: int) -> tuple[str, int]:
    position = 0
    while match := _PAX_FIELD.match(text, position):
        end = position + int(match.group(1))
        value = text[match.end() : end - 1].decode("utf-8", "surrogateescape")
        if match.group(2) == b"path":
            name = value
        elif match.group(2) == b"size" and value.isdigit():
            size = int(value)
        if end <= match.end():
            break
        position = end
    return name, size


def index_tar(handle: BinaryIO, size: int) -> ShardIndex:
    """Group consecutive members of one key into samples; a suffix met twice begins another sample of the same key."""
    spans: list[tuple[int, int]] = []
    digest = hashlib.blake2b(digest_size=16)
    broken, current, suffixes, start, end = "", "", set[str](), 0, 0
    try:
        for member in walk_tar(handle, size):
            key, suffix = member.key_and_suffix()
            if not key:
                continue
            digest.update(f"{member.name!a} {member.data} {member.size}\n".encode())
            if key != current or suffix in suffixes:
                if current:
                    spans.append((start, end - start))
                current, suffixes, start = key, set(), member.header
            suffixes.add(suffix)
            end = min(member.end, size)
    except BrokenTar as error:
        broken = f"truncated or damaged tar: {error}" if size else "zero bytes, not even a tar's end mark"
        if current and error.key == current:  # its last member is cut: the whole sample is the tail
            end, current = start, ""
        elif current:
            spans.append((start, end - start))
            end, current = min(error.position, size), ""
        spans.append((end, size - end))
    if current:
        spans.append((start, end - start))
    return ShardIndex(np.array(spans, np.int64).reshape(-1, 2), broken, digest.hexdigest())


def index_lines(handle: BinaryIO, size: int) -> ShardIndex:
    """One span per line that is not blank."""
    spans, offset, digest = [], 0, hashlib.blake2b(digest_size=16)
    for line in handle:
        digest.update(line)
        if line.strip():
            spans.append((offset, len(line)))
        offset += len(line)
    return ShardIndex(np.array(spans, np.int64).reshape(-1, 2), "", digest.hexdigest())


def index_json(handle: BinaryIO, size: int) -> ShardIndex:
    """One span per element of a JSON array, found without building it; a file that is no array is read line by line.

    An array that does not end gives its torn tail as a last span, which no JSON parser will take.
    """
    data = handle.read()
    begin = len(data) - len(data.lstrip(b"\xef\xbb\xbf \t\r\n"))
    if data[begin : begin + 1] != b"[":
        handle.seek(0)
        return index_lines(handle, size)
    spans: list[tuple[int, int]] = []
    depth, start = 0, begin + 1

    def take(end: int) -> None:
        if data[start:end].strip():
            spans.append((start, end - start))

    for token in _JSON_TOKEN.finditer(data, begin):
        mark = token.group()
        if mark in (b"{", b"["):
            depth += 1
        elif mark in (b"}", b"]"):
            depth -= 1
            if depth == 0:
                take(token.start())
                break
        elif mark == b"," and depth == 1:
            take(token.start())
            start = token.end()
    else:
        spans.append((start, len(data) - start))
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    return ShardIndex(np.array(spans, np.int64).reshape(-1, 2), "", digest)


_INDEXERS = {"tar": index_tar, "jsonl": index_lines, "json": index_json}


def shard_index(path: str, kind: str) -> ShardIndex:
    """The index of a shard, from its cache if that belongs to this size and modification time, else made and cached.

    Raises DataError naming the shard when it is gone or cannot be read.
    """
    try:
        size, stamp = files.file_stamp(path)
        wanted = json.dumps([INDEX_VERSION, kind, size, stamp])
        candidates = _cache_paths(path)
        for cache in candidates:
            if (found := _load(cache, wanted, size)) is not None:
                return replace(found, stamp=(size, stamp))
        with files.open_read(path) as handle:
            made = _INDEXERS[kind](handle, size)
    except OSError as error:
        raise DataError(f"shard {path} cannot be read: {error.strerror or error}") from error
    for cache in candidates:
        with suppress(OSError, StorageError):
            with files.atomic_write(cache) as output:
                np.savez(output, spans=made.spans, about=np.array([wanted, made.broken, made.digest], dtype=np.str_))
            break
    return replace(made, stamp=(size, stamp))


def _cache_paths(path: str) -> list[Path]:
    """Beside a local shard; else (a URL, a folder that is not ours to write in) in the user's cache folder."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sailctl" / "index"
    name = path if files.is_url(path) else os.path.abspath(path)
    shared = root / f"{hashlib.blake2b(name.encode('utf-8', 'surrogateescape'), digest_size=16).hexdigest()}.npz"
    # the mode counts, not whether we could: root may write into a folder that is marked read-only, and should not
    if files.is_url(path) or not Path(path).absolute().parent.stat().st_mode & 0o222:
        return [shared]
    return [Path(path).with_name(f".{Path(path).name}.sailctl-index"), shared]


def _load(cache: Path, wanted: str, size: int) -> ShardIndex | None:
    try:
        with np.load(cache, allow_pickle=False) as stored:
            about, spans = stored["about"].tolist(), stored["spans"]
    except Exception:  # absent, torn or foreign: it is only a cache
        return None
    if len(about) != 3 or about[0] != wanted or spans.dtype != np.int64 or spans.ndim != 2 or spans.shape[1] != 2:
        return None
    if len(spans) and (spans.min() < 0 or (spans[:, 0] + spans[:, 1]).max() > size):
        return None
    return ShardIndex(spans, about[1], about[2])
