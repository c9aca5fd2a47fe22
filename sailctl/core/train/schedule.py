"""When a run ends and how its learning rate moves: pure functions of the samples and steps made so far.

Pretraining warms up and stays constant, so that its trunk can be annealed anywhere; SFT warms up and follows a cosine;
an anneal branch goes linearly to zero from the learning rate at which it left the trunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sailctl.core.errors import UsageError
from sailctl.core.reporter import counted
from sailctl.core.schema.train import TrainConfig

if TYPE_CHECKING:
    from sailctl.core.train.step import GlobalStep


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals of a run since its first step; they travel with the checkpoint. `samples` are those trained on."""

    steps: int = 0
    samples: int = 0
    tokens: int = 0
    rejected: int = 0

    def plus(self, step: GlobalStep) -> Counters:
        """The totals after one more step."""
        return Counters(
            self.steps + 1,
            self.samples + step.num_samples,
            self.tokens + step.num_tokens,
            self.rejected + len(step.rejects),
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """The end of a run: `max_steps` or `max_samples`, whichever comes first; at least one is given.

    An end in epochs counts the rejected samples as well (`with_rejected`): they belong to the epoch.
    """

    max_steps: int | None
    max_samples: int | None
    with_rejected: bool = False

    @classmethod
    def of(cls, train: TrainConfig, samples_per_epoch: int) -> Budget:
        """Read the recipe's end; with neither steps nor samples it is `epochs` times the mixture's samples."""
        if train.max_steps is None and train.max_samples is None:
            max_samples = math.ceil(train.epochs * samples_per_epoch)
            if max_samples <= 0:
                samples = counted(samples_per_epoch, "sample")
                raise UsageError(f"train.epochs {train.epochs} of {samples} is no step; give train.max_steps")
            return cls(None, max_samples, with_rejected=True)
        return cls(train.max_steps, train.max_samples)

    def progress(self, done: Counters) -> float:
        """Share of the run that lies behind, from 0 to 1."""
        samples = done.samples + (done.rejected if self.with_rejected else 0)
        by_steps = done.steps / self.max_steps if self.max_steps else 0.0
        by_samples = samples / self.max_samples if self.max_samples else 0.0
        return min(1.0, max(by_steps, by_samples))

    def reached(self, done: Counters) -> bool:
        """True when nothing is left to do."""
        return self.progress(done) >= 1.0

    def ended_by(self, done: Counters) -> str:
        """The recipe's limit that the run has reached, or is closest to."""
        by_steps = done.steps / self.max_steps if self.max_steps else 0.0
        if self.max_steps and by_steps >= self.progress(done):
            return f"train.max_steps {self.max_steps:,}"
        if self.with_rejected:
            return f"train.epochs, {counted(self.max_samples or 0, 'sample')}"
        return f"train.max_samples {self.max_samples:,}"

    def counted_in(self, samples_per_step: float) -> tuple[str, int]:
        """What is best counted on the way to the end, and how many of it: ("steps", n) or ("samples", n)."""
        if self.max_samples is None or (self.max_steps and self.max_steps * samples_per_step <= self.max_samples):
            assert self.max_steps is not None  # one of the two is given
            return "steps", self.max_steps
        return "samples", self.max_samples

    def expected_steps(self, samples_per_step: float) -> int:
        """Steps the run will take when a step holds `samples_per_step` samples; exact where `max_steps` decides."""
        ends = [self.max_steps] if self.max_steps else []
        if self.max_samples:
            ends.append(max(1, math.ceil(self.max_samples / samples_per_step)))
        return min(ends)


def learning_rate(train: TrainConfig, before: float, after: float) -> float:
    """Learning rate of the step that moves progress from `before` to `after` (both 0 to 1).

    Warm-up looks at `after` and decay at `before`: neither the first nor the last step is wasted at zero.
    Warm-up is linear over the first `warmup_ratio` of the run; the cosine and the line end at zero.
    """
    warmup = train.warmup_ratio
    if after < warmup:
        return train.lr * after / warmup
    if train.schedule == "constant":
        return train.lr
    decayed = max(0.0, before - warmup) / (1.0 - warmup)
    if train.schedule == "linear_to_zero":
        return train.lr * (1.0 - decayed)
    return train.lr * 0.5 * (1.0 + math.cos(math.pi * decayed))
