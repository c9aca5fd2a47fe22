"""A loader that makes the next step while the current one computes, in memory an accelerator can fetch by itself.

What it gives is what `Loader` gives. For accelerators: on the CPU there is nothing to overlap, every core computes.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import torch

from sailctl.core.data.loader import Loader, Step
from sailctl.core.data.packing import Pack

_CLOSE_S = 10.0  # for a step under way to come to its end


class Ahead(Loader):
    """A Loader one step ahead, its packs pinned, so that `Pack.to` returns before the copy is made.

    `state_dict` is that of the step last returned; what fails while a step is made is raised when it is asked for.
    """

    _next: _Making | None = None
    _state: dict[str, Any] | None = None

    def __next__(self) -> Step:
        self._next = self._next or _Making(self._make)
        step, self._state = self._next.result()
        self._next = _Making(self._make)
        return step

    def _make(self) -> tuple[Step, dict[str, Any]]:
        step = super().__next__()
        return replace(step, packs=[pinned(pack) for pack in step.packs]), super().state_dict()

    def state_dict(self) -> dict[str, Any]:
        """Where the data stand after the step last returned; the one being made does not count."""
        return super().state_dict() if self._state is None else self._state

    def close(self) -> None:
        """Stop the workers and close the shards; a step being made is dropped."""
        if self._next is not None:
            self._dismiss_workers()  # it may wait for them, and they for a store
            self._next.thread.join(_CLOSE_S)
        super().close()


class _Making:
    """A step being made in a thread, or why there is none."""

    def __init__(self, make: Any) -> None:
        self._outcome: tuple[Any, BaseException | None] = (None, None)
        self._done = threading.Event()

        def run() -> None:
            try:
                self._outcome = make(), None
            except BaseException as error:
                self._outcome = None, error
            self._done.set()

        self.thread = threading.Thread(target=run, name="next step", daemon=True)
        self.thread.start()

    def result(self) -> tuple[Step, dict[str, Any]]:
        """Wait for it; raises what went wrong."""
        self._done.wait()  # no join: one that a signal ends takes the thread for ended, too, in Python 3.11
        made, error = self._outcome
        if error is not None:
            raise error
        return made


def pinned(pack: Pack) -> Pack:
    """The same pack in page-locked memory; as it is where there is no accelerator that could use that."""
    try:
        locked = {
            name: getattr(pack, name).pin_memory()
            for name in pack.__dataclass_fields__
            if isinstance(getattr(pack, name), torch.Tensor)
        }
    except (RuntimeError, NotImplementedError):
        return pack
    return replace(pack, **locked)
