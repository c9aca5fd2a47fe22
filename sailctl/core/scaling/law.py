"""How a score grows with data: score = a + b ln(x), a saturating alternative, and what the next doubling will bring.

`x` is what was counted: samples, or real tokens. Nominal tokens (samples times the most that a sample may have) say
nothing about a law. Scores are in points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from sailctl.core.errors import DataError
from sailctl.core.scaling.distributions import t_quantile

EXPONENTS = np.geomspace(0.01, 4.0, 600)  # searched for the saturating law's alpha


@dataclass(frozen=True, slots=True)
class LogLaw:
    """score = intercept + slope x ln(x), by least squares, with what its intervals need.

    `slope_ci` and `intercept_ci` are Student's t at `level`; `residual_sd` in points, not a number with two points.
    """

    intercept: float
    slope: float
    intercept_ci: tuple[float, float]
    slope_ci: tuple[float, float]
    residual_sd: float
    r_squared: float
    aicc: float
    n: int
    level: float
    centre: float  # mean of ln(x)
    squares: float  # sum of squares of ln(x) around it

    @property
    def per_doubling(self) -> float:
        """Points that twice as much data brings."""
        return self.slope * math.log(2)

    def at(self, x: float) -> float:
        """The score expected at x."""
        return self.intercept + self.slope * math.log(x)

    def predict(self, x: float) -> tuple[float, float, float]:
        """Expected score at x and the interval in which one new score falls with probability `level`."""
        return self._interval(x, 1.0)

    def mean(self, x: float) -> tuple[float, float, float]:
        """Expected score at x and the interval of that expectation, the line's own: narrower than `predict`'s."""
        return self._interval(x, 0.0)

    def _interval(self, x: float, of_one_score: float) -> tuple[float, float, float]:
        value = self.at(x)
        if self.n < 3:
            return value, -math.inf, math.inf
        from_centre = (math.log(x) - self.centre) ** 2 / self.squares
        spread = self.residual_sd * math.sqrt(of_one_score + 1 / self.n + from_centre)
        half = t_quantile(0.5 + self.level / 2, self.n - 2) * spread
        return value, value - half, value + half


@dataclass(frozen=True, slots=True)
class SaturatingLaw:
    """score = ceiling - drop x (x / smallest x)^-alpha, by least squares."""

    ceiling: float
    drop: float
    alpha: float
    smallest: float
    residual_sd: float
    aicc: float
    n: int

    def at(self, x: float) -> float:
        """The score expected at x."""
        return self.ceiling - self.drop * (x / self.smallest) ** -self.alpha


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A point foretold from those before it: `inside` says whether it fell into the interval."""

    x: float
    score: float
    expected: float
    low: float
    high: float

    @property
    def inside(self) -> bool:
        """Whether the score fell into the interval."""
        return self.low <= self.score <= self.high


@dataclass(frozen=True, slots=True)
class Scaling:
    """Both laws, which of them is preferred, the next doubling by the log law, and the check on the last point."""

    log_law: LogLaw
    saturating: SaturatingLaw | None
    preferred: Literal["log", "saturating", "either"]
    next_x: float
    next_score: tuple[float, float, float]
    held_out: HeldOut | None


def fit_log_law(x: ArrayLike, scores: ArrayLike, level: float = 0.95) -> LogLaw:
    """Least squares of score on ln(x). Raises DataError for fewer than two different x, or x that are not above 0."""
    logs, y = np.log(_positive(x)), np.asarray(scores, dtype=np.float64)
    n, centre = len(y), float(logs.mean())
    squares = float(((logs - centre) ** 2).sum())
    slope = float(((logs - centre) * (y - y.mean())).sum() / squares)
    intercept = float(y.mean()) - slope * centre
    rss = float(((y - intercept - slope * logs) ** 2).sum())
    total = float(((y - y.mean()) ** 2).sum())
    if n > 2:
        sd = math.sqrt(rss / (n - 2))
        t = t_quantile(0.5 + level / 2, n - 2)
        half_slope = t * sd / math.sqrt(squares)
        half_intercept = t * sd * math.sqrt(1 / n + centre**2 / squares)
    else:
        sd, half_slope, half_intercept = math.nan, math.inf, math.inf
    return LogLaw(
        intercept,
        slope,
        (intercept - half_intercept, intercept + half_intercept),
        (slope - half_slope, slope + half_slope),
        sd,
        1 - rss / total if total else 1.0,
        aicc(rss, n, 3),
        n,
        level,
        centre,
        squares,
    )


def fit_saturating_law(x: ArrayLike, scores: ArrayLike) -> SaturatingLaw | None:
    """Least squares over a grid of exponents; ceiling and drop are linear given one. None below four different x."""
    values, y = _positive(x), np.asarray(scores, dtype=np.float64)
    if len(np.unique(values)) < 4:
        return None
    smallest = float(values.min())
    power_EN = (values / smallest) ** -EXPONENTS[:, None]
    centred_EN = power_EN - power_EN.mean(axis=1, keepdims=True)
    slope_E = centred_EN @ (y - y.mean()) / (centred_EN**2).sum(axis=1)
    rss_E = ((y - y.mean() - slope_E[:, None] * centred_EN) ** 2).sum(axis=1)
    best = int(rss_E.argmin())
    rss, drop, alpha = float(rss_E[best]), -float(slope_E[best]), float(EXPONENTS[best])
    ceiling = float(y.mean() + drop * power_EN[best].mean())
    sd = math.sqrt(rss / (len(y) - 3)) if len(y) > 3 else math.nan
    return SaturatingLaw(ceiling, drop, alpha, smallest, sd, aicc(rss, len(y), 4), len(y))


def scaling(x: ArrayLike, scores: ArrayLike, level: float = 0.95) -> Scaling:
    """Fit both laws, compare them by AICc, foretell twice the largest x, and check the last point held out.

    A law is preferred where its AICc is lower by 2 or more (Burnham and Anderson, Model Selection and Multimodel
    Inference, 2002); "either" where the points do not tell, which is always so below six of them. Points are taken in
    order of x. Raises DataError as `fit_log_law`.
    """
    values, y = _positive(x), np.asarray(scores, dtype=np.float64)
    if values.shape != y.shape:
        raise DataError(f"{len(values)} sizes and {len(y)} scores: should be as many")
    if not np.isfinite(y).all():
        raise DataError("a score is not a finite number")
    order = np.argsort(values, kind="stable")
    values, y = values[order], y[order]
    log_law, saturating = fit_log_law(values, y, level), fit_saturating_law(values, y)
    preferred: Literal["log", "saturating", "either"] = "either"
    if saturating is not None and math.isfinite(saturating.aicc) and abs(saturating.aicc - log_law.aicc) >= 2:
        preferred = "log" if log_law.aicc < saturating.aicc else "saturating"
    checks = hold_out(values, y, level)
    held_out = checks[-1] if checks else None
    next_x = 2 * float(values[-1])
    return Scaling(log_law, saturating, preferred, next_x, log_law.predict(next_x), held_out)


def hold_out(x: ArrayLike, scores: ArrayLike, level: float = 0.95) -> list[HeldOut]:
    """Every size foretold by the log law from the smaller ones alone, from the first that has three scores before it.

    Where there are several scores at a size their mean is compared, with the interval of a single one.
    """
    values, y = _positive(x), np.asarray(scores, dtype=np.float64)
    checks = []
    for size in np.unique(values):
        before = values < size
        if before.sum() > 2 and len(np.unique(values[before])) > 1:
            expected, low, high = fit_log_law(values[before], y[before], level).predict(float(size))
            checks.append(HeldOut(float(size), float(y[values == size].mean()), expected, low, high))
    return checks


def aicc(rss: float, n: int, parameters: int) -> float:
    """Akaike's criterion with the correction for few points; `parameters` counts the variance. Infinite for too few."""
    if n - parameters - 1 <= 0:
        return math.inf
    return n * math.log(max(rss, 1e-12) / n) + 2 * parameters + 2 * parameters * (parameters + 1) / (n - parameters - 1)


def _positive(x: ArrayLike) -> np.ndarray:
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all() or (values <= 0).any():
        raise DataError("sizes: should be finite numbers above 0")
    if len(np.unique(values)) < 2:
        raise DataError(f"{len(np.unique(values))} different sizes: a law needs 2 or more, an interval 3")
    return values
