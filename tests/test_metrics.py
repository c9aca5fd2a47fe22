"""Metrics against hand-computed cases, the textbook recurrence and their stated properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sailctl.core.metrics import anls, edit_distance, element_f1, exact_match, normalise, similarity

short = st.text(alphabet="abcé 中.", max_size=12)


def textbook_distance(left: str, right: str) -> int:
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


@given(short, short)
def test_edit_distance_is_the_textbook_recurrence(left: str, right: str) -> None:
    assert edit_distance(left, right) == textbook_distance(left, right)
    assert edit_distance(left, right) == edit_distance(right, left)


def test_edit_distance_of_a_paragraph_longer_than_a_machine_word() -> None:
    left = "the quick brown fox jumps over the lazy dog " * 5
    right = left.replace("quick", "slow").replace("z", "")
    assert edit_distance(left, right) == textbook_distance(left, right) > 20


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("kitten", ["sitting"], 1 - 3 / 7),  # NL = 3/7 < 0.5
        ("abcd", ["abxy"], 0.0),  # NL = 2/4: not below the threshold
        ("abcde", ["abcxy"], 0.6),  # NL = 2/5
        ("Hello  World ", ["hello world"], 1.0),  # case and white space
        ("abc", ["xyz", "abd"], 1 - 1 / 3),  # the nearest reference counts
        ("", ["abc"], 0.0),
        ("", [""], 1.0),
    ],
)
def test_anls_by_hand(prediction: str, references: list[str], expected: float) -> None:
    assert anls(prediction, references) == pytest.approx(expected)


def test_similarity_has_no_threshold() -> None:
    assert similarity("abcd", ["abxy"]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="at least one reference"):
        similarity("a", [])


@given(short, st.lists(short, min_size=1, max_size=3))
def test_anls_is_bounded_and_right_answers_score_one(prediction: str, references: list[str]) -> None:
    assert 0.0 <= anls(prediction, references) <= similarity(prediction, references) <= 1.0
    assert anls(references[0], references) == 1.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('  The "Red circle". ', "red circle"),
        ("A", "a"),
        ("an apple", "apple"),
        ("Three", "3"),
        ("3.0", "3"),
        ("3.50", "3.5"),
        ("1,234", "1234"),
        ("-7.", "-7"),
        ("−7", "-7"),
        (".5", ".5"),
        ("+4", "4"),
        ("１２", "12"),
        ("two  red circles!", "2 red circles"),
        ("«no»", "«no»"),
    ],
)
def test_normalise_by_hand(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text(max_size=20))
def test_normalise_is_idempotent(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_exact_match() -> None:
    assert exact_match("The answer", ["answer"]) == 1.0
    assert exact_match("three", ["4", "3"]) == 1.0
    assert exact_match("33", ["3"]) == 0.0
    assert exact_match("", ["3"]) == 0.0


UNIVERSE = [f"{colour} {shape}" for colour in ("red", "blue", "green") for shape in ("circle", "square")]


def test_element_f1_by_hand() -> None:
    shown = ["red circle", "blue square"]
    assert element_f1("A Red circle above a blue square.", shown, UNIVERSE) == 1.0
    assert element_f1("A red circle.", shown, UNIVERSE) == pytest.approx(2 / 3)  # P 1, R 1/2
    assert element_f1("A red circle and a green circle.", shown, UNIVERSE) == pytest.approx(0.5)  # P 1/2, R 1/2
    assert element_f1(" ".join(UNIVERSE), shown, UNIVERSE) == pytest.approx(0.5)  # P 1/3, R 1: listing all
    assert element_f1("A circle that is red.", shown, UNIVERSE) == 0.0  # words must be adjacent
    assert element_f1("A bored circle", shown, UNIVERSE) == 0.0  # and whole
    assert element_f1("red circle, blue square", shown, [*UNIVERSE, "circle"]) == 1.0  # a part is no extra claim
    assert element_f1("nothing here", [], UNIVERSE) == 1.0
    assert element_f1("a red circle", [], UNIVERSE) == 0.0


@given(st.text(max_size=40), st.sets(st.sampled_from(UNIVERSE)))
def test_element_f1_is_bounded_and_a_full_list_is_right(caption: str, shown: set[str]) -> None:
    assert 0.0 <= element_f1(caption, shown, UNIVERSE) <= 1.0
    assert element_f1(", ".join(sorted(shown)), shown, UNIVERSE) == 1.0
