"""Supervision of servers, for real: stub servers in processes of their own that are killed, and parents that are."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from sailctl.core.device import Device, pick
from sailctl.core.engines import lmdeploy
from sailctl.core.engines.lmdeploy import LmdeployServers
from sailctl.core.errors import Interrupted, MissingExtra, SailctlError, UsageError

ROOT = Path(__file__).resolve().parents[2]
STUB = ROOT / "tests" / "stub_engine.py"
CPU = pick("cpu")
PATIENCE_S = 60.0

# A server as big ones are: the process that was started has workers of its own, and notes who they all are.
FAMILY = """
import os, subprocess, sys
from pathlib import Path
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
stub = subprocess.Popen([sys.executable, sys.argv[1], "--port", sys.argv[2]])
with open(sys.argv[3], "a") as pids:
    print(os.getpid(), worker.pid, stub.pid, file=pids, flush=True)
sys.exit(stub.wait())
"""

# A command that serves until it is killed.
PARENT = """
import sys, time
from pathlib import Path
from sailctl.core.engines.lmdeploy import LmdeployServers
from sailctl.core.device import pick
program, logs = sys.argv[1:3]
argv = lambda path, port: [sys.executable, program, sys.argv[3], str(port), path]
with LmdeployServers(sys.argv[4], devices=[pick("cpu")] * 2, logs=Path(logs), argv=argv) as servers:
    print(" ".join(servers.urls), flush=True)
    time.sleep(600)
"""


def until(true: Callable[[], object], what: str) -> None:
    """Look again and again until something is so; far beyond what it should take it is a failure."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not fetched yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def serves(url: str) -> bool:
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    try:
        connection.request("GET", "/v1/models")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def stub(path: str, port: int) -> list[str]:
    return [sys.executable, str(STUB), "--port", str(port)]


def server_of(servers: LmdeployServers, number: int) -> int:
    """The process id of a server: the guard's only child."""
    guard = servers._servers[number].process
    assert guard is not None
    children: list[int] = []

    def found() -> list[int]:
        children[:] = map(int, Path(f"/proc/{guard.pid}/task/{guard.pid}/children").read_text().split())
        return children

    until(found, "the guard has no child")
    return children[0]


def test_one_server_a_device_and_none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = tmp_path / "family.py"
    family.write_text(FAMILY)
    pids = tmp_path / "pids"

    def argv(path: str, port: int) -> list[str]:
        return [sys.executable, str(family), str(STUB), str(port), path]

    with LmdeployServers(pids, devices=[CPU, CPU], logs=tmp_path / "logs", argv=argv) as servers:
        assert len(set(servers.urls)) == 2 and all(serves(url) for url in servers.urls)
        members = [int(pid) for pid in pids.read_text().split()]
        assert len(members) == 6 and all(alive(pid) for pid in members)
        assert servers.problems == [] and servers.model == "pids"
    assert not any(alive(pid) for pid in members)
    assert not any(serves(url) for url in servers.urls)
    logs = sorted((tmp_path / "logs").iterdir())
    assert [log.name for log in logs] == ["server-0.log", "server-1.log"]
    assert all('"url"' in log.read_text() for log in logs)  # what the stub says when it starts


def test_a_killed_server_comes_back_at_its_address(tmp_path: Path) -> None:
    said: list[str] = []
    with LmdeployServers(
        "m", devices=[CPU, CPU], logs=tmp_path, argv=stub, backoff_s=0.05, say=said.append
    ) as servers:  # fmt: skip
        urls = servers.urls
        for target in ("server", "guard"):
            guard = servers._servers[0].process
            assert guard is not None
            victim, server = (server_of(servers, 0),) * 2
            if target == "guard":
                victim = guard.pid
            os.kill(victim, signal.SIGKILL)
            until(lambda guard=guard: servers._servers[0].process is not guard, "it was not started again")
            until(lambda server=server: not alive(server), "the old one lives")
            until(lambda: serves(urls[0]), "it does not answer again")
            assert servers.urls == urls and serves(urls[1])
    assert len(said) == 2
    assert "ended with exit code 137 after" in said[0] and "starting it again in 0.05 s" in said[0]
    assert "was killed by signal 9 after" in said[1] and "starting it again in 0.1 s" in said[1]
    assert str(tmp_path / "server-0.log") in said[0]
    assert (tmp_path / "server-0.log").read_text().count("--- start at") == 3


def test_a_server_that_never_answers_is_given_up_naming_its_log(tmp_path: Path) -> None:
    def argv(path: str, port: int) -> list[str]:
        return [sys.executable, "-c", "import sys; sys.exit('no memory for such a model')"]

    servers = LmdeployServers("m", devices=[CPU], logs=tmp_path, argv=argv, backoff_s=0.01)
    with pytest.raises(SailctlError) as caught, servers:
        raise AssertionError("it has never served")
    line = str(caught.value)
    assert "ended with exit code 1" in line and "its last words: no memory for such a model" in line
    assert f"given up after 2 starts in a row, its output is in {tmp_path / 'server-0.log'}" in line


def test_a_server_that_hangs_while_loading_is_given_up(tmp_path: Path) -> None:
    def argv(path: str, port: int) -> list[str]:
        return [sys.executable, "-c", "import time; time.sleep(600)"]

    servers = LmdeployServers("m", devices=[CPU], logs=tmp_path, argv=argv, backoff_s=0.01, ready_s=0.3)
    with pytest.raises(SailctlError, match=r"did not answer within 0.3 s .* given up after 2 starts"), servers:
        raise AssertionError("it has never served")
    assert not alive(servers._servers[0].process.pid)  # type: ignore[union-attr]


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    servers = LmdeployServers(
        "m", devices=[CPU], logs=tmp_path, argv=lambda path, port: ["/no/such/server"], backoff_s=0.01
    )
    with pytest.raises(SailctlError, match="cannot start /no/such/server: No such file"), servers:
        raise AssertionError("it has never served")


def test_one_that_keeps_dying_is_given_up_while_others_serve(tmp_path: Path) -> None:
    once = tmp_path / "once"
    code = (
        "import pathlib, runpy, sys\n"
        f"once = pathlib.Path({str(once)!r} + sys.argv[2])\n"
        "if once.exists(): sys.exit('broken for good')\n"
        "once.touch()\n"
        f"sys.argv[0] = {str(STUB)!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )

    def argv(path: str, port: int) -> list[str]:
        return [sys.executable, "-c", code, "--port", str(port)]

    logs = tmp_path / "logs"
    outer = SailctlError("every endpoint is dead")
    servers = LmdeployServers("m", devices=[CPU, CPU], logs=logs, argv=argv, backoff_s=0.01, restarts=2)
    with pytest.raises(SailctlError) as caught, servers:
        os.kill(server_of(servers, 1), signal.SIGKILL)
        until(lambda: servers.problems, "it was not given up")
        assert serves(servers.urls[0]) and not serves(servers.urls[1])
        raise outer
    assert caught.value.__cause__ is outer
    assert str(caught.value).startswith("every endpoint is dead; server 1 (")
    assert "its last words: broken for good; given up after 3 starts in a row" in str(caught.value)
    assert servers.problems[0].endswith(str(logs / "server-1.log"))
    assert not any(alive(server.process.pid) for server in servers._servers if server.process)

    with pytest.raises(Interrupted, match=r"^stopped$"), servers:  # a new start; what the user did stays what it is
        raise Interrupted("stopped")


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A command that serves, and the ids of all its servers' processes."""
    family, pids = tmp_path / "family.py", tmp_path / "pids"
    family.write_text(FAMILY)
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(family), str(tmp_path / "logs"), str(STUB), str(pids)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        urls = process.stdout.readline().split()
        assert len(urls) == 2 and all(serves(url) for url in urls)
        members = [int(pid) for pid in pids.read_text().split()]
        assert len(members) == 6 and all(alive(pid) for pid in members)
        yield process, members
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_however_the_command_ends_its_servers_do(
    parent: tuple[subprocess.Popen[str], list[int]], number: signal.Signals
) -> None:
    process, members = parent
    process.send_signal(number)
    process.wait(PATIENCE_S)
    until(lambda: not any(alive(pid) for pid in members), f"servers outlive a {number.name}")


def test_guards_killed_with_the_command_take_the_servers_along(
    parent: tuple[subprocess.Popen[str], list[int]], tmp_path: Path
) -> None:
    process, members = parent
    servers = [int(line.split()[0]) for line in (tmp_path / "pids").read_text().splitlines()]
    guards = [int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in servers]
    for pid in [process.pid, *guards]:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in servers), "a server outlives its guard")
    for pid in members:  # with nobody left to see to them, what the servers had started goes on: ours to end
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


# --- what is started -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "variable", "more"),
    [
        ("cuda", "CUDA_VISIBLE_DEVICES", []),
        ("npu", "ASCEND_RT_VISIBLE_DEVICES", ["--backend", "pytorch", "--device", "ascend"]),
    ],
)
def test_each_server_sees_one_device(
    kind: str, variable: str, more: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Device, "visible", lambda self: (variable, 2))
    monkeypatch.setattr(lmdeploy.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    place = Device(kind, torch.device("meta"))
    first, second = (Device(kind, torch.device("meta", index)) for index in range(2))
    assert lmdeploy._all_of(place) == [first, second]
    assert lmdeploy._all_of(second) == [second]
    monkeypatch.delenv(variable, raising=False)
    assert [lmdeploy._environment(one)[variable] for one in (first, second)] == ["0", "1"]
    monkeypatch.setenv(variable, "5,GPU-77aa")  # what a cluster gave us
    environments = [lmdeploy._environment(one) for one in (first, second)]
    assert [one[variable] for one in environments] == ["5", "GPU-77aa"]
    for name in ("HF_TOKEN", "AWS_SECRET", "MY_KEY"):
        monkeypatch.setenv(name, "sk-secret")
    environments += [lmdeploy._environment(CPU, ["MY_KEY"])]
    assert all("OPENAI_API_KEY" not in one and one["PATH"] == os.environ["PATH"] for one in environments)
    assert "sk-secret" not in environments[-1].values() and lmdeploy._environment(CPU)["MY_KEY"] == "sk-secret"
    argv = lmdeploy._lmdeploy(str(tmp_path), "captioner", first)(str(tmp_path), 1234)
    assert argv == [
        sys.executable, "-m", "lmdeploy", "serve", "api_server", str(tmp_path), "--server-name", "127.0.0.1",
        "--model-name", "captioner", "--server-port", "1234", *more,
    ]  # fmt: skip


def test_lmdeploy_may_live_elsewhere_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdeploy.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(lmdeploy.shutil, "which", lambda name: None)
    with pytest.raises(MissingExtra, match="lmdeploy is not installed; install it with: pip install"):
        LmdeployServers("model", device="cpu")
    monkeypatch.setattr(lmdeploy.shutil, "which", lambda name: "/opt/lmdeploy/bin/lmdeploy")
    with pytest.raises(UsageError, match="NVIDIA and Ascend devices only; use --engine local"):
        LmdeployServers("model", device="cpu")
    monkeypatch.setattr(Device, "visible", lambda self: ("CUDA_VISIBLE_DEVICES", 1))
    assert lmdeploy._lmdeploy("model", "m", CPU)("model", 1)[:3] == [
        "/opt/lmdeploy/bin/lmdeploy",
        "serve",
        "api_server",
    ]


def test_our_own_layout_is_sent_to_export(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lmdeploy.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(Device, "visible", lambda self: ("CUDA_VISIBLE_DEVICES", 1))
    (tmp_path / "latest").write_text("step-1")
    with pytest.raises(UsageError, match=f"sailctl export --checkpoint {tmp_path} --format transformers"):
        LmdeployServers(tmp_path, device="cpu")


def test_a_cpu_is_one_device() -> None:
    assert CPU.visible() == ("", 1) and lmdeploy._all_of(CPU) == [CPU]
    assert json.dumps(lmdeploy._environment(CPU))
