"""Group-sequential tests: how much error each look at growing data may spend, so that all looks together keep to alpha.

Error spending (Lan and DeMets, Biometrika 70, 1983) on information 1 / error^2 (Mehta and Tsiatis, Drug Information
Journal 35, 2001), with the power family alpha t^g (Kim and DeMets, Biometrika 74, 1987), for the claim as well as for
giving it up (Pampallona, Tsiatis and Kim, Drug Information Journal 35, 2001). Boundaries come from the recursion of
Armitage, McPherson and Rowe (JRSS A 132, 1969) for the Brownian motion that estimates follow as runs are added; with an
estimated variance the nominal levels are used on Student's p-values (Jennison and Turnbull, Group Sequential Methods,
1999, chapter 4.4). Giving up is binding: the levels for claims count on it.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from sailctl.core.scaling.distributions import normal_cdf, normal_quantile

STEPS = 401  # points of the density's grid: errors are right to 1 % of themselves
REACH = 7.0  # the grid reaches so many standard deviations below 0 and above the drift
SMALLEST_GAIN = 0.02  # looks that add less of the planned information are not worth spending error on
ENOUGH = 8.0  # degrees of freedom of a test's last look
Look = tuple[float, float]  # claim at p-values up to the first, give up at p-values from the second


class Spending:
    """One test's errors over its looks: `look(information)` says at which p-values to claim and to give up.

    The claim is an effect above a bound, at error `alpha`; an effect that lies `effect` points above it is missed with
    probability `beta`. All is spent at the `planned` information (1 / points squared).
    """

    def __init__(self, alpha: float, beta: float, effect: float, planned: float, shape: float = 1.0) -> None:
        self.alpha, self.beta, self.planned, self.shape = alpha, beta, planned, shape
        self.drift = effect * math.sqrt(planned)
        self.fraction = 0.0  # of the planned information, at the last look
        self.claimed = self.missed = 0.0  # error spent so far: under no effect, under the whole effect
        self._points = np.zeros(1)  # where the score process may be, not having stopped, and with what probability
        self._masses = np.ones(1)

    @property
    def finished(self) -> bool:
        """Whether all planned information is in."""
        return self.fraction >= 1.0

    def look(self, information: float, freedom: float = math.inf) -> Look:
        """What may stop here; (0, 1), which is nothing, where little was added since the last look.

        With few degrees of freedom Student's t shows little, however small the errors: a test does not end before 8.
        """
        fraction = min(1.0, information / self.planned, freedom / ENOUGH)
        gain = fraction - self.fraction
        if gain <= 0 or (gain < SMALLEST_GAIN and fraction < 1.0):
            return 0.0, 1.0
        spread = math.sqrt(fraction)
        points = np.linspace(-REACH * spread, REACH * spread + self.drift * fraction, STEPS)
        step = points[1] - points[0]
        moved = np.exp(-0.5 * (points[:, None] - self._points[None, :]) ** 2 / gain)
        masses = moved @ self._masses * (step / math.sqrt(2 * math.pi * gain))
        # The same under the effect: Brownian motion with drift has this density against the one without.
        tilted = masses * np.exp(self.drift * points - 0.5 * self.drift**2 * fraction)
        upper = -_quantile(-points[::-1], masses[::-1], self.alpha * fraction**self.shape - self.claimed)
        lower = _quantile(points, tilted, self.beta * fraction**self.shape - self.missed)
        lower = upper if fraction >= 1.0 else min(lower, upper)
        inside = np.clip((upper - points) / step + 0.5, 0.0, 1.0) * np.clip((points - lower) / step + 0.5, 0.0, 1.0)
        self._points, self._masses = points, masses * inside
        self.claimed = self.alpha * fraction**self.shape
        self.missed += float(tilted @ np.clip((lower - points) / step + 0.5, 0.0, 1.0))
        self.fraction = fraction
        return normal_cdf(-upper / spread), normal_cdf(-lower / spread)


@functools.cache
def planned_information(alpha: float, power: float, effect: float, shape: float = 1.0, looks: int = 5) -> float:
    """Information (1 / points squared) with which `looks` even looks find `effect` (points) with this power."""
    low = ((normal_quantile(1 - alpha) + normal_quantile(power)) / effect) ** 2
    high = 2 * low
    for _ in range(24):
        middle = (low + high) / 2
        test = Spending(alpha, 1 - power, effect, middle, shape)
        for number in range(1, looks + 1):
            test.look(middle * number / looks)
        low, high = (middle, high) if test.missed > 1 - power else (low, middle)
    return high


def _quantile(points: np.ndarray, masses: np.ndarray, mass: float) -> float:
    """Below which point this much mass lies; interpolated by logarithm between cells of rising points."""
    below = np.cumsum(masses) - 0.5 * masses
    place = int(np.searchsorted(below, mass))
    if mass <= 0 or place == 0:
        return float(points[0])
    if place == len(points):
        return float(points[-1])
    low, high = math.log(max(below[place - 1], 1e-300)), math.log(max(below[place], 1e-300))
    return float(points[place - 1] + (points[place] - points[place - 1]) * (math.log(mass) - low) / (high - low))
