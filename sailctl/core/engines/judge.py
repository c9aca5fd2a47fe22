"""A model as a judge: prompt, answer, parse; every answer is kept on disk, so that asking again costs nothing.

The model, its parameters and the prompt are pinned: an answer is found again under a hash of all that decides it. What
an answer means is read anew each time, and one that cannot be read is counted and told, never guessed. The questions
themselves live in `rubrics.py`, what reads the answers in `parse.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sailctl.core.engines.ask import Ask, Engine, Failed, Outcome
from sailctl.core.errors import UsageError
from sailctl.core.files import storage_errors
from sailctl.core.journal import Busy, Journal
from sailctl.core.records import Turn

RETRY_TEMPERATURE = 0.7  # of a second answer, if the first was colder: without warmth a seed changes nothing
COUNTS = ("asked", "cached", "parsed", "unparsed", "failed")
READY = 256  # judgements made ahead of who takes them


@dataclass(frozen=True, slots=True)
class JudgeItem:
    """One thing to judge. `parse` reads an answer, None where it is unclear; `version` is that of the prompt."""

    key: str
    turns: tuple[Turn, ...]
    parse: Callable[[str], Any | None]
    images: tuple[bytes, ...] = ()
    version: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of an item: its value, or None where no answer could be read or the engine gave up.

    `text` is the last answer; `cached` says that nothing was asked for it; `reason` is the engine's for giving up.
    """

    key: str
    value: Any | None
    text: str
    parsed: bool
    cached: bool
    reason: str = ""


@dataclass(slots=True)
class _Case:
    """An item on its way: how often it was answered, and whether anything was asked for it."""

    item: JudgeItem
    base: bytes
    attempt: int = 0
    asked: bool = False
    text: str = ""


@dataclass(slots=True)
class _Court:
    """What is under way during one call of `ask`; of equal questions one is asked, and all its cases wait for it."""

    ready: asyncio.Queue[Judgement | None] = field(default_factory=lambda: asyncio.Queue(READY))
    pending: dict[str, list[_Case]] = field(default_factory=dict)
    again: deque[Ask] = field(default_factory=deque)
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class Judge:
    """Asks an engine and keeps its answers in the file `cache`, which belongs to one process at a time.

    An answer that cannot be read is asked for again, warmer and with the next seed, up to `attempts` answers in all.
    The engine is the caller's to close. Raises UsageError where another process has the cache.
    """

    def __init__(
        self,
        engine: Engine,
        cache: Path,
        *,
        max_tokens: int = 512,
        temperature: float = 0.0,
        seed: int = 0,
        attempts: int = 3,
    ) -> None:
        self.engine = engine
        self.max_tokens, self.temperature = max_tokens, float(temperature)
        self.seed, self.attempts = seed, attempts
        self._counts: Counter[str] = Counter()
        try:
            with storage_errors(cache):
                self._answers = Journal.open(cache)
        except Busy:
            raise UsageError(
                f"{cache}: another process keeps its judge's answers there; wait for it or name another"
            ) from None

    def counts(self) -> dict[str, int]:
        """So far: answers asked for; items judged from kept answers alone; items parsed, unparsed and failed."""
        return {name: self._counts[name] for name in COUNTS}

    def close(self) -> None:
        """Bring the answers to the disk and let go of the file."""
        self._answers.close()

    async def ask(self, items: Iterable[JudgeItem] | AsyncIterable[JudgeItem]) -> AsyncIterator[Judgement]:
        """A judgement for each item, in the order in which they are made. Raises what items and engine raise."""
        court = _Court()
        work = asyncio.create_task(self._work(items, court))
        try:
            while (judgement := await court.ready.get()) is not None:
                yield judgement
            await work
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await work

    async def _work(self, items: Iterable[JudgeItem] | AsyncIterable[JudgeItem], court: _Court) -> None:
        failure = None
        outcomes = self.engine.run(self._asks(items, court))
        try:
            async for outcome in outcomes:
                await self._take(outcome, court)
        except Exception as error:  # raised when what was judged is taken
            failure = error
        finally:
            if (close := getattr(outcomes, "aclose", None)) is not None:
                await close()
        await court.ready.put(None)
        if failure is not None:
            raise failure

    async def _asks(self, items: Iterable[JudgeItem] | AsyncIterable[JudgeItem], court: _Court) -> AsyncIterator[Ask]:
        async for item in _each(items):
            if (ask := await self._see(_Case(item, self._base(item)), court)) is not None:
                yield ask
            while court.again:
                yield court.again.popleft()
        while court.pending:
            if court.again:
                yield court.again.popleft()
            else:
                court.woken.clear()
                await court.woken.wait()

    async def _see(self, case: _Case, court: _Court) -> Ask | None:
        """Judge a case by the answers there are; the question, where another one is needed and nobody asks it yet."""
        while case.attempt < self.attempts:
            ask = self._question(case)
            if ask.key not in self._answers:
                case.asked = True
                court.pending.setdefault(ask.key, []).append(case)
                if len(court.pending[ask.key]) > 1:
                    return None
                self._counts["asked"] += 1
                return ask
            case.text = self._answers.read(ask.key)["text"]
            if (value := case.item.parse(case.text)) is not None:
                await self._judge(case, value, court)
                return None
            case.attempt += 1
        await self._judge(case, None, court)
        return None

    async def _take(self, outcome: Outcome, court: _Court) -> None:
        cases = court.pending[outcome.key]
        if isinstance(outcome, Failed):
            for case in cases:
                self._counts["failed"] += 1
                reason = f"{outcome.reason}: {outcome.detail}"
                await court.ready.put(Judgement(case.item.key, None, case.text, False, False, reason))
        else:
            with storage_errors(self._answers.path):
                self._answers.append(outcome.key, {"text": outcome.text, "finish": outcome.finish})
                if self._answers.due:
                    await asyncio.get_running_loop().run_in_executor(None, self._answers.sync)
            for case in cases:
                if (ask := await self._see(case, court)) is not None:
                    court.again.append(ask)
        del court.pending[outcome.key]  # last: while something is pending more may be asked
        court.woken.set()

    async def _judge(self, case: _Case, value: Any | None, court: _Court) -> None:
        self._counts["unparsed" if value is None else "parsed"] += 1
        self._counts["cached"] += not case.asked
        await court.ready.put(Judgement(case.item.key, value, case.text, value is not None, not case.asked))

    def _base(self, item: JudgeItem) -> bytes:
        """A hash of all that decides an answer but for what changes from one attempt to the next."""
        told = (self.engine.model, self.max_tokens, item.version, [(turn.role, turn.text) for turn in item.turns])
        digest = hashlib.blake2b(repr(told).encode("utf-8", "surrogatepass"), digest_size=16)
        for image in item.images:
            digest.update(len(image).to_bytes(8, "little") + image)
        return digest.digest()

    def _question(self, case: _Case) -> Ask:
        temperature = max(self.temperature, RETRY_TEMPERATURE) if case.attempt else self.temperature
        seed = self.seed + case.attempt
        name = hashlib.blake2b(case.base + repr((temperature, seed)).encode(), digest_size=16).hexdigest()
        return Ask(name, case.item.turns, case.item.images, self.max_tokens, temperature, seed)


async def _each(items: Iterable[JudgeItem] | AsyncIterable[JudgeItem]) -> AsyncIterator[JudgeItem]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
