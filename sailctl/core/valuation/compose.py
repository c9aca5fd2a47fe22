"""compose-eval: which groups of a mixture to halve, each judged against one baseline at constant total samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sailctl.core.errors import UsageError
from sailctl.core.valuation.arms import Arms
from sailctl.core.valuation.race import Plan, Race, Ruling
from sailctl.core.valuation.seam import Trials, allot

Choice = Literal["halve", "keep", "undecided"]
CHOICE: dict[str, Choice] = {"better": "halve", "not better": "keep", "undecided": "undecided"}


@dataclass(frozen=True, slots=True)
class GroupDecision:
    """What to do with a group and what it rests on: halving's effect in points (see `Ruling`)."""

    group: str
    choice: Choice
    ruling: Ruling


@dataclass(frozen=True, slots=True)
class Composition:
    """Decisions in the order of the groups, the new sizes of the groups, and what it cost in samples.

    `mixture` halves all that are to be halved: each was judged alone, so that their joint effect is an extrapolation.
    """

    decisions: tuple[GroupDecision, ...]
    mixture: dict[str, int]
    samples_used: int
    samples_trained: int


def compose(trials: Trials, groups: Mapping[str, int], plan: Plan, *, parent: str | None = None) -> Composition:
    """Judge halving each group; `groups` are their sizes in samples.

    Hypothesis of a group: halving it does not improve the score at the full size (effect <= 0). The expected number of
    false halves is at most plan.alpha x the number of groups. Raises UsageError where the budget cannot hold one
    decision, or the groups have too few samples.
    """
    if plan.margin:
        raise UsageError(f"margin = {plan.margin}: a group is halved only if that is better; margins admit datasets")
    arms = Arms(trials, plan.rungs, seed=plan.seed, parent=parent)
    arms.add("as it is", groups)
    candidates = [
        arms.add_mixtures(f"half of {name}", [halved(groups, name, samples) for samples in plan.rungs])
        for name in groups
    ]
    race = Race(arms, plan)
    trials.afford(race.least_cost(len(candidates)))
    alive, rulings = race.screen(candidates)
    if alive:
        rulings += race.confirm(alive, 0, race.level(len(candidates), len(alive)))
    by_arm = {ruling.arm: ruling for ruling in rulings}
    decisions = tuple(
        GroupDecision(name, CHOICE[by_arm[arm].finding], by_arm[arm])
        for name, arm in zip(groups, candidates, strict=True)
    )
    chosen = {decision.group for decision in decisions if decision.choice == "halve"}
    mixture = {name: size // 2 if name in chosen else size for name, size in groups.items()}
    return Composition(decisions, mixture, trials.used, trials.trained)


@dataclass(frozen=True, slots=True)
class PaperStep:
    """One verdict by the paper's rule: two scores in points, no error bars."""

    name: str
    improved: bool
    score: float
    baseline: float


def compose_like_the_paper(
    trials: Trials, groups: Mapping[str, int], samples: int, *, seed: int = 0, parent: str | None = None
) -> tuple[list[PaperStep], dict[str, int]]:
    """The paper's composition evaluation (3.3.1) to the letter: one run of the mixture, one with each group halved.

    A halving whose run scores higher is kept. Returns the verdicts and the new sizes.
    """
    arms = Arms(trials, (samples,), seed=seed, parent=parent)
    arms.add("as it is", groups)
    for name in groups:
        arms.add_mixtures(name, [halved(groups, name, samples)])
    scores = single_scores(arms)
    steps = [
        PaperStep(name, score > scores[0], score, scores[0]) for name, score in zip(groups, scores[1:], strict=True)
    ]
    better = {step.name for step in steps if step.improved}
    return steps, {name: size // 2 if name in better else size for name, size in groups.items()}


def single_scores(arms: Arms) -> list[float]:
    """One full-size run of every arm; not a number where it failed."""
    if not arms.bring_to(dict.fromkeys(range(len(arms.names)), 1), arms.full):
        arms.trials.afford(len(arms.names) * arms.price(arms.full))
    return [arms.score(arm, arms.full) for arm in range(len(arms.names))]


def halved(groups: Mapping[str, int], name: str, samples: int) -> dict[str, int]:
    """`samples` of the mixture with half as many of one group; the others make up for it in proportion.

    Raises UsageError where they do not hold enough.
    """
    if len(groups) < 2:
        raise UsageError("one group is no mixture: there is nothing to make up for what is halved")
    whole = allot(groups, samples)
    half = whole.get(name, 0) // 2
    others = {group: size for group, size in groups.items() if group != name}
    if (there := sum(others.values())) < samples - half:
        raise UsageError(
            f"half of {name}: the other groups hold {there} samples, {samples - half} are needed to make up for it;"
            f" ask for fewer than {samples} samples"
        )
    counts = allot(others, samples - half) | ({name: half} if half else {})
    return counts
