"""Which samples share a pack: packs of equal cost under hard caps, chosen online from a bounded pool.

Ranks wait for the slowest, so a pack is filled to a cost and not to a length: what its tokens, its squared lengths and
its tiles cost in this stage. Packs of one cost keep ranks in step with no communication. Pure: no I/O, no randomness,
integer arithmetic, so that every machine chooses the same packs.

How: the oldest samples that fit make a first draft; then single samples are swapped for waiting ones, added or taken
out, the best such move first, until the draft's cost is as close to the target as it gets. The oldest always goes.

A sample that alone costs more than the target, a giant, makes all ranks wait whenever one rank has it. Where there are
many, the target lets giants leave in every fourth or eighth pack only, the same ones on every rank: so they meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np

Balance = Literal["sum", "module"]

WINDOW = 24  # samples to choose from beyond a full pack, where nobody says otherwise: the default of data.pack_window
WAIT_LIMIT = 32  # packs a sample may wait, at most
_UNIT = 1 << 32  # a target's cost in the integer units all costs are rounded to
_ROUNDS = 6
_GOOD = _UNIT // 400  # a draft this close is not worth another search
_OVER = 4  # above the target every rank waits, below it only this one has less to do
_NEVER = np.iinfo(np.int64).max
_DRIFT = 0.01  # how far a lane's composition may bend its own targets


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
    each of them (ranks meet in every layer: ZeRO 3). Giants leave in every `every`-th pack.
    """

    vision: float
    llm: float
    samples: int | None = None
    balance: Balance = "sum"
    every: int = 1


class CostPacker(Generic[Item]):
    """Takes samples one by one and gives groups of equal cost, each under the caps.

    A group is chosen when `window` samples wait beyond a full draft, giants that are held back not counted. `waiting`,
    oldest first, `ages`, how many groups each has seen go, and `closed`, how many went, are the whole state.
    """

    def __init__(self, tokens: int, tiles: int, window: int, costs: Costs, target: Target) -> None:
        self.tokens, self.tiles, self.window, self.costs = tokens, tiles, window, costs
        self.target = target
        whole = target.vision + target.llm
        self._scale = _UNIT / whole
        self._vision, self._llm = round(target.vision * self._scale), round(target.llm * self._scale)
        self.waiting: list[Item] = []
        self.ages: list[int] = []
        self.closed = 0
        self._rows: list[tuple[int, int, int, int]] = []  # tokens, tiles, vision and language model cost of each
        self._redraft()

    def restore(self, waiting: Sequence[Item], ages: Sequence[int], closed: int) -> None:
        """Go on from a saved state."""
        self.waiting, self.ages, self.closed = list(waiting), list(ages), closed
        self._rows = [self._row(item) for item in waiting]
        self._redraft()

    def add(self, item: Item) -> list[list[Item]]:
        """Take one sample; returns the groups that are complete now (usually none). ValueError if it can never fit."""
        if item.num_tokens > self.tokens or item.num_tiles > self.tiles:
            raise ValueError(
                f"a sample of {item.num_tokens} tokens and {item.num_tiles} tiles does not fit a pack of "
                f"{self.tokens} tokens and {self.tiles} tiles"
            )
        begins = bool(self.waiting) and self.waiting[-1].epoch != item.epoch
        self.waiting.append(item)
        self.ages.append(0)
        self._rows.append(self._row(item))
        if begins:  # giants of the epoch before are held back no longer
            self._redraft()
        elif not self._held(len(self.waiting) - 1):
            self._open.append(len(self.waiting) - 1)
            if not self._drafted:
                self._draft_next()
        groups = []
        while self._drafted and len(self._open) - self._draft >= self.window:
            groups.append(self._close())
        return groups

    def flush(self) -> list[list[Item]]:
        """Group everything that still waits."""
        groups = []
        while self.waiting:
            if not self._open:  # nothing but giants
                self._redraft(hold=False)
            groups.append(self._close())
        return groups

    def is_giant(self, item: Item) -> bool:
        """Whether it alone costs more than a pack should."""
        return self._giant(self._row(item))

    def _giant(self, row: tuple[int, int, int, int]) -> bool:
        _, _, vision, llm = row
        if self.target.balance == "module":
            return vision > self._vision or llm > self._llm
        return vision + llm > _UNIT

    def _held(self, index: int) -> bool:
        """Whether this one is a giant that must wait for its pack, which it need not for long or beyond its epoch."""
        return (
            self._holds
            and self._giant(self._rows[index])
            and self.waiting[index].epoch == self.waiting[-1].epoch
            and self.ages[index] + index + 2 < WAIT_LIMIT  # the oldest always goes, so that it still can in time
        )

    def _row(self, item: Item) -> tuple[int, int, int, int]:
        vision, llm = self.costs.of(item)
        return item.num_tokens, item.num_tiles, round(vision * self._scale), round(llm * self._scale)

    # --- the draft: the oldest samples, as many as reach the target ------------------------------------------------

    def _redraft(self, hold: bool = True) -> None:
        everyone = range(len(self._rows))
        self._holds = hold and (self.closed + 1) % self.target.every != 0
        self._open = [index for index in everyone if not self._held(index)] if self._holds else list(everyone)
        self._draft = self._tokens = self._tiles = self._cost = 0
        self._drafted = False
        while not self._drafted and self._draft < len(self._open):
            self._draft_next()

    def _draft_next(self) -> None:
        tokens, tiles, vision, llm = self._rows[self._open[self._draft]]
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
        self.closed += 1
        self._redraft()
        return group

    def _search(self) -> list[int]:
        """Indices of the group to take, ascending. Each round makes the best single move there is, if any is good."""
        count, limit = len(self._rows), self.target.samples
        inside, outside = self._open[: self._draft], self._open[self._draft :]
        table = np.array([*self._rows, (0, 0, 0, 0)], dtype=np.int64).T  # the last column: nothing at all
        pinned = self._due()
        mixed = self.waiting[0].epoch != self.waiting[-1].epoch
        want_vision, want_llm = self._bent_target(table)
        used = table.take(inside, 1).sum(axis=1)
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
            moved = (state[:, None] - table.take(leave, 1))[:, :, None] + table.take(enter, 1)[:, None, :]
            scores = self._scores(moved[2], moved[3])
            scores[np.maximum(moved[0], moved[1]) > 0] = _NEVER
            if border:  # no swap across it, but one may leave and one may enter
                scores[:-1, :-1] = _NEVER
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
        if len(self._open) <= WAIT_LIMIT - self.ages[self._open[0]]:
            return 1  # one every time is enough for all
        ages = (self.ages[index] for index in self._open)
        return max(-(-place // max(1, WAIT_LIMIT - age)) for place, age in enumerate(ages, 1))

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
        return np.maximum(_OVER * both, -both) + (np.abs(vision) >> 2)

    def _score(self, vision: int, llm: int) -> int:
        return int(self._scores(np.int64(vision), np.int64(llm)))  # type: ignore[arg-type]
