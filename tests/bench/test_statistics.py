"""Intervals against published and hand-computed values, and against the truth they should cover."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sailctl.core.bench.statistics import (
    difference,
    holm,
    mcnemar,
    score_flat_mean,
    score_graded,
    score_yes_no,
    t95,
    weighted_mean,
    wilson,
    wilson_effective,
)
from sailctl.core.records import Score


def test_wilson_by_hand() -> None:
    low, high = wilson(15, 148)  # Newcombe 1998, Table I: 0.0624 to 0.1605
    assert (round(low, 4), round(high, 4)) == (0.0624, 0.1605)
    assert wilson(0, 20)[0] == 0.0
    assert wilson(0, 20)[1] == pytest.approx(0.1611, abs=1e-4)  # Newcombe 1998, Table I
    assert wilson(20, 20)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


CELLS = [(n, p) for n in (40, 300, 5000) for p in (0.02, 0.5, 0.98)]


@pytest.mark.parametrize(("n", "p"), CELLS)
def test_wilson_covers_93_to_97_5_percent(n: int, p: float) -> None:
    """Exactly, by adding up the probabilities of all outcomes whose interval holds the truth, and in 2,000 trials."""
    inside = np.array([low <= p <= high for low, high in (wilson(k, n) for k in range(n + 1))])
    k_N = np.arange(n + 1)
    logs = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in k_N]
    exact = float(np.exp(np.array(logs) + k_N * math.log(p) + (n - k_N) * math.log1p(-p))[inside].sum())
    assert 0.94 <= exact <= 0.965  # measured: 0.942 (n = 300, p = .02) to 0.962 (n = 40, p = .5)
    trials = np.random.default_rng([n, round(100 * p)]).binomial(n, p, size=2000)
    assert 0.93 <= inside[trials].mean() <= 0.975


def test_effective_wilson_is_wilson_for_yes_no_items() -> None:
    n, k = 4000, 77  # so many that t is z
    share = k / n
    assert wilson_effective(share, share * (1 - share) / n, n) == pytest.approx(wilson(k, n), abs=1e-5)
    assert wilson_effective(0.0, 0.0, n) == pytest.approx(wilson(0, n), abs=1e-5)
    assert wilson_effective(1.0, 0.0, n) == pytest.approx(wilson(n, n), abs=1e-5)


def test_effective_wilson_by_hand() -> None:
    # mean .5, variance .0025: as 100 yes/no items; of 10 units, with t(9)
    t = 2.262157
    half = t * (0.0025 + t * t / 40000) ** 0.5 / (1 + t * t / 100)
    assert wilson_effective(0.5, 0.0025, 10) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert wilson_effective(0.5, 0.0025, 1) == (0.0, 1.0)
    low, high = wilson_effective(0.5, 0.0, 100)  # no spread at all: as if one unit lay at an end
    assert 0.48 < low < 0.4925 and 0.5075 < high < 0.52


def test_quantiles_of_t() -> None:
    table = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 9: 2.2622, 30: 2.0423, 120: 1.9799, 10**6: 1.96}
    for freedom, value in table.items():
        assert t95(freedom) == pytest.approx(value, rel=2e-3 if freedom < 9 else 1e-4)


@pytest.mark.parametrize(("left", "right"), [(0, 0), (5, 0), (1, 6), (10, 10), (8, 21), (40, 70)])
def test_mcnemar_exactly(left: int, right: int) -> None:
    n = left + right
    tail = sum(Fraction(math.comb(n, k), 2**n) for k in range(min(left, right) + 1))
    assert mcnemar(left, right) == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-9)


def test_mcnemar_of_many() -> None:
    assert mcnemar(5000, 5000) == 1.0
    assert mcnemar(4800, 5200) == pytest.approx(6.6e-5, rel=0.05)  # normal: z = 3.99 with continuity
    assert mcnemar(0, 100000) == 0.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_weighted_mean_by_hand() -> None:
    scores = [Score(0.5, 10, (0.2, 0.8)), Score(0.9, 30, (0.8, 0.94))]
    found = weighted_mean(scores, [2, 5])
    assert (found.score, found.n) == (pytest.approx((2 * 0.5 + 5 * 0.9) / 7), 40)
    low = found.score - ((2 * 0.3) ** 2 + (5 * 0.1) ** 2) ** 0.5 / 7
    high = found.score + ((2 * 0.3) ** 2 + (5 * 0.04) ** 2) ** 0.5 / 7
    assert found.ci95 == pytest.approx((low, high))


def test_weighted_mean_covers() -> None:
    rng = np.random.default_rng(5)
    truth = np.array([0.02, 0.3, 0.6, 0.9, 0.97])
    inside = 0
    for hits in rng.binomial(100, truth, size=(1000, 5)):
        low, high = weighted_mean([Score(k / 100, 100, wilson(k, 100)) for k in hits], [1.0] * 5).ci95
        inside += low <= truth.mean() <= high
    assert 930 <= inside <= 970


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
