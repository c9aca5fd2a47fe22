"""InternViT's stock layers made lean: less kept for the backward pass, and fewer passes over memory.

Shapes: I tiles, P positions of a tile, D width, F width inside the MLP, H heads, E width of a head.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import gelu, linear, scaled_dot_product_attention
from transformers import InternVLVisionModel

from sailctl.core.model.fused import GeluMLP
from sailctl.core.model.lean import Frugal, become, cast_once


def lean_internvit(tower: InternVLVisionModel) -> None:
    """Let every layer of the tower, attention and MLP included, keep less."""
    for layer in tower.encoder.layer:
        become(_LeanLayer, layer)
        become(_LeanAttention, layer.get_submodule("attention"))
        become(_ScaledLinear, layer.get_submodule("attention.projection_layer"))
        become(_LeanMLP, layer.get_submodule("mlp"))


class _LeanLayer:
    """Goes before the stock layer's class: each layer scale is multiplied into the weights before it.

    scale · (W x + b) is (scale · W) x + scale · b: a product the size of a weight instead of one the size of the hidden
    states, whose factors would have to be kept.
    """

    def forward(self: Any, hidden_states: Tensor) -> Tensor:
        attended_IPD, _ = self.attention(self.layernorm_before(hidden_states), scale_D=self.lambda_1)
        hidden_IPD = attended_IPD + hidden_states
        return self.mlp(self.layernorm_after(hidden_IPD), scale_D=self.lambda_2) + hidden_IPD


class _LeanAttention:
    """Goes before the stock attention's class."""

    def forward(self: Any, hidden_states: Tensor, scale_D: Tensor) -> tuple[Tensor, None]:
        hidden_IPD = cast_once(hidden_states)
        queries, keys = self.q_norm(self.q_proj(hidden_IPD)), self.k_norm(self.k_proj(hidden_IPD))
        of_heads_IHPE = [
            values.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for values in (queries, keys, self.v_proj(hidden_IPD))
        ]
        made_IHPE = scaled_dot_product_attention(*of_heads_IHPE)
        return self.projection_layer(made_IHPE.transpose(1, 2).flatten(2), scale_D), None


class _ScaledLinear:
    """Goes before nn.Linear: scale · (W x + b)."""

    def forward(self: Any, x: Tensor, scale_D: Tensor) -> Tensor:
        return linear(x, *_scaled(self, scale_D))


class _LeanMLP(Frugal):
    """Goes before the stock MLP's class: scale · (W2 gelu(W1 x + b1) + b2)."""

    def forward(self: Any, hidden_states: Tensor, scale_D: Tensor) -> Tensor:
        first, (weight_DF, bias_D) = self.fc1, _scaled(self.fc2, scale_D)
        if self.plain:
            return linear(gelu(linear(hidden_states, first.weight, first.bias)), weight_DF, bias_D)
        return GeluMLP.apply(*map(cast_once, (hidden_states, first.weight, first.bias, weight_DF, bias_D)))


def _scaled(layer: Any, scale_D: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of an nn.Linear whose output a layer scale would multiply."""
    return scale_D.unsqueeze(1) * layer.weight, scale_D * layer.bias
