"""One stage from a recipe to a finished run: parent, data, model, resume, the loop, and what is left behind.

The only way into training: pretrain, sft and anneal differ in their recipe alone. The loop itself is in `loop.py`.
Every rank comes through here; rank 0 alone locks, decides where to go on, makes data, logs and writes.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sailctl.core.errors import DataError, Interrupted
from sailctl.core.reporter import Reporter, counted
from sailctl.core.schema.load import load_recipe
from sailctl.core.schema.recipe import Recipe
from sailctl.core.stores import telling
from sailctl.core.train import checkpoint as checkpoints
from sailctl.core.train import parents, rundir
from sailctl.core.train.backend import Backend, Plain
from sailctl.core.train.checkpoint import Checkpoint
from sailctl.core.train.gauge import Gauge
from sailctl.core.train.inputs import build_loader, build_model, make_missing_data, same_stream
from sailctl.core.train.loop import Job, run_loop
from sailctl.core.train.meter import Meter, count_rejects, progress_fields, summarise
from sailctl.core.train.schedule import Budget, Counters
from sailctl.core.train.trackers import check_trackers, open_trackers
from sailctl.core.train.world import World
from sailctl.core.workers import stop_signals

if TYPE_CHECKING:
    from sailctl.core.model.vlm import VisionLanguageModel


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
    rejected: dict[str, int]  # by reason
    ended_by: str  # the limit that was reached, such as "train.max_steps 100"


@dataclass(frozen=True, slots=True)
class _Call:
    """How `train_stage` was called, passed on to its parts and to the parents it has to make."""

    recipe_dir: Path
    out: Path
    world: World
    reporter: Reporter
    resume_command: str | None
    bootstrapped: bool  # begun only because a child stage needs it
    runs: Path | None = None  # where the recipe's other stages are, if not beside `out` or in the default place


def train_stage(
    recipe: Recipe,
    *,
    recipe_dir: Path,
    out: Path,
    checkpoint: str | None = None,
    resume: bool = False,
    device: str = "auto",
    world: World | None = None,
    reporter: Reporter,
    resume_command: str | None = None,
    runs: Path | None = None,
) -> RunResult:
    """Train one stage in `out` and return what came of it; a finished run is recognised and returned as it is.

    Without a `world` the launcher's is joined, on `device`. `checkpoint` is the parent instead of the recipe's, `runs`
    the folder to look for that in; `resume_command` is what an interrupted user is told to type. Raises UsageError
    (occupied `out`, no parent, another recipe on resume), DataError, TrainingError, StorageError, and Interrupted once
    SIGINT or SIGTERM has been answered by a saved step.
    """
    if world is None:
        with World.join(device) as joined:
            return train_stage(
                recipe,
                recipe_dir=recipe_dir,
                out=out,
                checkpoint=checkpoint,
                resume=resume,
                world=joined,
                reporter=reporter,
                resume_command=resume_command,
                runs=runs,
            )
    call = _Call(recipe_dir, out, world, reporter, resume_command, bootstrapped=False, runs=runs)
    with telling(reporter.info):
        return _run(recipe, call, checkpoint, resume)


def _run(recipe: Recipe, call: _Call, given: str | None, resume: bool) -> RunResult:
    out, world = call.out, call.world
    world.first(lambda: check_trackers(recipe.train.trackers))
    with ExitStack() as held:
        name = world.first(lambda: _open(call, resume, held))
        if name is None:
            world.first(lambda: make_missing_data(recipe, call.reporter))
            parent = _parent(recipe, call, given)
            if recipe.stage == "anneal":
                recipe = parents.follow_trunk(recipe, parent)
            return _train(recipe, call, None, parent)
        position = Checkpoint(out / "checkpoints" / name)
        state = position.state()
        if recipe.stage == "anneal":
            recipe = parents.keep_trunk(recipe, state["recipe"])
        rundir.check_same_recipe(out, state["recipe"], recipe.model_dump(mode="json"))
        counters = Counters(**state["counters"])
        budget = Budget.of(recipe.train, state["samples_per_epoch"])
        if budget.reached(counters):
            steps = counted(counters.steps, "step")
            call.reporter.info(f"{out} is done: {steps}, {counted(counters.samples, 'sample')}; nothing left to do")
            if state["finished"]:  # by the limits it had then
                limits = {key: state["recipe"]["train"][key] for key in ("max_steps", "max_samples", "epochs")}
                budget = Budget.of(recipe.train.model_copy(update=limits), state["samples_per_epoch"])
            return world.together(lambda: _result(out, position, counters, budget))[0]
        world.first(lambda: make_missing_data(recipe, call.reporter))
        return _train(recipe, call, position, None)


def _open(call: _Call, resume: bool, held: ExitStack) -> str | None:
    """Take the run's lock for as long as `held` lasts; the name of the checkpoint to go on from, None to begin."""
    held.enter_context(rundir.locked(call.out))
    rundir.check_free(call.out, resume=resume)
    checkpoints.sweep(call.out)
    found = checkpoints.last_good(call.out, call.reporter.info)
    if found is None:
        return None
    rundir.read_run(call.out)  # its damage is to be told before anything is loaded
    return found.path.name


def _train(recipe: Recipe, call: _Call, position: Checkpoint | None, parent: parents.Parent | None) -> RunResult:
    """Put a run together, at its beginning or at `position`, and take it to its end or to a request to stop."""
    from sailctl.core.model.weights import save_weights

    train, out, reporter, world = recipe.train, call.out, call.reporter, call.world
    kind = "plain" if train.backend == "plain" else f"DeepSpeed ZeRO {train.zero_stage}"
    ranks = counted(world.size, "rank")
    reporter.info(f"{recipe.name} {recipe.stage} in {out}: {ranks} on {world.device.name()}, {kind}")
    world.device.seed(train.seed)  # a fresh projector draws from it
    loaded, _ = world.together(lambda: build_model(recipe, call.recipe_dir, world.device, position, parent))
    loader = world.first_then_all(lambda: build_loader(recipe, loaded, world))  # rank 0 indexes what is new
    backend = _backend(loaded.model, recipe, world)
    fingerprints = loader.fingerprints()
    counters, about = Counters(), rundir.read_run(out)

    def restore() -> None:
        if position is not None:
            state = position.state()
            rundir.check_same_data(out, state["data"], fingerprints)
            loader.load_state_dict(state["loader"])
        elif recipe.stage == "anneal" and parent is not None and parent.checkpoint is not None:
            trunk = parent.checkpoint.state()
            if same_stream(trunk, recipe, fingerprints):  # go on with samples the trunk has not seen yet
                loader.load_state_dict(trunk["loader"])

    world.together(restore)
    source = position or (parent.checkpoint if recipe.stage == "anneal" and parent is not None else None)
    if source is not None:
        optimizer, _ = world.together(source.optimizer)
        backend.load_state(optimizer, str(source.path))
        del optimizer
    if position is not None:
        counters = Counters(**position.state()["counters"])
    else:
        counts = {source.name: len(source) for source in loader.sources}
        about = world.together(lambda: _about(recipe, call, parent, counts, fingerprints))[0]
    _add_session(about, world, counters.steps, reporter)
    world.first(lambda: rundir.write_run(out, recipe, about))

    budget = Budget.of(train, loader.samples_per_epoch)
    gauge = Gauge.of(loaded.config, recipe, world.device)
    meter = world.together(lambda: Meter(out, recipe.stage, world, counters, gauge))[0]
    trackers = world.together(lambda: open_trackers(recipe, out, counters.steps) if world.is_first else [])[0]
    unit, total = budget.counted_in(train.global_batch_samples)
    names = ", ".join(f"{len(source):,} in {source.name}" for source in loader.sources)
    a_step = counted(train.global_batch_samples, "sample")
    left = f"; {counted(counters.steps, 'step')} done" if counters.steps else ""
    reporter.info(
        f"{recipe.name} {recipe.stage}: samples: {names}; {counted(total, unit[:-1])}, about {a_step} a step{left}"
    )

    def report(row: dict[str, Any]) -> None:
        for tracker in trackers:
            tracker.log(row)
        reporter.update(row["step" if unit == "steps" else unit], **progress_fields(row))

    def save(lr: float, cursor: dict[str, Any]) -> None:
        with world.noticing():
            weights, optimizer = backend.weights(), backend.state()
        cursors = world.gather(cursor)
        state = {
            "counters": asdict(meter.counters),
            "lr": lr,
            "finished": budget.reached(meter.counters),
            "samples_per_epoch": loader.samples_per_epoch,
            "loader": cursors[0] | {"lanes": {lane: at for part in cursors for lane, at in part["lanes"].items()}},
            "data": fingerprints,
            "recipe": recipe.model_dump(mode="json"),
        }

        def write() -> None:
            meter.sync()
            checkpoints.save(
                out,
                meter.counters.steps,
                write_weights=lambda folder: save_weights(loaded.model, loaded.tokenizer, folder, weights),
                optimizer=optimizer,
                state=state,
                keep=train.keep_checkpoints,
            )

        world.first(write)

    reporter.start(f"{recipe.name} {recipe.stage}", total, completed=getattr(counters, unit), unit=unit)
    try:
        with stop_signals(reporter.info) as stop:
            run_loop(Job(train, world, backend, loader, budget, meter, save, report, stop, counters.steps))
    except DataError:
        meter.log_rejects(loader.unreported, meter.counters.steps + 1)
        raise
    finally:
        reporter.finish()
        for tracker in trackers:
            tracker.close()
        meter.close()
        loader.close()
    backend.close()
    command = call.resume_command or f"the same command with --out {out} --resume"
    how = "go on with" if world.size == 1 else "go on, with the same launcher, with"
    if not meter.counters.steps:
        raise Interrupted(f"stopped before the first step; {how}: {command}")
    newest = position if meter.counters == counters else checkpoints.latest(out)
    assert newest is not None  # the loop's last act was to save
    result = world.together(lambda: _result(out, newest, meter.counters, budget))[0]
    if result.rejected:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in result.rejected.items())
        rejected = counted(sum(result.rejected.values()), "sample")
        reporter.info(f"{rejected} rejected ({reasons}): {out / 'rejects.jsonl'}")
    if not budget.reached(meter.counters):
        raise Interrupted(f"stopped after step {result.steps}, saved in {result.checkpoint}; {how}: {command}")
    return result


def _backend(model: VisionLanguageModel, recipe: Recipe, world: World) -> Backend:
    if recipe.train.backend == "plain":
        return Plain(model, recipe.train, world.device, world)
    from sailctl.core.train.zero import DeepSpeed

    return DeepSpeed(model, recipe.train, world.device, world, pack_tokens=recipe.data.pack_tokens)


def _parent(recipe: Recipe, call: _Call, given: str | None) -> parents.Parent | None:
    """What the stage starts from: `--checkpoint`, the recipe's parent (made if it bootstraps), or None for `model`."""
    if given is not None:
        return parents.open_parent(Path(given))
    if recipe.parent is None:
        return None
    run_dir = parents.sibling(recipe, call.out, recipe.parent, call.runs)
    if not call.world.first(lambda: parents.usable(run_dir)):
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
        **rundir.environment(),
        "sessions": [],
    }


def _add_session(about: dict[str, Any], world: World, steps: int, reporter: Reporter) -> None:
    """Record this session; bit-identity holds between sessions with equal threads only, so say when they differ."""
    session = {"started": rundir.timestamp(), "from_step": steps, "device": world.device.name()}
    about.setdefault("sessions", []).append(session | {"ranks": world.size, "threads": torch.get_num_threads()})
    threads = sorted({entry["threads"] for entry in about["sessions"]})
    if len(threads) > 1:
        reporter.info(
            f"this run has used {' and '.join(map(str, threads))} threads, which add up in different orders: losses "
            "agree closely, with Muon within percents; "
            f"OMP_NUM_THREADS={about['sessions'][0]['threads']} keeps them equal"
        )


def _result(out: Path, newest: Checkpoint, counters: Counters, budget: Budget) -> RunResult:
    summary = summarise(out)
    return RunResult(
        run_dir=out,
        checkpoint=newest.path,
        steps=counters.steps,
        samples=counters.samples,
        tokens=counters.tokens,
        loss_first=summary.loss_first,
        loss_last=summary.loss_last,
        seconds=summary.seconds,
        rejected=count_rejects(out),
        ended_by=budget.ended_by(counters),
    )
