"""Ends and learning rates, by hand-computed values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sailctl.core.errors import UsageError
from sailctl.core.schema.train import TrainConfig
from sailctl.core.train.schedule import Budget, Counters, learning_rate


def test_the_first_end_counts() -> None:
    budget = Budget(max_steps=10, max_samples=40)
    assert budget.progress(Counters(5, 10)) == 0.5
    assert budget.progress(Counters(5, 30)) == 0.75
    assert not budget.reached(Counters(9, 39))
    assert budget.reached(Counters(10, 0)) and budget.reached(Counters(0, 40))
    assert budget.expected_steps(8.0) == 5


def test_without_steps_and_samples_epochs_decide() -> None:
    assert Budget.of(TrainConfig(epochs=1.5), 101) == Budget(None, 152, with_rejected=True)
    assert Budget.of(TrainConfig(epochs=1.5, max_samples=7), 101) == Budget(None, 7)
    with pytest.raises(UsageError, match="of 0 samples is no step"):
        Budget.of(TrainConfig(), 0)


def test_an_epoch_ends_with_its_rejected_samples_but_max_samples_are_trained_on() -> None:
    done = Counters(steps=3, samples=95, rejected=5)
    assert Budget.of(TrainConfig(epochs=1), 100).reached(done)
    assert not Budget.of(TrainConfig(max_samples=100), 100).reached(done)


def rates(schedule: str, warmup: float, steps: int = 10) -> list[float]:
    train = TrainConfig(lr=1.0, schedule=schedule, warmup_ratio=warmup)
    return [round(learning_rate(train, i / steps, (i + 1) / steps), 6) for i in range(steps)]


def test_constant_warms_up_and_stays() -> None:
    assert rates("constant", 0.4) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]


def test_linear_to_zero_begins_at_the_full_rate_and_ends_one_step_above_zero() -> None:
    assert rates("linear_to_zero", 0.0) == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]


def test_cosine_warms_up_then_falls() -> None:
    assert rates("cosine", 0.2) == [0.5, 1.0, 1.0, 0.96194, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.03806]


@given(
    st.sampled_from(["constant", "cosine", "linear_to_zero"]),
    st.floats(0, 0.9),
    st.floats(0, 1),
    st.floats(1e-6, 0.5),
)
def test_a_rate_is_never_negative_nor_above_the_peak(
    schedule: str, warmup: float, before: float, length: float
) -> None:
    train = TrainConfig(lr=2.0, schedule=schedule, warmup_ratio=warmup)
    assert 0.0 <= learning_rate(train, before, min(1.0, before + length)) <= 2.0


def test_the_limit_that_ended_a_run_is_named() -> None:
    done = Counters(steps=10, samples=100)
    assert Budget(10, 400).ended_by(done) == "train.max_steps 10"
    assert Budget(400, 100).ended_by(done) == "train.max_samples 100"
    assert Budget(None, 100, with_rejected=True).ended_by(done) == "train.epochs, 100 samples"
