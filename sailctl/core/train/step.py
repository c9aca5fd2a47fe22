"""One optimiser step as all ranks see it: what each has drawn, told to everybody before the first backward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sailctl.core.train.gauge import PackSize
from sailctl.core.workers import Stop, StopAsked

if TYPE_CHECKING:
    from sailctl.core.data.loader import Loader, Step
    from sailctl.core.data.packing import Pack
    from sailctl.core.train.world import World


class PackShare(NamedTuple):
    """What the other ranks need to know of a pack."""

    size: PackSize
    num_samples: int
    loss_weight: float

    @classmethod
    def of(cls, pack: Pack) -> PackShare:
        """Measure a pack whose tensors are on the CPU."""
        return cls(PackSize.of(pack), pack.num_samples, pack.loss_weight)

    @classmethod
    def read(cls, told: Sequence[Any]) -> PackShare:
        """Put together again what went through JSON."""
        return cls(PackSize(*told[0]), *told[1:])


@dataclass(frozen=True, slots=True)
class GlobalStep:
    """The step of all ranks, in the order of ranks and so of lanes: the same at every number of ranks."""

    ranks: list[list[PackShare]]
    rejects: list[dict[str, Any]]
    truncated: int

    @property
    def packs(self) -> list[PackShare]:
        """The packs of all ranks."""
        return [pack for part in self.ranks for pack in part]

    @property
    def num_samples(self) -> int:
        """Samples trained on."""
        return sum(pack.num_samples for pack in self.packs)

    @property
    def num_tokens(self) -> int:
        """Real tokens, visual ones included."""
        return sum(pack.size.tokens for pack in self.packs)

    @property
    def loss_weight(self) -> float:
        """What the summed loss is divided by; rounded once, and so the same at every number of ranks."""
        return math.fsum(pack.loss_weight for pack in self.packs)


def draw(loader: Loader, world: World, stop: Stop) -> tuple[Step, GlobalStep] | None:
    """The loader's next step, this rank's part and the whole. What fails on one rank fails on all.

    None, on every rank, where one was asked to stop before it had its part; the loader cannot go on then.
    """

    def take() -> Step | None:
        try:
            with stop.ending_waits():
                return next(loader)
        except StopAsked:
            return None

    def tell(step: Step | None) -> dict[str, Any] | None:
        if step is None:
            return None
        shares = [PackShare.of(pack) for pack in step.packs]
        return {"packs": shares, "rejects": step.rejects, "truncated": step.truncated}

    own, told = world.together(take, tell)
    if own is None or None in told:
        return None
    return own, GlobalStep(
        ranks=[[PackShare.read(share) for share in part["packs"]] for part in told],
        rejects=[row for part in told for row in part["rejects"]],
        truncated=sum(part["truncated"] for part in told),
    )
