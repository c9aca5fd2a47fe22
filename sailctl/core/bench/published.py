"""Scores that come from elsewhere: averages recomputed from a file of raw scores, and verdicts against published rows.

Needs no model and no benchmark's data; imports neither torch nor numpy.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from sailctl.core.bench.suites import Suite, aggregate, load_suite, missing, suite_names
from sailctl.core.errors import UsageError
from sailctl.core.records import Score

Outcome = Literal["equal within noise", "above", "below", "not published"]
# Half a unit of the last digit printed, in points: one decimal (tables of two decimals lose nothing that matters).
ROUNDING = 0.05


@dataclass(frozen=True, slots=True)
class Verdict:
    """A measured score beside a published one, both in points; `published` is None where there is none."""

    outcome: Outcome
    points: float
    ci95: tuple[float, float]
    n: int
    published: float | None


def recompute(path: Path, name: str | None) -> tuple[dict[str, dict[str, float | None]], list[str]]:
    """`from_scores` for a suite by name or path; UsageError where none is named, for no file says which it is of."""
    if name is None:
        raise UsageError(
            f"--from-scores needs a suite: --suite NAME, one of {', '.join(suite_names())}, or a YAML file"
        )
    return from_scores(path, load_suite(name))


def from_scores(path: Path, suite: Suite) -> tuple[dict[str, dict[str, float | None]], list[str]]:
    """`{model: {aggregate: points}}` from a file of `{model: {benchmark: raw score}}`, and remarks for the user.

    Raw means the benchmark's own unit: MME of 2800, OCRBench of 1000, the others of 100. Benchmarks outside the suite
    are ignored; a missing one (or null) makes its aggregates None, which a remark says. Raises UsageError for a file
    that is no such thing, naming model, benchmark, value and what would be right.
    """
    answer: dict[str, dict[str, float | None]] = {}
    remarks = []
    for model, row in _objects(path, _read_json(path), "model").items():
        raw = _raw_scores(path, model, row, suite)
        answer[model] = aggregate(suite, raw)
        strangers = [name for name in row if name not in {one.name for one in suite.benchmarks}]
        if gaps := missing(suite, raw):
            names = dict.fromkeys(gap for of_one in gaps.values() for gap in of_one)
            told = ", ".join(name + _near(name, strangers) for name in names)
            remarks.append(f"{model}: no score for {told}; null: {', '.join(gaps)}")
        for one in suite.benchmarks:
            if one.full_marks > 100 and 0 < raw.get(one.name, 0) <= 100:
                remarks.append(
                    f"{model}: {one.name} = {raw[one.name]:g} was read as {raw[one.name]:g} of {one.full_marks:g}; "
                    f"where it is points, multiply it by {one.full_marks / 100:g}"
                )
    return answer, remarks


def score_table(answer: Mapping[str, Mapping[str, float | None]]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a `from_scores` answer for people."""
    rows = [[model, *("–" if v is None else f"{v:.2f}" for v in row.values())] for model, row in answer.items()]
    return ["model", *dict.fromkeys(name for row in answer.values() for name in row)], rows


def published_rows(path: Path, suite: Suite) -> dict[str, dict[str, float]]:
    """`{model: {benchmark: points}}` of a file of published tables, for the benchmarks of a suite.

    The file holds sections, each with `scores: {model: {benchmark: number}}`; other keys of a section (`source`,
    `note`, `printed_averages`) are left alone. Tables print MME and OCRBench raw or as points: a column without a
    number above 100 is points. A model in two sections is named "model (section)". Raises UsageError.
    """
    tables: dict[tuple[str, str], dict[str, float]] = {}
    for section, content in _objects(path, _read_json(path), "section").items():
        if not isinstance(content.get("scores"), dict):
            raise UsageError(f"{path}: section '{section}' has no scores: {{model: {{benchmark: number}}}}")
        models = _objects(path, content["scores"], "model")
        rows = {model: _raw_scores(path, model, row, suite) for model, row in models.items()}
        for one in suite.benchmarks:
            column = [row[one.name] for row in rows.values() if one.name in row]
            is_raw = one.full_marks != 100 and max(column, default=0.0) > 100
            for row in rows.values():
                if is_raw and one.name in row:
                    row[one.name] *= 100 / one.full_marks
        tables |= {(section, model): row for model, row in rows.items()}
    names = [model for _, model in tables]
    return {
        model if names.count(model) == 1 else f"{model} ({section})": row for (section, model), row in tables.items()
    }


def published_row(rows: Mapping[str, Mapping[str, float]], model: str) -> Mapping[str, float]:
    """One model's published row; UsageError with the nearest for a model that has none."""
    if model not in rows:
        raise UsageError(
            f"no scores of '{model}' are published there{_near(model, list(rows))}; models: {', '.join(rows)}"
        )
    return rows[model]


def verdict(measured: Score, published: float | None) -> Verdict:
    """Whether a measured score (0 to 1) equals a published one (points) within noise.

    The published score was measured on the same questions, so what is hard in them is hard in both numbers and cancels
    out; how much of it cannot be known without the other's answers. Our own 95% interval is what is right when the two
    scores correlate by one half: the variance of a difference is then that of one of them. Models that answer more
    alike would be told apart by less, unlike ones by more. The rounding of the printed number is allowed for; other
    prompts, decoding and judges are not.
    """
    points, low, high = 100 * measured.score, 100 * measured.ci95[0], 100 * measured.ci95[1]
    outcome: Outcome = "equal within noise"
    if published is None:
        outcome = "not published"
    elif published < low - ROUNDING:
        outcome = "above"
    elif published > high + ROUNDING:
        outcome = "below"
    return Verdict(outcome, points, (low, high), measured.n, published)


def verdicts(measured: Mapping[str, Score], published: Mapping[str, float]) -> dict[str, Verdict]:
    """A verdict for every measured benchmark, against one published row in points."""
    return {name: verdict(score, published.get(name)) for name, score in measured.items()}


def verdict_table(found: Mapping[str, Verdict]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of verdicts for people."""
    rows = [
        [
            name,
            f"{one.points:.1f}",
            f"{one.ci95[0]:.1f} to {one.ci95[1]:.1f}",
            "–" if one.published is None else f"{one.published:.1f}",
            one.outcome,
            str(one.n),
        ]
        for name, one in found.items()
    ]
    return ["benchmark", "points", "95% interval", "published", "verdict", "n"], rows


def _raw_scores(path: Path, model: str, row: Mapping[str, Any], suite: Suite) -> dict[str, float]:
    """The scores of the suite's benchmarks in a model's row; null is no score."""
    raw = {}
    for one in suite.benchmarks:
        value = row.get(one.name)
        if value is None:
            continue
        where = f"{path}: {model}: {one.name} = {json.dumps(value, ensure_ascii=False)[:80]}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{where}: should be a number from 0 to {one.full_marks:g}, or null")
        if not 0 <= value <= one.full_marks:  # true of no infinity, and JSON's reader refuses NaN
            raise UsageError(f"{where}: should be from 0 to {one.full_marks:g}, the full marks of {one.name}")
        raw[one.name] = float(value)
    return raw


def _objects(path: Path, value: Any, what: str) -> dict[str, dict[str, Any]]:
    """A JSON object of objects."""
    if not isinstance(value, dict):
        raise UsageError(f"{path}: should be an object with a key for each {what}, not {_kind(value)}")
    for name, inner in value.items():
        if not isinstance(inner, dict):
            raise UsageError(f"{path}: {what} '{name}': should be an object, not {_kind(inner)}")
    return value


def _read_json(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # of text, of JSON, of _once and of _refuse_constant
        raise UsageError(f"{path}: is not valid JSON: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"key '{twice}' is written twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number; write null for a score that is not there")


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", bool: "true or false", type(None): "null"}.get(type(value), "a number")


def _near(name: str, others: list[str]) -> str:
    close = difflib.get_close_matches(name, others, n=1, cutoff=0.75)  # MMMU_DEV_VAL for MMMU_VAL, no less
    return f" (did you mean '{close[0]}'?)" if close else ""
