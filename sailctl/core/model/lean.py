"""Stock transformers layers that compute and keep less in training, with the same weights, names and results.

A module becomes lean by its class: weights, buffers, hooks and checkpointing stay as they are.

Shapes: B rows, S positions of a row, D width, F width inside the MLP, N positions whose hidden states are wanted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def make_lean(llm: Any) -> None:
    """Let the last layer of a Qwen model take `wanted_N`, and its dense MLPs keep one tensor less."""
    llm.model.layers[-1].__class__ = _derived(_WantedRows, type(llm.model.layers[-1]))
    for layer in llm.model.layers:
        lean_mlp(layer.mlp)


def lean_mlp(mlp: nn.Module) -> None:
    """Let a SwiGLU MLP keep one tensor less; a mixture of experts, which has none of its own, stays as it is."""
    if hasattr(mlp, "gate_proj"):
        mlp.__class__ = _derived(_LeanMLP, type(mlp))


def _derived(lean: type, stock: type) -> Any:
    """One class for all modules of a kind: torch.compile knows modules by their class."""
    if (lean, stock) not in _known:
        _known[lean, stock] = type(stock.__name__, (lean, stock), {})
    return _known[lean, stock]


_known: dict[tuple[type, type], type] = {}


class _WantedRows:
    """Goes before a stock layer's class: behind the attention only the positions `wanted_N` go on, where it is given.

    Nobody but the loss looks at what the last layer makes, and it looks at supervised positions alone. Without
    `wanted_N` the layer is the stock one.
    """

    def forward(self: Any, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        wanted_N = kwargs.pop("wanted_N", None)
        if wanted_N is None:
            return super().forward(hidden_states, **kwargs)  # type: ignore[misc]
        attended_BSD, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        kept_BND = (hidden_states + attended_BSD).index_select(1, wanted_N)
        return kept_BND + self.mlp(self.post_attention_layernorm(kept_BND))


class _LeanMLP:
    """Goes before a stock MLP's class: down(silu(gate(x)) · up(x)), silu(gate(x)) made again in the backward pass."""

    def forward(self: Any, x_BSD: Tensor) -> Tensor:
        return self.down_proj(_SwiGLU.apply(self.gate_proj(x_BSD), self.up_proj(x_BSD)))


class _SwiGLU(torch.autograd.Function):
    """silu(gate) · up. Autograd would keep three tensors for it; two are enough, and one pass over them more."""

    @staticmethod
    def forward(ctx: Any, gate_BSF: Tensor, up_BSF: Tensor) -> Tensor:
        ctx.save_for_backward(gate_BSF, up_BSF)
        return nn.functional.silu(gate_BSF).mul_(up_BSF)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate_BSF, up_BSF = ctx.saved_tensors
        (gradient_BSF,) = gradients
        of_up_BSF = nn.functional.silu(gate_BSF).mul_(gradient_BSF)
        return torch.ops.aten.silu_backward(gradient_BSF * up_BSF, gate_BSF), of_up_BSF
