"""A simulator of training outcomes behind the seam: it knows the truth that the decisions are held against.

A trial's score at rung r is  level(r) + sum of effects of what is in (or halved in) the mixture + luck + item noise.

- effects: at the full size as given; at smaller rungs jumbled so that neighbouring rungs have Kendall's `tau` (normal
  copula: correlation sin(pi tau / 2)), times `scale` plus `bias`;
- luck: standard deviation `seed_sd` points a run, a share `common` of its variance the same for all mixtures trained
  with the same seed (what pairing cancels);
- item noise: binomial for `n` items at the level's score, independent from run to run except for a share
  `items_shared` of its variance that the items bring along to all runs alike (what pairing of items cancels).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sailctl.core.valuation.seam import Outcome, Trial


@dataclass(slots=True)
class Simulator:
    """`effects` (points at full size) by what is done: "+name" where a dataset is in, "-name" where a group is halved.

    `base` is the mixture that has effect 0, in shares of its groups.
    """

    base: Mapping[str, float]
    effects: Mapping[str, float]
    rungs: Sequence[int]
    seed: int = 0
    seed_sd: float = 0.6
    common: float = 0.0
    n: int = 30_000
    items_shared: float = 0.6
    tau: float = 0.8
    scale: float = 1.0
    bias: float = 0.0
    heavy: float = 0.0  # degrees of freedom of Student's t luck, 0 for normal
    trained: int = 0
    _at: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng([self.seed, 1])
        rho = math.sin(math.pi * self.tau / 2)
        values = np.array(list(self.effects.values()), dtype=float)
        spread = max(float(values.std()), 0.3) if len(values) else 1.0
        centre = float(values.mean()) if len(values) else 0.0
        now, columns = values, [values]
        for _ in self.rungs[1:]:
            # Regression towards the mean of the next rung, so that the spread of effects stays what it is.
            now = centre + rho * (now - centre) + math.sqrt(1 - rho**2) * spread * rng.normal(size=len(values))
            columns.append(now)
        for place, name in enumerate(self.effects):
            small_first = [float(column[place]) for column in reversed(columns)]
            self._at[name] = [self.scale * value + self.bias for value in small_first[:-1]] + small_first[-1:]

    def truth(self, mixture: Mapping[str, int], rung: int) -> float:
        total, value = sum(mixture.values()), 55.0 + 2.0 * math.log10(sum(mixture.values()))
        inside = {name: mixture.get(name, 0) / total for name in self.base}
        present = sum(inside.values())
        for name, by_rung in self._at.items():
            group = name[1:]
            if name[0] == "+" and mixture.get(group, 0):
                value += by_rung[rung]
            elif name[0] == "-":
                # Halved: its odds against the rest of the base are half of what they were.
                odds, was = (share / (1 - share) for share in (inside[group] / present, self.base[group]))
                value += by_rung[rung] * min(1.0, max(0.0, 2 * (1 - odds / was)))
        return value

    def train(self, trial: Trial) -> tuple[float, int]:
        self.trained += trial.samples
        rung = list(self.rungs).index(trial.samples)
        return self.truth(trial.mixture, rung) + self._luck(trial), trial.samples

    def bench(self, model: tuple[float, int]) -> Outcome:
        return Outcome(model[0], self.n)

    def _luck(self, trial: Trial) -> float:
        shared = self._normal(f"seed {trial.seed} {trial.samples}")
        own = self._normal(trial.key)
        luck = self.seed_sd * (math.sqrt(self.common) * shared + math.sqrt(1 - self.common) * own)
        p = 0.65
        item_sd = 100 * math.sqrt(p * (1 - p) / self.n * (1 - self.items_shared))
        return luck + item_sd * self._normal("items " + trial.key)

    def _normal(self, what: str) -> float:
        key = int.from_bytes(hashlib.blake2b(f"{self.seed} {what}".encode(), digest_size=8).digest(), "little")
        rng = np.random.default_rng(key)
        if self.heavy:
            return float(rng.standard_t(self.heavy) / math.sqrt(self.heavy / (self.heavy - 2)))
        return float(rng.normal())
