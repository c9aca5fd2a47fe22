"""Composed metrics against sums done by hand, from rows as samples.jsonl holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sailctl.core.bench.clusters import score
from sailctl.core.bench.headline import Found, headline
from sailctl.core.bench.statistics import wilson
from sailctl.core.bench.tally import ITEMS, tally

Rows = list[dict[str, Any]]


def row(index: Any, hit: float, **more: Any) -> dict[str, Any]:
    return {"index": index, "score": hit, **more}


def test_accuracy_and_graded_means() -> None:
    rows = [row(1, 1.0, group="a"), row(2, 0.0, group="a"), row(3, 0.5, group="b")]
    made, what = tally("anls", rows)
    assert (made.value, made.n, len(made.rows_GK), what) == (0.5, 3, 2, "anls")
    assert not made.is_proportion
    assert tally("accuracy", [row(1, 1.0), row(2, 0.0)])[0].is_proportion


def test_circular_counts_questions_right_under_every_rotation() -> None:
    rows = [row(1, 1.0, group="1"), row(1000001, 1.0, group="1"), row(2, 1.0, group="2"), row(1000002, 0.0, group="2")]
    made, _ = tally("circular_accuracy", [*rows, row(3, 1.0)])
    assert made.value == pytest.approx(2 / 3) and made.n == 3
    assert made.is_proportion  # of three questions, not of five rows
    assert tally("circular_accuracy", [{**one, "cluster": "picture"} for one in rows])[0].rows_GK.tolist() == [[1, 2]]


def test_circular_n_is_of_questions_in_wilson() -> None:
    rows = [row(k + 1000000 * turn, float(k < 30), group=str(k)) for k in range(40) for turn in range(4)]
    made, _ = tally("circular_accuracy", rows)
    assert score(made).ci95 == wilson(30, 40)


def test_f1_by_hand() -> None:
    rows = [
        row(1, 1.0, answer="yes"),  # true positive
        row(2, 1.0, answer="Yes"),
        row(3, 0.0, answer="yes"),  # false negative
        row(4, 0.0, answer="no"),  # false positive
        row(5, 1.0, answer="no"),
        row(6, 0.0, answer="no", parsed=False),  # neither yes nor no: no false positive
        row(7, 0.0, answer="yes", parsed=False),  # and a false negative here
    ]
    assert tally("f1", [row(1, 1.0, answer="Yes", category="random,popular,adversarial")])[0].rows_GK.tolist() == [
        [3, 0, 0]
    ]
    made, what = tally("f1", rows)
    assert (what, made.value) == ("f1", pytest.approx(2 * 2 / (2 * 2 + 1 + 2)))
    assert tally("f1", [row(1, 1.0)])[1] == ITEMS
    assert tally("f1", [row(1, 1.0, answer="no")])[0].value == 0.0


def test_mme_by_hand() -> None:
    rows = [
        row(9, 1.0, category="not a task", group="x"),
        row(0, 1.0, category="OCR", group="x"), row(1, 1.0, category="OCR", group="x"),
        row(2, 1.0, category="OCR", group="y"), row(3, 0.0, category="OCR", group="y"),
        row(4, 1.0, category="count", group="x"), row(5, 0.0, category="count", group="x"),
    ]  # fmt: skip
    made, what = tally("mme", rows, 2800)
    # OCR: 100 (3/4 + 1/2), count: 100 (1/2 + 0); a picture of one name in two tasks is two pictures
    assert what == "mme" and made.value * 2800 == pytest.approx(125 + 50)
    assert made.strata_G is not None and made.strata_G.tolist() == [0, 0, 1]
    assert tally("mme", [row(0, 1.0)], 2800)[1] == ITEMS


def test_hallusion_by_hand() -> None:
    hits = {
        "VD_illusion_0_0_0_0": 1, "VD_illusion_0_0_0_1": 0,  # figure 0: wrong
        "VD_illusion_1_0_1_0": 1, "VD_illusion_1_0_1_1": 1,  # figure 1: right; question 0 right, question 1 wrong
        "VS_chart_1_0_1_0": 1,  # another set: its figure and its question right
        "VD_math_1_0_1_0": 0,  # another set: both wrong
    }  # fmt: skip
    groups = ["_".join([index.split("_")[1], *index.split("_")[3:5]]) for index in hits]
    rows = [row(index, float(hit), group=of) for (index, hit), of in zip(hits.items(), groups, strict=True)]
    made, what = tally("hallusion", rows)
    assert groups[0] == "illusion_0_0"
    assert what == "hallusion" and len(made.rows_GK) == 3
    assert made.value == pytest.approx((4 / 6 + 2 / 4 + 2 / 4) / 3)
    assert tally("hallusion", [row("7", 1.0)])[1] == ITEMS


def test_no_rows() -> None:
    for metric in ("accuracy", "circular_accuracy", "f1", "mme", "hallusion"):
        made, _ = tally(metric, [], 2800)
        assert score(made).n == 0 and score(made).ci95 == (0.0, 1.0)


def by_headline(metric: str, cells: dict[str, dict[str, str]], rng: np.random.Generator) -> tuple[float, Rows]:
    """The raw score that `headline.py` makes of random verdicts, and the rows a run would keep of them."""
    said = {index: str(rng.choice(["Yes", "No", "Unknown"], p=[0.45, 0.45, 0.1])) for index in cells}
    verdicts = {
        index: {"extracted": said[index], "score": str(said[index] == cells[index]["answer"])} for index in cells
    }
    raw, items = headline(metric, "", Found(cells, verdicts))
    kept = [
        {"index": item.index, "group": item.group, "score": item.score, "parsed": item.parsed}
        | {key: cells[item.index][key] for key in ("answer", "category") if key in cells[item.index]}
        for item in items
    ]
    return raw, kept


@pytest.mark.parametrize("seed", range(5))
def test_the_sums_are_those_of_the_headline(seed: int) -> None:
    rng = np.random.default_rng(seed)
    answers = iter(rng.choice(["Yes", "No"], size=2000).tolist())
    samplings = ("random", "random,popular", "random,popular,adversarial")
    pope = {str(k): {"index": str(k), "answer": next(answers), "category": samplings[k % 3]} for k in range(60)}
    mme = {
        f"{task}{k}": {"index": f"{task}{k}", "answer": next(answers), "category": task, "image_path": f"{k // 2}.jpg"}
        for task in ("OCR", "count", "posters", "no such task")
        for k in range(20)
    }
    figures = {
        (index := f"VD_math_{min(f, 1)}_{s}_{f}_{q}"): {"index": index, "answer": next(answers), "l2-category": kind}
        for s, kind in enumerate(["math", "math", "chart", "ocr"])
        for f in range(3)
        for q in range(2 + s % 2)
    }
    for metric, cells, full_marks in (("f1", pope, 100), ("mme", mme, 2800), ("hallusion", figures, 100)):
        raw, kept = by_headline(metric, cells, rng)
        made, what = tally(metric, kept, full_marks)
        assert what == metric and raw > 0
        assert made.value * full_marks == pytest.approx(raw)
