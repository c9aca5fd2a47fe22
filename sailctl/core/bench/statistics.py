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


def wilson_effective(mean: float, variance: float, units: int, freedom: int | None = None) -> tuple[float, float]:
    """Wilson's interval of a mean within 0..1 that is no plain proportion, from the variance of that mean.

    It is Wilson's for as many yes/no items as would have this variance: mean (1 - mean) / variance of them, with t in
    place of z for `freedom` (units - 1) degrees of freedom, for the variance is estimated (effective sample size: Korn
    and Graubard, Survey Methodology 24, 1998; with Wilson: Franco et al., Journal of Survey Statistics and Methodology
    7, 2019). `units` are what was drawn independently. Where all of them score 0, or all 1, they count as yes/no
    items; otherwise the variance is at least what one unit at the far end of the scale would make of it.
    """
    freedom = units - 1 if freedom is None else freedom
    if units < 2 or freedom < 1:
        return 0.0, 1.0
    t = t95(freedom)
    size = float(units)
    if 0 < mean < 1:
        size = mean * (1 - mean) / max(variance, (max(mean, 1 - mean) / units) ** 2)
    scale = 1 + t**2 / size
    centre = (mean + t**2 / (2 * size)) / scale
    half = t / scale * math.sqrt(mean * (1 - mean) / size + t**2 / (4 * size * size))
    return 0.0 if mean <= 0 else max(0.0, centre - half), 1.0 if mean >= 1 else min(1.0, centre + half)


def t95(freedom: int) -> float:
    """Two-sided 95% quantile of Student's t (Cornish and Fisher's expansion: Abramowitz and Stegun 26.7.5)."""
    if freedom < 3:  # where the expansion is not good enough
        return 12.706205 if freedom == 1 else 4.302653
    z, v = Z95, freedom
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / v ** (power + 1) for power, term in enumerate(terms))


def weighted_mean(scores: Sequence[Score], weights: Sequence[float]) -> Score:
    """A weighted mean of scores of different questions, with its 95% interval.

    Each bound is as far from the mean as those of the parts add up to in squares (MOVER: Zou and Donner, Statistics in
    Medicine 27, 2008), so that skewed parts keep their skew.
    """
    shares = [weight / sum(weights) for weight in weights]
    mean = sum(share * one.score for share, one in zip(shares, scores, strict=True))
    below = math.hypot(*(share * (one.score - one.ci95[0]) for share, one in zip(shares, scores, strict=True)))
    above = math.hypot(*(share * (one.ci95[1] - one.score) for share, one in zip(shares, scores, strict=True)))
    return Score(mean, sum(one.n for one in scores), (max(0.0, mean - below), min(1.0, mean + above)))


def mcnemar(left_only: int, right_only: int) -> float:
    """Two-sided p-value of McNemar's exact test: of the items that one of two models got right, how many were left's.

    Each is a fair coin where the two are equally good (McNemar, Psychometrika 12, 1947). Never above its level.
    """
    n, fewer = left_only + right_only, min(left_only, right_only)
    logs = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(fewer + 1)]
    return min(1.0, 2 * sum(math.exp(log - n * math.log(2)) for log in logs))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for being several (Holm, Scandinavian Journal of Statistics 6, 1979), in the order given."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, highest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


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
