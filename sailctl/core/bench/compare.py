"""Bench runs side by side: scores with intervals, and paired tests on the questions that two runs share.

Reads the `results.json` and `samples.jsonl` of finished runs, of any suite; asks and scores nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sailctl.core.bench.clusters import Paired, compare, score
from sailctl.core.bench.statistics import holm, weighted_mean
from sailctl.core.bench.suite_results import SAME
from sailctl.core.bench.suites import Suite, load_suite
from sailctl.core.bench.tally import ITEMS, tally
from sailctl.core.errors import DataError, UsageError
from sailctl.core.files import read_jsonl
from sailctl.core.records import Score

RESULTS, SAMPLES = "results.json", "samples.jsonl"
LEVEL = 0.05
# What tells that two rows are about the same question; a prompt may differ between runs, a picture may not.
CONTENT = ("question", "image")
# Facts about a question, taken from the first run, that both may be added up alike.
FACTS = ("group", "cluster", "category", "answer")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """A finished bench run: its suite, what it measured, its rows by benchmark, and the intervals it came with."""

    folder: Path
    label: str
    suite: Suite
    rows: Mapping[str, Sequence[Row]]
    given: Mapping[str, Score]


def read_run(folder: Path) -> Run:
    """A bench run's results. Raises UsageError where there are none, DataError where they are damaged."""
    path = folder / RESULTS
    for file in (path, folder / SAMPLES):
        if not file.is_file():
            hint = f"; did you mean {folder / 'bench'}?" if (folder / "bench" / RESULTS).is_file() else ""
            raise UsageError(f"{file} does not exist: a finished bench holds {RESULTS} and {SAMPLES}{hint}")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        suite, label = load_suite(results["suite"]), str(results["checkpoint"])
        given = _given(results)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is no result file of a bench: {error}") from None
    rows: dict[str, list[Row]] = {}
    try:
        for number, row in enumerate(read_jsonl(folder / SAMPLES), start=1):
            name, value, _ = row["benchmark"] if "benchmark" in row else row["task"], row["score"], row["index"]
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError(f"row {number}: score = {value!r}: should be a number from 0 to 1")
            rows.setdefault(name, []).append(row)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / SAMPLES}: holds what is no answer of a bench: {error!r}") from None
    return Run(folder, label, suite, rows, given)


def side_by_side(folders: Sequence[Path], *, seed: int = 0) -> dict[str, Any]:
    """Two or more runs, every later one against the first; all numbers are points (0 to 100).

    `benchmarks` holds for each name `metric`, `scores` (one a run: `points`, `n`, `ci95`; null where it was not run)
    and `against_first` (one a run: `points`, `n`, `ci95`, `p_value`, `p_holm`, `test`, `verdict`, `unshared`; null for
    the first and where no question is shared). `p_holm` is adjusted for the number of benchmarks; verdicts go by it.
    `averages` holds the suite's aggregates where all runs are of one suite. Raises UsageError, DataError.
    """
    if len(folders) < 2:
        raise UsageError("--compare needs two bench runs or more: --compare RUN --compare RUN")
    runs = [read_run(folder) for folder in folders]
    names = list(dict.fromkeys(name for run in runs for name in run.rows))
    measured: list[dict[str, Score]] = [{} for _ in runs]
    benchmarks: dict[str, Any] = {}
    for name in names:
        metric, full_marks = _metric(runs, name)
        for run, scores in zip(runs, measured, strict=True):
            if name in run.rows:
                added = tally(metric, run.rows[name], full_marks)[0]
                scores[name] = _as_given(run, name, added.value) or score(added, seed=seed)
        benchmarks[name] = {
            "metric": metric,
            "scores": [_points(scores.get(name)) for scores in measured],
            "against_first": [None, *(_pair(metric, full_marks, runs[0], run, name, seed) for run in runs[1:])],
        }
    for place in range(1, len(runs)):
        _judge([entry["against_first"][place] for entry in benchmarks.values()])
    return {
        "runs": [{"run": str(run.folder), "checkpoint": run.label, "suite": run.suite.name} for run in runs],
        "benchmarks": benchmarks,
        "averages": _averages(runs, measured),
    }


def comparison_tables(found: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Titles, columns and rows for people: the runs' points, then a table of each later run against the first."""
    numbers = range(1, len(found["runs"]) + 1)
    rows = [[name, *(_cell(one) for one in entry["scores"])] for name, entry in found["benchmarks"].items()]
    rows += [[name, *(_cell(one) for one in averages)] for name, averages in (found["averages"] or {}).items()]
    tables = [("points with 95% intervals", ["benchmark", *(f"run {number}" for number in numbers)], rows)]
    for number in numbers[1:]:
        pairs = {name: entry["against_first"][number - 1] for name, entry in found["benchmarks"].items()}
        rows = [
            [name, "–", "–", "nothing shared"]
            if pair is None
            else [name, _cell(pair), _p(pair["p_holm"]), pair["verdict"]]
            for name, pair in pairs.items()
        ]
        title = f"run {number} less run 1, p adjusted for all benchmarks"
        tables.append((title, ["benchmark", "difference", "p", "verdict"], rows))
    return tables


def _given(results: Mapping[str, Any]) -> dict[str, Score]:
    """The scores with intervals that a bench wrote of benchmarks and averages."""
    parts = results.get("benchmarks") or results.get("tasks") or {}
    averages = results.get("averages") or {"overall": results.get("overall")}
    return {
        name: Score(float(one["score"]), int(one["n"]), (float(one["ci95"][0]), float(one["ci95"][1])))
        for name, one in [*parts.items(), *averages.items()]
        if one is not None and one.get("ci95") is not None
    }


def _as_given(run: Run, name: str, value: float) -> Score | None:
    """What the bench itself said, if it is of the same number: one result has one interval, whoever shows it."""
    one = run.given.get(name)
    return one if one is not None and abs(one.score - value) <= SAME else None


def _pair(metric: str, full_marks: float, first: Run, other: Run, name: str, seed: int) -> dict[str, Any] | None:
    """One run less the first on the questions both were asked."""
    left, right = _shared(first.rows.get(name, ()), other.rows.get(name, ()))
    if not left:
        return None
    ours, _ = tally(metric, right, full_marks)
    theirs, _ = tally(metric, left, full_marks)
    paired: Paired = compare(ours, theirs, seed=seed)
    return {
        "points": 100 * paired.difference,
        "n": paired.n,
        "ci95": [100 * bound for bound in paired.ci95],
        "p_value": paired.p_value,
        "test": paired.test,
        "unshared": len(first.rows[name]) + len(other.rows[name]) - 2 * len(left),
    }


def _shared(first: Sequence[Row], other: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows about the same questions, in the same order, with the same facts."""
    by_question = {_identity(row): row for row in other}
    left = [row for row in first if _identity(row) in by_question]
    right: list[Row] = [
        {
            **{key: value for key, value in by_question[_identity(row)].items() if key not in FACTS},
            **{key: value for key, value in row.items() if key in FACTS},
        }
        for row in left
    ]
    return left, right


def _identity(row: Row) -> str:
    return json.dumps([str(row["index"]), *(row.get(name) for name in CONTENT)], sort_keys=True)


def _metric(runs: Sequence[Run], name: str) -> tuple[str, float]:
    """How a benchmark is added up: as the first suite that has it says, if the rows of every run allow it."""
    benchmark = next((one for run in runs for one in run.suite.benchmarks if one.name == name), None)
    if benchmark is None:
        return ITEMS, 100.0
    metric, full_marks = benchmark.metric, benchmark.full_marks
    told = {tally(metric, run.rows[name], full_marks)[1] for run in runs if name in run.rows}
    return ITEMS if ITEMS in told else metric, full_marks


def _judge(pairs: Sequence[dict[str, Any] | None]) -> None:
    """Add what the number of benchmarks makes of the p-values, and the verdict."""
    there = [pair for pair in pairs if pair is not None]
    for pair, adjusted in zip(there, holm([pair["p_value"] for pair in there]), strict=True):
        pair["p_holm"] = adjusted
        pair["verdict"] = "no difference shown"
        if adjusted <= LEVEL:
            pair["verdict"] = "better" if pair["points"] > 0 else "worse"


def _averages(runs: Sequence[Run], measured: Sequence[Mapping[str, Score]]) -> dict[str, list[dict[str, Any] | None]]:
    """The aggregates of each run; none where the suites differ."""
    suite = runs[0].suite
    if any(run.suite != suite for run in runs[1:]):
        return {}
    columns = []
    for run, scores in zip(runs, measured, strict=True):
        known: dict[str, Score] = dict(scores)
        for name, definition in suite.aggregates.items():
            if all(member in known for member in definition.members):
                mean = weighted_mean([known[member] for member in definition.members], definition.weights)
                known[name] = _as_given(run, name, mean.score) or mean
        columns.append(known)
    return {name: [_points(known.get(name)) for known in columns] for name in suite.aggregates}


def _points(one: Score | None) -> dict[str, Any] | None:
    return None if one is None else {"points": 100 * one.score, "n": one.n, "ci95": [100 * b for b in one.ci95]}


def _cell(one: Mapping[str, Any] | None) -> str:
    return "–" if one is None else f"{one['points']:.1f} ({one['ci95'][0]:.1f} to {one['ci95'][1]:.1f})"


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}"
