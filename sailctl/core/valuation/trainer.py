"""A real trial: sailctl's own training and bench behind the seam's `trainer` and `bench`.

Everything a worker needs is in a `Spec`, which travels to processes and machines. A trial keeps its own books in its
folder (run, bench, outcome.json), so that a killed campaign loses at most the step it was in.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sailctl.core.errors import DataError, SailctlError, TrainingError
from sailctl.core.files import write_json
from sailctl.core.reporter import Quiet
from sailctl.core.schema.recipe import Recipe
from sailctl.core.valuation.ledger import digest
from sailctl.core.valuation.mixture import Groups, draw, manifest
from sailctl.core.valuation.seam import Outcome, Trial, attempt
from sailctl.core.valuation.suite import SuiteSpec, measure

OUTCOME = "outcome.json"


@dataclass(frozen=True)
class Spec:
    """What all trials of a campaign share: how is trained, on parts of what, from where, and how is scored.

    `parent` is a checkpoint's path, `parent_id` the hash of its weights. `threads` are those of a trial on a CPU:
    fixed, so that scores do not depend on how many workers there are.
    """

    recipe: Recipe
    recipe_dir: Path
    parent: str | None
    parent_id: str | None
    groups: Groups
    suite: SuiteSpec
    root: Path
    devices: tuple[str, ...] = ("auto",)
    threads: int = 1

    @property
    def recipe_id(self) -> str:
        """Hash of all of the recipe that bears on a trial: not its data's sources, seed, or length."""
        raw = self.recipe.model_dump(mode="json", exclude={"bench": True, "name": True, "bootstrap": True})
        raw["data"].pop("sources")
        for key in ("seed", "max_samples", "max_steps", "epochs", "save_every", "keep_checkpoints", "trackers"):
            raw["train"].pop(key)
        return digest([raw, self.threads])

    def key(self, trial: Trial) -> str:
        """The run key: mixture manifest, parent weights, recipe, seed, suite version."""
        return digest([self.manifest(trial), self.parent_id, self.recipe_id, trial.seed, self.suite.version])

    def manifest(self, trial: Trial) -> list[list[str | int]]:
        """Content and count of every source of a trial."""
        return manifest(self.groups, trial.mixture)

    def folder(self, trial: Trial) -> Path:
        """Where a trial keeps its books."""
        return self.root / "trials" / self.key(trial)

    def recipe_for(self, trial: Trial) -> Recipe:
        """The recipe of one trial: seeded parts of its groups, each seen once, in the trial's own order."""
        raw = self.recipe.model_dump(mode="json")
        sources = draw(self.groups, trial.mixture, trial.seed)
        raw["data"]["sources"] = [source.model_dump(mode="json") for source in sources]
        if self.devices == ("cpu",):  # a reader of its own would take a core from another trial, and seconds to start
            raw["data"]["workers"] = 0
        raw["train"] |= {"seed": trial.seed, "max_samples": trial.samples, "max_steps": None, "epochs": 1.0}
        raw["train"] |= {"keep_checkpoints": 1, "trackers": []}
        return Recipe.model_validate(raw)

    def train(self, trial: Trial) -> tuple[Trial, Path, float]:
        """Train in the trial's folder, or go on there; its weights, and the seconds of its steps."""
        from sailctl.core.train.run import train_stage

        folder = self.folder(trial)
        try:
            result = train_stage(
                self.recipe_for(trial),
                recipe_dir=self.recipe_dir,
                out=folder / "run",
                checkpoint=self.parent,
                resume=True,
                device=self.device(),
                reporter=Quiet(),
            )
            return trial, result.checkpoint, result.seconds
        except (RuntimeError, MemoryError) as error:  # out of memory, a kernel that fails: this trial's failure only
            raise TrainingError(f"the trial crashed: {type(error).__name__}: {str(error)[:300]}") from error

    def bench(self, trained: tuple[Trial, Path, float]) -> Outcome:
        """Score a trained trial."""
        trial, checkpoint, _ = trained
        return measure(self.suite, checkpoint, self.folder(trial) / "bench", self.device())

    def device(self) -> str:
        """The device of this worker."""
        return self.devices[int(os.environ.get("SAILCTL_WORKER", "0")) % len(self.devices)]


def run_trial(spec: Spec, trial: Trial) -> Outcome:
    """One trial from its data to its outcome, which is on disk when this returns; one that is there is read."""
    folder = spec.folder(trial)
    known = read_outcome(folder)
    if known is None:
        began = time.perf_counter()
        seconds: dict[str, float] = {"train_s": 0.0}

        def train(trial: Trial) -> tuple[Trial, Path, float]:
            trained = spec.train(trial)
            # A trial that was resumed has steps of before this call; loading and indexing count, too.
            seconds["train_s"] = max(trained[2], time.perf_counter() - began)
            return trained

        with _threads(spec.threads):
            outcome = attempt(train, spec.bench, trial)
        total = time.perf_counter() - began
        seconds["train_s"] = seconds["train_s"] or total
        seconds["bench_s"] = max(0.0, total - seconds["train_s"])
        folder.mkdir(parents=True, exist_ok=True)
        write_outcome(folder, outcome, seconds)
    else:
        outcome = known[0]
    keep_weights(folder)
    return outcome


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads for a trial's arithmetic: sums depend on it, and two trials must not wait for one another's."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def write_outcome(folder: Path, outcome: Outcome, seconds: Mapping[str, float]) -> None:
    """Write outcome.json: the trial is over."""
    write_json(
        folder / OUTCOME,
        {
            "score": None if outcome.error else outcome.score,
            "n": outcome.n,
            "error": outcome.error,
            **seconds,
            "ids": None if outcome.ids is None else list(outcome.ids),
            "items": None if outcome.items is None else outcome.items.tolist(),
            "weights": None if outcome.weights is None else outcome.weights.tolist(),
        },
    )


def read_outcome(folder: Path) -> tuple[Outcome, float, float] | None:
    """What a finished trial left, with its seconds of training and scoring; None where it is not finished."""
    path = folder / OUTCOME
    if not path.is_file():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        outcome = Outcome(
            float("nan") if raw["score"] is None else float(raw["score"]),
            int(raw["n"]),
            None if raw["items"] is None else np.array(raw["items"], dtype=np.float64),
            None if raw["ids"] is None else tuple(raw["ids"]),
            None if raw["weights"] is None else np.array(raw["weights"], dtype=np.float64),
            str(raw["error"]),
        )
        return outcome, float(raw["train_s"]), float(raw["bench_s"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is damaged ({error!r}); delete it, and the trial is scored again") from None


def keep_weights(folder: Path) -> None:
    """Of a finished trial keep the weights; its optimiser state is of no more use, and as large twice over."""
    run = folder / "run" / "checkpoints"
    if not run.is_dir():
        return
    for weights in sorted(run.glob("step-*/weights"))[-1:]:
        if not (folder / "weights").exists():
            weights.rename(folder / "weights")
    shutil.rmtree(run, ignore_errors=True)


def run_lane(lane: tuple[Spec, int, Sequence[Trial]]) -> int:
    """A worker's share of a batch, one trial after another; what comes of them is on disk."""
    spec, worker, trials = lane
    os.environ["SAILCTL_WORKER"] = str(worker)
    for trial in trials:
        run_trial(spec, trial)
    return len(trials)


def died(spec: Spec, trial: Trial, error: SailctlError) -> None:
    """Record a trial whose worker died with it twice."""
    folder = spec.folder(trial)
    folder.mkdir(parents=True, exist_ok=True)
    write_outcome(folder, Outcome(float("nan"), 0, error=str(error)), {"train_s": 0.0, "bench_s": 0.0})


def facts_of(spec: Spec) -> dict[str, Any]:
    """What a decision's record says about how its trials were made."""
    return {
        "recipe": spec.recipe.name,
        "stage": spec.recipe.stage,
        "recipe_id": spec.recipe_id,
        "parent": spec.parent,
        "parent_weights": spec.parent_id,
        "suite": spec.suite.describe(),
        "groups": {
            name: [
                {"name": part.config.name, "path": part.config.path, "samples": part.size, "content": part.fingerprint}
                for part in parts
            ]
            for name, parts in spec.groups.items()
        },
    }
