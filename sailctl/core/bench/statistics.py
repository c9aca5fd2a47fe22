"""Intervals for scores: Wilson for yes/no items, seeded bootstrap for graded ones and for means over tasks.

N items, K resamples. Everything here is a pure function of its arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sailctl.core.records import Score

Z95 = 1.959963984540054  # two-sided 95% quantile of the standard normal
RESAMPLES = 4000
BLOCK = 4_000_000  # numbers drawn at a time


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a proportion (Wilson, JASA 1927); (0, 1) where nothing was observed."""
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    scale = 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / scale
    half = Z95 / scale * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    # At 0 and 1 the bound is exact; rounding must not push it past the score itself.
    low = 0.0 if successes <= 0 else max(0.0, centre - half)
    high = 1.0 if successes >= n else min(1.0, centre + half)
    return low, high


def score_yes_no(values: Sequence[float]) -> Score:
    """The mean of items that are each 0 or 1, with Wilson's interval."""
    mean = sum(values) / len(values) if values else 0.0
    return Score(mean, len(values), wilson(sum(values), len(values)))


def score_graded(values: Sequence[float], *, seed: int = 0) -> Score:
    """The mean of items between 0 and 1, with a percentile bootstrap interval (Efron 1979)."""
    return score_flat_mean([values], seed=seed)


def score_flat_mean(tasks: Sequence[Sequence[float]], *, seed: int = 0) -> Score:
    """The flat mean of the tasks' means, whatever their sizes; items are resampled within each task (stratified).

    Where no task's items differ, resampling sees no spread at all; the interval is then Wilson's, the widest that
    items between 0 and 1 with this mean can have.
    """
    tasks = [task for task in tasks if len(task)]
    n = sum(len(task) for task in tasks)
    if not tasks:
        return Score(0.0, 0, (0.0, 1.0))
    mean = float(np.mean([np.mean(np.asarray(task, dtype=np.float64)) for task in tasks]))
    if all(min(task) == max(task) for task in tasks):
        return Score(mean, n, wilson(mean * n, n))
    low, high = _percentiles(tasks, seed)
    return Score(mean, n, (max(0.0, min(low, mean)), min(1.0, max(high, mean))))


def difference(
    left: Sequence[Sequence[float]], right: Sequence[Sequence[float]], *, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Flat mean of `left - right` on the same items, and its paired 95% bootstrap interval (both within -1..1).

    Raises ValueError when the two do not hold the same items.
    """
    pairs = [
        (np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)) for a, b in zip(left, right, strict=True)
    ]
    if any(a.shape != b.shape for a, b in pairs):
        raise ValueError("paired scores need the same items on both sides")
    tasks = [a - b for a, b in pairs if len(a)]
    if not tasks:
        return 0.0, (-1.0, 1.0)
    mean = float(np.mean([task.mean() for task in tasks]))
    low, high = _percentiles(tasks, seed)
    return mean, (min(low, mean), max(high, mean))


def _percentiles(tasks: Sequence[Sequence[float] | np.ndarray], seed: int) -> tuple[float, float]:
    """2.5% and 97.5% percentiles of the flat mean over K stratified resamples."""
    rng = np.random.default_rng(seed)
    means_K = np.zeros(RESAMPLES)
    for task in tasks:
        values_N = np.asarray(task, dtype=np.float64)
        # In blocks, so that a large suite does not need K * N numbers at once.
        for block in np.array_split(np.arange(RESAMPLES), max(1, RESAMPLES * len(values_N) // BLOCK)):
            drawn = rng.integers(0, len(values_N), (len(block), len(values_N)), dtype=np.int32)
            means_K[block] += values_N[drawn].mean(axis=1)
    means_K /= len(tasks)
    low, high = np.percentile(means_K, [2.5, 97.5])
    return float(low), float(high)
