"""Passes: a function over parts of the data, a Parquet file each, by any number of workers; killed, it goes on.

A file that stands under its name is whole and done. What a folder holds is told by its `pass.json`; another pass, other
data or other parameters are refused there, never mixed. `summary.json` comes last: with it a pass is finished.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol

from sailctl.core.curate.parts import Data, Part, Row
from sailctl.core.data.verdicts import COLUMNS, VERDICTS
from sailctl.core.errors import Interrupted, UsageError
from sailctl.core.files import atomic_write, write_json
from sailctl.core.reporter import Reporter
from sailctl.core.workers import map_parts, usable_cores

PASS_FILE, SUMMARY_FILE = "pass.json", "summary.json"
ROW_GROUP = 50_000
_SHOWN = 200  # characters of a value
_ABSENT = object()  # where one of two values has nothing


class Task(Protocol):
    """Something that makes one file; `name` is its path in the folder, without the ending."""

    @property
    def name(self) -> str:
        """Path below the folder of the stage."""
        ...


@dataclass(frozen=True, slots=True)
class Workers:
    """How a pass is spread: local processes, or as many workers of the Ray cluster at an address."""

    processes: int = 1
    ray: str | None = None


def default_workers(processes: int | None, ray: str | None) -> Workers:
    """What --processes and --ray mean: without the first, a process for each core that is ours, eight at most."""
    return Workers(processes or min(usable_cores(), 8), ray)


@dataclass(frozen=True)
class Over:
    """A function over the rows of a part, as work for `run_tasks`; both travel to workers."""

    data: Data
    function: Callable[[Iterator[Row]], Any]

    def __call__(self, part: Part) -> Any:
        """The table of a part."""
        return self.function(self.data.rows(part))


@dataclass
class Pass:
    """A pass in its folder. `parameters` are all that decide its outcome beside the data, as JSON has them."""

    name: str
    out: Path
    parameters: dict[str, Any]
    data: Data
    workers: Workers
    reporter: Reporter
    version: int = 1
    summary: dict[str, Any] | None = field(default=None, init=False)
    _began: bool = field(default=False, init=False)
    _made_folder: bool = field(default=False, init=False)

    def open(self) -> bool:
        """Begin the pass or find it begun; whether it is finished, and then `summary` is what it said.

        Raises UsageError where the folder holds another one, naming what differs.
        """
        told = {
            "pass": self.name,
            "version": self.version,
            "parameters": json.loads(json.dumps(self.parameters)),
            "data": self.data.described(),
        }
        path = self.out / PASS_FILE
        if path.is_file():
            _refuse_another(path, told)
        elif self.out.is_dir() and any(self.out.iterdir()):
            raise UsageError(f"--out {self.out}: is not empty and holds no pass of sailctl curate; give another folder")
        else:
            self._made_folder = not self.out.exists()
            write_json(path, told)
            self._began = True
        done = self.out / SUMMARY_FILE
        if done.is_file():
            self.summary = json.loads(done.read_text(encoding="utf-8"))
        return self.summary is not None

    def map(self, function: Callable[[Iterator[Row]], Any], folder: str = VERDICTS, label: str | None = None) -> None:
        """`function(rows)` makes the table of every part that has none yet, in `folder`."""
        tasks = self.data.parts
        sizes = {part.name: part.stop - part.first for part in tasks}
        run_tasks(
            Over(self.data, function), tasks, self.out / folder, self.workers, self.reporter, label or self.name, sizes
        )

    def tables(self, folder: str = VERDICTS) -> Iterator[tuple[Part, Path]]:
        """The parts with their files, in order."""
        for part in self.data.parts:
            yield part, file_of(self.out / folder, part)

    def discard(self, *folders: str) -> None:
        """Forget a pass that came to nothing: its `folders` go and the next may be another one.

        Only where this object began it: what an earlier command left stays.
        """
        if not self._began:
            return
        for name in folders:
            shutil.rmtree(self.out / name, ignore_errors=True)
        with suppress(OSError):
            (self.out / PASS_FILE).unlink()
            if self._made_folder:
                self.out.rmdir()

    def finish(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Note that all is done, with what is to be told of it and the data's warnings."""
        self.summary = {**summary, "warnings": list(self.data.warnings)}
        write_json(self.out / SUMMARY_FILE, self.summary)
        return self.summary


def file_of(folder: Path, task: Task) -> Path:
    """Where the file of a task stands."""
    return folder / f"{task.name}.parquet"


def run_tasks(
    work: Callable[[Any], Any],
    tasks: Sequence[Task],
    folder: Path,
    workers: Workers,
    reporter: Reporter,
    label: str,
    sizes: dict[str, int] | None = None,
    unit: str = "samples",
) -> None:
    """Make the file of every task that has none: `work(task)` gives a pyarrow Table, written under its name at once.

    `sizes` are what tasks count for in the progress, 1 each without. Raises Interrupted at Ctrl-C; what is written
    stays.
    """
    weight = sizes or {task.name: 1 for task in tasks}
    left = [task for task in tasks if not file_of(folder, task).is_file()]
    if not left:
        return
    total = sum(weight[task.name] for task in tasks)
    made = total - sum(weight[task.name] for task in left)
    reporter.start(label, total, completed=made, unit=unit)
    count = min(workers.processes, len(left))
    lanes = [left[number::count] for number in range(count)]
    try:
        if workers.ray is None and count == 1:
            for task in left:
                _make(work, task, folder)
                made += weight[task.name]
                reporter.update(made)
        else:
            done = _Done(folder, lanes, weight, made)
            parts = [(work, lane, str(folder)) for lane in lanes]
            map_parts(_run_lane, parts, lambda: reporter.update(done.count()), ray=workers.ray)
    except KeyboardInterrupt:
        raise Interrupted("what is done is kept; the same command goes on") from None
    finally:
        reporter.finish()


def _run_lane(lane: tuple[Callable[[Any], Any], Sequence[Task], str]) -> None:
    work, tasks, folder = lane
    for task in tasks:
        _make(work, task, Path(folder))


def _make(work: Callable[[Any], Any], task: Task, folder: Path) -> None:
    write_table(file_of(folder, task), work(task))


def write_table(path: Path, table: Any) -> None:
    """A pyarrow Table as a Parquet file that is there whole or not at all; equal tables give equal bytes."""
    import pyarrow.parquet as pq

    with atomic_write(path) as handle:
        pq.write_table(table, handle, compression="zstd", row_group_size=ROW_GROUP)


def verdict_table(records: Sequence[dict[str, Any]], extra: dict[str, str] | None = None) -> Any:
    """Records with the columns of every verdict and `extra` ones (name to Arrow type) as a pyarrow Table."""
    import pyarrow as pa

    kinds = {**COLUMNS, **(extra or {})}
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in kinds.items()])
    return pa.Table.from_pylist(list(records), schema=schema)


class _Done:
    """How far lanes of tasks are, by the files that stand; of each lane only the next one is looked for."""

    def __init__(self, folder: Path, lanes: Sequence[Sequence[Task]], weight: dict[str, int], made: int) -> None:
        self.folder, self.lanes, self.weight, self.made = folder, lanes, weight, made
        self.next = [0] * len(lanes)

    def count(self) -> int:
        """Units done so far."""
        for number, lane in enumerate(self.lanes):
            while self.next[number] < len(lane) and file_of(self.folder, lane[self.next[number]]).is_file():
                self.made += self.weight[lane[self.next[number]].name]
                self.next[number] += 1
        return self.made


def _refuse_another(path: Path, told: dict[str, Any]) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}); give another --out") from error
    for name in ("pass", "version"):
        if found.get(name) != told[name]:
            raise UsageError(f"{path}: holds {name} {found.get(name)}, this is {told[name]}; give another --out")
    known, now = found.get("parameters", {}), told["parameters"]
    for name in sorted(known.keys() | now.keys()):
        if _pathless(known.get(name)) != _pathless(now.get(name)):
            differs = _difference(name, known.get(name), now.get(name))
            raise UsageError(f"{path}: was made {differs}; give another --out")
    if _pathless(found.get("data", [])) != _pathless(told["data"]):
        raise UsageError(f"{path}: was made of other data; give another --out, or put back what it was")


def _pathless(value: Any) -> Any:
    """A JSON value without the paths of what is known by its content: where that lies decides nothing."""
    if isinstance(value, dict):
        return {key: _pathless(one) for key, one in value.items() if key != "path" or "fingerprint" not in value}
    return [_pathless(one) for one in value] if isinstance(value, list) else value


def _difference(where: str, was: Any, asked: Any) -> str:
    """The first place at which two JSON values differ, and what stands there: "with rules.5.aspect.max = 8, now …"."""
    inner: list[tuple[Any, Any, Any]] = []
    if was and asked and isinstance(was, dict) and isinstance(asked, dict):
        if was.get("fingerprint") != asked.get("fingerprint") and "path" in was and "path" in asked:
            same = was["path"] == asked["path"]  # a hash would say nothing to people
            return f"with {where} = {was['path']}, " + ("which has changed" if same else f"now it is {asked['path']}")
        inner = [(key, was.get(key, _ABSENT), asked.get(key, _ABSENT)) for key in {**was, **asked}]
    elif was and asked and isinstance(was, list) and isinstance(asked, list) and not _is_short(was, asked):
        inner = [(number, *pair) for number, pair in enumerate(zip_longest(was, asked, fillvalue=_ABSENT))]
    for key, one, other in inner:
        if _pathless(one) != _pathless(other):
            return _difference(f"{where}.{key}", one, other)
    before = f"without {where}" if was is _ABSENT else f"with {where} = {_shown(was)}"
    return f"{before}, now it is {'not there' if asked is _ABSENT else _shown(asked)}"


def _is_short(*lists: list[Any]) -> bool:
    """Whether lists are of words and numbers, and few: people want to see these whole."""
    plain = not any(isinstance(one, dict | list) for values in lists for one in values)
    return plain and all(len(json.dumps(values, ensure_ascii=False)) <= _SHOWN for values in lists)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:_SHOWN]
