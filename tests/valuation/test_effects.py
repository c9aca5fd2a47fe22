"""Effects: by hand where runs are balanced, and error rates by simulation whatever the seeds share."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sailctl.core.scaling.distributions import t_cdf
from sailctl.core.valuation.effects import fit


def test_balanced_runs_give_the_difference_of_means() -> None:
    found = fit([0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1], [50, 52, 53, 53, 50, 51])
    assert found.effects_A == pytest.approx([0, 2, -0.5])
    assert found.freedom == 3
    # Without shared luck the variance is (2 + 0 + 0.5) / 3 and the error of a difference that of 2 + 2 runs.
    unshared = found.errors_RA[0]
    assert unshared == pytest.approx([0, math.sqrt(2.5 / 3), math.sqrt(2.5 / 3)])


def test_shared_luck_is_cancelled() -> None:
    """Both arms move together from seed to seed: the pairs tell apart what the means alone do not."""
    luck = np.array([-3.0, -1.0, 2.0, 0.5, 1.5, -2.0])
    rest = np.array([0.05, -0.05, 0.1, -0.1, 0.02, -0.02])
    scores = [*(50 + luck), *(50.5 + luck + rest)]
    found = fit([0] * 6 + [1] * 6, [*range(6), *range(6)], scores)
    assert found.share > 0.85 and found.error(1) < 0.5
    assert found.p_above(1, 0.0) < 0.03
    apart = fit([0] * 6 + [1] * 6, [*range(12)], scores)
    assert apart.p_above(1, 0.0) > 0.3


def test_too_few_runs_show_nothing() -> None:
    found = fit([0, 1], [0, 0], [50, 60], count=3)
    assert found.p_above(1, 0.0) == 1.0 and found.error(1) == math.inf
    assert found.interval(1, 0.05) == (-math.inf, math.inf)
    assert not found.seen_A[2] and found.p_above(2, 0.0) == 1.0


def test_runs_without_noise_decide_at_once() -> None:
    found = fit([0, 0, 1, 1], [0, 1, 0, 1], [50, 50, 51, 51])
    assert found.p_above(1, 0.0) < 1e-6 < found.p_above(1, 1.5)


def test_the_variance_of_items_widens() -> None:
    found = fit([0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2], [50, 50.4, 49.8, 51, 51.4, 50.9])
    assert found.p_above(1, 0.0, extra=1.0) > found.p_above(1, 0.0)
    low, high = found.interval(1, 0.05, extra=1.0)
    assert high - low > 2 * (found.interval(1, 0.05)[1] - found.effects_A[1])


@pytest.mark.parametrize("design", [(3, 1, 1), (4, 2, 2), (4, 2), (2, 2, 2, 2), (6, 4, 4, 1, 1)])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_false_claims_keep_to_the_level(design: tuple[int, ...], share: float) -> None:
    """1,500 draws without effect: at most 6.7 % at the 5 % level (three standard errors above 5 %)."""
    rng = np.random.default_rng(7)
    arms = [arm for arm, count in enumerate(design) for _ in range(count)]
    seeds = [seed for count in design for seed in range(count)]
    false = 0
    for _ in range(1500):
        luck = math.sqrt(share) * rng.normal(size=max(design))
        scores = luck[seeds] + math.sqrt(1 - share) * rng.normal(size=len(arms))
        false += fit(arms, seeds, scores).p_above(len(design) - 1, 0.0) <= 0.05
    assert false / 1500 <= 0.067


def test_with_the_share_known_the_test_is_students() -> None:
    scores = [50.1, 49.3, 50.6, 51.2, 50.9, 51.5]
    found = fit([0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 4, 5], scores)  # no seed in common: no share to estimate
    gap, variance = 1.2, (np.var(scores[:3]) + np.var(scores[3:])) * 3 / 4
    assert found.p_above(1, 0.0) == pytest.approx(t_cdf(-gap / math.sqrt(variance * 2 / 3), 4), rel=0.02)
