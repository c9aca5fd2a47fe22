"""kill -9 at random moments, resume each time: weights, state, logs and samples are those of a run nobody disturbed.

A real process dies each time, at a random moment of training or of writing a checkpoint, mostly after the first one.
Its data workers go with it.
"""

import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from sailctl.core.train import checkpoint
from tests.helpers_train import Job, contents, read_ledger, rows, start_ranks, write_recipe

SAVE_EVERY = 4


def steps_logged(out: Path) -> int:
    metrics = out / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.is_file() else 0


def start(recipe: Path, out: Path, *overrides: str) -> BaseProcess:
    return start_ranks(1, recipe, [Job(out, "alignment", overrides, {"resume": True})], ledger=True)[0]


def kill_somewhere(recipe: Path, out: Path, draw: random.Random, *, first: int) -> bool:
    """Resume the run, kill it a few steps behind `first` or where it stands; False if it was done before."""
    base = steps_logged(out)
    process = start(recipe, out, f"data.workers={draw.randrange(2)}")
    target = max(base, first) + draw.randrange(1, 4)
    deadline = time.monotonic() + 60
    # The log is cut back to the last checkpoint when the run resumes, and grows from there.
    while process.is_alive() and steps_logged(out) < target and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(draw.random() * 0.03)
    process.kill()
    process.join()
    return process.exitcode == -9


def disturbed_equals_undisturbed(tmp_path: Path, kills: int) -> None:
    steps = SAVE_EVERY * (2 + kills)
    recipe = write_recipe(tmp_path / "recipe", max_steps=steps, save_every=SAVE_EVERY, optimizer="muon")
    # One sample in 25 is broken, so that rejects.jsonl has something to lose.
    samples = recipe / "data" / "samples.jsonl"
    samples.write_text(samples.read_text() + '{"id": "broken", "conversations": []}\n')
    straight = start(recipe, tmp_path / "straight")
    seed = random.randrange(1 << 30)
    draw, out, killed = random.Random(seed), tmp_path / "broken", 0
    for attempt in range(kills):
        killed += kill_somewhere(recipe, out, draw, first=SAVE_EVERY if attempt else draw.choice((0, SAVE_EVERY)))
    last = start(recipe, out)
    for process in (straight, last):
        process.join(120)
        assert process.exitcode == 0
    assert killed == kills, f"only {killed} of {kills} kills hit a running process (seed {seed})"
    assert len(rows(out)) == steps
    for name in ("metrics.jsonl", "rejects.jsonl"):
        assert rows(out, name) == rows(tmp_path / "straight", name), f"{name} differs (seed {seed})"
    assert rows(out, "rejects.jsonl")
    ours, theirs = (contents(checkpoint.latest(run).path) for run in (out, tmp_path / "straight"))
    assert ours == theirs, f"the last checkpoints differ (seed {seed})"
    ours, theirs = (read_ledger(run) for run in (out, tmp_path / "straight"))
    assert ours == theirs and len(ours) == steps, f"other samples were trained on (seed {seed})"
    leftovers = [path.name for path in (out / "checkpoints").iterdir() if not path.name.startswith("step-")]
    assert leftovers == [], f"seed {seed}"


def test_two_kills(tmp_path: Path) -> None:
    disturbed_equals_undisturbed(tmp_path, 2)


@pytest.mark.slow
def test_twenty_kills(tmp_path: Path) -> None:
    disturbed_equals_undisturbed(tmp_path, 20)
