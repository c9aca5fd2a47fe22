"""One number per benchmark, and a hit per question, from VLMEvalKit's detailed results.

Its own choice of a headline errs for MME (it picks no sum) and HallusionBench (it picks one of three rates); where it
keeps no verdict per question, the rule is applied here and held against its total. Units are the benchmark's own: MME
of 2800, OCRBench of 1000, all else of 100. Pure functions; the rows come from `scorer_script.py`.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sailctl.core.errors import SailctlError

# MME (arXiv 2306.13394): perception of 2000, cognition of 800; each task is 100 (acc + acc+).
MME_TASKS = {
    *("OCR", "artwork", "celebrity", "color", "count", "existence", "landmark", "position", "posters", "scene"),
    *("code_reasoning", "commonsense_reasoning", "numerical_calculation", "text_translation"),
}
ANLS_THRESHOLD = 0.5  # arXiv 1907.00490
HANDWRITTEN_MATH = "Handwritten Mathematical Expression Recognition"
# What VLMEvalKit notes where no answer could be read: without a judge, after drawing an option by lot, after its tries.
NOT_READ = ("Failed in Prefetch", "Failed to predict, thus randomly", "All 5 retries failed")

Cells = Mapping[str, str]


class ScoringError(SailctlError):
    """VLMEvalKit failed, or what it wrote cannot be what it was asked for."""


@dataclass(frozen=True, slots=True)
class ItemScore:
    """One question: its score from 0 to 1, the unit it is part of, and whether its answer could be read.

    `group` is equal for questions that are judged together: the rotations of a circular question, the pair about one
    picture of MME, the questions about one figure of HallusionBench; elsewhere it is the question's own index.
    """

    index: str
    score: float
    group: str
    parsed: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What was asked (cells of the table and `prediction`, by index) and what `scorer_script.py` wrote of it."""

    questions: Mapping[str, Cells]
    rows: Mapping[str, Mapping[str, Any]]
    table: Any = None
    picked: float | None = None
    rotations: Mapping[str, Mapping[str, Any]] | None = None


Headline = tuple[float, tuple[ItemScore, ...]]


def headline(metric: str, dataset: str, found: Found) -> Headline:
    """The raw score of a benchmark and the score of each question. Raises ScoringError where a verdict is missing."""
    if metric == "judged":
        return _mathvista(found) if dataset.startswith("MathVista") else _mmvet(found)
    return _RULES.get(metric, _kit)(found)


def mmvet_without_judge(questions: Mapping[str, Cells]) -> Headline:
    """MMVet by containment: of the parts of the reference joined by <AND>, the share found in the answer.

    A part with <OR> is found when one of its alternatives is, as whole words, in whatever case. An approximation of
    ours that stands for no published number: a described reference is hardly ever contained (the judge's rule is in
    arXiv 2308.02490).
    """
    items = []
    for index, cells in questions.items():
        answer = _words(cells["prediction"])
        parts = [part.split("<OR>") for part in cells["answer"].split("<AND>")]
        found = [any(_contains(answer, _words(alternative)) for alternative in part) for part in parts]
        items.append(ItemScore(index, fmean(found), index, bool(answer)))
    return _mean(items)


def _accuracy(found: Found) -> Headline:
    """Share of the right options. An option drawn by lot is none."""
    items = []
    for index, row in _each(found, "hit"):
        parsed = not any(note in row.get("log", "") for note in NOT_READ)
        items.append(ItemScore(index, float(row["hit"]) if parsed else 0.0, index, parsed))
    return _mean(items)


def _circular(found: Found) -> Headline:
    """Share of the questions answered right under every rotation of their options (MMBench, arXiv 2307.06281)."""
    rotations = found.rotations or {}
    items = []
    for index, cells in found.questions.items():
        read = rotations.get(index)
        if read is None:
            raise ScoringError(f"VLMEvalKit's results lack question {index}")
        base = str(int(cells.get("g_index") or int(index) % 10**6))
        parsed = bool(read["option"]) or not read["asked"]
        items.append(ItemScore(index, float(read["option"] == cells["answer"]), base, parsed))
    groups = _groups(items)
    for base, members in groups.items():
        hit = all(item.score for item in members)
        kit = found.rows.get(base, {}).get("hit")
        if kit is not None and bool(float(kit)) != hit and not any(rotations[item.index]["guess"] for item in members):
            raise ScoringError(f"question {base}: VLMEvalKit's verdict {kit} is not that of its rotations")
    return 100 * fmean(all(item.score for item in members) for members in groups.values()), tuple(items)


def _mme(found: Found) -> Headline:
    """Sum over the tasks of 100 (accuracy over questions + share of pictures with both right), at most 2800."""
    items = _yes_no(found, lambda cells: f"{cells['category']}|{cells['image_path']}")
    tasks: dict[str, list[list[ItemScore]]] = defaultdict(list)
    for group, members in _groups(items).items():
        if len(members) != 2:
            raise ScoringError(f"MME asks two questions about a picture: {group} has {len(members)}")
        tasks[group.partition("|")[0]].append(members)
    total = 0.0
    for task, pairs in tasks.items():
        if task in MME_TASKS:
            total += 100 * fmean(item.score for pair in pairs for item in pair)
            total += 100 * fmean(all(item.score for item in pair) for pair in pairs)
    return total, tuple(items)


def _hallusion(found: Found) -> Headline:
    """Mean of three rates: questions, figures and questions over all their figures right (arXiv 2310.14566)."""
    items = _yes_no(found, lambda cells: _hallusion_key(cells, 4))
    scores = {item.index: item.score for item in items}
    by_question: dict[str, list[float]] = defaultdict(list)
    for index, cells in found.questions.items():
        by_question[_hallusion_key(cells, 5)].append(scores[index])
    rates = (
        fmean(scores.values()),
        fmean(all(item.score for item in members) for members in _groups(items).values()),
        fmean(all(members) for members in by_question.values()),
    )
    return 100 * fmean(rates), tuple(items)


def _hallusion_key(cells: Cells, place: int) -> str:
    parts = cells["index"].split("_")  # VD_category_n_set_figure_question
    if len(parts) < 6:
        raise ScoringError(f"HallusionBench's index is VD_category_n_set_figure_question, not {cells['index']!r}")
    return f"{cells['l2-category']}_{parts[3]}_{parts[place]}"


def _f1(found: Found) -> Headline:
    """F1 of "yes" (POPE, arXiv 2305.10355); an answer that is neither yes nor no claims nothing."""
    items = _yes_no(found, lambda cells: cells["index"])
    hits = misses = alarms = 0
    # a row with several categories stands for as many rows in VLMEvalKit's total
    for index, cells in found.questions.items():
        weight = len(cells.get("category", "").split(","))
        said, true = found.rows[index]["extracted"] == "Yes", cells["answer"] == "Yes"
        hits += weight * (said and true)
        misses += weight * (true and not said)
        alarms += weight * (said and not true)
    return (100 * 2 * hits / (2 * hits + misses + alarms) if hits else 0.0), tuple(items)


def _yes_no(found: Found, group: Callable[[Cells], str]) -> list[ItemScore]:
    return [
        ItemScore(index, float(row["score"] == "True"), group(found.questions[index]), row["extracted"] != "Unknown")
        for index, row in _each(found, "extracted")
    ]


def _anls(found: Found) -> Headline:
    """Average normalised Levenshtein similarity (arXiv 1907.00490); VLMEvalKit keeps distances."""
    scores = {index: 1 - min(_matches(row)) for index, row in _each(found, "eval_match")}
    return _mean(ItemScore(i, 0.0 if s < ANLS_THRESHOLD else s, i, True) for i, s in scores.items())


def _best_match(found: Found) -> Headline:
    """Share of the answers that match one of the references (ChartQA's relaxed accuracy, exact match)."""
    return _mean(ItemScore(i, max(_matches(row)), i, True) for i, row in _each(found, "eval_match"))


def _mean_match(found: Found) -> Headline:
    """VQA score: over each left-out reference, a third for every other one that matches, at most 1 (VQA v2)."""
    return _mean(ItemScore(i, fmean(_matches(row)), i, True) for i, row in _each(found, "eval_match"))


def _matches(row: Mapping[str, Any]) -> list[float]:
    return [float(value) for value in ast.literal_eval(row["eval_match"])]


def _ocrbench(found: Found) -> Headline:
    """Answers that contain a reference, of 1000 (arXiv 2305.07895); VLMEvalKit keeps totals only."""
    items = []
    for index, cells in found.questions.items():
        is_math = cells["category"] == HANDWRITTEN_MATH
        references = [_ocr_text(str(text), is_math) for text in ast.literal_eval(cells["answer"])]
        answer = _ocr_text(cells["prediction"], is_math)
        items.append(ItemScore(index, float(any(text in answer for text in references)), index, True))
    hits = sum(item.score for item in items)
    if found.table is not None and found.table["Final Score"] != hits:
        raise ScoringError(
            f"OCRBench: {hits:g} answers contain a reference, VLMEvalKit says {found.table['Final Score']}"
        )
    return 1000 * hits / len(items), tuple(items)


def _ocr_text(text: str, is_math: bool) -> str:
    text = text.strip().replace("\n", " ")
    return text.replace(" ", "") if is_math else text.lower()


def _mathvista(found: Found) -> Headline:
    """Share of right answers (arXiv 2310.02255), as extracted by a judge or without one."""
    items = []
    for index, row in _each(found, "hit"):
        parsed = bool(row["readable"]) and not any(note in row["log"] for note in NOT_READ)
        items.append(ItemScore(index, float(row["hit"]) if parsed else 0.0, index, parsed))
    return _mean(items)


def _mmvet(found: Found) -> Headline:
    """Mean of a judge's scores from 0 to 1 (arXiv 2308.02490)."""
    items = []
    for index, row in _each(found, "score"):
        parsed = not any(note in row["log"] for note in NOT_READ)
        items.append(ItemScore(index, float(row["score"]) if parsed else 0.0, index, parsed))
    return _mean(items)


def _kit(found: Found) -> Headline:
    """The number VLMEvalKit picks, with whatever verdicts it keeps."""
    if found.picked is None:
        made = (
            "no result, as where it wants a judge" if found.table is None else f"no single headline of {found.table!r}"
        )
        raise ScoringError(f"VLMEvalKit gives {made}; give the benchmark a metric or a judge")
    items = []
    for index, row in found.rows.items():
        text = next((row[name] for name in ("hit", "score", "eval_score", "correct", "is_correct") if name in row), "")
        value = {"True": 1.0, "False": 0.0}.get(text)
        if value is None:
            try:
                value = float(text)
            except ValueError:
                continue
        parsed = not any(note in row.get("log", "") for note in NOT_READ)
        items.append(ItemScore(index, value, index, parsed))
    is_share = all(0 <= item.score <= 1 for item in items)  # some are marks of ten
    return found.picked, tuple(items) if is_share else ()


_RULES: dict[str, Callable[[Found], Headline]] = {
    "accuracy": _accuracy,
    "circular_accuracy": _circular,
    "mme": _mme,
    "hallusion": _hallusion,
    "f1": _f1,
    "anls": _anls,
    "relaxed_accuracy": _best_match,
    "exact_match": _best_match,
    "vqa_score": _mean_match,
    "ocrbench": _ocrbench,
}


def _each(found: Found, column: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Every question's row of the results, in the table's order."""
    for index in found.questions:
        row = found.rows.get(index)
        if row is None or column not in row:
            raise ScoringError(f"VLMEvalKit's results lack {column} for question {index}")
        yield index, row


def _groups(items: Iterable[ItemScore]) -> dict[str, list[ItemScore]]:
    groups: dict[str, list[ItemScore]] = defaultdict(list)
    for item in items:
        groups[item.group].append(item)
    return groups


def _mean(items: Iterable[ItemScore]) -> Headline:
    scored = tuple(items)
    return 100 * fmean(item.score for item in scored), scored


def _words(text: str) -> str:
    return " ".join(text.lower().split())


def _contains(answer: str, reference: str) -> bool:
    return bool(reference) and re.search(rf"(?<!\w){re.escape(reference)}(?!\w)", answer) is not None
