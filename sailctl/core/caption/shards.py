"""A job's data shards: found, named, and known again when data are added, replaced or moved.

`shards.json` in the job's folder holds the names: data that come later never change those of earlier ones. Whether a
shard is done is told by manifests, never by this file.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sailctl.core.caption.sidecar import all_manifests, manifest_path
from sailctl.core.data.index import shard_index
from sailctl.core.data.sources import Source, find_shards, make_source
from sailctl.core.errors import DataError, UsageError
from sailctl.core.files import base_name, file_stamp, is_url, write_json
from sailctl.core.schema.data import SourceConfig

SHARDS_FILE = "shards.json"
SHOWN = 3  # names in a line
Known = dict[str, dict[str, Any]]  # name of a shard: its path and bytes when it was last seen


@dataclass(frozen=True, slots=True)
class DataShard:
    """One file of samples, found at `data`; `name` is what its files in the job's folder are called.

    Where a job has several sources, the name begins with a folder for the shard's own.
    """

    path: str
    data: str
    source: str
    kind: str
    image_root: str | None
    num_bytes: int
    name: str = ""

    @property
    def folder(self) -> str:
        """Its source's folder among the sidecars; empty where they lie in the task's own."""
        return self.name.rpartition("/")[0]

    def open(self) -> Source:
        """Its samples, pictures without text among them. Raises DataError when it, or the end of it, cannot be read."""
        config = SourceConfig(name=self.source, path=self.path, image_root=self.image_root)
        source = make_source(config, [self.path], self.kind, textless=True)
        if self.kind == "tar" and (broken := shard_index(self.path, self.kind).broken):
            source.close()
            raise DataError(f"shard {self.path} cannot be read: {broken}")
        return source


def find_data(data: Sequence[str], image_root: str | None, out: Path) -> tuple[DataShard, ...]:
    """All shards of the paths given, sized but not read, named as `out` knows them.

    Raises UsageError, DataError for a shard that is gone.
    """
    found: list[tuple[str, str, str, str]] = []
    for path in data:
        config = SourceConfig(name=base_name(str(path).rstrip("/")) or "data", path=path, image_root=image_root)
        shards, kind = find_shards(config)
        found += [(shard, path, config.name, kind) for shard in shards]
    seen = Counter(shard for shard, *_ in found)
    if twice := [shard for shard, count in seen.items() if count > 1]:
        raise UsageError(f"--data: {twice[0]} is given twice")
    with ThreadPoolExecutor(16) as pool:  # of remote stores, each size is a request
        sizes = list(pool.map(_size, [shard for shard, *_ in found]))
    shards_ = [DataShard(*one, image_root, size) for one, size in zip(found, sizes, strict=True)]
    return named(shards_, read_known(out))


def _size(shard: str) -> int:
    try:
        return file_stamp(shard)[0]
    except OSError as error:
        raise DataError(f"shard {shard} cannot be read: {error.strerror or error}") from error


# --- names -----------------------------------------------------------------------------------------------------------


def read_known(out: Path) -> Known:
    """The shards an earlier run saw; none where there was none."""
    try:
        found: Known = json.loads((out / SHARDS_FILE).read_text(encoding="utf-8"))
        return found
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise UsageError(f"{out / SHARDS_FILE} is damaged ({error}); give another --out") from error


def write_known(out: Path, known: Known, shards: Iterable[DataShard]) -> None:
    """Note the shards beside those of earlier runs."""
    now = {shard.name: {"path": _whole(shard.path), "bytes": shard.num_bytes} for shard in shards}
    if known | now != known:
        write_json(out / SHARDS_FILE, known | now)


def named(shards: Sequence[DataShard], known: Known) -> tuple[DataShard, ...]:
    """The shards with their names.

    Those known by their paths or, for data that moved, by the ends of these keep theirs. New ones are called after
    their files, in a folder of their source's unless that is the job's only one.
    """
    names: dict[str, str] = {}
    for parts in (0, 2, 1):  # the whole path, folder and file, file
        left, there = defaultdict(list), defaultdict(list)
        for shard in shards:
            if shard.path not in names:
                left[_end(_whole(shard.path), parts)].append(shard.path)
        for name in known.keys() - set(names.values()):
            there[_end(known[name]["path"], parts)].append(name)
        for end, paths in left.items():
            if len(paths) == len(there.get(end, ())) == 1:
                names[paths[0]] = there[end][0]
    folders = {shard.data: names[shard.path].rpartition("/")[0] for shard in shards if shard.path in names}
    taken = {*known, *(name.rpartition("/")[0] for name in known)}
    is_only = not known and len({shard.data for shard in shards}) == 1
    for shard in shards:
        if shard.path in names:
            continue
        if shard.data not in folders:
            folders[shard.data] = "" if is_only else _unused(_plain(shard.source), taken)
        folder = folders[shard.data]
        stem = _plain(os.path.splitext(base_name(shard.path))[0])
        names[shard.path] = _unused(f"{folder}/{stem}" if folder else stem, taken)
    return tuple(replace(shard, name=names[shard.path]) for shard in shards)


def _whole(path: str) -> str:
    return path if is_url(path) else os.path.abspath(path)


def _end(path: str, parts: int) -> str:
    return path if not parts else "/".join(path.split("/")[-parts:])


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text)[:160].strip(".") or "data"


def _unused(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free)
    return free


# --- what has changed ------------------------------------------------------------------------------------------------


def news(shards: Sequence[DataShard], known: Known) -> tuple[str, ...]:
    """What is other data than an earlier run saw, in words. Raises UsageError where nothing of that is there."""
    if not known:
        return ()
    now = {shard.name: shard for shard in shards}
    if not now.keys() & known.keys():
        raise UsageError(
            f"--out holds captions of other data ({listed(entry['path'] for entry in known.values())}), none of which "
            "is in --data; give another --out, or name that data, too"
        )
    changed = [s.path for s in shards if s.name in known and known[s.name]["bytes"] != s.num_bytes]
    lines = {
        "new data shards": [shard.path for shard in shards if shard.name not in known],
        "data shards that have changed since, not sealed yet": changed,
        "data shards of earlier runs that are not in --data, whose captions stay": [
            known[name]["path"] for name in known if name not in now
        ],
    }
    return tuple(f"{what}: {listed(paths)}" for what, paths in lines.items() if paths)


def check_sealed(out: Path, shards: Sequence[DataShard], known: Known) -> None:
    """Refuse data that are no longer what sealed captions were made of. Raises UsageError naming the file."""
    now = {shard.name: shard for shard in shards}
    for manifest in all_manifests(out):
        shard = now.get(manifest["name"])
        if shard is None:
            continue
        if shard.num_bytes != manifest["shard_bytes"]:
            how = f"{manifest['shard_bytes']:,} bytes then, {shard.num_bytes:,} now"
        elif known.get(shard.name, {}).get("path") == _whole(shard.path) or _digest(shard) == manifest["digest"]:
            continue
        else:  # of the same name and size, but elsewhere
            how = f"it was {known.get(shard.name, {}).get('path')}"
        raise UsageError(
            f"{shard.path} has changed since its captions were sealed ({how}); put back what it was, give another "
            f"--out, or remove {manifest_path(out, manifest['unit'])} to have it captioned anew"
        )


def _digest(shard: DataShard) -> str:
    source = shard.open()
    source.close()
    return source.fingerprint()


def listed(names: Iterable[str]) -> str:
    """A few names, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - SHOWN:,} more" if len(every) > SHOWN else ""
    return ", ".join(every[:SHOWN]) + more
