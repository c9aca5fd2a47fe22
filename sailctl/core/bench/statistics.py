"""Intervals for scores: Wilson for yes/no items; for graded ones, means over tasks and differences, a normal interval
with a few made-up observations at both ends of the scale.

Without them a task whose few items all score alike adds no spread, and an interval from 2 questions a task is far too
narrow: resampling such items (bootstrap) covers 70% instead of 95%. All functions here are pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sailctl.core.records import Score

Z95 = 1.959963984540054  # two-sided 95% quantile of the standard normal
# Observations made up at each end of the scale, divided among the tasks: so few that 100 items a task hide them.
SCORE_ENDS = 2.0  # at 0 and at 1: Price and Bonett 2004; Agresti and Coull 1998 where there is one task
DIFFERENCE_ENDS = 1.0  # at -1 and at 1: Bonett and Price 2012, for paired proportions


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


def score_graded(values: Sequence[float]) -> Score:
    """The mean of items between 0 and 1, with the interval of `score_flat_mean`."""
    return score_flat_mean([values])


def score_flat_mean(tasks: Sequence[Sequence[float]]) -> Score:
    """The flat mean of the tasks' means, whatever their sizes, with its 95% interval.

    Each of m tasks is given 2/m items that score 0 and as many that score 1; means and variances of what results are
    added up (Price and Bonett, Computational Statistics & Data Analysis 45, 2004, for yes/no items; a graded item has
    no more variance than those). For items that differ the interval nears the usual normal one as they grow many.
    """
    tasks = [task for task in tasks if len(task)]
    if not tasks:
        return Score(0.0, 0, (0.0, 1.0))
    mean, low, high = _adjusted([np.asarray(task, dtype=np.float64) for task in tasks], SCORE_ENDS, 0.0)
    return Score(mean, sum(len(task) for task in tasks), (low, high))


def difference(left: Sequence[Sequence[float]], right: Sequence[Sequence[float]]) -> tuple[float, tuple[float, float]]:
    """Flat mean of `left - right` on the same items, and its paired 95% interval (both within -1..1).

    Each of m tasks is given 1/m pairs that differ by -1 and as many that differ by 1 (Bonett and Price, Journal of
    Educational and Behavioral Statistics 37, 2012, where there is one task). Raises ValueError when the two do not
    hold the same items.
    """
    pairs = [
        (np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)) for a, b in zip(left, right, strict=True)
    ]
    if any(a.shape != b.shape for a, b in pairs):
        raise ValueError("paired scores need the same items on both sides")
    tasks = [a - b for a, b in pairs if len(a)]
    if not tasks:
        return 0.0, (-1.0, 1.0)
    mean, low, high = _adjusted(tasks, DIFFERENCE_ENDS, -1.0)
    return mean, (low, high)


def _adjusted(tasks: Sequence[np.ndarray], ends: float, lowest: float) -> tuple[float, float, float]:
    """Flat mean and bounds of its 95% interval, `ends / m` observations made up at `lowest` and at 1 in each task.

    The mean is that of the items alone; the interval always holds it.
    """
    added = ends / len(tasks)
    centres, variances = [], []
    for values_N in tasks:
        count = len(values_N) + 2 * added
        centre = (values_N.sum() + added * (lowest + 1)) / count
        second_moment = ((values_N**2).sum() + added * (lowest**2 + 1)) / count
        centres.append(centre)
        variances.append((second_moment - centre**2) / count)
    mean, centre = float(np.mean([task.mean() for task in tasks])), float(np.mean(centres))
    half = Z95 * math.sqrt(sum(variances)) / len(tasks)
    return mean, max(lowest, min(centre - half, mean)), min(1.0, max(centre + half, mean))
