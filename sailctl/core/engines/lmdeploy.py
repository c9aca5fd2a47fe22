"""Servers of one's own: an OpenAI-compatible server for each device, started, watched, restarted and ended.

LMDeploy's unless told otherwise. Nothing outlives the command: each server is in a process group of its own behind a
guard (`guard.py`) that notices how ever the command ends.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from sailctl.core.engines import guard
from sailctl.core.errors import Interrupted, MissingExtra, SailctlError, UsageError
from sailctl.core.files import storage_errors

if TYPE_CHECKING:
    from sailctl.core.device import Device

Argv = Callable[[str, int], list[str]]  # (path of the model, port) to a program and its arguments

HOST = "127.0.0.1"
TICK_S = 0.2
GRACE_S = 5.0  # a server asked to end is killed after that
STEADY_S = 600.0  # one that served so long has mended: its earlier deaths are forgotten
LONGEST_BACKOFF_S = 60.0
FIRST_TRIES = 2  # starts of a server that has never answered: the second because its port may have been taken
TAIL_BYTES = 4096
SECRET_ENDINGS = ("_API_KEY", "_TOKEN", "_SECRET")


class LmdeployServers:
    """A context in which `urls` are servers of one model, one for each device this process sees.

    A server that dies is started again on its port after 1, 2, 4 … seconds, up to `restarts` times in a row; then it is
    given up, and `say` is told, as of every restart. Leaving the context ends all. Their output goes to `server-N.log`
    in `logs`, or in a temporary folder that is kept where something went wrong. `argv` starts another server than
    LMDeploy's, on the port it is given; `devices` chooses among several. What the environment holds under the name of a
    key, token or secret, or one of `secrets`, is not passed on.
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        model: str | None = None,
        device: str = "auto",
        devices: Sequence[Device] | None = None,
        logs: Path | None = None,
        argv: Argv | None = None,
        ready_s: float = 1800.0,
        restarts: int = 5,
        backoff_s: float = 1.0,
        say: Callable[[str], None] = lambda line: None,
        secrets: Sequence[str] = (),
    ) -> None:
        from sailctl.core.device import pick

        self.path = str(path)
        self.model = model or Path(self.path).name
        places = list(devices) if devices is not None else _all_of(pick(device))
        self._argv = argv or _lmdeploy(self.path, self.model, places[0])
        self._logs = logs
        self._ready_s, self._restarts, self._backoff_s, self._say = ready_s, restarts, backoff_s, say
        self._places, self._secrets = places, frozenset(secrets)
        self._stop = threading.Event()
        self._servers: list[_Server] = []

    @property
    def urls(self) -> list[str]:
        """The servers' addresses, which stay theirs."""
        return [server.url for server in self._servers]

    @property
    def problems(self) -> list[str]:
        """A line for each server that was given up."""
        return [server.problem for server in self._servers if server.problem]

    def __enter__(self) -> LmdeployServers:
        """Start all and wait until all answer. Raises SailctlError naming the log of the first that does not."""
        folder = Path(tempfile.mkdtemp(prefix="sailctl-servers-")) if self._logs is None else self._logs
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._stop.clear()
        self._servers = [
            _Server(self, number, folder / f"server-{number}.log", _environment(place, self._secrets))
            for number, place in enumerate(self._places)
        ]
        try:
            for server in self._servers:
                server.thread.start()
            while not all(server.ready.is_set() for server in self._servers):
                if problems := self.problems:
                    raise SailctlError(problems[0])
                if not all(server.thread.is_alive() for server in self._servers):
                    raise RuntimeError("a server's thread has failed")  # which has shown its own traceback
                time.sleep(TICK_S / 4)
        except BaseException:  # Ctrl-C while they load, for one
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        problems = self.problems
        self._end()
        if error is None and self._logs is None and not problems:
            shutil.rmtree(self._folder, ignore_errors=True)
        if problems and isinstance(error, SailctlError) and not isinstance(error, Interrupted | UsageError):
            told = SailctlError(f"{error}; {problems[0]}")
            told.exit_code = error.exit_code
            raise told from error

    def _end(self) -> None:
        self._stop.set()
        for server in self._servers:
            if server.thread.ident is not None:
                server.thread.join()


class _Server:
    """One server and the thread that keeps it alive."""

    def __init__(self, owner: LmdeployServers, number: int, log: Path, environment: dict[str, str]) -> None:
        self.ready = threading.Event()  # has answered once
        self.problem = ""
        self.process: subprocess.Popen[bytes] | None = None  # the guard
        self.thread = threading.Thread(target=self._keep, name=f"server-{number}")
        self._owner, self._number, self._log, self._environment = owner, number, log, environment
        self._port = _free_port()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._port}/v1"

    def _keep(self) -> None:
        owner, deaths = self._owner, 0
        while True:
            began = time.monotonic()
            try:
                how = self._serve()
            except OSError as error:  # the log, a full process table
                how = f"could not be started: {error}"
            if owner._stop.is_set():
                return
            lived = time.monotonic() - began
            deaths = 1 if self.ready.is_set() and lived > STEADY_S else deaths + 1
            line = f"server {self._number} ({self.url}) {how} after {lived:.0f} s{self._last_words()}"
            if deaths > (owner._restarts if self.ready.is_set() else FIRST_TRIES - 1):
                self.problem = f"{line}; given up after {deaths} starts in a row, its output is in {self._log}"
                owner._say(self.problem)
                return
            pause = min(owner._backoff_s * 2 ** (deaths - 1), LONGEST_BACKOFF_S)
            owner._say(f"{line}; starting it again in {pause:g} s, its output is in {self._log}")
            if owner._stop.wait(pause):
                return
            if not self.ready.is_set():
                self._port = _free_port()

    def _serve(self) -> str:
        """Run it once, until it ends or all shall end; says how it ended."""
        argv = self._owner._argv(self._owner.path, self._port)
        with open(self._log, "ab") as log:
            log.write(f"--- start at {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
            log.flush()
            process = self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, str(GRACE_S), *argv],
                stdin=subprocess.PIPE,  # never written to; its end tells the guard that we are gone
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,  # a group of its own, which a terminal's Ctrl-C does not reach
            )
        deadline = time.monotonic() + self._owner._ready_s
        answered = False
        try:
            while not self._owner._stop.is_set():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(TICK_S)
                    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                if not answered and (answered := _answers(self._port)):
                    self.ready.set()
                if not answered and time.monotonic() > deadline:
                    return f"did not answer within {self._owner._ready_s:g} s"
            return "was asked to end"
        finally:
            _end(process)

    def _last_words(self) -> str:
        """The last line it wrote, as the end of ours."""
        with contextlib.suppress(OSError), open(self._log, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines()]
            if lines and (said := next((line for line in reversed(lines) if line), "")) and said[:4] != "--- ":
                return f", its last words: {said[-200:]}"
        return ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a whole process group: asked first, killed after a while."""
    for number, patience in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    assert process.stdin is not None
    process.stdin.close()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/v1/models")
        response = connection.getresponse()
        # transformers' server lists what is in the hub's cache, which may be nothing
        return response.status == 200 and isinstance(json.loads(response.read())["data"], list)
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def _all_of(place: Device) -> list[Device]:
    """Every device of a kind, where none of them is named."""
    import torch

    if place.kind == "cpu" or place.torch.index is not None:
        return [place]
    return [type(place)(place.kind, torch.device(place.torch.type, index)) for index in range(place.visible()[1])]


def _environment(place: Device, secrets: Collection[str] = ()) -> dict[str, str]:
    """What a server inherits: one device to see, and no keys, which it has no use for."""
    environment = {
        name: value for name, value in os.environ.items() if name not in secrets and not name.endswith(SECRET_ENDINGS)
    }
    variable, _ = place.visible()
    if variable:
        index = place.torch.index or 0
        seen = [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
        environment[variable] = seen[index] if index < len(seen) else str(index)
    return environment


def _lmdeploy(path: str, model: str, place: Device) -> Argv:
    """How LMDeploy's server is started. Raises MissingExtra or UsageError where it cannot be."""
    if importlib.util.find_spec("lmdeploy") is not None:
        program = [sys.executable, "-m", "lmdeploy"]
    elif found := shutil.which("lmdeploy"):  # it may live in an environment of its own, for it is choosy about torch
        program = [found]
    else:
        raise MissingExtra("lmdeploy", "lmdeploy")
    variable, _ = place.visible()
    if not variable:
        raise UsageError(
            "--engine lmdeploy: LMDeploy serves on NVIDIA and Ascend devices only; use --engine local here"
        )
    if any((Path(path) / name).exists() for name in ("sailctl_config.json", "weights", "latest")):
        raise UsageError(
            f"--checkpoint {path}: LMDeploy does not read this layout; write one it reads with: "
            f"sailctl export --checkpoint {path} --format transformers --out NEW_FOLDER"
        )
    more = ["--backend", "pytorch", "--device", "ascend"] if variable.startswith("ASCEND") else []
    serve = ["serve", "api_server", path, "--server-name", HOST, "--model-name", model]
    return lambda path, port: [*program, *serve, "--server-port", str(port), *more]
