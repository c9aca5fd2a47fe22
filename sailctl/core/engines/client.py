"""One OpenAI-compatible endpoint over aiohttp: a body goes out, a reply or a fault comes back. No retries here."""

from __future__ import annotations

import asyncio
import math
import os
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import orjson

from sailctl.core.engines.faults import DENIED, Fault, Reply
from sailctl.core.engines.messages import Body
from sailctl.core.engines.quality import is_looping
from sailctl.core.engines.secret import Secret
from sailctl.core.errors import UsageError

CONNECT_S = 10.0
KEEP_ALIVE_S = 4.0  # uvicorn, under most servers, hangs up after five idle seconds: be first, or lose a request to it
BODY_IDLE_S = 60.0  # between two pieces of an answer that has begun
MAX_ANSWER = 8 << 20
RECYCLE_REQUESTS = 50_000
RECYCLE_S = 900.0
QUOTED = 200  # characters of a server's own words in an error
DNS_TTL_S = 60


class _Upload(aiohttp.Payload):
    """A body that is made whole as it is written, and let go when it is."""

    _autoclose = True

    def __init__(self, body: Body) -> None:
        super().__init__(body, content_type="application/json")
        self._size = body.size

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._value.pieces()).decode(encoding, errors)

    async def write(self, writer: Any) -> None:
        for piece in self._value.pieces():
            await writer.write(piece)

    async def write_with_length(self, writer: Any, content_length: int | None) -> None:
        await self.write(writer)


class _Session:
    """A session and how much it was used."""

    __slots__ = ("began", "in_flight", "session", "used")

    def __init__(self, session: aiohttp.ClientSession, now: float) -> None:
        self.session = session
        self.began = now
        self.used = 0
        self.in_flight = 0


class Client:
    """Asks one endpoint. `name` is its address without what may be secret in it.

    `url` is a base like http://host:port, with or without /v1, or the whole address of a chat/completions call.
    Raises UsageError for an address that is none.
    """

    def __init__(
        self,
        url: str,
        *,
        key: Secret | None = None,
        timeout_s: float = 300.0,
        accept_cut: bool = False,
        accept_all: bool = False,
        recycle_requests: int = RECYCLE_REQUESTS,
        recycle_s: float = RECYCLE_S,
    ) -> None:
        self.name, self.url, self.metrics_url = _addresses(url)
        self._key = key
        self._accept_cut, self._accept_all = accept_cut, accept_all
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S)
        self._timeout_s = timeout_s
        self._recycle_requests, self._recycle_s = recycle_requests, recycle_s
        self._current: _Session | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._headers = {"User-Agent": "sailctl", "Accept": "application/json", "Accept-Encoding": "identity"}

    async def ask(self, body: Body) -> Reply:
        """Send a body. Raises Fault."""
        held = self._session()
        held.used += 1
        held.in_flight += 1
        try:
            async with held.session.post(self.url, data=_Upload(body), allow_redirects=False) as response:
                raw = await _read(response)
                if response.status != 200:
                    raise self._refused(response, raw)
            return self._parse(raw)
        except Fault:
            raise
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise self._broken(error) from None
        finally:
            held.in_flight -= 1
            if held is not self._current and not held.in_flight:
                self._retire(held)

    async def metrics(self) -> str | None:
        """The text of the server's /metrics; None where there is none. The key is not sent."""
        held = self._session()
        limit = aiohttp.ClientTimeout(total=5)
        skip = ("Authorization", "api-key")
        headers = {name: value for name, value in self._headers.items() if name not in skip}
        try:
            async with (
                aiohttp.ClientSession(
                    connector=held.session.connector, connector_owner=False, timeout=limit
                ) as session,
                session.get(self.metrics_url, headers=headers, allow_redirects=False) as response,
            ):
                raw = await _read(response)
                return raw.decode("utf-8", "replace") if response.status == 200 else None
        except (TimeoutError, aiohttp.ClientError, OSError, Fault):
            return None

    async def close(self) -> None:
        """Close all connections."""
        if self._current is not None:
            self._retire(self._current)
            self._current = None
        await asyncio.gather(*self._closing)

    def _session(self) -> _Session:
        """The session in use; one that has done its share is left to those still on it."""
        now = time.monotonic()
        held = self._current
        if held is not None and held.used < self._recycle_requests and now - held.began < self._recycle_s:
            return held
        headers = dict(self._headers)
        if self._key is not None:
            headers |= self._key.header(self.url.host or "")
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=DNS_TTL_S, keepalive_timeout=KEEP_ALIVE_S)
        session = aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # nothing compressed was asked for, and a bomb would be
            read_bufsize=1 << 18,
        )
        self._current = _Session(session, now)
        if held is not None and not held.in_flight:
            self._retire(held)
        return self._current

    def _retire(self, held: _Session) -> None:
        task = asyncio.get_running_loop().create_task(held.session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    # --- what came back ------------------------------------------------------------------------------------------

    def _parse(self, raw: bytes) -> Reply:
        try:
            said = orjson.loads(raw)
        except ValueError:
            raise Fault("bad_json", f"200, but no JSON: {self._quote(raw)}") from None
        try:
            choice = said["choices"][0]
            finish = choice.get("finish_reason") or "stop"
            text = choice["message"].get("content")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise Fault("no_choice", f"200, but no choice: {self._quote(raw)}") from None
        if isinstance(text, list):  # some servers answer in parts
            text = "".join(str(part.get("text") or "") for part in text if isinstance(part, dict))
        elif text is None:
            text = ""
        elif not isinstance(text, str):
            raise Fault("no_choice", f"200, but the answer is no text: {self._quote(raw)}")
        usage = said.get("usage")
        prompt, completion = (_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
        reply = Reply(text, str(finish), prompt, completion)
        if finish == "content_filter":
            raise Fault("filtered", "the server's content filter kept the answer", reply=reply)
        if self._accept_all:
            return reply
        if not text.strip():
            raise Fault("empty", f"an answer without text, finish_reason {self._shorten(str(finish))}", reply=reply)
        if is_looping(text):
            raise Fault("looping", f"repeats itself: …{self._scrub(text)[-80:]!r}", reply=reply)
        if finish == "length" and not self._accept_cut:
            raise Fault("cut", f"cut after {completion} tokens, {len(text)} characters", reply=reply)
        return reply

    def _refused(self, response: aiohttp.ClientResponse, raw: bytes) -> Fault:
        status = response.status
        detail = f"HTTP {status}: {self._quote(raw)}"
        after = retry_after_s(response.headers.get("Retry-After"))
        if status in DENIED or 300 <= status < 400:
            return Fault("denied", detail, status=status)
        if status == 408:
            return Fault("timeout", detail, status=status, retry_after_s=after)
        if status in (409, 425, 429):
            return Fault("status_429", detail, status=status, retry_after_s=after)
        if 400 <= status < 500:
            return Fault("status_4xx", detail, status=status)
        return Fault("status_5xx", detail, status=status, retry_after_s=after)

    def _broken(self, error: BaseException) -> Fault:
        """A fault of the transport; its words are the library's and the system's, never the body's."""
        if isinstance(error, aiohttp.ClientResponseError):  # its text ends with the address, which may hold a key
            return Fault("bad_json", f"no HTTP: {self._shorten(error.message)}")
        words = self._shorten(str(error) or type(error).__name__)
        if isinstance(error, aiohttp.ClientConnectorError):  # its own text tells of TLS where there is none
            failed = error.os_error
            code = failed.errno or 0  # those of name servers are below 0
            reason = os.strerror(code) if code > 0 else failed.strerror or str(failed)
            return Fault("connect", self._shorten(f"cannot connect to {error.host}:{error.port}: {reason}"))
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return Fault("connect", words)
        if isinstance(error, TimeoutError):
            return Fault("timeout", f"no answer within {self._timeout_s:g} s")
        return Fault("reset", f"connection lost: {words}")

    def _quote(self, raw: bytes) -> str:
        """A server's own words: its error message where it has one, without the key, shortened."""
        text = raw[:65536].decode("utf-8", "replace")
        try:
            said = orjson.loads(raw)
            error = said.get("error") or said
            message = error if isinstance(error, str) else error.get("message") or said.get("detail")
            text = message if isinstance(message, str) else text
        except (ValueError, AttributeError):
            pass
        return self._shorten(text)

    def _shorten(self, text: str) -> str:
        """Somebody else's words in one line, without the key: taken out before anything is cut, or half would stay."""
        text = " ".join(self._scrub(text).split())
        return text if len(text) <= QUOTED else text[:QUOTED] + "…"

    def _scrub(self, text: str) -> str:
        return text if self._key is None else self._key.scrub(text)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The body, up to a limit: an answer is text, and a server gone mad must not fill the memory."""
    length = response.content_length
    if length is not None and length <= MAX_ANSWER:
        return await response.read()
    if length is None:
        read = bytearray()
        while piece := await asyncio.wait_for(response.content.readany(), BODY_IDLE_S):
            read += piece
            if len(read) > MAX_ANSWER:
                break
        else:
            return bytes(read)
    response.close()
    raise Fault("too_large", f"an answer of more than {MAX_ANSWER >> 20} MiB", status=response.status)


def _count(usage: Any, name: str) -> int:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and count >= 0 else 0


def retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header: a number, or an HTTP date; None for neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _addresses(url: str) -> tuple[str, Any, str]:
    """Name, address of chat/completions, and address of the metrics of an endpoint."""
    from yarl import URL

    parts = urlsplit(url)
    try:
        bad = parts.scheme not in ("http", "https") or not parts.hostname or (parts.port or 1) < 1
    except ValueError:
        bad = True
    shown = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
    if bad:
        raise UsageError(f"endpoint {shown}: not an address; give http://HOST:PORT or http://HOST:PORT/v1")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    whole = urlunsplit((parts.scheme, parts.netloc, f"{path or '/v1'}/chat/completions", parts.query, ""))
    metrics = urlunsplit((parts.scheme, parts.netloc, path.removesuffix("/v1") + "/metrics", "", ""))
    return shown.removesuffix("/chat/completions"), URL(whole), metrics
