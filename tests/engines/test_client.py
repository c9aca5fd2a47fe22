"""One endpoint over real HTTP: what comes back as a reply, what as which fault, and what the connection is used for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any

import orjson
import pytest

from sailctl.core.engines.client import Client, retry_after_s
from sailctl.core.engines.faults import Fault, Reply
from sailctl.core.engines.messages import Body, request
from sailctl.core.engines.secret import Secret
from sailctl.core.errors import UsageError
from tests.engines.helpers_pool import PROMPT, picture, question, shared
from tests.stub_engine import told

KEY = "sk-0123456789abcdef"


def body(number: int = 0) -> Body:
    return request(question(number), "stub")


def use(url: str, work: Callable[[Client], Awaitable[Any]], **options: Any) -> Any:
    async def run() -> Any:
        client = Client(url, **options)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


def fault_of(url: str, **options: Any) -> Fault:
    async def work(client: Client) -> Fault:
        with pytest.raises(Fault) as raised:
            await client.ask(body())
        return raised.value

    found: Fault = use(url, work, **options)
    return found


def test_a_reply() -> None:
    with shared() as stub:
        reply = use(stub.url, lambda client: client.ask(body(7)))
        assert stub.control()["agents"] == {"sailctl": 1}
    assert reply == Reply(told([picture(7)], PROMPT), "stop", 1000, 100)


@pytest.mark.parametrize(
    ("kind", "fault", "words"),
    [
        ("status_400", "status_4xx", "HTTP 400: told to answer 400"),
        ("status_401", "denied", "HTTP 401"),
        ("status_404", "denied", "HTTP 404"),
        ("status_413", "status_4xx", "HTTP 413"),
        ("status_429", "status_429", "HTTP 429"),
        ("status_500", "status_5xx", "HTTP 500"),
        ("status_503", "status_5xx", "HTTP 503"),
        ("redirect", "denied", "HTTP 307"),
        ("reset", "reset", "connection lost"),
        ("hang", "timeout", "no answer within 0.5 s"),
        ("truncated", "bad_json", '200, but no JSON: {"id":"stub"'),
        ("garbage", "bad_json", "200, but no JSON: <html>gateway</html>"),
        ("error_body", "no_choice", "200, but no choice: out of memory"),
        ("no_choice", "no_choice", "200, but no choice"),
        ("empty", "empty", "an answer without text, finish_reason stop"),
        ("looping", "looping", "repeats itself: …"),
        ("cut", "cut", "cut after 100 tokens"),
        ("huge", "too_large", "more than 8 MiB"),
    ],
)
def test_every_fault_has_its_kind_and_its_words(kind: str, fault: str, words: str) -> None:
    with shared(faults={kind: 1.0}) as stub:
        found = fault_of(stub.url, timeout_s=0.5)
    assert found.kind == fault and words in found.detail and len(found.detail) < 300
    assert (found.reply is not None) == (kind in ("empty", "looping", "cut"))


def test_nobody_there() -> None:
    with shared() as stub:
        stub.control(dead="refuse")
        found = fault_of(stub.url)
    assert found.kind == "connect" and "127.0.0.1" in found.detail
    assert fault_of("http://no-such-host.invalid").kind == "connect"


def test_a_key_goes_out_in_a_header_and_never_comes_back_in_words() -> None:
    with shared(key=KEY) as stub:
        assert use(stub.url, lambda client: client.ask(body()), key=Secret(KEY)).finish == "stop"
        denied = fault_of(stub.url, key=Secret("sk-another-key"))
        assert denied.detail == "HTTP 401: wrong key: Bearer [key]"
        assert "sk-another-key" not in repr(denied)
        assert fault_of(stub.url).detail == "HTTP 401: wrong key:"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"content": f"Bearer {KEY} " * 30, "finish": "stop"}, "looping"),
        ({"content": "", "finish": KEY}, "empty"),
        ({"content": "", "finish": "x" * 5000}, "empty"),
    ],
)
def test_an_unusable_answer_is_quoted_shortly_and_without_the_key(said: dict[str, str], kind: str) -> None:
    client = Client("http://host", key=Secret(KEY))
    choice = {"message": {"content": said["content"]}, "finish_reason": said["finish"]}
    with pytest.raises(Fault) as raised:
        client._parse(orjson.dumps({"choices": [choice]}))
    assert raised.value.kind == kind and KEY not in str(raised.value) and len(raised.value.detail) < 300


def test_a_key_in_an_address_is_not_quoted_when_the_server_speaks_no_http() -> None:
    async def run() -> Fault:
        async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"no such protocol\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(babble, "127.0.0.1", 0)
        client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1?token={KEY}")
        with pytest.raises(Fault) as raised:
            await client.ask(body())
        await client.close()
        server.close()
        return raised.value

    fault = asyncio.run(run())
    assert fault.kind in ("bad_json", "reset") and KEY not in str(fault)  # reset: it hung up while being written to


def test_connections_are_kept_and_sessions_are_renewed() -> None:
    async def work(client: Client) -> None:
        for number in range(20):
            await client.ask(body(number))

    with shared() as stub:
        use(stub.url, work)
        assert stub.control()["opened"] == 1
        use(stub.url, work, recycle_requests=5)
        assert stub.control()["opened"] == 1 + 4


def test_a_session_is_not_closed_under_those_who_still_use_it() -> None:
    async def work(client: Client) -> list[Reply]:
        return list(await asyncio.gather(*(client.ask(body(number)) for number in range(12))))

    with shared(mean_s=0.1, sigma=0.5) as stub:
        replies = use(stub.url, work, recycle_requests=1)
    assert [reply.text for reply in replies] == [told([picture(number)], PROMPT) for number in range(12)]


def test_metrics_are_read_without_the_key_and_may_be_missing() -> None:
    with shared(key=KEY) as stub:
        text = use(stub.url, lambda client: client.metrics(), key=Secret(KEY))
        assert "vllm:num_requests_running 0" in text
        stub.control(metrics="")
        assert use(stub.url, lambda client: client.metrics()) is None
        stub.control(dead="refuse")
        assert use(stub.url, lambda client: client.metrics()) is None


@pytest.mark.parametrize(
    ("url", "name", "asked", "metrics"),
    [
        ("http://host:81/v1/", "http://host:81/v1", "http://host:81/v1/chat/completions", "http://host:81/metrics"),
        ("http://host:8000", "http://host:8000", "http://host:8000/v1/chat/completions", "http://host:8000/metrics"),
        (
            "https://me:secret@host/api/v1?api-version=3&token=secret",
            "https://host/api/v1",
            "https://me:secret@host/api/v1/chat/completions?api-version=3&token=secret",
            "https://me:secret@host/api/metrics",
        ),
        (
            "https://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=1",
            "https://r.openai.azure.com/openai/deployments/d",
            "https://r.openai.azure.com/openai/deployments/d/chat/completions?api-version=1",
            "https://r.openai.azure.com/openai/deployments/d/metrics",
        ),
    ],
)
def test_addresses(url: str, name: str, asked: str, metrics: str) -> None:
    client = Client(url)
    assert (client.name, str(client.url), client.metrics_url) == (name, asked, metrics)


@pytest.mark.parametrize("url", ["host:8000", "ftp://host", "http://", "http://host:no", "", "http://me:secret@:80"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="not an address; give http://HOST:PORT") as refused:
        Client(url)
    assert "secret" not in str(refused.value)


def test_retry_after_in_seconds_or_as_a_date() -> None:
    assert retry_after_s("2") == 2.0 and retry_after_s("0.5") == 0.5 and retry_after_s("-3") == 0.0
    assert retry_after_s(formatdate(time.time() + 100, usegmt=True)) == pytest.approx(100, abs=5)
    assert retry_after_s(formatdate(time.time() - 100, usegmt=True)) == 0.0
    assert retry_after_s("soon") is None and retry_after_s(None) is None and retry_after_s("nan") is None


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (b'{"choices":[{"message":{"content":[{"type":"text","text":"in "},{"text":"parts"}]}}]}', "in parts"),
        (b'{"choices":[{"message":{"content":"x"},"finish_reason":null}],"usage":{"prompt_tokens":"many"}}', "x"),
        (b'{"choices":[{"message":{"content":"x"},"finish_reason":"content_filter"}]}', "filtered"),
        (b'{"choices":[{"message":{"content":null},"finish_reason":"stop"}]}', "empty"),
        (b'{"choices":[{"message":{"content":7}}]}', "no_choice"),
        (b'{"choices":[{"message":null}]}', "no_choice"),
        (b'{"choices":[null]}', "no_choice"),
        (b'{"choices":{}}', "no_choice"),
        (b"[]", "no_choice"),
        (b'"error"', "no_choice"),
        (b"", "bad_json"),
        (b"\xff\xfe", "bad_json"),
    ],
)
def test_answers_of_all_shapes(said: bytes, found: str) -> None:
    client = Client("http://host")
    try:
        assert client._parse(said).text == found
    except Fault as fault:
        assert fault.kind == found
