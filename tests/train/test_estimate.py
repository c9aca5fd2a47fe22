"""Figures of a plan against hand-computed ones, and its packs against what a packs file must be."""

from __future__ import annotations

import random

import pytest

from sailctl.core.data.lengths import Lengths
from sailctl.core.data.simulate import Chosen, Length
from sailctl.core.datasheet import DataSheet
from sailctl.core.model.flops import ModelFlops
from sailctl.core.model.presets import preset
from sailctl.core.schema.recipe import Recipe
from sailctl.core.train.estimate import Machine, choose_packs, estimate_stage, longest_wait

MACHINE = Machine(DataSheet("X", 1e15, 10**12), mfu=0.5, ranks=2)


def recipe(**train: object) -> Recipe:
    values = {"trainable": ["vision", "projector", "llm"], "max_samples": 1000, "global_batch_samples": 8} | train
    return Recipe.model_validate(
        {
            "name": "r",
            "stage": "knowledge",
            "model": {"preset": "sail-vl-2b"},
            "data": {"pack_tokens": 4096, "pack_tiles": 8},
            "train": values,
        }
    )


def stream(count: int, seed: int = 0) -> Lengths:
    draw = random.Random(seed)
    tiles = [draw.randint(0, 4) for _ in range(count)]
    return Lengths([Length(row, 256 * n + draw.randint(20, 300), n, 15) for row, n in enumerate(tiles)], "a stream")


def test_a_plan_by_hand() -> None:
    rows = [Length(0, 1000, 3, 10), Length(1, 1000, 3, 10), Length(2, 500, 1, 10), Length(3, 1000, 3, 10)]
    packs = [Chosen(0, 0, [0], False), Chosen(0, 1, [1], False), Chosen(1, 0, [2], False), Chosen(1, 1, [3], False)]
    found = estimate_stage(recipe(), Lengths(rows, "x"), packs, MACHINE)
    flops = ModelFlops.of(preset("sail-vl-2b"), ["vision", "projector", "llm"])
    large, small = flops.total(1000, 3, 10, 1000**2), flops.total(500, 1, 10, 500**2)
    balance = (1 + (large + small) / (2 * large)) / 2
    assert found["flops_per_sample"] == pytest.approx((3 * large + small) / 4)
    assert found["efficiency"]["sum"] == pytest.approx(balance)
    assert found["samples_per_s_per_device"] == pytest.approx(0.5e15 / found["flops_per_sample"] * balance)
    assert found["device_hours"] == pytest.approx(1000 / found["samples_per_s_per_device"] / 3600)
    assert (found["samples_per_step"], found["steps"], found["fill_tokens"]) == (2, 500, 875 / 4096)
    assert found["fill"] == pytest.approx(875 / (8 * 3500 / 10))  # tiles are the tighter cap
    assert found["efficiency"]["module"] <= found["efficiency"]["sum"] and found["memory"]["fits"]


def test_ranks_that_meet_in_every_layer_wait_for_the_slowest_part() -> None:
    """One pack all pictures, one all text: the slowest tower and the slowest language model add up."""
    rows = [Length(0, 1024, 4, 0), Length(1, 3000, 0, 0)]
    found = estimate_stage(recipe(), Lengths(rows, "x"), [Chosen(0, 0, [0], False), Chosen(0, 1, [1], False)], MACHINE)
    flops = ModelFlops.of(preset("sail-vl-2b"), ["vision", "projector", "llm"])
    vision, shown, text = flops.vision(4), flops.llm(1024, 0, 1024**2), flops.llm(3000, 0, 3000**2)
    assert found["efficiency"]["module"] == pytest.approx((vision + shown + text) / (2 * (vision + max(shown, text))))
    assert found["efficiency"]["sum"] == pytest.approx((vision + shown + text) / (2 * max(vision + shown, text)))


@pytest.mark.parametrize("whole", [True, False])
def test_every_row_once_and_steps_are_full_or_flushed(whole: bool) -> None:
    lengths = stream(400)
    packs = choose_packs(recipe(global_batch_samples=24), lengths, 4, whole=whole)
    assert sorted(row for pack in packs for row in pack.rows) == list(range(400))
    assert all(row % 4 == pack.lane for pack in packs for row in pack.rows)
    steps: dict[int, list[Chosen]] = {}
    for pack in packs:
        steps.setdefault(pack.step, []).append(pack)
    sizes = {len(members) for members in steps.values() if not any(pack.flush for pack in members)}
    assert len(sizes) == 1 and sizes.pop() % 4 == 0 and list(steps) == sorted(steps)
    for pack in packs:
        assert sum(lengths.rows[row].num_tokens for row in pack.rows) <= 4096
        assert sum(lengths.rows[row].num_tiles for row in pack.rows) <= 8
    found = estimate_stage(recipe(), lengths, packs, MACHINE)
    assert 0.9 < found["efficiency"]["sum"] <= 1 and found["longest_wait"] <= 32


def test_too_short_a_stream_has_no_full_step() -> None:
    lengths = stream(3)
    packs = choose_packs(recipe(), lengths, 8, whole=True)
    found = estimate_stage(recipe(), lengths, packs, Machine(MACHINE.sheet, 0.5, 8))
    assert all(pack.flush for pack in packs) and found["efficiency"] == {"sum": None, "module": None}
    assert found["device_hours"] > 0


def test_longest_wait_counts_steps_behind_a_later_row_of_the_same_rank() -> None:
    packs = [Chosen(0, 0, [2], False), Chosen(1, 0, [4], False), Chosen(3, 0, [0], False), Chosen(9, 1, [1], False)]
    assert longest_wait(packs) == 3 and longest_wait(packs[:2]) == 0


def test_samples_follow_the_recipes_end() -> None:
    lengths = stream(50)
    packs = choose_packs(recipe(), lengths, 2, whole=True)
    ends = [{"max_samples": 70}, {"max_samples": None, "max_steps": 3}, {"max_samples": None, "epochs": 2.0}]
    found = [estimate_stage(recipe(**end), lengths, packs, MACHINE)["samples"] for end in ends]
    assert found == [70, 24, 100]
