"""Who is the limit, from texts as vLLM and LMDeploy write them, and from a stub that serves them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from sailctl.core.engines.ask import Ask
from sailctl.core.engines.faults import Fault
from sailctl.core.engines.pool import HttpPool, PoolOptions
from sailctl.core.engines.server_metrics import Load, Watch, judge, read_load
from tests.engines.helpers_pool import question
from tests.stub_engine import Stub

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b"} 12.0
vllm:num_requests_running{engine="1",model_name="a b"} 4.0
vllm:num_requests_waiting{engine="0",model_name="a b"} 3.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 3.0
vllm:kv_cache_usage_perc{engine="0"} 0.5
"""
LMDEPLOY = """\
lmdeploy:num_requests_running{engine="0",model_name="m"} 64.0
lmdeploy:num_requests_waiting{engine="0",model_name="m"} 0.0
lmdeploy:num_api_requests_waiting{engine="0",model_name="m"} 30.0
lmdeploy:num_requests_finished{engine="0",model_name="m"} 999.0
"""


@pytest.mark.parametrize(
    ("text", "load"),
    [
        (VLLM, Load(16.0, 3.0)),
        (LMDEPLOY, Load(64.0, 30.0)),
        ("vllm:num_requests_running 5\nvllm:num_requests_waiting 1.5e1\n", Load(5.0, 15.0)),
        ("vllm:num_requests_running{} nonsense\n", None),
        ("process_cpu_seconds_total 5\n", None),
        ("<html>", None),
        ("", None),
    ],
)
def test_loads_are_read(text: str, load: Load | None) -> None:
    assert read_load(text) == load


@pytest.mark.parametrize(
    ("load", "in_flight", "starved", "busy", "limit"),
    [
        (Load(64, 30), 100, False, 0.2, "server GPU"),
        (Load(10, 0), 100, False, 0.2, "server preprocessing"),
        (Load(95, 0), 100, False, 0.2, "client"),  # all of it is being computed: more could be sent
        (Load(64, 30), 100, True, 0.2, "client"),  # no questions
        (Load(64, 30), 100, False, 0.95, "client"),  # no processor time
        (None, 100, False, 0.2, "unknown"),
        (Load(0, 0), 0, False, 0.2, "unknown"),
    ],
)
def test_the_limit_is_judged(load: Load | None, in_flight: int, starved: bool, busy: float, limit: str) -> None:
    assert judge(load, in_flight, starved=starved, busy=busy) == limit


def test_what_holds_questions_back_is_named_where_nothing_else_is_slow() -> None:
    full, rate = "--in-flight", "--requests-per-minute"
    for load, limit in ((None, full), (Load(95, 0), full), (Load(64, 30), "server GPU")):
        assert judge(load, 100, starved=False, busy=0.2, held_back=full) == limit
    assert judge(Load(64, 30), 100, starved=False, busy=0.95, held_back=full) == "client"
    assert judge(Load(1, 0), 1, starved=True, busy=0.2, held_back=rate) == rate


def test_many_failures_come_before_anything_else() -> None:
    for load, rate in ((None, ""), (Load(64, 30), ""), (Load(95, 0), "--requests-per-minute")):
        assert judge(load, 100, starved=True, busy=0.95, held_back=rate, failing=True) == "server errors"


@pytest.mark.parametrize(
    ("kind", "failed", "limit"),
    [
        ("timeout", 1, "server errors"),
        ("status_5xx", 3, "server errors"),
        ("empty", 1, "unknown"),
        ("reset", 0, "unknown"),
    ],
)
def test_requests_that_fail_are_the_limit_even_at_the_end(kind: str, failed: int, limit: str) -> None:
    async def run() -> str:
        pool = HttpPool(["http://host"], "stub")  # it does not run: there is nothing to ask
        (endpoint,), now = pool.endpoints, time.monotonic()
        for number in range(4):
            endpoint.begin(now)
            if number < failed:
                endpoint.failed(now + 1, 1.0, Fault(kind, ""))
            else:
                endpoint.answered(now + 1, 1.0, None)
        await pool._watch.look(busy=0.1)
        assert pool._watch._votes.total() == (limit != "unknown")
        await pool._watch.look(busy=0.1)  # nothing failed since
        assert pool._watch._votes.total() == (limit != "unknown")
        return pool.snapshot().limit_by

    assert asyncio.run(run()) == limit


def test_the_tail_is_nobodys_fault() -> None:
    async def run(url: str) -> list[str]:
        pool = HttpPool([url], "stub", options=PoolOptions(in_flight=16))

        async def asks() -> AsyncIterator[Ask]:
            yield question(0)
            await asyncio.Event().wait()

        outcomes = pool.run(asks())
        waiting = asyncio.ensure_future(anext(outcomes))
        while not pool.starved or not pool.in_flight:
            await asyncio.sleep(0.01)
        told = []
        for pool.asker_waits in (True, False):
            await pool._watch.look(busy=0.1)
            told.append(pool.snapshot().limit_by)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await pool.close()
        return told

    with Stub(faults={"hang": 1.0}, metrics="") as stub:
        assert asyncio.run(run(stub.url)) == ["unknown", "client"]


@pytest.mark.parametrize(
    ("metrics", "limit"),
    [
        ("vllm:num_requests_running 4\nvllm:num_requests_waiting 12\n", "server GPU"),
        ("lmdeploy:num_requests_running 2\nlmdeploy:num_requests_waiting 0\n", "server preprocessing"),
        ("vllm:num_requests_running 16\nvllm:num_requests_waiting 0\n", "--in-flight"),
        ("", "--in-flight"),  # a 404
    ],
)
def test_a_pool_looks_at_its_servers(metrics: str, limit: str) -> None:
    async def run(url: str) -> str:
        pool = HttpPool([url], "stub", options=PoolOptions(in_flight=16))
        pool._watch = Watch(pool, every_s=0.2)

        async def asks() -> AsyncIterator[Ask]:
            for number in range(16):
                yield question(number)
            await asyncio.Event().wait()  # more is to come, but not now

        outcomes = pool.run(asks())
        waiting = asyncio.ensure_future(anext(outcomes))
        while pool.in_flight < 16:
            await asyncio.sleep(0.01)
        await pool._watch.look(busy=0.1)
        told = pool.snapshot().limit_by
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await pool.close()
        return told

    with Stub(faults={"hang": 1.0}, metrics=metrics) as stub:
        assert asyncio.run(run(stub.url)) == limit
