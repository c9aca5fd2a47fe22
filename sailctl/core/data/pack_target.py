"""What packs are filled to: chosen by rehearsing the packer on the first samples of the stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from sailctl.core.data.choose import WINDOW, Balance, CostPacker, Costs, Packable, Target

PROBED = 512  # samples, the first of all lanes together, that are measured to know what a pack holds
FILL = 0.955  # of the tighter cap: the room that is left lets packs of any composition reach the same cost
_FULLER = (1.0, 1.04, 1.08, 1.14, 1.22)  # beyond FILL: where single samples cost as much as a pack, ranks wait less
_EMPTIER = (0.92, 0.85)  # so do they where long documents leave no room for tiles in some packs
_EVERY = (4, 8)  # packs, of which one may hold giants
_POOR = 0.75
_TILTS = (1.05, 1.1, 1.2)  # more vision than the mean, to make up for packs that long documents leave no room in
_ALIKE = 0.001  # efficiencies this close are the same, and the fuller pack is the better one
_MUCH_WORSE = 0.005
_WORTH = 0.02  # less is not worth that samples wait, or packs stay emptier
_PACKS = 24  # to rehearse, if that is not too long
_RANKS = 64  # that meet; the more there are, the dearer the dearest pack of a step


def pack_target(
    sizes: Sequence[Packable],
    costs: Costs,
    *,
    tokens: int,
    tiles: int,
    samples: float | None = None,
    exact: bool = False,
    balance: Balance = "sum",
) -> tuple[int, Target]:
    """(packs, target): how many packs hold `samples` samples of a stream like `sizes`, and what each is filled to.

    They hold as many on average; `exact`, for a lane that waits for no other, in every pack where the caps allow it.
    Without `samples` one pack, as full as ranks that wait for one another can use. `sizes` must not be empty.
    """
    count = len(sizes)
    mean_tokens = sum(item.num_tokens for item in sizes) / count
    mean_tiles = sum(item.num_tiles for item in sizes) / count
    room = FILL * min(tokens / mean_tokens, tiles / mean_tiles if mean_tiles else float("inf"))
    room = max(room, 1.0)
    packs = 1 if samples is None else max(1, ceil(samples / room - 0.05))
    each = room if samples is None else min(samples / packs, room)
    limit = ceil(each) if exact and samples is not None and ceil(each) <= room else None
    each = limit or each
    pairs = [costs.of(item) for item in sizes]
    vision, llm = (each * sum(pair[part] for pair in pairs) / count for part in (0, 1))
    mean = Target(vision, llm, limit, balance)
    rehearsed = _repeated(sizes, max(PROBED, min(_PACKS * ceil(each), 8 * PROBED)))
    stage = _Rehearsal(rehearsed, costs, tokens, tiles, balance)
    fuller, emptier = (_FULLER, _EMPTIER) if samples is None else ((1.0,), ())
    giants = not exact and stage.has_giants(mean)
    efficiency, target = stage.settle(mean, fuller, emptier) if samples is None or giants else (0.0, mean)
    if giants:
        held = [stage.settle(replace(mean, every=every), fuller[:3], emptier) for every in _EVERY]
        together, held_back = max(held, key=lambda pair: pair[0])
        if together > efficiency + _WORTH:
            efficiency, target = together, held_back
    if balance == "module" and vision and limit is None:
        most = tiles * costs.per_tile / target.vision
        tilted = [target, *(_times(target, tilt, 1.0) for tilt in _TILTS if tilt < most)]
        efficiency, target = stage.best(tilted, alike=0.0)
        if efficiency < _POOR:  # where packs cannot be alike in both parts, trying to makes them alike in neither
            often = (1, *_EVERY) if giants else (1,)
            best, alike_in_sum = stage.best([replace(mean, balance="sum", every=every) for every in often])
            if best > efficiency + _WORTH:
                target = alike_in_sum
    return packs, target


def _repeated(sizes: Sequence[Packable], least: int) -> list[Packable]:
    return [*sizes] * -(-least // len(sizes))


def _times(target: Target, vision: float, llm: float) -> Target:
    return replace(target, vision=target.vision * vision, llm=target.llm * llm)


class _Rehearsal:
    """Packs of `sizes`, as one lane would choose them for a target, and how long ranks would wait for one another."""

    def __init__(self, sizes: Sequence[Packable], costs: Costs, tokens: int, tiles: int, balance: Balance) -> None:
        self.sizes, self.costs, self.caps, self.balance = sizes, costs, (tokens, tiles), balance
        self._known: dict[Target, float] = {}

    def has_giants(self, target: Target) -> bool:
        """Whether some sample alone costs more than a pack should."""
        packer: CostPacker[Packable] = CostPacker(*self.caps, WINDOW, self.costs, target)
        return any(map(packer.is_giant, self.sizes))

    def settle(self, mean: Target, fuller: Sequence[float], emptier: Sequence[float]) -> tuple[float, Target]:
        """(efficiency, target): `mean` times the best of `fuller`, or of `emptier` if that is much better."""
        efficiency, target = self.best([_times(mean, by, by) for by in fuller])
        for by in emptier:
            less = _times(mean, by, by)
            gained = self.efficiency(less)
            if gained < efficiency + _WORTH:
                break
            efficiency, target = gained, less
        return efficiency, target

    def best(self, targets: Sequence[Target], alike: float = _ALIKE) -> tuple[float, Target]:
        """(efficiency, target): the last of the targets that are as good as the best; none after a much worse one."""
        found, most = [], 0.0
        for target in targets:
            found.append((self.efficiency(target), target))
            most = max(most, found[-1][0])
            if found[-1][0] < most - _MUCH_WORSE:
                break
        return [pair for pair in found if pair[0] >= most - alike][-1]

    def efficiency(self, target: Target) -> float:
        """The share of the time that ranks compute while all wait for the slowest, in the mean of steps like these."""
        if target not in self._known:
            self._known[target] = self._rehearse(target)
        return self._known[target]

    def _rehearse(self, target: Target) -> float:
        packer: CostPacker[Packable] = CostPacker(*self.caps, WINDOW, self.costs, target)
        phases: tuple[list[tuple[float, float]], ...] = ([], [])  # packs giants keep out of, packs they may be in
        stream = _repeated(self.sizes, 2 * len(self.sizes)) if target.every > 1 else self.sizes
        for number, group in enumerate((group for item in stream for group in packer.add(item)), 1):
            vision, llm = zip(*map(self.costs.of, group), strict=True)
            phases[number % target.every == 0].append((sum(vision), sum(llm)))
        useful = sum(vision + llm for phase in phases for vision, llm in phase)
        taken = 0.0
        for phase in filter(None, phases):
            if self.balance == "module":
                slowest = sum(_expected_most(part) for part in zip(*phase, strict=True))
            else:
                slowest = _expected_most([vision + llm for vision, llm in phase])
            taken += len(phase) * slowest
        return useful / taken if taken else 0.0


def _expected_most(costs: Sequence[float]) -> float:
    """The mean of the greatest of `_RANKS` draws from `costs`, with replacement."""
    count = len(costs)
    below = [number**_RANKS for number in range(count + 1)]  # exact, so that every machine finds the same
    return sum(
        cost * ((more - less) / below[-1]) for cost, less, more in zip(sorted(costs), below, below[1:], strict=False)
    )
