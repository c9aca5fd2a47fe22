"""Pearson's and Kendall's correlation with intervals and tests; plain numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sailctl.core.errors import DataError
from sailctl.core.scaling.distributions import normal_cdf, normal_quantile, t_cdf

EXACT_UP_TO = 8  # 8! orders are tried one by one; beyond that, and with ties in longer lists, the normal is used


@dataclass(frozen=True, slots=True)
class Correlation:
    """A correlation of n pairs, its interval and the two-sided p-value of there being none."""

    value: float
    n: int
    low: float
    high: float
    p_value: float

    @property
    def squared(self) -> tuple[float, float, float]:
        """R², the share of variance that a straight line explains, and its interval."""
        inside = 0.0 if self.low <= 0 <= self.high else min(self.low**2, self.high**2)
        return self.value**2, inside, max(self.low**2, self.high**2)


def pearson(x: Sequence[float], y: Sequence[float], level: float = 0.95) -> Correlation:
    """Pearson's correlation, with Fisher's z interval (Fisher, Metron 1, 1921) and Student's t test.

    With three pairs the interval is (-1, 1). Raises DataError below three pairs or where one side does not vary.
    """
    a, b = _paired(x, y)
    if len(a) < 3:
        raise DataError(f"{len(a)} pairs: a correlation needs 3 or more")
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    if scale == 0:
        raise DataError("one side is constant: it correlates with nothing")
    value = max(-1.0, min(1.0, float(a @ b) / scale))
    n = len(a)
    if abs(value) >= 1 - 1e-15:
        return Correlation(value, n, value, value, 0.0)
    p_value = 2 * t_cdf(-abs(value) * math.sqrt((n - 2) / (1 - value**2)), n - 2)
    if n == 3:
        return Correlation(value, n, -1.0, 1.0, p_value)
    half = normal_quantile(0.5 + level / 2) / math.sqrt(n - 3)
    return Correlation(value, n, math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half), p_value)


def kendall(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Kendall's tau-b and the one-sided p-value of an order that agrees no more than chance.

    Exact over all orders up to 8 pairs (ties included), else normal with the variance for ties (Kendall, Rank
    Correlation Methods, 1970). No pairs to compare: (0, 1).
    """
    a, b = _paired(x, y)
    n = len(a)
    signs_a, signs_b = _signs(a), _signs(b)
    norm = math.sqrt(float((signs_a != 0).sum()) * float((signs_b != 0).sum()))
    if norm == 0:
        return 0.0, 1.0
    agree = float((signs_a * signs_b).sum())
    if n <= EXACT_UP_TO:
        orders_PN = np.array(list(itertools.permutations(range(n))))
        moved_PNN = signs_b[orders_PN[:, :, None], orders_PN[:, None, :]]
        return agree / norm, float((np.einsum("ij,pij->p", signs_a, moved_PNN) >= agree - 1e-9).mean())
    agree /= 2  # every pair stood in the matrix twice
    ties = [np.unique(side, return_counts=True)[1].astype(float) for side in (a, b)]
    v0 = n * (n - 1) * (2 * n + 5)
    v1 = [float((t * (t - 1) * (2 * t + 5)).sum()) for t in ties]
    v2 = float((ties[0] * (ties[0] - 1)).sum() * (ties[1] * (ties[1] - 1)).sum()) / (2 * n * (n - 1))
    v3 = float((ties[0] * (ties[0] - 1) * (ties[0] - 2)).sum() * (ties[1] * (ties[1] - 1) * (ties[1] - 2)).sum())
    variance = (v0 - v1[0] - v1[1]) / 18 + v2 + v3 / (9 * n * (n - 1) * (n - 2))
    return 2 * agree / norm, 1 - normal_cdf((agree - 1) / math.sqrt(variance))


def _signs(values: np.ndarray) -> np.ndarray:
    return np.sign(values[:, None] - values[None, :])


def _paired(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise DataError(f"{a.size} and {b.size} values: pairs need the same number on both sides")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise DataError("a value is not a finite number")
    return a, b
