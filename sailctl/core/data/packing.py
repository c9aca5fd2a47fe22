"""Samples and the packs they are merged into; which share one is chosen in `choose.py`. No I/O, no randomness.

Shapes: T tokens of a pack, I tiles, N supervised tokens; tiles are I3SS (S pixels along a side), in a Pack called IPHW
(P colour planes of H x W pixels). Samples stand one after the
other; positions restart with each of them and `cu_seqlens` holds the borders, so that attention never crosses one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

LossWeighting = Literal["token", "sample", "sqrt"]


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One sample ready for packing: input_ids_T int32, supervised_T bool, tiles_I3SS uint8."""

    id: str
    key: str
    source: str
    input_ids: np.ndarray
    supervised: np.ndarray
    tiles: np.ndarray
    truncated: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens, visual ones included."""
        return len(self.input_ids)

    @property
    def num_tiles(self) -> int:
        """Tiles, thumbnails included."""
        return len(self.tiles)

    @property
    def num_targets(self) -> int:
        """Supervised tokens; nothing predicts the first one."""
        return int(np.count_nonzero(self.supervised[1:]))


@dataclass(frozen=True, slots=True, eq=False)
class Pack:
    """Several samples in one row, and which hidden states predict which supervised tokens with what weight.

    The hidden state at position t predicts token t + 1: `target_index_N` holds those t, `targets_N` the tokens there.
    """

    input_ids_T: torch.Tensor
    position_ids_T: torch.Tensor
    cu_seqlens: torch.Tensor
    max_seqlen: int
    tiles_IPHW: torch.Tensor
    target_index_N: torch.Tensor
    targets_N: torch.Tensor
    weights_N: torch.Tensor
    sample_ids: list[str]

    @property
    def num_samples(self) -> int:
        """Samples in the pack."""
        return len(self.sample_ids)

    @property
    def num_tokens(self) -> int:
        """Real tokens in the pack, visual ones included; there is no padding."""
        return len(self.input_ids_T)

    @property
    def num_targets(self) -> int:
        """Supervised tokens."""
        return len(self.targets_N)

    @property
    def loss_weight(self) -> float:
        """Sum of the weights of the supervised tokens, in double precision."""
        return float(self.weights_N.double().sum())

    def to(self, device: torch.device | str) -> Pack:
        """The same pack with its tensors on a device."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in self.__dataclass_fields__
            if isinstance(getattr(self, name), torch.Tensor)
        }
        return replace(self, **moved)


def merge(group: Sequence[Encoded], loss_weighting: LossWeighting = "token") -> Pack:
    """Put samples one after the other into a Pack.

    A supervised token counts 1 ("token"), 1 / n ("sample") or 1 / sqrt(n) ("sqrt"), n being the supervised tokens of
    its sample. A sample's first token is predicted by nothing and is never a target.
    """
    lengths = np.array([item.num_tokens for item in group], dtype=np.int64)
    borders = np.concatenate([[0], np.cumsum(lengths)])
    input_ids = np.concatenate([item.input_ids for item in group]).astype(np.int64)
    predicted = [np.flatnonzero(item.supervised[1:]) for item in group]
    index = np.concatenate([start + positions for start, positions in zip(borders, predicted, strict=False)])
    counts = np.array([len(positions) for positions in predicted], dtype=np.float64)
    power = {"token": 0.0, "sample": -1.0, "sqrt": -0.5}[loss_weighting]
    weights = np.repeat(np.maximum(counts, 1.0) ** power, counts.astype(np.int64))
    pictured = [item.tiles for item in group if item.num_tiles]
    return Pack(
        input_ids_T=torch.from_numpy(input_ids),
        position_ids_T=torch.from_numpy(np.arange(len(input_ids)) - np.repeat(borders[:-1], lengths)),
        cu_seqlens=torch.from_numpy(borders.astype(np.int32)),
        max_seqlen=int(lengths.max()),
        tiles_IPHW=torch.from_numpy(np.concatenate(pictured) if pictured else group[0].tiles.copy()),
        target_index_N=torch.from_numpy(index),
        targets_N=torch.from_numpy(input_ids[index + 1]),
        weights_N=torch.from_numpy(weights.astype(np.float32)),
        sample_ids=[item.id for item in group],
    )
