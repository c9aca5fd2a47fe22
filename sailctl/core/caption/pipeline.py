"""From samples to answers on one event loop: questions are drawn as the engine takes them, answers noted as they come.

The next unit begins while the last one's tail is out, so the engine never runs dry between shards; what is in memory is
what the engine has in hand. Nothing here waits for a disk but the journal's own writes.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from typing import Any

from sailctl.core.caption.feed import Feed
from sailctl.core.caption.job import Job
from sailctl.core.caption.ledger import Ledger
from sailctl.core.caption.questions import Question, questions_of
from sailctl.core.caption.seal import seal
from sailctl.core.caption.tasks import Unparsable, clean, turns_of
from sailctl.core.engines.ask import Answer, Ask, Engine, Failed, Outcome
from sailctl.core.errors import SampleError
from sailctl.core.records import Sample

GRACE_S = 10.0  # what is in flight when somebody asks to stop may still arrive
TICK_S = 0.2
MAX_OPEN_ROWS = 200_000  # of units in work: a few questions that never end must not keep all books open


class Pipeline:
    """Captions what a feed gives, with an engine.

    `stop` is asked now and then whether to end, `tell` hears how it goes; `stopped` says afterwards that it was ended.
    """

    def __init__(
        self,
        job: Job,
        engine: Engine,
        feed: Feed,
        *,
        stop: Callable[[], bool] = lambda: False,
        tell: Callable[[dict[str, Any]], None] = lambda progress: None,
        grace_s: float = GRACE_S,
    ) -> None:
        self.job = job
        self.engine = engine
        self.feed = feed
        self.stopped = False
        self._stop, self._tell, self._grace_s = stop, tell, grace_s
        self._ready: deque[Question] = deque()
        self._pending: dict[str, Question] = {}
        self._after: dict[tuple[int, str], list[Question]] = {}  # questions that wait for another's answer
        self._open: set[Ledger] = set()
        self._sealing: set[asyncio.Task[None]] = set()
        self._numbers = 0
        self._done_rows = 0
        self._counts: Counter[str] = Counter()
        self._exhausted = False
        self._failure: BaseException | None = None
        self._woken = asyncio.Event()
        self._late = False

    async def run(self) -> dict[str, Any]:
        """Work until the feed is done, somebody asks to stop, or something fails; returns `progress()`.

        However it ends, all that was answered is noted and complete units are sealed. Raises what the engine, the feed
        or the disk raised.
        """
        loop = asyncio.get_running_loop()
        main = asyncio.current_task()
        assert main is not None
        # a thread each for reading and for writing: sources and journals know only one
        with ThreadPoolExecutor(1, "read") as self._reader, ThreadPoolExecutor(1, "disk") as self._disk:
            self._reading = loop.run_in_executor(self._reader, self.feed.next)
            ticker = asyncio.create_task(self._tick(main))
            outcomes = self.engine.run(self._asks())
            try:
                async for outcome in outcomes:
                    self._take(outcome)
            except asyncio.CancelledError:
                if not self._late:
                    raise
                main.uncancel()
            finally:
                ticker.cancel()
                await _closed(outcomes)
                await self._leave()
            if self._failure is not None:
                raise self._failure
        return self.progress()

    def progress(self) -> dict[str, Any]:
        """How far it is, as JSON: samples, outcomes, and what the engine tells of itself."""
        snapshot = getattr(self.engine, "snapshot", None)
        told = None if snapshot is None else snapshot()
        partly = sum(
            ledger.unit.stop - ledger.unit.start - ledger.unread - -(-len(ledger.waiting) // len(self.job.tasks))
            for ledger in self._open
        )
        return {
            "samples": self.feed.sealed_rows + self._done_rows + max(partly, 0),
            "total": round(self.feed.total_rows()),
            "before": self.feed.sealed_rows,
            **{name: self._counts[name] for name in ("answered", "failed", "rejected", "prompt", "completion")},
            "engine": asdict(told) if is_dataclass(told) and not isinstance(told, type) else {},
        }

    # --- questions -----------------------------------------------------------------------------------------------

    async def _asks(self) -> AsyncIterator[Ask]:
        while not self.stopped and self._failure is None:
            if self._ready:
                question = self._ready.popleft()
                self._numbers += 1
                self._pending[str(self._numbers)] = question
                yield question.ask(str(self._numbers))
            elif not self._exhausted and sum(len(ledger.journal) for ledger in self._open) < MAX_OPEN_ROWS:
                await self._draw()
            elif self._pending:
                self._woken.clear()
                await self._woken.wait()
            else:
                return

    async def _draw(self) -> None:
        """Take the next batch; the one after it is being read meanwhile."""
        try:
            batch = await asyncio.shield(self._reading)
            if batch is None:
                self._exhausted = True
                return
            self._open.add(batch.ledger)
            self._reading = asyncio.get_running_loop().run_in_executor(self._reader, self.feed.next)
            for row, found in batch.rows:
                self._enter(batch.ledger, row, found)
            self._check(batch.ledger)
        except Exception as error:  # raised when all in flight is committed
            self._fail(error)

    def _enter(self, ledger: Ledger, row: int, found: Sample | SampleError) -> None:
        if isinstance(found, SampleError):
            self._counts["rejected"] += 1
            ledger.note_reject(row, found)
            return
        for question in questions_of(ledger, row, found):
            if question.after:
                self._after.setdefault((id(ledger), question.after), []).append(question)
                self._follow(ledger, question.after)
            else:
                self._ready.append(question)

    def _follow(self, ledger: Ledger, name: str) -> None:
        """Go on to the questions that waited for an answer, if it is there."""
        if (said := ledger.answer(name)) is None:
            return
        for question in self._after.pop((id(ledger), name), []):
            if "reason" in said:
                self._give_up(question, "no_caption", f"its description was given up: {said['reason']}")
            else:
                question.fill(said["text"])
                self._ready.appendleft(question)  # before new samples: its pictures are in memory already

    # --- answers -------------------------------------------------------------------------------------------------

    def _take(self, outcome: Outcome) -> None:
        question = self._pending.pop(outcome.key)
        question.attempts += outcome.attempts
        if isinstance(outcome, Failed):
            self._give_up(question, outcome.reason, outcome.detail)
        else:
            self._counts["prompt"] += outcome.prompt_tokens
            self._counts["completion"] += outcome.completion_tokens
            self._accept(question, outcome)
        if question.name not in question.ledger.waiting:
            self._follow(question.ledger, question.name)
            self._check(question.ledger)
        self._woken.set()

    def _accept(self, question: Question, answer: Answer) -> None:
        text = clean(answer.text)
        try:
            turns = turns_of(question.task, self.job.lang, text, question.sample_id, len(question.images))
        except Unparsable as error:
            if question.again:
                self._give_up(question, "unparsable", str(error))
            else:
                question.again = True
                question.ledger.note_try(question.name, question.attempts)
                self._ready.appendleft(question)
            return
        self._counts["answered"] += 1
        record = {
            "text": text,
            "prompt_id": question.prompt_id,
            "finish": answer.finish,
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "attempts": question.attempts,
        }
        question.ledger.note_answer(question.name, question.task, record, turns)

    def _give_up(self, question: Question, reason: str, detail: str) -> None:
        self._counts["failed"] += 1
        question.ledger.note_failure(
            question.name, question.task, reason, detail, question.attempts, question.row, question.images
        )

    def _check(self, ledger: Ledger) -> None:
        if ledger.is_complete and ledger in self._open:
            self._open.discard(ledger)
            task = asyncio.create_task(self._seal(ledger))
            self._sealing.add(task)
            task.add_done_callback(self._sealing.discard)

    async def _seal(self, ledger: Ledger) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._disk, seal, ledger)
            self._done_rows += ledger.unit.stop - ledger.unit.start
        except Exception as error:  # raised when all in flight is committed
            self._open.add(ledger)
            self._fail(error)
        self._woken.set()

    # --- keeping time --------------------------------------------------------------------------------------------

    async def _tick(self, main: asyncio.Task[Any]) -> None:
        """Sync journals, tell how it goes, and see whether somebody asks to stop."""
        deadline = None
        while True:
            await asyncio.sleep(TICK_S)
            for ledger in list(self._open):
                if ledger.journal.due:
                    try:
                        await asyncio.get_running_loop().run_in_executor(self._disk, ledger.sync)
                    except Exception as error:  # raised when all in flight is committed
                        self._fail(error)
            self._tell(self.progress())
            if not self.stopped and self._stop():
                self.stopped = True
                self._woken.set()
            if self.stopped or self._failure is not None:
                deadline = deadline or time.monotonic() + self._grace_s
                if time.monotonic() >= deadline:
                    self._late = True
                    main.cancel()
                    return

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._woken.set()

    async def _leave(self) -> None:
        """Seal what is complete, close what is not."""
        with suppress(Exception):
            if (batch := await self._reading) is not None:
                self._open.add(batch.ledger)
        while self._sealing:
            await asyncio.gather(*self._sealing)
        self.feed.close()
        for ledger in self._open:
            try:
                await asyncio.get_running_loop().run_in_executor(self._disk, ledger.close)
            except Exception as error:  # the first failure is the one to tell
                self._fail(error)
        self._open.clear()


async def _closed(outcomes: AsyncIterator[Outcome]) -> None:
    close = getattr(outcomes, "aclose", None)
    if close is not None:
        await close()
