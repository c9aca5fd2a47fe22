"""Student's t, Fisher's F and the normal distribution, for there is no SciPy here; scalars in, scalars out."""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

_NORMAL = NormalDist()
_TINY = 1e-300


def normal_cdf(z: float) -> float:
    """P(Z <= z) of the standard normal."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def normal_quantile(p: float) -> float:
    """The z that P(Z <= z) = p holds for; infinite at 0 and at 1."""
    if not 0 < p < 1:
        return math.copysign(math.inf, p - 0.5)
    return _NORMAL.inv_cdf(p)


def beta_inc(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b) (continued fraction: Abramowitz and Stegun 26.5.8)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly
        return 1 - beta_inc(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x) - math.log(a)
    )
    # Lentz's method (Thompson and Barnett 1986).
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 400):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / _away_from_zero(1 + even * d)
        c = _away_from_zero(1 + even / c)
        value *= c * d
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / _away_from_zero(1 + odd * d)
        c = _away_from_zero(1 + odd / c)
        value *= c * d
        if abs(c * d - 1) < 1e-13:
            break
    return front * value


def t_cdf(t: float, freedom: float) -> float:
    """P(T <= t) of Student's t with `freedom` degrees of freedom; the normal's where that is infinite."""
    if math.isinf(t):
        return float(t > 0)
    if math.isinf(freedom):
        return normal_cdf(t)
    tail = 0.5 * beta_inc(freedom / 2, 0.5, freedom / (freedom + t * t))
    return 1 - tail if t > 0 else tail


@functools.lru_cache(maxsize=4096)
def t_quantile(p: float, freedom: float) -> float:
    """The t that P(T <= t) = p holds for, to 1e-10."""
    if math.isinf(freedom) or not 0 < p < 1:
        return normal_quantile(p)
    if p < 0.5:
        return -t_quantile(1 - p, freedom)
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < p:
        low, high = high, 2 * high
    while high - low > 1e-10 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def f_sf(f: float, numerator: float, denominator: float) -> float:
    """P(F > f) of Fisher's F with the two degrees of freedom."""
    return 1.0 if f <= 0 else beta_inc(denominator / 2, numerator / 2, denominator / (denominator + numerator * f))


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
