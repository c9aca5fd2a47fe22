"""Evening out what captions say: n-grams, how often each occurs, and how rare those of a caption are.

N-grams are counted in a table of 2^24 buckets by hash, 128 MiB whatever the number of captions. Two n-grams that share
a bucket are counted together; `distinct` corrects for it.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

BUCKETS = 1 << 24
_IDEOGRAPHS = r"\u3400-\u9fff\uf900-\ufaff"
_WORD = rf"[^\W_{_IDEOGRAPHS}]+"
# A Chinese or Japanese ideograph counts by itself, for nothing stands between words there; else a word, hyphens within.
_TOKENS = re.compile(rf"[{_IDEOGRAPHS}]|{_WORD}(?:['’-]{_WORD})*")


def tokens(text: str) -> list[str]:
    """The words of a text in small letters, ideographs one by one."""
    return _TOKENS.findall(text.lower())


def gram_hashes(text: str, n: int) -> np.ndarray:
    """The buckets of a text's n-grams, each occurrence; (G,) uint32. A text of fewer words has none."""
    words = [word.encode("utf-8", "surrogatepass") for word in tokens(text)]
    grams = [zlib.crc32(b" ".join(words[at : at + n])) for at in range(len(words) - n + 1)]
    return np.array(grams, dtype=np.uint32) & np.uint32(BUCKETS - 1)


class GramCounts:
    """How often each n-gram occurs in the captions added."""

    def __init__(self) -> None:
        self.of = np.zeros(BUCKETS, dtype=np.int64)

    def add(self, grams: np.ndarray) -> None:
        """Count the n-grams of any number of captions."""
        at, occurrences = np.unique(grams, return_counts=True)
        self.of[at] += occurrences

    def rarity(self, grams: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Of captions with so many n-grams each, one after another: the mean of 1 / count over their n-grams.

        The mean, not the sum: long captions are not preferred. A caption without n-grams is as common as the commonest.
        """
        owner = np.repeat(np.arange(len(lengths)), lengths)
        total = np.bincount(owner, weights=1.0 / self.of[grams], minlength=len(lengths))
        return np.where(lengths > 0, total / np.maximum(lengths, 1), 1.0 / self.most)

    @cached_property
    def most(self) -> int:
        """How often the commonest occurs; ask when all are counted."""
        return max(int(self.of.max()), 1)

    def spread(self) -> Spread:
        """How many there are, how many of them differ, and how evenly they occur."""
        occurring = self.of[self.of > 0]
        total = int(occurring.sum())
        share = occurring / max(total, 1)
        entropy = float(-(share * np.log2(share)).sum())
        empty = max(1.0 - len(occurring) / BUCKETS, 0.5 / BUCKETS)
        # Linear counting (Whang et al., 1990): what so many filled buckets mean.
        return Spread(total, round(-BUCKETS * float(np.log(empty))), entropy)


@dataclass(frozen=True, slots=True)
class Spread:
    """N-grams of some captions: occurrences, distinct ones, entropy of their distribution in bits."""

    total: int
    distinct: int
    entropy_bits: float
