"""The workshop: trials run where there is room, kept in the ledger, priced by what the first one took.

One after another, in local processes, or on a Ray cluster: the same trials, scores and ledger.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sailctl.core.errors import Interrupted, SailctlError, UsageError
from sailctl.core.reporter import Reporter
from sailctl.core.valuation.ledger import Entry, Ledger, digest
from sailctl.core.valuation.seam import Outcome, Trial, Trials
from sailctl.core.valuation.trainer import OUTCOME, Spec, died, keep_weights, read_outcome, run_lane
from sailctl.core.workers import map_parts, usable_cores


@dataclass(slots=True)
class Workshop:
    """Runs the trials of a campaign and is their memo (`get`, `put`); `asked` are the keys that were looked up."""

    spec: Spec
    ledger: Ledger
    reporter: Reporter
    workers: int = 1
    ray: str | None = None
    asked: dict[str, Trial] = field(default_factory=dict)
    _rate: tuple[float, float] | None = None

    def trials(self, budget: tuple[float, str] | None) -> Trials:
        """The door through which a campaign trains; `budget` is an amount of samples or of device seconds."""
        amount, unit = budget if budget is not None else (None, "samples")
        priced: Callable[[Trial], float] = self.seconds_for if unit != "samples" else lambda trial: trial.samples
        return Trials(
            self.spec.train, self.spec.bench, memo=self, budget=amount, mapper=self.map, price=priced, unit=unit
        )

    # --- the memo ----------------------------------------------------------------------------------------------------

    def get(self, trial: Trial) -> Outcome | None:
        """The outcome of an equal trial: from the ledger, or from the folder of one that finished before a kill."""
        key = self.spec.key(trial)
        self.asked[key] = trial
        if (known := self.ledger.outcome(key)) is not None:
            return known
        if read_outcome(self.spec.folder(trial)) is not None:
            keep_weights(self.spec.folder(trial))  # where the kill came before that
            self._book(trial)
            return self.ledger.outcome(key)
        return None

    def put(self, trial: Trial, outcome: Outcome) -> None:
        """Keep it; what came of a trial is in its folder already."""
        self._book(trial)

    def forget_failures(self) -> int:
        """Drop failed trials with what they left, so that they are made anew; returns how many."""
        for row in self.ledger.rows():
            if row["error"]:
                shutil.rmtree(self.spec.root / row["folder"], ignore_errors=True)
        return self.ledger.forget_failures()

    def _book(self, trial: Trial) -> None:
        spec, found = self.spec, read_outcome(self.spec.folder(trial))
        assert found is not None
        outcome, train_s, bench_s = found
        self.ledger.put(
            Entry(
                key=spec.key(trial),
                recipe=spec.recipe_id,
                suite=spec.suite.version,
                parent=spec.parent_id,
                trial=trial,
                manifest=spec.manifest(trial),
                outcome=outcome,
                train_s=train_s,
                bench_s=bench_s,
                predicted_s=None if self._rate is None else self.seconds_for(trial),
                folder=os.path.relpath(spec.folder(trial), spec.root),
            )
        )

    # --- what it takes -----------------------------------------------------------------------------------------------

    def _recall(self) -> None:
        """Take the rate of trials of this kind that are in the ledger, unless there is one already."""
        if self._rate is not None:
            return
        spec = self.spec
        rows = [
            row
            for row in self.ledger.rows()
            if row["recipe"] == spec.recipe_id and row["suite"] == spec.suite.version and not row["error"]
        ]
        if rows:
            samples = sum(row["samples"] for row in rows)
            self._rate = (
                sum(row["train_s"] for row in rows) / samples,
                sum(row["bench_s"] for row in rows) / len(rows),
            )

    def foresee(self, samples: float) -> float | None:
        """Device seconds that so many samples will take to train, by the rate of trials of this kind; None without."""
        self._recall()
        return None if self._rate is None else self._rate[0] * samples

    def foretold(self) -> float | None:
        """Device seconds of all trials looked up, by the rate known when they began; None where none was known."""
        return None if self._rate is None else sum(self.seconds_for(trial) for trial in self.asked.values())

    def seconds_for(self, trial: Trial) -> float:
        """Device seconds a trial will take, by the rate that `gauge` found."""
        assert self._rate is not None
        per_sample, fixed = self._rate
        return per_sample * trial.samples + fixed

    def gauge(self, first: Trial) -> None:
        """Find out what a trial takes, from the first one there is to do; kept in the ledger, for good.

        A rate that changed as trials come in would have a second call stop elsewhere than the first.
        """
        key = digest(["rate", self.spec.recipe_id, self.spec.suite.version, list(self.spec.devices)])

        def measured() -> list[float]:
            if self.get(first) is None:
                self.reporter.info(f"one trial of {first.samples:,} samples, to see what it takes")
                for outcome in self.map(None, [first]):
                    self.put(first, outcome)
            found = read_outcome(self.spec.folder(first))
            if found is None or found[0].error:
                reason = "" if found is None else f": {found[0].error}"
                raise SailctlError(f"the first trial failed, so that nothing can be foretold{reason}")
            return [found[1] / first.samples, found[2]]

        per_sample, fixed = self.ledger.fact(key, measured)
        self._rate = (per_sample, fixed)

    # --- where it is done --------------------------------------------------------------------------------------------

    def map(self, _function: object, trials: Sequence[Trial]) -> Iterator[Outcome]:
        """Outcomes of a batch, in its order; a trial whose worker dies twice is recorded as failed.

        Raises Interrupted at Ctrl-C: finished trials are kept, the others go on where they were.
        """
        trials = list(trials)
        if not trials:
            return
        self._recall()
        self._say(trials)
        try:
            self._run(trials)
        except KeyboardInterrupt:
            raise Interrupted("finished trials are kept; the same command goes on") from None
        finally:
            self.reporter.finish()
        for trial in trials:
            found = read_outcome(self.spec.folder(trial))
            assert found is not None
            yield found[0]

    def _run(self, trials: Sequence[Trial]) -> None:
        count = min(self.workers, len(trials))
        lanes = [(self.spec, number, trials[number::count]) for number in range(count)]
        try:
            map_parts(run_lane, lanes, lambda: self._tick(trials), ray=self.ray)
        except (UsageError, Interrupted):  # nobody's trial: a cluster that is not there, a wish to stop
            raise
        except SailctlError as error:
            left = [trial for trial in trials if not self._done(trial)]
            self.reporter.info(f"{error}; {len(left)} trials are tried once more, one at a time")
            for trial in left:
                # Two parts, one of them empty, so that the trial gets a process of its own: it may take that along.
                try:
                    map_parts(run_lane, [(self.spec, 0, [trial]), (self.spec, 1, [])], lambda: None, ray=self.ray)
                except (UsageError, Interrupted):
                    raise
                except SailctlError as again:
                    if not self._done(trial):
                        died(self.spec, trial, again)

    def _say(self, trials: Sequence[Trial]) -> None:
        sizes = sorted({trial.samples for trial in trials})
        size = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
        about = ""
        if self._rate is not None:
            seconds = sum(self.seconds_for(trial) for trial in trials) / min(self.workers, len(trials))
            about = f", about {seconds / 60:.1f} minutes"
        one = "1 trial" if len(trials) == 1 else f"{len(trials)} trials"
        self.reporter.info(f"{one} of {size} samples{about}")
        self.reporter.start("trials", len(trials), unit="trials")

    def _tick(self, trials: Sequence[Trial]) -> None:
        self.reporter.update(sum(self._done(trial) for trial in trials))

    def _done(self, trial: Trial) -> bool:
        return (self.spec.folder(trial) / OUTCOME).is_file()


def workers_and_devices(device: str, workers: int | None) -> tuple[int, tuple[str, ...]]:
    """How many trials run at once, and on which devices: one each on accelerators, one for each core of a CPU."""
    from sailctl.core.device import pick

    place = pick(device)
    if place.kind == "cpu":
        return workers or min(usable_cores(), 8), ("cpu",)
    if device != "auto" and ":" in device:
        return workers or 1, (device,)
    _, count = place.visible()
    devices = tuple(f"{place.kind}:{number}" for number in range(count)) or (place.kind,)
    return workers or len(devices), devices


def parse_budget(text: str) -> tuple[float, str]:
    """`2e6` or `2M` samples, `90m`, `12h` or `3d` of device time. Raises UsageError."""
    scales = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "k": 1e3, "M": 1e6, "B": 1e9}
    number, ending = (text[:-1], text[-1]) if text and text[-1] in scales else (text, "")
    try:
        amount = float(number) * scales.get(ending, 1.0)
    except ValueError:
        amount = -1.0
    if not 0 < amount < float("inf"):
        raise UsageError(f"--budget {text}: give samples (2e6, 2M) or device time (90m, 12h, 3d)")
    return amount, "device seconds" if ending in ("s", "m", "h", "d") else "samples"


def parse_samples(text: str, option: str = "--samples") -> int:
    """`2M`, `50k` or `2e6` as a number of samples. Raises UsageError that names the option."""
    try:
        amount, unit = parse_budget(text.strip())
    except UsageError:
        amount, unit = 0.5, ""
    if unit != "samples" or abs(amount - round(amount)) > 1e-9 * amount:  # 1.001k is 1,000.9999999999999
        raise UsageError(f"{option} {text}: is no number of samples; give 50000, 50k or 2M")
    return round(amount)
