"""Scores of the visual-understanding suite: captions by a judge or by their elements, read text by ANLS.

Table 9 of the SAIL-VL paper (arXiv 2501.05952), appendix E. Captions are judged against up to three references for
precision and recall of the visual elements; how the paper makes one number of the two it does not say, here it is their
mean. Question by question; means, intervals and averages of benchmarks are made elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sailctl.core.bench.headline import ItemScore
from sailctl.core.bench.prompts import language_of
from sailctl.core.bench.references import OWN_METRICS, references_of
from sailctl.core.bench.scorer import Scored
from sailctl.core.engines.judge import Judge, JudgeItem, Judgement
from sailctl.core.engines.rubrics import caption_quality, quality
from sailctl.core.errors import DataError, UsageError
from sailctl.core.metrics import similarity, thresholded

if TYPE_CHECKING:
    from sailctl.core.bench.questions import Questions
    from sailctl.core.bench.suites import Benchmark
    from sailctl.core.engines.ask import Engine

MAX_REFERENCES = 3
FALLBACK = "element F1, no judge"
RULES = {
    "judge": "mean of precision and recall, 1 to 10 each, tenfold; an empty answer, one that could not be asked for "
    "and one whose judgement cannot be read count 0",
    "elements": "F1 of objects, attributes and relations 5:5:2 against the nearest reference, extracted by rule; "
    "an approximation of CAPTURE",
    "ocr": "ANLS: 1 - edit distance / longer length of the nearest reference, 0 from a distance of one half on",
}


@dataclass(frozen=True, slots=True)
class _Case:
    """An answer and what it is compared with; no references where the question was rejected.

    `language` is the dataset's; `is_foreign` says that the references are in another one.
    """

    index: str
    text: str
    references: tuple[str, ...]
    language: str
    is_foreign: bool


def score_understanding(
    benchmark: Benchmark, questions: Questions, texts: Mapping[str, str], *, judge: Engine | None, cache: Path
) -> Scored:
    """What answers by index are worth; questions without one are left out and counted, rejected ones count 0.

    `judge` is asked about captions alone (metric `caption`) and closed in any case; its answers are kept in the file
    `cache`, so that scoring again asks nothing. Without one, captions are scored by their elements and the result says
    so. Raises UsageError for another metric and for a cache that another process uses, DataError for answers to no
    question, and what stops the judge where it answers nothing more.
    """
    metric = benchmark.metric
    if unknown := texts.keys() - set(questions.indexes):
        raise DataError(f"{questions.path}: there is no question {min(unknown)!r}, {len(unknown)} such predictions")
    if not texts:
        raise DataError(f"{benchmark.name}: no prediction to score")
    if metric not in OWN_METRICS:
        raise UsageError(f"{benchmark.name}: metric {metric!r} is VLMEvalKit's; here are {', '.join(OWN_METRICS)}")
    cases = _cases(questions, texts)
    left_out = {"left_out": len(questions) - len(texts)}
    if metric == "caption" and judge is not None:
        return _judged(cases, left_out, judge, cache)
    if judge is not None:
        asyncio.run(judge.close())
    if metric == "ocr":
        return _read(cases, left_out)
    return _by_elements(cases, left_out, FALLBACK if metric == "caption" else None)


def _cases(questions: Questions, texts: Mapping[str, str]) -> Iterator[_Case]:
    """One at a time, for a page's references may be long."""
    benchmark = questions.benchmark
    for position, index in enumerate(questions.indexes):
        if index in texts:
            references: tuple[str, ...] = ()
            if index not in questions.rejects:
                references = tuple(references_of(questions.row(position), benchmark.metric))
            joined = " ".join(references)
            language = language_of(benchmark.dataset, joined)
            is_foreign = bool(references) and language_of("", joined) != language
            yield _Case(index, texts[index], references, language, is_foreign)


def _read(cases: Iterator[_Case], left_out: Mapping[str, Any]) -> Scored:
    near = {case.index: similarity(case.text, case.references) if case.references else 0.0 for case in cases}
    scores = {index: thresholded(value) for index, value in near.items()}
    details = {"rule": RULES["ocr"], "similarity": 100 * fmean(near.values()), **left_out}
    return _scored(scores, details)


def _by_elements(cases: Iterator[_Case], left_out: Mapping[str, Any], fallback: str | None) -> Scored:
    from sailctl.core.bench.elements import compare, f1

    scores: dict[str, float] = {}
    parts: dict[str, list[float]] = {}
    foreign = 0
    for case in cases:
        foreign += case.is_foreign
        found = [compare(case.text, one, case.language) for one in case.references[:MAX_REFERENCES]]
        best = max(found, key=f1, default={})
        scores[case.index] = f1(best)
        for kind, value in best.items():
            parts.setdefault(kind, []).append(value)
    means = {kind: 100 * fmean(values) for kind, values in sorted(parts.items())}
    return _scored(
        scores, {"rule": RULES["elements"], "f1": means, "foreign_references": foreign, **left_out}, fallback=fallback
    )


def _judged(cases: Iterator[_Case], left_out: Mapping[str, Any], engine: Engine, cache: Path) -> Scored:
    foreign = 0
    judgements: dict[str, Judgement | None] = {}  # in the questions' order; None where there is nothing to judge

    def items() -> Iterator[JudgeItem]:
        nonlocal foreign
        for case in cases:
            foreign += case.is_foreign
            judgements[case.index] = None
            if case.references and case.text.strip():
                yield caption_quality(case.index, case.text, case.references[:MAX_REFERENCES], case.language)

    async def collect() -> dict[str, int]:
        try:
            judge = Judge(engine, cache)
            try:
                async for judgement in judge.ask(items()):
                    judgements[judgement.key] = judgement
                return judge.counts()
            finally:
                judge.close()
        finally:
            await engine.close()

    counts = asyncio.run(collect())
    values: dict[str, dict[str, float]] = {
        index: one.value for index, one in judgements.items() if one is not None and one.value is not None
    }
    scores = {index: quality(values[index]) / 100 if index in values else 0.0 for index in judgements}
    unparsed = tuple(index for index, one in judgements.items() if one is not None and not one.parsed)
    details: dict[str, Any] = {"rule": RULES["judge"], "judge": counts, "foreign_references": foreign, **left_out}
    for name in ("precision", "recall") if values else ():
        details[name] = 10 * fmean(value[name] for value in values.values())  # of those that could be read
    return _scored(scores, details, unparsed=unparsed, judge=engine.model)


def _scored(
    scores: Mapping[str, float],
    details: Mapping[str, Any],
    *,
    unparsed: tuple[str, ...] = (),
    fallback: str | None = None,
    judge: str | None = None,
) -> Scored:
    items = tuple(ItemScore(index, score, index, index not in unparsed) for index, score in scores.items())
    return Scored(100 * fmean(scores.values()), None, items, details, unparsed, fallback, judge)
