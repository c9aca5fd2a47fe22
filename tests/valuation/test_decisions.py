"""compose, incremental, quick and joint: what they train, decide, refuse and repeat, on worlds small enough to know."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from sailctl.core.errors import TrainingError, UsageError
from sailctl.core.valuation.arms import Arms
from sailctl.core.valuation.compose import compose, compose_like_the_paper, halved
from sailctl.core.valuation.incremental import incremental, incremental_like_the_paper
from sailctl.core.valuation.joint import Observed, propose
from sailctl.core.valuation.quick import QuickPlan, quick
from sailctl.core.valuation.race import Plan
from sailctl.core.valuation.seam import InMemory, Outcome, Trial, Trials

PLAN = Plan(rungs=(100, 400, 4000), screen=(4, 2))
GROUPS = {"good": 10_000, "bad": 10_000, "rest": 20_000}
Judge = Callable[[dict[str, float]], float]


def world(judge: Judge, sd: float = 0.05) -> Trials:
    """Scores by shares of the groups, with a little luck."""

    def trainer(trial: Trial) -> tuple[Trial, float]:
        return trial, sd * float(np.random.default_rng(int(trial.key, 16)).normal())

    def bench(model: tuple[Trial, float]) -> Outcome:
        trial, luck = model
        shares = {name: count / trial.samples for name, count in trial.mixture.items()}
        return Outcome(50 + judge(shares) + luck, 1000)

    return Trials(trainer, bench, memo=InMemory())


def by_group(shares: dict[str, float]) -> float:
    return 20 * shares.get("good", 0.0) - 20 * shares.get("bad", 0.0)


def test_compose_halves_what_harms_and_keeps_what_helps() -> None:
    found = compose(world(by_group), GROUPS, PLAN)
    assert {one.group: one.choice for one in found.decisions} == {"good": "keep", "bad": "halve", "rest": "keep"}
    assert found.mixture == {"good": 10_000, "bad": 5_000, "rest": 20_000}
    bad = found.decisions[1].ruling
    assert bad.rung == 2 and bad.low > 0 and bad.p_value <= bad.level and bad.low <= bad.effect <= bad.high
    assert bad.effect == pytest.approx(3.33, abs=0.3)  # bad loses 12.5 %, a third of which good gets


def test_halving_keeps_the_total_and_halves_one_group() -> None:
    assert halved(GROUPS, "bad", 400) == {"good": 117, "rest": 233, "bad": 50}
    with pytest.raises(UsageError, match="half of b: the other groups hold 100 samples, 150 are needed"):
        halved({"a": 100, "b": 100}, "b", 200)
    with pytest.raises(UsageError, match="one group is no mixture"):
        halved({"a": 100}, "a", 50)


def test_all_arms_share_seeds_and_the_total() -> None:
    seen: list[Trial] = []
    trials = world(by_group)
    inner = trials.trainer
    trials.trainer = lambda trial: (seen.append(trial), inner(trial))[1]
    compose(trials, GROUPS, replace(PLAN, sure=2.0))  # nobody skips a rung
    assert {trial.samples for trial in seen} == {100, 400, 4000}
    first = [trial.seed for trial in seen if trial.samples == 100]
    assert len(first) == 16 and len(set(first)) == 4
    assert not set(first) & {trial.seed for trial in seen if trial.samples == 4000}


def test_what_looks_good_on_the_first_rung_skips_the_second() -> None:
    seen: list[Trial] = []
    trials = world(by_group)
    inner = trials.trainer
    trials.trainer = lambda trial: (seen.append(trial), inner(trial))[1]
    compose(trials, {"bad": 10_000, "good": 10_000}, PLAN)
    assert {trial.samples for trial in seen} == {100, 4000}


def test_a_second_call_decides_the_same_and_trains_nothing() -> None:
    trials = world(by_group, sd=0.6)
    first = compose(trials, GROUPS, PLAN)
    again = Trials(trials.trainer, trials.bench, memo=trials.memo)
    second = compose(again, GROUPS, PLAN)
    assert second.decisions == first.decisions and second.samples_used == first.samples_used > 0
    assert second.samples_trained == 0


def test_incremental_lets_in_one_after_another() -> None:
    def judge(shares: dict[str, float]) -> float:
        return by_group(shares) + 3 * ("fine" in shares) + 2 * ("finer" in shares)

    candidates = {"fine": 4_000, "bad2": 4_000, "finer": 4_000}
    found = incremental(world(lambda s: judge(s) - 2 * ("bad2" in s)), GROUPS, candidates, PLAN)
    admissions = {one.dataset: one for one in found.decisions}
    assert {name: one.admission for name, one in admissions.items()} == {
        "fine": "accept", "bad2": "reject", "finer": "accept",
    }  # fmt: skip
    assert admissions["finer"].against == ("fine",) and admissions["fine"].against == ()
    assert found.mixture == {**GROUPS, "fine": 4_000, "finer": 4_000}


def test_a_copy_of_what_was_let_in_is_judged_against_the_grown_mixture() -> None:
    """Either of two equal datasets helps; the second adds nothing to the first."""
    found = incremental(
        world(lambda shares: 3.0 * ("one" in shares or "two" in shares)), GROUPS, {"one": 4_000, "two": 4_000}, PLAN
    )
    assert [one.admission for one in found.decisions] == ["accept", "reject"]
    assert found.decisions[1].against == (found.decisions[0].dataset,)


def test_a_margin_admits_what_holds_and_not_what_harms() -> None:
    plan = replace(PLAN, margin=0.5)
    found = incremental(
        world(lambda shares: -1.5 * ("worse" in shares), sd=0.1), GROUPS, {"holds": 4_000, "worse": 4_000}, plan
    )
    admissions = {one.dataset: one for one in found.decisions}
    assert admissions["holds"].admission == "accept" and admissions["holds"].ruling.low > -0.5
    assert admissions["worse"].admission == "reject"
    strict = incremental(world(lambda shares: 0.0, sd=0.1), GROUPS, {"holds": 4_000}, PLAN)
    assert strict.decisions[0].admission != "accept"


def test_items_widen_what_few_of_them_show() -> None:
    """Runs without luck on 12 items of which one changes: not shown to be better, though every seed says so."""

    def bench(trial: Trial) -> Outcome:
        items = np.full(12, 50.0)
        items[0] += 24 * ("new" in trial.mixture)
        return Outcome(float(items.mean()), 12, items, tuple("abcdefghijkl"))

    plan = replace(PLAN, most_seeds=4)
    with_items = incremental(Trials(lambda trial: trial, bench), GROUPS, {"new": 4_000}, plan)
    assert with_items.decisions[0].admission != "accept"
    without = Trials(lambda trial: trial, lambda trial: Outcome(bench(trial).score, 12))
    assert incremental(without, GROUPS, {"new": 4_000}, plan).decisions[0].admission == "accept"


def test_trials_that_crash_are_recorded_and_others_go_on() -> None:
    trials = world(by_group)
    inner = trials.trainer

    def trainer(trial: Trial) -> object:
        if trial.mixture.get("good", 0) < 0.2 * trial.samples:
            raise TrainingError("the loss exploded")
        return inner(trial)

    trials.trainer = trainer
    found = compose(trials, GROUPS, PLAN)
    assert {one.group: one.choice for one in found.decisions} == {"good": "undecided", "bad": "halve", "rest": "keep"}
    assert found.decisions[0].ruling.reason == "its trials failed"
    assert trials.counts["failed"] >= 3


def test_budgets_are_kept_and_too_small_ones_refused() -> None:
    trials = world(by_group, sd=0.6)
    trials.budget = 20_000
    with pytest.raises(
        UsageError, match="too small for one decision, which takes 20,800 or more"
    ):  # 4 x 1200 + 4 x 4000
        compose(trials, GROUPS, PLAN)
    noisy = world(lambda shares: -2 * shares.get("bad", 0.0), sd=2.0)
    noisy.budget = 30_000
    found = compose(noisy, GROUPS, replace(PLAN, hope=0.0, hope_full=0.0))
    assert noisy.used <= 30_000
    assert "the budget is out" in {one.ruling.reason for one in found.decisions}


def test_wrong_requests_are_told() -> None:
    with pytest.raises(UsageError, match="margin = 1"):
        compose(world(by_group), GROUPS, replace(PLAN, margin=1.0))
    with pytest.raises(UsageError, match="candidate good"):
        incremental(world(by_group), GROUPS, {"good": 5}, PLAN)
    with pytest.raises(UsageError, match="no candidate"):
        incremental(world(by_group), GROUPS, {}, PLAN)
    with pytest.raises(UsageError, match="screen"):
        Plan(rungs=(1, 2), screen=(1, 1))
    with pytest.raises(UsageError, match="rungs"):
        compose(world(by_group), GROUPS, Plan(rungs=(400, 100), screen=(2,)))
    with pytest.raises(UsageError, match="hold 40000 together"):
        compose(world(by_group), GROUPS, Plan(rungs=(100, 50_000), screen=(2,)))


def test_the_papers_rules() -> None:
    steps, mixture = compose_like_the_paper(world(by_group, sd=0.0), GROUPS, 4000)
    assert [(step.name, step.improved) for step in steps] == [("good", False), ("bad", True), ("rest", False)]
    assert mixture["bad"] == 5_000
    trials = world(lambda shares: -1.0 * ("worse" in shares), sd=0.0)
    verdicts, grown = incremental_like_the_paper(trials, GROUPS, {"holds": 4_000, "worse": 4_000}, 4000)
    assert [step.improved for step in verdicts] == [True, False] and set(grown) == {*GROUPS, "holds"}
    assert trials.counts["trials"] == 3  # the accepted one's run is the next baseline


def test_quick_ranks_and_tells_finalists_apart() -> None:
    quality = {"clean": 4.0, "half": 2.0, "shuffled": 0.0, "noise": -3.0}
    plan = QuickPlan(rungs=(100, 400, 4000), seeds=(3, 2), finalists=3)
    trials = world(lambda shares: sum(quality[name] * share for name, share in shares.items()), sd=0.2)
    found = quick(trials, dict.fromkeys(quality, 5_000), plan)
    assert [one.dataset for one in found.standings] == ["clean", "half", "shuffled", "noise"]
    assert found.standings[3].left_out and found.standings[3].samples < 4000
    verdicts = {(one.first, one.second): one.verdict for one in found.pairs}
    assert set(verdicts.values()) == {"better"} and len(verdicts) == 3
    assert found.agreement[0].tau == 1.0 and found.agreement[0].p_value == pytest.approx(1 / 6)  # of three
    assert found.stopped == "all finalists are told apart"
    assert all(one.low < one.score < one.high for one in found.standings)


def test_quick_leaves_equal_datasets_open() -> None:
    trials = world(lambda shares: 0.0, sd=0.6)
    found = quick(trials, {"a": 5_000, "b": 5_000}, QuickPlan(rungs=(100, 4000), seeds=(3,)))
    assert [one.verdict for one in found.pairs] == ["open"] and "would have shown" in found.stopped
    with pytest.raises(UsageError, match="dataset a: holds 50 samples"):
        quick(trials, {"a": 50, "b": 5_000}, QuickPlan(rungs=(100, 4000), seeds=(3,)))
    with pytest.raises(UsageError, match="needs 2 or more"):
        quick(trials, {"a": 5_000}, QuickPlan(rungs=(100, 4000), seeds=(3,)))


def on_the_floor(full: Judge | None = None) -> Trials:
    """All 20 questions wrong whatever was trained, with `full` at the sizes below the full one."""

    def bench(trial: Trial) -> Outcome:
        if full is not None and trial.samples == PLAN.rungs[-1]:
            return world(full).bench((trial, 0.05 * float(np.random.default_rng(int(trial.key, 16)).normal())))
        return Outcome(0.0, 20, np.zeros(20), ("i",))

    return Trials(lambda trial: trial, bench, memo=InMemory())


def test_on_the_floor_quick_ranks_nobody() -> None:
    trials = on_the_floor()
    found = quick(trials, dict.fromkeys("abcd", 5_000), QuickPlan(rungs=(100, 400, 4000), seeds=(3, 2)))
    assert [(one.place, one.left_out) for one in found.standings] == [(1, "")] * 4
    assert all(math.isinf(one.high - one.low) for one in found.standings)
    assert {(one.verdict, one.p_value, one.high) for one in found.pairs} == {("open", 1.0, math.inf)}
    assert found.stopped == "all runs of finalists score the same: nothing tells them apart"
    assert trials.counts["trained"] == 4 * (3 + 2 + 2)  # and no dozen of seeds


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_on_the_floor_nothing_is_decided(margin: float) -> None:
    trials, plan = on_the_floor(), replace(PLAN, margin=margin)
    rulings = [one.ruling for one in incremental(trials, GROUPS, {"x": 400, "y": 400}, plan).decisions]
    if not margin:
        composed = compose(trials, GROUPS, plan)
        assert composed.mixture == GROUPS
        rulings += [one.ruling for one in composed.decisions]
    for one in rulings:
        assert (one.finding, one.rung, one.effect, one.p_value) == ("undecided", 2, 0.0, 1.0)
        assert math.isinf(one.high - one.low) and one.seeds <= 4
        assert one.reason == "its runs and the baseline's all score 0.00"


def test_small_rungs_on_the_floor_give_up_on_nobody_and_leave_the_full_size_its_doubt() -> None:
    found = compose(on_the_floor(by_group), GROUPS, PLAN)
    assert {one.group: one.choice for one in found.decisions} == {"good": "keep", "bad": "halve", "rest": "keep"}
    assert {one.ruling.rung for one in found.decisions} == {2}
    arms = Arms(on_the_floor(lambda shares: 0.0), PLAN.rungs)
    arms.add("a", GROUPS)
    for rung, seeds in ((0, 6), (2, 2)):
        arms.bring_to({0: seeds}, rung)
    one = arms.fit(2)
    assert one is not None and arms.run_variance(1.0) == one.variance > 1e-6


def test_few_runs_that_happen_to_agree_show_no_difference() -> None:
    """Scores without luck and without items: four runs decide nothing, six do."""
    trials = Trials(lambda trial: trial, lambda trial: Outcome(5.0 * ("new" in trial.mixture), 20))
    trials.budget = 4 * 4000
    plan = Plan(rungs=(4000,), screen=())
    (found,) = incremental(trials, GROUPS, {"new": 4_000}, plan).decisions
    assert (found.admission, found.ruling.effect, found.ruling.p_value) == ("undecided", pytest.approx(5.0), 1.0)
    assert math.isinf(found.ruling.high) and found.ruling.reason == "the budget is out"
    trials.budget = None
    (found,) = incremental(trials, GROUPS, {"new": 4_000}, plan).decisions
    assert found.admission == "accept" and found.ruling.seeds == 3


def test_equal_means_share_a_place() -> None:
    scores = {"a": 40.0, "b": 40.0, "c": 30.0}
    trials = Trials(lambda trial: next(iter(trial.mixture)), lambda name: Outcome(scores[name], 20))
    found = quick(trials, dict.fromkeys(scores, 100), QuickPlan(rungs=(100,), seeds=()))
    assert [(one.dataset, one.place) for one in found.standings] == [("a", 1), ("b", 1), ("c", 3)]


def test_joint_proposes_what_the_runs_promise() -> None:
    rng = np.random.default_rng(0)
    observed = []
    for halve in ((), ("good",), ("bad",), ("rest",), ("good", "rest")):
        for _ in range(2):
            mixture = {name: size // 2 if name in halve else size for name, size in GROUPS.items()}
            total = sum(mixture.values())
            score = 50 + by_group({name: size / total for name, size in mixture.items()}) + 0.1 * rng.normal()
            observed.append(Observed(mixture, score))
    found = propose(observed, GROUPS)
    slopes = {one.group: one for one in found.slopes}
    assert slopes["good"].low > 0 > slopes["bad"].high
    assert found.halve == ("bad", "rest") and found.mixture == {"good": 10_000, "bad": 5_000, "rest": 10_000}
    assert found.gain > 0 and found.error > 0
    with pytest.raises(UsageError, match="one mixture"):
        propose([Observed(GROUPS, 1.0)] * 3, GROUPS)
    with pytest.raises(UsageError, match=r"all 10 runs score 0.00: a joint fit needs scores that differ"):
        propose([replace(one, score=0.0) for one in observed], GROUPS)
    with pytest.raises(UsageError, match="needs 3"):
        propose(observed[:2], GROUPS)


def test_joint_shrinks_noise_to_nothing() -> None:
    rng, widths = np.random.default_rng(1), []
    for _ in range(50):
        mixtures = [{name: int(size * rng.choice([0.5, 1])) for name, size in GROUPS.items()} for _ in range(12)]
        found = propose([Observed(mixture, 50 + rng.normal()) for mixture in mixtures], GROUPS)
        widths.append(sum(one.low > 0 or one.high < 0 for one in found.slopes))
    assert np.mean(widths) / 3 <= 0.1


def test_runs_that_tie_by_different_items_still_have_chance() -> None:
    """Both arms' seeds score alike, each by another item: no run variance shows, and yet it is there."""
    items = {"a": [(1, 0, 0, 0), (0, 1, 0, 0)], "b": [(0, 0, 0, 0), (0, 0, 0, 0)]}

    def bench(model: tuple[str, int]) -> Outcome:
        name, number = model
        points = 100 * np.array(items[name][number], dtype=float)
        return Outcome(float(points.mean()), 4, points, ("i",))

    seen: dict[int, int] = {}

    def train(trial: Trial) -> tuple[str, int]:
        return next(iter(trial.mixture)), seen.setdefault(trial.seed, len(seen))

    arms = Arms(Trials(train, bench), (10,))
    arms.add("a", {"a": 10})
    arms.add("b", {"b": 10})
    arms.bring_to({0: 2, 1: 2}, 0)
    # Each of a's two items is right in one run of two: variance 5,000, weight 1/16, two items, two runs.
    assert arms.item_variance(0, 1, 0) == pytest.approx(2 * 5000 / 16 / 2)
