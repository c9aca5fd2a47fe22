"""Who is the limit: whoever asks, the server's preprocessing, or its GPU; read from a /metrics where there is one.

vLLM and LMDeploy tell how many requests are in the batch and how many wait for a place in it. What we have in flight
and they do not know of yet is being received, decoded and prepared. Waiting requests mean a busy GPU; many unknown ones
mean that preparing is slow; neither means that more could be sent. Where many requests fail, that is the limit. The
tail, when there is nothing more to ask, is nobody's fault.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sailctl.core.engines.faults import ENDPOINT

if TYPE_CHECKING:
    from sailctl.core.engines.pool import HttpPool

FIRST_S, EVERY_S = 0.5, 5.0  # the time between two looks doubles from the one to the other
BUSY = 0.9  # of a core, used by this process's event loop: the client can do no more
QUEUED = 0.05  # of the batch
PREPARING = 0.25  # of what is in flight there
FAILING = 0.25  # of the requests that end: so many failures cost more time than anything else
MISSES = 3  # looks without metrics in a row, after which a server is taken to have none
FORGET = 0.9  # of the votes so far, at each vote

_RUNNING = ("vllm:num_requests_running", "lmdeploy:num_requests_running")
_WAITING = (
    "vllm:num_requests_waiting",
    "vllm:num_requests_swapped",
    "lmdeploy:num_requests_waiting",
    "lmdeploy:num_api_requests_waiting",  # for a free handle, of which there are as many as the batch has places
)


@dataclass(frozen=True, slots=True)
class Load:
    """Requests a server computes, and those that wait for it."""

    running: float
    waiting: float


def read_load(text: str) -> Load | None:
    """The load a Prometheus text tells, added over models and engines; None where it tells none."""
    running = waiting = 0.0
    found = False
    for line in text.splitlines():
        if not line.startswith(("vllm:num_", "lmdeploy:num_")):
            continue
        name = line.partition("{")[0].partition(" ")[0]
        if name not in _RUNNING and name not in _WAITING:
            continue
        try:
            value = float(line.rpartition("}")[2].split()[0 if "}" in line else 1])
        except (ValueError, IndexError):
            continue
        if name in _RUNNING:
            found = True
            running += value
        else:
            waiting += value
    return Load(running, waiting) if found else None


def judge(
    load: Load | None, in_flight: int, *, starved: bool, busy: float, held_back: str = "", failing: bool = False
) -> str:
    """The limit at one moment, as one server shows it; `busy` is the share of a core the client's loop uses.

    `held_back` is the option that keeps more from being sent: a rate always counts, full slots where nothing is slow.
    """
    if failing:
        return "server errors"
    if held_back.endswith("-per-minute"):
        return held_back
    if starved or busy > BUSY:
        return "client"
    if load is None or not in_flight:
        return held_back or "unknown"
    if load.waiting > max(1.0, QUEUED * load.running):
        return "server GPU"
    if in_flight - load.running - load.waiting > max(1.0, PREPARING * in_flight):
        return "server preprocessing"
    return held_back or "client"  # everything sent is being computed: more could be


class Watch:
    """Looks at the servers' metrics now and then, as long as a pool runs, and counts votes."""

    def __init__(self, pool: HttpPool, *, every_s: float = EVERY_S) -> None:
        self._pool = pool
        self._every_s = every_s
        self._votes: Counter[str] = Counter()
        self._misses: Counter[str] = Counter()  # looks in vain, by endpoint
        self._failed = self._ended = 0  # requests, up to the last look

    @property
    def limit_by(self) -> str:
        """The limit of late: what most looks said."""
        return self._votes.most_common(1)[0][0] if self._votes else "unknown"

    async def run(self) -> None:
        """Look until cancelled."""
        pause_s = min(FIRST_S, self._every_s)
        at, used = time.monotonic(), time.thread_time()
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._every_s)
            then, before = at, used
            at, used = time.monotonic(), time.thread_time()
            await self.look((used - before) / (at - then))

    async def look(self, busy: float) -> None:
        """One look at all servers."""
        failing = self._failing()
        if self._pool.draining and not failing:  # a pool that runs empty is limited by nobody
            return
        starved, held_back = self._pool.starved, self._pool.held_back
        votes: Counter[str] = Counter()
        for endpoint in self._pool.endpoints:
            load = None
            if self._misses[endpoint.name] < MISSES and endpoint.breaker.state == "closed":
                text = await endpoint.client.metrics()
                load = None if text is None else read_load(text)
                self._misses[endpoint.name] = self._misses[endpoint.name] + 1 if load is None else 0
            limit = judge(load, endpoint.in_flight, starved=starved, busy=busy, held_back=held_back, failing=failing)
            votes[limit] += 1
        for name in self._votes:
            self._votes[name] *= FORGET  # type: ignore[assignment]
        self._votes[votes.most_common(1)[0][0]] += 1

    def _failing(self) -> bool:
        """Whether servers failed many of the requests that ended since the last look."""
        errors = [item for endpoint in self._pool.endpoints for item in endpoint.errors.items()]
        failed = sum(count for kind, count in errors if kind in ENDPOINT)
        ended = sum(endpoint.ok for endpoint in self._pool.endpoints) + sum(count for _, count in errors)
        of_late, self._failed, self._ended = (failed - self._failed, ended - self._ended), failed, ended
        return of_late[0] > 0 and of_late[0] >= FAILING * of_late[1]
