"""What is asked of an engine and what comes back: the rows between whoever wants text and whoever generates it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from sailctl.core.records import Turn


@dataclass(frozen=True, slots=True)
class Ask:
    """One question: turns that end with the user's, the encoded pictures they show, and how to answer.

    `key` is the asker's own name for it. Pictures the turns show no `<image>` for come before the first user turn.
    `max_tiles` is for a model of this process, None its own limit; an endpoint cuts pictures as its server sees fit.
    """

    key: str
    turns: tuple[Turn, ...]
    images: tuple[bytes, ...] = ()
    max_tokens: int = 1024
    temperature: float = 0.0
    seed: int | None = None
    max_tiles: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A usable answer. `attempts` counts every request sent for it, hedges included; `seconds` is the last one's."""

    key: str
    text: str
    finish: str  # stop, or length where the asker takes cut answers
    prompt_tokens: int
    completion_tokens: int
    endpoint: str
    attempts: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A question that was given up: one word why, the last thing that went wrong in words, how often it was tried."""

    key: str
    reason: str
    detail: str
    attempts: int


Outcome = Answer | Failed


class Engine(Protocol):
    """Answers a stream of questions, each exactly once, in the order in which they are done.

    Questions are drawn only as fast as they can be sent, so a stream may be longer than memory. `run` may be called
    once at a time; what it was doing when the caller leaves it early is cancelled. `model` names who answers.
    """

    model: str

    def run(self, asks: AsyncIterator[Ask]) -> AsyncIterator[Outcome]:
        """Outcomes of all the questions."""
        ...

    async def close(self) -> None:
        """Let go of connections, processes and devices."""
        ...
