"""One lane: a fixed stream of draws and its packer, with a state that is a few positions.

Draws are issued ahead of need (prefetch) and come back in order; only what the packer has taken counts as read.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sailctl.core.data.choose import CostPacker
from sailctl.core.data.fetch import Fetched
from sailctl.core.data.order import LaneCursor, Order, Ref
from sailctl.core.data.packing import Encoded
from sailctl.core.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """An encoded sample, its position in the lane, and how many times all data had been drawn before it."""

    position: int
    epoch: int
    encoded: Encoded

    @property
    def num_tokens(self) -> int:
        """Tokens, for the packer."""
        return self.encoded.num_tokens

    @property
    def num_tiles(self) -> int:
        """Tiles, for the packer."""
        return self.encoded.num_tiles

    @property
    def num_targets(self) -> int:
        """Supervised tokens, for the packer."""
        return self.encoded.num_targets


class Lane:
    """A lane's draws, packer and accounts. `pump` is called whenever another result has to arrive somewhere.

    The packer is given to `start`, once it is known what packs are filled to.
    """

    def __init__(self, order: Order, lane: int) -> None:
        self.order = order
        self.lane = lane
        self.packer: CostPacker[Placed] | None = None
        self.ready: deque[list[Placed]] = deque()
        self.position = 0  # the next draw the packer takes
        self.seen = 0
        self.rejected: Counter[str] = Counter()
        self.pending = 0  # issued and not yet taken
        self._ahead = LaneCursor(order, lane)
        self._again: deque[int] = deque()  # leftovers of a restored packer, to be read once more
        self._left_over: dict[str, Any] = {}
        self._arrived: deque[Fetched] = deque()

    def start(self, packer: CostPacker[Placed]) -> None:
        """Begin to draw."""
        self.packer = packer

    def issue(self) -> Ref:
        """The next draw to be fetched."""
        self.pending += 1
        return self.order.ref(self.lane, self._again.popleft()) if self._again else self._ahead.next()

    def arrive(self, fetched: Fetched) -> None:
        """A draw of this lane has been fetched; they arrive in the order of issue."""
        self._arrived.append(fetched)

    def next_group(self, pump: Callable[[], None], on_reject: Callable[[dict[str, Any]], None]) -> list[Encoded]:
        """The samples of the lane's next pack. Raises DataError for a lost shard."""
        packer = self._started()
        self._read_left_over(packer, pump)
        while not self.ready:
            fetched = self._take(pump)
            self.position = fetched.ref.position + 1
            self.seen += 1
            if fetched.encoded is not None:
                self.ready.extend(packer.add(self._placed(fetched.ref.position, fetched.encoded)))
            elif fetched.reject is not None:
                self.rejected[fetched.reject["reason"]] += 1
                on_reject(fetched.reject)
        return [placed.encoded for placed in self.ready.popleft()]

    def _take(self, pump: Callable[[], None]) -> Fetched:
        while not self._arrived:
            pump()
        self.pending -= 1
        fetched = self._arrived.popleft()
        if fetched.failure:
            raise DataError(fetched.failure)
        return fetched

    def _started(self) -> CostPacker[Placed]:
        if self.packer is None:
            raise RuntimeError("a lane that was not started")
        return self.packer

    def _placed(self, position: int, encoded: Encoded) -> Placed:
        draw = position * self.order.lanes + self.lane
        return Placed(position, draw // sum(self.order.mixture.sizes), encoded)

    def _read_left_over(self, packer: CostPacker[Placed], pump: Callable[[], None]) -> None:
        if not self._left_over:
            return
        saved, self._left_over = self._left_over, {}
        placed: dict[int, Placed] = {}
        for position in _positions(saved):
            fetched = self._take(pump)
            if fetched.encoded is None:
                row = fetched.reject or {}
                raise DataError(
                    f"sample {row.get('key')} of source {row.get('source')} was readable before and is not now "
                    f"({row.get('reason')}: {row.get('detail')}); restore the data this run began with"
                )
            placed[position] = self._placed(position, fetched.encoded)

        def back(positions: Iterable[int]) -> list[Placed]:
            return [placed[position] for position in positions]

        packer.restore(back(saved["waiting"]), saved["ages"], saved["closed"])
        self.ready = deque(back(group) for group in saved["ready"])

    def state_dict(self) -> dict[str, Any]:
        """Positions only: the next draw, the packer's leftovers, groups already chosen; and the accounts."""
        held = self._left_over or {
            "waiting": [placed.position for placed in self.packer.waiting] if self.packer else [],
            "ages": list(self.packer.ages) if self.packer else [],
            "closed": self.packer.closed if self.packer else 0,
            "ready": [[placed.position for placed in group] for group in self.ready],
        }
        return {"position": self.position, **held, "seen": self.seen, "rejected": dict(self.rejected)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; must come before the first draw is issued."""
        self.position = int(state["position"])
        self.seen = int(state["seen"])
        self.rejected = Counter(state["rejected"])
        self._ahead.position = self.position
        self._left_over = {name: state[name] for name in ("waiting", "ages", "ready")}
        self._left_over["closed"] = state.get("closed", 0)  # a state of before giants were held back has none
        self._again = deque(_positions(self._left_over))


def _positions(left_over: dict[str, Any]) -> list[int]:
    return sorted([*left_over["waiting"], *(position for group in left_over["ready"] for position in group)])
