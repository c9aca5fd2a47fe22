"""Stock transformers layers that compute and keep less in training, with the same weights, names and results.

A module becomes lean by its class: weights, buffers, hooks and checkpointing stay as they are.

Shapes: B rows, S positions of a row, D width, H heads, E width of a head, N positions whose hidden states are wanted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from sailctl.core.model.attention import varlen_forward
from sailctl.core.model.fused import DownOfSwiGLU, RMSNorm, Rotary


def make_lean(llm: Any) -> None:
    """Let a Qwen model's layers keep less, and its last one take `wanted_N`; experts stay as they are."""
    become(_WantedRows, llm.model.layers[-1])
    for layer in llm.model.layers:
        become(_LeanAttention, layer.self_attn)
        lean_mlp(layer.mlp)
    lean_norms(llm)


def lean_norms(model: nn.Module) -> None:
    """Let every RMSNorm inside keep its input and one number a row."""
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            become(_LeanNorm, module)


def lean_mlp(mlp: nn.Module) -> None:
    """Let a SwiGLU MLP keep two tensors less; a mixture of experts, which has none of its own, stays as it is."""
    if hasattr(mlp, "gate_proj"):
        become(_LeanMLP, mlp)
        become(_LeanDown, mlp.get_submodule("down_proj"))


def become(lean: type, module: nn.Module) -> None:
    """One class for all modules of a kind: torch.compile knows modules by their class."""
    stock = type(module)
    if (lean, stock) not in _known:
        _known[lean, stock] = type(stock.__name__, (lean, stock), {})
    module.__class__ = _known[lean, stock]


_known: dict[tuple[type, type], type] = {}


class _WantedRows:
    """Goes before a stock layer's class: only the positions `wanted_N` ask and go on, where it is given.

    Nobody but the loss looks at what the last layer makes, and it looks at supervised positions alone: of the others it
    needs keys and values. Without `wanted_N` the layer is the stock one.
    """

    def forward(self: Any, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        wanted_N = kwargs.pop("wanted_N", None)
        if wanted_N is None:
            return super().forward(hidden_states, **kwargs)  # type: ignore[misc]
        normed_BSD = self.input_layernorm(hidden_states)
        attended_BND, _ = self.self_attn(hidden_states=normed_BSD, asking_N=wanted_N, **kwargs)
        kept_BND = hidden_states.index_select(1, wanted_N) + attended_BND
        return kept_BND + self.mlp(self.post_attention_layernorm(kept_BND))


class _LeanAttention:
    """Goes before a stock Qwen attention's class: fewer passes for the rotary positions of a pack.

    With `asking_N` only these positions ask, and (B, N, D) comes back. The kernels want a query a position: the
    others' are zero, and what comes of them is dropped. Generation, with its cache, goes the stock way.
    """

    def forward(self: Any, hidden_states: Tensor, asking_N: Tensor | None = None, **kwargs: Any) -> tuple[Tensor, None]:
        if "cu_seq_lens_q" not in kwargs:
            attended_BSD, _ = super().forward(hidden_states=hidden_states, **kwargs)  # type: ignore[misc]
            return attended_BSD if asking_N is None else attended_BSD.index_select(1, asking_N), None
        hidden_states = cast_once(hidden_states)
        cos_B1SE, sin_B1SE = (angles.unsqueeze(1) for angles in kwargs.pop("position_embeddings"))

        def heads(values: Tensor, norm: nn.Module | None = None) -> Tensor:
            split = values.unflatten(-1, (-1, self.head_dim))
            return (split if norm is None else norm(split)).transpose(1, 2)

        q_norm, k_norm = getattr(self, "q_norm", None), getattr(self, "k_norm", None)  # Qwen3's
        keys_BHSE = Rotary.apply(heads(self.k_proj(hidden_states), k_norm), cos_B1SE, sin_B1SE)
        values_BHSE = heads(self.v_proj(hidden_states))
        if asking_N is not None:
            everywhere = hidden_states.shape[1]
            hidden_states = hidden_states.index_select(1, asking_N)
            cos_B1SE, sin_B1SE = (angles.index_select(2, asking_N) for angles in (cos_B1SE, sin_B1SE))
        queries_BHSE = Rotary.apply(heads(self.q_proj(hidden_states), q_norm), cos_B1SE, sin_B1SE)
        if asking_N is not None:
            shape = (*queries_BHSE.shape[:2], everywhere, self.head_dim)
            queries_BHSE = queries_BHSE.new_zeros(shape).index_copy(2, asking_N, queries_BHSE)
        made_BSHE, _ = varlen_forward(self, queries_BHSE, keys_BHSE, values_BHSE, scaling=self.scaling, **kwargs)
        if asking_N is not None:
            made_BSHE = made_BSHE.index_select(1, asking_N)
        return self.o_proj(made_BSHE.flatten(2)), None


class _LeanMLP:
    """Goes before a stock MLP's class: down(silu(gate(x)) · up(x)), silu(gate(x)) · up(x) made again going backward."""

    def forward(self: Any, x_BSD: Tensor) -> Tensor:
        x_BSD = cast_once(x_BSD)
        return self.down_proj(self.gate_proj(x_BSD), self.up_proj(x_BSD))


class Frugal:
    """Before the class of a module that makes something again in its backward pass, where that is worth it."""

    whole_layer_again = False

    @property
    def plain(self) -> bool:
        """Where the layer is recomputed, that ends before its last product, which a function of ours would make, too.

        And torch.compile fuses by itself.
        """
        return self.whole_layer_again or torch.compiler.is_compiling()


def expect_recomputation(model: nn.Module, expected: bool) -> None:
    """Say whether the layers of the model are recomputed in the backward pass."""
    for module in model.modules():
        if isinstance(module, Frugal):
            module.whole_layer_again = expected


class _LeanDown(Frugal):
    """Goes before an MLP's last nn.Linear, which has no bias in Qwen and AIMv2."""

    def forward(self: Any, gate_BSF: Tensor, up_BSF: Tensor) -> Tensor:
        if self.plain:
            return linear(silu(gate_BSF) * up_BSF, self.weight)
        return DownOfSwiGLU.apply(gate_BSF, up_BSF, cast_once(self.weight))


def cast_once(x: Tensor) -> Tensor:
    """Autocast would cast the input of several linear layers for each of them anew, and keep every copy."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


class _LeanNorm:
    """Goes before a stock RMSNorm's class."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return RMSNorm.apply(x, self.weight, self.variance_epsilon)
