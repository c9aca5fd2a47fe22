"""Ranks that die or are told to stop: the others end soon, with one line, and the run goes on as if nothing had been.

The worlds here are started with Slurm's variables; those of `tests/train` with torchrun's.
"""

import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from sailctl.core.train import checkpoint, rundir
from tests.helpers_train import Job, contents, error_file, read_ledger, rows, start_ranks, write_recipe

OPTIONS = ("parent=null", "data.lanes=2", "data.pack_tokens=128")
SAVE_EVERY = 4


def start(recipe: Path, out: Path) -> list[BaseProcess]:
    job = Job(out, "knowledge", OPTIONS, {"resume": True})
    return start_ranks(2, recipe, [job], ledger=True, slurm=True)


def steps_logged(out: Path) -> int:
    metrics = out / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.is_file() else 0


def wait_for_step(processes: list[BaseProcess], out: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while all(process.is_alive() for process in processes) and steps_logged(out) < step:
        assert time.monotonic() < deadline, "the run makes no steps"
        time.sleep(0.002)


def wait_until_met(processes: list[BaseProcess], out: Path) -> None:
    """Until the ranks know each other: rank 0 takes the run's lock after that. Before, only a timeout would tell."""
    deadline = time.monotonic() + 60
    lock = out / rundir.LOCK
    while not lock.is_file() or lock.read_text() != str(processes[0].pid):
        assert time.monotonic() < deadline, "the ranks do not meet"
        time.sleep(0.002)


def ended(processes: list[BaseProcess]) -> list[int | None]:
    """Exit codes, once all have ended; what hangs is killed and shows as None."""
    for process in processes:
        process.join(30)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return codes


def assert_undisturbed(out: Path, straight: Path, hint: str = "") -> None:
    for name in ("metrics.jsonl", "rejects.jsonl"):
        assert rows(out, name) == rows(straight, name), f"{name} differs {hint}"
    ours, theirs = (contents(checkpoint.latest(run).path) for run in (out, straight))
    assert ours == theirs, f"the last checkpoints differ {hint}"
    ours, theirs = (
        {step: [made[1:] for made in packs] for step, packs in read_ledger(run).items()} for run in (out, straight)
    )
    assert ours == theirs, f"other samples were trained on {hint}"


def test_a_rank_that_dies_ends_the_others_and_one_that_is_told_to_stop_stops_all(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe", max_steps=120, save_every=SAVE_EVERY, global_batch_samples=8)
    out, straight = tmp_path / "out", tmp_path / "straight"
    undisturbed = start(recipe, straight)
    assert ended(undisturbed) == [0, 0]

    processes = start(recipe, out)
    wait_for_step(processes, out, 2)
    os.kill(processes[1].pid, signal.SIGTERM)  # one of them alone is told
    assert ended(processes) == [130, 130]
    told = {error_file(out, rank).read_text() for rank in (0, 1)}
    assert len(told) == 1 and "stopped after step" in told.pop()
    stopped = steps_logged(out)
    assert checkpoint.latest(out).path.name == f"step-{stopped:08d}" and stopped < 120

    for step, victim in ((stopped + 2, 1), (stopped + 5, 0)):
        processes = start(recipe, out)
        wait_for_step(processes, out, step)
        began = time.monotonic()
        processes[victim].kill()
        codes = ended(processes)
        assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == 1
        assert time.monotonic() - began < 30  # a bound, not a measurement: it is seconds
        line = error_file(out, 1 - victim).read_text()
        assert f"rank {1 - victim} of 2 on" in line and "stops: another rank has ended or does not answer" in line
        assert "--resume goes on from the last checkpoint" in line

    assert ended(start(recipe, out)) == [0, 0]
    assert_undisturbed(out, straight)


@pytest.mark.slow
def test_twenty_kills_of_any_rank_at_any_time(tmp_path: Path) -> None:
    kills = 20
    recipe = write_recipe(tmp_path / "recipe", max_steps=100, save_every=SAVE_EVERY, global_batch_samples=8)
    out, straight, seed = tmp_path / "out", tmp_path / "straight", random.randrange(1 << 30)
    draw, killed = random.Random(seed), 0
    undisturbed = start(recipe, straight)
    for attempt in range(kills):
        base = SAVE_EVERY * (attempt + 1)
        processes = start(recipe, out)
        wait_until_met(processes, out)
        wait_for_step(processes, out, min(base, 100) - draw.randrange(2 * SAVE_EVERY))
        time.sleep(draw.random() * 0.5)
        victims = draw.choice(([0], [1], [0, 1]))
        for victim in victims:
            processes[victim].kill()
        codes = ended(processes)
        assert None not in codes, f"a rank hangs (seed {seed})"
        killed += codes != [0, 0]
    assert killed == kills, f"only {killed} of {kills} kills hit a running process (seed {seed})"
    assert ended(start(recipe, out)) == [0, 0] == ended(undisturbed)
    assert_undisturbed(out, straight, f"(seed {seed})")
