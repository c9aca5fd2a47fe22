"""`sailctl` in a process of its own, its captioner replaced by one that notes every question in a file as it is sent.

Usage: ASKED=FILE DELAY_MS=N driver.py sailctl-words…; a line of the file is a hash of the pictures and the prompt.
The environment also tells the processes that it starts, which load this file as theirs.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator
from typing import Any

from sailctl.core.caption import worker
from sailctl.core.engines.ask import Answer, Ask, Outcome


class NotingEngine:
    """Answers after a random time, `in_flight` at once."""

    model = "rule"

    def __init__(self, asked: str, delay_s: float, in_flight: int) -> None:
        self.asked = os.open(asked, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.delay_s = delay_s
        self.in_flight = in_flight

    async def run(self, asks: AsyncIterator[Ask]) -> AsyncIterator[Outcome]:
        open_now: set[asyncio.Task[Outcome]] = set()
        drawing: asyncio.Task[Ask | None] | None = asyncio.create_task(_next(asks))
        while drawing is not None or open_now:
            room = {drawing} if drawing is not None and len(open_now) < self.in_flight else set()
            done, _ = await asyncio.wait(open_now | room, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task is drawing:
                    ask = drawing.result()
                    drawing = None if ask is None else asyncio.create_task(_next(asks))
                    if ask is not None:
                        open_now.add(asyncio.create_task(self._answer(ask)))
                else:
                    open_now.discard(task)  # type: ignore[arg-type]
                    yield task.result()  # type: ignore[misc]

    async def _answer(self, ask: Ask) -> Outcome:
        name = hashlib.sha256(b"".join(ask.images) + ask.turns[0].text.encode()).hexdigest()[:16]
        os.write(self.asked, f"{name}\n".encode())
        await asyncio.sleep(random.expovariate(1 / self.delay_s) if self.delay_s else 0)
        text = "picture " + hashlib.sha256(b"".join(ask.images)).hexdigest()[:12]
        return Answer(ask.key, text, "stop", 10, 2, "here", 1, 0.0)

    async def close(self) -> None:
        os.close(self.asked)


async def _next(asks: AsyncIterator[Ask]) -> Ask | None:
    return await anext(asks, None)


def open_pool(choice: Any, *, processes: int, **_: Any) -> NotingEngine:
    """What a worker asks instead of a pool."""
    in_flight = max(1, choice.in_flight // processes)
    return NotingEngine(os.environ["ASKED"], float(os.environ["DELAY_MS"]) / 1000, in_flight)


worker.open_pool = open_pool  # type: ignore[assignment]

if __name__ == "__main__":
    from sailctl.cli import main

    main()
