"""Which samples share a pack: packs of equal cost under hard caps, chosen online from a bounded pool.

Ranks wait for the slowest, so a pack is filled to a cost and not to a length: what its tokens, its squared lengths and
its tiles cost in this stage. Packs of one cost keep ranks in step with no communication. Pure: no I/O, no randomness,
integer arithmetic, so that every machine chooses the same packs.

How: the oldest samples that fit make a first draft; then single samples are swapped for waiting ones, added or taken
out, the best such move first, until the draft's cost is as close to the target as it gets. The oldest always goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np

Balance = Literal["sum", "module"]

WINDOW = 24  # samples to choose from beyond a full pack, where nobody says otherwise: the default of data.pack_window
PROBED = 512  # samples, the first of all lanes together, that are measured to know what a pack holds
FILL = 0.955  # of the tighter cap: the room that is left lets packs of any composition reach the same cost
WAIT_LIMIT = 32  # packs a sample may wait, at most
_UNIT = 1 << 32  # a target's cost in the integer units all costs are rounded to
_ROUNDS = 6
_GOOD = _UNIT // 400  # a draft this close is not worth another search
_OVER = 4  # above the target every rank waits, below it only this one has less to do
_DRIFT = 0.01  # how far a lane's composition may bend its own targets
_TILTS = (1.0, 1.05, 1.1, 1.2)  # more vision than the mean, to make up for packs that long documents leave no room in
_RANKS = 16


class Packable(Protocol):
    """What the chooser looks at: lengths of a sample, and its epoch: no sample overtakes one of an earlier epoch."""

    @property
    def num_tokens(self) -> int: ...

    @property
    def num_tiles(self) -> int: ...

    @property
    def num_targets(self) -> int: ...

    @property
    def epoch(self) -> int: ...


Item = TypeVar("Item", bound=Packable)


@dataclass(frozen=True, slots=True)
class Costs:
    """What one unit costs in this stage, forward and backward, in any one unit (FLOPs as a rule).

    `per_square` counts a document's length squared: attention. A tile's cost is the tower's and the projector's; its
    tokens count as tokens.
    """

    per_tile: float = 0.0
    per_token: float = 1.0
    per_target: float = 0.0
    per_square: float = 0.0

    def of(self, item: Packable) -> tuple[float, float]:
        """(vision, language model) cost of a sample."""
        tokens = item.num_tokens
        llm = tokens * (self.per_token + tokens * self.per_square) + item.num_targets * self.per_target
        return item.num_tiles * self.per_tile, llm


@dataclass(frozen=True, slots=True)
class Target:
    """What every pack of a stage is filled to: costs in `Costs`' unit, and a number of samples where that is the limit.

    `balance` "sum" evens out vision and language model together (ranks meet once a step: DDP, ZeRO 1 and 2), "module"
    each of them (ranks meet in every layer: ZeRO 3).
    """

    vision: float
    llm: float
    samples: int | None = None
    balance: Balance = "sum"


def pack_target(
    sizes: Sequence[Packable],
    costs: Costs,
    *,
    tokens: int,
    tiles: int,
    samples: float | None = None,
    balance: Balance = "sum",
) -> tuple[int, Target]:
    """(packs, target): how many packs hold `samples` samples of a stream like `sizes`, and what each is filled to.

    Without `samples` one pack, as full as can be. `sizes` must not be empty.
    """
    count = len(sizes)
    mean_tokens = sum(item.num_tokens for item in sizes) / count
    mean_tiles = sum(item.num_tiles for item in sizes) / count
    held = FILL * min(tokens / mean_tokens, tiles / mean_tiles if mean_tiles else float("inf"))
    held = max(held, 1.0)
    packs = 1 if samples is None else max(1, ceil(samples / held - 0.05))
    each = held if samples is None else min(samples / packs, held)
    limit = ceil(each) if samples is not None and ceil(each) <= held else None
    each = limit or each
    pairs = [costs.of(item) for item in sizes]
    vision, llm = (each * sum(pair[part] for pair in pairs) / count for part in (0, 1))
    target = Target(vision, llm, limit, balance)
    if balance == "module" and vision and limit is None:
        most = tiles * costs.per_tile / vision
        tilts = [replace(target, vision=vision * tilt) for tilt in _TILTS if tilt == 1 or tilt < most]
        target = max(tilts, key=lambda tilted: _rehearse(sizes, costs, tokens, tiles, tilted))
    return packs, target


def _rehearse(sizes: Sequence[Packable], costs: Costs, tokens: int, tiles: int, target: Target) -> float:
    """Efficiency of a few ranks that meet in every layer, were their packs chosen for this target from `sizes`."""
    packer: CostPacker[Packable] = CostPacker(tokens, tiles, WINDOW, costs, target)
    pairs = []
    for item in [*sizes, *sizes, *sizes]:
        for group in packer.add(item):
            vision, llm = zip(*map(costs.of, group), strict=True)
            pairs.append((sum(vision), sum(llm)))
    steps = [pairs[start : start + _RANKS] for start in range(0, len(pairs) - _RANKS + 1, _RANKS)]
    slowest = [max(vision for vision, _ in step) + max(llm for _, llm in step) for step in steps]
    return sum(sum(map(sum, step)) / each for step, each in zip(steps, slowest, strict=True)) / max(1, len(steps))


class CostPacker(Generic[Item]):
    """Takes samples one by one and gives groups of equal cost, each under the caps.

    A group is chosen when `window` samples wait beyond a full draft. `waiting`, oldest first, and `ages`, how many
    groups each has seen go, are the whole state.
    """

    def __init__(self, tokens: int, tiles: int, window: int, costs: Costs, target: Target) -> None:
        self.tokens, self.tiles, self.window, self.costs = tokens, tiles, window, costs
        self.target = target
        whole = target.vision + target.llm
        self._scale = _UNIT / whole
        self._vision, self._llm = round(target.vision * self._scale), round(target.llm * self._scale)
        self.waiting: list[Item] = []
        self.ages: list[int] = []
        self._rows: list[tuple[int, int, int, int]] = []  # tokens, tiles, vision and language model cost of each
        self._redraft()

    def restore(self, waiting: Sequence[Item], ages: Sequence[int]) -> None:
        """Go on from a saved state."""
        self.waiting, self.ages = list(waiting), list(ages)
        self._rows = [self._row(item) for item in waiting]
        self._redraft()

    def add(self, item: Item) -> list[list[Item]]:
        """Take one sample; returns the groups that are complete now (usually none). ValueError if it can never fit."""
        if item.num_tokens > self.tokens or item.num_tiles > self.tiles:
            raise ValueError(
                f"a sample of {item.num_tokens} tokens and {item.num_tiles} tiles does not fit a pack of "
                f"{self.tokens} tokens and {self.tiles} tiles"
            )
        self.waiting.append(item)
        self.ages.append(0)
        self._rows.append(self._row(item))
        if not self._drafted:
            self._draft_next()
        groups = []
        while self._drafted and len(self.waiting) - self._draft >= self.window:
            groups.append(self._close())
        return groups

    def flush(self) -> list[list[Item]]:
        """Group everything that still waits."""
        groups = []
        while self.waiting:
            groups.append(self._close())
        return groups

    def _row(self, item: Item) -> tuple[int, int, int, int]:
        vision, llm = self.costs.of(item)
        return item.num_tokens, item.num_tiles, round(vision * self._scale), round(llm * self._scale)

    # --- the draft: the oldest samples, as many as reach the target ------------------------------------------------

    def _redraft(self) -> None:
        self._draft = self._tokens = self._tiles = self._cost = 0
        self._drafted = False
        while not self._drafted and self._draft < len(self._rows):
            self._draft_next()

    def _draft_next(self) -> None:
        tokens, tiles, vision, llm = self._rows[self._draft]
        cost, limit = vision + llm, self.target.samples
        if (
            self._tokens + tokens > self.tokens
            or self._tiles + tiles > self.tiles
            or (self._draft >= limit if limit else self._draft and self._cost + cost // 2 > _UNIT)
        ):
            self._drafted = True
            return
        self._draft += 1
        self._tokens += tokens
        self._tiles += tiles
        self._cost += cost

    # --- the search ------------------------------------------------------------------------------------------------

    def _close(self) -> list[Item]:
        taken = self._search()
        group = [self.waiting[index] for index in taken]
        for index in reversed(taken):
            del self.waiting[index], self.ages[index], self._rows[index]
        self.ages = [age + 1 for age in self.ages]
        self._redraft()
        return group

    def _search(self) -> list[int]:
        """Indices of the group to take, ascending. Each round makes the best single move there is, if any is good."""
        count, limit = len(self._rows), self.target.samples
        inside, outside = list(range(self._draft)), list(range(self._draft, count))
        table = np.array([*self._rows, (0, 0, 0, 0)], dtype=np.int64).T  # the last column: nothing at all
        pinned = self._due()
        mixed = self.waiting[0].epoch != self.waiting[-1].epoch
        want_vision, want_llm = self._bent_target(table)
        used = table[:, : self._draft].sum(axis=1)
        state = used - np.array([self.tokens, self.tiles, want_vision, want_llm])  # room is negative
        score = self._score(int(state[2]), int(state[3]))
        for _ in range(_ROUNDS):
            if score <= _GOOD:
                break
            leave, enter, border = inside[pinned:], outside, False
            if mixed:  # only the newest epoch inside may leave and only the oldest outside enter
                last = max(self.waiting[index].epoch for index in inside)
                first = min((self.waiting[index].epoch for index in outside), default=last)
                leave = [index for index in leave if self.waiting[index].epoch == last]
                enter = [index for index in outside if self.waiting[index].epoch == first]
                border = first > last
            free = limit is None or len(inside) < limit
            if free:
                leave, enter = [*leave, count], [*enter, count]
            if not leave or not enter or (border and not free):
                break
            moved = (state[:, None] - table[:, leave])[:, :, None] + table[:, enter][:, None, :]
            scores = self._scores(moved[2], moved[3])
            scores[(moved[0] > 0) | (moved[1] > 0)] = np.iinfo(np.int64).max
            if border:  # no swap across it, but one may leave and one may enter
                scores[:-1, :-1] = np.iinfo(np.int64).max
            best = int(scores.argmin())
            row, column = divmod(best, len(enter))
            if scores[row, column] >= score:
                break
            score, state = int(scores[row, column]), moved[:, row, column]
            out, into = leave[row], enter[column]
            if out < count:
                inside.remove(out)
                outside.append(out)
            if into < count:
                inside.append(into)
                outside.remove(into)
                inside.sort()
        return inside

    def _due(self) -> int:
        """How many of the oldest must go now, so that with as many every time nobody waits beyond the limit."""
        return max(-(-(index + 1) // max(1, WAIT_LIMIT - age)) for index, age in enumerate(self.ages))

    def _bent_target(self, table: np.ndarray) -> tuple[int, int]:
        """The targets, bent a little towards what waits: a lane that holds too much of one thing must spend it."""
        vision, llm = self._vision, self._llm
        if self.target.balance == "sum" or not vision:
            return vision, llm
        all_vision, all_llm = int(table[2].sum()), int(table[3].sum())
        surplus = all_vision * llm / (all_llm * vision) - 1
        bend = max(-_DRIFT, min(_DRIFT, surplus / 2))
        return round(vision * (1 + bend)), round(llm * (1 - bend))

    def _scores(self, vision: np.ndarray, llm: np.ndarray) -> np.ndarray:
        """How bad it is to be off by these costs; too much is worse than too little."""
        if self.target.balance == "module":
            return np.maximum(_OVER * vision, -vision) + np.maximum(_OVER * llm, -llm)
        both = vision + llm  # and the composition, too: no cost model is so exact that it would not matter
        return np.maximum(_OVER * both, -both) + np.abs(vision) // 4

    def _score(self, vision: int, llm: int) -> int:
        return int(self._scores(np.int64(vision), np.int64(llm)))  # type: ignore[arg-type]
