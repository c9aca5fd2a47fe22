"""A decision up to its first training: what would be refused is, and what it takes at least is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from sailctl.core.valuation.seam import Outcome, Trial, Trials


class _FirstTraining(Exception):
    """Raised where a rehearsal would train."""


def rehearse(decide: Callable[[Trials], Any], budget: float | None) -> tuple[int, int]:
    """Let `decide` go up to its first batch; how many trials that has, and the samples a whole decision takes at least.

    `budget` is in samples. Raises the UsageErrors of a decision.
    """
    batch: list[Trial] = []

    def halt(_function: object, trials: Sequence[Trial]) -> Iterator[Outcome]:
        batch.extend(trials)
        raise _FirstTraining

    def untrained(_trial: Trial) -> Any:
        raise AssertionError("a rehearsal trains nothing")

    trials = Trials(untrained, untrained, budget=budget, mapper=halt)
    with suppress(_FirstTraining):
        decide(trials)
    return len(batch), round(max(trials.least, sum(trial.samples for trial in batch)))
