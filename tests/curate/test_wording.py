"""Words of texts: what is one, how far two texts are apart, and that near ones share a key."""

from __future__ import annotations

import random

import numpy as np
import pytest

from sailctl.core.curate.dedup.wording import (
    hash_of,
    ngram_hashes,
    numbers_of,
    same_numbers,
    split_turns,
    text_difference,
    text_keys,
    words_of,
)
from sailctl.core.records import Turn


def numbers(text: str) -> np.ndarray:
    return numbers_of(words_of(text))


def test_words_are_folded_and_ideographs_stand_alone() -> None:
    assert words_of("<image>\nThe DOG's ball, ＡＢＣ_12!") == ["the", "dog's", "ball", "abc", "12"]
    assert words_of("红色的圆 at 3pm") == ["红", "色", "的", "圆", "at", "3pm"]
    assert words_of("... !") == []


@pytest.mark.parametrize(
    ("left", "right", "apart"),
    [
        ("a b c d e f g h i j", "a b c d e f g h i j", 0.0),
        ("a b c d e f g h i j", "A, b c x e f g h i j!", 0.1),
        ("a b c d e f g h i j", "a b d e f g h i j", 0.1),
        ("a b c d e f g h i j", "a b c c d e f g h i j", 1 / 11),
        ("a b c d e f g h i j", "b a c d e f g h i j", 0.2),
        ("a b c d e f g h i j", "a b c d e f g x y z", float("inf")),
        ("a b c", "x b c", float("inf")),
        ("", "", 0.0),
    ],
)
def test_distance_is_the_share_of_words_edited(left: str, right: str, apart: float) -> None:
    assert text_difference(numbers(left), numbers(right), 0.2) == pytest.approx(apart)


def test_runs_of_words_are_known_anywhere() -> None:
    inner, outer = numbers("one two three"), numbers("zero one two three four")
    assert ngram_hashes(inner, 3)[0] in ngram_hashes(outer, 3).tolist()
    assert hash_of(inner) == ngram_hashes(inner, 3)[0] != ngram_hashes(numbers("three two one"), 3)[0]
    assert len(ngram_hashes(inner, 4)) == 0


def test_words_with_digits_must_agree() -> None:
    assert same_numbers(numbers("3 apples and 4 pears"), numbers("4 plums or 3 nuts"))
    assert not same_numbers(numbers("3 apples"), numbers("4 apples"))


def test_near_texts_share_a_key_and_others_hardly_ever() -> None:
    draw = random.Random(0)
    vocabulary = [f"word{chr(97 + k // 26)}{chr(97 + k % 26)}" for k in range(500)]
    met = strangers = 0
    for _ in range(200):
        words = [draw.choice(vocabulary) for _ in range(draw.randint(12, 80))]
        edited = list(words)
        for place in draw.sample(range(len(words)), int(0.15 * len(words))):
            edited[place] = draw.choice(vocabulary)
        other = [draw.choice(vocabulary) for _ in words]
        keys = text_keys(numbers_of(words))
        met += bool(np.intersect1d(keys, text_keys(numbers_of(edited))).size)
        strangers += bool(np.intersect1d(keys, text_keys(numbers_of(other))).size)
    assert met >= 195 and strangers == 0


def test_questions_and_answers_are_told_apart() -> None:
    asked, answered = split_turns([Turn("user", "What is it?"), Turn("assistant", "A cat."), Turn("user", "Sure?")])
    assert asked.tolist() == numbers("what is it sure").tolist()
    assert answered.tolist() == numbers("a cat").tolist()
