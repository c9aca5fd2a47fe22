"""Campaigns on simulated truth: ours, the paper's rule and the exhaustive design, each counted the same way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sailctl.core.scaling.distributions import t_cdf
from sailctl.core.valuation.compose import compose, compose_like_the_paper, halved
from sailctl.core.valuation.incremental import incremental, incremental_like_the_paper
from sailctl.core.valuation.race import Plan
from sailctl.core.valuation.seam import Trial, Trials, allot, trial_seed
from tests.valuation.simulator import Simulator

PER_GROUP = 3_000_000
EXHAUSTIVE_SEEDS = 5


@dataclass(frozen=True)
class Scenario:
    """`effects`: half (0 for half, the others +1 or -1), null, positive, or half_positive (0 and +1)."""

    name: str
    kind: str = "incremental"
    effects: str = "half"
    candidates: int = 8
    plan: Plan = field(default_factory=Plan)
    simulator: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Count:
    """What one design did in one campaign; `cost` in samples."""

    false: int
    nulls: int
    found: int
    goods: int
    cost: float
    accepted: int
    undecided: int = 0


def true_effects(scenario: Scenario, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, 99])
    count = scenario.candidates
    effects = np.zeros(count)
    if scenario.effects == "positive":
        effects += 1.0
    elif scenario.effects != "null":
        some = rng.permutation(count)[: count // 2 + (count % 2) * int(rng.integers(2))]
        effects[some] = rng.choice([-1.0, 1.0], size=len(some)) if scenario.effects == "half" else 1.0
    return effects


def campaign(job: tuple[Scenario, int]) -> dict[str, Count]:
    """Ours, the paper's rule and the exhaustive design on one truth."""
    scenario, seed = job
    effects = true_effects(scenario, seed)
    names = [f"d{number}" for number in range(scenario.candidates)]
    truth = dict(zip(names, effects.tolist(), strict=True))
    plan = replace(scenario.plan, seed=seed)
    adds = scenario.kind == "incremental"
    base = {"a": 5_000_000, "b": 5_000_000} if adds else dict.fromkeys(names, PER_GROUP)
    others = dict.fromkeys(names, PER_GROUP)
    whole = sum(base.values())

    def world() -> Simulator:
        return Simulator(
            {name: size / whole for name, size in base.items()},
            {("+" if adds else "-") + name: effect for name, effect in truth.items()},
            plan.rungs,
            seed=seed,
            **scenario.simulator,
        )

    def count(accepted: set[str], cost: float, undecided: int = 0) -> Count:
        false = sum(truth[name] <= 0 for name in accepted)
        good = len(accepted) - false
        goods = int((effects > 0).sum())
        return Count(false, scenario.candidates - goods, good, goods, cost, len(accepted), undecided)

    simulated = world()
    trials = Trials(simulated.train, simulated.bench)
    if adds:
        admissions = incremental(trials, base, others, plan)
        accepted = {one.dataset for one in admissions.decisions if one.admission == "accept"}
        undecided = sum(one.admission == "undecided" for one in admissions.decisions)
    else:
        composition = compose(trials, base, plan)
        accepted = {one.group for one in composition.decisions if one.choice == "halve"}
        undecided = sum(one.choice == "undecided" for one in composition.decisions)
    assert trials.used == trials.trained == simulated.trained
    results = {"ours": count(accepted, trials.used, undecided)}

    simulated = world()
    trials = Trials(simulated.train, simulated.bench)
    full = plan.rungs[-1]
    if adds:
        steps, _ = incremental_like_the_paper(trials, base, others, full, seed=seed)
    else:
        steps, _ = compose_like_the_paper(trials, base, full, seed=seed)
    results["paper"] = count({step.name for step in steps if step.improved}, trials.used)

    simulated = world()
    mixtures = [{**base, name: PER_GROUP} for name in names] if adds else []
    counts = [allot(base, full), *(allot(mixture, full) for mixture in mixtures)]
    if not adds:
        counts += [halved(base, name, full) for name in names]
    scores_AS = np.array(
        [
            [
                simulated.bench(simulated.train(Trial(mixture, trial_seed(seed, 9, number)))).score
                for number in range(EXHAUSTIVE_SEEDS)
            ]
            for mixture in counts
        ]
    )
    gaps_KS = scores_AS[1:] - scores_AS[0]
    error_K = gaps_KS.std(axis=1, ddof=1) / math.sqrt(EXHAUSTIVE_SEEDS)
    t_K = gaps_KS.mean(axis=1) / error_K
    shown = {
        name for name, t in zip(names, t_K, strict=True) if 1 - t_cdf(float(t), EXHAUSTIVE_SEEDS - 1) <= plan.alpha
    }
    results["exhaustive"] = count(shown, simulated.trained)
    return results


def binomial_above(hits: int, n: int, rate: float) -> float:
    """P(at least so many hits of n at this rate), exact."""
    if hits <= 0:
        return 1.0
    logs = [
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(rate)
        + (n - k) * math.log1p(-rate)
        for k in range(hits, n + 1)
    ]
    return math.fsum(math.exp(log) for log in logs)


def exhaustive_seeds(power: float, alpha: float, effect: float, gap_sd: float, seed: int = 0) -> int:
    """Seeds an arm with which the one-sided paired t-test has this power, by 20,000 draws a size; 99 is endless."""
    rng = np.random.default_rng(seed)
    for seeds in range(2, 99):
        gaps = rng.normal(effect, gap_sd, (20_000, seeds))
        t = gaps.mean(axis=1) / (gaps.std(axis=1, ddof=1) / math.sqrt(seeds))
        low, high = 0.0, 50.0
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (middle, high) if t_cdf(middle, seeds - 1) < 1 - alpha else (low, middle)
        if (t >= high).mean() >= power:
            return seeds
    return 99
