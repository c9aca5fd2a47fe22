"""What a captioning job is: its data shards, what decides its answers, and who does which part of it.

A job owns its folder. `caption.json` there pins what decides the answers; the same command goes on with it, another one
is refused. Where work stands is told by manifests and journals, never by this file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sailctl.core.caption.prompts import Prompt, prompt_digest
from sailctl.core.caption.shards import DataShard, check_sealed, named, news, read_known, write_known
from sailctl.core.caption.sidecar import MANIFESTS as MANIFESTS  # of the folder's layout, as those below
from sailctl.core.errors import StorageError, UsageError
from sailctl.core.files import storage_errors, write_json
from sailctl.core.journal import by_turns

JOB_FILE = "caption.json"
LOCK = ".lock"
JOURNALS = "journals"
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
    """A captioning job; travels to workers. `replay` is the command line that asks what was quarantined once more,
    `news` what `claim` found to be other than in earlier runs."""

    out: Path
    shards: tuple[DataShard, ...]
    prompts: tuple[Prompt, ...]
    lang: str
    model: str
    parameters: Parameters
    replay: str = ""
    news: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in the order in which they are asked."""
        return tuple(prompt.task for prompt in self.prompts)

    def folder(self, task: str) -> str:
        """A task's folder of sidecars, relative to the job's."""
        return f"{task}-{self.lang}"

    def pinned(self) -> dict[str, Any]:
        """What decides the answers, as JSON."""
        return {
            "format": FORMAT,
            "tasks": list(self.tasks),
            "lang": self.lang,
            "prompts": {prompt.task: prompt_digest(prompt) for prompt in self.prompts},
            "model": self.model,
            "parameters": asdict(self.parameters),
            "part_rows": PART_ROWS,
        }  # fmt: skip

    def claim(self) -> Job:
        """Make the folder this job's, or go on in it; returns the job with the names its shards have there.

        Raises UsageError, naming key and both values, where the folder is another job's.
        """
        self.check()
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"--out {self.out} cannot be made: {error.strerror}; choose another --out") from error
        with storage_errors(self.out), by_turns(self.out / LOCK):
            if (self.out / JOB_FILE).is_file():
                self.check()
            else:
                write_json(self.out / JOB_FILE, self.pinned())
            known = read_known(self.out)
            shards = named(self.shards, known)
            claimed = replace(self, shards=shards, news=news(shards, known))
            write_known(self.out, known, shards)
        return claimed

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
                raise UsageError(self._other(path, key, found.get(key), wanted.get(key)))
        known = read_known(self.out)
        news(self.shards, known)
        check_sealed(self.out, self.shards, known)

    def _other(self, path: Path, key: str, found: Any, wanted: Any) -> str:
        """Why a folder is another job's."""
        prompt = next((prompt for prompt in self.prompts if key == f"prompts.{prompt.task}"), None)
        if prompt is not None and found is not None:
            return (
                f"the prompt of {prompt.task} ({prompt.where}) is not what the captions in {self.out} were begun with; "
                "put it back, or give another --out"
            )
        return f"{path}: {key} is {found!r}, asked for {wanted!r}; go on with the old value, or give another --out"

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
