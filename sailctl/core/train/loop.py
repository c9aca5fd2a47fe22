"""The training loop: next batch, step, log, save. Everything around it (parents, resume, locks) is in `run.py`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sailctl.core.errors import TrainingError
from sailctl.core.schema.train import TrainConfig
from sailctl.core.train.backend import Backend
from sailctl.core.train.meter import Meter
from sailctl.core.train.schedule import Budget, learning_rate

if TYPE_CHECKING:
    from sailctl.core.data.loader import Loader, Step
    from sailctl.core.device import Device

SEED_STRIDE = 1_000_003  # keeps the seeds of neighbouring runs apart


@dataclass(slots=True)
class Job:
    """What one run of the loop needs; `save(lr)` writes a checkpoint, `report(row)` shows progress."""

    train: TrainConfig
    device: Device
    backend: Backend
    loader: Loader
    budget: Budget
    meter: Meter
    save: Callable[[float], None]
    report: Callable[[dict[str, Any]], None]
    stop_requested: Callable[[], bool]


def run_loop(job: Job) -> None:
    """Train to the end of the budget. Asked to stop, it finishes the step, saves and returns."""
    train, meter, budget = job.train, job.meter, job.budget
    while not budget.reached(meter.counters):
        step = next(job.loader)
        meter.data_arrived()
        done = meter.counters
        lr = learning_rate(train, budget.progress(done), budget.progress(done.plus(step)))
        # A seed a step: whatever draws random numbers draws the same ones after a resume.
        job.device.seed(train.seed * SEED_STRIDE + done.steps)
        loss, grad_norm = train_step(job.backend, step, lr, max_loss=train.max_loss, number=done.steps + 1)
        job.report(meter.log(step, loss=loss, lr=lr, grad_norm=grad_norm))
        stop = job.stop_requested() or budget.reached(meter.counters)
        if stop or meter.counters.steps % train.save_every == 0:
            job.save(lr)
            meter.restart_clock()
        if stop:
            return


def train_step(backend: Backend, step: Step, lr: float, *, max_loss: float, number: int) -> tuple[float, float]:
    """One optimiser step over the packs of `step`; return the mean loss and the gradients' norm before clipping.

    The loss is summed over the packs and divided by the step's global weight. A loss that is no number or above
    `max_loss`, or gradients that are no number, raise TrainingError naming the samples before any weight changes.
    """
    losses = [backend.backward(pack, step.loss_weight) for pack in step.packs]
    loss, grad_norm = sum(losses) / step.loss_weight, backend.clip()
    if not (math.isfinite(loss) and loss <= max_loss and math.isfinite(grad_norm)):
        broken = [pack for pack, value in zip(step.packs, losses, strict=True) if not math.isfinite(value)]
        ids = [name for pack in broken or step.packs for name in pack.sample_ids]
        raise TrainingError(
            f"step {number}: loss {loss:.4g} (train.max_loss {max_loss:g}), gradient norm {grad_norm:.4g}; "
            f"the step is not saved; look at its {len(ids)} samples or lower train.lr; sample ids: {' '.join(ids)}"
        )
    backend.step(lr)
    return loss, grad_norm
