"""Parts of a job in this process, in local processes and on a local Ray: results in order, failures in one line."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sailctl.core import workers
from sailctl.core.errors import MissingExtra, SailctlError, UsageError
from sailctl.core.workers import StopAsked, in_threads, map_parts, stop_signals


def name_and_process(part: str) -> tuple[str, int]:
    return part.upper(), os.getpid()


def refuse(part: str) -> str:
    if part == "b":
        raise UsageError(f"--part {part}: not this one")
    return part


def vanish(part: str) -> str:
    if part == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return part


def stays_until_told(part: tuple[str, str]) -> str:
    """Say where it lives, then wait for a file."""
    folder, name = part
    (Path(folder) / f"{name}.pid").write_text(str(os.getpid()))
    while not (Path(folder) / "go").exists():
        time.sleep(0.01)
    return name


def test_one_part_stays_here() -> None:
    assert map_parts(name_and_process, ["a"], lambda: None) == [("A", os.getpid())]


def test_several_processes_in_the_order_of_the_parts() -> None:
    results = map_parts(name_and_process, ["a", "b", "c"], lambda: None)
    assert [name for name, _ in results] == ["A", "B", "C"]
    assert len({process for _, process in results} | {os.getpid()}) == 4


def test_a_failure_keeps_its_line_and_exit_code_and_the_others_end_first() -> None:
    with pytest.raises(SailctlError, match="--part b: not this one") as failed:
        map_parts(refuse, ["a", "b", "c"], lambda: None)
    assert failed.value.exit_code == 2


def test_a_worker_that_dies_is_named() -> None:
    with pytest.raises(SailctlError, match="worker process 1 ended by signal 9 before its part was done"):
        map_parts(vanish, ["a", "b"], lambda: None)


def test_workers_leave_signals_to_their_parent_and_end_with_it(tmp_path: Path) -> None:
    """A tick sends SIGINT and SIGTERM to every worker once; they work on until the tick lets them."""
    signalled: set[int] = set()

    def tick() -> None:
        pids = {int(path.read_text() or 0) for path in tmp_path.glob("*.pid")} - {0}
        for pid in pids - signalled:
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
            signalled.add(pid)
        if len(signalled) == 2:
            (tmp_path / "go").touch()

    parts = [(str(tmp_path), name) for name in "ab"]
    assert map_parts(stays_until_told, parts, tick) == ["a", "b"]


def test_leaving_early_leaves_no_worker_behind(tmp_path: Path) -> None:
    def tick() -> None:
        if len(list(tmp_path.glob("*.pid"))) == 2:
            raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        map_parts(stays_until_told, [(str(tmp_path), name) for name in "ab"], tick)
    for path in tmp_path.glob("*.pid"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def test_threads_give_results_in_order_and_the_first_failure() -> None:
    assert in_threads(lambda part: part * 2, list(range(100)), 8) == list(range(0, 200, 2))
    assert in_threads(refuse, [], 8) == []

    def fail(part: int) -> None:
        time.sleep(0.1 / part)
        raise UsageError(f"part {part}")

    with pytest.raises(UsageError, match="part 1"):
        in_threads(fail, [1, 2, 3], 2)


def test_threads_that_wait_keep_nobody_from_leaving() -> None:
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        in_threads(time.sleep, [20, 20], 2)
    assert time.monotonic() - begun < 10


def test_the_first_signal_only_asks() -> None:
    with stop_signals() as asked:
        assert not asked()
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_asking_ends_a_wait_and_those_after_it() -> None:
    with stop_signals() as stop:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        for _ in range(2):
            with pytest.raises(StopAsked), stop.ending_waits():
                threading.Event().wait(20)
    with stop_signals() as stop, stop.ending_waits():
        assert not stop()


STOPPABLE = """
import signal, sys, time
from sailctl.core.workers import stop_signals
signal.signal(signal.SIGINT, signal.SIG_IGN if sys.argv[1] == "ignored" else signal.default_int_handler)
with stop_signals(lambda line: print(line, flush=True)):
    print("begun", flush=True)
    time.sleep(20)
    time.sleep(20)
"""


@pytest.mark.parametrize(
    ("inherited", "first", "second"),
    [("default", "SIGINT", "SIGTERM"), ("default", "SIGTERM", "SIGINT"), ("ignored", "SIGINT", "SIGINT")],
)
def test_a_second_signal_of_either_kind_ends_the_process(inherited: str, first: str, second: str) -> None:
    command = [sys.executable, "-c", STOPPABLE, inherited]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        process.send_signal(getattr(signal, first))
        told = f"{first}: stopping once what is done is saved; a second signal stops at once\n"
        assert process.stdout.readline() == told
        time.sleep(0.3)  # Python may go back to sleep over one that comes within microseconds of the first
        process.send_signal(getattr(signal, second))
        assert process.wait(5) == -getattr(signal, second)


class TestRay:
    def test_without_it_the_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(MissingExtra, match="ray is not installed"):
            map_parts(name_and_process, ["a"], lambda: None, ray="local")

    def test_failures_dead_workers_and_a_wrong_address(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Against a stand-in for Ray's few functions; the real one is tried where it is installed."""

        class Lost(Exception):
            pass

        class Ray:
            class exceptions:
                RayTaskError = ZeroDivisionError
                RayError = Lost

            ended = 0

            def init(self, address: str | None = None, **_: Any) -> None:
                if address:
                    raise ConnectionError("nobody\nthere")

            def remote(self, **_: Any) -> Any:
                def wrapped(function: Any) -> Any:
                    class Remote:
                        @staticmethod
                        def remote(*arguments: Any) -> Any:
                            return lambda: function(*arguments)

                    return Remote

                return wrapped

            def wait(self, waiting: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
                return waiting[-1:], waiting[:-1]

            def get(self, reference: Any) -> Any:
                return reference()

            def shutdown(self) -> None:
                self.ended += 1

        def lose(part: str) -> str:
            raise Lost("the node is gone")

        ray = Ray()
        monkeypatch.setattr(workers, "_ray", lambda: ray)
        results = map_parts(name_and_process, ["a", "b"], lambda: None, ray="local")
        assert [name for name, _ in results] == ["A", "B"]
        with pytest.raises(SailctlError, match="--part b: not this one"):
            map_parts(refuse, ["a", "b"], lambda: None, ray="local")
        with pytest.raises(SailctlError, match=r"Ray lost part 0 \(the node is gone\)"):
            map_parts(lose, ["a"], lambda: None, ray="local")
        with pytest.raises(UsageError, match=r"--ray 1.2.3.4:1: no cluster can be reached there \(nobody there\)"):
            map_parts(refuse, ["a"], lambda: None, ray="1.2.3.4:1")
        assert ray.ended == 3

    if importlib.util.find_spec("ray") is not None:

        def test_a_local_cluster_of_its_own(self) -> None:
            results = map_parts(name_and_process, ["a", "b"], lambda: None, ray="local")
            assert [name for name, _ in results] == ["A", "B"]
            assert os.getpid() not in {process for _, process in results}
