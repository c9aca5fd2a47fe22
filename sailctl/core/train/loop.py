"""The training loop: next batch, step, log, save. Everything around it (parents, resume, locks) is in `run.py`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sailctl.core.errors import TrainingError
from sailctl.core.reporter import counted
from sailctl.core.schema.train import TrainConfig
from sailctl.core.train.backend import Backend
from sailctl.core.train.meter import Meter
from sailctl.core.train.schedule import Budget, learning_rate
from sailctl.core.train.step import GlobalStep, draw
from sailctl.core.workers import Stop

if TYPE_CHECKING:
    from sailctl.core.data.loader import Loader, Step
    from sailctl.core.data.packing import Pack
    from sailctl.core.train.world import World

SEED_STRIDE = 1_000_003  # keeps the seeds of neighbouring runs apart
PACK_STRIDE = 1 << 20  # and those of neighbouring steps


@dataclass(slots=True)
class Job:
    """What one run of the loop needs on one rank; `save(lr, position)` writes a checkpoint at a position of the data,
    `report(row)` shows progress."""

    train: TrainConfig
    world: World
    backend: Backend
    loader: Loader
    budget: Budget
    meter: Meter
    save: Callable[[float, dict[str, Any]], None]
    report: Callable[[dict[str, Any]], None]
    stop: Stop
    saved: int  # the step of the last checkpoint, 0 before the first


def run_loop(job: Job) -> None:
    """Train to the end of the budget. Asked to stop, on any rank, it finishes a step under way, saves and returns.

    A wait for data ends then without its step; the run goes on with that one.
    """
    train, meter, budget = job.train, job.meter, job.budget
    lr = 0.0
    while not budget.reached(meter.counters):
        position = job.loader.state_dict()
        drawn = draw(job.loader, job.world, job.stop)
        if drawn is None:
            if meter.counters.steps > job.saved:
                job.save(lr, position)
            return
        own, step = drawn
        meter.data_arrived()
        done = meter.counters
        lr = learning_rate(train, budget.progress(done), budget.progress(done.plus(step)))
        loss, grad_norm, stop = train_step(job, own, step, lr)
        job.report(meter.log(step, loss=loss, lr=lr, grad_norm=grad_norm))
        stop = stop or budget.reached(meter.counters)
        if stop or meter.counters.steps % train.save_every == 0:
            job.save(lr, job.loader.state_dict())
            meter.restart_clock()
            job.saved = meter.counters.steps
        if stop:
            return


def train_step(job: Job, own: Step, step: GlobalStep, lr: float) -> tuple[float, float, bool]:
    """One optimiser step: the mean loss, the gradients' norm before clipping, whether anybody asks to stop.

    The loss is summed over the packs of all ranks and divided by the step's global weight. A loss that is no number or
    above `max_loss`, or gradients that are no number, raise TrainingError on every rank, naming the samples; nothing of
    such a step is ever saved.
    """
    world, backend, done = job.world, job.backend, job.meter.counters.steps
    before = sum(map(len, step.ranks[: world.rank]))
    on_device = []
    for number, pack in enumerate(own.packs):
        # A seed a pack: whatever draws random numbers draws the same after a resume, and on any number of ranks.
        world.device.seed((job.train.seed * SEED_STRIDE + done) * PACK_STRIDE + before + number)
        on_device.append(backend.backward(pack, step.loss_weight, last=number == len(own.packs) - 1))
    losses = torch.stack(on_device).tolist()  # the one wait for the device
    told = world.gather({"losses": losses, "stop": job.stop()})
    loss = math.fsum(value for part in told for value in part["losses"]) / step.loss_weight
    if not (math.isfinite(loss) and loss <= job.train.max_loss):
        raise refusal(job, own.packs, losses, f"loss {loss:.4g} (train.max_loss {job.train.max_loss:g})")
    grad_norm = backend.step(lr)
    if not math.isfinite(grad_norm):
        raise refusal(job, own.packs, losses, f"gradient norm {grad_norm:.4g}, loss {loss:.4g}")
    return loss, grad_norm, any(part["stop"] for part in told)


def refusal(job: Job, packs: list[Pack], losses: list[float], what: str) -> TrainingError:
    """The end of a run at a step that went wrong, naming the samples of the packs to blame, or of all packs."""
    bad = [p for p, value in zip(packs, losses, strict=True) if not value <= job.train.max_loss * p.loss_weight]
    told = job.world.gather([[name for pack in group for name in pack.sample_ids] for group in (bad, packs)])
    named = [name for part in told for name in part[0]] or [name for part in told for name in part[1]]
    ids = list(dict.fromkeys(named))  # a small data set comes several times in a step
    return TrainingError(
        f"step {job.meter.counters.steps + 1}: {what}; the step is not saved"
        f"{'' if job.saved else ', and there is no checkpoint yet to go on from'}; look at its "
        f"{counted(len(ids), 'sample')} or lower train.lr; sample ids: {' '.join(ids)}"
    )
