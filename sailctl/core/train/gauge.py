"""How well a step used the machine: fill and model FLOPs (reproducible), MFU, GEMM share and rank balance (not).

The MFU counts what the model needs (`core/model/flops.py`): no recomputation, no padding, half of causal attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sailctl.core.model.flops import ModelFlops

if TYPE_CHECKING:
    from sailctl.core.data.packing import Pack
    from sailctl.core.device import Device
    from sailctl.core.schema.model import ModelConfig
    from sailctl.core.schema.recipe import Recipe


class PackSize(NamedTuple):
    """What a pack's cost depends on: tokens, tiles, supervised tokens, squared document lengths summed."""

    tokens: int
    tiles: int
    targets: int
    squares: int

    @classmethod
    def of(cls, pack: Pack) -> PackSize:
        """Measure a pack whose tensors are on the CPU."""
        lengths = pack.cu_seqlens.diff().long()
        return cls(pack.num_tokens, len(pack.tiles_IPHW), pack.num_targets, int((lengths * lengths).sum()))


@dataclass(slots=True)
class Gauge:
    """What one run is measured against: its shapes' costs, its packs' caps, the device's peak and GEMM ceiling.

    The ceiling rises where a step beats it: it was measured while the machine was busy, and is measured again.
    """

    needed: ModelFlops  # what the model asks for
    executed: ModelFlops  # with recomputed activations: what ranks wait for
    pack_tokens: int
    pack_tiles: int
    peak: float | None  # FLOP/s of one device by its data sheet
    ceiling: float  # FLOP/s of one device in a large square product
    measure: Callable[[], float]  # the ceiling, once more

    @classmethod
    def of(cls, config: ModelConfig, recipe: Recipe, device: Device) -> Gauge:
        """The gauge of a run; the GEMM ceiling is measured here, once a process."""
        train, dtype = recipe.train, device.dtype(recipe.train.precision)
        return cls(
            needed=ModelFlops.of(config, train.trainable),
            executed=ModelFlops.of(config, train.trainable, checkpointing=train.gradient_checkpointing),
            pack_tokens=recipe.data.pack_tokens,
            pack_tiles=recipe.data.pack_tiles,
            peak=device.peak_flops(dtype),
            ceiling=device.gemm_flops(dtype),
            measure=lambda: device.gemm_flops(dtype, again=True),
        )

    def work(self, ranks: Sequence[Sequence[PackSize]]) -> dict[str, Any]:
        """Fields that any machine and number of ranks reproduces: `fill` against both caps and `model_flops`.

        `ranks` holds the sizes of each rank's packs of one step. Whole numbers are summed first: no order of summation.
        """
        tokens, tiles, targets, squares, packs = _totals(ranks)
        return {
            "fill": {"tokens": tokens / (packs * self.pack_tokens), "tiles": tiles / (packs * self.pack_tiles)},
            "model_flops": self.needed.total(tokens, tiles, targets, squares),
        }

    def speed(self, ranks: Sequence[Sequence[PackSize]], seconds: float) -> dict[str, Any]:
        """Fields for `perf`: FLOP/s of one device, as shares of peak (null without a data sheet) and ceiling, balance.

        `rank_balance` is mean over largest modelled cost: of the ranks, or of the packs where there is one rank.
        """
        tokens, tiles, targets, squares, _ = _totals(ranks)
        rate = self.needed.total(tokens, tiles, targets, squares) / seconds / len(ranks)
        if rate > self.ceiling:
            self.ceiling = max(rate, self.measure())
        return {
            "flops_per_s": rate,
            "mfu": None if self.peak is None else rate / self.peak,
            "gemm_share": rate / self.ceiling,
            "rank_balance": self._balance(ranks),
        }

    def _balance(self, ranks: Sequence[Sequence[PackSize]]) -> float:
        parts = ranks if len(ranks) > 1 else [[size] for size in ranks[0]]
        costs = [sum(self.executed.total(*size) for size in part) for part in parts]
        return sum(costs) / (len(costs) * max(costs))


def _totals(ranks: Sequence[Sequence[PackSize]]) -> tuple[int, int, int, int, int]:
    sizes = [size for rank in ranks for size in rank]
    tokens, tiles, targets, squares = (sum(column) for column in zip(*sizes, strict=True))
    return tokens, tiles, targets, squares, len(sizes)
