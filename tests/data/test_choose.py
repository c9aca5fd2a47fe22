"""The chooser: equal costs under hard caps, nothing lost, nobody waits too long, the same choice from a saved state."""

import random
from collections import Counter
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sailctl.core.data.choose import WAIT_LIMIT, CostPacker, Costs, Target, pack_target

# One tile costs as much as 400 tokens, a document of 4,000 tokens a third more than its tokens.
COSTS = Costs(per_tile=400.0, per_token=1.0, per_target=0.1, per_square=1 / 12_000)


@dataclass(frozen=True)
class Piece:
    name: int
    num_tokens: int
    num_tiles: int = 0
    num_targets: int = 0
    epoch: int = 0


def names(groups):
    return [[piece.name for piece in group] for group in groups]


def mixed(count, seed=0, *, text=0.12):
    """Image samples of 1 to 12 tiles of 256 tokens, and text alone."""
    draw, pieces = random.Random(seed), []
    for name in range(count):
        tiles = 0 if draw.random() < text else draw.randint(1, 12)
        words = int(draw.lognormvariate(5.8 if tiles == 0 else 4.7, 0.9)) + 15
        pieces.append(Piece(name, min(16_384, 256 * tiles + words), tiles, words // 2))
    return pieces


def test_the_best_single_swap_by_hand():
    """Draft 0, 1, 2 (cost 9 of 10); swapping 1 for 4, the one that waits with one token more, hits the target."""
    packer = CostPacker(100, 9, 2, Costs(), Target(vision=0, llm=10))
    pieces = [Piece(0, 3), Piece(1, 3), Piece(2, 3), Piece(3, 6), Piece(4, 4)]
    assert [names(packer.add(piece)) for piece in pieces] == [[], [], [], [], [[0, 2, 4]]]
    assert names(packer.flush()) == [[1, 3]]  # 9 is as close as these two get


def test_costs_are_tokens_squares_targets_and_tiles():
    assert COSTS.of(Piece(0, 6_000, 3, 50)) == (1200.0, 6_000 + 3_000 + 5)


@pytest.mark.parametrize("samples", [1, 7, 32])
def test_a_number_of_samples_that_is_the_limit_is_met_exactly(samples):
    pieces = mixed(600)
    packs, target = pack_target(pieces, COSTS, tokens=10**6, tiles=10**5, samples=samples)
    assert (packs, target.samples) == (1, samples)
    packer = CostPacker(10**6, 10**5, 24, COSTS, target)
    groups = [group for piece in pieces for group in packer.add(piece)]
    assert {len(group) for group in groups} == {samples} and len(groups) > 500 // samples


def test_targets_hold_the_batch_on_average():
    sizes = [Piece(0, 900, 3, 100), Piece(1, 1_100, 1, 100)]
    # 10,000 tokens hold 9.55 samples of 1,000 on average, 12 tiles 5.73 of 2
    packs, target = pack_target(sizes, Costs(10, 1), tokens=10_000, tiles=12, samples=17)
    assert packs == 3 and target.samples is None
    assert target.llm == pytest.approx(17 / 3 * 1000) and target.vision == pytest.approx(17 / 3 * 20)
    packs, target = pack_target(sizes, Costs(10, 1), tokens=10_000, tiles=12, samples=18)
    assert packs == 4 and target.samples == 5 and target.llm == pytest.approx(5_000)
    packs, target = pack_target(sizes, Costs(10, 1), tokens=10_000, tiles=12)
    assert packs == 1 and target.samples is None and target.llm == pytest.approx(5_730)


def test_what_can_never_fit_is_refused_with_its_numbers():
    packer = CostPacker(10, 3, 4, Costs(), Target(0, 10))
    with pytest.raises(ValueError, match=r"11 tokens and 0 tiles .* 10 tokens and 3 tiles"):
        packer.add(Piece(0, 11))


@pytest.mark.parametrize(("balance", "most"), [("sum", 1.004), ("module", 1.04)])
def test_packs_cost_the_same(balance, most):
    """Over 8 lanes of a mixture with text alone, the dearest pack is hardly dearer than the mean one."""
    pieces = mixed(8_000)
    _, target = pack_target(pieces[:512], COSTS, tokens=16_384, tiles=48, balance=balance)
    lanes = [CostPacker(16_384, 48, 24, COSTS, target) for _ in range(8)]
    groups = [group for piece in pieces for group in lanes[piece.name % 8].add(piece)]
    costs = [[sum(part) for part in zip(*map(COSTS.of, group), strict=True)] for group in groups]
    parts = [[sum(pair) for pair in costs]] if balance == "sum" else list(zip(*costs, strict=True))
    for part in parts:
        high = sorted(part)[int(0.99 * len(part))]
        assert high <= most * sum(part) / len(part)
    fill = sum(piece.num_tokens for group in groups for piece in group) / len(groups) / 16_384
    tiles = sum(piece.num_tiles for group in groups for piece in group) / len(groups) / 48
    assert max(fill, tiles) >= 0.93


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 6), st.integers(0, 9)), max_size=150),
    st.sampled_from([None, 1, 5, 12]),
    st.integers(1, 30),
    st.sampled_from(["sum", "module"]),
)
@settings(deadline=None, max_examples=200)
def test_nothing_is_lost_caps_hold_and_nobody_waits_too_long(sizes, samples, window, balance):
    pieces = [Piece(index, *size) for index, size in enumerate(sizes)]
    _, target = pack_target(pieces or [Piece(0, 9, 1)], COSTS, tokens=50, tiles=6, samples=samples, balance=balance)
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
    for samples in (None, 7, 64):
        _, target = pack_target(once, COSTS, tokens=65_536, tiles=192, samples=samples)
        packer = CostPacker(65_536, 192, 24, COSTS, target)
        gone = [piece for add in pieces for group in packer.add(add) for piece in group]
        gone += [piece for group in packer.flush() for piece in group]
        for start in range(0, 200, 40):
            assert sorted(piece.name for piece in gone[start : start + 40]) == list(range(40))
            # a border pack is in order of arrival, so epochs stand one after the other in it, too
            assert {piece.epoch for piece in gone[start : start + 40]} == {start // 40}


def test_the_one_nobody_wants_goes_in_time():
    """A long document costs more than a pack should and would wait for ever, were the oldest not due."""
    pieces = [Piece(0, 16_000)] + [Piece(name, 1_280, 5) for name in range(1, 600)]
    _, target = pack_target(pieces[1:], COSTS, tokens=16_384, tiles=48, balance="module")
    packer = CostPacker(16_384, 48, 24, COSTS, target)
    groups = names(group for piece in pieces for group in packer.add(piece))
    assert next(number for number, group in enumerate(groups) if 0 in group) == 0


@given(st.integers(0, 10**6), st.integers(0, 199))
@settings(deadline=None, max_examples=30)
def test_a_saved_state_goes_on_as_if_nothing_had_been(seed, cut):
    pieces = mixed(200, seed)
    _, target = pack_target(pieces, COSTS, tokens=16_384, tiles=48)
    whole, again = (CostPacker(16_384, 48, 24, COSTS, target) for _ in range(2))
    for piece in pieces[:cut]:
        whole.add(piece)
    again.restore(whole.waiting, whole.ages)
    assert [whole.add(piece) for piece in pieces[cut:]] == [again.add(piece) for piece in pieces[cut:]]
    assert whole.flush() == again.flush()
