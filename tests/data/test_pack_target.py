"""What packs are filled to: batches are met, packs cost the same, and what cannot be even is made even in time."""

import random
from dataclasses import replace

import pytest
from helpers_packs import COSTS, Piece, half_long, mixed

from sailctl.core.data.choose import CostPacker, Costs
from sailctl.core.data.pack_target import pack_target


@pytest.mark.parametrize("samples", [1, 7, 32])
def test_a_number_of_samples_that_is_the_limit_is_met_exactly(samples):
    pieces = mixed(600)
    packs, target = pack_target(pieces, COSTS, tokens=10**6, tiles=10**5, samples=samples, exact=True)
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
    packs, target = pack_target(sizes, Costs(10, 1), tokens=10_000, tiles=12, samples=18, exact=True)
    assert packs == 4 and target.samples == 5 and target.llm == pytest.approx(5_000)
    packs, target = pack_target(sizes, Costs(10, 1), tokens=10_000, tiles=12)
    # 5.73 of 6 that the tiles let in, and 4 % more, for then packs are as even and six fit
    assert packs == 1 and target.samples is None and target.llm == pytest.approx(5_730 * 1.04)


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


def efficiency(pieces, target, ranks, balance, costs=COSTS, tokens=16_384, tiles=48):
    """What ranks compute of what they could while all wait for the slowest, over the steps that all of them have."""
    lanes = [CostPacker(tokens, tiles, 24, costs, target) for _ in range(ranks)]
    groups = [[] for _ in lanes]
    for piece in pieces:
        groups[piece.name % ranks] += lanes[piece.name % ranks].add(piece)
    pairs = [[list(zip(*map(costs.of, group), strict=True)) for group in lane] for lane in groups]
    useful = slowest = 0.0
    for step in zip(*pairs):  # noqa: B905 - some lanes are a pack ahead
        vision, llm = ([sum(pair[part]) for pair in step] for part in (0, 1))
        both = [sum(one) for one in zip(vision, llm, strict=True)]
        useful += sum(both)
        slowest += ranks * (max(vision) + max(llm) if balance == "module" else max(both))
    return useful / slowest


@pytest.mark.parametrize(("balance", "least", "gain"), [("sum", 0.91, 0.12), ("module", 0.7, 0.1)])
def test_giants_meet_where_there_are_many(balance, least, gain):
    """Half of the stream long text: on 32 ranks hardly a step would be without a document dearer than a pack."""
    pieces = half_long(12_000)
    _, target = pack_target(pieces[:512], COSTS, tokens=16_384, tiles=48, balance=balance)
    assert target.every > 1
    together = efficiency(pieces, target, 32, balance)
    apart = efficiency(pieces, replace(target, every=1), 32, balance)
    assert together >= least and together >= apart + gain


def test_nobody_is_held_back_where_there_are_no_giants_or_only_one_lane():
    for balance in ("sum", "module"):
        assert pack_target(mixed(512), COSTS, tokens=16_384, tiles=48, balance=balance)[1].every == 1
    batch = {"tokens": 16_384, "tiles": 48, "samples": 8}
    assert pack_target(half_long(512), COSTS, **batch)[1].every > 1
    assert pack_target(half_long(512), COSTS, **batch, exact=True)[1].every == 1


def test_packs_stay_emptier_where_that_lets_them_cost_the_same():
    """A long document leaves no room for as many tiles as the packs of pictures have: these must do with fewer."""
    draw, costs = random.Random(1), Costs(240.0, 1.0, 0.1, 1 / 30_000)
    pieces = [
        Piece(piece.name, draw.randint(50, 16_000)) if draw.random() < 0.06 else piece
        for piece in mixed(12_000, text=0)
    ]
    _, target = pack_target(pieces[:512], costs, tokens=16_384, tiles=48)
    fuller = replace(target, vision=target.vision / 0.92, llm=target.llm / 0.92)
    gained = efficiency(pieces, target, 32, "sum", costs)
    assert gained > 0.95 and gained > efficiency(pieces, fuller, 32, "sum", costs) + 0.02


def test_where_no_pack_is_like_another_in_both_parts_sums_are_made_alike():
    """Thirteen tiles or a text of half a pack and more: vision and language model cannot both be even."""
    draw = random.Random(1)
    pieces = [
        Piece(name, 256 * 13 + draw.randint(50, 800), 13)
        if draw.random() < 0.7
        else Piece(name, draw.randint(8_000, 16_384))
        for name in range(8_000)
    ]
    _, target = pack_target(pieces[:512], COSTS, tokens=16_384, tiles=48, balance="module")
    assert target.balance == "sum"
    apart = replace(target, balance="module")
    assert efficiency(pieces, target, 32, "module") > efficiency(pieces, apart, 32, "module") + 0.01
