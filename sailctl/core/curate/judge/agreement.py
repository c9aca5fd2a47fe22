"""How far two judges agree: percent agreement, Cohen's kappa, Spearman's rho; and means, all with 95% intervals.

Intervals are percentile bootstraps (Efron, Annals of Statistics 7, 1979) that draw whole items, for several pairs of
opinions on one item are no independent evidence. Legend: N pairs, K items, L different values, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sailctl.core.errors import DataError

RESAMPLES = 1000
AT_ONCE = 4_000_000  # weights held at a time
DEFINED = 0.9  # of the resamples: with fewer there is no interval to tell

Values = Sequence[float] | np.ndarray
Weighted = Callable[[np.ndarray], np.ndarray]  # weights (R, N) of the pairs → the statistic of each resample (R,)


@dataclass(frozen=True, slots=True)
class Agreement:
    """A statistic of n pairs on so many items; None where it is not defined, as where one side never varies."""

    value: float | None
    n: int
    items: int
    ci95: tuple[float, float] | None

    def as_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {"value": self.value, "n": self.n, "items": self.items, "ci95": self.ci95 and list(self.ci95)}


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean of n values and its interval; None of no values."""

    value: float | None
    n: int
    ci95: tuple[float, float] | None

    def as_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {"value": self.value, "n": self.n, "ci95": self.ci95 and list(self.ci95)}


def percent_agreement(a: Values, b: Values, items: Sequence[Hashable] | None = None, seed: int = 0) -> Agreement:
    """The share of pairs that are equal, 0 to 1. `items` names what each pair is about, each another one without.

    Raises DataError where the sides differ in length or a value is no finite number; so do all functions here.
    """
    pairs = _Pairs(a, b, items)
    equal_N = (pairs.left == pairs.right).astype(np.float64)
    return _agreement(pairs, lambda weights_RN: weights_RN @ equal_N / weights_RN.sum(1), seed)


def ratio(above: Values, below: Values, items: Sequence[Hashable] | None = None, seed: int = 0) -> Agreement:
    """The sum of one side over that of the other. Not defined where nothing is below."""
    pairs = _Pairs(above, below, items)
    return _agreement(pairs, lambda weights_RN: _ratio(weights_RN @ pairs.left, weights_RN @ pairs.right), seed)


def kappa(a: Values, b: Values, items: Sequence[Hashable] | None = None, seed: int = 0) -> Agreement:
    """Cohen's kappa, (p_o - p_e) / (1 - p_e), of values taken as categories.

    Cohen, Educational and Psychological Measurement 20, 1960. None where a side says one thing only: the formula then
    gives 0 whatever the other says, or nothing at all.
    """
    pairs = _Pairs(a, b, items)
    if pairs.one_sided:
        return Agreement(None, pairs.n, pairs.items, None)
    left, right = pairs.left, pairs.right
    values_L, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    of_left, of_right = places[: len(left)], places[len(left) :]
    equal_N = (left == right).astype(np.float64)
    is_left_NL = np.eye(len(values_L))[of_left]
    is_right_NL = np.eye(len(values_L))[of_right]

    def statistic(weights_RN: np.ndarray) -> np.ndarray:
        total_R = weights_RN.sum(1)
        observed_R = weights_RN @ equal_N / total_R
        expected_R = ((weights_RN @ is_left_NL) * (weights_RN @ is_right_NL)).sum(1) / total_R**2
        return _ratio(observed_R - expected_R, 1 - expected_R)

    return _agreement(pairs, statistic, seed)


def quadratic_kappa(a: Values, b: Values, items: Sequence[Hashable] | None = None, seed: int = 0) -> Agreement:
    """Cohen's kappa with quadratic weights, 1 - Σ w p_o / Σ w p_e, w = (a - b)²: near misses count little.

    Cohen, Psychological Bulletin 70, 1968. Of chance the mean of (a - b)² over all pairs of one left and one right
    value is var a + var b + (mean a - mean b)². None where a side says one thing only, as of `kappa`.
    """
    pairs = _Pairs(a, b, items)
    if pairs.one_sided:
        return Agreement(None, pairs.n, pairs.items, None)
    centre = float(np.mean(pairs.left)) if pairs.n else 0.0  # large offsets would cost digits
    left, right = pairs.left - centre, pairs.right - centre

    def statistic(weights_RN: np.ndarray) -> np.ndarray:
        total_R = weights_RN.sum(1)
        mean_a, mean_b = weights_RN @ left / total_R, weights_RN @ right / total_R
        square_a, square_b = weights_RN @ left**2 / total_R, weights_RN @ right**2 / total_R
        apart_R = weights_RN @ (left - right) ** 2 / total_R
        chance_R = square_a + square_b - 2 * mean_a * mean_b
        return 1 - _ratio(apart_R, np.where(chance_R < 1e-12, 0.0, chance_R))

    return _agreement(pairs, statistic, seed)


def spearman(a: Values, b: Values, items: Sequence[Hashable] | None = None, seed: int = 0) -> Agreement:
    """Spearman's rho: Pearson's correlation of ranks, tied values sharing the mean of theirs.

    Spearman, American Journal of Psychology 15, 1904; ties as in Kendall, Rank Correlation Methods, 1970. Not defined
    where one side never varies.
    """
    pairs = _Pairs(a, b, items)
    rank_left, rank_right = _Ranks(pairs.left), _Ranks(pairs.right)

    def statistic(weights_RN: np.ndarray) -> np.ndarray:
        total_R1 = weights_RN.sum(1, keepdims=True)
        x_RN, y_RN = rank_left(weights_RN), rank_right(weights_RN)
        x_RN -= (weights_RN * x_RN).sum(1, keepdims=True) / total_R1
        y_RN -= (weights_RN * y_RN).sum(1, keepdims=True) / total_R1
        covariance_R = (weights_RN * x_RN * y_RN).sum(1)
        scale_R = np.sqrt((weights_RN * x_RN**2).sum(1) * (weights_RN * y_RN**2).sum(1))
        return _ratio(covariance_R, np.where(scale_R < 1e-9, 0.0, scale_R))

    return _agreement(pairs, statistic, seed)


def mean(values: Values, seed: int = 0, resamples: int = RESAMPLES) -> Mean:
    """The mean of values, each an item of its own, with its bootstrap interval.

    How often each different value is drawn is multinomial, so a million scores on a scale cost no more than a hundred.
    """
    found_N = _finite(values)
    if not len(found_N):
        return Mean(None, 0, None)
    levels_L, counts_L = np.unique(found_N, return_counts=True)
    generator = np.random.default_rng(seed)
    step = max(1, AT_ONCE // len(levels_L))
    drawn = [
        generator.multinomial(len(found_N), counts_L / len(found_N), size=min(step, resamples - first)) @ levels_L
        for first in range(0, resamples, step)
    ]
    low, high = np.quantile(np.concatenate(drawn) / len(found_N), (0.025, 0.975))
    return Mean(float(levels_L @ counts_L / len(found_N)), len(found_N), (float(low), float(high)))


class _Ranks:
    """Mean ranks of values of which each counts so many times."""

    def __init__(self, values_N: np.ndarray) -> None:
        levels, self.level_N = np.unique(values_N, return_inverse=True)
        self.order_N = np.argsort(self.level_N, kind="stable")
        self.starts_L = np.searchsorted(self.level_N[self.order_N], np.arange(len(levels)))

    def __call__(self, weights_RN: np.ndarray) -> np.ndarray:
        counts_RL = np.add.reduceat(weights_RN[:, self.order_N], self.starts_L, axis=1)
        ranks_RL = np.cumsum(counts_RL, axis=1) - (counts_RL - 1) / 2
        return ranks_RL[:, self.level_N]


class _Pairs:
    """Pairs of values with how often each stands there, and what draws them anew, item by item.

    Without names of items each pair is one of its own, and equal pairs are one with a count: how often it is drawn is
    multinomial, so that a million pairs on a scale cost no more than a hundred.
    """

    def __init__(self, a: Values, b: Values, items: Sequence[Hashable] | None) -> None:
        self.left, self.right = _finite(a), _finite(b)
        self.n = len(self.left)
        if self.n != len(self.right):
            raise DataError(f"{self.n} and {len(self.right)} values: pairs need the same number on both sides")
        if items is not None and len(items) != self.n:
            raise DataError(f"{self.n} pairs and the names of {len(items)} items: each pair needs one")
        self.counts, self.item_N = np.ones(self.n), np.arange(0)
        if items is None:
            both, counts = np.unique(np.stack([self.left, self.right]), axis=1, return_counts=True)
            self.left, self.right, self.counts = both[0], both[1], counts.astype(np.float64)
            self.items = self.n
        else:
            # by name, so that the order of pairs does not decide what is drawn
            numbers = {name: number for number, name in enumerate(sorted(set(items), key=repr))}
            self.item_N = np.array([numbers[name] for name in items], dtype=np.int64)
            self.items = len(numbers)

    @property
    def one_sided(self) -> bool:
        """Whether a side never varies."""
        return bool(self.n) and any(side.min() == side.max() for side in (self.left, self.right))

    def draw(self, generator: np.random.Generator, resamples: int) -> np.ndarray:
        """How often each pair stands in so many resamples: (R, N)."""
        if not len(self.item_N):
            return generator.multinomial(self.n, self.counts / self.n, size=resamples).astype(np.float64)
        chosen_RK = generator.integers(self.items, size=(resamples, self.items))
        return np.stack([np.bincount(row, minlength=self.items) for row in chosen_RK])[:, self.item_N].astype(
            np.float64
        )


def _agreement(pairs: _Pairs, statistic: Weighted, seed: int) -> Agreement:
    """The statistic of all pairs, and of resamples of the items."""
    if not pairs.n:
        return Agreement(None, 0, 0, None)
    value = float(statistic(pairs.counts[None])[0])
    if not np.isfinite(value) or pairs.items < 2:
        return Agreement(value if np.isfinite(value) else None, pairs.n, pairs.items, None)
    generator = np.random.default_rng(seed)
    drawn = []
    for first in range(0, RESAMPLES, step := max(1, AT_ONCE // len(pairs.counts))):
        drawn.append(statistic(pairs.draw(generator, min(step, RESAMPLES - first))))
    found = np.concatenate(drawn)
    found = found[np.isfinite(found)]
    if len(found) < DEFINED * RESAMPLES:
        return Agreement(value, pairs.n, pairs.items, None)
    low, high = np.quantile(found, (0.025, 0.975))
    return Agreement(value, pairs.n, pairs.items, (float(low), float(high)))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """A quotient, not a number where nothing is below."""
    safe = np.where(below == 0, 1.0, below)
    return np.where(below == 0, np.nan, above / safe)


def _finite(values: Values) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not np.isfinite(found).all():
        raise DataError("a value is not a finite number")
    return found
