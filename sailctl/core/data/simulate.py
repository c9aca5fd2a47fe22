"""The packs a trainer would make of a finite list of lengths, without the samples: what `sailctl plan` counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sailctl.core.data.choose import WINDOW, Balance, CostPacker, Costs
from sailctl.core.data.pack_target import PROBED, pack_target


@dataclass(frozen=True, slots=True)
class Length:
    """The lengths of row `row`: tokens, tiles (thumbnails included), supervised tokens."""

    row: int
    num_tokens: int
    num_tiles: int
    num_targets: int
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Chosen:
    """One pack: the step and lane it belongs to, its rows in order; `flush` if closed only because the list ended."""

    step: int
    lane: int
    rows: list[int]
    flush: bool


def pack_stream(
    lengths: Sequence[Length],
    costs: Costs,
    *,
    lanes: int,
    tokens: int,
    tiles: int,
    balance: Balance = "sum",
    window: int = WINDOW,
    samples: float | None = None,
) -> Iterator[Chosen]:
    """Deal rows to lanes in turn and pack each lane as the loader does; every row comes once, packs as they close.

    `samples` is a lane's share of the global batch; without it a step is one pack, as full as can be, on each lane.
    Lengths over the caps raise ValueError.
    """
    if not lengths:
        return
    per_lane, target = pack_target(
        lengths[:PROBED], costs, tokens=tokens, tiles=tiles, samples=samples, exact=lanes == 1, balance=balance
    )
    packers: list[CostPacker[Length]] = [CostPacker(tokens, tiles, window, costs, target) for _ in range(lanes)]
    made = [0] * lanes
    for number, length in enumerate(lengths):
        lane = number % lanes
        for group in packers[lane].add(length):
            yield Chosen(made[lane] // per_lane, lane, [item.row for item in group], False)
            made[lane] += 1
    for lane, packer in enumerate(packers):
        for group in packer.flush():
            yield Chosen(made[lane] // per_lane, lane, [item.row for item in group], True)
            made[lane] += 1
