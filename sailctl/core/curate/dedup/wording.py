"""What is remembered of a text to know it again: its words as numbers, hashes of them, keys it is looked up by.

Words are compared without case, accents of width and punctuation; a Chinese, Japanese or Korean character is a word.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from sailctl.core.curate.dedup.pictures import mix
from sailctl.core.metrics import edit_distance
from sailctl.core.records import IMAGE_PLACEHOLDER, Turn

_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W_{_IDEOGRAPHS}]+(?:['’][^\W_{_IDEOGRAPHS}]+)*")
_NUMBER = re.compile(r"\d")
ROWS, KEYS = 4, 64  # MinHash: so many values make a key, so many keys a text (found at Jaccard 0.54: 99.7%)
SHORT_ANSWER = 3  # words: such answers are not "almost the same"
FEWEST = 8  # words of a text that is known by itself, without a picture


def words_of(text: str) -> list[str]:
    """The words of a text, folded (NFKC, case); image placeholders are none."""
    return _WORD.findall(unicodedata.normalize("NFKC", text.replace(IMAGE_PLACEHOLDER, " ")).casefold())


def numbers_of(words: Sequence[str]) -> np.ndarray:
    """Words as uint32 (CRC-32 of UTF-8). Words with a digit are odd, all others even."""
    found = [zlib.crc32(word.encode("utf-8", "surrogatepass")) & ~1 | bool(_NUMBER.search(word)) for word in words]
    return np.array(found, dtype=np.uint32)


def hash_of(numbers: np.ndarray) -> np.uint64:
    """One uint64 of a sequence of words; 0 of none."""
    return ngram_hashes(numbers, len(numbers))[0] if len(numbers) else np.uint64(0)


def ngram_hashes(numbers: np.ndarray, n: int) -> np.ndarray:
    """uint64 hashes of all runs of n words, in their order; empty for shorter texts."""
    if n < 1 or len(numbers) < n:
        return np.empty(0, dtype=np.uint64)
    found = np.full(len(numbers) - n + 1, n, dtype=np.uint64)
    wide = numbers.astype(np.uint64)
    for place in range(n):
        found = mix(found * np.uint64(0x9E3779B97F4A7C15) + wide[place : place + len(found)])
    return found


@lru_cache(maxsize=1)
def _multipliers() -> tuple[np.ndarray, np.ndarray]:
    draw = mix(np.arange(1, 2 * ROWS * KEYS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return draw[::2] | np.uint64(1), draw[1::2]


def text_keys(numbers: np.ndarray) -> np.ndarray:
    """uint64 (64,) keys of a text by MinHash over its pairs of neighbouring words; texts alike share one of them.

    Source: Broder 1997; keys of four minima as in Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4.
    """
    shingles = np.unique(ngram_hashes(numbers, 2 if len(numbers) > 1 else 1))
    if not len(shingles):
        return np.empty(0, dtype=np.uint64)
    factors, terms = _multipliers()
    with np.errstate(over="ignore"):
        hashed = shingles[None, :] * factors[:, None] + terms[:, None]
    least = (hashed ^ (hashed >> np.uint64(29))).min(axis=1).reshape(KEYS, ROWS)
    key = np.arange(KEYS, dtype=np.uint64)
    for place in range(ROWS):
        key = mix(key * np.uint64(0x9E3779B97F4A7C15) + least[:, place])
    return key


def text_difference(left: np.ndarray, right: np.ndarray, at_most: float) -> float:
    """Words inserted, deleted or replaced between two texts over the longer one's length; infinity above `at_most`."""
    longer = max(len(left), len(right))
    if not longer:
        return 0.0
    allowed = int(at_most * longer + 1e-9)
    if abs(len(left) - len(right)) > allowed:
        return float("inf")
    bags = set(left.tolist()), set(right.tolist())
    if max(len(bags[0] - bags[1]), len(bags[1] - bags[0])) > allowed:  # each of these takes an edit
        return float("inf")
    characters: dict[int, str] = {}
    written = [
        "".join(characters.setdefault(word, chr(0x10000 + len(characters))) for word in one.tolist())
        for one in (left, right)
    ]
    found = edit_distance(*written)
    return found / longer if found <= allowed else float("inf")


def same_numbers(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether the words with digits are the same in two texts, in any order."""
    return np.array_equal(np.sort(left[left % 2 == 1]), np.sort(right[right % 2 == 1]))


def split_turns(turns: Sequence[Turn]) -> tuple[np.ndarray, np.ndarray]:
    """What is asked and what is answered, each as the numbers of its words."""
    asked = [word for turn in turns if turn.role != "assistant" for word in words_of(turn.text)]
    answered = [word for turn in turns if turn.role == "assistant" for word in words_of(turn.text)]
    return numbers_of(asked), numbers_of(answered)
