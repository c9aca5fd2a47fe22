"""Limits that find themselves, breakers and the choice between endpoints, against a clock of the test's own."""

from __future__ import annotations

import heapq
import random
from collections import Counter

import pytest

from sailctl.core.engines.client import Client
from sailctl.core.engines.concurrency import FAILURES, Breaker, Limit
from sailctl.core.engines.endpoint import Endpoint, choose
from sailctl.core.engines.faults import Fault

REFUSED = Fault("status_429", "full", status=429)
BROKEN = Fault("status_5xx", "crash", status=500)
GONE = Fault("connect", "refused")


def endpoint(name: str = "a", most: int = 1024, now: float = 0.0) -> Endpoint:
    return Endpoint(Client(f"http://{name}"), most, now)


def simulate(
    most: int, holds: int, seconds: float, *, latency_s: float = 1.0, chance: float = 0.0
) -> tuple[Limit, int]:
    """A limit before a server that holds so many and refuses the others at once; counts refusals of the last half."""
    drawn, limit, now = random.Random(1), Limit(most, 0.0), 0.0
    ends: list[float] = []
    refusals = 0
    while now < seconds:
        now += 0.01
        while ends and ends[0] <= now:
            heapq.heappop(ends)
            limit.note(0.0, len(ends))
        for _ in range(most):
            if len(ends) >= limit.value or (limit.waits and ends):
                break
            limit.begin(len(ends) + 1)
            if len(ends) >= holds or drawn.random() < chance:
                limit.note(1.0, len(ends))
                refusals += now > seconds / 2
            else:
                heapq.heappush(ends, now + latency_s * drawn.lognormvariate(-0.125, 0.5))
        limit.update(now, latency_s)
    return limit, refusals


def test_a_thousand_slots_are_filled_within_seconds_though_answers_take_three() -> None:
    limit, _ = simulate(1024, holds=10**6, seconds=2.5, latency_s=3.0)
    assert limit.value == 1024


@pytest.mark.parametrize("holds", [5, 40, 300])
def test_the_limit_finds_what_a_server_holds_and_seldom_tries_for_more(holds: int) -> None:
    limit, refusals = simulate(1024, holds, seconds=60.0)
    assert 0.8 * holds <= limit.value <= 1.4 * holds + 2
    assert refusals < (0.15 if holds > 10 else 0.3) * 30 * holds


def test_refusals_by_chance_do_not_starve_a_server() -> None:
    limit, _ = simulate(256, holds=10**6, seconds=30.0, chance=0.05)
    assert limit.value > 200


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    limit = Limit(1024, 0.0)
    for step in range(100):
        limit.begin(3)
        limit.note(0.0, 3)
        limit.update(step * 0.5, 0.1)
    assert limit.value == 32


def test_a_breaker_opens_probes_and_closes() -> None:
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.ill(0.0, "reset: gone")
    assert breaker.state == "closed" and breaker.may_send(0.0, 5)
    breaker.ill(0.0, "reset: gone")
    assert breaker.state == "open" and breaker.reason == "reset: gone" and not breaker.may_send(0.2, 0)
    assert not breaker.may_send(1.0, 1), "what is still in flight comes back first"
    assert breaker.may_send(1.0, 0)
    breaker.begin()
    assert breaker.state == "probing" and not breaker.may_send(1.0, 1)
    breaker.ill(1.0, "timeout: silent")
    assert breaker.state == "open" and not breaker.may_send(1.4, 0)
    breaker.begin()
    assert breaker.well(2.0) and breaker.state == "closed"
    assert not breaker.well(2.0)


def test_a_breaker_waits_longer_each_time_and_as_long_as_it_is_told() -> None:
    breaker, now = Breaker(), 0.0
    waits = []
    for _ in range(FAILURES):
        breaker.ill(now, "down")
    for _ in range(8):
        start = now
        while not breaker.may_send(now, 0):
            now += 0.1
        waits.append(now - start)
        breaker.begin()
        breaker.ill(now, "down")
    assert 0.2 <= waits[0] <= 0.7 and waits[2] > waits[0] and 7.4 <= waits[-1] <= 15.2
    breaker.begin()
    breaker.ill(now, "full", pause_s=60.0)
    assert not breaker.may_send(now + 59.9, 0) and breaker.may_send(now + 60.1, 0)


def test_many_in_flight_need_many_failures_unless_they_are_certain() -> None:
    breaker = Breaker()
    for _ in range(50):
        breaker.ill(0.0, "status_5xx: crash", in_flight=100)
    assert breaker.state == "closed", "fifty quick failures among a hundred slow answers are no outage"
    breaker.ill(0.0, "connect: refused", in_flight=100, certain=True)
    assert breaker.state == "open"


def test_a_full_server_is_in_order() -> None:
    one = endpoint()
    one.begin(0.0)
    one.answered(0.5, 0.5, None)
    for step in range(100):
        one.begin(0.6 + step / 1000)
        one.failed(0.6 + step / 1000, 0.001, REFUSED)
    assert one.breaker.state == "closed"
    for step in range(40):
        one.begin(9.0 + step / 1000)
        one.failed(9.0 + step / 1000, 0.001, REFUSED)
    assert one.breaker.state == "open", "nothing was answered for many seconds"


def test_an_endpoint_counts_and_tells() -> None:
    one = endpoint()
    for _ in range(4):
        one.begin(0.0)
    one.answered(2.0, 2.0, None)
    one.failed(2.0, 2.0, Fault("cut", "too long"))
    one.failed(2.0, 0.1, BROKEN)
    one.abandoned(2.0, 1.0)
    one.update(2.0)
    told = one.snapshot()
    assert (told.ok, told.errors, told.in_flight, told.state) == (1, {"cut": 1, "status_5xx": 1}, 0, "closed")
    assert told.latency_s == 2.0 and told.goodput > 0


def play(latencies: dict[Endpoint, float], slots: int, seconds: float, start: float = 0.0) -> Counter[Endpoint]:
    """Keep so many slots busy, each endpoint taking its latency; counts answers."""
    now, ends, done = start, [], Counter[Endpoint]()
    drawn, serial = random.Random(2), 0
    while now < start + seconds:
        while len(ends) < slots and (chosen := choose(list(latencies), now)) is not None:
            chosen.begin(now)
            serial += 1
            took = latencies[chosen] * drawn.uniform(0.5, 1.5)
            heapq.heappush(ends, (now + took, serial, chosen, took))
        end, _, chosen, took = heapq.heappop(ends) if ends else (now + 0.1, 0, None, 0.0)
        now = max(now, end)
        if chosen is not None:
            chosen.answered(now, took, None)
            done[chosen] += 1
        for one in latencies:
            one.update(now)
    for _, _, chosen, took in ends:
        chosen.abandoned(now, took)
    return done


def test_equals_share_equally() -> None:
    random.seed(0)
    ends = [endpoint(name) for name in "abcd"]
    done = play(dict.fromkeys(ends, 1.0), 200, 40.0)
    assert min(done.values()) > 0.8 * max(done.values())


def test_a_slow_one_costs_few_slots_and_is_taken_up_again_when_it_is_fast() -> None:
    random.seed(0)
    ends = [endpoint(name) for name in "abcd"]
    latencies = {one: 10.0 if one is ends[0] else 1.0 for one in ends}
    slow = play(latencies, 200, 60.0)
    assert slow.total() > 0.85 * 200 * 60, "the others take over"
    assert slow[ends[0]] < 0.05 * slow.total()
    play(dict.fromkeys(ends, 1.0), 200, 20.0, start=60.0)
    well = play(dict.fromkeys(ends, 1.0), 200, 20.0, start=80.0)
    assert well[ends[0]] > 0.6 * well.total() / 4


def test_silence_makes_dear() -> None:
    ends = [endpoint(name) for name in "ab"]
    for one in ends:
        for _ in range(5):
            one.begin(0.0)
        one.answered(1.0, 1.0, None)
    ends[1].answered(9.0, 1.0, None)
    ends[0].begin(8.9)
    assert ends[0].price(9.0, 1.0) > 10 * ends[1].price(9.0, 1.0)
    assert {choose(ends, 9.0) for _ in range(20)} == {ends[1]}


def test_what_is_to_be_avoided_is_chosen_only_alone() -> None:
    one, other = endpoint("a"), endpoint("b")
    assert {choose([one, other], 5.0, avoid=(one,)) for _ in range(20)} == {other}
    assert choose([one], 5.0, avoid=(one,)) is one
    for _ in range(3):
        one.begin(5.0)
        one.failed(5.0, 0.0, GONE)
    assert one.breaker.state == "open" and choose([one], 5.0) is None
