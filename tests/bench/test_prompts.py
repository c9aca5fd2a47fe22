"""Prompt rules: what each asks, in which language, and where pictures stand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sailctl.core.bench.prompts import RULES, WORDS, Prompt, language_of, place_images, prompt
from sailctl.core.errors import UsageError

ROW = {"question": "What colour is it?", "hint": "Look closely.", "A": "red", "B": "blue", "C": "", "D": "nan"}
LETTER, SHORT, YES_NO = (WORDS["en"][name] for name in ("letter", "short", "yes_no"))


def asked(rule: str, row: dict[str, str], dataset: str = "MMStar", images: int = 1) -> str:
    return prompt(rule, dataset, row, images).text


def test_a_choice_ends_by_asking_for_the_letter() -> None:
    assert asked("mcq", ROW) == f"Look closely.\nWhat colour is it?\nA. red\nB. blue\n{LETTER}"
    # MMMU has questions without options among the others
    assert asked("mcq", {"question": "How many?", "A": "", "B": ""}) == f"How many?\n{SHORT}"


@pytest.mark.parametrize(
    ("rule", "question", "expected"),
    [
        ("short", "What is the total?", f"What is the total?\n{SHORT}"),
        ("ocrbench", "what is written in the image?", f"what is written in the image?\n{SHORT}"),
        ("bare", "Is there a dog?", "Is there a dog?"),
        ("yes_no", "Is the first line longer?", f"Is the first line longer?\n{YES_NO}"),
        ("mme", "Is this a museum? Please answer yes or no.", "Is this a museum? Please answer yes or no."),
        ("mme", "Is this a museum?", f"Is this a museum?\n{YES_NO}"),
        ("caption", "", WORDS["en"]["caption"]),
        ("ocr", "Which word is it?", "Which word is it?"),
    ],
)
def test_the_other_rules(rule: str, question: str, expected: str) -> None:
    assert asked(rule, {"question": question, "A": "not an option here"}) == expected


def test_chinese_is_asked_in_chinese() -> None:
    row = {"question": "这是什么颜色？", "A": "红", "B": "蓝"}
    assert asked("mcq", row, "CCBench") == f"这是什么颜色？\nA. 红\nB. 蓝\n{WORDS['zh']['letter']}"
    english = {"question": "What colour?", "A": "red", "B": "blue"}
    assert asked("mcq", english, "MMBench_DEV_CN_V11").endswith(WORDS["zh"]["letter"])
    assert language_of("OCRBench", "What does 出口 mean on this sign?") == "en"
    assert WORDS["en"].keys() == WORDS["zh"].keys()
    assert all(rule.closing in {"", *WORDS["en"]} and rule.opening in {"", *WORDS["en"]} for rule in RULES.values())


def test_an_unknown_rule_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="prompt rule 'yesno' does not exist; did you mean 'yes_no'"):
        prompt("yesno", "POPE", ROW, 1)


@pytest.mark.parametrize(
    ("text", "images", "expected"),
    [
        ("What is it?", 2, Prompt("What is it?", (0, 1))),
        ("See <image 1> and <image 2>: same?", 2, Prompt("See<image>\nand<image>\n: same?", (0, 1))),
        ("<image 2> before <image 1>", 2, Prompt("<image>\nbefore<image>\n", (1, 0))),
        ("only <image 2>", 3, Prompt("<image>\n<image>\nonly<image>\n", (0, 2, 1))),
        ("<image 1> is like <image 1>", 1, Prompt("<image>\nis like (image 1)", (0,))),
        ("<image 1> and <image 7>", 1, Prompt("<image>\nand (image 7)", (0,))),
        ("<image> vs <image>", 2, Prompt("<image>\nvs<image>\n", (0, 1))),
        ("the tag <image> in HTML", 2, Prompt("the tag image in HTML", (0, 1))),
        ("<image 1>", 0, Prompt("(image 1)", ())),
    ],
)
def test_where_pictures_stand(text: str, images: int, expected: Prompt) -> None:
    assert place_images(text, images) == expected


@given(
    st.lists(st.sampled_from(["<image>", "<image 1>", "<image 2>", "<image 3>", "a", " ", "\n", "<", "image"])),
    st.integers(0, 3),
)
def test_placeholders_match_the_pictures_or_there_are_none(pieces: list[str], images: int) -> None:
    found = place_images("".join(pieces), images)
    assert found.text.count("<image>") in (0, images)
    assert sorted(found.order) == list(range(images))
