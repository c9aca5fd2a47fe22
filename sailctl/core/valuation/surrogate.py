"""What small rungs and full-size runs together say about full-size effects: for ordering and for giving up, not claims.

A Gaussian model of several fidelities (Kennedy and O'Hagan, Biometrika 87, 2000): an arm's effects at the rungs are
correlated from one rung to the next by sin(pi tau / 2), with tau Kendall's between neighbouring rungs (Greiner's
relation for normal variables), spread around a mean common to the arms. Correlation, spread and the scale of small
rungs are averaged over a grid, weighted by how well they explain what was seen: where rungs turn out to say little
about one another or about the full size, they count for little.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sailctl.core.scaling.distributions import normal_cdf
from sailctl.core.valuation.effects import Fit

TAUS = ((0.5, 0.2), (0.8, 0.6), (0.95, 0.2))  # Kendall's tau from rung to rung and its prior weight
SPREADS = ((0.4, 0.4), (0.9, 0.6))  # standard deviation of effects, in units of the effect worth finding
SCALES = ((0.6, 0.3), (1.0, 0.7))  # effects at small rungs relative to those at the full size


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """A rung's fit, and which arm each of its entries tells about."""

    rung: int
    fit: Fit
    arms: Mapping[int, int]


@dataclass(frozen=True, eq=False, slots=True)
class Belief:
    """Normal mixtures of every arm's full-size effect in points: weights_M, means_MA, deviations_MA; arm 0 is 0."""

    weights_M: np.ndarray
    means_MA: np.ndarray
    deviations_MA: np.ndarray

    def mean(self, arm: int) -> float:
        """Expected full-size effect in points."""
        return float(self.weights_M @ self.means_MA[:, arm])

    def chance_above(self, arm: int, bound: float) -> float:
        """Chance that the full-size effect is above `bound`."""
        return float(
            sum(
                weight * normal_cdf((mean - bound) / deviation)
                for weight, mean, deviation in zip(
                    self.weights_M, self.means_MA[:, arm], self.deviations_MA[:, arm], strict=True
                )
            )
        )


def believe(views: Sequence[View], arms: int, full: int, worth: float) -> Belief:
    """Beliefs about the full-size effects of `arms` arms from what the rungs showed; `full` is the last rung's number.

    Where a fit has few degrees of freedom, its variance is that of all rungs together.
    """
    total = sum(view.fit.freedom for view in views)
    pooled = sum(view.fit.variance * view.fit.freedom for view in views) / total if total else worth**2
    seen = [
        (number, entry, arm)
        for number, view in enumerate(views)
        for entry, arm in sorted(view.arms.items())
        if entry and view.fit.seen_A[entry]
    ]
    if not seen:
        return Belief(np.ones(1), np.zeros((1, arms)), np.full((1, arms), worth))
    y_O = np.array([views[number].fit.effects_A[entry] for number, entry, _ in seen])
    noise_OO = np.zeros((len(seen), len(seen)))
    for number, view in enumerate(views):
        places = [place for place, one in enumerate(seen) if one[0] == number]
        entries = [seen[place][1] for place in places]
        # A few degrees of freedom say little about the variance; the pooled one counts as much as four.
        if view.fit.freedom:
            shrunk = (view.fit.variance * view.fit.freedom + 4 * pooled) / (view.fit.freedom + 4)
            block = view.fit.covariance_AA[np.ix_(entries, entries)] * (shrunk / view.fit.variance)
        else:
            block = pooled * (np.eye(len(entries)) + 1.0)
        noise_OO[np.ix_(places, places)] = block
    rung_O = np.array([views[number].rung for number, _, _ in seen])
    arm_O = np.array([arm for _, _, arm in seen])
    apart_OO, toward_O = np.abs(rung_O[:, None] - rung_O[None, :]), full - rung_O
    # A mean common to the arms: half of the spread's variance again, shared.
    same_OO = (arm_O[:, None] == arm_O[None, :]) + 0.5
    same_AO = (np.arange(arms)[:, None] == arm_O[None, :]) + 0.5

    logs, means, deviations = [], [], []
    for (tau, w1), (spread, w2), (scale, w3) in itertools.product(TAUS, SPREADS, SCALES):
        rho, variance = math.sin(math.pi * tau / 2), (spread * worth) ** 2
        scale_O = np.where(rung_O == full, 1.0, scale)
        prior_OO = variance * rho**apart_OO * same_OO * scale_O[:, None] * scale_O[None, :]
        cross_AO = variance * rho ** toward_O[None, :] * same_AO * scale_O[None, :]
        lower_OO = np.linalg.cholesky(prior_OO + noise_OO + 1e-9 * np.eye(len(seen)))
        white_O = np.linalg.solve(lower_OO, y_O)
        gain_OA = np.linalg.solve(lower_OO, cross_AO.T)
        logs.append(math.log(w1 * w2 * w3) - 0.5 * white_O @ white_O - np.log(np.diag(lower_OO)).sum())
        means.append(white_O @ gain_OA)
        deviations.append(np.sqrt(np.maximum(1.5 * variance - (gain_OA**2).sum(axis=0), 1e-12)))
    weights = np.exp(np.array(logs) - max(logs))
    return Belief(weights / weights.sum(), np.array(means), np.array(deviations))
