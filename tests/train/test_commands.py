"""pretrain, sft and anneal as their user meets them: plan, result, one JSON object, exit codes, the next command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from sailctl.cli import app
from tests.helpers_train import rows, write_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("toy") / "recipe")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def sailctl(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_chain_from_alignment_to_sft(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--recipe", recipe, "--device", "cpu", "--json")
    summary = json.loads(sailctl("pretrain", "--stage", "alignment", *options).stdout)
    keys = ["run_dir", "checkpoint", "steps", "samples", "tokens", "loss_first", "loss_last", "seconds", "rejected"]
    keys += ["ended_by", "next"]
    assert list(summary) == keys
    assert summary["run_dir"] == "runs/toy/alignment"
    assert summary["next"] == f"sailctl pretrain --stage advance --recipe {recipe}"
    summary = json.loads(sailctl("pretrain", "--stage", "advance", *options, "--out", "elsewhere").stdout)
    assert summary["next"] == f"sailctl anneal --recipe {recipe} --checkpoint elsewhere"
    summary = json.loads(sailctl("anneal", *options, "--checkpoint", "elsewhere").stdout)
    assert summary["run_dir"] == "runs/toy/anneal" and summary["steps"] == 4
    assert summary["next"] == "sailctl bench --suite synth --checkpoint runs/toy/anneal"
    result = sailctl("sft", "--stage", "knowledge", *options[:-1], "--checkpoint", "elsewhere")
    assert result.exit_code == 0
    assert (
        "4 steps, " in result.stdout
        and "ended by train.max_steps 4; " in result.stdout
        and "next: sailctl bench" in result.stderr
    )
    again = sailctl("sft", "--stage", "knowledge", *options[:-1], "--checkpoint", "elsewhere", "--resume")
    assert again.exit_code == 0 and "is done: 4 steps" in again.stderr


def test_the_plan_names_everything_and_writes_nothing(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--recipe", recipe, "--set", "train.max_samples=13", "--dry-run", "--set", "train.max_steps=null")
    plan = json.loads(sailctl("pretrain", "--stage", "alignment", *options, "--json").stdout)
    assert plan["run_dir"] == "runs/toy/alignment" and plan["parent"] is None and plan["steps"] == 3
    assert [(source["name"], source["samples"], source["state"]) for source in plan["data"]] == [
        ("colours", 24, "found")
    ]
    assert plan["parameters"]["projector"]["trainable"] == plan["parameters"]["projector"]["total"] > 0
    assert plan["parameters"]["llm"]["trainable"] == 0 < plan["parameters"]["llm"]["total"]
    text = sailctl("pretrain", "--stage", "alignment", *options).stdout
    assert "colours: 24 samples found" in text and "global_batch_samples: 6" in text
    bootstrapped = sailctl("sft", "--stage", "knowledge", *options, "--set", "bootstrap=true", "--json")
    assert json.loads(bootstrapped.stdout)["parent"] == {"path": "runs/toy/advance", "state": "to be made first"}
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    for name, value in {"RANK": 0, "WORLD_SIZE": 4, "LOCAL_RANK": 0, "MASTER_ADDR": "here", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))  # as torchrun starts the plan, too
    refused = sailctl("pretrain", "--stage", "alignment", *options, "--set", "data.lanes=2")
    assert refused.exit_code == 2 and "set a multiple of 4, such as --set data.lanes=4" in refused.stderr
    planned = sailctl("pretrain", "--stage", "alignment", *options, "--set", "data.lanes=4")
    assert "ranks:      4 on " in planned.stdout and ", plain; 4 lanes, packs balanced by sum" in planned.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sft", "--stage", "advance"), "--stage advance: sailctl sft trains knowledge or instruction or preference"),
        (("pretrain", "--stage", "advance"), "alignment has no checkpoint; make it with: sailctl pretrain"),
        (
            ("pretrain", "--stage", "advance", "--dry-run"),
            "alignment has no checkpoint; make it with: sailctl pretrain",
        ),
        (("anneal", "--set", "train.lrr=1"), "unknown key 'train.lrr'; did you mean 'train.lr'?"),
        (("pretrain", "--stage", "alignment", "--data", "gone.tar"), "nothing at gone.tar; give --data PATH"),
        (("pretrain", "--stage", "alignment", "--device", "tpu"), "--device tpu: unknown"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    words: tuple[str, ...], message: str, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = sailctl(*words, "--recipe", recipe)
    assert result.exit_code == 2
    assert message in result.stderr and result.stderr.count("\n") == 1 and result.stdout == ""
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_ctrl_c_in_the_terminal_saves_and_the_printed_command_goes_on(recipe: Path, tmp_path: Path) -> None:
    """A real process group with data workers gets SIGINT, as a terminal sends it; the message says how to go on."""
    words = ["pretrain", "--stage", "alignment", "--recipe", str(recipe), "--out", "out dir", "--device", "cpu"]
    words += ["--set", "train.max_steps=4000", "--set", "data.workers=1", "--set", "train.save_every=1000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "sailctl", *words],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    metrics = tmp_path / "out dir" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr and stdout == ""
    done = len(rows(tmp_path / "out dir"))
    assert f"stopped after step {done}, saved in out dir/checkpoints/step-{done:08d}" in stderr
    command = stderr.strip().splitlines()[-1].partition("go on with: ")[2]
    assert command.startswith("sailctl pretrain --stage alignment --recipe") and command.endswith(
        "'out dir' --device cpu --resume"
    )
