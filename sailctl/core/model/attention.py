"""The language model's attention: varlen over the documents of a pack, plain SDPA everywhere else.

Registered with transformers under one name. On the packed path the caller passes `cu_seq_lens_q` and a one-element
mask, so that nobody builds a T x T one; in generation, where there is no `cu_seq_lens_q`, masks are SDPA's own.

Shapes: T packed tokens, H query heads, K key/value heads, D head width, B rows, S positions of a row.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sailctl.core.device import device_of

VARLEN = "sailctl_varlen"


def packed_arguments(cu_seqlens: torch.Tensor, max_seqlen: int) -> dict[str, Any]:
    """The keyword arguments that send a stock transformers decoder down the packed path.

    transformers returns a 4-D mask as it is and builds one from position ids where there is none; so it is given one
    element that nobody reads. `use_cache=False` matters too.
    """
    return {
        "attention_mask": torch.zeros(1, 1, 1, 1, device=cu_seqlens.device),
        "use_cache": False,
        "cu_seq_lens_q": cu_seqlens,
        "max_length_q": max_seqlen,
        "document_bounds": device_of(cu_seqlens).host_bounds(cu_seqlens),
    }


@torch.compiler.disable  # kernels of their own, and bounds that differ from pack to pack
def varlen_forward(
    module: torch.nn.Module,
    query_BHSD: torch.Tensor,
    key_BKSD: torch.Tensor,
    value_BKSD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention signature: (B, S, H, D) out, and no attention weights."""
    cu_seqlens = kwargs.get("cu_seq_lens_q")
    if cu_seqlens is None:
        return sdpa_attention_forward(
            module, query_BHSD, key_BKSD, value_BKSD, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    # Under autocast the rotary embedding, in the dtype of the master weights, leaves queries and keys in float32; the
    # fast kernels want what the values still are.
    out_THD = device_of(query_BHSD).varlen_attention(
        query_BHSD[0].transpose(0, 1).to(value_BKSD.dtype),
        key_BKSD[0].transpose(0, 1).to(value_BKSD.dtype),
        value_BKSD[0].transpose(0, 1),
        cu_seqlens,
        kwargs["max_length_q"],
        causal=True,
        scale=scaling if scaling is not None else query_BHSD.shape[-1] ** -0.5,
        bounds=kwargs.get("document_bounds"),
    )
    return out_THD.unsqueeze(0), None


AttentionInterface.register(VARLEN, varlen_forward)
AttentionMaskInterface.register(VARLEN, sdpa_mask)
