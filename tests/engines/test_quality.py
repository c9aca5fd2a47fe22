"""Looping answers: found in English and Chinese, told from tables, lists and poems, in linear time."""

from __future__ import annotations

import random

import pytest

from sailctl.core.engines.quality import is_looping

ENGLISH = (
    "A narrow street runs between old stone houses towards a small harbour. Two people in yellow jackets walk past a "
    "blue door, and a bicycle with a wicker basket leans on the wall beside it. Behind the roofs the masts of sailing "
    "boats stand against a pale evening sky, and a flock of gulls circles over the quay. "
)
CHINESE = (
    "画面中央是一条狭窄的石板街道，两旁是古老的石屋，尽头通向一个小港口。两位身穿黄色雨衣的行人正走过一扇蓝色的门，"
    "墙边靠着一辆带藤篮的自行车。屋顶后面，帆船的桅杆映衬在傍晚淡淡的天空下，一群海鸥在码头上空盘旋。"
)


@pytest.mark.parametrize(
    "text",
    [
        ENGLISH + "the cat sat on the mat and " * 40,
        ENGLISH + "The sky is blue. " * 30,
        ENGLISH + "The sky is blue.\n" * 30 + "The sky is b",
        ENGLISH + "!" * 300,
        ENGLISH + "na" * 200,
        ENGLISH * 8,
        CHINESE + "天空是蓝色的，" * 40,
        CHINESE + "的" * 200,
        CHINESE * 8,
        "\n".join(f"{number}. The man is wearing a hat." for number in range(60)),
        " ".join("the red car is parked near the red car that" for _ in range(30)),
        "图中有一个人站在桥上看风景，" * 20 + "图中有一个",
    ],
)
def test_loops_are_found(text: str) -> None:
    assert is_looping(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yes",
        "No, no, no, no!",
        ENGLISH,
        CHINESE,
        ENGLISH + CHINESE + ENGLISH.upper(),
        "| year | sales | share |\n|---|---|---|\n"
        + "\n".join(f"| {1990 + row} | {row * 731 % 997} | {row * 37 % 100}% |" for row in range(30)),
        "Contents\n" + "\n".join(f"Chapter {row} {'.' * 60} {row * 7 + 3}" for row in range(12)),
        "\n".join(f"{row * 7919 % 10007:05d}  {row * 104729 % 99991:05d}" for row in range(60)),
        "ABC " + "-" * 200,
        "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream. "
        * 2,
        "The chart has four bars: "
        + ", ".join(f"the {name} bar is {height} cm high" for name, height in (("red", 3), ("blue", 5), ("green", 8)))
        + ".",
    ],
)
def test_other_texts_are_let_through(text: str) -> None:
    assert not is_looping(text)


def test_long_texts_without_a_loop_are_let_through() -> None:
    words = [f"{first}{second}{third}" for first in "bdgklm" for second in "aeiou" for third in "nrst"]
    drawn = random.Random(0)
    for _ in range(200):
        assert not is_looping(" ".join(drawn.choice(words) for _ in range(drawn.randrange(20, 400))))


def test_the_worst_texts_take_linear_time() -> None:
    """Counted in characters looked at, not seconds: a million characters are done within the timeout of the run."""
    for text in ("a" * 1_000_000 + "b", "ab" * 500_000, ("a" * 500 + "b") * 2000, "a " * 500_000, "x\n" * 500_000):
        assert is_looping(text)
