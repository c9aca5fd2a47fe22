"""One stage from a recipe to a finished run: parent, data, model, resume, the loop, and what is left behind.

The only way into training: pretrain, sft and anneal differ in their recipe alone. The loop itself is in `loop.py`.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from sailctl.core.device import Device, pick
from sailctl.core.errors import Interrupted, UsageError
from sailctl.core.files import list_shards
from sailctl.core.schema.load import load_recipe
from sailctl.core.schema.recipe import Recipe
from sailctl.core.train import checkpoint as checkpoints
from sailctl.core.train import parents, rundir
from sailctl.core.train.backend import Plain
from sailctl.core.train.checkpoint import Checkpoint
from sailctl.core.train.loop import Job, run_loop
from sailctl.core.train.meter import Counters, Meter, summarise
from sailctl.core.train.schedule import Budget

if TYPE_CHECKING:
    from sailctl.core.data.loader import Loader
    from sailctl.core.model.weights import Loaded


class Reporter(Protocol):
    """What a run tells its user; `commands/output.py` has one for people and a quiet one."""

    def info(self, line: str) -> None:
        """Say something once."""
        ...

    def start(self, label: str, total: float | None = None, *, completed: float = 0, unit: str = "samples") -> None:
        """Begin work of `total` units, `completed` of which are done."""
        ...

    def update(self, completed: float, **fields: float | int | str) -> None:
        """Set the units done so far and the numbers shown beside them."""
        ...

    def finish(self) -> None:
        """End the work begun."""
        ...


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
    bootstrapped: bool = False,
) -> RunResult:
    """Train one stage in `out` and return what came of it; a finished run is recognised and returned as it is.

    `checkpoint` is the parent instead of the recipe's; `resume_command` is what an interrupted user is told to type.
    Raises UsageError (occupied `out`, no parent, another recipe on resume), DataError, TrainingError, StorageError,
    and Interrupted once SIGINT or SIGTERM has been answered by a saved step.
    """
    place = pick(device)
    with rundir.locked(out):
        checkpoints.sweep(out)
        position = _position(out, resume)
        if position is not None:
            position.verify()
            recipe = _same_run(recipe, out, position.state())
            if (done := _finished(recipe, out, position)) is not None:
                reporter.info(f"{out} is done: {done.steps} steps, {done.samples} samples; nothing left to do")
                return done
            parent = None
        else:
            parent = _parent(recipe, recipe_dir, out, checkpoint, device, reporter, resume_command)
            if recipe.stage == "anneal":
                if parent is None:
                    raise UsageError("anneal branches off a run; give --checkpoint RUN or name a parent in the recipe")
                recipe = parents.follow_trunk(recipe, parent.checkpoint, parent.path)
        make_missing_data(recipe, reporter)
        return _train(recipe, recipe_dir, out, place, position, parent, reporter, resume_command, bootstrapped)


def _train(
    recipe: Recipe,
    recipe_dir: Path,
    out: Path,
    device: Device,
    position: Checkpoint | None,
    parent: parents.Parent | None,
    reporter: Reporter,
    resume_command: str | None,
    bootstrapped: bool,
) -> RunResult:
    from sailctl.core.model.weights import save_weights

    train = recipe.train
    device.seed(train.seed)  # a fresh projector draws from it
    loaded = _model(recipe, recipe_dir, device, position, parent)
    model, backend = loaded.model, Plain(loaded.model, train, device)
    loader = _loader(recipe, loaded)
    fingerprints = {source.name: source.fingerprint() for source in loader.sources}
    counters = Counters()
    if position is not None:
        state = position.state()
        rundir.check_same_data(out, state["data"], fingerprints)
        counters = Counters(**state["counters"])
        backend.load_state(position.optimizer(), str(position.path))
        loader.load_state_dict(state["loader"])
    elif recipe.stage == "anneal" and parent is not None and parent.checkpoint is not None:
        backend.load_state(parent.checkpoint.optimizer(), str(parent.path))
        trunk = parent.checkpoint.state()
        if _same_stream(trunk, recipe, fingerprints):  # go on with samples the trunk has not seen yet
            loader.load_state_dict(trunk["loader"])

    about = (
        rundir.read_run(out) if position is not None else _about(recipe, recipe_dir, out, parent, loader, bootstrapped)
    )
    session = {"started": rundir.timestamp(), "from_step": counters.steps, "device": device.name()}
    about.setdefault("sessions", []).append(session | {"threads": torch.get_num_threads()})
    if len({entry["threads"] for entry in about["sessions"]}) > 1:
        reporter.info("the run was begun with another number of threads: the same losses, but not bit for bit")
    rundir.write_run(out, recipe, about)

    budget = Budget.of(train, loader.samples_per_epoch)
    meter = Meter(out, recipe.stage, device, counters)
    last_lr = train.lr

    def report(row: dict[str, Any]) -> None:
        nonlocal last_lr
        last_lr = row["lr"]
        perf = row["perf"]
        done = row["step"] if budget.max_samples is None else row["samples"]
        reporter.update(done, loss=row["loss"], lr=row["lr"], tokens_per_s=round(perf["tokens_per_s"]))

    def save() -> None:
        meter.sync()
        checkpoints.save(
            out,
            counters.steps,
            write_weights=lambda folder: save_weights(model, loaded.tokenizer, folder),
            optimizer=backend.state(),
            state={
                "counters": counters.as_dict(),
                "lr": last_lr,
                "finished": budget.reached(counters.steps, counters.samples),
                "samples_per_epoch": loader.samples_per_epoch,
                "loader": loader.state_dict(),
                "data": fingerprints,
                "recipe": recipe.model_dump(mode="json"),
            },
            keep=train.keep_checkpoints,
        )

    unit, total = ("steps", budget.max_steps) if budget.max_samples is None else ("samples", budget.max_samples)
    begun = counters.steps if unit == "steps" else counters.samples
    reporter.start(f"{recipe.name} {recipe.stage}", total, completed=begun, unit=unit)
    try:
        with stop_signals() as stop_requested:
            run_loop(Job(train, device, backend, loader, budget, meter, save, report, stop_requested))
    finally:
        reporter.finish()
        meter.close()
    result = _result(out, counters)
    if not budget.reached(counters.steps, counters.samples):
        command = resume_command or f"the same command with --out {out} --resume"
        raise Interrupted(f"stopped after step {counters.steps}, saved in {result.checkpoint}; go on with: {command}")
    return result


def make_missing_data(recipe: Recipe, reporter: Reporter) -> None:
    """Make the `synth` sources of a bootstrapping recipe; a UsageError names a source that is not there otherwise."""
    for source in recipe.data.sources:
        if source.synth is None or not recipe.bootstrap:
            if "://" not in source.path and not list_shards(source.path):
                raise UsageError(f"data source {source.name}: {source.path} does not exist or holds no data")
            continue
        from sailctl.core.data.synth.shards import write_shards

        reporter.info(f"data source {source.name}: {source.synth.samples} synthetic samples in {source.path}")
        write_shards(source.synth, Path(source.path))
    if not recipe.data.sources:
        raise UsageError("data.sources is empty; give --data PATH or name a source in the recipe")


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Within the block the first SIGINT or SIGTERM only asks to stop; a second one acts as it would have before.

    Outside the main thread, where Python allows no handlers, the answer is always no.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _frame: object) -> None:
        asked.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, handle)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _position(out: Path, resume: bool) -> Checkpoint | None:
    """The checkpoint to go on from; None to begin. UsageError when there is something and `--resume` was not given."""
    if not resume and not rundir.is_empty(out):
        raise UsageError(f"{out} already holds a run; add --resume to go on with it, or give another --out")
    return checkpoints.latest(out)


def _same_run(recipe: Recipe, out: Path, state: dict[str, Any]) -> Recipe:
    if recipe.stage == "anneal":
        recipe = parents.keep_trunk(recipe, state["recipe"])
    rundir.check_same_recipe(out, state["recipe"], recipe.model_dump(mode="json"))
    return recipe


def _finished(recipe: Recipe, out: Path, position: Checkpoint) -> RunResult | None:
    state = position.state()
    counters = Counters(**state["counters"])
    budget = Budget.of(recipe.train, state["samples_per_epoch"])
    return _result(out, counters) if budget.reached(counters.steps, counters.samples) else None


def _parent(
    recipe: Recipe,
    recipe_dir: Path,
    out: Path,
    checkpoint: str | None,
    device: str,
    reporter: Reporter,
    resume_command: str | None,
) -> parents.Parent | None:
    """What the stage starts from: `--checkpoint`, the recipe's parent (made if it bootstraps), or None for `model`."""
    if checkpoint is not None:
        return parents.open_parent(Path(checkpoint))
    if recipe.parent is None:
        return None
    run_dir = parents.sibling(recipe, out, recipe.parent)
    found = checkpoints.latest(run_dir)
    # One that was begun only for the sake of its child, and was interrupted, is finished first.
    usable = found is not None and (found.state()["finished"] or not rundir.read_run(run_dir).get("bootstrapped"))
    if not usable:
        if not recipe.bootstrap:
            raise parents.missing_parent(recipe, recipe_dir, run_dir)
        reporter.info(f"{recipe.stage} starts from {recipe.parent}, which is not there yet: making it in {run_dir}")
        parent_recipe, folder = load_recipe(str(recipe_dir), recipe.parent, [], [])
        train_stage(
            parent_recipe,
            recipe_dir=folder,
            out=run_dir,
            resume=True,
            device=device,
            reporter=reporter,
            resume_command=resume_command,
            bootstrapped=True,
        )
    return parents.open_parent(run_dir)


def _model(
    recipe: Recipe, recipe_dir: Path, device: Device, position: Checkpoint | None, parent: parents.Parent | None
) -> Loaded:
    from sailctl.core.model.weights import init_model, load_model

    # float32 master weights whatever the precision of the arithmetic
    if position is not None:
        loaded = load_model(position.weights, device=device, dtype=torch.float32)
    elif parent is not None:
        loaded = load_model(
            parent.checkpoint.weights if parent.checkpoint else parent.path, device=device, dtype=torch.float32
        )
    else:
        loaded = init_model(recipe.model, recipe_dir)
        loaded.model.to(device.torch)
    loaded.model.train()
    if "vision" not in recipe.train.trainable:
        loaded.model.vision.eval()  # a frozen tower drops no paths
    return loaded


def _loader(recipe: Recipe, loaded: Loaded) -> Loader:
    from sailctl.core.data.encode import Encoder
    from sailctl.core.data.loader import Loader

    return Loader(
        recipe.data,
        Encoder(loaded.tokenizer, loaded.config, recipe.data),
        seed=recipe.train.seed,
        global_batch_samples=recipe.train.global_batch_samples,
        loss_weighting=recipe.train.loss_weighting,
    )


def _same_stream(trunk: dict[str, Any], recipe: Recipe, fingerprints: dict[str, str]) -> bool:
    """Whether a trunk's loader state means the same stream of samples here."""
    then, now = trunk["recipe"], recipe.model_dump(mode="json")
    keys = ("global_batch_samples", "seed", "loss_weighting")
    data = [{key: value for key, value in one["data"].items() if key != "workers"} for one in (then, now)]
    same = all(then["train"][key] == now["train"][key] for key in keys)
    return same and data[0] == data[1] and trunk["data"] == fingerprints


def _about(
    recipe: Recipe,
    recipe_dir: Path,
    out: Path,
    parent: parents.Parent | None,
    loader: Loader,
    bootstrapped: bool,
) -> dict[str, Any]:
    sources = {source.name: source for source in loader.sources}
    return {
        "recipe": recipe.name,
        "stage": recipe.stage,
        "seed": recipe.train.seed,
        "bootstrapped": bootstrapped,
        "parent": None if parent is None else parent.about(out),
        "data": {
            config.name: {
                "path": config.path,
                "samples": len(sources[config.name]),
                "fingerprint": sources[config.name].fingerprint(),
            }
            for config in recipe.data.sources
        },
        **rundir.environment(recipe_dir),
    }


def _result(out: Path, counters: Counters) -> RunResult:
    newest, summary = checkpoints.latest(out), summarise(out)
    assert newest is not None  # the loop's last act was to save
    return RunResult(
        out,
        newest.path,
        counters.steps,
        counters.samples,
        counters.tokens,
        summary.loss_first,
        summary.loss_last,
        summary.seconds,
    )
