"""What a captioning job is: its data shards, what decides its answers, and who does which part of it.

A job owns its folder. `caption.json` there pins what decides the answers; the same command goes on with it, another one
is refused. Where work stands is told by manifests and journals, never by this file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sailctl.core.caption.prompts import Prompt, prompts_digest
from sailctl.core.data.sources import Source, find_shards, make_source
from sailctl.core.errors import DataError, UsageError
from sailctl.core.files import base_name, file_stamp, storage_errors, write_json
from sailctl.core.journal import by_turns
from sailctl.core.schema.data import SourceConfig

JOB_FILE = "caption.json"
LOCK = ".lock"
JOURNALS = "journals"
MANIFESTS = "manifests"
QUARANTINE = "quarantine"
REJECTS = "rejects"
FORMAT = "sailctl-caption-1"
PART_ROWS = 10_000  # a longer data shard is done in parts of about this many samples, each sealed on its own


@dataclass(frozen=True, slots=True)
class Parameters:
    """What decides an answer besides picture, prompt and model."""

    max_tokens: int = 1024
    temperature: float = 0.0
    max_image_side: int | None = None


@dataclass(frozen=True, slots=True)
class DataShard:
    """One file of samples; `name` is what its files in the job's folder are called."""

    path: str
    source: str
    kind: str
    image_root: str | None
    name: str
    num_bytes: int

    def open(self) -> Source:
        """Its samples, pictures without text among them. Raises DataError when it cannot be read."""
        config = SourceConfig(name=self.source, path=self.path, image_root=self.image_root)
        return make_source(config, [self.path], self.kind, textless=True)


@dataclass(frozen=True, slots=True)
class Unit:
    """What is journaled and sealed as one: rows start … stop - 1 of a data shard, part `part` of `parts`."""

    shard: DataShard
    part: int
    parts: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Name of its sidecars, manifest and journal, without endings."""
        return unit_name(self.shard.name, self.part, self.parts)


@dataclass(frozen=True, slots=True)
class Job:
    """A captioning job; travels to workers. `replay` is the command line that asks what was quarantined once more."""

    out: Path
    shards: tuple[DataShard, ...]
    prompts: tuple[Prompt, ...]
    lang: str
    model: str
    parameters: Parameters
    replay: str = ""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order in which they are asked."""
        return tuple(prompt.task for prompt in self.prompts)

    def folder(self, task: str) -> str:
        """A task's folder of sidecars, relative to the job's."""
        return f"{task}-{self.lang}"

    def pinned(self) -> dict[str, Any]:
        """What decides the answers, as JSON."""
        told = repr([(shard.name, shard.num_bytes) for shard in self.shards]).encode()
        return {
            "format": FORMAT,
            "data": {"shards": len(self.shards), "fingerprint": hashlib.blake2b(told, digest_size=16).hexdigest()},
            "tasks": list(self.tasks),
            "lang": self.lang,
            "prompts": prompts_digest(self.prompts),
            "model": self.model,
            "parameters": asdict(self.parameters),
            "part_rows": PART_ROWS,
        }  # fmt: skip

    def claim(self) -> None:
        """Make the folder this job's. Raises UsageError, naming key and both values, where it is another one's."""
        self.check()
        with storage_errors(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            with by_turns(self.out / LOCK):
                if (self.out / JOB_FILE).is_file():
                    self.check()
                else:
                    write_json(self.out / JOB_FILE, self.pinned())

    def check(self) -> None:
        """Refuse what `claim` would refuse; nothing is written."""
        path = self.out / JOB_FILE
        if self.out.exists() and not self.out.is_dir():
            raise UsageError(f"--out {self.out} is a file; give a folder")
        if not path.is_file():
            if self.out.is_dir() and not _is_leftover(self.out):
                raise UsageError(f"--out {self.out} is not empty and holds no captions; give another folder")
            return
        try:
            found = _flat(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, AttributeError) as error:
            raise UsageError(f"{path} is no job file of sailctl caption ({error}); give another --out") from error
        wanted = _flat(self.pinned())
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            if found.get(key) != wanted.get(key):
                raise UsageError(
                    f"{path}: {key} is {found.get(key)!r}, asked for {wanted.get(key)!r}; go on with the old value, or "
                    "give another --out"
                )

    def units(self, worker: int, workers: int) -> Iterator[tuple[DataShard, tuple[int, int]]]:
        """The data shards of one of several workers, each with which of its parts are his: number % n == i."""
        if len(self.shards) >= workers:
            for shard in self.shards[worker::workers]:
                yield shard, (0, 1)
        else:
            for number, shard in enumerate(self.shards):
                yield shard, ((worker - number) % workers, workers)


def unit_name(shard: str, part: int, parts: int) -> str:
    """Name of a part of a shard; a shard in one piece has its own."""
    return shard if parts == 1 else f"{shard}.part-{part:05d}"


def cut(shard: DataShard, rows: int) -> list[Unit]:
    """The units of a shard of so many rows."""
    parts = max(1, round(rows / PART_ROWS))
    bounds = [rows * part // parts for part in range(parts + 1)]
    return [Unit(shard, part, parts, bounds[part], bounds[part + 1]) for part in range(parts)]


def find_data(data: Sequence[str], image_root: str | None) -> tuple[DataShard, ...]:
    """All shards of the paths given, sized but not read. Raises UsageError, DataError for a shard that is gone."""
    found: list[tuple[str, str, str]] = []
    for path in data:
        config = SourceConfig(name=base_name(str(path).rstrip("/")) or "data", path=path, image_root=image_root)
        shards, kind = find_shards(config)
        found += [(shard, config.name, kind) for shard in shards]
    seen = Counter(shard for shard, _, _ in found)
    if twice := [shard for shard, count in seen.items() if count > 1]:
        raise UsageError(f"--data: {twice[0]} is given twice")
    with ThreadPoolExecutor(16) as pool:  # of remote stores, each size is a request
        sizes = list(pool.map(_size, [shard for shard, _, _ in found]))
    names = _names([shard for shard, _, _ in found])
    return tuple(
        DataShard(shard, source, kind, image_root, name, size)
        for (shard, source, kind), name, size in zip(found, names, sizes, strict=True)
    )


def _size(shard: str) -> int:
    try:
        return file_stamp(shard)[0]
    except OSError as error:
        raise DataError(f"shard {shard} cannot be read: {error.strerror or error}") from error


def _names(shards: Sequence[str]) -> list[str]:
    """A name for each shard: its file's without the ending; where folders hold equal ones, they get numbers."""
    stems = [re.sub(r"[^\w.-]+", "-", os.path.splitext(base_name(shard))[0])[:160] or "data" for shard in shards]
    counts, taken, names = Counter(stems), set(stems), []
    for stem in stems:
        name, number = stem, 1
        while counts[stem] > 1 and name in taken:
            name, number = f"{stem}-{number}", number + 1
        taken.add(name)
        names.append(name)
    return names


def _is_leftover(out: Path) -> bool:
    """Whether a folder holds nothing, or only what a run that never began left."""
    return all(path.name == LOCK or re.fullmatch(r"\..*\.tmp", path.name) for path in out.iterdir())


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return flat
