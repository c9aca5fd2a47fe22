"""A stub of an OpenAI-compatible server: the real protocol over real HTTP, its own process, made to fail at will.

python -m tests.stub_engine --port 0        # prints {"url": "http://127.0.0.1:PORT/v1", "control": "http://…"}

`POST /control` (on either port; the control port stays open when the engine plays dead) takes any of the fields of
`Behaviour`, `{"drop": true}` to hang up on everybody and `{"forget": true}` to clear what was counted; `GET /control`
tells `Behaviour` and what was counted; `GET /counts` tells how often each question was asked. An answer's text follows
from the pictures and the text asked (`told`), so that a test sees that the right answer came to the right question. One
core serves some thousand questions a second; anything it holds in flight costs a timer, not a task.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import math
import random
import subprocess
import sys
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from email.utils import formatdate
from typing import Any

import orjson

FAULTS = (
    "status_429", "status_400", "status_401", "status_404", "status_413", "status_500", "status_503", "redirect",
    "reset", "hang", "truncated", "garbage", "error_body", "no_choice", "empty", "looping", "cut", "huge",
)  # fmt: skip
REASONS = {
    200: "OK", 307: "Temporary Redirect", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found",
    413: "Content Too Large", 429: "Too Many Requests", 500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip
LOOP = "the cat sat on the mat and "


@dataclass
class Behaviour:
    """How the stub answers; every field can be set over /control."""

    mean_s: float = 0.0  # mean of the service times
    sigma: float = 0.0  # of their logarithm; 0 makes them constant
    slow: float = 1.0  # factor on every service time
    capacity: int = 0  # questions served at once, the others queue; 0 is no limit
    limit: int = 0  # questions taken in at once, the others are refused with 429; 0 is no limit
    faults: dict[str, float] = field(default_factory=dict)  # shares by kind, drawn anew for each request
    fail_first: dict[str, int] = field(default_factory=dict)  # kind: so many first requests of each question fail so
    always: dict[str, str] = field(default_factory=dict)  # digest of a question: the fault it meets every time
    changed: str = ""  # this fault meets every question asked without a seed, none asked with one
    dead: str = ""  # refuse, or a fault that meets everything
    retry_after: str = ""  # header of a 429 or 503: seconds, or "date:SECONDS" for an HTTP date so far ahead
    key: str = ""  # what Authorization must bear; the refusal quotes what it bore
    usage: bool = True  # tell tokens
    prompt_tokens: int = 1000
    completion_tokens: int = 100
    metrics: str | None = None  # text of /metrics; None makes vLLM's from what is in flight, "" is a 404
    seed: int = 0  # of service times and faults


def digest(images: Sequence[bytes], text: str) -> str:
    """The name of a question: a hash of its encoded pictures and its text (`<image>` placeholders left out)."""
    return _digest([base64.b64encode(image) for image in images], text.replace("<image>", " ").split())


def told(images: Sequence[bytes], text: str) -> str:
    """What the stub answers."""
    return _told(digest(images, text))


def _digest(encoded: Sequence[bytes], words: Sequence[str]) -> str:
    state = hashlib.sha1(" ".join(words).encode(), usedforsecurity=False)
    for image in encoded:
        state.update(b"\0")
        state.update(image)
    return state.hexdigest()


def _told(name: str) -> str:
    return f"A picture that hashes to {name}, {int(name[:4], 16)} by {int(name[4:8], 16)}, quite unlike any other."


class Engine:
    """What all connections share: the behaviour, the queue, the counts."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.behaviour = Behaviour()
        self.random = random.Random(0)
        self.connections: set[Connection] = set()
        self.server: asyncio.Server | None = None
        self.port = 0
        self.queue: deque[Connection] = deque()
        self.serving = 0
        self.forget()

    def forget(self) -> None:
        """Count from here."""
        self.asked: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.agents: Counter[str] = Counter()
        self.most_in_flight = self.cancelled = self.opened = self.taken = 0
        self.times: deque[float] = deque(maxlen=10_000)

    @property
    def in_flight(self) -> int:
        """Questions taken and not yet answered."""
        return self.serving + len(self.queue)

    def told(self) -> dict[str, Any]:
        """What GET /control says."""
        return {
            "behaviour": asdict(self.behaviour), "requests": self.taken, "answers": dict(self.answers),
            "in_flight": self.in_flight, "most_in_flight": self.most_in_flight, "cancelled": self.cancelled,
            "connections": len(self.connections), "opened": self.opened, "times": list(self.times),
            "agents": dict(self.agents), "cpu_s": time.process_time(),
        }  # fmt: skip

    async def control(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Take changes; raises ValueError for an unknown field or fault."""
        if changes.pop("drop", False):
            for connection in list(self.connections):
                connection.abort()
            while self.connections:
                await asyncio.sleep(0)
        if changes.pop("forget", False):
            self.forget()
        known = {one.name for one in fields(Behaviour)}
        if unknown := set(changes) - known:
            raise ValueError(f"unknown: {sorted(unknown)}; known: {sorted(known)}")
        named = {*changes.get("faults", ()), *changes.get("fail_first", ()), *changes.get("always", {}).values()}
        if unknown := named - set(FAULTS):
            raise ValueError(f"unknown faults: {sorted(unknown)}; known: {FAULTS}")
        for name, value in changes.items():
            setattr(self.behaviour, name, value)
        if "seed" in changes:
            self.random.seed(self.behaviour.seed)
        await self.listen()
        return self.told()

    async def listen(self) -> None:
        """Open or close the engine's port, as the behaviour says."""
        if self.behaviour.dead == "refuse" and self.server is not None:
            self.server.close()
            self.server = None
            for connection in list(self.connections):
                connection.abort()
        elif self.behaviour.dead != "refuse" and self.server is None:
            self.server = await self.loop.create_server(
                lambda: Connection(self), "127.0.0.1", self.port, backlog=4096, reuse_address=True
            )
            self.port = self.server.sockets[0].getsockname()[1]

    def service_time(self) -> float:
        """Seconds of one answer."""
        told = self.behaviour
        if not told.mean_s:
            return 0.0
        draw = self.random.lognormvariate(math.log(told.mean_s) - told.sigma**2 / 2, told.sigma)
        return draw * told.slow

    def fault(self, name: str, sampled_anew: bool) -> str:
        """The fault this request meets, or an empty string."""
        told = self.behaviour
        self.asked[name] += 1
        if told.dead:
            return told.dead
        if told.changed and not sampled_anew:
            return told.changed
        if name in told.always:
            return told.always[name]
        before = self.asked[name] - 1
        for kind, times in told.fail_first.items():
            if before < times:
                return kind
            before -= times
        if told.faults:
            drawn = self.random.random()
            for kind, share in told.faults.items():
                if drawn < share:
                    return kind
                drawn -= share
        return ""


class Connection(asyncio.Protocol):
    """One keep-alive connection; a question waits as a timer."""

    def __init__(self, engine: Engine, *, is_control: bool = False) -> None:
        self.engine = engine
        self.is_control = is_control
        self.chunks: list[bytes] = []
        self.received = 0
        self.needed = 0  # bytes of head and body, once the head is there
        self.head_end = 0
        self.head = b""
        self.timer: asyncio.TimerHandle | None = None
        self.is_served = False
        self.name = self.kind = ""
        self.delay_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        if not self.is_control:
            self.engine.connections.add(self)
            self.engine.opened += 1

    def connection_lost(self, error: Exception | None) -> None:
        self.engine.connections.discard(self)
        if self in self.engine.queue:
            self.engine.queue.remove(self)
            self.engine.cancelled += 1
        elif self.is_served:
            self.engine.cancelled += 1
            self._leave()

    def abort(self) -> None:
        """Reset."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.chunks.append(data)
        self.received += len(data)
        if not self.needed:
            whole = data if len(self.chunks) == 1 else b"".join(self.chunks)
            end = whole.find(b"\r\n\r\n")
            if end < 0:
                return
            self.head, self.head_end = whole[:end], end + 4
            self.needed = self.head_end + int(self._header(b"content-length") or b"0")
        if self.received < self.needed:
            return
        whole = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
        body = memoryview(whole)[self.head_end : self.needed]
        self.chunks, self.received, self.needed = [], 0, 0
        method, path = self.head.split(b"\r\n", 1)[0].split(b" ")[:2]
        self._request(method.decode(), path.decode(), body)

    def _header(self, name: bytes) -> bytes:
        at = self.head.lower().find(b"\r\n" + name + b":")
        return b"" if at < 0 else self.head[at + len(name) + 3 :].split(b"\r\n", 1)[0].strip()

    # --- what is asked -------------------------------------------------------------------------------------------

    def _request(self, method: str, path: str, body: memoryview) -> None:
        engine = self.engine
        if path == "/v1/chat/completions" and method == "POST":
            self._ask(body)
        elif path == "/control" and method == "POST":
            task = engine.loop.create_task(engine.control(orjson.loads(body)))
            task.add_done_callback(self._controlled)
        elif path == "/control":
            self._send(200, engine.told())
        elif path == "/counts":
            self._send(200, dict(engine.asked))
        elif path == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": "stub", "object": "model", "owned_by": "tests"}]})
        elif path == "/metrics" and engine.behaviour.metrics != "":
            served = f"vllm:num_requests_running {engine.serving}\nvllm:num_requests_waiting {len(engine.queue)}\n"
            text = served if engine.behaviour.metrics is None else engine.behaviour.metrics
            self._send(200, text.encode(), content_type="text/plain")
        else:
            self._send(404, {"error": {"message": f"nothing at {path}", "code": 404}})

    def _controlled(self, task: asyncio.Task[dict[str, Any]]) -> None:
        if task.exception() is not None:
            self._send(400, {"error": {"message": str(task.exception())}})
        else:
            self._send(200, task.result())

    def _ask(self, body: memoryview) -> None:
        engine, told = self.engine, self.engine.behaviour
        engine.taken += 1
        engine.times.append(time.time())
        if told.key and (bore := self._header(b"authorization")) != b"Bearer " + told.key.encode():
            self._send(401, {"error": {"message": f"wrong key: {bore.decode()}", "code": "invalid_api_key"}})
            return
        engine.agents[self._header(b"user-agent").decode()] += 1
        try:
            asked = orjson.loads(body)
            encoded, words = _read(asked["messages"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._send(400, {"error": {"message": f"not a question: {error}", "code": 400}})
            return
        self.name = _digest(encoded, words)
        self.kind = engine.fault(self.name, "seed" in asked)
        if told.limit and engine.in_flight >= told.limit:
            self.kind = "status_429"
        if self.kind == "reset":
            engine.answers["reset"] += 1
            self.abort()
        elif self.kind.startswith("status_") or self.kind in ("redirect", "error_body"):
            self._answer()  # a refusal is quick
        else:
            self.delay_s = engine.service_time()
            if told.capacity and engine.serving >= told.capacity:
                engine.queue.append(self)
            else:
                self._serve()
            engine.most_in_flight = max(engine.most_in_flight, engine.in_flight)

    def _serve(self) -> None:
        self.is_served = True
        self.engine.serving += 1
        if self.kind == "hang":
            self.engine.answers["hang"] += 1
        elif self.delay_s:
            self.timer = self.engine.loop.call_later(self.delay_s, self._finish)
        else:
            self._finish()

    def _finish(self) -> None:
        self._leave()
        self._answer()

    def _leave(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.is_served = False
        engine = self.engine
        engine.serving -= 1
        while engine.queue and engine.serving < (engine.behaviour.capacity or math.inf):
            engine.queue.popleft()._serve()

    # --- what is answered ----------------------------------------------------------------------------------------

    def _answer(self) -> None:
        kind, told = self.kind, self.engine.behaviour
        self.engine.answers[kind or "ok"] += 1
        if kind.startswith("status_"):
            status = int(kind.removeprefix("status_"))
            after = told.retry_after
            if after.startswith("date:"):
                after = formatdate(time.time() + float(after.removeprefix("date:")), usegmt=True)
            extra = f"Retry-After: {after}\r\n" if after and status in (429, 503) else ""
            self._send(status, {"error": {"message": f"told to answer {status}", "code": status}}, extra)
        elif kind == "redirect":
            self._send(307, b"", f"Location: http://127.0.0.1:{self.engine.port}/elsewhere\r\n")
        elif kind == "error_body":
            self._send(200, {"object": "error", "message": "out of memory", "code": 50000})
        elif kind == "no_choice":
            self._send(200, {"id": "stub", "object": "chat.completion", "choices": []})
        elif kind == "garbage":
            self._send(200, b"<html>gateway</html>", content_type="text/html")
        elif kind == "huge":
            self._send(200, self._completion("x " * 10_000_000, "stop"))
        else:
            text = {"empty": "", "looping": LOOP * 60}.get(kind, _told(self.name))
            body = orjson.dumps(self._completion(text, "length" if kind in ("cut", "looping") else "stop"))
            if kind == "truncated":
                self._send(200, body[: len(body) // 2])
            else:
                self._send(200, body)

    def _completion(self, text: str, finish: str) -> dict[str, Any]:
        told = self.engine.behaviour
        tokens = {"prompt_tokens": told.prompt_tokens, "completion_tokens": told.completion_tokens}
        message = {"role": "assistant", "content": text}
        return {
            "id": "stub", "object": "chat.completion", "created": 0, "model": "stub",
            "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
            "usage": {**tokens, "total_tokens": sum(tokens.values())} if told.usage else None,
        }  # fmt: skip

    def _send(self, status: int, body: Any, extra: str = "", content_type: str = "application/json") -> None:
        if self.transport.is_closing():
            return
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {content_type}\r\n{extra}"
        self.transport.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)


def _read(messages: list[dict[str, Any]]) -> tuple[list[bytes], list[str]]:
    """Encoded pictures and words of a request's messages."""
    encoded: list[bytes] = []
    words: list[str] = []
    for message in messages:
        content = message["content"]
        parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "text":
                words += part["text"].split()
            else:
                encoded.append(part["image_url"]["url"].partition(";base64,")[2].encode())
    return encoded, words


async def serve(port: int, control_port: int, changes: dict[str, Any], *, with_parent: bool) -> None:
    """Listen, say where, and serve until the process ends."""
    engine = Engine()
    engine.port = port
    control = await engine.loop.create_server(
        lambda: Connection(engine, is_control=True), "127.0.0.1", control_port, backlog=64
    )
    await engine.listen()
    await engine.control(changes)
    control_port = control.sockets[0].getsockname()[1]
    where = {"url": f"http://127.0.0.1:{engine.port}/v1", "control": f"http://127.0.0.1:{control_port}"}
    print(json.dumps(where), flush=True)
    ended = asyncio.Event()
    if with_parent:  # whoever started it holds the other end of stdin: when that ends, so does this
        engine.loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()


class Stub:
    """A stub running in its own process, as its user sees it: `url`, and `control` to change its behaviour."""

    def __init__(self, **behaviour: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--port", "0", "--with-parent", "--set", json.dumps(behaviour)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        where = json.loads(self.process.stdout.readline())
        self.url: str = where["url"]
        self._control: str = where["control"]

    def control(self, **changes: Any) -> dict[str, Any]:
        """Change its behaviour; returns what it tells (`requests`, `answers` by kind, `most_in_flight` …)."""
        request = urllib.request.Request(
            f"{self._control}/control",
            json.dumps(changes).encode() if changes else None,
            method="POST" if changes else "GET",
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            told: dict[str, Any] = json.loads(answer.read())
        return told

    def reset(self, **behaviour: Any) -> Stub:
        """As newly started."""
        self.control(**{**asdict(Behaviour()), **behaviour}, drop=True, forget=True)
        return self

    def counts(self) -> dict[str, int]:
        """How often each question was asked, by `digest`."""
        with urllib.request.urlopen(f"{self._control}/counts", timeout=30) as answer:
            counted: dict[str, int] = json.loads(answer.read())
        return counted

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Stub:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def stubs(number: int, **behaviour: Any) -> Iterator[list[Stub]]:
    """Several stubs at once."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Stub(**{"seed": index, **behaviour})) for index in range(number)]


def main() -> None:
    """Serve in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--set", default="{}", metavar="JSON", help="fields of Behaviour")
    parser.add_argument("--with-parent", action="store_true", help="end when stdin does")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(options.port, options.control_port, json.loads(options.set), with_parent=options.with_parent))


if __name__ == "__main__":
    main()
