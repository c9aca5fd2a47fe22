"""What judges say, read or refused; never guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sailctl.core.engines.parse import json_object, letter, preference, score, scores, yes_no

NAMES = {"precision": ("精确率", "准确率"), "recall": ("召回率", "召回")}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("7.5", 7.5),
        ("**8**", 8),
        ("8.", 8),
        ("Score: 7/10", 7),
        ("score = 7", 7),
        ("The caption misses two cups.\n\n**Score: 7 / 10**", 7),
        ("Overall rating: **6** out of 10.", 6),
        ("I would give it 9 out of 10.", 9),
        ("Score (1-10): 8", 8),
        ("On a scale of 1 to 10, Score: 8", 8),
        ('{"score": 8}', 8),
        ('```json\n{"reason": "3 cups are missing", "score": "8"}\n```', 8),
        ("There are 3 dogs and 12 cups.\nScore: 10", 10),
        ("评分：8分", 8),
        ("评分:8分", 8),
        ("我给８分，满分１０分。", 8),
        ("得分为 **9** 分", 9),
        ("\\boxed{7}", 7),
        ("<think>Maybe score: 3? No.</think>\nScore: 5", 5),
        ("Score: 7. I repeat: 7/10.", 7),
        # unclear, out of range, another scale, or nothing at all
        ("Score: 7 ... on second thought, Score: 8", None),
        ("7/10 for colours, 6/10 for shapes", None),
        ("Score: 7-8", None),
        ("Score: 7 or 8", None),
        ("7 to 8 out of 10", None),
        ("评分：7到8分", None),
        ("Score: 11", None),
        ("Score: 0", None),
        ("Score: -3", None),
        ("Score: 80%", None),
        ("Score: 4/5", None),
        ("4/5", None),
        ("Score 1: 8", None),
        ("Score: 7,5", None),
        ("There are 3 dogs.", None),
        ("A good caption", None),
        ("满分10分", None),
        ("Maximum score: 10", None),
        ("<think>Score: 7", None),
        ("", None),
    ],
)
def test_score(text: str, value: float | None) -> None:
    assert score(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("Score: 4/5", 4), ("4", 4), ("4分", 4), ("Score: 6", None), ("7/10", None), ("6", None)]
)
def test_score_on_another_scale(text: str, value: float | None) -> None:
    assert score(text, 1, 5) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"precision": 8, "recall": 6}', (8, 6)),
        ('Here you are:\n```json\n{"recall": 6, "precision": 8, "why": "{…}"}\n```', (8, 6)),
        ('{"precision": "8/10", "recall": "6"}', (8, 6)),
        ("{'precision': 8, 'recall': 6}", (8, 6)),
        ("Precision: 8/10\nRecall: 6/10", (8, 6)),
        ("**Precision**: 8\n**Recall**: 6.5", (8, 6.5)),
        ("精确率：8分，召回率：6分", (8, 6)),
        ('{"precision": 8, "recall": 6} and again {"precision": 8, "recall": 6}', (8, 6)),
        ('{"precision": 8, "recall": 6} or {"precision": 8, "recall": 7}', None),
        ('{"precision": 8, "precision": 9, "recall": 6}', None),
        ('{"precision": 8}', None),
        ('{"precision": 8, "recall": 60}', None),
        ('{"precision": true, "recall": 6}', None),
        ('{"precision": null, "recall": 6}', None),
        ('{"precision": NaN, "recall": 6}', None),
        ("Precision: 8/10", None),
        ("Precision: 8, recall: 6. Precision: 7.", None),
        ("8 and 6", None),
    ],
)
def test_scores(text: str, value: tuple[float, float] | None) -> None:
    assert scores(text, NAMES) == (None if value is None else {"precision": value[0], "recall": value[1]})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Yes", True),
        ("no.", False),
        ("**Yes**, the caption names it.", True),
        ("No, there is no cup.", False),
        ("The cup is red.\nAnswer: yes", True),
        ("There is no text in it.\n\nFinal answer: **No**", False),
        ('{"answer": "yes"}', True),
        ("I see it.\nYes", True),
        ("是", True),
        ("是的，图中有一只猫。", True),
        ("否", False),
        ("不是。", False),
        ("答案：否", False),
        ("Yes and no", None),
        ("Yes/No", None),
        ("yes or no", None),
        ("Yes. On reflection: Answer: no", None),
        ("是否", None),
        ("是或否", None),
        ("There is no cup.", None),
        ("Nobody knows", None),
        ("Yesterday it rained", None),
        ("对于这张图", None),
        ("", None),
    ],
)
def test_yes_no(text: str, value: bool | None) -> None:
    assert yes_no(text) is value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("**B**", "B"),
        ("B. a red car", "B"),
        ("B) a red car", "B"),
        ("Answer: C", "C"),
        ("The answer is (D).", "D"),
        ("The correct option is E because it is red.", "E"),
        ("It is neither A nor the like.\nAnswer: F", "F"),
        ("\\boxed{B}", "B"),
        ("答案：B", "B"),
        ("故选B。", "B"),
        ("应选择 C", "C"),
        ("<think>A or B?</think>B", "B"),
        ("A and B", None),
        ("Answer: A and B", None),
        ("Answer: A, B", None),
        ("(A), (B)", None),
        ("AB", None),
        ("Answer: A\nAnswer: B", None),
        ("A cat is on the mat", None),
        ("Answer: A cat", None),
        ("G", None),
        ("b", None),
        ("", None),
    ],
)
def test_letter(text: str, value: str | None) -> None:
    assert letter(text) == value


def test_letter_of_fewer_options() -> None:
    assert letter("Answer: D", "ABC") is None and letter("Answer: C", "ABC") == "C"


def test_json_object() -> None:
    assert json_object('x {"a": 1} y {"b": {"a": 2}, "c": []} z', ["b"]) == {"b": {"a": 2}, "c": []}
    assert json_object("{" * 5000, ["a"]) is None
    assert json_object('{"a":' * 3000, ["a"]) is None
    assert json_object('[{"a": 1}]', ["a"]) == {"a": 1}


@given(st.text(alphabet='score:7/10 8分{}"-yesnoAB是否,.\n*<think>', max_size=60))
def test_no_text_is_too_odd(text: str) -> None:
    value = score(text)
    assert value is None or 1 <= value <= 10
    assert yes_no(text) in (None, True, False)
    assert letter(text) in (None, *"ABCDEF")
    scores(text, NAMES)
    json_object(text, ["a"])


@given(st.integers(1, 10), st.sampled_from(["Score: {}", "{}/10", "{}分", "**{}**", '{{"score": {}}}', "评分：{}"]))
def test_every_score_is_read_in_every_form(value: int, form: str) -> None:
    assert score(form.format(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"better": "1"}', "first"),
        ('{"better": 2}', "second"),
        ('```json\n{"better": "same", "why": "both name the dog"}\n```', "same"),
        ('{"better": "Caption 2"}', "second"),
        ("1", "first"),
        ("Tie.", "same"),
        ("1 > 2", "first"),
        ("Lose (2 > 1)", "second"),
        ("1 < 2", "second"),
        ("GSB: 1 = 2", "same"),
        ("**Caption 1** is clearly better, for it names the cup.", "first"),
        ("The colours are right in both.\nBetter: 2", "second"),
        ("第二段更好", "second"),
        ("描述1明显更好。", "first"),
        ("相当", "same"),
        ("两者相当", "same"),
        ("<think>1 > 2? no.</think>2 > 1", "second"),
        # unclear, contradicting, or something else
        ('{"better": "1"} or {"better": "2"}', None),
        ('{"better": true}', None),
        ('{"better": "both"}', None),
        ("1 > 2, or rather 2 > 1", None),
        ("1 > 1", None),
        ("Caption 1 is better in colour, caption 2 is better in shape.", None),
        ("Better: 1.5", None),
        ("Both are good.", None),
        ("12 > 2", None),
        ("3", None),
        ("", None),
    ],
)
def test_preference(text: str, value: str | None) -> None:
    assert preference(text) == value


@given(st.text(alphabet='{"better":12same<>= 更好描述一二段.\n', max_size=40))
def test_no_text_is_too_odd_for_a_preference(text: str) -> None:
    assert preference(text) in (None, "first", "second", "same")
