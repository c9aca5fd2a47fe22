"""What the tasks make of answers: pairs out of many forms, conversations to train on, and nothing out of nonsense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sailctl.core.caption.tasks import OCR_QUESTIONS, Unparsable, clean, parse_pairs, parse_tasks, turns_of
from sailctl.core.errors import UsageError
from sailctl.core.records import Turn

ONE = [("What is it?", "A cat.")]
TWO = [*ONE, ("How many?", "One,\nI think.")]


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("Q: What is it?\nA: A cat.", ONE),
        ("Sure!\n\nQ: What is it?\nA: A cat.\n\nQ: How many?\nA: One,\nI think.\n", TWO),
        ("**Q1:** What is it?\n**A1:** A cat.", ONE),
        ("1. Question: What is it?\n   Answer: A cat.", ONE),
        ("- q: What is it?\n- a: A cat.\nQ: and no answer?", ONE),
        ("\u95ee\uff1aWhat is it?\n\u7b54\uff1aA cat.", ONE),
        ("\u95ee\u98981\uff1aWhat is it?\n\u7b54\u68481\uff1aA cat.", ONE),
        ('```json\n[{"question": "What is it?", "answer": "A cat."}, {"question": "x"}]\n```', ONE),
        ('{"pairs": [{"Q": "What is it?", "A": "A cat."}]}', ONE),
        ("Q: <image> What is it?\nA: A cat.", ONE),
        ("Q: Which [1]?\nA: [2]", [("Which [1]?", "[2]")]),
        ("A: an answer first\nQ: What is it?\nA: A cat.", ONE),
        ("I cannot help with that.", []),
        ("Q:\nA: nothing asked", []),
        ("[1, 2", []),
        ("", []),
    ],
)
def test_pairs(text: str, pairs: list[tuple[str, str]]) -> None:
    assert parse_pairs(text) == pairs


@given(st.text(alphabet=st.sampled_from('QA:qa[]{}"\\,\n x1*-'), max_size=60))
def test_no_text_breaks_the_parser(text: str) -> None:
    assert all(question.strip() and answer.strip() for question, answer in parse_pairs(text))


def test_conversations() -> None:
    assert turns_of("detailed", "en", "text", "0" * 32, 1) is None
    assert turns_of("recaption", "zh", "text", "0" * 32, 1) is None
    asked = {turns_of("ocr", "zh", "ABC", f"{number:016x}" * 2, 2) for number in range(16)}
    assert {turns[0].text for turns in asked if turns} == {f"<image>\n<image>\n{text}" for text in OCR_QUESTIONS["zh"]}
    assert {turns[1] for turns in asked if turns} == {Turn("assistant", "ABC")}
    assert turns_of("qa", "en", "Q: a?\nA: b.\nQ: c?\nA: d.", "0" * 32, 1) == (
        Turn("user", "<image>\na?"),
        Turn("assistant", "b."),
        Turn("user", "c?"),
        Turn("assistant", "d."),
    )
    with pytest.raises(Unparsable, match="no question with an answer"):
        turns_of("qa", "en", "no", "0" * 32, 1)


def test_names_of_tasks() -> None:
    assert parse_tasks(["qa, detailed", "ocr"]) == ("detailed", "ocr", "qa")
    assert parse_tasks(["ocr", "ocr"]) == ("ocr",)
    with pytest.raises(UsageError, match="--task dense: unknown; known: detailed, recaption, ocr, qa"):
        parse_tasks(["dense"])
    with pytest.raises(UsageError, match="--task is empty"):
        parse_tasks([","])


def test_text_is_kept_clean() -> None:
    assert clean(" a\ud800b\0 ") == "a?b"
