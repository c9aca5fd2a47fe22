"""Correlations: by hand, exact tests, and coverage of the intervals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sailctl.core.errors import DataError
from sailctl.core.scaling.correlation import kendall, pearson


def test_pearson_by_hand() -> None:
    # Deviations (-2, -1, 0, 1, 2) and (-2, 0, -1, 1, 2): products 9, squares 10 and 10.
    found = pearson([1, 2, 3, 4, 5], [1, 3, 2, 4, 5])
    assert found.value == pytest.approx(0.9)
    # atanh 0.9 = 1.472219, half width 1.959964 / sqrt 2 = 1.385904
    assert (found.low, found.high) == pytest.approx((0.0861, 0.9935), abs=1e-4)
    assert found.p_value == pytest.approx(0.0374, abs=1e-4)  # t = 0.9 sqrt(3 / 0.19) = 3.5762, 3 degrees of freedom
    assert found.squared[0] == pytest.approx(0.81)


def test_a_perfect_line_and_what_cannot_correlate() -> None:
    assert pearson([1, 2, 4], [2, 4, 8]).value == pytest.approx(1.0)
    three = pearson([1, 2, 3], [1, 3, 2])
    assert (three.low, three.high) == (-1.0, 1.0)
    assert pearson([1, 2, 3, 4], [1, -1, 1, -1.5]).squared[1] == 0.0  # the interval of rho holds 0
    with pytest.raises(DataError, match="needs 3"):
        pearson([1, 2], [1, 2])
    with pytest.raises(DataError, match="constant"):
        pearson([1, 2, 3], [4, 4, 4])
    with pytest.raises(DataError, match="3 and 2 values"):
        pearson([1, 2, 3], [4, 4])


def test_fisher_interval_covers_as_often_as_it_says() -> None:
    rng, inside = np.random.default_rng(0), 0
    for _ in range(1000):
        x = rng.normal(size=12)
        y = 0.7 * x + np.sqrt(1 - 0.49) * rng.normal(size=12)
        found = pearson(x, y)
        inside += found.low <= 0.7 <= found.high
    assert 930 <= inside <= 970  # 95 %, three standard errors of 0.69 %


def test_kendall_by_hand() -> None:
    # 1 of 6 pairs disagrees: tau = 4 / 6; of the 24 orders 1 has none that disagree and 3 have one.
    assert kendall([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx((4 / 6, 4 / 24))
    assert kendall([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx((-1.0, 1.0))
    # tau-b with a tie: 2 agreeing pairs of 3 and 2 comparable.
    assert kendall([1, 2, 3], [1, 1, 2])[0] == pytest.approx(2 / np.sqrt(6))
    assert kendall([1, 1], [1, 2]) == (0.0, 1.0)


def test_kendall_normal_test_meets_the_exact_one() -> None:
    """Nine pairs: the normal test against all 9! orders, counted by inversions (Mahonian numbers)."""
    counts = [1]
    for size in range(2, 10):
        counts = [
            sum(counts[k - j] for j in range(size) if 0 <= k - j < len(counts)) for k in range(len(counts) + size - 1)
        ]
    order = [0, 2, 1, 3, 5, 4, 7, 6, 8]
    inversions = sum(a > b for a, b in itertools.combinations(order, 2))
    exact = sum(counts[: inversions + 1]) / sum(counts)
    tau, p_value = kendall(range(9), order)
    assert tau == pytest.approx(1 - 2 * inversions / 36)
    assert p_value == pytest.approx(exact, abs=0.002)
