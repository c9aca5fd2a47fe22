"""Map a function over the parts of a job: in this process, in local processes, on a Ray cluster.

Few long calls, not many short ones: a part runs for minutes or days and keeps its own books, so that a worker's death
costs no more than what the next run finds undone. What the parts are and how they tell of themselves is the caller's.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

from sailctl.core.errors import MissingExtra, SailctlError, UsageError

TICK_S = 0.25
Part = TypeVar("Part")
Result = TypeVar("Result")
_Reply = tuple[Any, str, int]  # a result, or the line and exit code of an expected failure


def share_of(text: str) -> tuple[int, int]:
    """`--shard i/n`: which command of how many this is. Raises UsageError."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 0 <= int(index) < int(count)):
        raise UsageError(f"--shard {text}: give i/n, i from 0 to n - 1, such as 0/4 … 3/4")
    return int(index), int(count)


def usable_cores() -> int:
    """Cores this process may run on, which inside a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_parts(
    function: Callable[[Part], Result], parts: Sequence[Part], tick: Callable[[], None], *, ray: str | None = None
) -> list[Result]:
    """`function(part)` for every part, all at once; results in the order of the parts.

    One part stays in this process, several get a process each; with `ray` all go to the cluster at that address
    ("local" starts one here). `tick` is called every quarter of a second while others work. Functions and parts travel,
    so both must be picklable. When all have ended, the first failure is raised; a worker that died is a SailctlError.
    """
    if ray is not None:
        return _on_ray(function, parts, ray, tick)
    if len(parts) == 1:
        return [function(parts[0])]
    return _in_processes(function, parts, tick)


def in_threads(function: Callable[[Part], Result], parts: Sequence[Part], threads: int) -> list[Result]:
    """`function(part)` for every part, by a few threads; results in the order of the parts, or the first failure.

    Ctrl-C ends it at once and leaves the threads to themselves: an executor would wait for one that waits for a store.
    """
    numbers = iter(range(len(parts)))
    outcomes: queue.SimpleQueue[tuple[int, Any, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        for number in numbers:
            try:
                outcomes.put((number, function(parts[number]), None))
            except BaseException as error:
                outcomes.put((number, None, error))

    for _ in range(min(threads, len(parts))):
        threading.Thread(target=work, daemon=True).start()
    done = sorted((outcomes.get() for _ in parts), key=lambda outcome: outcome[0])
    for _, _, failure in done:
        if failure is not None:
            raise failure
    return [result for _, result, _ in done]


class StopAsked(BaseException):
    """Ends a wait because a signal asked to stop; no Exception, so that nothing on its way takes it for a failure."""


class Stop:
    """Whether a signal has asked to stop: call it."""

    def __init__(self) -> None:
        self._asked = False
        self._ends_waits = False

    def __call__(self) -> bool:
        return self._asked

    @contextlib.contextmanager
    def ending_waits(self) -> Iterator[None]:
        """In this block, for the main thread alone, a wish to stop raises StopAsked, also one of before."""
        self._ends_waits = True
        try:
            if self._asked:
                raise StopAsked
            yield
        finally:
            self._ends_waits = False

    def _ask(self) -> None:
        self._asked = True
        if self._ends_waits:
            raise StopAsked


@contextlib.contextmanager
def stop_signals(say: Callable[[str], None] | None = None) -> Iterator[Stop]:
    """Within the block the first SIGINT or SIGTERM only asks to stop, and `say` is told so; a second one, of either
    kind, acts as it would have before, and never is ignored.

    Outside the main thread, where Python allows no handlers, the answer is always no.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # said by a thread: a handler may run in the middle of another line
    told: queue.SimpleQueue[str] = queue.SimpleQueue()

    def tell() -> None:
        if (line := told.get()) and say is not None:
            say(line)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _frame: object) -> None:
        for other, handler in before.items():  # what is ignored, as in a script's background, could not end anything
            signal.signal(other, signal.SIG_DFL if handler == signal.SIG_IGN else handler)
        # only now: whoever reads this may send the second one
        told.put(f"{signal.Signals(number).name}: stopping once what is done is saved; a second signal stops at once")
        stop._ask()

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        told.put("")
        teller.join()


def _call(function: Callable[[Part], Result], part: Part) -> _Reply:
    """The result, or what to tell the user: exceptions with a home of their own do not travel well."""
    try:
        return function(part), "", 0
    except SailctlError as error:
        return None, str(error), error.exit_code


def _results(replies: Sequence[_Reply]) -> list[Any]:
    for _, message, code in replies:
        if code:
            error = SailctlError(message)
            error.exit_code = code
            raise error
    return [result for result, _, _ in replies]


# --- local processes -------------------------------------------------------------------------------------------------


def _in_processes(function: Callable[[Part], Result], parts: Sequence[Part], tick: Callable[[], None]) -> list[Result]:
    # Spawned, not forked: the caller may hold threads, and a fork would copy their locks.
    context = multiprocessing.get_context("spawn")
    workers: list[tuple[Any, Connection]] = []
    replies: dict[int, _Reply] = {}
    try:
        with _signals_are_ours():
            for part in parts:
                ours, theirs = context.Pipe(duplex=False)
                # No daemon, which may have no processes of its own, as a training's readers are; see _die_with_parent.
                process = context.Process(target=_worker, args=(function, part, theirs))
                process.start()
                theirs.close()
                workers.append((process, ours))
        waiting = {connection: number for number, (_, connection) in enumerate(workers)}
        while waiting:
            ready = set(wait(list(waiting), TICK_S))
            for connection in [one for one in waiting if one in ready]:
                number = waiting.pop(connection)
                try:
                    replies[number] = connection.recv()
                except EOFError:
                    process = workers[number][0]
                    process.join()
                    replies[number] = (None, _died(number, process.exitcode), 1)
            tick()
    finally:
        for process, connection in workers:
            connection.close()
            if len(replies) < len(workers):  # we leave early: they must not go on without us
                process.kill()
            process.join()
    return _results([replies[number] for number in range(len(parts))])


def _died(number: int, code: int | None) -> str:
    how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
    return (
        f"worker process {number} ended {how} before its part was done; if memory ran out, use fewer --processes. "
        "Nothing noted is lost: the same command goes on"
    )


@contextlib.contextmanager
def _signals_are_ours() -> Iterator[None]:
    """Let processes started meanwhile ignore what a terminal or a cluster sends the whole group: the parent decides."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _worker(function: Callable[[Any], Any], part: Any, reply: Connection) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    reply.send(_call(function, part))
    reply.close()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


# --- Ray -------------------------------------------------------------------------------------------------------------


def _on_ray(
    function: Callable[[Part], Result], parts: Sequence[Part], address: str, tick: Callable[[], None]
) -> list[Result]:
    ray = _ray()
    with contextlib.ExitStack() as cleaned:
        options: dict[str, Any] = {"address": address}
        if address == "local":  # a cluster of its own, whose files go with it; below /tmp, for socket names are short
            folder = cleaned.enter_context(_ray_folder())
            options = {"num_cpus": len(parts), "include_dashboard": False, "_temp_dir": folder}
        try:
            ray.init(**options, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"--ray {address}: no cluster can be reached there ({reason})") from error
        cleaned.callback(ray.shutdown)
        remote = ray.remote(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")(_call)
        references = [remote.remote(function, part) for part in parts]
        numbers = {reference: number for number, reference in enumerate(references)}
        replies: dict[int, _Reply] = {}
        waiting = list(references)
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, timeout=TICK_S)
            for reference in done:
                number = numbers[reference]
                try:
                    replies[number] = ray.get(reference)
                except ray.exceptions.RayTaskError as error:  # a defect of ours, with its traceback
                    raise RuntimeError(f"part {number} failed on Ray: {error}") from error
                except ray.exceptions.RayError as error:
                    reason = " ".join(str(error).split())[:200]
                    replies[number] = (None, f"Ray lost part {number} ({reason}); the same command goes on", 1)
            tick()
        return _results([replies[number] for number in range(len(parts))])


@contextlib.contextmanager
def _ray_folder() -> Iterator[str]:
    """A folder for a cluster's files, which goes with it; so do those that killed commands on this machine left."""
    place = Path("/tmp") if os.path.isdir("/tmp") else Path(tempfile.gettempdir())
    for left in place.glob("sailctl-ray-*-*"):
        if not Path("/proc", left.name.split("-")[2]).exists():
            shutil.rmtree(left, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=f"sailctl-ray-{os.getpid()}-", dir=place)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise MissingExtra("ray", "ray") from None
    return ray


def ray_nodes(address: str) -> int:
    """Machines of a cluster that are alive; 1 for "local"."""
    if address == "local":
        return 1
    ray = _ray()
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        return sum(1 for node in ray.nodes() if node.get("Alive"))
    finally:
        ray.shutdown()
