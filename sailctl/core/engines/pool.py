"""The pool: several endpoints as one engine, on one event loop, within budgets. One run of it is `dispatch.py`'s."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from sailctl.core.engines.ask import Answer, Ask, Outcome
from sailctl.core.engines.client import Client
from sailctl.core.engines.dispatch import Dispatch
from sailctl.core.engines.endpoint import Endpoint, EndpointSnapshot
from sailctl.core.engines.faults import Reply
from sailctl.core.engines.limits import Bucket, Credit, Usage
from sailctl.core.engines.secret import Secret
from sailctl.core.engines.server_metrics import Watch
from sailctl.core.errors import SailctlError, UsageError

RETRIES_EARNED = 2.0  # by an answer: a service that fails more often than not is asked again ever more slowly
HEDGE_SHARE = 0.03  # of the requests, at most
HEDGE_AFTER = 1.5  # times the slowest of twenty answers …
HEDGE_AFTER_ALONE = 3.0  # … where there is one endpoint, and only an accident could be mended
HEDGE_SAMPLES, HEDGE_MIN = 512, 40
PATIENCE_S = 120.0
FIRST_PATIENCE_S = 20.0  # the same before the first answer: more likely a wrong address than a server in trouble …
UNREACHED_PATIENCE_S = 5.0  # … and where none of them can be reached at all
SPARE_FILES = 256
FULL = 0.95  # of the slots: some are always between two questions


class OnUsage(Protocol):
    """Hears what every request used when it ends: tokens as a server `reported` them, or as they are estimated.

    `answered` says whether anything came back that has tokens.
    """

    def __call__(self, prompt: int, completion: int, *, reported: bool, answered: bool) -> None:
        """Note it."""
        ...


def _ignore(prompt: int, completion: int, *, reported: bool, answered: bool) -> None:
    pass


class PoolStopped(SailctlError):
    """The spending cap is reached, or every endpoint is out of order; what was answered before has been yielded."""


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How hard a pool may try; the defaults are for servers of one's own."""

    in_flight: int = 256  # most requests open at once in this process, over all endpoints
    timeout_s: float = 300.0  # hard limit of one request
    attempts: int = 6  # requests for one question before it is given up
    hedge: bool = True  # a second request for the slowest tail
    accept_cut: bool = False  # take answers that reached max_tokens (finish == "length")
    accept_all: bool = False  # take the first answer whatever it says, for a benchmark: empty and looping ones, too
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_cost: float | None = None  # in the currency of the prices
    price_in: float = 0.0  # per million prompt tokens
    price_out: float = 0.0  # per million completion tokens
    patience_s: float = PATIENCE_S  # without any endpoint in order, before the pool stops


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """How a pool is doing; `waiting` are questions in hand that are not in flight."""

    in_flight: int
    waiting: int
    done: int
    failed: int
    requests: int
    retries: int
    hedges: int
    prompt_tokens: int
    completion_tokens: int
    uncounted: int  # answers whose tokens no server told: those above are estimated for them
    cost: float
    endpoints: dict[str, EndpointSnapshot]
    limit_by: str  # client | server errors | server preprocessing | server GPU | one of the options below | unknown


class HttpPool:
    """An engine over OpenAI-compatible endpoints. Raises UsageError for addresses or budgets that make no sense."""

    def __init__(
        self,
        urls: Sequence[str],
        model: str,
        *,
        api_key: Secret | None = None,
        options: PoolOptions = PoolOptions(),
    ) -> None:
        if not urls:
            raise UsageError("no endpoint: give at least one address like http://HOST:PORT")
        for name in ("in_flight", "timeout_s", "attempts", "patience_s"):
            if not 0 < getattr(options, name) < math.inf:
                raise UsageError(f"{name} {getattr(options, name)}: must be above 0")
        self.model = model
        self.options = options
        now = time.monotonic()
        self.clients = [
            Client(
                url,
                key=api_key,
                timeout_s=options.timeout_s,
                accept_cut=options.accept_cut,
                accept_all=options.accept_all,
            )
            for url in dict.fromkeys(urls)
        ]
        names = [client.name for client in self.clients]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UsageError(f"endpoint {min(twice)}: given twice")
        self.endpoints = [Endpoint(client, options.in_flight, now) for client in self.clients]
        self.usage = Usage(options.price_in, options.price_out, options.max_cost)
        self.retries = Credit(
            max(32.0, options.in_flight / 4), now, start=max(32.0, options.in_flight / 4), per_second=1
        )
        self.hedges = Credit(16.0, now, start=2.0)
        rates = ("requests_per_minute", "tokens_per_minute")
        self._requests, self._tokens = (
            None if (rate := getattr(options, name)) is None else Bucket(rate, now, name=name) for name in rates
        )
        self.on_usage: OnUsage = _ignore
        self.asker_waits = False  # whoever asks may say so: that it has no question before something is answered
        self.num_requests = self.num_retries = self.num_hedges = 0
        self._answered = self._given_up = 0
        self._seconds: deque[float] = deque(maxlen=HEDGE_SAMPLES)
        self._tail_s: float | None = None
        self._tail_at = -math.inf
        self._alive_at = now
        self._run: Dispatch | None = None
        self._watch = Watch(self)

    async def run(self, asks: AsyncIterator[Ask]) -> AsyncIterator[Outcome]:
        """Outcomes of all the questions, each exactly once, in the order in which they are done.

        Raises PoolStopped, or what `asks` raised, after what was answered has been yielded; a question without an
        outcome was not answered.
        """
        if self._run is not None:
            raise RuntimeError("the pool is running already")
        _allow_files(self.options.in_flight + SPARE_FILES)
        self._alive_at = time.monotonic()
        run = self._run = Dispatch(self, asks)
        watching = asyncio.create_task(self._watch.run())
        try:
            while True:
                while run.outcomes:
                    yield run.outcomes.popleft()
                if run.finished:
                    break
                run.woken.clear()
                await run.woken.wait()
            if run.error is not None:
                raise run.error
        finally:
            watching.cancel()
            await run.leave()
            await asyncio.gather(watching, return_exceptions=True)
            self._run = None

    def snapshot(self) -> PoolSnapshot:
        """How it is doing, cheaply."""
        run = self._run
        return PoolSnapshot(
            in_flight=0 if run is None else len(run.tries),
            waiting=0 if run is None else len(run.ready) + len(run.later),
            done=self._answered,
            failed=self._given_up,
            requests=self.num_requests,
            retries=self.num_retries,
            hedges=self.num_hedges,
            prompt_tokens=self.usage.prompt_tokens,
            completion_tokens=self.usage.completion_tokens,
            uncounted=self.usage.uncounted,
            cost=self.usage.cost,
            endpoints={endpoint.name: endpoint.snapshot() for endpoint in self.endpoints},
            limit_by=self._watch.limit_by,
        )

    async def close(self) -> None:
        """Cancel what is in flight and close all connections."""
        if self._run is not None:
            await self._run.leave()
        for client in self.clients:
            await client.close()

    # --- what a run asks of it -----------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Requests open now."""
        return 0 if self._run is None else len(self._run.tries)

    @property
    def starved(self) -> bool:
        """Whether slots are free for want of questions."""
        return self._run is not None and self._run.starved

    @property
    def draining(self) -> bool:
        """Whether the last question has been drawn, or the last one before something is answered."""
        return self._run is None or self._run.asks_exhausted or self.asker_waits

    @property
    def held_back(self) -> str:
        """The option that keeps questions from being sent, as the command line calls it; empty where none does."""
        now = time.monotonic()
        if self._requests is not None and not self._requests.ready(now):
            return "--requests-per-minute"
        if self._tokens is not None and not self._tokens.ready(now):
            return "--tokens-per-minute"
        return "--in-flight" if self.in_flight >= FULL * self.options.in_flight else ""

    def may_send(self, now: float, in_flight: int) -> bool:
        """Whether slots and rates allow another request."""
        return (
            in_flight < self.options.in_flight
            and (self._requests is None or self._requests.ready(now))
            and (self._tokens is None or self._tokens.ready(now))
        )

    def take(self, ask: Ask) -> float:
        """Count a request that is being sent; returns the tokens taken from the bucket on trust."""
        self.num_requests += 1
        self.hedges.earn(HEDGE_SHARE)
        if self._requests is not None:
            self._requests.take(1)
        if self._tokens is None:
            return 0.0
        expected = sum(self.usage.expect(ask))
        self._tokens.take(expected)
        return expected

    def settle(self, ask: Ask, trusted: float, reply: Reply | None, *, unheard: bool) -> None:
        """Count what a request used; one that was answered at all earns retries for others.

        Of an answer that went `unheard`, or came without its tokens, it is estimated.
        """
        used = (0, 0)
        if reply is not None:
            used = self.usage.note(ask, reply)
            self.retries.earn(RETRIES_EARNED)
        elif unheard:
            used = self.usage.guess(ask)
        if self._tokens is not None:
            self._tokens.take(sum(used) - trusted)
        reported = not unheard if reply is None else reply.counted
        self.on_usage(*used, reported=reported, answered=reply is not None)

    def answered(self, seconds: float) -> None:
        """A usable answer took so long."""
        self._seconds.append(seconds)

    def count(self, outcome: Outcome) -> None:
        """A question is done."""
        if isinstance(outcome, Answer):
            self._answered += 1
        else:
            self._given_up += 1

    def tail_s(self, now: float) -> float | None:
        """How long a request is in flight before it is hedged; None before enough is known."""
        if len(self._seconds) >= HEDGE_MIN and now - self._tail_at > 1:
            slowest = sorted(self._seconds)[int(0.95 * len(self._seconds))]
            self._tail_s = slowest * (HEDGE_AFTER if len(self.endpoints) > 1 else HEDGE_AFTER_ALONE)
            self._tail_at = now
        return self._tail_s

    def dead(self, now: float) -> PoolStopped | None:
        """Why the run cannot go on: no endpoint has been in order for too long, or all refuse whatever is asked."""
        broken = [endpoint for endpoint in self.endpoints if endpoint.breaker.state != "closed"]
        if len(broken) < len(self.endpoints):
            self._alive_at = now
            return None
        denied = all(endpoint.breaker.denied for endpoint in broken)
        first_s = FIRST_PATIENCE_S
        if all(endpoint.errors.keys() == {"connect"} for endpoint in broken):
            first_s = UNREACHED_PATIENCE_S
        patience_s = self.options.patience_s if self._answered else min(self.options.patience_s, first_s)
        if not denied and now - self._alive_at < patience_s:
            return None
        reasons = "; ".join(f"{endpoint.name}: {endpoint.breaker.reason.rstrip(' :')}" for endpoint in broken)
        remedy = "check addresses, model and key" if denied else "see to the servers"
        since = "" if denied else f" for {now - self._alive_at:.0f} s"
        return PoolStopped(f"no endpoint in order{since}: {reasons}; {remedy} and start again, what is done is kept")

    def spent(self) -> PoolStopped:
        """The cap is reached."""
        used, cap = self.usage, self.options.max_cost
        return PoolStopped(
            f"spending cap reached: {used.cost:.6g} of {cap:g} for {used.prompt_tokens} prompt and "
            f"{used.completion_tokens} completion tokens, and another request would pass it; raise the cap to go on"
        )


def _allow_files(needed: int) -> None:
    """Raise this process's limit of open files as far as needed and allowed: every request in flight is a socket."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
        if soft < needed:
            raise UsageError(
                f"in_flight {needed - SPARE_FILES} needs {needed} open files, {soft} are allowed; raise `ulimit -n` or "
                "lower it"
            )
