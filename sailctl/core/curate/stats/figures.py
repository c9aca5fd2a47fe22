"""Distinct n-grams and parts of speech of a sample of captions, a caption, with intervals: pure numbers.

W words of all captions together, N captions. "Unique" is SAIL-VL's word (Table 1 of its paper): distinct over the whole
sample ÷ captions. It falls as samples grow, so that numbers of samples of different sizes are not comparable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sailctl.core.curate.stats.tagging import KINDS

REPLICATES = 1000
FIGURES = ("length", "2-gram", "3-gram", *KINDS)


@dataclass(frozen=True)
class Captions:
    """Captions as numbers of their words: ids and kinds of W words, caption c's being those from starts[c] to
    starts[c + 1] of N + 1 starts; lengths of N captions."""

    ids: np.ndarray
    kinds: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, which: np.ndarray) -> Captions:
        """Some of the captions, in the order of their numbers."""
        sizes = np.diff(self.starts)[which]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        words = np.arange(starts[-1]) + np.repeat(self.starts[which] - starts[:-1], sizes)
        return Captions(self.ids[words], self.kinds[words], starts, self.lengths[which])


def figures(captions: Captions, seed: int) -> dict[str, dict[str, Any]]:
    """The figures of Table 1 with 95% intervals: mean length, distinct 2-grams, 3-grams, nouns, verbs, adjectives.

    N-grams are of successive words of a caption. Intervals say how the figures of samples of this size from the same
    data scatter: see `intervals`. Raises nothing; no captions have no figures.
    """
    if not len(captions):
        return {}
    found, alone = zip(*(_distinct(codes, of, len(captions)) for codes, of in _grams(captions)), strict=True)
    values = np.array([captions.lengths.sum(), *found], dtype=np.float64)
    parts = np.stack([captions.lengths, *alone], axis=1).astype(np.float64)
    low, high = intervals(values, parts, seed)
    count = len(captions)
    return {
        name: {"value": values[place] / count, "ci95": [low[place] / count, high[place] / count]}
        for place, name in enumerate(FIGURES)
    }


def intervals(values: np.ndarray, parts: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """95% bootstrap intervals of sums and of counts of distinct things: low and high ends.

    `parts` (N captions × figures) is what each caption adds: its length, or how many things it alone has. Drawing
    captions with replacement would count fewer distinct things in every replicate than there are in the sample, for a
    caption drawn twice brings nothing new. So captions' parts are drawn instead, and a replicate is the value plus what
    the drawn parts are above all parts together: centred on the value, with the variance of the jackknife, which is
    never too small on average (Efron and Stein 1981).
    """
    rng = np.random.default_rng([seed, len(parts)])
    count = len(parts)
    drawn = np.empty((REPLICATES, parts.shape[1]))
    for replicate in range(REPLICATES):
        times = np.bincount(rng.integers(0, count, count), minlength=count)
        drawn[replicate] = times @ parts
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return values + low - parts.sum(0), values + high - parts.sum(0)


def _grams(captions: Captions) -> list[tuple[np.ndarray, np.ndarray]]:
    """Codes of the 2-grams, 3-grams, nouns, verbs and adjectives, with the caption each is in, rising."""
    ids = captions.ids.astype(np.int64)
    of = np.repeat(np.arange(len(captions)), np.diff(captions.starts))
    size = int(ids.max(initial=0)) + 1
    pairs = ids[:-1] * size + ids[1:]
    _, numbers = np.unique(pairs, return_inverse=True)  # small again, so that codes of three words fit 64 bits
    triples = numbers[:-1] * size + ids[2:]
    two, three = of[:-1] == of[1:], of[:-2] == of[2:]
    found = [(pairs[two], of[:-1][two]), (triples[three], of[:-2][three])]
    return found + [(ids[captions.kinds == kind], of[captions.kinds == kind]) for kind in KINDS.values()]


def _distinct(codes: np.ndarray, of: np.ndarray, count: int) -> tuple[int, np.ndarray]:
    """How many different codes there are, and how many of them each of `count` captions alone has."""
    if not len(codes):
        return 0, np.zeros(count, dtype=np.int64)
    order = np.argsort(codes, kind="stable")  # stable: captions rise within a code
    codes, of = codes[order], of[order]
    first = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
    last = np.append(first[1:], len(codes)) - 1
    alone = of[first][of[first] == of[last]]
    return len(first), np.bincount(alone, minlength=count)
