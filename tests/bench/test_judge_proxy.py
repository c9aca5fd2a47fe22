"""The judge's proxy over real HTTP: the protocol, the cache, the key, and judges that fail."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sailctl.core.bench.judge_proxy import JUDGE_OPTIONS, JudgeProxy
from sailctl.core.engines.pool import HttpPool
from sailctl.core.engines.secret import Secret
from sailctl.core.errors import UsageError
from tests.bench.kit_tables import picture
from tests.bench.stub_judge import KEY, StubJudge


@contextmanager
def judging(stub: StubJudge, cache: Path, **options: Any) -> Iterator[JudgeProxy]:
    pool = HttpPool([stub.url], "pinned-1", api_key=Secret(KEY), options=replace(JUDGE_OPTIONS, **options))
    with JudgeProxy(pool, cache) as proxy:
        yield proxy


def call(proxy: JudgeProxy, content: Any, *, key: str | None = None, **changes: Any) -> tuple[int, str]:
    """Status and text of a call as VLMEvalKit makes it."""
    body = {"model": "judge", "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 9}
    request = urllib.request.Request(
        proxy.url,
        json.dumps(body | changes).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {proxy.key if key is None else key}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read())["choices"][0]["message"]["content"]
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]["message"]


def test_asks_once_and_keeps_the_answer(tmp_path: Path) -> None:
    with StubJudge() as stub:
        with judging(stub, tmp_path / "judge.jsonl") as proxy:
            assert call(proxy, "one judge=0.7") == (200, "0.7")
            assert call(proxy, "one judge=0.7") == (200, "0.7")
            assert proxy.counts() == {"asked": 1, "cached": 1, "failed": 0, "unparsed": 0}
        with judging(stub, tmp_path / "judge.jsonl") as proxy:
            assert call(proxy, "one judge=0.7") == (200, "0.7")
            assert call(proxy, "one judge=0.7", temperature=0.5) == (200, "0.7")  # other parameters, another question
            assert call(proxy, "one judge=0.7", max_tokens=10) == (200, "0.7")
            assert proxy.counts() == {"asked": 2, "cached": 1, "failed": 0, "unparsed": 0}
        assert sum(stub.asked.values()) == 3
        assert stub.models == {"pinned-1"} and stub.wrong_keys == 0


def test_the_key_stays_here(tmp_path: Path) -> None:
    with StubJudge() as stub, judging(stub, tmp_path / "judge.jsonl") as proxy:
        assert proxy.url.startswith("http://127.0.0.1:") and KEY not in proxy.key
        assert call(proxy, "hello", key="guessed")[0] == 401
        assert call(proxy, "hello", key=KEY)[0] == 401
        assert not stub.asked
        call(proxy, "hello")
    assert KEY not in (tmp_path / "judge.jsonl").read_text()


def test_equal_questions_at_once_are_one(tmp_path: Path) -> None:
    told: list[tuple[int, str]] = []
    with StubJudge(faults=True) as stub, judging(stub, tmp_path / "judge.jsonl") as proxy:
        threads = [threading.Thread(target=lambda: told.append(call(proxy, "judge=yes"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told == [(200, "yes")] * 8
        assert proxy.counts()["asked"] == 1 and sum(stub.answered.values()) == 1


def test_pictures_and_their_word_pass(tmp_path: Path) -> None:
    shown = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture()}", "detail": "low"}}
    with StubJudge() as stub, judging(stub, tmp_path / "judge.jsonl") as proxy:
        assert call(proxy, [{"type": "text", "text": "which?"}, shown])[0] == 200
        (asked,) = stub.asked
        parts = json.loads(asked)[0]
        assert [part["type"] for part in parts] == ["text", "image_url"]
        assert parts[1]["image_url"]["url"].endswith(picture())
        assert call(proxy, "an answer that says <image> judge=0.1") == (200, "0.1")


@pytest.mark.parametrize(
    "content", [None, 7, [{"type": "video_url"}], [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]]
)
def test_what_is_no_question(content: Any, tmp_path: Path) -> None:
    with StubJudge() as stub, judging(stub, tmp_path / "judge.jsonl") as proxy:
        status, message = call(proxy, content)
        assert status == 400 and "not a question" in message
        assert call(proxy, "still there judge=1") == (200, "1")


def test_a_question_given_up_is_not_asked_again_nor_kept(tmp_path: Path) -> None:
    with StubJudge() as stub:
        with judging(stub, tmp_path / "judge.jsonl", attempts=2) as proxy:
            assert call(proxy, "fine judge=1") == (200, "1")
            status, message = call(proxy, "judge=dead")
            assert status == 502 and "500" in message
            before = sum(stub.asked.values())
            assert call(proxy, "judge=dead", temperature=1.0)[0] == 502
            assert sum(stub.asked.values()) == before
            assert proxy.counts()["failed"] == 1 and proxy.stopped is None
        assert "dead" not in (tmp_path / "judge.jsonl").read_text()


def test_a_judge_that_is_not_there_stops_the_proxy(tmp_path: Path) -> None:
    with StubJudge() as stub:
        url = stub.url
    pool = HttpPool([url], "pinned-1", options=replace(JUDGE_OPTIONS, patience_s=0.5, attempts=50))
    with JudgeProxy(pool, tmp_path / "judge.jsonl") as proxy:
        assert call(proxy, "judge=1")[0] == 502
        assert call(proxy, "judge=2")[0] == 502
        assert "no endpoint in order" in str(proxy.stopped)


def test_one_process_has_the_cache(tmp_path: Path) -> None:
    with StubJudge() as stub, judging(stub, tmp_path / "judge.jsonl"):
        pool = HttpPool([stub.url], "pinned-1")
        with (
            pytest.raises(UsageError, match=r"judge\.jsonl: another process"),
            JudgeProxy(pool, tmp_path / "judge.jsonl"),
        ):
            pass
