"""Elementwise steps of a transformer with the backward pass written out: fewer passes over memory, less of it kept.

Shapes: ... any leading sizes, D width, F width inside the MLP, B rows, H heads, S positions, E width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu


class SwiGLU(torch.autograd.Function):
    """silu(gate) · up. Autograd would keep three tensors for it; two are enough, and one pass over them more."""

    @staticmethod
    def forward(ctx: Any, gate_F: Tensor, up_F: Tensor) -> Tensor:
        """Both (..., F) in, (..., F) out."""
        ctx.save_for_backward(gate_F, up_F)
        return silu(gate_F).mul_(up_F)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Of gate and up."""
        gate_F, up_F = ctx.saved_tensors
        (gradient_F,) = gradients
        of_silu_F = gradient_F * up_F
        return torch.ops.aten.silu_backward(of_silu_F, gate_F), silu(gate_F).mul_(gradient_F)


class RMSNorm(torch.autograd.Function):
    """weight · x / sqrt(mean(x²) + epsilon) (https://arxiv.org/abs/1910.07467), in float32 inside as in transformers.

    Kept are the input, which is there anyway, and one number a row; autograd would keep two tensors of its size.
    """

    @staticmethod
    def forward(ctx: Any, x_D: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """(..., D) in, (..., D) out."""
        full_D = x_D.float()
        squares = torch.linalg.vector_norm(full_D, dim=-1, keepdim=True).square_()
        scale = squares.div_(x_D.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x_D, weight, scale)
        return weight * (full_D * scale).to(x_D.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        """Of x and weight. With y = x · scale: scale · (g · weight - y · mean(g · weight · y)), and Σ g · y."""
        x_D, weight, scale = ctx.saved_tensors
        gradient_D, weight_D = gradients[0].float(), weight.float()
        normed_D = x_D.float() * scale
        product_D = gradient_D * normed_D
        of_weight = product_D.flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        mean = (product_D @ weight_D).unsqueeze(-1).div_(x_D.shape[-1])
        of_x_D = (gradient_D * weight_D).addcmul_(normed_D, mean, value=-1).mul_(scale)
        return of_x_D.to(x_D.dtype), of_weight, None


class Rotary(torch.autograd.Function):
    """Rotary positions, halves of a head paired (https://arxiv.org/abs/2104.09864, as in transformers).

    Turning back by the same angles is the backward pass, so that nothing but the angles is kept.
    """

    @staticmethod
    def forward(ctx: Any, heads_BHSE: Tensor, cos_B1SE: Tensor, sin_B1SE: Tensor) -> Tensor:
        """(B, H, S, E) in and out."""
        ctx.save_for_backward(cos_B1SE, sin_B1SE)
        return _turned(heads_BHSE, cos_B1SE, sin_B1SE, 1.0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Of the heads."""
        cos_B1SE, sin_B1SE = ctx.saved_tensors
        return _turned(gradients[0], cos_B1SE, sin_B1SE, -1.0), None, None


def _turned(heads_BHSE: Tensor, cos_B1SE: Tensor, sin_B1SE: Tensor, direction: float) -> Tensor:
    first, second = heads_BHSE.chunk(2, dim=-1)
    sin_first, sin_second = sin_B1SE.chunk(2, dim=-1)
    turned_BHSE = heads_BHSE * cos_B1SE
    turned_first, turned_second = turned_BHSE.chunk(2, dim=-1)
    turned_first.addcmul_(second, sin_first, value=-direction)
    turned_second.addcmul_(first, sin_second, value=direction)
    return turned_BHSE
