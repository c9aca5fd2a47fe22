"""Quantiles and tails against tables and closed forms."""

from __future__ import annotations

import math

import pytest

from sailctl.core.scaling.distributions import beta_inc, f_sf, normal_cdf, normal_quantile, t_cdf, t_quantile


@pytest.mark.parametrize(
    ("p", "freedom", "value"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.95, 4, 2.13185), (0.975, 10, 2.22814), (0.995, 30, 2.75000)],
)
def test_t_quantiles_of_the_tables(p: float, freedom: float, value: float) -> None:
    assert t_quantile(p, freedom) == pytest.approx(value, abs=1e-4)
    assert t_quantile(1 - p, freedom) == pytest.approx(-value, abs=1e-4)
    assert t_cdf(value, freedom) == pytest.approx(p, abs=1e-5)


def test_t_is_cauchy_with_one_degree_and_normal_with_endless() -> None:
    for t in (-30.0, -1.0, 0.0, 0.3, 4.0):
        assert t_cdf(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-12)
        assert t_cdf(t, math.inf) == normal_cdf(t)
    assert t_quantile(0.9, math.inf) == normal_quantile(0.9) == pytest.approx(1.2815516)


def test_f_of_the_tables() -> None:
    assert f_sf(3.0088, 3, 24) == pytest.approx(0.05, abs=1e-4)
    assert f_sf(4.2565, 2, 9) == pytest.approx(0.05, abs=1e-4)
    assert f_sf(0.0, 2, 9) == 1.0


def test_incomplete_beta_of_whole_numbers_is_a_binomial_tail() -> None:
    tail = sum(math.comb(9, k) * 0.3**k * 0.7 ** (9 - k) for k in range(4, 10))
    assert beta_inc(4, 6, 0.3) == pytest.approx(tail, abs=1e-12)
    assert (beta_inc(2, 3, 0.0), beta_inc(2, 3, 1.0)) == (0.0, 1.0)


def test_quantiles_at_the_ends_are_infinite() -> None:
    assert normal_quantile(0.0) == -math.inf and normal_quantile(1.0) == math.inf
