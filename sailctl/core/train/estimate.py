"""What a stage would cost, before anything runs: packs, fill, balance, memory, samples/s, device-hours. No torch.

The packs are those the trainer's own chooser makes of the lengths. Time is arithmetic: the model's FLOPs at a stated
MFU of a stated device, and the wait for the slowest rank on top.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sailctl.core.data.choose import Costs
from sailctl.core.data.lengths import Lengths
from sailctl.core.data.simulate import Chosen, Length, pack_stream
from sailctl.core.datasheet import DataSheet
from sailctl.core.model.flops import ModelFlops
from sailctl.core.model.presets import model_config
from sailctl.core.schema.recipe import Recipe
from sailctl.core.schema.train import TrainConfig
from sailctl.core.train.memory import Memory, estimate_memory
from sailctl.core.train.schedule import Budget


@dataclass(frozen=True, slots=True)
class Machine:
    """What is assumed of the machine: `ranks` devices that reach `mfu` of their peak while they compute."""

    sheet: DataSheet
    mfu: float
    ranks: int


@dataclass(frozen=True, slots=True)
class PackCost:
    """A pack's lengths summed and what it costs in one step, vision and language model, recomputation included."""

    tokens: int
    tiles: int
    targets: int
    vision: float
    llm: float


def choose_packs(recipe: Recipe, lengths: Lengths, ranks: int, *, whole: bool) -> list[Chosen]:
    """The packs of a finite stream in the order of steps and ranks; row i belongs to rank i mod `ranks`.

    With `whole` a step is one pack, as full as can be, on each rank; otherwise each rank makes its share of the
    recipe's global batch. A step that some rank has no pack for exists only because the stream ended: all of it is
    marked `flush`.
    """
    data, train = recipe.data, recipe.train
    flops = ModelFlops.of(model_config(recipe.model), train.trainable)
    packs = pack_stream(
        lengths.rows,
        Costs(flops.per_tile, flops.per_token, flops.per_target, flops.per_square),
        lanes=ranks,
        tokens=data.pack_tokens,
        tiles=data.pack_tiles,
        balance=data.balance,
        window=data.pack_window,
        samples=None if whole else train.global_batch_samples / ranks,
    )
    made = sorted(packs, key=lambda pack: (pack.step, pack.lane))
    steps: dict[int, list[Chosen]] = defaultdict(list)
    for pack in made:
        steps[pack.step].append(pack)
    full = max(map(len, steps.values()), default=0)
    full = -(-full // ranks) * ranks
    ended = {number for number, members in steps.items() if len(members) < full}
    return [
        Chosen(pack.step, pack.lane, pack.rows, True) if pack.step in ended and not pack.flush else pack
        for pack in made
    ]


def estimate_stage(recipe: Recipe, lengths: Lengths, packs: Sequence[Chosen], machine: Machine) -> dict[str, Any]:
    """Figures of one stage; what cannot be known (no full step in so short a stream) is null."""
    config, train, data = model_config(recipe.model), recipe.train, recipe.data
    needed = ModelFlops.of(config, train.trainable)
    executed = ModelFlops.of(config, train.trainable, checkpointing=train.gradient_checkpointing)
    costs = [_cost(executed, [lengths.rows[row] for row in pack.rows]) for pack in packs]
    steps = _full_steps(packs)
    steady = [number for members in steps for number in members] or list(range(len(packs)))
    count = len(lengths.rows)
    tokens, tiles, targets = (sum(getattr(row, name) for row in lengths.rows) for name in _SIZES)
    squares = sum(row.num_tokens**2 for row in lengths.rows)
    flops = needed.total(tokens, tiles, targets, squares) / count
    kept = min(data.pack_tokens, data.pack_tiles * tokens / tiles) if tiles else data.pack_tokens
    mean_tokens = sum(costs[number].tokens for number in steady) / len(steady)
    mean_tiles = sum(costs[number].tiles for number in steady) / len(steady)
    efficiency = {"sum": _efficiency(packs, costs, steps, "sum"), "module": _efficiency(packs, costs, steps, "module")}
    useful = efficiency[data.balance] or 1.0
    samples_per_pack = sum(len(packs[number].rows) for number in steady) / len(steady)
    samples_per_step = samples_per_pack * len(steps[0]) if steps else None
    per_device = machine.mfu * machine.sheet.peak_bf16 / flops * useful
    planned = _samples(recipe, count)

    def most_memory(how: TrainConfig) -> Memory:
        sizes = ({"tokens": cost.tokens, "tiles": cost.tiles, "targets": cost.targets} for cost in costs)
        needed = (estimate_memory(config, how, ranks=machine.ranks, **size) for size in sizes)
        return max(needed, key=lambda memory: memory.total)

    worst = most_memory(train)
    without = train.model_copy(update={"gradient_checkpointing": False})
    kept_whole = most_memory(without) if train.gradient_checkpointing else worst
    return {
        "stage": recipe.stage,
        "trainable": list(train.trainable),
        "packs": len(packs),
        "flush": sum(pack.flush for pack in packs),
        "fill": mean_tokens / kept,
        "fill_tokens": mean_tokens / data.pack_tokens,
        "fill_tiles": mean_tiles / data.pack_tiles,
        "longest_wait": longest_wait(packs),
        "balance": data.balance,
        "efficiency": efficiency,
        "full_steps": len(steps),
        "samples_per_pack": samples_per_pack,
        "samples_per_step": samples_per_step,
        "global_batch_samples": train.global_batch_samples,
        "flops_per_sample": flops,
        "recompute": executed.total(tokens, tiles, targets, squares) / count / flops - 1,
        "samples_per_s": per_device * machine.ranks,
        "samples_per_s_per_device": per_device,
        "samples": planned,
        "steps": -(-planned // max(1, round(samples_per_step))) if samples_per_step else None,
        "device_hours": planned / per_device / 3600,
        "memory": {
            **worst.to_dict(),
            "device": machine.sheet.memory_bytes,
            "fits": worst.total <= machine.sheet.memory_bytes,
            "without_recompute": kept_whole.total,
        },
    }


def longest_wait(packs: Sequence[Chosen]) -> int:
    """The most steps by which a row left after a later row of the same rank."""
    longest = 0
    lanes: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for pack in packs:
        lanes[pack.lane] += [(row, pack.step) for row in pack.rows]
    for left in lanes.values():
        earliest: float = float("inf")
        for _, step in sorted(left, reverse=True):
            if step - earliest > longest:
                longest = int(step - earliest)
            earliest = min(earliest, step)
    return longest


_SIZES = ("num_tokens", "num_tiles", "num_targets")


def _cost(flops: ModelFlops, rows: Sequence[Length]) -> PackCost:
    tokens, tiles, targets = (sum(getattr(row, name) for row in rows) for name in _SIZES)
    squares = sum(row.num_tokens**2 for row in rows)
    return PackCost(tokens, tiles, targets, flops.vision(tiles), flops.llm(tokens, targets, squares))


def _full_steps(packs: Sequence[Chosen]) -> list[list[int]]:
    """Numbers of the packs of each step that every rank has its packs for, none of them a flush."""
    steps: dict[int, list[int]] = defaultdict(list)
    for number, pack in enumerate(packs):
        steps[pack.step].append(number)
    return [members for members in steps.values() if not any(packs[number].flush for number in members)]


def _efficiency(
    packs: Sequence[Chosen], costs: Sequence[PackCost], steps: Sequence[Sequence[int]], kind: str
) -> float | None:
    """Mean over full steps of useful cost ÷ (ranks × the slowest).

    "sum": ranks meet once a step, after all of their packs. "module": they meet in every layer of every pack, so that
    the slowest tower and the slowest language model may be of different ranks.
    """
    shares = []
    for members in steps:
        ranks: dict[int, list[PackCost]] = defaultdict(list)
        for number in members:
            ranks[packs[number].lane].append(costs[number])
        useful = sum(costs[number].vision + costs[number].llm for number in members)
        if kind == "sum":
            slowest = max(sum(cost.vision + cost.llm for cost in mine) for mine in ranks.values())
        else:
            together = zip(*ranks.values(), strict=True)
            slowest = sum(max(c.vision for c in turn) + max(c.llm for c in turn) for turn in together)
        shares.append(useful / (len(ranks) * slowest))
    return sum(shares) / len(shares) if shares else None


def _samples(recipe: Recipe, available: int) -> int:
    """Samples the stage trains on, by the recipe's own end."""
    budget = Budget.of(recipe.train, available)
    ends = [budget.max_steps * recipe.train.global_batch_samples] if budget.max_steps else []
    return min([*ends, budget.max_samples] if budget.max_samples else ends)
