"""The documented command lines, with the launchers themselves: one result, or one line for a failure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sailctl.core.train import checkpoint
from tests.helpers_train import rows, write_recipe

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
STAGE = ("sft", "--stage", "knowledge", "--recipe", "recipe", "--set", "parent=null", "--device", "cpu", "--json")


def launch(launcher: tuple[str, ...], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    command = [str(BIN / launcher[0]), *launcher[1:], "sailctl", *STAGE, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


TORCHRUN = ("torchrun", "--standalone", "--nproc-per-node", "2", "-m")
DEEPSPEED = ("deepspeed", "--num_accelerators", "2", "--no_local_rank", "--module")


def test_torchrun_gives_one_result(tmp_path: Path) -> None:
    write_recipe(tmp_path / "recipe", max_steps=2)
    done = launch(TORCHRUN, tmp_path, "--set", "data.lanes=2", "--out", "out")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)  # one object, and nothing else
    assert summary["steps"] == 2 and summary["run_dir"] == "out"
    assert len(rows(tmp_path / "out")) == 2


@pytest.mark.slow
def test_torchrun_says_what_is_wrong_once(tmp_path: Path) -> None:
    write_recipe(tmp_path / "recipe", max_steps=2)
    done = launch(TORCHRUN, tmp_path, "--set", "data.lanes=3", "--out", "out")
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr.count("error: ") == 1
    assert (
        "error: data.lanes 3 is not divisible by 2 ranks; set a multiple of 2, such as --set data.lanes=4"
        in done.stderr
    )


@pytest.mark.slow
def test_the_deepspeed_launcher_trains_too(tmp_path: Path) -> None:
    write_recipe(tmp_path / "recipe", max_steps=2)
    before = set(Path("/dev/shm").glob("deepspeed_*"))
    backend = ("--set", "train.backend=deepspeed", "--set", "train.zero_stage=3")
    done = launch(DEEPSPEED, tmp_path, "--set", "data.lanes=2", "--out", "out", *backend)
    assert done.returncode == 0, done.stderr
    (summary,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert summary["steps"] == 2
    checkpoint.latest(tmp_path / "out").verify()
    assert set(Path("/dev/shm").glob("deepspeed_*")) == before
