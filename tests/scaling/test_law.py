"""Laws of scaling: by hand, coverage of the intervals, which law is preferred, and the paper's own curves' shape."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sailctl.core.errors import DataError
from sailctl.core.scaling.law import aicc, fit_log_law, fit_saturating_law, hold_out, scaling

SIZES = np.array([1, 2, 4, 8, 16, 32, 64]) * 1e6


def test_by_hand() -> None:
    # ln x = 0, 1, 2 and scores 1, 2, 4: slope 1.5, mean 7 / 3, residuals 1/6, -1/3, 1/6, their squares 1/6.
    law = fit_log_law([1, math.e, math.e**2], [1, 2, 4])
    assert law.slope == pytest.approx(1.5) and law.intercept == pytest.approx(5 / 6)
    assert law.residual_sd == pytest.approx(math.sqrt(1 / 6))
    half = 12.7062 * math.sqrt(1 / 6) / math.sqrt(2)  # Student's t with one degree of freedom
    assert law.slope_ci == pytest.approx((1.5 - half, 1.5 + half), abs=1e-3)
    assert law.r_squared == pytest.approx(1 - (1 / 6) / (14 / 3))
    value, low, high = law.predict(math.e**3)
    assert value == pytest.approx(5 / 6 + 4.5)
    assert (high - low) / 2 == pytest.approx(12.7062 * math.sqrt(1 / 6) * math.sqrt(1 + 1 / 3 + 4 / 2), rel=1e-4)
    assert law.per_doubling == pytest.approx(1.5 * math.log(2))


def test_two_points_make_a_line_without_an_interval() -> None:
    law = fit_log_law([1, 10], [50, 60])
    assert law.at(100) == pytest.approx(70)
    assert law.slope_ci == (-math.inf, math.inf) and law.predict(100)[1:] == (-math.inf, math.inf)


def test_intervals_cover_as_often_as_they_say() -> None:
    rng, slopes, doublings = np.random.default_rng(1), 0, 0
    for _ in range(1000):
        scores = 10 + 3 * np.log(SIZES) + rng.normal(0, 0.6, len(SIZES))
        law = fit_log_law(SIZES, scores)
        slopes += law.slope_ci[0] <= 3 <= law.slope_ci[1]
        _, low, high = law.predict(128e6)
        doublings += low <= 10 + 3 * math.log(128e6) + rng.normal(0, 0.6) <= high
    assert 930 <= slopes <= 970 and 930 <= doublings <= 970  # 95 %, three standard errors


def test_the_law_behind_the_points_is_preferred() -> None:
    rng, preferred = np.random.default_rng(2), {"log": 0, "saturating": 0, "either": 0}
    sizes = np.geomspace(1e5, 1e8, 12)
    for _ in range(100):
        preferred[scaling(sizes, 70 - 20 * (sizes / 1e5) ** -0.8 + rng.normal(0, 0.3, 12)).preferred] += 1
    assert preferred["saturating"] == 100
    preferred = dict.fromkeys(preferred, 0)
    for _ in range(100):
        preferred[scaling(sizes, 10 + 3 * np.log(sizes) + rng.normal(0, 0.3, 12)).preferred] += 1
    assert preferred["saturating"] <= 5 and preferred["log"] >= 50
    assert scaling(SIZES[:5], 3 * np.log(SIZES[:5])).preferred == "either"  # five points do not tell


def test_a_saturating_law_is_found() -> None:
    law = fit_saturating_law(SIZES, 70 - 20 * (SIZES / 1e6) ** -0.5)
    assert law is not None
    assert (law.ceiling, law.drop, law.alpha) == pytest.approx((70, 20, 0.5), rel=0.02)
    assert law.at(1e6) == pytest.approx(50, abs=0.1)
    assert fit_saturating_law([1, 2, 4], [1, 2, 3]) is None


def test_the_last_point_is_held_out_and_the_next_doubling_foretold() -> None:
    scores = 10 + 3 * np.log(SIZES) + np.array([0.1, -0.1, 0.05, -0.05, 0.1, -0.1, 0.0])
    found = scaling(SIZES[::-1], scores[::-1])
    assert found.held_out is not None and found.held_out.inside and found.held_out.x == 64e6
    assert found.held_out.expected == pytest.approx(fit_log_law(SIZES[:-1], scores[:-1]).at(64e6))
    assert found.next_x == 128e6 and found.next_score[1] < 10 + 3 * math.log(128e6) < found.next_score[2]
    bent = scaling(SIZES, [*scores[:-1], scores[-1] - 5])
    assert bent.held_out is not None and not bent.held_out.inside


def test_aicc_by_hand() -> None:
    assert aicc(10.0, 5, 3) == pytest.approx(5 * math.log(2) + 6 + 24)
    assert aicc(10.0, 4, 3) == math.inf


@pytest.mark.parametrize(
    ("sizes", "scores", "message"),
    [
        ([1, 2, 0], [1, 2, 3], "above 0"),
        ([2, 2, 2], [1, 2, 3], "1 different sizes"),
        ([1, 2, 3], [1, 2], "3 sizes and 2 scores"),
        ([1, 2, 3], [1, 2, math.nan], "no finite|not a finite"),
    ],
)
def test_what_is_no_curve_is_refused(sizes: list[float], scores: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        scaling(sizes, scores)


def test_the_lines_interval_is_narrower_than_that_of_a_score() -> None:
    # As above: the line's own spread is sqrt(1/n + distance²/squares) residuals, a score adds one residual.
    law = fit_log_law([1, math.e, math.e**2], [1, 2, 4])
    value, low, high = law.mean(math.e)
    assert value == pytest.approx(7 / 3)
    assert (high - low) / 2 == pytest.approx(12.7062 * math.sqrt(1 / 6) * math.sqrt(1 / 3), rel=1e-4)
    _, wider_low, wider_high = law.predict(math.e)
    assert wider_low < low < high < wider_high


def test_every_size_is_foretold_from_the_smaller_ones() -> None:
    scores = 3 * np.log(SIZES)
    scores[-1] += 5  # the last one is off the line
    checks = hold_out(SIZES, scores)
    assert [check.x for check in checks] == list(SIZES[3:])
    assert [check.expected for check in checks] == pytest.approx(list(3 * np.log(SIZES[3:])))
    assert not checks[-1].inside and checks[-1] == scaling(SIZES, scores).held_out
    twice = hold_out([*SIZES[:4], SIZES[3]], [1, 2, 3, 4.5, 5.5])  # two runs of a size are compared by their mean
    assert [check.score for check in twice] == [5.0]
    assert hold_out(SIZES[:3], [1, 2, 3]) == []
