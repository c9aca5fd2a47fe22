"""Budgets against a clock of the test's own."""

from __future__ import annotations

import pytest

from sailctl.core.engines.ask import Ask
from sailctl.core.engines.faults import Reply
from sailctl.core.engines.limits import Bucket, Credit, Usage
from sailctl.core.errors import UsageError
from sailctl.core.records import Turn

ASK = Ask("k", (Turn("user", "x" * 200),), (b"picture",), max_tokens=400)


def test_a_bucket_lets_through_its_rate_and_no_more() -> None:
    bucket, sent = Bucket(600, now=0.0), 0  # ten a second
    for step in range(0, 10_001):  # ten seconds in steps of a millisecond
        if bucket.ready(step / 1000):
            bucket.take(1)
            sent += 1
    assert sent == 110  # one second's worth at once, then the rate


def test_a_bucket_may_be_overdrawn_once_and_then_pays_back() -> None:
    bucket = Bucket(60, now=0.0)
    assert bucket.ready(0.0)
    bucket.take(11)
    assert not bucket.ready(5.0) and not bucket.ready(10.9) and bucket.ready(11.1)
    bucket.take(5)
    bucket.take(-5)  # it was less than feared
    assert bucket.ready(11.2)
    with pytest.raises(UsageError, match="rate 0: must be above 0"):
        Bucket(0, now=0.0)


def test_a_slow_bucket_still_lets_one_through() -> None:
    bucket = Bucket(6, now=0.0)  # one in ten seconds
    moments = []
    for second in range(31):
        if bucket.ready(float(second)):
            bucket.take(1)
            moments.append(second)
    assert moments == [0, 10, 20, 30]


def test_credit_is_earned_trickles_and_ends() -> None:
    credit = Credit(3.0, 0.0, start=1.0, per_second=0.5)
    assert credit.spend(0.0) and not credit.spend(0.0)
    assert not credit.spend(1.9) and credit.spend(2.0)
    credit.earn(100)
    assert [credit.spend(2.0) for _ in range(4)] == [True, True, True, False]


def test_usage_counts_money_and_guesses_where_nobody_counts() -> None:
    usage = Usage(2.0, 10.0, None)
    assert tuple(usage.expect(ASK)) == (1100.0, 400)
    assert usage.note(ASK, Reply("text", "stop", 1000, 50)) == (1000, 50)
    assert usage.cost == pytest.approx(0.0025)
    assert tuple(usage.expect(ASK)) == (1000.0, 50.0)
    assert usage.note(ASK, Reply("x" * 300, "stop", 0, 0)) == (1100, 100)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.uncounted) == (2100, 150, 1)
    cost = usage.cost
    assert usage.guess(ASK) == (1005, 52)  # of an answer that never came
    assert usage.prompt_tokens == 2100 and usage.cost - cost == pytest.approx((1005 * 2 + 52 * 10) / 1e6)


def test_the_cap_reckons_with_what_is_in_flight() -> None:
    usage = Usage(0.0, 1000.0, 1.0)  # a tenth of a cent a token
    assert usage.affords(ASK, 0)
    assert usage.affords(ASK, 1) and not usage.affords(ASK, 2)  # 400 tokens each, at the most
    usage.note(ASK, Reply("t", "stop", 1, 100))
    assert usage.affords(ASK, 8) and not usage.affords(ASK, 9)
    for cap, price in ((0.0, 1.0), (1.0, 0.0)):
        with pytest.raises(UsageError, match="must be above 0"):
            Usage(price, 0.0, cap)
