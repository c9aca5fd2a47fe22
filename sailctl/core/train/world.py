"""The processes of one run: who is who (torchrun, DeepSpeed, Slurm), small messages between them, and what to do when
one of them fails or is gone.

Gradients travel through torch.distributed's own collectives on the device. Everything here is JSON over gloo, beside
the device, so that telling each other something never waits for the device's queue.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from sailctl.core import errors
from sailctl.core.device import Device, pick
from sailctl.core.errors import SailctlError, TrainingError, UsageError

# Dead ranks are noticed at once, by their closed connections; this is for ranks that are alive and do not answer. The
# longest honest wait is for rank 0, indexing new sources or writing a large checkpoint to a slow disk.
PATIENCE = timedelta(hours=2)
MEETING = timedelta(minutes=10)  # between the start of the first process and that of the last
GRACE_S = 10.0  # for the main thread to fail by itself with the better message, once a rank is known to be gone
_GONE = re.compile(r"[Cc]onnection|closed by peer|Broken pipe|[Tt]imed out|gloo|NCCL|HCCL|ncclU", re.ASCII)
_GOODBYE, _FAILING = 1, 2

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seat:
    """This process' place in the run, as its launcher says; `address` is None where the environment has it already."""

    rank: int
    size: int
    local_rank: int
    address: tuple[str, int] | None = None


def find_seat(environment: Mapping[str, str] = os.environ) -> Seat | None:
    """Read the variables of torchrun and the DeepSpeed launcher (RANK, WORLD_SIZE, LOCAL_RANK) or of Slurm's `srun`.

    None where nothing launched us. Raises UsageError for variables that are no numbers or do not belong together.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        rank, size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
        seat = Seat(rank, size, _number(environment, "LOCAL_RANK", default="0"))
        if seat.size > 1 and not {"MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
            raise UsageError("WORLD_SIZE is set, MASTER_ADDR or MASTER_PORT is not; start with torchrun, or set both")
    elif "SLURM_PROCID" in environment and "SLURM_STEP_NUM_TASKS" in environment:  # the latter only within srun
        rank = _number(environment, "SLURM_PROCID")
        size = _number(environment, "SLURM_STEP_NUM_TASKS")
        host = environment.get("MASTER_ADDR") or first_host(environment.get("SLURM_STEP_NODELIST", "localhost"))
        own = 20000 + _number(environment, "SLURM_JOB_ID", default="0") % 20000  # another job, another port
        port = _number(environment, "MASTER_PORT", default=str(own))
        seat = Seat(rank, size, _number(environment, "SLURM_LOCALID", default="0"), (host, port))
    else:
        return None
    if not 0 <= seat.rank < seat.size:
        raise UsageError(f"rank {seat.rank} of {seat.size} processes: RANK and WORLD_SIZE do not belong together")
    return seat


def first_host(nodelist: str) -> str:
    """The first host of a Slurm node list: `gpu[007-010,12]-ib,login1` → `gpu007-ib`."""
    found = re.match(r"([^\[,]+)(?:\[(\w+)[^\]]*\]([^\[,]*))?", nodelist)
    if found is None:
        raise UsageError(f"SLURM_STEP_NODELIST {nodelist!r} names no host; set MASTER_ADDR")
    return "".join(part or "" for part in found.groups())


def _number(environment: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = environment.get(name, default)
    if text is None or not text.isascii() or not text.isdecimal():
        raise UsageError(f"{name}={text} in the environment is no rank, size or port; start with torchrun or srun")
    return int(text)


class World:
    """The processes of a run, seen from one of them, which computes on `device`."""

    def __init__(self, device: Device, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.device, self.rank, self.size, self.local_rank = device, rank, size, local_rank
        self._messages: distributed.ProcessGroup | None = None
        self._watch: _Watch | None = None
        self._owns_group = False
        self.busy = False  # with what no other rank is needed for, such as a checkpoint: to be finished in any case

    @classmethod
    def join(cls, device: str = "auto") -> World:
        """Meet the other processes the launcher has started, if one has, and pick this one's device.

        Raises UsageError for a device this process does not have, TrainingError where the others cannot be reached.
        """
        seat = find_seat()
        if seat is None or seat.size == 1:
            return cls(pick(device))
        world = cls(pick(device, seat.local_rank), seat.rank, seat.size, seat.local_rank)
        if seat.address is not None:  # as torchrun would have said it, for DeepSpeed too
            host, port = seat.address
            os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(port)}
            os.environ |= {"RANK": str(seat.rank), "WORLD_SIZE": str(seat.size)}
        os.environ["LOCAL_RANK"] = str(seat.local_rank)
        world._connect()
        return world

    def _connect(self) -> None:
        self.device.use()
        try:
            store, rank, size = next(distributed.rendezvous("env://", timeout=MEETING))
            store.set_timeout(MEETING)
            backend = self.device.collective_backend
            distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
            self._messages = distributed.new_group(backend="gloo", timeout=PATIENCE)
            watched = distributed.new_group(backend="gloo", timeout=timedelta(days=365))
        except (RuntimeError, ValueError) as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise TrainingError(
                f"rank {self.rank} of {self.size} on {socket.gethostname()} cannot meet the others at {address} "
                f"({_first_line(error)}); look at the other ranks' messages and at the network between the hosts"
            ) from error
        self._owns_group = True
        self._watch = _Watch(self, watched)

    def needs_group(self) -> None:
        """Make torch.distributed usable for a lone process too: DeepSpeed asks for it whatever the size."""
        if distributed.is_initialized():
            return
        os.environ.setdefault("LOCAL_RANK", "0")
        store = distributed.HashStore()
        distributed.init_process_group(self.device.collective_backend, store=store, rank=0, world_size=1)
        self._owns_group = True

    @property
    def is_first(self) -> bool:
        """Whether this process writes: logs, checkpoints, generated data and words to the user."""
        return self.rank == 0

    # --- messages --------------------------------------------------------------------------------------------------

    def gather(self, message: Any) -> list[Any]:
        """Everybody's message (JSON), in the order of ranks; every rank gets all. Waits for the slowest."""
        if self.size == 1:
            return [message]
        data = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8)
        with self.noticing():
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
            distributed.all_gather(sizes, torch.tensor([data.numel()]), group=self._messages)
            longest = max(int(size) for size in sizes)
            texts = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
            padded = torch.nn.functional.pad(data, (0, longest - data.numel()))
            distributed.all_gather(texts, padded, group=self._messages)
        return [json.loads(text[: int(size)].numpy().tobytes()) for text, size in zip(texts, sizes, strict=True)]

    def together(self, work: Callable[[], T], tell: Callable[[T], Any] = lambda _: None) -> tuple[T, list[Any]]:
        """Do `work` on every rank and gather what `tell` makes of it: (own result, everybody's message).

        A failure anywhere is everybody's: all ranks raise the first failing rank's, and nobody waits for ever. Not to
        be nested: `work` must not send messages itself.
        """
        if self.size == 1:
            result = work()
            return result, [tell(result)]
        failure: Exception | None = None
        try:
            result = work()
            outcome = {"told": tell(result)}
        except Exception as error:
            failure, outcome = error, {"failure": _describe(error, self.rank)}
        outcomes = self.gather(outcome)
        failures = [outcome["failure"] for outcome in outcomes if "failure" in outcome]
        if failure is not None and not isinstance(failure, SailctlError):
            raise failure  # a defect of ours keeps its traceback
        if failures:
            raise _rebuild(failures[0]) from failure
        return result, [outcome["told"] for outcome in outcomes]

    def first(self, work: Callable[[], T]) -> T:
        """Let rank 0 alone do `work`; every rank gets its result (JSON) or its failure."""

        def own() -> T | None:
            self.busy = self.is_first
            try:
                return work() if self.is_first else None
            finally:
                self.busy = False

        return self.together(own, tell=lambda result: result)[1][0]

    def first_then_all(self, work: Callable[[], T]) -> T:
        """Let rank 0 do `work` before the others do, who then find what it has left in files."""
        own: list[T] = []
        self.together(lambda: own.append(work()) if self.is_first else None)
        return self.together(lambda: own[0] if own else work())[0]

    # --- failures --------------------------------------------------------------------------------------------------

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """Turn what a collective raises when another rank is gone into one clear line."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not (isinstance(error, distributed.DistError) or _GONE.search(str(error))):
                raise
            raise self.lost(_first_line(error)) from error

    def lost(self, why: str) -> TrainingError:
        """The failure of a rank that has lost another one."""
        return TrainingError(
            f"rank {self.rank} of {self.size} on {socket.gethostname()} stops: another rank has ended or does not "
            f"answer ({why}); its own message, if it had time for one, says why; --resume goes on from the last "
            "checkpoint"
        )

    def speaks(self, line: str) -> bool:
        """Whether this process is the one to say `line`: the first that wants to. All of them may fail alike."""
        if self.size == 1 or not distributed.is_initialized():
            return True
        try:
            return distributed.distributed_c10d._get_default_store().add(f"sailctl said: {line}", 1) == 1
        except RuntimeError:  # the store went with rank 0
            return True

    def close(self, *, failed: bool = False) -> None:
        """Leave; the others are told whether it was in order."""
        if self._watch is not None:
            self._watch.end(_FAILING if failed else _GOODBYE)
            self._watch = None
        if self._owns_group and distributed.is_initialized() and not failed:
            distributed.destroy_process_group()
        self._owns_group = False

    def __enter__(self) -> World:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)


class _Watch:
    """Threads that notice the end of another process while the main thread is stuck: in a collective on a device that
    never returns, in a read, in the user's file system.

    Every rank keeps a pending receive from rank 0, and rank 0 from everybody; a process that ends without a goodbye
    breaks its connections. Rank 0's own end then tells all the others.
    """

    def __init__(self, world: World, group: distributed.ProcessGroup) -> None:
        self._world, self._group = world, group
        self._peers = range(1, world.size) if world.is_first else range(1)
        self._leaving = threading.Event()
        self._threads = [threading.Thread(target=self._wait_for, args=(peer,), daemon=True) for peer in self._peers]
        for thread in self._threads:
            thread.start()

    def _wait_for(self, peer: int) -> None:
        word = torch.zeros(1, dtype=torch.uint8)
        why = f"rank {peer} has failed"
        try:
            distributed.recv(word, src=peer, group=self._group)
            if int(word) == _GOODBYE:
                return
        except RuntimeError as error:
            why = f"rank {peer}: {_first_line(error)}"
        until = time.monotonic() + PATIENCE.total_seconds()
        while self._world.busy and time.monotonic() < until:
            time.sleep(0.1)
        if self._leaving.wait(GRACE_S):
            return
        line = " ".join(f"error: {self._world.lost(why)}\n".split(" "))
        sys.stderr.write(line)
        sys.stderr.flush()
        os._exit(1)

    def end(self, word: int) -> None:
        self._leaving.set()
        for peer in self._peers:
            with suppress(RuntimeError):
                distributed.send(torch.tensor([word], dtype=torch.uint8), dst=peer, group=self._group)
        deadline = time.monotonic() + (GRACE_S if word == _GOODBYE else 1.0)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _describe(error: Exception, rank: int) -> dict[str, str]:
    if isinstance(error, SailctlError):
        return {"type": type(error).__name__, "text": str(error)}
    return {"type": "TrainingError", "text": f"rank {rank} failed with {type(error).__name__}: {_first_line(error)}"}


def _rebuild(failure: dict[str, str]) -> SailctlError:
    kind = getattr(errors, failure["type"], TrainingError)
    error = kind.__new__(kind)  # not every kind's constructor takes the text
    SailctlError.__init__(error, failure["text"])
    return error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
