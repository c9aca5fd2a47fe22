"""Error spending: against known boundaries and against simulated Brownian motion; online false discovery levels."""

from __future__ import annotations

import numpy as np
import pytest

from sailctl.core.errors import UsageError
from sailctl.core.scaling.distributions import normal_quantile
from sailctl.core.valuation.fdr import Lond
from sailctl.core.valuation.sequential import Spending, planned_information


def test_two_looks_against_published_boundaries() -> None:
    """alpha 0.025, spent alpha t: 2.2414 and 2.125 at half and all of the information (no giving up)."""
    test = Spending(0.025, 0.0, 1.0, 1.0)
    levels = [test.look(0.5)[0], test.look(1.0)[0]]
    assert -normal_quantile(levels[0]) == pytest.approx(2.2414, abs=0.003)
    assert -normal_quantile(levels[1]) == pytest.approx(2.125, abs=0.01)
    assert test.finished and test.look(2.0) == (0.0, 1.0)


@pytest.mark.parametrize(("alpha", "power"), [(0.05, 0.9), (0.15, 0.94), (0.01, 0.8)])
def test_both_errors_are_what_they_should_be(alpha: float, power: float) -> None:
    """200,000 paths looked at unevenly: within 5 % of alpha, and of the planned misses within 2 points."""
    planned = planned_information(alpha, power, 1.0, 1.0)
    times = np.array([0.12, 0.3, 0.31, 0.55, 0.8, 1.0])
    test = Spending(alpha, 1 - power, 1.0, planned)
    looks = [test.look(float(t) * planned) for t in times]
    assert looks[2] == (0.0, 1.0)  # added too little
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(200_000, len(times))) * np.sqrt(np.diff([0.0, *times]))
    for effect in (0.0, 1.0):
        z = np.cumsum(steps, axis=1) / np.sqrt(times) + effect * np.sqrt(planned * times)
        alive, claimed = np.ones(len(z), bool), np.zeros(len(z), bool)
        for number, (level, futile) in enumerate(looks):
            if level:
                claimed |= alive & (z[:, number] >= -normal_quantile(level))
                alive &= (z[:, number] < -normal_quantile(level)) & (z[:, number] > -normal_quantile(futile))
        assert not alive.any()
        if effect:
            assert claimed.mean() == pytest.approx(power, abs=0.02)
        else:
            assert claimed.mean() == pytest.approx(alpha, rel=0.05)


def test_more_power_and_smaller_effects_take_more() -> None:
    assert planned_information(0.05, 0.9, 1.0) > planned_information(0.05, 0.8, 1.0)
    assert planned_information(0.05, 0.8, 0.5) == pytest.approx(4 * planned_information(0.05, 0.8, 1.0), rel=1e-3)


def test_lond_levels_by_hand() -> None:
    levels = Lond(0.2, horizon=4)  # 1 + 1/2 + 1/3 + 1/4 = 25 / 12
    assert levels.level() == pytest.approx(0.2 * 12 / 25)
    levels.decide(True)
    assert levels.level() == pytest.approx(0.2 * 12 / 25)  # half the gamma, two instead of one
    levels.decide(False)
    assert levels.level() == pytest.approx(0.2 * 12 / 25 * 2 / 3)
    levels.decide(False)
    levels.decide(False)
    assert levels.level() == 0.0  # beyond the horizon
    with pytest.raises(UsageError, match=r"fdr = 1\.5"):
        Lond(1.5)


def test_endless_levels_never_spend_more_than_the_rate() -> None:
    levels, total = Lond(0.1), 0.0
    for _ in range(2000):
        total += levels.level()
        levels.decide(False)
    assert 0.08 < total < 0.1


def test_lond_controls_false_discoveries() -> None:
    """400 streams of 20 tests, a quarter of them true: their mean share of false ones stays below the rate."""
    rng, shares = np.random.default_rng(3), []
    for _ in range(400):
        levels, false, found = Lond(0.2, horizon=20), 0, 0
        for _ in range(20):
            true = rng.random() < 0.25
            claimed = (
                0.5 * np.exp(-0.717 * z - 0.416 * z * z) <= levels.level() if (z := rng.normal(3 * true)) > 0 else False
            )
            levels.decide(claimed)
            found, false = found + claimed, false + (claimed and not true)
        shares.append(false / max(1, found))
    assert np.mean(shares) <= 0.2
