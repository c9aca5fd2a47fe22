"""The order of the data: a pure function of (seed, mixture, lane, position), with no state but a position.

Draws are numbered over all lanes: draw t = position · lanes + lane. Draw t belongs to one source, as its n-th draw; the
n-th draw of a source of N samples is the one at place n mod N of that source's permutation for epoch n div N. So every
ordinal comes exactly once per epoch over all lanes, any position is reached without walking to it, and neither ranks
nor workers matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import lcm

from sailctl.core.schema.data import SourceConfig

_MASK = (1 << 64) - 1
_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Ref:
    """One draw: the sample `ordinal` of source number `source`, met in that source's `epoch`, and where it stands."""

    source: int
    ordinal: int
    lane: int
    position: int
    epoch: int


def permute(index: int, size: int, seed: int, source: int, epoch: int) -> int:
    """Where `index` goes in the permutation of range(size) of this seed, source and epoch; constant memory.

    A Feistel network over the next even number of bits, walked until it lands inside (at most about 4 steps on
    average): Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002.
    """
    if size == 1:
        return 0
    half = ((size - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    keys = _round_keys(seed, source, epoch)
    while True:
        left, right = index >> half, index & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        index = left << half | right
        if index < size:
            return index


@lru_cache(maxsize=1024)
def _round_keys(seed: int, source: int, epoch: int) -> tuple[int, ...]:
    digest = hashlib.blake2b(f"{seed} {source} {epoch}".encode(), digest_size=8 * _ROUNDS).digest()
    return tuple(int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(_ROUNDS))


def _mix(value: int) -> int:
    """SplitMix64's finaliser."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class Mixture:
    """Which source a draw belongs to, by weight, as evenly spread as it can be; exact integer arithmetic.

    Sources are split off one by one: of the first t draws reaching a branch, floor((t · w + W / 2) / W) go to its
    source, w of W being its share of what is left. Counts so never stray from the shares by more than a few draws,
    and the n-th draw of a source is known without counting.
    """

    @classmethod
    def of(cls, sizes: Sequence[int], sources: Sequence[SourceConfig]) -> Mixture:
        """The mixture of sources of these sizes; a source without repeats comes once an epoch."""
        weights = [
            Fraction(source.weight) if source.weight is not None else size * Fraction(str(source.repeats or 1))
            for size, source in zip(sizes, sources, strict=True)
        ]
        mixture = cls(sizes, weights)
        if all(source.weight is None for source in sources):
            mixture.epoch = round(sum(weights))
        return mixture

    def __init__(self, sizes: Sequence[int], weights: Sequence[float | Fraction | None]) -> None:
        exact = [
            Fraction(size) if weight is None else Fraction(weight) for size, weight in zip(sizes, weights, strict=True)
        ]
        unit = lcm(*(share.denominator for share in exact))
        self.sizes = list(sizes)
        self.epoch = sum(sizes)  # draws of one epoch of the whole: with repeats, until every source had its own
        self.shares = [int(share * unit) for share in exact]
        self._left = [sum(self.shares[number:]) for number in range(len(exact))]

    def draw(self, number: int) -> tuple[int, int]:
        """The source of a draw, and how many draws of that source came before it."""
        last = len(self.shares) - 1
        for source in range(last):
            share, left = self.shares[source], self._left[source]
            taken = (number * share + left // 2) // left
            if ((number + 1) * share + left // 2) // left > taken:
                return source, taken
            number -= taken
        return last, number

    def counts(self, draws: int) -> list[int]:
        """How many of the first so many draws each source gets."""
        counts = []
        for share, left in zip(self.shares[:-1], self._left, strict=False):
            counts.append((draws * share + left // 2) // left)
            draws -= counts[-1]
        return [*counts, draws]


@dataclass(frozen=True)
class Order:
    """The order of a mixture over `lanes` fixed streams."""

    mixture: Mixture
    seed: int
    lanes: int
    shuffle: bool = True

    def ref(self, lane: int, position: int) -> Ref:
        """What stands at a position of a lane."""
        source, number = self.mixture.draw(position * self.lanes + lane)
        size = self.mixture.sizes[source]
        epoch, place = divmod(number, size)
        ordinal = permute(place, size, self.seed, source, epoch) if self.shuffle else place
        return Ref(source, ordinal, lane, position, epoch)


@dataclass(slots=True)
class LaneCursor:
    """How far a lane has been read; its whole state is the next position."""

    order: Order
    lane: int
    position: int = 0

    def next(self) -> Ref:
        """The next draw of the lane."""
        found = self.order.ref(self.lane, self.position)
        self.position += 1
        return found

    def state_dict(self) -> dict[str, int]:
        """What `load_state_dict` takes, as JSON."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a saved position."""
        self.position = int(state["position"])
