"""One endpoint as the pool sees it: what it has in hand, how fast and how well it answers, what that makes it worth.

An endpoint's yield is what one slot there brings: the share of usable answers over the time of one. Questions go where
the yield is, drawn from two (power of two choices), weighed with what is in flight: equals stay equal, a slow one gets
little, a full one gets less as its queue makes it slower. Silence counts: a time since the last answer that is longer
than an answer takes is how long an answer takes.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sailctl.core.engines.client import Client
from sailctl.core.engines.concurrency import Breaker, Limit
from sailctl.core.engines.faults import ENDPOINT, SAMPLING, Fault

MEMORY_S = 2.0  # over which latencies and shares are averaged, once there are enough
GOODPUT_S = 5.0
BEAR_S = 1.0  # or twice the latency: an endpoint that answered within it may refuse what is too much
EXPLORE_S = 1.0  # an endpoint with nothing in hand is asked this often: it may have recovered
EXPLORE_SILENT_S = 5.0  # and one that sits on what it was asked


@dataclass(frozen=True, slots=True)
class EndpointSnapshot:
    """How an endpoint is doing."""

    ok: int
    errors: dict[str, int]
    limit: int
    in_flight: int
    goodput: float  # usable answers a second, of late
    latency_s: float
    state: str  # open | closed | probing


class Endpoint:
    """A client with a memory."""

    def __init__(self, client: Client, most: int, now: float) -> None:
        self.client = client
        self.name = client.name
        self.limit = Limit(most, now)
        self.breaker = Breaker()
        self.in_flight = 0
        self.ok = 0
        self.errors: Counter[str] = Counter()
        self.latency_s = 0.0  # 0 before the first answer
        self._well = 1.0  # share of requests that did not fail
        self._heard_at = now  # an answer came, or the first request after idling was sent
        self._sampled_at = now
        self._samples = 0
        self._answered_of = -math.inf  # the last request sent of those that were answered
        self._asked_at = -math.inf
        self._rate = 0.0
        self._rate_at = now
        self._counted = 0

    def free(self, now: float) -> bool:
        """Whether it may be sent another request."""
        if self.in_flight >= self.limit.value or (self.limit.waits and self.in_flight):
            return False
        return self.breaker.may_send(now, self.in_flight)

    def neglected(self, now: float) -> bool:
        """Whether nobody has asked it for a while."""
        return now - self._asked_at >= (EXPLORE_SILENT_S if self.in_flight else EXPLORE_S)

    def price(self, now: float, usual_s: float) -> float:
        """What a slot here costs; smaller is better. `usual_s` stands in for a latency nobody knows."""
        latency_s = self.latency_s or usual_s
        if self.in_flight:
            latency_s = max(latency_s, now - self._heard_at)
        time_per_answer = latency_s / max(self._well, 0.05)
        return (self.in_flight + 1) * time_per_answer**2

    def begin(self, now: float) -> None:
        """A request is being sent."""
        if self.in_flight == 0:
            self._heard_at = now
        self.in_flight += 1
        self._asked_at = now
        self.limit.begin(self.in_flight)
        self.breaker.begin()

    def answered(self, now: float, seconds: float, fault: Fault | None) -> None:
        """A request ended with an answer, usable or one that speaks against the question only."""
        self.in_flight -= 1
        self.limit.note(0.0, self.in_flight)
        self._heard_at = now
        self._answered_of = max(self._answered_of, now - seconds)
        self._sample(now, seconds, 0.0 if fault is not None and fault.kind in SAMPLING else 1.0)
        if self.breaker.well(now):
            self.limit.restart(now)
            self.latency_s, self._well = seconds, 1.0  # what was known is of another time
        if fault is None:
            self.ok += 1
            self._counted += 1
        else:
            self.errors[fault.kind] += 1

    def failed(self, now: float, seconds: float, fault: Fault) -> None:
        """A request ended with a fault."""
        if fault.kind not in ENDPOINT:
            self.answered(now, seconds, fault)
            return
        self.in_flight -= 1
        self.errors[fault.kind] += 1
        self.limit.note(fault.overload, self.in_flight)
        self._sample(now, seconds if fault.kind == "timeout" else 0.0, 0.0)
        self.breaker.ill(
            now,
            f"{fault.kind}: {fault.detail}",
            in_flight=self.in_flight,
            certain=fault.kind in ("connect", "denied"),
            denied=fault.kind == "denied",
            bear_s=max(BEAR_S, 2 * self.latency_s) if fault.overload == 1 else 0.0,
            pause_s=fault.retry_after_s,
        )

    def abandoned(self, now: float, seconds: float) -> None:
        """A request was cancelled by us, `seconds` after it was sent: it would have taken longer still."""
        self.in_flight -= 1
        if seconds > self.latency_s and now - seconds > self._answered_of:  # else it is of another time
            self._sample(now, seconds, 1.0)
        if self.breaker.state == "probing":
            self.breaker.ill(now, f"no answer within {seconds:.1f} s")

    def update(self, now: float) -> None:
        """Called now and then: limit and goodput."""
        self.limit.update(now, self.latency_s)
        if (passed := now - self._rate_at) >= 0.5:
            weight = 1 - math.exp(-passed / GOODPUT_S)
            self._rate += weight * (self._counted / passed - self._rate)
            self._counted, self._rate_at = 0, now

    def snapshot(self) -> EndpointSnapshot:
        """How it is doing."""
        return EndpointSnapshot(
            self.ok,
            dict(self.errors),
            self.limit.value,
            self.in_flight,
            round(self._rate, 3),
            round(self.latency_s, 3),
            self.breaker.state,
        )

    def _sample(self, now: float, seconds: float, well: float) -> None:
        """Average: over the first few plainly, then over `MEMORY_S`, so that a rare answer counts for much."""
        self._samples += 1
        weight = max(1 - math.exp(-(now - self._sampled_at) / MEMORY_S), 1 / self._samples, 0.01)
        self._sampled_at = now
        self._well += weight * (well - self._well)
        if seconds:
            self.latency_s += (weight if self.latency_s else 1.0) * (seconds - self.latency_s)


def choose(endpoints: Sequence[Endpoint], now: float, avoid: Collection[Endpoint] = ()) -> Endpoint | None:
    """The endpoint for the next request: one long unasked, else the better of two that are free; None if none is.

    Those to avoid are chosen only where there is no other.
    """
    free = [endpoint for endpoint in endpoints if endpoint.free(now)]
    if avoid and (others := [endpoint for endpoint in free if endpoint not in avoid]):
        free = others
    if len(free) < 2:
        return free[0] if free else None
    for endpoint in free:
        if endpoint.neglected(now):
            return endpoint
    known = [endpoint.latency_s for endpoint in free if endpoint.latency_s]
    usual_s = sum(known) / len(known) if known else 1.0
    one, other = random.sample(free, 2)
    return one if one.price(now, usual_s) <= other.price(now, usual_s) else other
