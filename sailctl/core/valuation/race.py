"""Arms against a baseline: small rungs give up on the hopeless, full-size runs decide about the rest.

1. Screening. All arms and the baseline are trained on the small rungs, a few seeds each; after each rung an arm goes on
   only while it has a fair chance of being worth it at the full size (`surrogate.py`). Nothing is claimed here: a wrong
   model of the rungs costs power, never error.
2. Confirmation. Full-size runs are added seed by seed; after each round an arm's p-value is held against the level that
   error spending gives the look (`sequential.py`). Seeds of the rungs and of the full size differ, so that what let an
   arm pass the screening is no part of its test.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sailctl.core.errors import UsageError
from sailctl.core.valuation.arms import LEAST_FREEDOM, Arms, place
from sailctl.core.valuation.effects import FLOOR
from sailctl.core.valuation.sequential import Spending, planned_information
from sailctl.core.valuation.surrogate import Belief, View, believe

MOST_WEIGHT = 3.0
Finding = Literal["better", "not better", "undecided"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of a campaign. Effects are in points at the full size, the last of `rungs` (samples).

    The claim is effect > -`margin`, at an error of `alpha` a decision, whatever the small rungs say. `worth` is the
    effect to be found (with a margin it is an effect of 0 that is to be found), with `power` before arms are given up:
    which is done where the chance of an effect above the middle between -margin and the target falls below `hope`
    (screening) or `hope_full` (confirmation). An arm with a chance of `sure` is spared further small rungs. `screen`
    says how many seeds each small rung gets; `shape` is that of error spending, and at most `most_seeds` full-size runs
    are made of an arm, at least `baseline_seeds` of a baseline.
    """

    rungs: tuple[int, ...] = (50_000, 200_000, 2_000_000)
    screen: tuple[int, ...] = (6, 2)
    worth: float = 1.0
    margin: float = 0.0
    alpha: float = 0.05
    power: float = 0.94
    hope: float = 0.25
    sure: float = 0.7
    hope_full: float = 0.3
    shape: float = 1.0
    most_seeds: int = 20
    baseline_seeds: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.screen) != len(self.rungs) - 1:
            raise UsageError(f"screen = {list(self.screen)}: should hold one number of seeds for each small rung")
        if min(self.screen, default=1) < 1:
            raise UsageError(f"screen = {list(self.screen)}: every rung takes one seed or more")
        known = 0 < self.alpha < 0.5 and 0.5 <= self.power < 1
        if not known or not 0 < self.worth < math.inf or not 0 <= self.margin < math.inf:
            raise UsageError("alpha, power, worth and margin: should be within (0, 0.5), [0.5, 1), (0, ..) and [0, ..)")

    @property
    def target(self) -> float:
        """The effect that is to be found, in points."""
        return 0.0 if self.margin > 0 else self.worth

    @property
    def middle(self) -> float:
        """Half way between the claim's edge and the target."""
        return (self.target - self.margin) / 2


@dataclass(slots=True)
class Ruling:
    """What was found about one arm: effect in points at the size of `rung`, with its bounds.

    Each bound errs with the nominal level of the last look (repeated confidence bounds: Jennison and Turnbull, JRSS B
    51, 1989), alpha where there was none; "better" and a low bound above -margin are the same thing. An effect found
    early is overestimated on average, as after any early stop.
    """

    arm: int
    finding: Finding
    effect: float
    low: float
    high: float
    p_value: float
    level: float
    seeds: int
    rung: int
    reason: str
    looks: list[tuple[int, float, float]] = field(default_factory=list)  # seeds, p-value, level


class Race:
    """Screening and confirmation of arms against a baseline; keeps beliefs and rulings."""

    def __init__(self, arms: Arms, plan: Plan) -> None:
        self.arms, self.plan = arms, plan
        self.out_of_budget = False

    def belief(self, judged: Iterable[int] = (), baseline: int = 0, hints: Mapping[int, int] | None = None) -> Belief:
        """What all runs so far say about full-size effects.

        Small rungs compare with arm 0; what they say about an arm counts for the one that `hints` puts in its place.
        The full size is that of the `judged` against `baseline`.
        """
        swap = {screened: arm for arm, screened in (hints or {}).items()}
        views = []
        for rung in range(self.arms.full):
            if not self.arms.blank(rung) and (one := self.arms.fit(rung)) is not None:
                views.append(View(rung, one, {arm: swap.get(arm, arm) for arm in range(1, len(self.arms.names))}))
        full = self.arms.full
        if not self.arms.blank(full) and (one := self.arms.fit(full, baseline)) is not None:
            views.append(View(full, one, {place(arm, baseline): arm for arm in judged}))
        return believe(views, len(self.arms.names), self.arms.full, self.plan.worth)

    def screen(self, candidates: Sequence[int]) -> tuple[list[int], list[Ruling]]:
        """Those worth full-size runs (against arm 0), the most promising first, and rulings about the others."""
        rulings: list[Ruling] = []
        alive, belief = list(candidates), None
        for rung, seeds in enumerate(self.plan.screen):
            open_yet = [
                arm for arm in alive if belief is None or belief.chance_above(arm, self.plan.middle) < self.plan.sure
            ]
            if not open_yet or not seeds:
                continue
            if not self.arms.bring_to({arm: seeds for arm in [0, *open_yet]}, rung):
                self.out_of_budget = True
                break
            belief = self.belief()
            for arm in open_yet:
                chance = belief.chance_above(arm, self.plan.middle)
                if self.arms.failed(arm, rung):
                    rulings.append(self._ruling(arm, 0, rung, "undecided", "its trials failed"))
                elif chance < self.plan.hope:
                    reason = f"chance {chance:.2f} of more than {self.plan.middle:+.2f} at the full size"
                    rulings.append(self._ruling(arm, 0, rung, "not better", reason))
                else:
                    continue
                alive.remove(arm)
        belief = belief or self.belief()
        return sorted(alive, key=lambda arm: -belief.mean(arm)), rulings

    def level(self, screened: int, passed: int) -> float:
        """The level at which each of `passed` arms is tested that are left of `screened`: alpha x screened / passed.

        At most three times alpha. So the expected number of false claims stays below alpha x screened, however much the
        rungs mislead: testing fewer, chosen by independent data, leaves more error for each (Genovese, Roeder and
        Wasserman, Biometrika 93, 2006; Bourgon, Gentleman and Huber, PNAS 107, 2010).
        """
        return self.plan.alpha * min(MOST_WEIGHT, screened / max(passed, 1))

    def least_cost(self, candidates: int) -> float:
        """What screening so many arms and deciding about one of them takes at least, in the budget's unit."""
        small = sum(self.arms.price(rung) * seeds for rung, seeds in enumerate(self.plan.screen))
        return small * (candidates + 1) + self.arms.price(self.arms.full) * (self.plan.baseline_seeds + 2)

    def confirm(
        self, candidates: Sequence[int], baseline: int, alpha: float, hints: Mapping[int, int] | None = None
    ) -> list[Ruling]:
        """Full-size runs of these against the baseline, seed by seed, until each is decided or the budget is out."""
        plan, full = self.plan, self.arms.full
        effect = plan.target + plan.margin
        planned = planned_information(alpha, plan.power, effect, plan.shape)
        tests = {arm: Spending(alpha, 1 - plan.power, effect, planned, plan.shape) for arm in candidates}
        looks: dict[int, list[tuple[int, float, float]]] = {arm: [] for arm in candidates}
        rulings: dict[int, Ruling] = {}
        seeds = 0
        while alive := [arm for arm in candidates if arm not in rulings]:
            seeds += 1
            wanted = {arm: max(seeds, self.arms.count(arm, full)) for arm in alive}
            wanted[baseline] = max(self._baseline_seeds(seeds, len(alive)), self.arms.count(baseline, full))
            if not self.arms.bring_to(wanted, full):
                self.out_of_budget = True
                for arm in alive:
                    reason = "the budget is out"
                    rulings[arm] = self._ruling(arm, baseline, full, "undecided", reason, alpha, looks[arm])
                break
            one, variance = self.arms.fit(full, baseline), self.arms.run_variance(plan.worth**2)
            belief = self.belief(candidates, baseline, hints)
            for arm in alive:
                finding: Finding | None = None
                reason = ""
                if one is None or self.arms.failed(arm, full) or self.arms.failed(baseline, full):
                    finding, reason = "undecided", "its trials failed"
                elif one.freedom and self.arms.blind(arm, baseline, full):  # no look: a run that differs may yet come
                    if one.freedom >= LEAST_FREEDOM or seeds >= plan.most_seeds:
                        finding = "undecided"
                else:
                    extra = self.arms.item_variance(arm, baseline, full)
                    at = place(arm, baseline)
                    scale = variance / one.variance if one.freedom else 1.0
                    information = 1 / (one.covariance_AA[at, at] * scale + extra + FLOOR)
                    level, futile = tests[arm].look(information, one.freedom)
                    p_value = one.p_above(at, -plan.margin, extra)
                    looks[arm].append((self.arms.count(arm, full), p_value, level))
                    chance = belief.chance_above(arm, plan.middle)
                    if p_value <= level:
                        finding = "better"
                    elif chance < plan.hope_full and (plan.screen or one.freedom >= LEAST_FREEDOM):
                        finding, reason = "not better", f"chance {chance:.2f} of more than {plan.middle:+.2f}"
                    elif p_value >= futile:
                        finding, reason = "not better", f"{plan.target:+.2f} would have shown (power {plan.power:.0%})"
                    elif seeds >= plan.most_seeds:
                        finding, reason = "undecided", f"open after {seeds} seeds"
                if finding is not None:
                    rulings[arm] = self._ruling(arm, baseline, full, finding, reason, alpha, looks[arm])
        return [rulings[arm] for arm in candidates]

    def _baseline_seeds(self, seeds: int, arms: int) -> int:
        """Runs of a baseline that is shared by so many arms of so many runs: about the square root as many again."""
        return max(self.plan.baseline_seeds, math.ceil(seeds * min(2.0, math.sqrt(arms))))

    def _ruling(
        self,
        arm: int,
        baseline: int,
        rung: int,
        finding: Finding,
        reason: str,
        alpha: float | None = None,
        looks: Iterable[tuple[int, float, float]] = (),
    ) -> Ruling:
        alpha = self.plan.alpha if alpha is None else alpha
        one = self.arms.fit(rung, baseline)
        looks = list(looks)
        seeds = self.arms.count(arm, rung)
        if one is None or not seeds:
            return Ruling(arm, finding, math.nan, -math.inf, math.inf, 1.0, 0.0, seeds, rung, reason, looks)
        if self.arms.blind(arm, baseline, rung):
            effect, alike = float(one.effects_A[place(arm, baseline)]), ""
            if self.arms.equal(arm, baseline, rung):
                alike = f"its runs and the baseline's all score {self.arms.score(arm, rung):.2f}"
            reason = "; ".join(filter(None, (reason, alike))) or "too few runs, and none that differ"
            return Ruling(arm, finding, effect, -math.inf, math.inf, 1.0, 0.0, seeds, rung, reason, looks)
        at, extra = place(arm, baseline), self.arms.item_variance(arm, baseline, rung)
        p_value, level = looks[-1][1:] if looks else (one.p_above(at, -self.plan.margin, extra), 0.0)
        low, high = one.interval(at, level or alpha, extra)
        return Ruling(arm, finding, float(one.effects_A[at]), low, high, p_value, level, seeds, rung, reason, looks)
