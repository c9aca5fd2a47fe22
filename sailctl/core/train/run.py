"""One stage from a recipe to a finished run: parent, data, model, resume, the loop, and what is left behind.

The only way into training: pretrain, sft and anneal differ in their recipe alone. The loop itself is in `loop.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sailctl.core.device import Device, pick
from sailctl.core.errors import Interrupted, UsageError
from sailctl.core.schema.load import load_recipe
from sailctl.core.schema.recipe import Recipe
from sailctl.core.train import checkpoint as checkpoints
from sailctl.core.train import parents, rundir
from sailctl.core.train.backend import Plain
from sailctl.core.train.checkpoint import Checkpoint
from sailctl.core.train.gauge import Gauge
from sailctl.core.train.inputs import build_loader, build_model, make_missing_data, same_stream
from sailctl.core.train.loop import Job, run_loop
from sailctl.core.train.meter import Meter, progress_fields, summarise
from sailctl.core.train.reporter import Reporter
from sailctl.core.train.schedule import Budget, Counters
from sailctl.core.train.signals import stop_signals


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run: totals since its first step; `seconds` adds up its steps over all sessions."""

    run_dir: Path
    checkpoint: Path
    steps: int
    samples: int
    tokens: int
    loss_first: float
    loss_last: float
    seconds: float


@dataclass(frozen=True, slots=True)
class _Call:
    """How `train_stage` was called, passed on to its parts and to the parents it has to make."""

    recipe_dir: Path
    out: Path
    device: str
    reporter: Reporter
    resume_command: str | None
    bootstrapped: bool  # begun only because a child stage needs it


def train_stage(
    recipe: Recipe,
    *,
    recipe_dir: Path,
    out: Path,
    checkpoint: str | None = None,
    resume: bool = False,
    device: str = "auto",
    reporter: Reporter,
    resume_command: str | None = None,
) -> RunResult:
    """Train one stage in `out` and return what came of it; a finished run is recognised and returned as it is.

    `checkpoint` is the parent instead of the recipe's; `resume_command` is what an interrupted user is told to type.
    Raises UsageError (occupied `out`, no parent, another recipe on resume), DataError, TrainingError, StorageError,
    and Interrupted once SIGINT or SIGTERM has been answered by a saved step.
    """
    call = _Call(recipe_dir, out, device, reporter, resume_command, bootstrapped=False)
    return _run(recipe, call, checkpoint, resume)


def _run(recipe: Recipe, call: _Call, given: str | None, resume: bool) -> RunResult:
    device, out = pick(call.device), call.out
    with rundir.locked(out):
        if not resume and not rundir.is_empty(out):
            raise UsageError(f"{out} already holds a run; add --resume to go on with it, or give another --out")
        checkpoints.sweep(out)
        position = checkpoints.latest(out)
        if position is None:
            make_missing_data(recipe, call.reporter)
            parent = _parent(recipe, call, given)
            if recipe.stage == "anneal":
                recipe = parents.follow_trunk(recipe, parent)
            return _train(recipe, call, device, position, parent)
        position.verify()
        state = position.state()
        if recipe.stage == "anneal":
            recipe = parents.keep_trunk(recipe, state["recipe"])
        rundir.check_same_recipe(out, state["recipe"], recipe.model_dump(mode="json"))
        counters = Counters(**state["counters"])
        if Budget.of(recipe.train, state["samples_per_epoch"]).reached(counters):
            call.reporter.info(f"{out} is done: {counters.steps} steps, {counters.samples} samples; nothing left to do")
            return _result(out, counters)
        make_missing_data(recipe, call.reporter)
        return _train(recipe, call, device, position, None)


def _train(
    recipe: Recipe, call: _Call, device: Device, position: Checkpoint | None, parent: parents.Parent | None
) -> RunResult:
    """Put a run together, at its beginning or at `position`, and take it to its end or to a request to stop."""
    from sailctl.core.model.weights import save_weights

    train, out, reporter = recipe.train, call.out, call.reporter
    device.seed(train.seed)  # a fresh projector draws from it
    loaded = build_model(recipe, call.recipe_dir, device, position, parent)
    backend = Plain(loaded.model, train, device)
    loader = build_loader(recipe, loaded)
    fingerprints = loader.fingerprints()
    counters = Counters()
    if position is not None:
        state = position.state()
        rundir.check_same_data(out, state["data"], fingerprints)
        counters = Counters(**state["counters"])
        backend.load_state(position.optimizer(), str(position.path))
        loader.load_state_dict(state["loader"])
        about = rundir.read_run(out)
    else:
        if recipe.stage == "anneal" and parent is not None and parent.checkpoint is not None:
            backend.load_state(parent.checkpoint.optimizer(), str(parent.path))
            trunk = parent.checkpoint.state()
            if same_stream(trunk, recipe, fingerprints):  # go on with samples the trunk has not seen yet
                loader.load_state_dict(trunk["loader"])
        about = _about(recipe, call, parent, {source.name: len(source) for source in loader.sources}, fingerprints)
    _add_session(about, device, counters.steps, reporter)
    rundir.write_run(out, recipe, about)

    budget = Budget.of(train, loader.samples_per_epoch)
    meter = Meter(out, recipe.stage, device, counters, Gauge.of(loaded.config, recipe, device))
    unit, total = ("steps", budget.max_steps) if budget.max_samples is None else ("samples", budget.max_samples)

    def report(row: dict[str, Any]) -> None:
        reporter.update(row["step" if unit == "steps" else unit], **progress_fields(row))

    def save(lr: float) -> None:
        meter.sync()
        state = {
            "counters": asdict(meter.counters),
            "lr": lr,
            "finished": budget.reached(meter.counters),
            "samples_per_epoch": loader.samples_per_epoch,
            "loader": loader.state_dict(),
            "data": fingerprints,
            "recipe": recipe.model_dump(mode="json"),
        }
        checkpoints.save(
            out,
            meter.counters.steps,
            write_weights=lambda folder: save_weights(loaded.model, loaded.tokenizer, folder),
            optimizer=backend.state(),
            state=state,
            keep=train.keep_checkpoints,
        )

    reporter.start(f"{recipe.name} {recipe.stage}", total, completed=getattr(counters, unit), unit=unit)
    try:
        with stop_signals() as stop_requested:
            run_loop(Job(train, device, backend, loader, budget, meter, save, report, stop_requested))
    finally:
        reporter.finish()
        meter.close()
        loader.close()
    result = _result(out, meter.counters)
    if not budget.reached(meter.counters):
        command = call.resume_command or f"the same command with --out {out} --resume"
        raise Interrupted(f"stopped after step {result.steps}, saved in {result.checkpoint}; go on with: {command}")
    return result


def _parent(recipe: Recipe, call: _Call, given: str | None) -> parents.Parent | None:
    """What the stage starts from: `--checkpoint`, the recipe's parent (made if it bootstraps), or None for `model`."""
    if given is not None:
        return parents.open_parent(Path(given))
    if recipe.parent is None:
        return None
    run_dir = parents.sibling(recipe, call.out, recipe.parent)
    if not parents.usable(run_dir):
        if not recipe.bootstrap:
            raise parents.missing_parent(recipe, call.recipe_dir, run_dir)
        call.reporter.info(f"{recipe.stage} starts from {recipe.parent}, which is not there yet: making {run_dir}")
        parent_recipe, folder = load_recipe(str(call.recipe_dir), recipe.parent)
        _run(parent_recipe, replace(call, recipe_dir=folder, out=run_dir, bootstrapped=True), None, resume=True)
    return parents.open_parent(run_dir)


def _about(
    recipe: Recipe, call: _Call, parent: parents.Parent | None, counts: dict[str, int], fingerprints: dict[str, str]
) -> dict[str, Any]:
    """`run.json` of a run that begins: what it is, what it starts from, what it reads, and where it runs."""
    return {
        "recipe": recipe.name,
        "stage": recipe.stage,
        "seed": recipe.train.seed,
        "bootstrapped": call.bootstrapped,
        "parent": None if parent is None else parent.about(call.out),
        "data": {
            source.name: {"path": source.path, "samples": counts[source.name], "fingerprint": fingerprints[source.name]}
            for source in recipe.data.sources
        },
        **rundir.environment(Path.cwd()),
        "sessions": [],
    }


def _add_session(about: dict[str, Any], device: Device, steps: int, reporter: Reporter) -> None:
    """Record this process; bit-identity holds between sessions with equal threads only, so say when they differ."""
    session = {"started": rundir.timestamp(), "from_step": steps, "device": device.name()}
    about["sessions"].append(session | {"threads": torch.get_num_threads()})
    threads = sorted({entry["threads"] for entry in about["sessions"]})
    if len(threads) > 1:
        reporter.info(f"this run has used {threads} threads: losses agree closely, bit for bit only at equal threads")


def _result(out: Path, counters: Counters) -> RunResult:
    newest, summary = checkpoints.latest(out), summarise(out)
    assert newest is not None  # the loop's last act was to save
    return RunResult(
        run_dir=out,
        checkpoint=newest.path,
        steps=counters.steps,
        samples=counters.samples,
        tokens=counters.tokens,
        loss_first=summary.loss_first,
        loss_last=summary.loss_last,
        seconds=summary.seconds,
    )
