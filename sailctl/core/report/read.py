"""Reads a folder of runs: `*/metrics.jsonl`, `run.json`, `rejects.jsonl`, `bench/results.json` and `samples.jsonl`.

Only result files are read, never weights; schemas stand in docs/results.md. What is absent is None or empty here, and
left out further up; what is broken is named in one line.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from sailctl.core.errors import DataError, UsageError
from sailctl.core.files import read_jsonl
from sailctl.core.schema.recipe import Stage

STAGE_ORDER: tuple[str, ...] = get_args(Stage)
BENCH = "bench"


@dataclass(frozen=True, slots=True)
class StageRun:
    """One training run as its files tell it: rows of metrics.jsonl, rejects by reason, and its bench if it has one."""

    name: str
    folder: Path
    rows: Sequence[Mapping[str, Any]]
    about: Mapping[str, Any] = field(default_factory=dict)
    rejects: Mapping[str, int] = field(default_factory=dict)
    results: Mapping[str, Any] | None = None

    @property
    def parent(self) -> str:
        """The stage this one started from, or that it started from the recipe's own parts."""
        parent = self.about.get("parent")
        return "base" if parent is None else str(parent.get("stage", "another model"))

    @property
    def samples(self) -> int:
        """Samples trained on in this stage."""
        return int(self.rows[-1]["samples"])

    @property
    def tokens(self) -> int:
        """Real tokens trained on in this stage, padding not counted."""
        return int(self.rows[-1]["tokens"])

    @property
    def loss_first(self) -> float:
        """Loss of the first step."""
        return float(self.rows[0]["loss"])

    @property
    def loss_last(self) -> float:
        """Loss of the last step."""
        return float(self.rows[-1]["loss"])

    @property
    def score(self) -> float | None:
        """Overall score of the bench after this stage."""
        return None if self.results is None else float(self.results["overall"]["score"])

    @property
    def perf(self) -> dict[str, float]:
        """Seconds, samples and real tokens a second, seconds waited for data, peak memory: over all steps."""
        rows = [row.get("perf", {}) for row in self.rows]
        seconds = sum(float(row.get("seconds") or 0.0) for row in rows)
        perf = {
            "seconds": round(seconds, 3),
            "data_wait_s": round(sum(float(row.get("data_wait_s") or 0.0) for row in rows), 3),
            "memory_bytes": max((int(row.get("memory_bytes") or 0) for row in rows), default=0),
        }
        if seconds > 0:
            perf["samples_per_s"] = round(self.samples / seconds, 3)
            perf["tokens_per_s"] = round(self.tokens / seconds, 3)
        return perf


@dataclass(frozen=True, slots=True)
class Runs:
    """Everything a report is made of: stages in training order and the bench that speaks for the whole."""

    folder: Path
    stages: Sequence[StageRun]
    bench_folder: Path | None
    results: Mapping[str, Any] | None


def read_runs(folder: Path) -> Runs:
    """Read a folder of runs, or a single run's own folder.

    The bench that speaks for the whole is `bench/` beside the stages, else that of the last stage that has one.
    Raises UsageError where there is neither a run nor a bench.
    """
    if not folder.is_dir():
        raise UsageError(
            f"{folder}: is no folder; give the folder that holds your runs with --runs, or train a first "
            "stage: sailctl pretrain --stage alignment"
        )
    places = [folder] if (folder / "metrics.jsonl").is_file() else sorted(p for p in folder.iterdir() if p.is_dir())
    stages = [stage for stage in map(_read_stage, places) if stage is not None]
    stages.sort(key=lambda stage: (_rank(stage), stage.name))
    final = folder / BENCH if (folder / BENCH / "results.json").is_file() else None
    if final is None:
        final = next((s.folder / BENCH for s in reversed(stages) if s.results is not None), None)
    if not stages and final is None:
        raise UsageError(f"{folder}: holds no run (*/metrics.jsonl) and no bench/results.json; train a stage first")
    return Runs(folder, stages, final, None if final is None else read_results(final / "results.json"))


def read_samples(bench_folder: Path) -> list[dict[str, Any]]:
    """Rows of samples.jsonl, empty where the bench kept none; raises DataError for a row without a score."""
    path = bench_folder / "samples.jsonl"
    rows = read_rows(path)
    for number, row in enumerate(rows, 1):
        if not _is_number(row.get("score")):
            raise DataError(f"{path}: row {number}: key 'score' is missing or no number; run sailctl bench again")
    return rows


def read_results(path: Path) -> dict[str, Any]:
    """A results.json with its overall score and its tasks; raises DataError naming what is wrong."""
    results = read_object(path)
    for key in ("overall", "tasks"):
        if not isinstance(results.get(key), dict):
            raise DataError(f"{path}: key '{key}' is missing; run sailctl bench again")
    entries = [("overall", results["overall"]), *((f"tasks.{name}", task) for name, task in results["tasks"].items())]
    for name, entry in entries:
        if wrong := _wrong_key(entry):
            raise DataError(f"{path}: {name}: key '{wrong}' is missing or malformed; run sailctl bench again")
    abouts = results.get("baselines", {})
    if not isinstance(abouts, dict) or not all(isinstance(a, dict) and "model" in a for a in abouts.values()):
        raise DataError(f"{path}: key 'baselines' is malformed; run sailctl bench again")
    perf = results.get("perf", {})
    if not isinstance(perf, dict) or not _is_number(perf.get("seconds", 0.0)):
        raise DataError(f"{path}: key 'perf' is malformed; run sailctl bench again")
    return {"suite": "unknown", **results}


def _wrong_key(entry: Any) -> str | None:
    """The first key of an entry that cannot be shown, None where all can."""
    if not isinstance(entry, dict):
        return "score"
    bounds = entry.get("ci95")
    if not isinstance(bounds, list) or len(bounds) != 2 or not all(map(_is_number, bounds)):
        return "ci95"
    if wrong := next((key for key in ("score", "n") if not _is_number(entry.get(key))), None):
        return wrong
    tiers = ("blind", "chance", "untrained")
    return next((key for key in tiers if key not in entry or not (entry[key] is None or _is_number(entry[key]))), None)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object; raises DataError naming the file otherwise."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: is not a readable JSON file: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds {type(value).__name__}, not an object")
    return value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSONL file, empty if it is absent; raises DataError naming the file and line that is none."""
    if not path.is_file():
        return []
    try:
        rows = read_jsonl(path)
    except ValueError as error:
        raise DataError(str(error)) from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {number} holds {type(row).__name__}, not an object")
    return rows


def _read_stage(folder: Path) -> StageRun | None:
    rows = read_rows(folder / "metrics.jsonl")
    if not rows:
        return None
    for key in ("loss", "samples", "tokens"):
        if key not in rows[0] or key not in rows[-1]:
            raise DataError(f"{folder / 'metrics.jsonl'}: key '{key}' is missing; is this a file of another program?")
    results = folder / BENCH / "results.json"
    return StageRun(
        name=folder.name,
        folder=folder,
        rows=rows,
        about=read_object(folder / "run.json") if (folder / "run.json").is_file() else {},
        rejects=dict(Counter(str(row.get("reason", "")) for row in read_rows(folder / "rejects.jsonl")).most_common()),
        results=read_results(results) if results.is_file() else None,
    )


def _rank(stage: StageRun) -> int:
    for name in (stage.rows[0].get("stage"), stage.about.get("stage"), stage.name):
        if name in STAGE_ORDER:
            return STAGE_ORDER.index(name)
    return len(STAGE_ORDER)
