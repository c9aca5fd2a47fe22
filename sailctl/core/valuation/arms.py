"""The bookkeeping of a campaign: arms (mixtures), their runs on every rung, and what the runs say about differences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from sailctl.core.errors import UsageError
from sailctl.core.valuation.effects import FLOOR, Fit, fit
from sailctl.core.valuation.seam import Outcome, Trial, Trials, allot, trial_seed

MOST_FAILURES = 2  # failed trials of one arm on one rung after which it is given up
SAME = 1e-9  # points; scores that differ by less are equal
LEAST_FREEDOM = 4  # degrees of freedom: two or three runs that happen to agree decide nothing


class Arms:
    """Mixtures by name, each trained on any rung as often as asked, always with the same sequence of seeds.

    `rungs` are sizes in samples, rising; the last is the full size. `groups` of an arm are sizes; a trial holds
    `rungs[rung]` samples divided among them in proportion, or exactly `counts` where the arm has such.
    """

    def __init__(self, trials: Trials, rungs: Sequence[int], *, seed: int = 0, parent: str | None = None) -> None:
        if not rungs or list(rungs) != sorted(set(rungs)) or rungs[0] < 1:
            raise UsageError(f"rungs = {list(rungs)}: should be rising numbers of samples")
        self.trials, self.rungs, self.seed, self.parent = trials, tuple(rungs), seed, parent
        self.names: list[str] = []
        self._mixtures: list[list[Mapping[str, int]]] = []  # [arm][rung]
        self._runs: dict[int, dict[int, list[tuple[int, Outcome]]]] = defaultdict(lambda: defaultdict(list))
        self._tried: dict[tuple[int, int], int] = defaultdict(int)

    @property
    def full(self) -> int:
        """The number of the last rung."""
        return len(self.rungs) - 1

    def add(self, name: str, groups: Mapping[str, int]) -> int:
        """A new arm; returns its number."""
        return self.add_mixtures(name, [allot(groups, samples) for samples in self.rungs])

    def add_mixtures(self, name: str, mixtures: Sequence[Mapping[str, int]]) -> int:
        """A new arm whose samples of each group are given for every rung; returns its number."""
        self.names.append(name)
        self._mixtures.append(list(mixtures))
        return len(self.names) - 1

    def mixture(self, arm: int, rung: int) -> Mapping[str, int]:
        """Samples of each group."""
        return self._mixtures[arm][rung]

    def price(self, rung: int) -> float:
        """What a trial of arm 0 takes on a rung, in the budget's unit."""
        return self.trials.price(Trial(self._mixtures[0][rung], 0, rung, self.parent))

    def count(self, arm: int, rung: int) -> int:
        """Runs that have come back with a score."""
        return len(self._runs[rung][arm])

    def score(self, arm: int, rung: int) -> float:
        """Mean score of the runs in points; not a number without any."""
        scores = [outcome.score for _, outcome in self._runs[rung][arm]]
        return float(np.mean(scores)) if scores else float("nan")

    def failed(self, arm: int, rung: int) -> bool:
        """Whether more trials failed than an arm may have."""
        return self._tried[arm, rung] - self.count(arm, rung) > MOST_FAILURES

    def blank(self, rung: int) -> bool:
        """Whether all runs of all arms score the same, as on a suite's floor: the rung says nothing of any arm."""
        scores = [outcome.score for results in self._runs[rung].values() for _, outcome in results]
        return bool(scores) and max(scores) - min(scores) < SAME

    def spreads(self, rung: int) -> bool:
        """Whether any arm's runs differ, so that the luck of a run can be told."""
        return any(
            max(outcome.score for _, outcome in results) - min(outcome.score for _, outcome in results) >= SAME
            for results in self._runs[rung].values()
            if results
        )

    def blind(self, arm: int, baseline: int, rung: int) -> bool:
        """Whether the doubt about two arms' difference is unknown: neither luck nor items are seen to vary.

        So it is where the two score the same, however often, and where they differ but few runs say so.
        """
        one = self.fit(rung, baseline)
        if one is None or not self.count(arm, rung) or self.spreads(rung):
            return False
        few = one.freedom < LEAST_FREEDOM
        return (few or self.equal(arm, baseline, rung)) and self.item_variance(arm, baseline, rung) <= FLOOR

    def equal(self, arm: int, other: int, rung: int) -> bool:
        """Whether the mean scores of two arms are the same."""
        return abs(self.score(arm, rung) - self.score(other, rung)) < SAME

    def missing(self, wanted: Mapping[int, int], rung: int) -> list[Trial]:
        """The trials that bring each arm to the number of runs wanted, if none fails."""
        trials = []
        for arm, number in wanted.items():
            first = self._tried[arm, rung]
            for place in range(first, first + max(0, number - self.count(arm, rung))):
                seed = trial_seed(self.seed, rung, place)
                trials.append(Trial(self._mixtures[arm][rung], seed, rung, self.parent))
        return trials

    def bring_to(self, wanted: Mapping[int, int], rung: int) -> bool:
        """Run until each arm has as many runs as wanted or has failed; False, with nothing run, beyond the budget."""
        while wave := {arm: number for arm, number in wanted.items() if not self.failed(arm, rung)}:
            trials = self.missing(wave, rung)
            if not trials:
                return True
            if not self.trials.affords(trials):
                return False
            outcomes = iter(self.trials.run(trials))
            for arm, number in wave.items():
                for _ in range(max(0, number - self.count(arm, rung))):
                    outcome, place = next(outcomes), self._tried[arm, rung]
                    self._tried[arm, rung] += 1
                    if not outcome.error:
                        self._runs[rung][arm].append((place, outcome))
        return True

    def fit(self, rung: int, baseline: int = 0) -> Fit | None:
        """Effects of all arms against `baseline` on one rung; None where that has no run.

        Entry 0 of the fit is arm 0 or, where another is the baseline, changes places with it: see `place`.
        """
        runs = self._runs[rung]
        rows = [
            (place(arm, baseline), number, outcome.score)
            for arm, results in runs.items()
            for number, outcome in results
        ]
        if not runs[baseline]:
            return None
        arms, seeds, scores = zip(*rows, strict=True)
        return fit(arms, seeds, scores, count=len(self.names))

    def run_variance(self, otherwise: float) -> float:
        """Variance of a run over all rungs, for counting information: steadier than that of a few full-size runs.

        `otherwise` where no arm has two runs. Rungs on which all score the same do not count.
        """
        fits: list[Fit] = []
        for rung in range(len(self.rungs)):
            some = next((arm for arm, results in self._runs[rung].items() if results), None)
            if some is not None and not self.blank(rung) and (one := self.fit(rung, some)) is not None:
                fits.append(one)
        freedom = sum(one.freedom for one in fits)
        return sum(one.variance * one.freedom for one in fits) / freedom if freedom else otherwise

    def item_variance(self, arm: int, baseline: int, rung: int) -> float:
        """Variance of an effect (points squared) that comes from which items the benchmark has; 0 without items.

        Items are paired: what counts is how unevenly they differ between the two arms, averaged over seeds. What one
        run's chance adds to that is subtracted where there are runs to tell (two-way layout, random items).
        """
        sides = [[outcome for _, outcome in self._runs[rung][one]] for one in (arm, baseline)]
        if not all(sides) or any(outcome.items is None for side in sides for outcome in side):
            return 0.0
        first = sides[0][0]
        if any(o.ids != first.ids or o.items.shape != first.items.shape for side in sides for o in side):  # type: ignore[union-attr]
            raise UsageError("outcomes hold different items: a suite changed between trials")
        items_N = first.items
        assert items_N is not None
        weights_N = np.full(len(items_N), 1 / len(items_N)) if first.weights is None else first.weights
        values = [np.stack([np.asarray(o.items, dtype=np.float64) for o in side]) for side in sides]
        gap_N = values[0].mean(axis=0) - values[1].mean(axis=0)
        scale = len(items_N) / max(1, len(items_N) - 1)
        total = scale * float((weights_N**2 * (gap_N - weights_N @ gap_N) ** 2).sum())
        chance = runs = 0.0
        for value in values:
            if len(value) > 1:
                chance += float((weights_N**2 * value.var(axis=0, ddof=1)).sum()) / len(value)
                runs += float((value @ weights_N).var(ddof=1)) / len(value)
        # Two runs that answer different items and happen to score alike have chance in them all the same.
        return max(0.0, total - chance) + max(0.0, chance - runs)


def place(arm: int, baseline: int) -> int:
    """Where an arm stands in a fit whose entry 0 is `baseline`."""
    if arm == baseline:
        return 0
    return baseline if arm == 0 else arm
