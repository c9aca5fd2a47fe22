"""The order of the data: a bijection per epoch, every ordinal once over all lanes, shares as asked for."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sailctl.core.data.order import LaneCursor, Mixture, Order, permute
from sailctl.core.schema.data import DataConfig, SourceConfig

PINNED = [0, 1, 4, 7, 5, 3, 9, 2, 6, 8]


@given(st.integers(1, 700), st.integers(0, 2**63), st.integers(0, 9), st.integers(0, 50))
@settings(deadline=None, max_examples=60)
def test_a_permutation_is_a_bijection(size, seed, source, epoch):
    assert sorted(permute(i, size, seed, source, epoch) for i in range(size)) == list(range(size))


@given(st.integers(1, 10**12), st.data())
def test_a_permutation_stays_inside_whatever_the_size(size, data):
    assert 0 <= permute(data.draw(st.integers(0, size - 1)), size, 1, 0, 0) < size


def test_permutations_differ_by_seed_source_and_epoch_and_look_shuffled():
    def order(*key):
        return tuple(permute(i, 1000, *key) for i in range(1000))

    assert len({order(0, 0, 0), order(1, 0, 0), order(0, 1, 0), order(0, 0, 1)}) == 4
    found = order(0, 0, 0)
    assert sum(a == b for a, b in enumerate(found)) < 10
    assert abs(sum(a < b for a, b in pairwise(found)) - 500) < 60
    # pinned: a released seed must not give another order
    assert [permute(i, 10, 7, 0, 0) for i in range(10)] == PINNED


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.integers(1, 5),
    st.integers(0, 99),
    st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_every_ordinal_comes_once_per_epoch_over_all_lanes(sizes, lanes, seed, shuffle):
    order = Order(Mixture(sizes, [None] * len(sizes)), seed, lanes, shuffle)
    total = sum(sizes)
    draws = [order.ref(number % lanes, number // lanes) for number in range(3 * total)]
    for epoch in range(3):
        expected = {(source, ordinal) for source, size in enumerate(sizes) for ordinal in range(size)}
        part = draws[epoch * total : (epoch + 1) * total]
        assert Counter((ref.source, ref.ordinal) for ref in part) == Counter(expected)
        assert {ref.epoch for ref in part} == {epoch}


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=6), st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_shares_are_within_one_percent_after_2000_draws(weights, lanes):
    order = Order(Mixture([10] * len(weights), weights), 0, lanes)
    counts = Counter(order.ref(number % lanes, number // lanes).source for number in range(2000))
    for source, weight in enumerate(weights):
        assert abs(counts[source] / 2000 - weight / sum(weights)) < 0.01
    # and at every point on the way no source is more than a few draws from its share
    running = Counter()
    for number in range(500):
        running[order.ref(number % lanes, number // lanes).source] += 1
        for source, weight in enumerate(weights):
            assert abs(running[source] - (number + 1) * weight / sum(weights)) < 3


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(0, 400))
@settings(deadline=None, max_examples=60)
def test_counts_are_those_of_the_draws_and_exact_where_weights_are_counts(weights, draws):
    mixture = Mixture([7] * len(weights), weights)
    drawn = Counter(mixture.draw(number)[0] for number in range(draws))
    assert mixture.counts(draws) == [drawn[source] for source in range(len(weights))]
    assert mixture.counts(sum(weights)) == weights


def test_a_weighted_source_still_goes_once_through_its_samples_per_epoch():
    order = Order(Mixture([7, 100], [0.5, 0.5]), 3, 2)
    draws = [order.ref(number % 2, number // 2) for number in range(140)]
    small = [ref for ref in draws if ref.source == 0]
    for epoch in range(9):
        assert sorted(ref.ordinal for ref in small[7 * epoch : 7 * epoch + 7]) == list(range(7))
        assert {ref.epoch for ref in small[7 * epoch : 7 * epoch + 7]} == {epoch}


def test_each_lane_sees_the_mixture():
    order = Order(Mixture([100, 100, 100], [0.5, 0.25, 0.25]), 0, 3)
    for lane in range(3):
        counts = Counter(order.ref(lane, position).source for position in range(400))
        assert counts[0] == pytest.approx(200, abs=12)


def test_unshuffled_order_is_the_files_order():
    order = Order(Mixture([5], [None]), 0, 1, shuffle=False)
    assert [order.ref(0, position).ordinal for position in range(7)] == [0, 1, 2, 3, 4, 0, 1]


@given(st.integers(0, 200), st.integers(0, 3))
@settings(deadline=None)
def test_a_cursor_seeks(position, lane):
    order = Order(Mixture([13, 29], [1.0, 3.0]), 5, 4)
    walked = LaneCursor(order, lane)
    for _ in range(position):
        walked.next()
    sought = LaneCursor(order, lane)
    sought.load_state_dict(walked.state_dict())
    assert [walked.next() for _ in range(20)] == [sought.next() for _ in range(20)]


def repeating(**repeats: float | None) -> list[SourceConfig]:
    return [SourceConfig(name=name, path=name, repeats=times) for name, times in repeats.items()]


def test_repeats_are_times_an_epoch_of_the_mixture_holds_a_source():
    mixture = Mixture.of([10, 8, 6, 100], repeating(once=None, often=2.5, twice=2, part=0.3))
    assert mixture.epoch == 10 + 20 + 12 + 30
    order = Order(mixture, 3, 2)
    draws = [order.ref(number % 2, number // 2) for number in range(mixture.epoch)]
    times = [Counter(ref.ordinal for ref in draws if ref.source == source) for source in range(4)]
    assert set(times[0].values()) == {1} and len(times[0]) == 10
    assert sorted(times[1].values()) == [2] * 4 + [3] * 4
    assert set(times[2].values()) == {2} and len(times[2]) == 6
    assert set(times[3].values()) == {1} and len(times[3]) == 30
    following = [order.ref(number % 2, number // 2) for number in range(mixture.epoch, 2 * mixture.epoch)]
    later = {ref.ordinal for ref in following if ref.source == 3}
    assert len(later) == 30 and not later & set(times[3])  # goes on where the epoch left it


def test_a_tenth_is_a_tenth_and_no_repeats_are_as_before():
    assert Mixture.of([1000, 10], repeating(a=0.1, b=None)).shares == [100, 10]
    plain = Mixture.of([7, 5], repeating(a=None, b=None))
    assert plain.shares == Mixture([7, 5], [None, None]).shares and plain.epoch == 12
    weighted = [SourceConfig(name="a", path="a", weight=3), SourceConfig(name="b", path="b", weight=1)]
    assert Mixture.of([7, 5], weighted).shares == Mixture([7, 5], [3, 1]).shares
    assert Mixture.of([7, 5], weighted).epoch == 12


def test_weights_and_repeats_do_not_mix():
    sources = [SourceConfig(name="a", path="a", weight=3), SourceConfig(name="b", path="b", repeats=2)]
    with pytest.raises(ValueError, match="weights and repeats do not mix: a has a weight, b repeats"):
        DataConfig(sources=sources)
