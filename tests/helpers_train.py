"""A recipe small enough to train in a second, and a run of it in a process of its own."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import socket
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from PIL import Image

from tests.helpers_model import tiny_tokenizer

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220), "grey": (128, 128, 128)}
MODEL = {
    "name": "toy",
    "vision": {
        "kind": "internvit",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_layers": 2,
        "num_heads": 2,
        "image_size": 28,
        "layer_scale_init": 1.0,
    },
    "llm": {
        "kind": "qwen2",
        "vocab_size": 264,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "tie_embeddings": True,
    },
}
TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
SLURM = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS")
STAGES = {
    "alignment": {"trainable": ["projector"], "schedule": "constant"},
    "advance": {"trainable": ["vision", "projector"], "schedule": "constant"},
    "anneal": {"trainable": ["vision", "projector"], "schedule": "linear_to_zero"},
    "knowledge": {"trainable": ["vision", "projector", "llm"], "schedule": "cosine"},
}
PRELOADED = ["sailctl.core.train.run", "sailctl.core.model.weights", "sailctl.core.data.loader", "tests.helpers_train"]
PARENTS = {"advance": "alignment", "anneal": "advance", "knowledge": "advance"}


class Silent:
    """A reporter that keeps what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, line: str) -> None:
        self.lines.append(line)

    def start(self, label: str, total: float | None = None, *, completed: float = 0, unit: str = "samples") -> None:
        self.lines.append(f"{label}: {completed:g} of {total:g} {unit}")

    def update(self, completed: float, **fields: float | int | str) -> None:
        pass

    def finish(self) -> None:
        pass


def write_samples(folder: Path, count: int = 24) -> Path:
    """LLaVA JSON lines: one picture, two pictures, none, in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(COLOURS)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        shown = [names[(number + offset) % 4] for offset in range((1, 2, 0)[number % 3])]
        for name in shown:
            Image.new("RGB", (28 + 28 * (number % 2), 28), COLOURS[name]).save(folder / f"{name}{number % 2}.png")
        question = "<image>\n" * len(shown) + ("Which colours?" if shown else f"Say {number}.")
        answer = " and ".join(shown) if shown else f"{number}"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        images = {"image": [f"{name}{number % 2}.png" for name in shown]} if shown else {}
        rows.append({"id": f"s{number}", "conversations": turns, **images})
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_recipe(folder: Path, *, bootstrap: bool = False, **train: Any) -> Path:
    """A recipe folder with its own tokenizer and data, a YAML file per stage; `train` overrides every stage."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_tokenizer(folder / "tokenizer")
    write_samples(folder / "data")
    for stage, own in STAGES.items():
        values = {
            "lr": 3e-3,
            "warmup_ratio": 0.0,
            "max_steps": 4,
            "global_batch_samples": 6,
            "save_every": 2,
            "seed": 1,
        }
        recipe = {
            "name": "toy",
            "stage": stage,
            "parent": PARENTS.get(stage),
            "bootstrap": bootstrap,
            "model": {"config": MODEL, "tokenizer": "recipe:tokenizer"},
            "data": {
                "sources": [{"name": "colours", "path": "recipe:data/samples.jsonl"}],
                "pack_tokens": 256,
                "pack_window": 4,
                "max_tiles": 4,
                "workers": 0,
            },
            "train": {**values, **own, **train},
        }
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def train(
    recipe_folder: Path,
    out: Path,
    stage: str = "alignment",
    *overrides: str,
    reporter: Silent | None = None,
    **options: Any,
) -> Any:
    """One stage of a recipe folder, in this process, on one thread."""
    import torch

    from sailctl.core.schema.load import load_recipe
    from sailctl.core.train.run import train_stage

    torch.set_num_threads(1)
    recipe, recipe_dir = load_recipe(str(recipe_folder), stage, list(overrides))
    options = {"device": "cpu", "reporter": reporter or Silent(), **options}
    return train_stage(recipe, recipe_dir=recipe_dir, out=out, **options)


@dataclass
class Job:
    """One call of `train` for all ranks of a world; `fails` if every rank is to fail, with OUT.error-RANK to tell."""

    out: Path
    stage: str = "alignment"
    overrides: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    fails: bool = False


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_ranks(
    size: int, recipe_folder: Path, jobs: list[Job], *, ledger: bool = False, slurm: bool = False
) -> list[BaseProcess]:
    """Start a world of `size` processes which do `jobs` one after another, as a launcher would start them."""
    port = free_port()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    processes, session = [], time.monotonic_ns()
    for rank in range(size):
        environment = dict(zip(SLURM if slurm else TORCHRUN, (rank, rank, size), strict=True))
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "SESSION": session}
        process = context.Process(target=run_rank, args=(environment, recipe_folder, jobs, ledger))
        process.start()
        processes.append(process)
    return processes


def run_ranks(size: int, recipe_folder: Path, jobs: list[Job], *, ledger: bool = False, timeout: float = 120) -> None:
    """`start_ranks`, and wait until all have ended well."""
    processes = start_ranks(size, recipe_folder, jobs, ledger=ledger)
    for process in processes:
        process.join(timeout)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * size, f"exit codes {codes}"


def run_rank(environment: dict[str, Any], recipe_folder: Path, jobs: list[Job], ledger: bool) -> None:
    """Body of one rank; an expected failure becomes its exit code, its message goes to OUT.error-RANK."""
    # The fork server may have been begun by a loader, which lets no signal through to its workers.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])
    import torch

    from sailctl.core.errors import SailctlError
    from sailctl.core.train.world import World

    torch.set_num_threads(1)
    os.environ |= {name: str(value) for name, value in environment.items()}
    out = jobs[0].out
    try:
        with World.join("cpu") as world:
            for job in jobs:
                out = job.out
                if ledger:
                    keep_ledger(job.out, environment["SESSION"])
                with pytest.raises(SailctlError) if job.fails else nullcontext() as failed:
                    train(recipe_folder, job.out, job.stage, *job.overrides, world=world, **job.options)
                if job.fails:
                    error_file(job.out, world.rank).write_text(str(failed.value))
    except SailctlError as error:
        error_file(out, world.rank).write_text(str(error))
        raise SystemExit(error.exit_code) from None


def error_file(out: Path, rank: int) -> Path:
    """Where a rank leaves the message it ended with."""
    return out.with_name(f"{out.name}.error-{rank}")


def keep_ledger(out: Path, session: int) -> None:
    """From now on, write what is in every step this process makes to OUT.ledger-SESSION-RANK, a line a pack."""
    from sailctl.core.train import loop

    real = getattr(loop.train_step, "real", loop.train_step)

    def recording(job: Any, own: Any, *rest: Any) -> Any:
        result = real(job, own, *rest)
        with open(out.with_name(f"{out.name}.ledger-{session}-{job.world.rank}"), "a", encoding="utf-8") as file:
            for pack in own.packs:
                line = [job.meter.counters.steps + 1, pack.sample_ids, len(pack.tiles_IPHW), digest(pack)]
                file.write(json.dumps(line) + "\n")
        return result

    recording.real = real  # type: ignore[attr-defined]
    loop.train_step = recording


def digest(pack: Any) -> str:
    """A hash of every tensor of a pack."""
    total = hashlib.sha256()
    for name in sorted(pack.__dataclass_fields__):
        value = getattr(pack, name)
        total.update(value.numpy().tobytes() if hasattr(value, "numpy") else repr(value).encode())
    return total.hexdigest()


class Made(NamedTuple):
    """A pack that was trained on, and by whom."""

    rank: int
    ids: list[str]
    tiles: int
    digest: str


def read_ledger(out: Path) -> dict[int, list[Made]]:
    """Step → its packs in the order of lanes; the last session that made a step counts."""
    sessions: dict[int, dict[int, list[Made]]] = {}
    for path in sorted(out.parent.glob(f"{out.name}.ledger-*")):  # so that a session's ranks come in order
        session, rank = map(int, path.name.split("-")[-2:])
        for line in path.read_text().splitlines():
            step, *pack = json.loads(line)
            sessions.setdefault(session, {}).setdefault(step, []).append(Made(rank, *pack))
    steps: dict[int, list[Made]] = {}
    for _, made in sorted(sessions.items()):
        steps |= made
    return dict(sorted(steps.items()))


def rows(out: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """Rows of a log without `perf`."""
    lines = (out / name).read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "perf"} for line in lines]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
