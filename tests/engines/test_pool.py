"""The pool against stub servers in their own processes: every fault, dead and slow endpoints, budgets, hedges, keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import pytest

from sailctl.core.engines import pool as pool_module
from sailctl.core.engines.ask import Answer, Ask, Failed, Outcome
from sailctl.core.engines.dispatch import Dispatch
from sailctl.core.engines.faults import Fault
from sailctl.core.engines.jobs import Job
from sailctl.core.engines.pool import HttpPool, PoolOptions, PoolStopped
from sailctl.core.errors import UsageError
from sailctl.core.records import Turn
from tests.engines.helpers_pool import answer_all, check_answers, picture, question, questions, shared
from tests.stub_engine import Stub, digest, stubs

KEY = "sk-0123456789abcdef-never-to-be-seen"


def test_every_question_gets_its_own_answer() -> None:
    with shared() as stub:
        outcomes, snapshot = answer_all([stub.url], 300, in_flight=32)
        assert len(outcomes) == 300 and not check_answers(outcomes)
        assert set(stub.counts().values()) == {1}
    first = outcomes["0"]
    assert isinstance(first, Answer)
    assert (first.finish, first.prompt_tokens, first.completion_tokens, first.attempts) == ("stop", 1000, 100, 1)
    assert first.endpoint == stub.url and first.seconds > 0
    assert (snapshot.done, snapshot.failed, snapshot.requests, snapshot.in_flight) == (300, 0, 300, 0)
    assert (snapshot.prompt_tokens, snapshot.completion_tokens) == (300_000, 30_000)
    assert snapshot.endpoints[stub.url].ok == 300 and snapshot.endpoints[stub.url].state == "closed"
    assert asdict(snapshot)["endpoints"][stub.url]["errors"] == {}


def test_all_faults_at_once_leave_no_question_without_an_outcome() -> None:
    kinds = ["status_429", "status_500", "reset", "hang", "truncated", "error_body", "empty", "looping", "cut"]
    faults = dict.fromkeys(kinds, 0.05)
    with stubs(2, mean_s=0.02, sigma=0.5, faults=faults, retry_after="0.1") as servers:
        outcomes, snapshot = answer_all([stub.url for stub in servers], 500, in_flight=64, timeout_s=1.0, attempts=4)
        met = {kind for stub in servers for kind in stub.control()["answers"]}
    assert met >= {*kinds, "ok"}
    assert len(outcomes) == 500
    given_up = check_answers(outcomes)
    assert len(given_up) < 60  # 0.45 to the fourth is a twenty-fifth
    for failed in given_up:
        assert failed.attempts == 4 and failed.detail
        assert failed.reason in {
            "status_429", "status_5xx", "reset", "timeout", "bad_json", "no_choice", "empty", "looping", "cut",
        }  # fmt: skip
    seen = {kind for endpoint in snapshot.endpoints.values() for kind in endpoint.errors}
    assert seen >= {"status_429", "status_5xx", "reset", "bad_json", "no_choice", "empty", "looping", "cut"}
    assert snapshot.retries > 0


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("status_429", "status_429"),
        ("status_500", "status_5xx"),
        ("status_503", "status_5xx"),
        ("reset", "reset"),
        ("truncated", "bad_json"),
        ("garbage", "bad_json"),
        ("error_body", "no_choice"),
        ("no_choice", "no_choice"),
        ("empty", "empty"),
        ("looping", "looping"),
        ("cut", "cut"),
        ("huge", "too_large"),
    ],
)
def test_a_question_that_always_fails_is_given_up_with_its_reason(kind: str, reason: str) -> None:
    poison = digest([picture(3)], "Describe the image.")
    with shared(always={poison: kind}) as stub:
        outcomes, _ = answer_all([stub.url], 6, attempts=3, in_flight=4)
        assert stub.counts()[poison] == 3
    assert [failed.key for failed in check_answers(outcomes)] == ["3"]
    failed = outcomes["3"]
    assert isinstance(failed, Failed) and (failed.reason, failed.attempts) == (reason, 3)


@pytest.mark.parametrize("kind", ["status_400", "status_413"])
def test_a_refused_question_is_asked_once_more_elsewhere_and_then_given_up(kind: str) -> None:
    poison = digest([picture(1)], "Describe the image.")
    with stubs(3, always={poison: kind}) as servers:
        outcomes, _ = answer_all([stub.url for stub in servers], 4, in_flight=4)
        assert sorted(stub.counts().get(poison, 0) for stub in servers) == [0, 1, 1]
        alone, _ = answer_all([servers[0].url], 4, in_flight=4)
    for failed, attempts in ((outcomes["1"], 2), (alone["1"], 1)):
        assert isinstance(failed, Failed)
        assert (failed.reason, failed.attempts) == ("status_4xx", attempts)
        assert f"HTTP {kind[-3:]}" in failed.detail
    assert len(check_answers(outcomes)) == 1


def test_a_question_whose_placeholders_do_not_fit_is_not_sent() -> None:
    async def asks() -> AsyncIterator[Ask]:
        yield Ask("bad", (Turn("user", "<image><image> compare"),), (picture(0),))
        yield question(1)

    with shared() as stub:
        outcomes, _ = answer_all([stub.url], asks())
        assert len(stub.counts()) == 1
    assert isinstance(outcomes["bad"], Failed) and outcomes["bad"].reason == "placeholder_mismatch"
    assert isinstance(outcomes["1"], Answer)


@pytest.mark.parametrize("kind", ["looping", "cut", "empty"])
def test_an_unusable_answer_is_asked_for_again_with_other_sampling(kind: str) -> None:
    with shared(changed=kind) as stub:  # meets every question asked without a seed
        outcomes, snapshot = answer_all([stub.url], 5)
    assert not check_answers(outcomes)
    assert all(outcome.attempts == 2 for outcome in outcomes.values())
    assert snapshot.endpoints[stub.url].errors == {kind: 5}
    assert snapshot.completion_tokens == 1000  # the unusable ones are paid for too


def test_a_cut_answer_is_taken_where_it_may_be() -> None:
    with shared(faults={"cut": 1.0}) as stub:
        outcomes, _ = answer_all([stub.url], 3, accept_cut=True)
    assert not check_answers(outcomes)
    assert {outcome.finish for outcome in outcomes.values() if isinstance(outcome, Answer)} == {"length"}


@pytest.mark.parametrize("after", ["1", "date:2"])
def test_retry_after_is_waited_for_and_holds_no_slot(after: str) -> None:
    names = {number: digest([picture(number)], "Describe the image.") for number in range(2)}
    with shared(fail_first={"status_429": 1}, retry_after=after) as stub:
        # with one slot the second question is sent while the first one waits
        outcomes, _ = answer_all([stub.url], 2, in_flight=1)
        times = stub.control()["times"]
        assert stub.counts() == dict.fromkeys(names.values(), 2)
    assert not check_answers(outcomes)
    assert times[1] - times[0] < 0.9
    assert min(times[2] - times[0], times[3] - times[1]) >= 0.99


def test_questions_are_drawn_no_faster_than_they_are_sent() -> None:
    async def run(url: str) -> None:
        drawn = done = 0

        async def asks() -> AsyncIterator[Ask]:
            nonlocal drawn
            for number in range(200):
                drawn += 1
                assert drawn - done <= 16 + 1, "more in hand than slots"
                yield question(number)

        pool = HttpPool([url], "stub", options=PoolOptions(in_flight=8))
        async for _ in pool.run(asks()):
            done += 1
        assert done == 200
        await pool.close()

    with shared(mean_s=0.01) as stub:
        asyncio.run(run(stub.url))
        assert stub.control()["most_in_flight"] == 8


def test_a_reader_that_dawdles_stops_the_drawing() -> None:
    async def run(url: str) -> int:
        pool = HttpPool([url], "stub", options=PoolOptions(in_flight=8))
        outcomes = pool.run(questions(1_000_000))
        await anext(outcomes)
        await asyncio.sleep(0.5)  # nobody reads meanwhile
        requests = pool.snapshot().requests
        await outcomes.aclose()  # type: ignore[attr-defined]
        assert pool.snapshot().in_flight == 0
        await pool.close()
        return requests

    with shared() as stub:
        assert asyncio.run(run(stub.url)) <= 24


def test_who_leaves_early_cancels_what_is_in_flight() -> None:
    async def run(stub: Stub) -> None:
        pool = HttpPool([stub.url], "stub", options=PoolOptions(in_flight=16))
        async for _ in pool.run(questions(16)):
            break
        await pool.close()
        assert pool.snapshot().in_flight == 0
        for _ in range(500):  # what was cancelled reaches the stub in its own time
            if stub.control()["cancelled"] == 15:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(stub.control())

    hung = {digest([picture(number)], "Describe the image."): "hang" for number in range(1, 16)}
    with shared(always=hung) as stub:
        asyncio.run(run(stub))


def test_a_pool_runs_again_but_once_at_a_time() -> None:
    async def run(url: str) -> None:
        pool = HttpPool([url], "stub")
        for count in (3, 0, 5):
            assert len([outcome async for outcome in pool.run(questions(count))]) == count
        first = pool.run(questions(3))
        await anext(first)
        with pytest.raises(RuntimeError, match="running already"):
            await anext(pool.run(questions(3)))
        assert len([outcome async for outcome in first]) == 2
        await pool.close()

    with shared() as stub:
        asyncio.run(run(stub.url))


def test_an_error_of_the_asker_is_raised_after_what_was_answered() -> None:
    async def asks() -> AsyncIterator[Ask]:
        yield question(0)
        await asyncio.sleep(0.3)
        raise OSError("shard gone")

    async def run(url: str) -> list[Outcome]:
        pool, seen = HttpPool([url], "stub"), []
        with pytest.raises(OSError, match="shard gone"):
            async for outcome in pool.run(asks()):
                seen.append(outcome)
        await pool.close()
        return seen

    with shared() as stub:
        assert len(asyncio.run(run(stub.url))) == 1


# --- endpoints that fail --------------------------------------------------------------------------------------------


async def use_until_well(
    urls: list[str], sick: Stub, *, asked: int, options: PoolOptions
) -> tuple[dict[str, int], HttpPool]:
    """Run until `asked` answers came, mend the sick server, and go on until it has answered 20 questions."""
    pool = HttpPool(urls, "stub", options=options)
    by_endpoint: dict[str, int] = dict.fromkeys(urls, 0)
    total, later = 0, 0
    async for outcome in pool.run(questions(1_000_000)):
        assert isinstance(outcome, Answer), outcome
        total += 1
        if total <= asked:
            by_endpoint[outcome.endpoint] += 1
        if total == asked:
            sick.control(dead="", slow=1.0, faults={})
        elif total > asked and outcome.endpoint == sick.url:
            later += 1
            if later == 20:
                break
    assert later == 20
    await pool.close()
    return by_endpoint, pool


@pytest.mark.parametrize(
    "change",
    [{"dead": "refuse"}, {"dead": "status_500"}, {"dead": "hang"}, {"slow": 20.0}, {"faults": {"looping": 1.0}}],
)
def test_a_sick_endpoint_gets_little_and_is_used_again_when_it_is_well(change: dict[str, Any]) -> None:
    with stubs(4, mean_s=0.05, sigma=0.3, capacity=16) as servers:
        servers[3].control(**change)
        urls = [stub.url for stub in servers]
        options = PoolOptions(in_flight=64, timeout_s=3.0)
        by_endpoint, pool = asyncio.run(use_until_well(urls, servers[3], asked=1500, options=options))
        assert by_endpoint[servers[3].url] < 100
        assert min(by_endpoint[url] for url in urls[:3]) > 200
        if "dead" in change and change["dead"] != "hang":
            assert servers[3].control()["requests"] < 1500  # it is not hammered
            assert pool.endpoints[3].errors


def test_when_all_endpoints_are_dead_the_pool_stops_and_what_was_answered_is_kept() -> None:
    async def run(stub: Stub) -> list[Outcome]:
        pool = HttpPool([stub.url], "stub", options=PoolOptions(in_flight=4, patience_s=1.0))
        seen: list[Outcome] = []
        with pytest.raises(PoolStopped, match=r"no endpoint in order for .*connect") as stopped:
            async for outcome in pool.run(questions(1000)):
                seen.append(outcome)
                if len(seen) == 20:
                    stub.control(dead="refuse")
        assert stub.url in str(stopped.value)
        assert pool.snapshot().endpoints[stub.url].state in ("open", "probing")
        await pool.close()
        return seen

    with shared(mean_s=0.01) as stub:
        seen = asyncio.run(run(stub))
    assert 20 <= len(seen) <= 30 and all(isinstance(outcome, Answer) for outcome in seen)


def test_where_nobody_was_ever_reached_it_stops_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "UNREACHED_PATIENCE_S", 0.2)
    wrong = ["http://127.0.0.1:9", "http://nowhere.invalid:1"]
    with pytest.raises(PoolStopped, match=r"cannot connect to 127.0.0.1:9: Connection refused") as stopped:
        answer_all(wrong, 5)
    assert "cannot connect to nowhere.invalid:1: " in str(stopped.value) and "ssl" not in str(stopped.value)


def test_a_restart_of_the_only_endpoint_is_outlived() -> None:
    async def run(stub: Stub) -> list[Outcome]:
        pool = HttpPool([stub.url], "stub", options=PoolOptions(in_flight=8))
        seen: list[Outcome] = []
        loop = asyncio.get_running_loop()
        async for outcome in pool.run(questions(300)):
            seen.append(outcome)
            if len(seen) == 50:
                stub.control(dead="refuse")
                loop.call_later(1.0, lambda: stub.control(dead=""))
        await pool.close()
        return seen

    with shared(mean_s=0.01) as stub:
        seen = asyncio.run(run(stub))
    assert len(seen) == 300 and all(isinstance(outcome, Answer) for outcome in seen)


def test_a_full_server_is_kept_full_and_not_flooded() -> None:
    with shared(mean_s=0.05, sigma=0.3, limit=12) as stub:
        outcomes, snapshot = answer_all([stub.url], 600, in_flight=128)
        assert not check_answers(outcomes)
        assert stub.control()["answers"]["status_429"] < 200
    assert snapshot.endpoints[stub.url].limit < 32


def test_laggards_are_hedged_elsewhere_and_hung_up_on() -> None:
    with stubs(2, mean_s=0.05, sigma=0.2) as servers:
        hung = [str(number) for number in range(150, 162)]  # at one of two endpoints
        servers[0].control(always={digest([picture(int(key))], "Describe the image."): "hang" for key in hung})
        outcomes, snapshot = answer_all([stub.url for stub in servers], 400, in_flight=16, timeout_s=60)
        cancelled = servers[0].control()["cancelled"]
    assert not check_answers(outcomes)
    twice = [outcome for key in hung if (outcome := outcomes[key]).attempts == 2]
    assert twice, "none of twelve met the endpoint where it hangs"
    for outcome in twice:
        assert isinstance(outcome, Answer) and outcome.endpoint == servers[1].url and outcome.seconds < 10
    assert len(twice) <= snapshot.hedges <= 20 and cancelled >= len(twice)


def test_without_hedges_a_hung_request_runs_into_its_timeout() -> None:
    with shared(fail_first={"hang": 1}) as stub:
        outcomes, snapshot = answer_all([stub.url], 2, timeout_s=0.5, hedge=False, price_in=1e6)
    assert not check_answers(outcomes)
    assert snapshot.prompt_tokens == 2000 and snapshot.cost > 3000, "the two that never came may be on the bill"
    assert snapshot.endpoints[stub.url].errors == {"timeout": 2} and snapshot.hedges == 0


# --- budgets --------------------------------------------------------------------------------------------------------


def test_the_spending_cap_stops_before_it_is_passed() -> None:
    async def run(url: str) -> tuple[int, float]:
        options = PoolOptions(in_flight=16, max_cost=0.05, price_in=1.0, price_out=2.0)
        pool, answered = HttpPool([url], "stub", options=options), 0
        with pytest.raises(PoolStopped, match=r"spending cap reached: 0\.0492 of 0\.05"):
            async for outcome in pool.run(questions(1000)):
                assert isinstance(outcome, Answer)
                answered += 1
        await pool.close()
        return answered, pool.snapshot().cost

    with shared(mean_s=0.01) as stub:  # 1000 tokens in and 100 out: 0.0012 a question
        answered, cost = asyncio.run(run(stub.url))
        assert stub.control()["requests"] == answered == 41
    assert cost == pytest.approx(0.0492)


def test_rates_are_kept() -> None:
    with shared() as stub:
        answer_all([stub.url], 30, requests_per_minute=1200)  # twenty at once, then 20 a second
        times = stub.control()["times"]
        assert len(times) == 30 and times[-1] - times[0] >= 0.4
        stub.control(forget=True)
        answer_all([stub.url], 30, in_flight=2, tokens_per_minute=660_000)  # 1,100 tokens each: ten a second
        times = stub.control()["times"]
        assert len(times) == 30 and times[-1] - times[0] >= 1


def test_nonsense_is_refused() -> None:
    with pytest.raises(UsageError, match="no endpoint"):
        HttpPool([], "stub")
    with pytest.raises(UsageError, match="given twice"):
        HttpPool(["http://a/v1", "http://a/v1/"], "stub")
    with pytest.raises(UsageError, match="endpoint ftp://a: not an address"):
        HttpPool(["ftp://a"], "stub")
    with pytest.raises(UsageError, match="in_flight 0: must be above 0"):
        HttpPool(["http://a"], "stub", options=PoolOptions(in_flight=0))
    with pytest.raises(UsageError, match="max_cost 5 with prices 0 and 0"):
        HttpPool(["http://a"], "stub", options=PoolOptions(max_cost=5))
    with pytest.raises(UsageError, match="requests_per_minute -1: must be above 0"):
        HttpPool(["http://a"], "stub", options=PoolOptions(requests_per_minute=-1))


# --- keys -----------------------------------------------------------------------------------------------------------


def test_a_right_key_is_sent_and_seen_nowhere() -> None:
    with shared(key=KEY) as stub:
        outcomes, snapshot = answer_all([stub.url], 3, key=KEY)
    assert not check_answers(outcomes)
    assert KEY not in repr(outcomes) + repr(snapshot)


def test_a_wrong_key_stops_at_once_and_is_not_quoted_though_the_server_quotes_it() -> None:
    wrong = KEY + "-wrong"
    with shared(key=KEY) as stub, pytest.raises(PoolStopped, match=r"wrong key: Bearer .key.; check .* key") as stopped:
        answer_all([stub.url], 100, key=wrong)
    assert wrong not in str(stopped.value) and KEY not in str(stopped.value)


def test_a_redirect_is_not_followed() -> None:
    with shared(dead="redirect") as stub:
        with pytest.raises(PoolStopped, match="HTTP 307"):
            answer_all([stub.url], 3, key=KEY)
        assert stub.control()["requests"] <= 6


def test_an_answer_that_comes_as_its_try_is_abandoned_counts_nothing() -> None:
    """A cancelled task may end with its answer all the same: it has been settled when it was abandoned."""

    async def run() -> tuple[BaseException | None, int, int]:
        with shared() as stub:
            pool = HttpPool([stub.url], "stub", options=PoolOptions())
            dispatch = Dispatch(pool, questions(0))
            job = Job(question(0))
            dispatch._send(job, pool.endpoints[0], asyncio.get_running_loop().time())
            (attempt,) = job.tries
            dispatch._abandon(attempt)
            dispatch._settle(attempt, None, Fault("timeout", "too late"))
            left = pool.endpoints[0].in_flight
            await dispatch.leave()
            return dispatch.error, left, len(dispatch.outcomes)

    assert asyncio.run(run()) == (None, 0, 0)
