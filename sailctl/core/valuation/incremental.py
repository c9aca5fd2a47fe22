"""incremental-eval: which datasets to let into a mixture, one after another, each judged against the grown mixture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sailctl.core.errors import UsageError
from sailctl.core.valuation.arms import Arms
from sailctl.core.valuation.compose import PaperStep, single_scores
from sailctl.core.valuation.fdr import Lond
from sailctl.core.valuation.race import Plan, Race, Ruling
from sailctl.core.valuation.seam import Trials

Admission = Literal["accept", "reject", "undecided"]
ADMISSION: dict[str, Admission] = {"better": "accept", "not better": "reject", "undecided": "undecided"}


@dataclass(frozen=True, slots=True)
class DatasetDecision:
    """What to do with a dataset: its effect on the mixture named by `against` (the datasets accepted before it)."""

    dataset: str
    admission: Admission
    against: tuple[str, ...]
    ruling: Ruling


@dataclass(frozen=True, slots=True)
class Admissions:
    """Decisions in the order they were made, the grown mixture's sizes, and what it cost in samples."""

    decisions: tuple[DatasetDecision, ...]
    mixture: dict[str, int]
    samples_used: int
    samples_trained: int


def incremental(
    trials: Trials,
    mixture: Mapping[str, int],
    candidates: Mapping[str, int],
    plan: Plan,
    *,
    fdr: float = 0.2,
    order: Literal["promise", "given"] = "promise",
    parent: str | None = None,
) -> Admissions:
    """Judge candidates (name to size in samples) for a mixture (group to size).

    Hypothesis of a candidate: added to the mixture as grown so far, it changes the full-size score by -plan.margin or
    less; with a margin of 0, it does not improve it. Two bounds hold together: at most plan.alpha x candidates false
    accepts are expected, and their expected share of all accepts is at most `fdr` (LOND over those that pass the
    screening). All are screened on small rungs against the mixture as it is; what passes is tested in order of promise
    on the rungs, or as given. Raises UsageError where the budget cannot hold one decision.
    """
    arms, numbers = _arms(trials, mixture, candidates, plan, parent)
    names = {arm: name for name, arm in numbers.items()}
    race = Race(arms, plan)
    trials.afford(race.least_cost(len(candidates)))
    alive, screened_out = race.screen(list(numbers.values()))
    decisions = [DatasetDecision(names[r.arm], ADMISSION[r.finding], (), r) for r in screened_out]
    if order == "given":
        alive.sort()
    most = race.level(len(candidates), len(alive))
    levels = Lond(fdr, max(1, len(alive)))
    accepted: list[str] = []
    baseline, grown = 0, dict(mixture)
    for arm in alive:
        name = names[arm]
        against = tuple(accepted)
        judged = arm if not accepted else arms.add(_title((*accepted, name)), {**grown, name: candidates[name]})
        ruling = race.confirm([judged], baseline, min(most, levels.level()), {judged: arm})[0]
        decisions.append(DatasetDecision(name, ADMISSION[ruling.finding], against, ruling))
        levels.decide(ruling.finding == "better")
        if ruling.finding == "better":
            accepted.append(name)
            baseline, grown = judged, {**grown, name: candidates[name]}
    return Admissions(tuple(decisions), grown, trials.used, trials.trained)


def incremental_like_the_paper(
    trials: Trials,
    mixture: Mapping[str, int],
    candidates: Mapping[str, int],
    samples: int,
    *,
    holds: float = 0.0,
    seed: int = 0,
    parent: str | None = None,
) -> tuple[list[PaperStep], dict[str, int]]:
    """The paper's incremental evaluation (3.3.1) to the letter: one run each, kept if the score improves or holds.

    "Holds" is not defined there; here it means at most `holds` points below. Returns the verdicts in order and the
    grown mixture.
    """
    grown, steps, current = dict(mixture), [], None
    for name, size in candidates.items():
        arms = Arms(trials, (samples,), seed=seed, parent=parent)
        arms.add("mixture", grown)
        arms.add(name, {**grown, name: size})
        before, after = single_scores(arms)
        current = before if current is None else current
        steps.append(PaperStep(name, after >= current - holds, after, current))
        if steps[-1].improved:
            grown, current = {**grown, name: size}, after
    return steps, grown


def _arms(
    trials: Trials, mixture: Mapping[str, int], candidates: Mapping[str, int], plan: Plan, parent: str | None
) -> tuple[Arms, dict[str, int]]:
    if not candidates:
        raise UsageError("no candidate datasets; name at least one")
    if both := set(mixture) & set(candidates):
        raise UsageError(f"candidate {sorted(both)[0]}: a group of the mixture has this name; rename it")
    arms = Arms(trials, plan.rungs, seed=plan.seed, parent=parent)
    arms.add("mixture", mixture)
    return arms, {name: arms.add(_title((name,)), {**mixture, name: size}) for name, size in candidates.items()}


def _title(added: tuple[str, ...]) -> str:
    return "mixture + " + " + ".join(added)
