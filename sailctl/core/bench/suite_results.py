"""What a bench of a suite leaves: an entry for each benchmark with n and interval, a row for each question, averages.

Schemas in docs/results.md. Pictures are kept for wrong answers only, and of a limited number of them: those are what
people look at, and a suite's pictures are gigabytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from sailctl.core.bench import overlap
from sailctl.core.bench.answers import Answers
from sailctl.core.bench.clusters import score
from sailctl.core.bench.prompts import options_of
from sailctl.core.bench.published import verdict
from sailctl.core.bench.questions import Question, Questions
from sailctl.core.bench.scorer import Scored
from sailctl.core.bench.statistics import weighted_mean
from sailctl.core.bench.suites import Suite, aggregate
from sailctl.core.bench.tally import tally
from sailctl.core.engines.messages import mime_type
from sailctl.core.errors import SailctlError
from sailctl.core.files import atomic_write
from sailctl.core.records import Score

IMAGES = "images"
SAMPLES = "samples.jsonl"
NOT_COMPARABLE = "not comparable: scored without a judge"
SAME = 1e-6  # of full marks: a score and the sum its interval is made of must not differ by more


class SampleWriter:
    """Writes `lines` of `folder`/samples.jsonl, and the pictures of the first `pictures` wrong answers a benchmark."""

    def __init__(self, folder: Path, lines: IO[str], pictures: int) -> None:
        self.folder, self.lines, self.pictures = folder, lines, pictures
        self.wrong = 0

    def add(self, questions: Questions, answers: Answers, scored: Scored) -> list[dict[str, Any]]:
        """The rows of one benchmark: those of its questions that have a score."""
        items = {item.index: item for item in scored.items}
        cut = set(answers.cut)
        rows, kept = [], 0
        for question in questions:
            item = items.get(question.index)
            if item is None:
                continue
            names = [_name(image) for image in question.images]
            row: dict[str, Any] = {
                "benchmark": questions.benchmark.name,
                "index": question.index,
                "group": item.group,
                "cluster": question.group,
                **_cells(question),
                "question": question.prompt,
                "image": names[0] if names else None,
                "images": names,
                "prediction": answers.texts[question.index],
                "score": item.score,
                "parsed": item.parsed,
                "failed": answers.failed.get(question.index),
                "cut": question.index in cut,
            }
            rows.append(row)
            self.lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            if item.score < 1:
                self.wrong += 1
                if kept < self.pictures:
                    kept += 1
                    self._keep(names, question.images)
        return rows

    def _keep(self, names: Sequence[str], images: Sequence[bytes]) -> None:
        for name, image in zip(names, images, strict=True):
            path = self.folder / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(path) as file:
                    file.write(image)


def _name(image: bytes) -> str:
    """Where a picture is kept: by content, so that it is there once, and two runs call it the same."""
    ending = mime_type(image).decode().rpartition("/")[2]
    return f"{IMAGES}/{hashlib.blake2b(image, digest_size=16).hexdigest()}.{ending}"


def _cells(question: Question) -> dict[str, Any]:
    row = question.row
    return {
        "category": row.get("category") or row.get("l2-category") or "",
        "answer": row.get("answer", ""),
        "options": options_of(row) or None,
    }


def entry(
    questions: Questions, answers: Answers, scored: Scored, rows: Sequence[Mapping[str, Any]], seed: int
) -> tuple[dict[str, Any], Score | None]:
    """A benchmark's part of results.json, and its score of 1 with interval; None where nothing bears an interval.

    That is so where VLMEvalKit gives a headline of its own that is no sum over the verdicts it keeps.
    """
    benchmark = questions.benchmark
    share = scored.raw / benchmark.full_marks
    made, what = tally(benchmark.metric, rows, benchmark.full_marks)
    measured = None
    if len(rows) and abs(made.value - share) <= SAME:
        measured = score(made, seed=seed)
    found = {
        "dataset": benchmark.dataset,
        "category": benchmark.category,
        "metric": benchmark.metric,
        "raw": scored.raw,
        "full_marks": benchmark.full_marks,
        "score": share,
        "n": measured.n if measured is not None else len(answers.texts),
        "ci95": None if measured is None else list(measured.ci95),
        "questions": len(answers.texts),
        "failed": len(answers.failed),
        "unparsed": len(set(scored.unparsed) - answers.failed.keys()),
        "cut": len(answers.cut),
        "excluded": dict(questions.excluded),
        "rejects": {index: f"{reject.reason}: {reject.detail}" for index, reject in questions.rejects.items()},
        "judge": scored.judge,
        "fallback": scored.fallback,
        "vlmevalkit": scored.kit,
        "details": dict(scored.details),
    }
    if measured is None:
        found["note"] = f"no interval: the headline is no {what} of the verdicts that are kept"
    return found, measured


def failure(questions: Questions, error: SailctlError) -> dict[str, Any]:
    """The entry of a benchmark that could not be scored."""
    benchmark = questions.benchmark
    about = {"dataset": benchmark.dataset, "category": benchmark.category, "metric": benchmark.metric}
    return {**about, "full_marks": benchmark.full_marks, "score": None, "n": 0, "ci95": None, "error": str(error)}


def averages(suite: Suite, raw: Mapping[str, float], measured: Mapping[str, Score]) -> dict[str, Any]:
    """The suite's aggregates: `score` of 1, `n`, `ci95`; null where a member has no score, no interval where one lacks
    it.
    """
    known = _with_averages(suite, measured)
    made: dict[str, Any] = {}
    for name, value in aggregate(suite, raw).items():
        one = known.get(name)
        made[name] = None
        if value is not None:
            made[name] = {"score": value / 100, "n": one.n if one else None, "ci95": list(one.ci95) if one else None}
    return made


def _with_averages(suite: Suite, measured: Mapping[str, Score]) -> dict[str, Score]:
    """Scores of benchmarks, and of those aggregates whose members all have one."""
    known = dict(measured)
    for name, definition in suite.aggregates.items():
        if all(member in known for member in definition.members):
            known[name] = weighted_mean([known[member] for member in definition.members], definition.weights)
    return known


def compare_published(
    results: dict[str, Any], suite: Suite, measured: Mapping[str, Score], model: str, row: Mapping[str, float]
) -> None:
    """Set a published row (points) beside scores and averages: `published.model`, and `points` and `verdict` by name.

    What a fallback of ours scored in a judge's place is not comparable, nor is an average with it.
    """
    raw = {one.name: row[one.name] * one.full_marks / 100 for one in suite.benchmarks if one.name in row}
    points: dict[str, float | None] = {**aggregate(suite, raw), **row}
    apart = {
        one.name for one in suite.benchmarks if one.judge and results["benchmarks"].get(one.name, {}).get("fallback")
    }
    for name, definition in suite.aggregates.items():
        if apart & set(definition.members):
            apart.add(name)
    found = {name: verdict(one, points.get(name)) for name, one in _with_averages(suite, measured).items()}
    results["published"] = {
        "model": model,
        "scores": {
            name: {"points": one.published, "verdict": NOT_COMPARABLE if name in apart else one.outcome}
            for name, one in found.items()
        },
    }


def table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows for people, in points, the averages last."""
    published = results.get("published")
    compared = any("overlap" in one for one in results["benchmarks"].values())
    more = [*(["in the data"] if compared else []), *(["published"] if published else [])]
    columns = ["benchmark", "points", "95% interval", "n", *more, "remarks"]
    rows = []
    for name, one in results["benchmarks"].items():
        beside = [overlap.shown(one)] if compared else []
        beside += [_beside(published["scores"].get(name))] if published else []
        rows.append([name, *_points(one), *beside, _remarks(one)])
    for name, one in results["averages"].items():
        beside = ["–"] if compared else []
        beside += [_beside(published["scores"].get(name))] if published else []
        rows.append([name, *_points(one), *beside, ""])
    return columns, rows


def _points(one: Mapping[str, Any] | None) -> list[str]:
    if one is None or one["score"] is None:
        return ["–", "–", "–"]
    interval = "–" if one["ci95"] is None else f"{100 * one['ci95'][0]:.1f} to {100 * one['ci95'][1]:.1f}"
    return [f"{100 * one['score']:.1f}", interval, "–" if one["n"] is None else str(one["n"])]


def _beside(one: Mapping[str, Any] | None) -> str:
    return "–" if one is None or one["points"] is None else f"{one['points']:.1f}: {one['verdict']}"


def _remarks(one: Mapping[str, Any]) -> str:
    """What a reader of the number has to know, in few words."""
    if "error" in one:
        return f"not scored: {one['error']}"
    said = [f"{one['raw']:g} of {one['full_marks']:g}"] if one["full_marks"] != 100 else []
    said += [f"judge {one['judge']}"] if one["judge"] else []
    said += [one["fallback"]] if one["fallback"] else []
    words = {"failed": "without answer", "unparsed": "unparsed", "cut": "cut"}
    said += [f"{one[key]} {word}" for key, word in words.items() if one[key]]
    said += [f"{sum(one['excluded'].values())} rows excluded"] if one["excluded"] else []
    return "; ".join(said)
