"""Cross-entropy on supervised positions only, in chunks, so that the logits of a pack never exist as a whole.

T tokens of a pack, N supervised targets, C positions of one chunk, D width, V vocabulary.

The loss is a *sum* of weighted terms; the caller divides by the step's global weight. A mean of means would be wrong
on packed rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from sailctl.core.data.packing import Pack
    from sailctl.core.model.vlm import VisionLanguageModel

CHUNK = 4096  # rows of logits that exist at a time: 2.5 GB in float32 at a vocabulary of 150,000


class HasHead(Protocol):
    """What the loss needs of a model: hidden states (…, D) → logits (…, V)."""

    def lm_head(self, hidden: Tensor) -> Tensor:
        """Project hidden states to the vocabulary."""
        ...


def supervised_loss(
    model: HasHead,
    hidden_ND: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    chunk: int = CHUNK,
    chunks: int | None = None,
) -> Tensor:
    """Sum of `weights_N` times the cross-entropy of `targets_N`, from their `hidden_ND`; a float32 scalar.

    At most `chunk` rows of logits exist at a time: with more rows each chunk is recomputed in the backward pass. One
    chunk alone is kept, since recomputing it would cost a second product and save nothing. `chunks` fixes their number
    whatever there is to do: under ZeRO 3 all ranks must call the head equally often.
    """
    rows = targets_N.numel()
    if chunks is not None:
        chunk = max(1, -(-rows // chunks))
    if rows <= chunk and chunks in (None, 1):
        return _chunk_loss(model, hidden_ND, targets_N, weights_N)
    total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
    for start in range(0, chunk * chunks if chunks else rows, chunk):
        part = slice(start, start + chunk)
        total = total + checkpoint(
            _chunk_loss,
            model,
            hidden_ND[part],
            targets_N[part],
            weights_N[part],
            use_reentrant=False,
            preserve_rng_state=False,  # nothing random inside
        )
    return total


def _chunk_loss(model: HasHead, hidden_CD: Tensor, targets_C: Tensor, weights_C: Tensor) -> Tensor:
    # float32 whatever the autocast type: a sum over 150,000 exponentials does not fit into eight bits of mantissa.
    logits_CV = model.lm_head(hidden_CD).float()
    return (cross_entropy(logits_CV, targets_C, reduction="none") * weights_C).sum()


def pack_loss(model: VisionLanguageModel, pack: Pack, chunks: int | None = None) -> Tensor:
    """Loss of one pack, summed over its supervised tokens with their weights; a float32 scalar."""
    documents = (pack.input_ids_T, pack.position_ids_T, pack.cu_seqlens, pack.max_seqlen, pack.tiles_IPHW)
    hidden_ND = model.hidden(*documents, wanted_N=pack.target_index_N)
    return supervised_loss(model, hidden_ND, pack.targets_N, pack.weights_N, chunks=chunks)
