"""False discoveries controlled online: each test's level depends on the decisions before it, never on later ones.

LOND (Javanmard and Montanari, Annals of Statistics 46, 2018): level t is gamma_t x q x (discoveries so far + 1), with
gammas that sum to 1. The false discovery rate stays below q for independent p-values and for positively dependent ones
(PRDS: Zrnic, Ramdas and Jordan, JMLR 22, 2021), as are one-sided tests that share a baseline.
"""

from __future__ import annotations

import math

from sailctl.core.errors import UsageError


class Lond:
    """Levels of a sequence of tests: `level()` for the next, then `decide(found)`.

    With a `horizon` of m tests gamma_t = 1 / (t (1 + 1/2 + .. + 1/m)), which keeps the level while every test so far
    found something. Without, the sequence may go on for ever: gamma_t is proportional to 1 / (t log^2(t + 1)).
    """

    def __init__(self, rate: float, horizon: int | None = None) -> None:
        if not 0 < rate < 1:
            raise UsageError(f"fdr = {rate}: should be within (0, 1)")
        self.rate, self.horizon = rate, horizon
        self.tests = self.found = 0
        if horizon is None:
            # The tail beyond N terms is below 1 / log(N + 1), so that this sum is no less than the endless one.
            terms = 100_000
            self._sum = sum(1 / (t * math.log(t + 1) ** 2) for t in range(1, terms)) + 1 / math.log(terms)
        else:
            self._sum = sum(1 / t for t in range(1, horizon + 1))

    def level(self) -> float:
        """The level of the next test; 0 beyond the horizon."""
        t = self.tests + 1
        if self.horizon is not None and t > self.horizon:
            return 0.0
        shape = 1 / t if self.horizon is not None else 1 / (t * math.log(t + 1) ** 2)
        return min(1.0, shape / self._sum * self.rate * (self.found + 1))

    def decide(self, found: bool) -> None:
        """Note the next test's result."""
        self.tests += 1
        self.found += found
