"""Intervals against published and hand-computed values, and against the truth they should cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sailctl.core.bench.statistics import difference, score_flat_mean, score_graded, score_yes_no, wilson


def test_wilson_by_hand() -> None:
    low, high = wilson(15, 148)  # Newcombe 1998, Table I: 0.0624 to 0.1605
    assert (round(low, 4), round(high, 4)) == (0.0624, 0.1605)
    assert wilson(0, 20)[0] == 0.0
    assert wilson(0, 20)[1] == pytest.approx(0.1611, abs=1e-4)  # Newcombe 1998, Table I
    assert wilson(20, 20)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


def test_yes_no_score_carries_its_size() -> None:
    score = score_yes_no([1.0, 0.0, 1.0, 1.0])
    assert (score.score, score.n) == (0.75, 4)
    assert score.ci95 == wilson(3, 4)


def test_graded_interval_matches_the_normal_one_where_that_holds() -> None:
    values = np.random.default_rng(1).beta(2, 2, size=400)
    score = score_graded(values)
    half = 1.96 * values.std() / 20
    assert score.ci95[0] == pytest.approx(score.score - half, abs=0.005)
    assert score.ci95[1] == pytest.approx(score.score + half, abs=0.005)


def test_flat_mean_counts_tasks_not_items() -> None:
    score = score_flat_mean([[1.0] * 10, [0.0, 0.5] * 50])
    assert score.score == pytest.approx((1.0 + 0.25) / 2)
    assert score.n == 110
    assert score.ci95[0] < score.score < score.ci95[1]


def test_made_up_observations_by_hand() -> None:
    # 0 of 2 and two made up at each end: 2/6 ± 1.96 sqrt(2/6 * 4/6 / 6), cut at 0
    assert score_graded([0.0, 0.0]).ci95 == pytest.approx((0.0, 1 / 3 + 1.959964 * (2 / 9 / 6) ** 0.5))
    # ten tasks of 0 of 2, each with 0.2 at both ends: 0.2/2.4 ± 1.96 sqrt(10 * (0.2 * 2.2 / 2.4^2) / 2.4) / 10
    high = 1 / 12 + 1.959964 * (10 * (0.2 * 2.2 / 2.4**2) / 2.4) ** 0.5 / 10
    assert score_flat_mean([[0.0, 0.0]] * 10).ci95 == pytest.approx((0.0, high))
    # three pairs that do not differ, one made up at -1 and one at 1: ± 1.96 sqrt(2/5 / 5)
    assert difference([[1.0] * 3], [[1.0] * 3]) == (0.0, pytest.approx((-0.554361, 0.554361)))


def test_no_spread_still_has_an_interval() -> None:
    low, high = score_graded([0.0] * 30).ci95
    assert low == 0.0 and high == pytest.approx(wilson(0, 30)[1], abs=0.03)
    assert score_flat_mean([[0.0, 0.0], [1.0, 1.0]] * 5).ci95 == pytest.approx((0.39, 0.61), abs=0.01)
    assert score_flat_mean([]).ci95 == (0.0, 1.0)


def test_difference_is_paired() -> None:
    base = np.random.default_rng(2).random(200) * 0.8
    mean, (low, high) = difference([base + 0.1], [base])
    assert mean == pytest.approx(0.1)
    assert low < 0.1 < high and high - low < 0.04  # unpaired, the interval would be ±0.05
    with pytest.raises(ValueError, match="same items"):
        difference([[1.0]], [[1.0, 0.0]])


@pytest.mark.parametrize("n", [2, 3, 10, 100])
def test_intervals_cover_about_95_percent_however_few_the_items(n: int) -> None:
    rng = np.random.default_rng(3)
    truth = np.array([0.02, 0.1, 0.1, 0.3, 0.45, 0.5, 0.8, 0.85, 0.93, 1.0])
    overall = graded = gain = 0
    for _ in range(400):
        tasks = [(rng.random(n) < share).astype(float) for share in truth]
        low, high = score_flat_mean(tasks).ci95
        overall += low <= truth.mean() <= high
        low, high = score_graded(rng.beta(1, 3, size=n)).ci95
        graded += low <= 0.25 <= high
        blind = [(rng.random(n) < 0.1).astype(float) for _ in truth]
        low, high = difference(tasks, blind)[1]
        gain += low <= truth.mean() - 0.1 <= high
    assert min(overall, graded, gain) >= 366  # 95% of 400 is 380; three standard deviations below


@settings(max_examples=30)
@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=20), min_size=1, max_size=4))
def test_the_interval_holds_the_score(tasks: list[list[float]]) -> None:
    score = score_flat_mean(tasks)
    assert 0.0 <= score.ci95[0] <= score.score + 1e-12
    assert score.score - 1e-12 <= score.ci95[1] <= 1.0
