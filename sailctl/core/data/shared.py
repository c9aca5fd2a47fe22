"""Arrays from worker processes to the trainer through shared memory: written once, read where they lie.

A pipe copies a sample's tiles four times, 64 KiB at a time; here the worker copies them once, the trainer not at all
until it merges a pack. The memory is anonymous (memfd), so that neither a small /dev/shm nor a killed run matters.
Where there is no such thing, or no slot is free, arrays go through the pipe.
"""

from __future__ import annotations

import mmap
import os
import weakref
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np

_SLOTS = 256  # of one size; more arrays under way than that go through the pipe
_HEADER = 4096  # a byte a slot, 1 while it is in use
_SMALLEST, _LARGEST = 1 << 16, 1 << 27
_arenas: dict[int, _Arena] = {}  # a worker's own, by slot size
_mapped: dict[str, tuple[int, mmap.mmap]] = {}  # the trainer's, by name: the worker and its memory


class _Arena:
    """Slots of one size in one piece of shared memory; a page of it exists only once something was written there."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.name = os.urandom(16).hex()
        self.descriptor = os.memfd_create("sailctl-tiles", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, _HEADER + _SLOTS * slot)
        self.memory = mmap.mmap(self.descriptor, _HEADER + _SLOTS * slot)
        self.in_use = np.frombuffer(self.memory, np.uint8, _SLOTS)
        self.is_known = False  # to the trainer

    def put(self, array: np.ndarray) -> _Shared | None:
        """Copy an array to the first free slot; None where all are taken."""
        number = int(self.in_use.argmin())
        if self.in_use[number]:
            return None
        start = _HEADER + number * self.slot
        np.frombuffer(self.memory, array.dtype, array.size, start).reshape(array.shape)[...] = array
        self.in_use[number] = 1
        descriptor, self.is_known = None if self.is_known else DupFd(self.descriptor), True
        return _Shared(os.getpid(), self.name, descriptor, number, start, array.dtype.str, array.shape)


@dataclass(frozen=True, slots=True)
class _Shared:
    """Where an array lies; the first one of an arena brings the descriptor of its memory, while the worker lives."""

    worker: int
    name: str
    descriptor: Any
    number: int
    start: int
    dtype: str
    shape: tuple[int, ...]

    def open(self) -> np.ndarray:
        """The array as it lies there; its slot is free again when nobody holds it any more."""
        if self.name not in _mapped:
            _forget_the_dead()
            descriptor = self.descriptor.detach()
            try:
                _mapped[self.name] = self.worker, mmap.mmap(descriptor, 0)
            finally:
                os.close(descriptor)
        memory = _mapped[self.name][1]
        flat = np.frombuffer(memory, self.dtype, int(np.prod(self.shape)), self.start)
        # slices and reshapes of an array refer to what owns the memory, not to each other: watch the owner
        owner = _Slot(flat)
        weakref.finalize(owner, _free, memory, self.number)
        return np.asarray(owner).reshape(self.shape)


class _Slot:
    """Owner of a piece of memory, as numpy sees it."""

    def __init__(self, flat: np.ndarray) -> None:
        self.__array_interface__ = flat.__array_interface__
        self._flat = flat


def _free(memory: mmap.mmap, number: int) -> None:
    memory[number] = 0


def _forget_the_dead() -> None:
    """Let go of the memory of workers that have ended; arrays still held keep what they lie in."""
    for name, (worker, _) in list(_mapped.items()):
        try:
            os.kill(worker, 0)
        except (ProcessLookupError, PermissionError):  # gone, or its number is somebody else's by now
            del _mapped[name]


def share(array: np.ndarray) -> np.ndarray | _Shared:
    """In a worker: what to send instead of an array; the array itself where sharing gains nothing or cannot be."""
    if not _SMALLEST <= array.nbytes <= _LARGEST or not hasattr(os, "memfd_create"):
        return array
    slot = 1 << (array.nbytes - 1).bit_length()
    try:
        if slot not in _arenas:
            _arenas[slot] = _Arena(slot)
        sent = _arenas[slot].put(array)
        return array if sent is None else sent
    except (OSError, MemoryError):
        return array


def opened(sent: np.ndarray | _Shared) -> np.ndarray:
    """In the trainer: the array that `share` was given."""
    return sent.open() if isinstance(sent, _Shared) else sent
