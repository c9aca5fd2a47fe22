"""What a run has done so far, and the two logs that tell it: metrics.jsonl (one object a step) and rejects.jsonl.

Everything that depends on the clock stands under `perf`; the rest of both files is reproducible bit for bit.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sailctl.core.errors import DataError
from sailctl.core.files import atomic_write, read_jsonl, storage_errors
from sailctl.core.train.gauge import Gauge
from sailctl.core.train.rundir import LOGS
from sailctl.core.train.schedule import Counters

if TYPE_CHECKING:
    from sailctl.core.train.step import GlobalStep
    from sailctl.core.train.world import World


@dataclass(frozen=True, slots=True)
class Summary:
    """A run as its metrics tell it; `seconds` adds up the steps of every session."""

    loss_first: float
    loss_last: float
    seconds: float


class Meter:
    """Times the steps and, on rank 0, appends to the logs.

    `samples` and `tokens` are cumulative, other counts the step's own; all count the packs of all ranks.
    """

    def __init__(self, run_dir: Path, stage: str, world: World, counters: Counters, gauge: Gauge) -> None:
        """Cut the logs back to the counters' step (what a killed run wrote beyond its checkpoint) and open them."""
        self.counters = counters
        self._stage, self._device, self._gauge = stage, world.device, gauge
        self._files: dict[str, IO[str]] = {}
        for name in LOGS if world.is_first else ():
            path = run_dir / name
            with storage_errors(path):
                _cut(path, counters.steps)
                self._files[name] = open(path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115 - see close
        self._paths = {name: run_dir / name for name in LOGS}
        self._began = self._data_arrived = time.perf_counter()

    def data_arrived(self) -> None:
        """Mark the end of the wait for data."""
        self._data_arrived = time.perf_counter()

    def log(self, step: GlobalStep, *, loss: float, lr: float, grad_norm: float) -> dict[str, Any]:
        """Count the step, append its row and its rejects; return the row. The next step's clock starts."""
        self.counters = self.counters.plus(step)
        sizes = [[pack.size for pack in part] for part in step.ranks]
        now = time.perf_counter()
        seconds = max(now - self._began, 1e-9)
        waited = self._data_arrived - self._began
        row = {
            "step": self.counters.steps,
            "stage": self._stage,
            "loss": loss,
            "lr": lr,
            "grad_norm": grad_norm,
            "samples": self.counters.samples,
            "tokens": self.counters.tokens,
            "supervised_tokens": sum(pack.size.targets for pack in step.packs),
            "packs": len(step.packs),
            "rejected": len(step.rejects),
            "truncated": step.truncated,
            **self._gauge.work(sizes),
            "perf": {
                "seconds": seconds,
                "samples_per_s": step.num_samples / seconds,
                "tokens_per_s": step.num_tokens / seconds,
                "data_wait_s": waited,
                "data_wait_share": waited / seconds,
                "memory_bytes": self._device.max_memory_allocated(),
                **self._gauge.speed(sizes, seconds),
            },
        }
        self.log_rejects(step.rejects, self.counters.steps)
        self._append("metrics.jsonl", row)
        self._began = now
        return row

    def log_rejects(self, rejects: Sequence[dict[str, Any]], step: int) -> None:
        """Append what step number `step` has refused; for a step that ends the run it is all that is left of it."""
        for reject in rejects:
            self._append("rejects.jsonl", {"step": step, **reject})

    def sync(self) -> None:
        """Make the logs durable: done before each checkpoint, whose step they must reach."""
        for name, file in self._files.items():
            with storage_errors(self._paths[name]):
                file.flush()
                os.fsync(file.fileno())

    def restart_clock(self) -> None:
        """Leave the time since the last step (a checkpoint being written) out of the next one."""
        self._began = time.perf_counter()

    def close(self) -> None:
        """Close the logs. Every row was flushed when it was written; what a full disk refused then is refused again."""
        for file in self._files.values():
            with suppress(OSError):
                file.close()

    def _append(self, name: str, row: dict[str, Any]) -> None:
        if name not in self._files:
            return
        with storage_errors(self._paths[name]):
            self._files[name].write(json.dumps(row, ensure_ascii=False) + "\n")
            self._files[name].flush()


def progress_fields(row: dict[str, Any]) -> dict[str, float | int | str]:
    """What the progress line shows of a row of metrics, the most important first: loss, rate, how well device and data
    keep up."""
    perf = row["perf"]
    share = {"gemm": perf["gemm_share"]} if perf["mfu"] is None else {"mfu": perf["mfu"]}
    return {
        "loss": row["loss"],
        "tokens/s": round(perf["tokens_per_s"]),
        **{name: f"{value:.1%}" for name, value in share.items()},
        "wait": f"{perf['data_wait_share']:.0%}",
        "lr": row["lr"],
    }


def summarise(run_dir: Path) -> Summary:
    """First and last loss and training seconds of a run with at least one step. Raises DataError for a damaged log."""
    rows = _rows(run_dir / "metrics.jsonl")
    if not rows:
        raise DataError(f"{run_dir / 'metrics.jsonl'} is missing or empty, though the run has made steps; restore it")
    return Summary(rows[0]["loss"], rows[-1]["loss"], sum(row["perf"]["seconds"] for row in rows))


def count_rejects(run_dir: Path) -> dict[str, int]:
    """Rejected samples by reason, the commonest first."""
    return dict(Counter(row["reason"] for row in _rows(run_dir / "rejects.jsonl")).most_common())


def _rows(path: Path) -> list[Any]:
    """Rows of a log, none where there is none. A row that a checkpoint stands for was on the disk before it."""
    try:
        return read_jsonl(path) if path.is_file() else []
    except ValueError as error:
        raise DataError(f"{error}; restore the file, or cut it there if no checkpoint has come that far") from error


def _cut(path: Path, steps: int) -> None:
    """Drop rows beyond `steps` and a torn last line; the file is replaced as a whole, and only if something goes."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(path) if row["step"] <= steps]
    kept = "".join(lines).encode("utf-8", "backslashreplace")
    if path.is_file() and kept != path.read_bytes():
        with atomic_write(path) as file:
            file.write(kept)
