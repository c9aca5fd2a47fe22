"""A judge for VLMEvalKit: its calls to an OpenAI-compatible server go through one of ours on this machine.

The kit gets an address on the loopback and a word of its own for a key; the real key stays in this process. Calls go on
through an engine, with its retries and its routing, to the judge's pinned model; answers are kept in a journal under a
hash of all that decides them, so that scoring again asks nothing. A question the engine gave up is answered with an
error, and not tried again while the proxy lives; nothing of it is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import threading
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import orjson
import pybase64
from aiohttp import web

from sailctl.core.engines.ask import Ask, Engine, Failed, Outcome
from sailctl.core.engines.pool import PoolOptions
from sailctl.core.errors import SailctlError, UsageError
from sailctl.core.files import storage_errors
from sailctl.core.journal import Busy, Journal
from sailctl.core.records import IMAGE_PLACEHOLDER, Role, Turn

ALIAS = "judge"  # what the kit calls the model: some names make it reach for other services
COUNTS = ("asked", "cached", "failed", "unparsed")
GREETING, GREETING_TOKENS = "hello", 64  # how the kit sees whether its judge works, before each benchmark
LARGEST_CALL = 256 << 20  # bytes; calls may bear pictures
START_S = 30.0
# For a pool that judges: MMVet allows an answer three tokens, which it may well fill; nothing is asked twice for speed.
JUDGE_OPTIONS = PoolOptions(in_flight=32, accept_cut=True, hedge=False)


class JudgeProxy:
    """Serves from `__enter__` to `__exit__`, in a thread and on an event loop of its own, where it uses the engine.

    The engine is closed with it. `cache` belongs to one process at a time: UsageError where another one has it.
    """

    def __init__(self, engine: Engine, cache: Path, *, seed: int = 0) -> None:
        self.engine = engine
        self.seed = seed
        self.key = secrets.token_hex(16)
        self.url = ""
        self.stopped: SailctlError | None = None  # why the engine answers nothing more
        self.failures: dict[str, str] = {}  # of questions given up, by hash: why
        self._counts: Counter[str] = Counter()
        self._path = cache
        self._pending: dict[str, asyncio.Future[Outcome]] = {}
        self._asks: asyncio.Queue[Ask | None] = asyncio.Queue()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="judge proxy", daemon=True)
        self._ready: Future[None] = Future()

    @property
    def model(self) -> str:
        """The judge's pinned model."""
        return self.engine.model

    def counts(self) -> dict[str, int]:
        """So far: questions asked, answered from the cache, given up; answers found to be unreadable."""
        return {name: self._counts[name] for name in COUNTS} | {"failed": len(self.failures)}

    def note_unparsed(self, number: int) -> None:
        """Count answers that whoever scores could not read."""
        self._counts["unparsed"] += number

    def __enter__(self) -> JudgeProxy:
        try:
            with storage_errors(self._path):
                self._answers = Journal.open(self._path)
        except Busy:
            raise UsageError(
                f"{self._path}: another process keeps its judge's answers there; wait for it or name another"
            ) from None
        self._thread.start()
        try:
            self._ready.result(START_S)
        except BaseException:
            self._answers.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._answers.close()

    # --- on the proxy's own loop ---------------------------------------------------------------------------------

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=LARGEST_CALL)
        app.router.add_post("/v1/chat/completions", self._complete)
        runner = web.AppRunner(app, access_log=None)
        try:
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/chat/completions"
        except OSError as error:
            self._ready.set_exception(error)
            return
        working = asyncio.create_task(self._work())
        self._ready.set_result(None)
        await self._over.wait()
        await runner.cleanup()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await self.engine.close()

    async def _work(self) -> None:
        try:
            async for outcome in self.engine.run(self._drawn()):
                self._note(outcome)
                self._pending.pop(outcome.key).set_result(outcome)
        except SailctlError as error:
            self.stopped = error
        except Exception as error:  # a defect: the kit must not wait for it
            self.stopped = SailctlError(f"the judge's engine failed: {type(error).__name__}: {error}")
        for key, waiting in self._pending.items():
            waiting.set_result(Failed(key, "stopped", str(self.stopped), 0))
        self._pending.clear()

    def _note(self, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            self.failures[_question_of(outcome.key)] = f"{outcome.reason}: {outcome.detail}"
        else:
            with storage_errors(self._path):
                self._answers.append(outcome.key, {"text": outcome.text, "finish": outcome.finish})

    async def _drawn(self) -> AsyncIterator[Ask]:
        while (ask := await self._asks.get()) is not None:
            yield ask

    async def _complete(self, request: web.Request) -> web.Response:
        bearer = request.headers.get("Authorization", "")
        if not hmac.compare_digest(bearer.encode(), f"Bearer {self.key}".encode()):
            return _refusal(401, "this judge serves the scorer that was started with it")
        try:
            ask = self._question(orjson.loads(await request.read()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return _refusal(400, f"not a question: {type(error).__name__}: {error}")
        if ask.key in self._answers:
            self._counts["cached"] += 1
            kept = self._answers.read(ask.key)
            return _completion(kept["text"], kept["finish"])
        if (why := self.failures.get(_question_of(ask.key))) is not None:
            return _refusal(502, why)
        outcome = await self._asked(ask)
        if isinstance(outcome, Failed):
            return _refusal(502, f"{outcome.reason}: {outcome.detail}")
        return _completion(outcome.text, outcome.finish)

    async def _asked(self, ask: Ask) -> Outcome:
        """The engine's outcome; of equal questions at once one is asked."""
        if (waiting := self._pending.get(ask.key)) is not None:
            return await asyncio.shield(waiting)
        if self.stopped is not None:
            return Failed(ask.key, "stopped", str(self.stopped), 0)
        waiting = self._pending[ask.key] = asyncio.get_running_loop().create_future()
        self._counts["asked"] += 1
        await self._asks.put(ask)
        return await asyncio.shield(waiting)

    def _question(self, call: dict[str, Any]) -> Ask:
        """A call's messages and parameters, under a hash of them and of the model that answers, whatever it was called.

        The temperature is the kit's: it asks again warmer where it could not read an answer.
        """
        turns, images = _read(call["messages"])
        max_tokens = int(call.get("max_tokens") or call.get("max_completion_tokens") or 1024)
        temperature = float(call.get("temperature") or 0.0)
        if [turn.text for turn in turns] == [GREETING]:
            max_tokens = GREETING_TOKENS  # one question, whatever the kit would have allowed the answer
        told = (self.engine.model, max_tokens, self.seed, [(turn.role, turn.text) for turn in turns])
        digest = hashlib.blake2b(repr(told).encode("utf-8", "surrogatepass"), digest_size=16)
        for image in images:
            digest.update(len(image).to_bytes(8, "little") + image)
        return Ask(f"{digest.hexdigest()}-{temperature:g}", turns, images, max_tokens, temperature, self.seed)


def _question_of(key: str) -> str:
    """The part of a key that is the same at every temperature: what failed cold is not asked again warm."""
    return key.partition("-")[0]


def _read(messages: list[dict[str, Any]]) -> tuple[tuple[Turn, ...], tuple[bytes, ...]]:
    """Turns and encoded pictures of a call; raises ValueError and its like for what no judge is asked."""
    turns: list[Turn] = []
    images: list[bytes] = []
    for message in messages:
        content = message["content"]
        words = []
        parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "text":
                # an answer under judgement may hold the word that stands for a picture in our turns
                words.append(part["text"].replace(IMAGE_PLACEHOLDER, "<image >"))
            elif part["type"] == "image_url":
                kind, _, data = part["image_url"]["url"].partition(";base64,")
                if not kind.startswith("data:image/"):
                    raise ValueError("a picture that is not part of the call")
                images.append(pybase64.b64decode(data, validate=True))
                words.append(IMAGE_PLACEHOLDER)
            else:
                raise ValueError(f"a part of type {part['type']!r}")
        role: Role = message["role"]
        if role not in ("system", "user", "assistant"):
            raise ValueError(f"a message of role {role!r}")
        turns.append(Turn(role, "\n".join(words)))
    if not turns or turns[-1].role != "user":
        raise ValueError("the last message is not the user's")
    return tuple(turns), tuple(images)


def _completion(text: str, finish: str) -> web.Response:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    body = {"id": "sailctl", "object": "chat.completion", "created": 0, "model": ALIAS, "choices": [choice]}
    return web.Response(body=orjson.dumps(body), content_type="application/json")


def _refusal(status: int, message: str) -> web.Response:
    body = orjson.dumps({"error": {"message": message, "code": status}})
    return web.Response(status=status, body=body, content_type="application/json")
