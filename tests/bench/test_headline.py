"""Headlines of rows written by hand: what is refused, and the judge-free approximation of MMVet."""

from __future__ import annotations

from typing import Any

import pytest

from sailctl.core.bench.headline import Found, ScoringError, headline, mmvet_without_judge


def cells(index: str, **more: str) -> dict[str, str]:
    return {"index": index, "question": "?", "answer": "Yes", "prediction": "Yes", **more}


def yes(extracted: str = "Yes", answer: str = "Yes") -> dict[str, str]:
    return {"extracted": extracted, "score": str(extracted == answer)}


def test_a_verdict_that_is_missing_is_not_made_up() -> None:
    asked = {"1": cells("1"), "2": cells("2")}
    with pytest.raises(ScoringError, match="lack hit for question 2"):
        headline("accuracy", "X", Found(asked, {"1": {"hit": "1", "log": ""}}))
    with pytest.raises(ScoringError, match="lack question 2"):
        headline(
            "circular_accuracy", "X", Found(asked, {}, rotations={"1": {"option": "A", "guess": False, "asked": True}})
        )


def test_mme_needs_pairs() -> None:
    one = cells("1", category="OCR", image_path="a.jpg")
    with pytest.raises(ScoringError, match=r"OCR\|a\.jpg has 1"):
        headline("mme", "MME", Found({"1": one}, {"1": yes()}))


def test_mme_leaves_out_tasks_it_does_not_have() -> None:
    asked = {
        str(n): cells(str(n), category=task, image_path="a.jpg") for n, task in enumerate(["OCR", "OCR", "x", "x"])
    }
    raw, items = headline("mme", "MME", Found(asked, {index: yes() for index in asked}))
    assert raw == 200 and len(items) == 4


def test_hallusions_index_has_six_parts() -> None:
    asked = {"7": cells("7", **{"l2-category": "chart"})}
    with pytest.raises(ScoringError, match="VD_category_n_set_figure_question, not '7'"):
        headline("hallusion", "HallusionBench", Found(asked, {"7": yes()}))


def test_totals_that_disagree_are_told() -> None:
    asked = {"1": cells("1", category="Digit String Recognition", answer="['12']", prediction="12")}
    with pytest.raises(ScoringError, match="OCRBench: 1 answers contain a reference, VLMEvalKit says 0"):
        headline("ocrbench", "OCRBench", Found(asked, {}, table={"Final Score": 0}))
    rotations = {"1": {"option": "A", "guess": False, "asked": True}}
    with pytest.raises(ScoringError, match="question 1: VLMEvalKit's verdict 1"):
        headline(
            "circular_accuracy", "X", Found({"1": cells("1", answer="B")}, {"1": {"hit": "1"}}, rotations=rotations)
        )


@pytest.mark.parametrize("kit_hit", ["0", "1"])
def test_an_option_drawn_by_lot_is_no_hit(kit_hit: str) -> None:
    """Whatever the lot said, which the kit's verdict follows."""
    rotations = {
        "1": {"option": "B", "guess": False, "asked": True},
        "1000001": {"option": "", "guess": True, "asked": True},
    }
    asked = {"1": cells("1", answer="B"), "1000001": cells("1000001", answer="A")}
    raw, items = headline("circular_accuracy", "X", Found(asked, {"1": {"hit": kit_hit}}, rotations=rotations))
    assert raw == 0 and [item.parsed for item in items] == [True, False]
    log = "Match Log: Failed to predict, thus randomly generate one. . "
    raw, items = headline("accuracy", "X", Found({"1": cells("1")}, {"1": {"hit": kit_hit, "log": log}}))
    assert raw == 0 and not items[0].parsed


def test_no_yes_at_all_is_no_f1() -> None:
    asked = {"1": cells("1", category="random"), "2": cells("2", category="random", answer="No")}
    raw, _ = headline("f1", "POPE", Found(asked, {"1": yes("No"), "2": yes("No", "No")}))
    assert raw == 0


def test_whatever_the_kit_picks() -> None:
    rows: dict[str, Any] = {"1": {"score": "True"}, "2": {"score": "0.25"}, "3": {"score": "none"}}
    raw, items = headline("kit", "Any", Found({}, rows, picked=61.5))
    assert raw == 61.5 and [(item.index, item.score) for item in items] == [("1", 1.0), ("2", 0.25)]
    assert headline("kit", "Any", Found({}, rows | {"4": {"score": "7"}}, picked=61.5)) == (61.5, ())
    with pytest.raises(ScoringError, match=r"no single headline of .*a metric or a judge"):
        headline("kit", "Any", Found({}, rows, table=[{"a": 1}]))
    with pytest.raises(ScoringError, match="no result, as where it wants a judge"):
        headline("kit", "Any", Found({}, rows))


@pytest.mark.parametrize(
    ("reference", "said", "worth"),
    [
        ("seven", "It is SEVEN.", 1),
        ("seven", "seventeen", 0),
        ("-1 <AND> -5", "x = -5", 0.5),
        ("a <AND> b <OR> c", "a and c", 1),
        ("oak tree", "an  oak\ntree", 1),
        ("5%", "15%", 0),
        ("(1, 2)", "at (1, 2)", 1),
    ],
)
def test_mmvet_by_containment(reference: str, said: str, worth: float) -> None:
    raw, items = mmvet_without_judge({"1": cells("1", answer=reference, prediction=said)})
    assert raw == 100 * worth and items[0].score == worth
