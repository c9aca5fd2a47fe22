"""kill -9 at random instants, resume each time: every picture has one caption, nothing twice, little asked again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.caption.helpers_caption import picture_tar, sidecar_rows
from tests.caption.test_pipeline import of

ROOT = Path(__file__).resolve().parents[2]
DRIVER = ROOT / "tests" / "caption" / "driver.py"
RUN = f"{{}}; import runpy, sys; sys.argv[0] = 'sailctl'; runpy.run_path({str(DRIVER)!r}, run_name='__main__')"
SHARDS, EACH, IN_FLIGHT = 6, 40, 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tars of small pictures, all different."""
    folder = tmp_path_factory.mktemp("data")
    for shard in range(SHARDS):
        picture_tar(folder / f"{shard}.tar", range(shard * EACH, (shard + 1) * EACH))
    return folder


def start(folder: Path, data: Path, *more: str, delay_ms: float = 20, first: str = "") -> subprocess.Popen[str]:
    words = ["caption", "--data", str(data), "--endpoint", "http://127.0.0.1:9", "--model", "rule"]
    words += ["--out", str(folder / "out"), "--in-flight", str(IN_FLIGHT), *more]
    return subprocess.Popen(
        [sys.executable, str(DRIVER), *words] if not first else [sys.executable, "-c", RUN.format(first), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "ASKED": str(folder / "asked"), "DELAY_MS": str(delay_ms)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def asked(folder: Path) -> list[str]:
    path = folder / "asked"
    return path.read_text().splitlines() if path.is_file() else []


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == code, stderr
    return stdout, stderr


def kill_when(process: subprocess.Popen[str], folder: Path, questions: int, pause_s: float) -> bool:
    """Kill a process a moment after so many questions were sent; False if it was done before."""
    deadline = time.monotonic() + 60
    while process.poll() is None and len(asked(folder)) < questions and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(pause_s)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return process.returncode == -9


def all_there_once(out: Path, count: int = SHARDS * EACH) -> None:
    rows = sidecar_rows(out)
    assert [row["text"] for row in rows] == [of(number) for number in range(count)]
    assert [(row["shard"], row["row"]) for row in rows] == [
        (f"{number // EACH}.tar", number % EACH) for number in range(count)
    ]
    assert not list((out / "journals").iterdir()) and not list(out.rglob("*.tmp"))


def killed_often(folder: Path, data: Path, kills: int) -> None:
    seed = random.randrange(1 << 30)
    draw, done = random.Random(seed), 0
    for number in range(kills):
        base = len(asked(folder))
        step = SHARDS * EACH // (kills + 1)
        goal = base + 1 + draw.randrange(max(2, 2 * step)) if number else draw.choice((0, 1))
        done += kill_when(start(folder, data), folder, goal, draw.random() * 0.02)
        sent = len(asked(folder)) - len(set(asked(folder)))
        assert sent <= (number + 1) * IN_FLIGHT, f"{sent} asked again after {number + 1} kills (seed {seed})"
    finish(start(folder, data, delay_ms=1))
    all_there_once(folder / "out")
    counts = Counter(asked(folder))
    assert len(counts) == SHARDS * EACH, f"seed {seed}"
    assert len(asked(folder)) - len(counts) <= done * IN_FLIGHT, f"seed {seed}"


@pytest.mark.slow
def test_a_hundred_kills(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for shard in range(SHARDS):
        picture_tar(tmp_path / "data" / f"{shard}.tar", range(shard * EACH, (shard + 1) * EACH))
    for round_ in range(10):
        (tmp_path / str(round_)).mkdir()
        killed_often(tmp_path / str(round_), tmp_path / "data", 10)


def test_killed_while_sealing_again_and_again(tmp_path: Path, data: Path) -> None:
    """All is answered, and every instant of the way from journals to manifests is hit sooner or later."""
    process = start(tmp_path, data, delay_ms=1)
    draw = random.Random(5)
    for _ in range(4):
        kill_when(process, tmp_path, SHARDS * EACH, draw.random() * 0.2)
        process = start(tmp_path, data, delay_ms=1)
    finish(process)
    all_there_once(tmp_path / "out")
    assert len(asked(tmp_path)) - SHARDS * EACH <= 4 * IN_FLIGHT


def test_killed_between_manifest_and_journal(tmp_path: Path, data: Path) -> None:
    """The journal of a sealed shard is no more than a leftover, and goes with the next run."""
    dying = "import os; from sailctl.core.journal import Journal; Journal.remove = lambda self: os.kill(os.getpid(), 9)"
    for _ in range(2):
        process = start(tmp_path, data, delay_ms=1, first=dying)
        process.communicate(timeout=120)
        assert process.returncode == -9
    assert list((tmp_path / "out" / "journals").iterdir())
    finish(start(tmp_path, data, delay_ms=1))
    all_there_once(tmp_path / "out")
    assert len(asked(tmp_path)) - SHARDS * EACH <= 2 * IN_FLIGHT


def test_ctrl_c_keeps_what_was_answered_and_says_how_to_go_on(tmp_path: Path, data: Path) -> None:
    process = start(tmp_path, data, "--processes", "2")
    deadline = time.monotonic() + 60
    while process.poll() is None and len(asked(tmp_path)) < 30 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = finish(process, 130)
    assert stdout == "" and "Traceback" not in stderr
    last = stderr.strip().splitlines()[-1]
    assert last.startswith("interrupted: stopped; ") and "go on with: sailctl caption --data" in last
    assert "--processes 2" in last
    before = len(asked(tmp_path))
    assert before < SHARDS * EACH and len(set(asked(tmp_path))) == before
    finish(start(tmp_path, data, delay_ms=1))
    all_there_once(tmp_path / "out")
    assert len(asked(tmp_path)) == SHARDS * EACH, "what was in flight arrived within the grace"


def test_two_commands_at_once_share_the_work(tmp_path: Path, data: Path) -> None:
    """By accident or not: no question is asked twice, and whoever is done first waits for the other."""
    for process in [start(tmp_path, data, delay_ms=5) for _ in range(2)]:
        finish(process)
    all_there_once(tmp_path / "out")
    assert len(asked(tmp_path)) == SHARDS * EACH


def test_a_full_disk_ends_the_run_in_one_line_and_costs_nothing(tmp_path: Path, data: Path) -> None:
    """No file may grow beyond 9,000 bytes: the journals meet that half-way through a shard."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))"
    process = start(tmp_path, data, delay_ms=1, first=limit)
    _, stderr = finish(process, 1)
    (line,) = stderr.strip().splitlines()
    assert (
        "journals/0.jsonl: File too large" in line and "what was answered is kept, go on with: sailctl caption" in line
    )
    before = len(asked(tmp_path))
    assert 0 < before < SHARDS * EACH
    finish(start(tmp_path, data, delay_ms=1))
    all_there_once(tmp_path / "out")
    assert len(asked(tmp_path)) - SHARDS * EACH <= IN_FLIGHT


def test_a_resumed_pass_is_the_undisturbed_one_byte_for_byte(tmp_path: Path, data: Path) -> None:
    """But for the time of the answers and what follows from it."""
    for name in ("straight", "broken"):
        (tmp_path / name).mkdir()
    finish(start(tmp_path / "straight", data, delay_ms=1))
    kill_when(start(tmp_path / "broken", data), tmp_path / "broken", 70, 0.01)
    finish(start(tmp_path / "broken", data, delay_ms=1))
    rows = [sidecar_rows(tmp_path / name / "out") for name in ("straight", "broken")]
    assert rows[0] == rows[1]
    reports = [json.loads((tmp_path / name / "out" / "report.json").read_text()) for name in ("straight", "broken")]
    for report in reports:
        for key in ("session", "next", "out", "tasks", "requests", "tokens"):  # an answer may have been on its way
            report.pop(key)
    assert reports[0] == reports[1]
