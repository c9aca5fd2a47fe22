"""Trials: keys, budget, failures, and that nothing is trained twice."""

from __future__ import annotations

import pytest

from sailctl.core.errors import TrainingError, UsageError
from sailctl.core.valuation.seam import InMemory, Outcome, Trial, Trials, allot, trial_seed


def test_key_says_all_that_a_result_depends_on() -> None:
    trial = Trial({"a": 10, "b": 5}, seed=1)
    assert trial.samples == 15
    assert trial.key == Trial({"b": 5, "a": 10, "c": 0}, seed=1, rung=3).key
    others = [Trial({"a": 10, "b": 6}, 1), Trial({"a": 10, "b": 5}, 2), Trial({"a": 10, "b": 5}, 1, parent="x")]
    assert len({trial.key, *(other.key for other in others)}) == 4


def test_an_equal_trial_is_run_once_and_a_kept_one_never() -> None:
    ran: list[Trial] = []

    def trainer(trial: Trial) -> int:
        ran.append(trial)
        return trial.seed

    def bench(model: int) -> Outcome:
        return Outcome(50.0 + model, 10)

    memo = InMemory()
    first = Trials(trainer, bench, memo=memo)
    wanted = [Trial({"a": 4}, 0), Trial({"a": 4}, 1), Trial({"a": 4}, 0)]
    assert [outcome.score for outcome in first.run(wanted)] == [50.0, 51.0, 50.0]
    assert len(ran) == 2 and first.used == first.trained == 8
    second = Trials(trainer, bench, memo=memo)
    assert [outcome.score for outcome in second.run(wanted)] == [50.0, 51.0, 50.0]
    assert len(ran) == 2 and second.used == 8 and second.trained == 0


def test_a_budget_counts_kept_trials_and_refuses_before_it_trains() -> None:
    trials = Trials(lambda trial: trial, lambda model: Outcome(1.0, 1), budget=10)
    trials.run([Trial({"a": 6}, 0)])
    assert trials.affords([Trial({"a": 6}, 0), Trial({"a": 4}, 1)])
    assert not trials.affords([Trial({"a": 5}, 1)])
    with pytest.raises(UsageError, match="budget = 10 samples: 11 would be needed"):
        trials.run([Trial({"a": 5}, 1)])
    assert trials.used == 6


def test_a_failed_trial_is_an_outcome_with_its_reason() -> None:
    def trainer(trial: Trial) -> float:
        if trial.seed == 1:
            raise TrainingError("the loss is not a number at step 3")
        return float("nan") if trial.seed == 2 else 1.0

    trials = Trials(trainer, lambda model: Outcome(model, 1))
    outcomes = trials.run([Trial({"a": 1}, seed) for seed in range(3)])
    assert [outcome.error for outcome in outcomes] == [
        "",
        "the loss is not a number at step 3",
        "score = nan: no number",
    ]
    assert trials.counts == {"trials": 3, "trained": 3, "failed": 2}


def test_a_defect_of_the_trainer_is_not_hidden() -> None:
    def trainer(trial: Trial) -> float:
        raise KeyError("defect")

    with pytest.raises(KeyError):
        Trials(trainer, lambda model: Outcome(model, 1)).run([Trial({"a": 1}, 0)])


def test_samples_are_allotted_by_largest_remainders() -> None:
    assert allot({"a": 100, "b": 200, "c": 100}, 10) == {"a": 3, "b": 5, "c": 2}  # 2.5, 5, 2.5
    assert allot({"a": 999, "b": 1}, 10) == {"a": 10}
    with pytest.raises(UsageError, match="hold 1000 together"):
        allot({"a": 999, "b": 1}, 1001)


def test_seeds_are_the_same_everywhere_and_differ_between_rungs() -> None:
    seeds = {trial_seed(0, rung, number) for rung in range(3) for number in range(20)}
    assert len(seeds) == 60 and trial_seed(0, 0, 0) == 1159696137
