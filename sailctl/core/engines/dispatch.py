"""One run of the pool: questions drawn as slots free up, tries sent, failures put off, laggards asked again elsewhere.

A question in hand is a job; each request for it a try, with a task of its own for as long as it is in flight and not
longer: a job that waits for its next try is an entry in a heap. One timer looks after all waiting.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from sailctl.core.engines.ask import Answer, Ask, Failed, Outcome
from sailctl.core.engines.endpoint import Endpoint, choose
from sailctl.core.engines.faults import QUESTION, SAMPLING, Fault, Reply
from sailctl.core.engines.jobs import Job, Try, wait_s
from sailctl.core.engines.messages import request
from sailctl.core.errors import SampleError

if TYPE_CHECKING:
    from sailctl.core.engines.pool import HttpPool

TICK_S = 0.05
LAGGARDS = 64  # of the oldest tries, looked at in a tick


class Dispatch:
    """Answers one stream of questions over a pool's endpoints; `outcomes` and `error` are what comes of it."""

    def __init__(self, pool: HttpPool, asks: AsyncIterator[Ask]) -> None:
        self.pool = pool
        self.outcomes: deque[Outcome] = deque()
        self.error: BaseException | None = None
        self.woken = asyncio.Event()
        self.asks_exhausted = False
        self.tries: dict[Try, None] = {}  # in the order in which they were sent
        self.ready: deque[Job] = deque()  # to be sent as soon as something is free
        self.laggards: deque[Try] = deque()  # to be asked again elsewhere, before anything else is sent
        self.later: list[tuple[float, int, Job]] = []  # a heap by the time they may be sent again
        self._jobs = 0
        self._numbers = itertools.count()
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Event()
        self._room.set()
        self._asks = asks
        self._feeder = self._loop.create_task(self._feed())
        self._timer = self._loop.call_later(TICK_S, self._tick)

    @property
    def finished(self) -> bool:
        """Whether there is nothing more to come."""
        return self.error is not None or (self.asks_exhausted and not self._jobs)

    @property
    def starved(self) -> bool:
        """Whether slots are free and nobody has a question: whoever asks is the limit."""
        return self._room.is_set() and not self.asks_exhausted and not self.ready

    async def leave(self) -> None:
        """Cancel whatever is still in flight."""
        self._timer.cancel()
        self._feeder.cancel()
        tasks = [attempt.task for attempt in self.tries]
        for attempt in list(self.tries):
            self._abandon(attempt)
        await asyncio.gather(self._feeder, *tasks, return_exceptions=True)
        if (close := getattr(self._asks, "aclose", None)) is not None:
            await close()

    def stop(self, error: BaseException) -> None:
        """End the run with an error; what was answered stays answered."""
        self.error = self.error or error
        self.woken.set()

    # --- sending -------------------------------------------------------------------------------------------------

    async def _feed(self) -> None:
        """Draw a question whenever one can be sent at once."""
        try:
            while True:
                await self._room.wait()
                try:
                    ask = await anext(self._asks)
                except StopAsyncIteration:
                    break
                self._jobs += 1
                self.ready.append(Job(ask))
                self._pump()
        except Exception as error:  # the asker's: it is raised where outcomes are awaited
            self.stop(error)
        self.asks_exhausted = True
        self.woken.set()

    def _pump(self) -> None:
        """Send what can be sent, and see whether there is room for another question."""
        now = self._loop.time()
        if self.laggards:
            self._hedge(now)
        while self.ready and self.error is None:
            job = self.ready[0]
            if (endpoint := self._slot(now, job)) is None:
                break
            if job.charged and not self.pool.retries.spend(now):
                break
            self.ready.popleft()
            self._send(job, endpoint, now)
        options = self.pool.options
        if (
            not self.ready
            and self._jobs < 2 * options.in_flight
            and len(self.outcomes) < options.in_flight
            and self.pool.may_send(now, len(self.tries))
            and any(endpoint.free(now) for endpoint in self.pool.endpoints)
        ):
            self._room.set()
        else:
            self._room.clear()

    def _slot(self, now: float, job: Job) -> Endpoint | None:
        pool, in_flight = self.pool, len(self.tries)
        if not pool.may_send(now, in_flight):
            return None
        if not pool.usage.affords(job.ask, in_flight):
            if not in_flight:
                self.stop(pool.spent())
            return None
        return choose(pool.endpoints, now, job.avoid)

    def _send(self, job: Job, endpoint: Endpoint, now: float) -> None:
        attempt = Try(job, endpoint, now, self.pool.take(job.ask))
        job.tries.append(attempt)
        job.attempts += 1
        self.tries[attempt] = None
        endpoint.begin(now)
        attempt.task = self._loop.create_task(self._try(attempt))

    async def _try(self, attempt: Try) -> None:
        job, fault, reply = attempt.job, None, None
        try:
            temperature, seed = job.sampling()
            body = request(job.ask, self.pool.model, temperature=temperature, seed=seed)
            reply = await attempt.endpoint.client.ask(body)
        except Fault as error:
            fault = error
        except SampleError as error:
            fault = Fault(error.reason, error.detail)
        except Exception as error:  # a defect of ours: it must not be lost with the task
            self.stop(error)
            return
        try:
            self._settle(attempt, reply, fault)
        except Exception as error:  # the same
            self.stop(error)

    # --- what comes back -----------------------------------------------------------------------------------------

    def _settle(self, attempt: Try, reply: Reply | None, fault: Fault | None) -> None:
        """A try ended."""
        if attempt not in self.tries:  # abandoned in the very moment its answer came: it has been settled there
            return
        now = self._loop.time()
        job, endpoint, pool = attempt.job, attempt.endpoint, self.pool
        seconds = now - attempt.began
        del self.tries[attempt]
        job.tries.remove(attempt)
        answer_or_none = reply or (fault and fault.reply) or None
        pool.settle(job.ask, attempt.tokens, answer_or_none, unheard=fault is not None and fault.unheard)
        if fault is not None:
            endpoint.failed(now, seconds, fault)
            self._failed(job, endpoint, fault, now)
        elif reply is not None:
            endpoint.answered(now, seconds, None)
            pool.answered(seconds)
            answer = Answer(
                job.ask.key,
                reply.text,
                reply.finish,
                reply.prompt_tokens,
                reply.completion_tokens,
                endpoint.name,
                job.attempts,
                seconds,
            )
            self._done(job, answer)
        self._pump()

    def _failed(self, job: Job, endpoint: Endpoint, fault: Fault, now: float) -> None:
        job.fault = fault
        if fault.kind == "connect" or (fault.kind == "denied" and not endpoint.ok):
            job.attempts -= 1  # nobody looked at the question
        if fault.kind in SAMPLING:
            job.resampled += 1
        elif fault.kind in QUESTION:
            job.refused.add(endpoint)
        else:
            job.charged = True
        if job.tries:
            return  # the other one may still answer
        refused = len(job.refused) >= min(2, len(self.pool.endpoints))
        if job.attempts >= self.pool.options.attempts or refused or fault.kind == "placeholder_mismatch":
            self._done(job, Failed(job.ask.key, fault.kind, fault.detail, job.attempts))
            return
        job.avoid = (endpoint, *job.refused)
        job.hedged = False
        self.pool.num_retries += 1
        if (wait := wait_s(fault, job.attempts)) > 0:
            heapq.heappush(self.later, (now + wait, next(self._numbers), job))
        else:
            self.ready.append(job)

    def _done(self, job: Job, outcome: Outcome) -> None:
        for other in list(job.tries):
            self._abandon(other)
        self._jobs -= 1
        self.pool.count(outcome)
        self.outcomes.append(outcome)
        self.woken.set()

    def _abandon(self, attempt: Try) -> None:
        """Cancel a try nobody waits for any more; that hangs up, and the server stops generating."""
        now = self._loop.time()
        del self.tries[attempt]
        attempt.job.tries.remove(attempt)
        attempt.task.cancel()
        attempt.endpoint.abandoned(now, now - attempt.began)
        self.pool.settle(attempt.job.ask, attempt.tokens, None, unheard=True)

    # --- keeping time --------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        try:
            now = self._loop.time()
            for endpoint in self.pool.endpoints:
                endpoint.update(now)
            while self.later and self.later[0][0] <= now:
                self.ready.append(heapq.heappop(self.later)[2])
            if (error := self.pool.dead(now)) is not None:
                self.stop(error)
            elif self.pool.options.hedge and (patience := self.pool.tail_s(now)) is not None:
                oldest = list(itertools.islice(self.tries, LAGGARDS))
                self.laggards.clear()
                self.laggards.extend(late for late in oldest if now - late.began > patience and not late.job.hedged)
            self._pump()
        except Exception as error:  # a defect of ours: it must not be lost in a callback
            self.stop(error)
        if self.error is None:
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def _hedge(self, now: float) -> None:
        """Ask again, elsewhere, what takes far longer than answers do, while slots and the budget for that last."""
        pool = self.pool
        while self.laggards and pool.may_send(now, len(self.tries)):
            late = self.laggards.popleft()
            job = late.job
            if late not in self.tries or job.hedged or job.attempts >= pool.options.attempts:
                continue
            if not pool.usage.affords(job.ask, len(self.tries)):
                continue
            others = [endpoint for endpoint in pool.endpoints if endpoint is not late.endpoint]
            endpoint = choose([one for one in others or pool.endpoints if one.breaker.state == "closed"], now)
            if endpoint is None:
                continue
            if not pool.hedges.spend(now):
                self.laggards.clear()
                return
            job.hedged = True
            pool.num_hedges += 1
            self._send(job, endpoint, now)
