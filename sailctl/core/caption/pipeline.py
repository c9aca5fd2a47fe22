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
from sailctl.core.caption.job import QUARANTINE, Job
from sailctl.core.caption.ledger import Ledger
from sailctl.core.caption.questions import Question, questions_of
from sailctl.core.caption.seal import seal
from sailctl.core.caption.spend import COUNTED, Spent
from sailctl.core.caption.tasks import Unparsable, clean, turns_of
from sailctl.core.engines.ask import Answer, Ask, Engine, Failed, Outcome
from sailctl.core.errors import SailctlError, SampleError
from sailctl.core.records import Sample

GRACE_S = 10.0  # what is in flight when somebody asks to stop may still arrive
TICK_S = 0.2
HOPELESS = 200  # questions of a task without one answer of use: nobody should pay for a million of them
NOT_ASKED = "no_caption"
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
        spent: Spent | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self.job = job
        self.engine = engine
        self.feed = feed
        self.spent = spent or Spent()
        self.stopped = False
        self._engine_counts = hasattr(engine, "on_usage")  # what is paid for and of no use, too
        if self._engine_counts:
            engine.on_usage = self.spent.note  # type: ignore[attr-defined]
        self._stop, self._tell, self._grace_s = stop, tell, grace_s
        self._ready: deque[Question] = deque()
        self._pending: dict[str, Question] = {}
        self._after: dict[tuple[int, str], list[Question]] = {}  # questions that wait for another's answer
        self._open: set[Ledger] = set()
        self._sealing: set[asyncio.Task[None]] = set()
        self._numbers = 0
        self._done_rows = 0
        self._counts: Counter[str] = Counter()
        self._useless: dict[str, Counter[str]] = {task: Counter() for task in job.tasks}  # until one is of use
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
                try:
                    await _closed(outcomes)
                finally:
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
            "before": self.feed.sealed_rows + self._counts["settled"],
            **{name: self._counts[name] for name in ("answered", "failed", "rejected")},
            **{name: self.spent.session[name] for name in COUNTED},
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
                self._tell_engine(waits=True)
                await self._woken.wait()
                self._tell_engine(waits=False)
            else:
                return

    def _tell_engine(self, *, waits: bool) -> None:
        """Whether there is no question before something is answered: then its free slots are not our doing."""
        if hasattr(self.engine, "asker_waits"):
            self.engine.asker_waits = waits

    async def _draw(self) -> None:
        """Take the next batch; the one after it is being read meanwhile."""
        try:
            batch = await asyncio.shield(self._reading)
            if batch is None:
                self._exhausted = True
                return
            self._open.add(batch.ledger)
            if not batch.rows:
                unit = batch.ledger.unit
                self._counts["settled"] += unit.stop - unit.start - batch.ledger.unread
            self._reading = asyncio.get_running_loop().run_in_executor(self._reader, self.feed.next)
            for row, found in batch.rows:
                self._enter(batch.ledger, row, found)
            self._check(batch.ledger)
        except Exception as error:  # raised when all in flight is committed
            self._fail(error)

    def _enter(self, ledger: Ledger, row: int, found: Sample | SampleError) -> None:
        if isinstance(found, SampleError):
            self._counts["rejected"] += 1
            self._counts["settled"] += ledger.reopened
            ledger.note_reject(row, found)
            return
        questions = questions_of(ledger, row, found)
        self._counts["settled"] += ledger.reopened and not questions
        for question in questions:
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
                self._give_up(question, NOT_ASKED, f"its description was given up: {said['reason']}")
            else:
                question.fill(said["text"])
                self._ready.appendleft(question)  # before new samples: its pictures are in memory already

    # --- answers -------------------------------------------------------------------------------------------------

    def _take(self, outcome: Outcome) -> None:
        question = self._pending.pop(outcome.key)
        question.attempts += outcome.attempts
        if not self._engine_counts:
            used = (0, 0) if isinstance(outcome, Failed) else (outcome.prompt_tokens, outcome.completion_tokens)
            self.spent.note(*used, outcome.attempts)
        if isinstance(outcome, Failed):
            self._give_up(question, outcome.reason, outcome.detail)
        else:
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
        self._useless.pop(question.task, None)
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
        useless = self._useless.get(question.task)
        if useless is not None and reason != NOT_ASKED:
            useless[reason] += 1
            if useless.total() >= HOPELESS:
                counts = ", ".join(f"{word} {count}" for word, count in useless.most_common())
                what = f"--task {question.task}: none of the first {HOPELESS} questions got an answer of use"
                see = f"look at {self.job.out / QUARANTINE}, at the prompt and at the model"
                self._fail(SailctlError(f"{what} ({counts}; the last: {detail}); {see}"))

    def _check(self, ledger: Ledger) -> None:
        if ledger.is_complete and ledger in self._open:
            self._open.discard(ledger)
            self._done_rows += ledger.unit.stop - ledger.unit.start
            task = asyncio.create_task(self._seal(ledger))
            self._sealing.add(task)
            task.add_done_callback(self._sealing.discard)

    async def _seal(self, ledger: Ledger) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._disk, seal, ledger)
        except Exception as error:  # raised when all in flight is committed
            self._done_rows -= ledger.unit.stop - ledger.unit.start
            self._open.add(ledger)
            self._fail(error)
        self._woken.set()

    # --- keeping time --------------------------------------------------------------------------------------------

    async def _tick(self, main: asyncio.Task[Any]) -> None:
        """Sync journals, tell how it goes, and see whether somebody asks to stop."""
        deadline = None
        while True:
            await asyncio.sleep(TICK_S)
            due = [ledger.sync for ledger in self._open if ledger.journal.due]
            for sync in [*due, *([self.spent.sync] if self.spent.due else [])]:
                try:
                    await asyncio.get_running_loop().run_in_executor(self._disk, sync)
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
