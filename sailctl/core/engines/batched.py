"""The local model behind the protocol of `ask.py`: questions are drawn a batch at a time and answered in a thread.

Pictures of the next batch are decoded and cut while the model works on this one. What is wrong with a question or its
pictures fails that question alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sailctl.core.engines.ask import Answer, Ask, Failed, Outcome
from sailctl.core.engines.quality import is_looping
from sailctl.core.errors import SampleError, UsageError

if TYPE_CHECKING:
    from sailctl.core.engines.local import Completion, LocalEngine, Prepared

GATHER_S = 0.25  # a batch that is not full begins when nothing has come for so long: its answers may be waited for
RETRY_TEMPERATURE = 0.7  # of an answer drawn again, if it was colder


@dataclass(slots=True)
class _Open:
    """A question in hand, and how often it was answered."""

    ask: Ask
    prepared: Prepared
    attempts: int = 0


class BatchedLocal:
    """An `Engine` that is a model of this process.

    An answer that loops or says nothing is drawn again, warmer and from another seed, up to `attempts` times; so is one
    that reached `max_tokens`, unless cut answers are accepted. What is drawn depends on the question and its seed
    alone, not on the batch; without a seed on the question's key. A batch too large for the device's memory is answered
    in halves. With `accept_all` the first answer counts, whatever it is: a benchmark is about what a model says, and
    greedy answers are not to be mixed with drawn ones.
    """

    def __init__(
        self,
        engine: LocalEngine,
        model: str,
        *,
        accept_cut: bool = True,
        accept_all: bool = False,
        attempts: int = 3,
    ) -> None:
        self.model = model
        self.batch_size = engine.batch_size
        self._engine = engine
        self._accept_cut, self._accept_all, self._attempts = accept_cut, accept_all, attempts
        self._preparing = ThreadPoolExecutor(1, "prepare")
        self._answering = ThreadPoolExecutor(1, "answer")

    @classmethod
    def open(
        cls, checkpoint: str, device: str, batch_size: int = 16, *, accept_cut: bool = True, accept_all: bool = False
    ) -> BatchedLocal:
        """The model of a checkpoint, named by its folder and its weights.

        Raises UsageError for a path or device that is not there, CheckpointError for weights that do not fit.
        """
        from sailctl.core.device import pick
        from sailctl.core.engines.local import LocalEngine
        from sailctl.core.model.fingerprint import fingerprint
        from sailctl.core.model.weights import load_model

        place = pick(device)
        loaded = load_model(checkpoint, device=place, dtype=place.dtype())
        name = f"{Path(checkpoint).resolve().name}@{fingerprint(loaded)}"
        local = LocalEngine(loaded.model, loaded.tokenizer, place, batch_size=batch_size)
        return cls(local, name, accept_cut=accept_cut, accept_all=accept_all)

    async def run(self, asks: AsyncIterator[Ask]) -> AsyncIterator[Outcome]:
        """Outcomes of all the questions, batch after batch. Raises what the stream of questions raises."""
        waiting: asyncio.Queue[_Open | Failed | None] = asyncio.Queue(self.batch_size)
        drawing = asyncio.create_task(self._draw(asks, waiting))
        left = threading.Event()
        answering: asyncio.Future[list[Completion | None]] | None = None
        again: list[_Open] = []
        more = True
        try:
            while more or again:
                batch, failed, more = await _gather(waiting, again, self.batch_size, more)
                for outcome in failed:
                    yield outcome
                if not batch:
                    continue
                began = time.monotonic()
                call = self._answering.submit(self._complete, [one.prepared for one in batch], left.is_set)
                answering = asyncio.wrap_future(call)
                completions = await asyncio.shield(answering)
                seconds = time.monotonic() - began
                again = []
                for one, completion in zip(batch, completions, strict=True):
                    one.attempts += 1
                    if (done := self._outcome(one, completion, seconds)) is None:
                        again.append(one)
                    else:
                        yield done
            await drawing
        finally:
            left.set()
            drawing.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await drawing
            if answering is not None and not answering.done():  # a token at most: the model is ours until then
                await asyncio.wait([answering])

    def visual_tokens(self, sizes: Sequence[tuple[int, int]], max_tiles: int | None) -> int:
        """How many tokens pictures of such widths and heights become: what the order of questions goes by."""
        return self._engine.visual_tokens(sizes, max_tiles)

    async def close(self) -> None:
        """End the threads."""
        for pool in (self._preparing, self._answering):
            await asyncio.get_running_loop().run_in_executor(None, pool.shutdown)

    async def _draw(self, asks: AsyncIterator[Ask], waiting: asyncio.Queue[_Open | Failed | None]) -> None:
        """Prepare questions as far ahead as there is room for, then None, also where the stream ends in an error."""
        failure = None
        try:
            async for ask in asks:
                await waiting.put(await asyncio.wrap_future(self._preparing.submit(self._prepare, ask)))
        except Exception as error:  # raised when all that was drawn is answered
            failure = error
        await waiting.put(None)
        if failure is not None:
            raise failure

    def _prepare(self, ask: Ask) -> _Open | Failed:
        from sailctl.core.engines.local import Request

        request = Request(ask.turns, ask.images, ask.max_tokens, ask.temperature, ask.max_tiles, _seed(ask))
        try:
            return _Open(ask, self._engine.prepare(request, cut=True))
        except SampleError as error:
            return Failed(ask.key, error.reason, error.detail, 0)
        except UsageError as error:
            return Failed(ask.key, "too_long", str(error), 0)

    def _complete(self, batch: list[Prepared], abandon: Callable[[], bool]) -> list[Completion | None]:
        """Answers; None for one that does not fit into memory even alone."""
        import torch

        try:
            return list(self._engine.complete(batch, abandon=abandon))
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                return [None]
        # beyond the handler, where the failed attempt's tensors are gone
        half = (len(batch) + 1) // 2
        self.batch_size = min(self.batch_size, half)
        return self._complete(batch[:half], abandon) + self._complete(batch[half:], abandon)

    def _outcome(self, one: _Open, completion: Completion | None, seconds: float) -> Outcome | None:
        """What became of a question; None where it is to be answered again, and is made ready for that."""
        key, request = one.ask.key, one.prepared.request
        if completion is None:
            tokens = f"{len(one.prepared.prompt_ids)} prompt tokens + {request.max_new_tokens} new ones"
            return Failed(key, "out_of_memory", f"{tokens} do not fit into the device's memory", one.attempts)
        if (reason := self._unusable(completion)) is None:
            finish = "stop" if completion.ended else "length"
            counts = len(completion.prompt_ids), len(completion.token_ids)
            return Answer(key, completion.text, finish, *counts, "local", one.attempts, seconds)
        if one.attempts >= self._attempts:
            detail = f"{len(completion.token_ids)} tokens, ending in: {completion.text[-80:]!r}"
            return Failed(key, reason, detail, one.attempts)
        warmer = max(one.ask.temperature, RETRY_TEMPERATURE)
        changed = replace(request, temperature=warmer, seed=_seed(one.ask) + one.attempts)
        one.prepared = replace(one.prepared, request=changed)
        return None

    def _unusable(self, completion: Completion) -> str | None:
        """Why an answer is of no use, in the words that the pool has for it."""
        if self._accept_all:
            return None
        if not completion.text:
            return "empty"
        if is_looping(completion.text):
            return "looping"
        return None if completion.ended or self._accept_cut else "cut"


async def _gather(
    waiting: asyncio.Queue[_Open | Failed | None], again: list[_Open], size: int, more: bool
) -> tuple[list[_Open], list[Failed], bool]:
    """The next batch, what failed before it could be in one, and whether more is to come.

    Waits for the first, and for the others only while they keep coming: whoever asks may be waiting for an answer.
    """
    batch, failed = again, list[Failed]()
    while more and len(batch) < size:
        try:
            async with asyncio.timeout(GATHER_S if batch or failed else None):
                item = await waiting.get()
        except TimeoutError:
            break
        if item is None:
            more = False
        elif isinstance(item, Failed):
            failed.append(item)
        else:
            batch.append(item)
    return batch, failed, more


def _seed(ask: Ask) -> int:
    """The question's own seed, or one that its key gives."""
    if ask.seed is not None:
        return ask.seed
    return int.from_bytes(hashlib.blake2b(ask.key.encode("utf-8", "surrogatepass"), digest_size=7).digest(), "little")
