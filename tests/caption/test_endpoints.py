"""The whole of it against servers in their own processes: faults, kills, Ray, budgets, and a key that nobody sees."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sailctl.core.caption.prompts import load_prompts
from tests.caption.helpers_caption import all_lines, picture_tar, sidecar_rows
from tests.helpers_data import picture
from tests.stub_engine import Stub, digest, stubs, told

ROOT = Path(__file__).resolve().parents[2]
SHARDS, EACH = 4, 25
ALL = SHARDS * EACH
PROMPT = load_prompts(("detailed",), "en", None)[0].without
KEY = "sk-" + "Zq7" * 9


def answer(number: int) -> str:
    """What a stub says of a picture."""
    return told([picture(number, 12, 10)], PROMPT)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for shard in range(SHARDS):
        picture_tar(folder / f"{shard}.tar", range(shard * EACH, (shard + 1) * EACH), captions=False)
    return folder


@pytest.fixture(scope="module")
def running() -> Iterator[Stub]:
    with Stub() as stub:
        yield stub


@pytest.fixture
def stub(running: Stub) -> Stub:
    """A stub that behaves, whatever a test made it do before."""
    running.control(forget=True, mean_s=0.0, faults={}, always={}, key="", retry_after="", usage=True)
    return running


def start(data: Path, out: Path, url: str | list[str], *more: object, **environment: str) -> subprocess.Popen[str]:
    urls = [url] if isinstance(url, str) else url
    words = ["caption", "--data", data, "--model", "stub", "--out", out, *more]
    words += [word for one in urls for word in ("--endpoint", one)]
    return subprocess.Popen(
        [sys.executable, "-m", "sailctl", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=out.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    stdout, stderr = process.communicate(timeout=180)
    assert process.returncode == code, stderr
    return stdout, stderr


def captioned(out: Path) -> list[str]:
    return [row["text"] for row in sidecar_rows(out)]


def test_one_pass_and_its_report(data: Path, tmp_path: Path, stub: Stub) -> None:
    stdout, stderr = finish(start(data, tmp_path / "out", stub.url, "--json", "--price-in", 1, "--price-out", 2))
    assert stderr == "" and captioned(tmp_path / "out") == [answer(number) for number in range(ALL)]
    report = json.loads(stdout)
    assert report["tokens"] == {"prompt": ALL * 1000, "completion": ALL * 100} and report["cost"] == 0.12
    assert report["requests"] == sum(stub.counts().values()) == ALL
    assert report["session"]["engine"]["done"] == ALL and not report["warnings"]


def test_every_fault_at_five_percent_ends_in_a_caption_or_a_reason(data: Path, tmp_path: Path, stub: Stub) -> None:
    kinds = ("status_429", "status_500", "reset", "hang", "truncated", "error_body", "empty", "looping", "cut")
    poison = digest([picture(7, 12, 10)], PROMPT)
    stub.control(faults=dict.fromkeys(kinds, 0.05), always={poison: "status_500"}, retry_after="0", seed=3)
    finish(start(data, tmp_path / "out", stub.url, "--timeout", 0.5, "--in-flight", 16))
    rows, given_up = sidecar_rows(tmp_path / "out"), all_lines(tmp_path / "out", "quarantine")
    assert sorted([row["row"] + EACH * int(row["shard"][0]) for row in [*rows, *given_up]]) == list(range(ALL))
    assert all(row["text"] == answer(row["row"] + EACH * int(row["shard"][0])) for row in rows)
    assert all(row["reason"] and row["detail"] and row["attempts"] for row in given_up)
    (mine,) = [row for row in given_up if row["key"] == "00007"]
    assert "500" in mine["reason"] + mine["detail"]
    seen = stub.control()["answers"]
    assert len(set(seen) & set(kinds)) >= 7, seen
    stub.control(faults={}, always={})
    finish(start(data, tmp_path / "out", stub.url, "--retry-quarantined"))
    assert captioned(tmp_path / "out") == [answer(number) for number in range(ALL)]


def kills(data: Path, out: Path, stub: Stub, count: int) -> None:
    """Kill at random instants; then all is there once, and no more was asked again than was in flight."""
    seed = random.randrange(1 << 30)
    draw, in_flight, killed = random.Random(seed), 8, 0
    stub.control(mean_s=0.05, forget=True)
    for _ in range(count):
        base = stub.control()["requests"]
        process = start(data, out, stub.url, "--in-flight", in_flight)
        goal = base + draw.randrange(0, 2 * ALL // (count + 1) + 2)
        while process.poll() is None and stub.control()["requests"] < goal:
            time.sleep(0.005)
        time.sleep(draw.random() * 0.05)
        process.kill()
        process.communicate()
        killed += process.returncode == -9
    stub.control(mean_s=0.0)
    finish(start(data, out, stub.url))
    assert captioned(out) == [answer(number) for number in range(ALL)], f"seed {seed}"
    counts = stub.counts()
    assert len(counts) == ALL and sum(counts.values()) - ALL <= killed * in_flight, f"seed {seed}"


def test_three_kills(data: Path, tmp_path: Path, stub: Stub) -> None:
    kills(data, tmp_path / "out", stub, 3)


@pytest.mark.slow
def test_a_hundred_kills(data: Path, tmp_path: Path, stub: Stub) -> None:
    for number in range(20):
        kills(data, tmp_path / f"out{number}", stub, 5)


def test_halves_processes_and_several_endpoints_give_one_union(data: Path, tmp_path: Path) -> None:
    with stubs(2) as servers:
        urls = [server.url for server in servers]
        halves = [start(data, tmp_path / "halves", urls, "--shard", f"{half}/2") for half in range(2)]
        for half in halves:
            finish(half)
        finish(start(data, tmp_path / "two", urls, "--processes", 2))
        counts = [server.counts() for server in servers]
    rows = sidecar_rows(tmp_path / "halves")
    assert [row["text"] for row in rows] == [answer(number) for number in range(ALL)]
    assert sidecar_rows(tmp_path / "two") == rows
    # a machine that stalls makes laggards, and these are asked of the other server, too: HTTP is at-least-once
    assert 2 * ALL <= sum(sum(count.values()) for count in counts) <= 2 * ALL + ALL // 10


if importlib.util.find_spec("ray") is not None:

    def test_two_workers_on_a_local_ray_give_the_same(data: Path, tmp_path: Path, stub: Stub) -> None:
        stub.control(key=KEY)
        words = (stub.url, "--ray", "local", "--processes", 2, "--json", "--api-key-env", "CAPTION_KEY")
        stdout, stderr = finish(start(data, tmp_path / "out", *words, CAPTION_KEY=KEY))
        assert json.loads(stdout)["complete"] and KEY not in stdout + stderr
        assert captioned(tmp_path / "out") == [answer(number) for number in range(ALL)]
        assert sum(stub.counts().values()) == ALL
        assert not [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".progress")]


def test_the_spending_cap_holds_over_runs_that_get_bad_answers_and_over_kills(
    data: Path, tmp_path: Path, stub: Stub
) -> None:
    """Whatever was paid for counts, in whichever run: of use or not, journaled or not."""
    stub.control(faults={"looping": 0.5}, seed=1, mean_s=0.01)
    cap = ("--price-in", 1000, "--price-out", 0, "--in-flight", 4, "--max-cost")  # a request costs 1
    for number in range(3):
        process = start(data, tmp_path / "out", stub.url, *cap, 40)
        if number == 0:
            while process.poll() is None and stub.control()["requests"] < 15:
                time.sleep(0.005)
            process.kill()
            process.communicate()
            continue
        _, stderr = finish(process, 1)
        sent = sum(stub.counts().values())
        assert 20 <= sent <= 40 + 4, "at most what was in flight at the kill is not known of"
        assert re.search(r"spending cap reached: the job has cost [34]\d of --max-cost 40, ", stderr), stderr
        assert stderr.count("go on with: sailctl caption") == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert not report["complete"] and sent - 4 <= report["cost"] == report["tokens"]["prompt"] / 1000 <= 40
    assert report["requests"] == report["cost"] and "spending cap reached" in report["error"]
    stub.control(faults={})
    stdout, _ = finish(start(data, tmp_path / "out", stub.url, *cap, 500))
    assert captioned(tmp_path / "out") == [answer(number) for number in range(ALL)]
    sent = sum(stub.counts().values())
    told_cost = float(stdout.partition("cost ")[2].partition(",")[0])
    assert sent - 4 <= told_cost <= sent


def test_nobody_there_is_told_in_one_line(data: Path, tmp_path: Path, stub: Stub) -> None:
    stub.control(key=KEY)
    _, stderr = finish(start(data, tmp_path / "out", stub.url, OPENAI_API_KEY="sk-wrong-" + KEY), 1)
    (line,) = stderr.strip().splitlines()
    assert "no endpoint in order" in line and line.count("go on with: sailctl caption") == 1 and KEY not in line
    assert "start again" not in line and "is not set" not in line
    stdout, stderr = finish(start(data, tmp_path / "out", stub.url, "--json", OPENAI_API_KEY=""), 1)
    assert (
        "HTTP 401: wrong key; check addresses" in stderr and "OPENAI_API_KEY is not set, so no key was sent" in stderr
    )
    assert json.loads(stdout)["error"] == stderr.removeprefix("error: ").strip()


def test_a_dead_endpoint_and_the_limit_are_told_at_the_end(data: Path, tmp_path: Path, stub: Stub) -> None:
    stub.control(mean_s=0.2, metrics="")
    words = ("--in-flight", 4, "--endpoint", "http://127.0.0.1:9/v1")
    stdout, _ = finish(start(data, tmp_path / "out", stub.url, *words))
    assert f"{stub.url}: 100 answers\n" in stdout and "; the limit was --in-flight 4\n" in stdout
    assert re.search(r"\nhttp://127.0.0.1:9/v1: 0 answers, \d+ errors \(100%\)\n", stdout)
    assert re.search(r"\nwarning: http://127.0.0.1:9/v1 gave no answer of use \(connect \d+\)\n", stdout)


def test_tokens_that_no_server_counts_are_called_estimates(data: Path, tmp_path: Path, stub: Stub) -> None:
    stub.control(usage=False)
    words = ("--price-in", 1, "--price-out", 1)
    stdout, _ = finish(start(data, tmp_path / "out", stub.url, *words))
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["tokens"] == {"prompt": 0, "completion": 0} and report["tokens_unreported"]["answers"] == ALL
    (line,) = report["warnings"]
    assert line == (
        f"{ALL} answers came without a count of their tokens (usage); these are estimated, and with them the cost"
    )
    assert f"warning: {line}\n" in stdout and re.search(r"tokens, about [\d,]+ more that no server reported", stdout)


def test_waiting_for_the_last_answers_is_not_the_clients_limit(data: Path, tmp_path: Path, stub: Stub) -> None:
    stub.control(mean_s=0.8, metrics="")
    stdout, _ = finish(start(data, tmp_path / "out", stub.url))  # all questions are sent at once
    assert f"this run: {ALL} samples" in stdout and "the limit was" not in stdout


def test_the_key_is_nowhere_to_be_seen(data: Path, tmp_path: Path, stub: Stub) -> None:
    """Not in a file of the job's, not in what is printed, not in any process's title while it runs."""
    poison = digest([picture(3, 12, 10)], PROMPT)
    stub.control(key=KEY, mean_s=0.05, always={poison: "status_400"})
    words = ("--processes", 2, "--in-flight", 4, "--api-key-env", "CAPTION_KEY")
    process = start(data, tmp_path / "out", stub.url, *words, CAPTION_KEY=KEY)
    titles, files = b"", b""
    while process.poll() is None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                titles += path.read_bytes()
            except OSError:
                continue
        if stub.control()["requests"] >= 20 and not files:
            for path in (tmp_path / "out").rglob("*"):
                try:
                    files += path.read_bytes() if path.is_file() else b""
                except OSError:
                    continue
        time.sleep(0.05)
    stdout, stderr = finish(process)
    assert b"sailctl" in titles and KEY.encode() not in titles
    assert b'"asks"' in files and KEY.encode() not in files, "journals were looked at"
    assert len(all_lines(tmp_path / "out", "quarantine")) == 1
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path
    assert KEY not in stdout + stderr and "CAPTION_KEY" in (tmp_path / "out" / "report.json").read_text()


def test_sigterm_stops_all_processes_within_the_grace(data: Path, tmp_path: Path, stub: Stub) -> None:
    stub.control(mean_s=0.1)
    process = start(data, tmp_path / "out", stub.url, "--processes", 2, "--in-flight", 4)
    while process.poll() is None and stub.control()["requests"] < 12:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, stderr = finish(process, 130)
    assert "Traceback" not in stderr and "go on with: sailctl caption" in stderr
    stub.control(mean_s=0.0)
    finish(start(data, tmp_path / "out", stub.url))
    assert captioned(tmp_path / "out") == [answer(number) for number in range(ALL)]
    assert sum(stub.counts().values()) == ALL, "what was in flight arrived"
