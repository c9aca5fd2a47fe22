"""Questions in hand and their tries: what a run of the pool keeps of each, and how long one waits after a failure."""

from __future__ import annotations

import asyncio
import random
import zlib

from sailctl.core.engines.ask import Ask
from sailctl.core.engines.endpoint import Endpoint
from sailctl.core.engines.faults import QUESTION, SAMPLING, Fault

BACKOFF_S, BACKOFF_MAX_S = 0.5, 30.0
RETRY_AFTER_MAX_S = 600.0
WARMER = 0.3  # added to the temperature each time an answer was unusable
HOTTEST = 1.2


class Job:
    """A question in hand."""

    __slots__ = ("ask", "attempts", "avoid", "charged", "fault", "hedged", "refused", "resampled", "tries")

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.attempts = 0
        self.resampled = 0  # unusable answers so far
        self.hedged = False
        self.charged = False  # the next try comes out of the retry budget
        self.fault: Fault | None = None
        self.tries: list[Try] = []
        self.avoid: tuple[Endpoint, ...] = ()
        self.refused: set[Endpoint] = set()

    def sampling(self) -> tuple[float | None, int | None]:
        """Temperature and seed of the next try: the question's own (None), others after an unusable answer."""
        if not self.resampled:
            return None, None
        temperature = min(self.ask.temperature + WARMER * self.resampled, max(HOTTEST, self.ask.temperature))
        return temperature, (zlib.crc32(self.ask.key.encode("utf-8", "replace")) + self.attempts) & 0x7FFFFFFF


class Try:
    """A request in flight."""

    __slots__ = ("began", "endpoint", "job", "task", "tokens")

    def __init__(self, job: Job, endpoint: Endpoint, began: float, tokens: float) -> None:
        self.job = job
        self.endpoint = endpoint
        self.began = began
        self.tokens = tokens  # taken from the tokens' bucket on trust
        self.task: asyncio.Task[None]


def wait_s(fault: Fault, attempts: int) -> float:
    """How long a question waits before its next try: full jitter, and never less than the server asked for."""
    if fault.kind in SAMPLING or fault.kind in QUESTION:
        return 0.0
    if fault.retry_after_s is not None:
        after = min(fault.retry_after_s, RETRY_AFTER_MAX_S)
        return after + random.uniform(0, min(1.0, 0.25 * after + 0.1))
    longest = min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** max(0, attempts - 1))
    return random.uniform(0, longest)
