"""What a worker process does: read, decode, tile and tokenise one draw; and how such processes start and end.

Workers come from a fork server: the training process holds a model, threads and perhaps an accelerator, and forking
that can deadlock; spawning would import torch anew in every worker. The fork server imports once, runs nothing, and
hands out clean children in milliseconds; later loaders of the same process use it again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.context import BaseContext
from socket import SHUT_RDWR, socket, socketpair
from typing import Any

import numpy as np

from sailctl.core import stores
from sailctl.core.data import shared
from sailctl.core.data.encode import SampleEncoder
from sailctl.core.data.order import Ref
from sailctl.core.data.packing import Encoded
from sailctl.core.data.sources import Source
from sailctl.core.errors import DataError, SampleError


@dataclass(frozen=True, slots=True, eq=False)
class Fetched:
    """What became of a draw: an encoded sample, a row for the reject log, or a failure that ends the run."""

    ref: Ref
    encoded: Encoded | None = None
    reject: dict[str, Any] | None = None
    failure: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        if self.encoded is None:
            return Fetched, (self.ref, None, self.reject, self.failure)
        tiles = shared.share(self.encoded.tiles)
        return _arrived, (self.ref, replace(self.encoded, tiles=_NO_TILES), tiles)


_NO_TILES = np.empty(0, np.uint8)


def _arrived(ref: Ref, encoded: Encoded, tiles: Any) -> Fetched:
    return Fetched(ref, replace(encoded, tiles=shared.opened(tiles)))


class Fetcher:
    """A map from draws to Fetched; pure, so that it does not matter which process evaluates it."""

    def __init__(self, sources: Sequence[Source], encoder: SampleEncoder) -> None:
        self.sources = sources
        self.encoder = encoder

    def __getitem__(self, ref: Ref) -> Fetched:
        source = self.sources[ref.source]
        key = ""
        try:
            sample = source.read(ref.ordinal)
            key = sample.key
            return Fetched(ref, self.encoder.encode(sample, ref.epoch))
        except SampleError as error:
            row = {
                "source": source.name,
                "key": key or error.key,
                "ordinal": ref.ordinal,
                "epoch": ref.epoch,
                "reason": error.reason,
                "detail": error.detail,
            }
            return Fetched(ref, reject=row)
        except DataError as error:  # as text: an exception would arrive with a worker's traceback
            return Fetched(ref, failure=str(error))


def worker_context(modules: Sequence[str]) -> BaseContext:
    """The multiprocessing context workers start from; begins importing `modules` in the background right away."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver, resource_tracker

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.utils.data", __name__, *modules])
    # Ctrl-C, and a cluster's SIGTERM, go to the whole process group. The mask is inherited: neither the server nor a
    # child on its way up has a moment in which it would print a traceback or be gone before the trainer has saved.
    resource_tracker.ensure_running()  # first, as starting it would lift the mask again
    held = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    return context


class Line:
    """The way between a trainer and its worker processes: they tell of stores that do not answer, which is said here
    once for all of them; once it is shut, or the trainer is gone, they end."""

    def __init__(self) -> None:
        self._ours, self.theirs = socketpair()
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        with self._ours.makefile(encoding="utf-8") as lines:
            for line in lines:
                stores.tell(*json.loads(line))

    def shut(self) -> None:
        """End the workers, also those that wait for a store."""
        self._ours.shutdown(SHUT_RDWR)
        self._ours.close()
        self.theirs.close()


def start_worker(worker: int, line: socket) -> None:
    """Set up a worker process: stopping is the trainer's decision, its death is ours, and one thread is enough.

    SIGINT and SIGTERM reach the whole group when a user or a cluster stops a run; the trainer still needs this worker
    to finish its step and save. `line` leads to the trainer, whose end is ours.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    stores.listen(lambda *told: line.sendall(f"{json.dumps(told)}\n".encode()))
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()


def _end_with(line: socket) -> None:
    with suppress(OSError):
        line.recv(1)  # nothing is ever sent: the trainer has shut it, or is gone
    os._exit(0)
