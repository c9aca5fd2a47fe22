"""The chooser: equal costs under hard caps, nothing lost, nobody waits too long, the same choice from a saved state."""

from collections import Counter
from dataclasses import replace

import pytest
from helpers_packs import COSTS, Piece, half_long, mixed, names
from hypothesis import given, settings
from hypothesis import strategies as st

from sailctl.core.data.choose import WAIT_LIMIT, CostPacker, Costs, Target
from sailctl.core.data.pack_target import pack_target


def test_the_best_single_swap_by_hand():
    """Draft 0, 1, 2 (cost 9 of 10); swapping 1 for 4, the one that waits with one token more, hits the target."""
    packer = CostPacker(100, 9, 2, Costs(), Target(vision=0, llm=10))
    pieces = [Piece(0, 3), Piece(1, 3), Piece(2, 3), Piece(3, 6), Piece(4, 4)]
    assert [names(packer.add(piece)) for piece in pieces] == [[], [], [], [], [[0, 2, 4]]]
    assert names(packer.flush()) == [[1, 3]]  # 9 is as close as these two get


def test_costs_are_tokens_squares_targets_and_tiles():
    assert COSTS.of(Piece(0, 6_000, 3, 50)) == (1200.0, 6_000 + 3_000 + 5)


def test_what_can_never_fit_is_refused_with_its_numbers():
    packer = CostPacker(10, 3, 4, Costs(), Target(0, 10))
    with pytest.raises(ValueError, match=r"11 tokens and 0 tiles .* 10 tokens and 3 tiles"):
        packer.add(Piece(0, 11))


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 6), st.integers(0, 9)), max_size=150),
    st.sampled_from([1, 5, 12]),
    st.booleans(),
    st.integers(1, 30),
    st.sampled_from(["sum", "module"]),
    st.sampled_from([1, 4, 8]),
)
@settings(deadline=None, max_examples=200)
def test_nothing_is_lost_caps_hold_and_nobody_waits_too_long(sizes, samples, limited, window, balance, every):
    pieces = [Piece(index, *size) for index, size in enumerate(sizes)]
    vision, llm = map(sum, zip(*map(COSTS.of, pieces or [Piece(0, 9, 1)]), strict=True))
    share = samples / max(1, len(pieces))
    target = Target(share * vision, share * llm, samples if limited else None, balance, every)
    packer, groups, seen = CostPacker(50, 6, window, COSTS, target), [], {}
    for piece in pieces:
        seen[piece.name] = len(groups)
        groups += packer.add(piece)
    groups += packer.flush()
    assert Counter(piece.name for group in groups for piece in group) == Counter(range(len(sizes)))
    for number, group in enumerate(groups):
        assert group and len(group) <= (target.samples or len(pieces))
        assert sum(piece.num_tokens for piece in group) <= 50 and sum(piece.num_tiles for piece in group) <= 6
        assert all(number - seen[piece.name] <= WAIT_LIMIT for piece in group)
        assert [piece.name for piece in group] == sorted(piece.name for piece in group)


def test_no_sample_overtakes_one_of_an_earlier_epoch():
    """40 samples five times over in packs of about seven: the first 40 to leave are the 40, and so on."""
    once = mixed(40)
    pieces = [replace(piece, epoch=epoch) for epoch in range(5) for piece in once]
    for samples, every in ((None, 1), (7, 1), (64, 1), (None, 8)):
        _, target = pack_target(once, COSTS, tokens=65_536, tiles=192, samples=samples)
        if every > 1:  # giants, for whom no pack may come in their epoch
            target = replace(target, vision=0, llm=7_000, every=every)
            assert sum(sum(COSTS.of(piece)) > 7_000 for piece in once) > 3
        packer = CostPacker(65_536, 192, 24, COSTS, target)
        gone = [piece for add in pieces for group in packer.add(add) for piece in group]
        gone += [piece for group in packer.flush() for piece in group]
        for start in range(0, 200, 40):
            assert sorted(piece.name for piece in gone[start : start + 40]) == list(range(40))
            # a border pack is in order of arrival, so epochs stand one after the other in it, too
            assert {piece.epoch for piece in gone[start : start + 40]} == {start // 40}


def test_giants_leave_together_by_hand():
    """Of every four packs of cost 10 the last may hold those of 12: they came first, third and sixth."""
    packer = CostPacker(100, 9, 2, Costs(), Target(vision=0, llm=10, every=4))
    sizes = [12, 5, 12, 5, 5, 12, *[5] * 15]
    groups = names(group for index, size in enumerate(sizes) for group in packer.add(Piece(index, size)))
    assert groups[:5] == [[1, 3], [4, 6], [7, 8], [0], [9, 10]]
    assert packer.closed == len(groups) == 10 and 2 in groups[7]
    assert names(packer.flush()) == [[19, 20], [5]]


def test_a_giant_whose_pack_does_not_come_goes_in_time():
    """Giants are every third sample, far more than one pack in eight holds: none waits longer than the limit."""
    packer, groups, seen = CostPacker(100, 9, 20, Costs(), Target(vision=0, llm=10, every=8)), [], {}
    for index in range(600):
        seen[index] = len(groups)
        groups += names(packer.add(Piece(index, 12 if index % 3 == 0 else 5)))
    waits = {name: number - seen[name] for number, group in enumerate(groups) for name in group}
    assert max(waits.values()) <= WAIT_LIMIT and len(packer.waiting) < 2 * WAIT_LIMIT
    assert max(wait for name, wait in waits.items() if name % 3 == 0) > 7


def test_the_one_nobody_wants_goes_in_time():
    """A long document costs more than a pack should and would wait for ever, were the oldest not due."""
    pieces = [Piece(0, 16_000)] + [Piece(name, 1_280, 5) for name in range(1, 600)]
    _, target = pack_target(pieces[1:], COSTS, tokens=16_384, tiles=48, balance="module")
    packer = CostPacker(16_384, 48, 24, COSTS, target)
    groups = names(group for piece in pieces for group in packer.add(piece))
    assert next(number for number, group in enumerate(groups) if 0 in group) == 0


@given(st.integers(0, 10**6), st.integers(0, 199), st.booleans())
@settings(deadline=None, max_examples=40)
def test_a_saved_state_goes_on_as_if_nothing_had_been(seed, cut, giants):
    pieces = half_long(200, seed) if giants else mixed(200, seed)
    _, target = pack_target(pieces, COSTS, tokens=16_384, tiles=48)
    target = replace(target, every=8 if giants else 1)
    whole, again = (CostPacker(16_384, 48, 24, COSTS, target) for _ in range(2))
    for piece in pieces[:cut]:
        whole.add(piece)
    again.restore(whole.waiting, whole.ages, whole.closed)
    assert [whole.add(piece) for piece in pieces[cut:]] == [again.add(piece) for piece in pieces[cut:]]
    assert whole.flush() == again.flush()
