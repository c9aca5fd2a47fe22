"""The judge killed and begun again: the same bytes, and nothing asked twice but what was in flight; any workers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.curate import parts
from sailctl.core.curate.judge import ask as judge_ask
from tests.curate.helpers_curate import captions_tar, files_in
from tests.curate.helpers_judge import KEY, JudgeStub, Question, fair
from tests.helpers_data import picture

ROOT = Path(__file__).resolve().parents[2]
IN_FLIGHT = 4


def says(question: Question) -> str | int:
    """Fair; one in ten is read at the second try only, one in thirty never."""
    if question.chance() < 0.03 or (question.chance() < 0.1 and not question.warm):
        return "I cannot tell."
    return fair(question)


def words(stub: JudgeStub, folder: Path, out: Path, *more: str) -> list[str]:
    asked = ["--task", "gsb", "--data", str(folder / "left.tar"), "--reference", str(folder / "right.tar")]
    engine = ["--endpoint", stub.url, "--model", "stub", "--in-flight", str(IN_FLIGHT), "--max-unjudged", "0.5"]
    return ["curate", "judge", *asked, *engine, "--out", str(out), "--json", *more]


def make(folder: Path, count: int) -> None:
    for name, other in (("left", 3), ("right", 5)):
        captions = [f"{name} {number} q={number * other % 7}" for number in range(count)]
        captions_tar(folder / f"{name}.tar", captions, [picture(0, number + 8) for number in range(count)])


def kill_and_go_on(tmp_path: Path, count: int, instants: list[int]) -> None:
    make(tmp_path, count)
    environment = {**os.environ, "OPENAI_API_KEY": KEY, "PYTHONPATH": str(ROOT)}
    with JudgeStub(says, pause_s=0.01) as stub:
        first = CliRunner(env={"OPENAI_API_KEY": KEY}).invoke(app, words(stub, tmp_path, tmp_path / "whole"))
        assert first.exit_code == 0, first.stderr
        whole, needed = files_in(tmp_path / "whole"), set(stub.asked)
        assert stub.count == len(needed), "nothing asked twice"
        stub.asked.clear()
        command = [sys.executable, "-m", "sailctl", *words(stub, tmp_path, tmp_path / "out")]
        for instant in instants:
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and stub.count < instant:
                time.sleep(0.002)
            assert process.poll() is None, "killed before its end"
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(0.1)
        assert not (tmp_path / "out/summary.json").exists()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert set(stub.asked) == needed
        assert stub.count - len(needed) <= IN_FLIGHT * len(instants)
    left = {name: data for name, data in files_in(tmp_path / "out").items() if not name.endswith(".tmp")}
    assert left == whole
    assert KEY not in done.stdout + done.stderr


def test_killed_it_goes_on_where_it_was(tmp_path: Path) -> None:
    kill_and_go_on(tmp_path, 40, [50])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_instants(tmp_path: Path, seed: int) -> None:
    kill_and_go_on(tmp_path, 120, sorted(random.Random(seed).sample(range(1, 240), 5)))


def test_workers_decide_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(parts, "ROWS", 5)
    monkeypatch.setattr(judge_ask, "CHUNK", 7)
    make(tmp_path, 24)
    with JudgeStub(says) as stub:
        for name, more in (("one", ("--processes", "1")), ("two", ("--processes", "2"))):
            result = CliRunner().invoke(app, words(stub, tmp_path, tmp_path / name, *more))
            assert result.exit_code == 0, result.stderr
    files = files_in(tmp_path / "one")
    assert files == files_in(tmp_path / "two")
    assert sum(name.startswith("answers") for name in files) == 4
    assert sum(name.startswith("verdicts") for name in files) == 5
