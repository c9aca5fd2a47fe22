"""quick-eval: which of several datasets is best to train on, by halving the field from rung to rung.

The paper trains once on each at one small size and assumes that the order holds at larger ones. Here the order is
followed up the ladder, Kendall's tau from rung to rung tests the assumption, and claims are made at the last rung only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from sailctl.core.errors import UsageError
from sailctl.core.scaling.correlation import kendall
from sailctl.core.scaling.distributions import t_quantile
from sailctl.core.valuation.arms import LEAST_FREEDOM, Arms, place
from sailctl.core.valuation.effects import FLOOR
from sailctl.core.valuation.seam import Trials
from sailctl.core.valuation.sequential import Spending, planned_information
from sailctl.core.valuation.surrogate import View, believe


@dataclass(frozen=True, slots=True)
class QuickPlan:
    """`rungs` are sizes in samples, rising; `seeds` the runs that each but the last gets; `worth` is in points.

    At the last rung seeds are added, from 2 up to `most_seeds`, until every two finalists are told apart or a
    difference of `worth` would have shown. The chance of any wrong claim about finalists is at most `alpha`. A dataset
    leaves the field where it is not among the better half and its chance of being better than the leader at the last
    rung is below `hope`; `finalists` stay at least.
    """

    rungs: tuple[int, ...] = (50_000, 200_000, 500_000, 2_000_000)
    seeds: tuple[int, ...] = (3, 2, 1)
    worth: float = 1.0
    alpha: float = 0.05
    power: float = 0.8
    hope: float = 0.25
    finalists: int = 2
    most_seeds: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.seeds) != len(self.rungs) - 1:
            raise UsageError(f"seeds = {list(self.seeds)}: should hold one number for each rung but the last")
        if self.most_seeds < 2 or self.finalists < 1:
            raise UsageError("most_seeds should be 2 or more, finalists 1 or more")
        if min(self.seeds, default=1) < 1:
            raise UsageError(f"seeds = {list(self.seeds)}: every rung takes one or more")
        if not 0 < self.alpha < 0.5 or not 0.5 <= self.power < 1 or not 0 < self.worth < math.inf:
            raise UsageError("alpha, power and worth: should be within (0, 0.5), [0.5, 1) and (0, ..)")


@dataclass(frozen=True, slots=True)
class Standing:
    """One dataset's place: mean score in points on the last rung it ran, with a 95% interval for its runs' luck.

    Equal scores share a place. Where no runs differ their luck is unknown, and the interval is endless. `left_out` says
    why it went no further; then nothing is claimed about it at the full size.
    """

    dataset: str
    place: int
    score: float
    low: float
    high: float
    seeds: int
    samples: int
    left_out: str


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """Two finalists: difference in points with its bounds, and whether the first is better ("open" where not shown)."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    p_value: float
    verdict: str


@dataclass(frozen=True, slots=True)
class RungAgreement:
    """Kendall's tau between neighbouring rungs' mean scores, over the datasets that ran on both.

    `p_value` is one-sided, of an order that agrees no more than chance; noise of the runs pulls tau towards 0.
    """

    smaller: int
    larger: int
    datasets: int
    tau: float
    p_value: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """The order of all datasets, the claims about finalists, how far rungs agreed, and what it cost in samples."""

    standings: tuple[Standing, ...]
    pairs: tuple[PairVerdict, ...]
    agreement: tuple[RungAgreement, ...]
    stopped: str
    samples_used: int
    samples_trained: int


def quick(trials: Trials, datasets: Mapping[str, int], plan: QuickPlan, *, parent: str | None = None) -> Ranking:
    """Rank datasets (name to size in samples), each trained on alone.

    Hypotheses: for every two finalists, the difference at the last rung's size is not above 0, and not below 0.
    Raises UsageError for fewer than two datasets, for one with fewer samples than the last rung, or where the budget
    does not hold the smallest rung and two runs of two finalists.
    """
    if len(datasets) < 2:
        raise UsageError(f"{len(datasets)} datasets: a ranking needs 2 or more")
    for name, size in datasets.items():
        if size < plan.rungs[-1]:
            raise UsageError(f"dataset {name}: holds {size} samples, {plan.rungs[-1]} are asked for; ask for fewer")
    arms = Arms(trials, plan.rungs, seed=plan.seed, parent=parent)
    field = [arms.add(name, {name: size}) for name, size in datasets.items()]
    least = arms.price(0) * plan.seeds[0] * len(field) if plan.seeds else 0
    trials.afford(least + arms.price(arms.full) * (4 if len(plan.rungs) > 1 else 2 * len(field)))

    left_out: dict[int, str] = {}
    stopped = ""
    for rung, seeds in enumerate(plan.seeds):
        if not arms.bring_to(dict.fromkeys(field, seeds), rung):
            stopped = f"the budget is out before the rung of {plan.rungs[rung]} samples"
            break
        for arm, reason in _drop(arms, field, rung, plan).items():
            field.remove(arm)
            left_out[arm] = reason
    pairs: list[PairVerdict] = []
    if not stopped:
        pairs, stopped = _final(arms, field, plan)
    ranks = [_rank(arms, arm) for arm in range(len(datasets))]
    order = sorted(range(len(datasets)), key=ranks.__getitem__)
    standings = tuple(
        _standing(arms, arm, 1 + sum(one < ranks[arm] for one in ranks), left_out.get(arm, "")) for arm in order
    )
    return Ranking(standings, tuple(pairs), _agreement(arms), stopped, trials.used, trials.trained)


def _drop(arms: Arms, field: Sequence[int], rung: int, plan: QuickPlan) -> dict[int, str]:
    """Who leaves the field after a rung, and why."""
    out = {arm: f"its trials failed at {plan.rungs[rung]} samples" for arm in field if arms.failed(arm, rung)}
    ranked = sorted((arm for arm in field if arm not in out), key=lambda arm: -arms.score(arm, rung))
    if not ranked:
        return out
    leader = ranked[0]
    views = [
        View(at, one, {place(arm, leader): arm for arm in ranked})
        for at in range(rung + 1)
        if not arms.blank(at) and (one := arms.fit(at, leader)) is not None
    ]
    belief = believe(views, len(arms.names), arms.full, plan.worth)
    for arm in ranked[max(plan.finalists, math.ceil(len(ranked) / 2)) :]:
        if (chance := belief.chance_above(arm, 0.0)) < plan.hope:
            out[arm] = f"chance {chance:.2f} of being better than {arms.names[leader]} at {plan.rungs[-1]} samples"
    return out


def _final(arms: Arms, field: Sequence[int], plan: QuickPlan) -> tuple[list[PairVerdict], str]:
    """Seeds at the last rung until all pairs are told apart or would have been; each spends its share of alpha."""
    pairs = list(combinations(field, 2))
    if not pairs:
        return [], "one dataset is left"
    alpha = plan.alpha / (2 * len(pairs))  # two sides of each
    planned = planned_information(alpha, plan.power, plan.worth)
    tests = {pair: Spending(alpha, 0.0, plan.worth, planned) for pair in pairs}
    found: dict[tuple[int, int], PairVerdict] = {}
    stopped = f"open after {plan.most_seeds} seeds"
    for seeds in range(2, plan.most_seeds + 1):
        active = {arm for pair in pairs if found.get(pair) is None or found[pair].verdict == "open" for arm in pair}
        if not arms.bring_to(dict.fromkeys(sorted(active), seeds), arms.full):
            stopped = "the budget is out"
            break
        for first, second in pairs:
            if (one := found.get((first, second))) is None or one.verdict == "open":
                found[first, second] = _pair(arms, first, second, tests[first, second], plan)
        if all(one.verdict != "open" for one in found.values()):
            stopped = "all finalists are told apart"
            break
        tied = _tied(arms, pairs)
        if all(one.verdict != "open" or pair in tied or tests[pair].finished for pair, one in found.items()):
            stopped = f"a difference of {plan.worth} would have shown"
            if tied:
                stopped = "all runs of finalists score the same: nothing tells them apart"
            break
    return [found[pair] for pair in pairs if pair in found], stopped


def _tied(arms: Arms, pairs: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
    """Pairs of which further runs are not worth waiting for: enough of them all came out the same."""
    one = arms.fit(arms.full, pairs[0][0])
    if one is None or one.freedom < LEAST_FREEDOM:
        return set()
    return {pair for pair in pairs if arms.blind(*pair, arms.full)}


def _pair(arms: Arms, first: int, second: int, test: Spending, plan: QuickPlan) -> PairVerdict:
    names = arms.names[first], arms.names[second]
    one = arms.fit(arms.full, second)
    at, extra = place(first, second), arms.item_variance(first, second, arms.full)
    if one is None or not one.freedom or not one.seen_A[at]:
        return PairVerdict(*names, math.nan, -math.inf, math.inf, 1.0, "open")
    if arms.blind(first, second, arms.full):
        return PairVerdict(*names, float(one.effects_A[at]), -math.inf, math.inf, 1.0, "open")
    scale = arms.run_variance(plan.worth**2) / one.variance
    level, _ = test.look(1 / (one.covariance_AA[at, at] * scale + extra + FLOOR), one.freedom)
    above = one.p_above(at, 0.0, extra)
    low, high = one.interval(at, level or test.alpha, extra)
    verdict = "better" if above <= level else "worse" if 1 - above <= level else "open"
    return PairVerdict(*names, float(one.effects_A[at]), low, high, min(above, 1 - above), verdict)


def _standing(arms: Arms, arm: int, number: int, left_out: str) -> Standing:
    rung = max(0, _rung(arms, arm))
    seeds, score = arms.count(arm, rung), arms.score(arm, rung)
    one = arms.fit(rung, arm) if seeds else None
    if one is None or not one.freedom or not arms.spreads(rung):
        return Standing(arms.names[arm], number, score, -math.inf, math.inf, seeds, arms.rungs[rung], left_out)
    half = t_quantile(0.975, one.freedom) * math.sqrt(one.variance / seeds)
    return Standing(arms.names[arm], number, score, score - half, score + half, seeds, arms.rungs[rung], left_out)


def _agreement(arms: Arms) -> tuple[RungAgreement, ...]:
    found = []
    for rung in range(arms.full):
        both = [arm for arm in range(len(arms.names)) if arms.count(arm, rung) and arms.count(arm, rung + 1)]
        if len(both) > 1:
            sides = [[arms.score(arm, at) for arm in both] for at in (rung, rung + 1)]
            found.append(RungAgreement(arms.rungs[rung], arms.rungs[rung + 1], len(both), *kendall(*sides)))
    return tuple(found)


def _rung(arms: Arms, arm: int) -> int:
    """The last rung that it has a score on, -1 without any."""
    return max((rung for rung in range(len(arms.rungs)) if arms.count(arm, rung)), default=-1)


def _rank(arms: Arms, arm: int) -> tuple[int, float]:
    """Less is better: the size that was reached, then the score there, up to rounding."""
    rung = _rung(arms, arm)
    score = arms.score(arm, rung)
    return -rung, math.inf if math.isnan(score) else -round(score, 9)
