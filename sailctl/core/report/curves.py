"""Reads curves: rows of `curve.jsonl`, as branches of a trunk leave them, or a CSV of sizes and scores.

A series is what a law is fitted to: one suite, measured in one way (annealed, the trunk as it is, after an SFT stage).
Scores here are in points, 0 to 100.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sailctl.core.errors import DataError, UsageError
from sailctl.core.report.figures import short_count
from sailctl.core.report.read import read_rows

CURVE = "curve.jsonl"
ANNEALED = "annealed"
SIZES = ("samples", "tokens")


@dataclass(frozen=True, slots=True)
class Point:
    """A score in points at a size: samples, real tokens, or both; its interval and number of items where known."""

    samples: float | None
    tokens: float | None
    score: float
    ci95: tuple[float, float] | None = None
    n: int | None = None

    def at(self, axis: str) -> float | None:
        """Its size in samples or in tokens."""
        return self.samples if axis == "samples" else self.tokens


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one suite measured in one way; `then` is what branches were trained on with, `origin` their file."""

    origin: str
    suite: str
    kind: str
    then: str | None
    points: Sequence[Point]

    @property
    def name(self) -> str:
        """What tells it from others, as far as needed: suite and kind."""
        return " · ".join(part for part in (self.origin, self.suite, self.kind) if part)


def read_curves(files: Sequence[Path]) -> tuple[list[Series], list[str]]:
    """Series of all files, and remarks. A folder means its curve.jsonl.

    Raises UsageError for a file that is not there or has an unknown ending, DataError for rows that are none.
    """
    series, remarks = [], []
    for file in files:
        path = file / CURVE if file.is_dir() else file
        if not path.is_file():
            made = "; make one with: sailctl anneal --run RUN --every N" if path.name == CURVE else ""
            raise UsageError(f"{path}: does not exist{made}")
        origin = "" if len(files) == 1 else (path.resolve().parent.name if path.name == CURVE else path.stem)
        if path.suffix == ".jsonl":
            series += _of_rows(path, origin)
        elif path.suffix == ".csv":
            found, said = _of_csv(path, origin)
            series += found
            remarks += said
        else:
            raise UsageError(f"{path}: should be a curve.jsonl of sailctl anneal --run, or a .csv of sizes and scores")
    if not series:
        raise UsageError(f"{', '.join(map(str, files))}: no rows yet")
    return series, remarks


def _of_rows(path: Path, origin: str) -> list[Series]:
    rows = read_rows(path)
    lengths = {row.get("branch_samples") for row in rows} - {None}
    questions: dict[str, set[Any]] = {}
    for row in rows:
        questions.setdefault(str(row.get("suite")), set()).add(row.get("questions"))
    groups: dict[tuple[str, str, str | None], list[Point]] = {}
    for number, row in enumerate(rows, 1):
        where = f"{path}: row {number}"
        point = Point(
            _number(row.get("samples"), "samples", where),
            _number(row.get("tokens"), "tokens", where),
            100 * _number(row.get("score"), "score", where),
            _interval(row.get("ci95"), where),
            None if row.get("n") is None else int(_number(row["n"], "n", where)),
        )
        suite = str(row.get("suite"))
        if len(questions[suite]) > 1:  # other questions, another measurement
            suite += f", {row.get('questions') or 'all'} questions"
        groups.setdefault((suite, *_kind(row, len(lengths) > 1)), []).append(point)
    return [Series(origin, *key, _in_order(points)) for key, points in groups.items()]


def _kind(row: Mapping[str, Any], lengths_differ: bool) -> tuple[str, str | None]:
    """How a row was measured, and what the branch was trained on with."""
    if row.get("branch_samples") is None:
        return "trunk as it is", None
    on = f" on {short_count(float(row['branch_samples']))}" if lengths_differ else ""
    then = row.get("then")
    if then is None:
        return f"{ANNEALED}{on}", None
    kind, _, rest = str(then).partition(":")
    recipe, _, stage = rest.rpartition(":")
    return f"then {kind}:{Path(recipe).name}:{stage}{on}", str(then)  # of a recipe's path its last part tells enough


def _of_csv(path: Path, origin: str) -> tuple[list[Series], list[str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [name.strip().lower() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is not a readable CSV file: {error}") from None
    if "score" not in columns or not set(SIZES) & set(columns):
        shown = ", ".join(columns) or "none"
        raise DataError(f"{path}: columns are {shown}; should be samples or tokens (or both), score, and suite if any")
    groups: dict[tuple[str, str], list[Point]] = {}
    for number, row in enumerate(rows, 2):
        where = f"{path}: line {number}"
        samples, tokens = (
            _number(row[size], size, where) if size in columns and (row[size] or "").strip() else None for size in SIZES
        )
        if samples is None and tokens is None:
            raise DataError(f"{where}: has no size; give samples or tokens")
        point = Point(samples, tokens, _number(row["score"], "score", where))
        key = ((row.get("suite") or "").strip() or path.stem, (row.get("kind") or "").strip())
        groups.setdefault(key, []).append(point)
    scores = [point.score for points in groups.values() for point in points]
    remarks = []
    if scores and all(0 <= score <= 1 for score in scores):
        remarks.append(f"{path}: scores are from 0 to 1 and were read as shares: 0.5 is 50 points")
        groups = {
            key: [Point(one.samples, one.tokens, 100 * one.score) for one in points] for key, points in groups.items()
        }
    return [Series(origin, suite, kind, None, _in_order(points)) for (suite, kind), points in groups.items()], remarks


def _in_order(points: list[Point]) -> list[Point]:
    return sorted(points, key=lambda one: one.samples if one.samples is not None else one.tokens or 0.0)


def _interval(bounds: object, where: str) -> tuple[float, float] | None:
    """A row's interval in points; none where the bench could give none."""
    if bounds is None:
        return None
    if not isinstance(bounds, list) or len(bounds) != 2:
        raise DataError(f"{where}: ci95 = {bounds!r}: should be two numbers or null")
    low, high = (100 * _number(value, "ci95", where) for value in bounds)
    return low, high


def _number(value: object, name: str, where: str) -> float:
    try:
        number = float(value.replace(",", "") if isinstance(value, str) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise DataError(f"{where}: {name} = {value!r}: should be a number")
    return number
