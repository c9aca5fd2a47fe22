"""The seam: what a trial is, what comes back, and the one door through which all of valuation trains and scores.

    trainer(trial: Trial) -> model       any object; may raise a SailctlError: the trial has failed, others go on
    bench(model) -> Outcome              a score in points (0 to 100), with the items behind it where there are any

Both may be anything: sailctl's own trainer and suites, or a simulator. A trial says all that a result may depend on;
equal trials have equal keys and are run once. Costs are counted in samples trained.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from sailctl.core.errors import Interrupted, SailctlError, UsageError


@dataclass(frozen=True, slots=True)
class Trial:
    """One training: so many samples of each group, from this parent, with this seed.

    `mixture` maps groups (datasets) to samples; groups without samples are no part of a trial. `rung` is the number of
    the size on the ladder (0 is the smallest) and for information only: it is not in the key. The same seed in two
    mixtures means the same initial weights and, as far as the trainer can, the same order of shared samples.
    """

    mixture: Mapping[str, int]
    seed: int
    rung: int = 0
    parent: str | None = None

    @property
    def samples(self) -> int:
        """Samples trained: what a trial costs."""
        return sum(self.mixture.values())

    @property
    def key(self) -> str:
        """blake2b-128 (32 hex digits) of mixture, seed and parent: the same for equal trials."""
        groups = sorted((name, int(count)) for name, count in self.mixture.items() if count)
        text = json.dumps([groups, self.seed, self.parent], ensure_ascii=False, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, eq=False, slots=True)
class Outcome:
    """A trained model's score in points (0 to 100) on `n` items.

    `items` (one number an item, in points, aligned over all outcomes of a suite by `ids`) and `weights` (summing to 1;
    1 / n without) make the score: score = sum of weights x items. Without items the noise of the benchmark counts only
    as far as it differs from run to run. `error` is the reason of a trial that failed; its score means nothing.
    """

    score: float
    n: int
    items: np.ndarray | None = None
    ids: tuple[str, ...] | None = None
    weights: np.ndarray | None = None
    error: str = ""


class Memo(Protocol):
    """Where outcomes are kept: a dictionary, or a ledger on disk."""

    def get(self, trial: Trial) -> Outcome | None:
        """The outcome of an equal trial, None where there is none."""

    def put(self, trial: Trial, outcome: Outcome) -> None:
        """Keep it; called once a trial, as soon as it is known."""


@dataclass(slots=True)
class InMemory:
    """A memo that lasts as long as its process."""

    kept: dict[str, Outcome] = field(default_factory=dict)

    def get(self, trial: Trial) -> Outcome | None:
        """The outcome of an equal trial, None where there is none."""
        return self.kept.get(trial.key)

    def put(self, trial: Trial, outcome: Outcome) -> None:
        """Keep it."""
        self.kept[trial.key] = outcome


Trainer = Callable[[Trial], Any]
Bench = Callable[[Any], Outcome]
Mapper = Callable[[Callable[[Trial], Outcome], Sequence[Trial]], Iterable[Outcome]]


class Trials:
    """Runs trials through trainer and bench, each distinct one once, within a budget of samples.

    `budget` counts every distinct trial a decision rests on, kept ones too: a second call with the same memo decides
    the same and trains nothing. It is in samples, or in whatever unit `price` says of a trial. `mapper` runs a batch
    (the built-in `map`: one after another) and must keep its order.
    """

    def __init__(
        self,
        trainer: Trainer,
        bench: Bench,
        *,
        memo: Memo | None = None,
        budget: float | None = None,
        mapper: Mapper = map,
        price: Callable[[Trial], float] = lambda trial: trial.samples,
        unit: str = "samples",
    ) -> None:
        if budget is not None and budget < 0:
            raise UsageError(f"budget = {budget}: should be a number of {unit}, 0 or more")
        self.trainer, self.bench, self.mapper = trainer, bench, mapper
        self.memo: Memo = InMemory() if memo is None else memo
        self.budget, self.price, self.unit = budget, price, unit
        self.spent = 0.0  # of the budget, by all distinct trials asked for
        self.used = 0  # samples of these
        self.least = 0.0  # what one decision was said to take
        self.trained = 0  # of those, samples trained in this process
        self.counts = {"trials": 0, "trained": 0, "failed": 0}
        self._seen: set[str] = set()

    def cost(self, trials: Iterable[Trial]) -> float:
        """What these would add to what is spent."""
        return sum(self.price(trial) for trial in self._new(trials))

    def _new(self, trials: Iterable[Trial]) -> list[Trial]:
        return list({trial.key: trial for trial in trials if trial.key not in self._seen}.values())

    def affords(self, trials: Sequence[Trial]) -> bool:
        """Whether they fit into what is left of the budget."""
        return self.budget is None or self.spent + self.cost(trials) <= self.budget

    def afford(self, least: float) -> None:
        """Refuse a budget that cannot hold one decision, which takes `least`; the message says what it would take."""
        self.least = least
        if self.budget is not None and self.budget < least:
            raise UsageError(
                f"budget = {self.budget:g} {self.unit}: too small for one decision, which takes {least:,.0f} or more"
            )

    def run(self, trials: Sequence[Trial]) -> list[Outcome]:
        """Outcomes in the order given; raises UsageError where the budget does not hold them (see `affords`)."""
        if not self.affords(trials):
            raise UsageError(
                f"budget = {self.budget} {self.unit}: {self.spent + self.cost(trials):,.0f} would be needed"
            )
        self.spent += self.cost(trials)
        self.used += sum(trial.samples for trial in self._new(trials))
        found = {trial.key: self.memo.get(trial) for trial in trials}
        missing = list({trial.key: trial for trial in trials if found[trial.key] is None}.values())
        for trial, outcome in zip(missing, self.mapper(self._one, missing), strict=True):
            self.memo.put(trial, outcome)
            found[trial.key] = outcome
            self.trained += trial.samples
            self.counts["trained"] += 1
        outcomes = []
        for trial in trials:
            known = found[trial.key]
            assert known is not None
            if trial.key not in self._seen:
                self._seen.add(trial.key)
                self.counts["trials"] += 1
                self.counts["failed"] += bool(known.error)
            outcomes.append(known)
        return outcomes

    def _one(self, trial: Trial) -> Outcome:
        return attempt(self.trainer, self.bench, trial)


def attempt(trainer: Trainer, bench: Bench, trial: Trial) -> Outcome:
    """Train and score; an expected failure, and a score that is no number, make a failed outcome with its reason."""
    try:
        outcome = bench(trainer(trial))
    except Interrupted:  # nobody's failure: the user wants to stop
        raise
    except SailctlError as error:
        return Outcome(float("nan"), 0, error=str(error) or type(error).__name__)
    if not np.isfinite(outcome.score):
        return Outcome(float("nan"), 0, error=f"score = {outcome.score}: no number")
    return outcome


def allot(sizes: Mapping[str, int], samples: int) -> dict[str, int]:
    """`samples` divided among groups in proportion to their sizes, whole numbers by largest remainders.

    Raises UsageError where the groups together hold fewer samples than asked.
    """
    total = sum(sizes.values())
    if total < samples:
        raise UsageError(f"samples = {samples}: the groups {', '.join(sizes)} hold {total} together; ask for fewer")
    shares = {name: size * samples / total for name, size in sizes.items()}
    counts = {name: int(share) for name, share in shares.items()}
    rest = samples - sum(counts.values())
    for name in sorted(shares, key=lambda name: (counts[name] - shares[name], name))[:rest]:
        counts[name] += 1
    return {name: count for name, count in counts.items() if count}


def trial_seed(campaign: int, rung: int, number: int) -> int:
    """The seed of a rung's `number`-th run: the same for all arms, another one on every rung (31 bits)."""
    digest = hashlib.blake2b(f"{campaign}/{rung}/{number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1
