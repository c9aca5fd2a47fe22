"""Elementwise steps of a transformer with the backward pass written out: fewer passes over memory, less of it kept.

Shapes: ... any leading sizes, N all of them at once, D width, F width inside the MLP, B rows, H heads, S positions, E
width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, linear, silu

ROWS_OF_A_THREAD = 512  # of an MLP at a time on CPU: what lies between its products stays near


class DownOfSwiGLU(torch.autograd.Function):
    """W · (silu(gate) · up). Autograd would keep four tensors as wide as the inside of an MLP; two are enough."""

    @staticmethod
    def forward(ctx: Any, gate_F: Tensor, up_F: Tensor, weight_DF: Tensor) -> Tensor:
        """(..., F) twice in, (..., D) out, all of one dtype."""
        ctx.save_for_backward(gate_F, up_F, weight_DF)
        return linear(silu(gate_F).mul_(up_F), weight_DF)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of gate, up and W; in place where what is overwritten is not needed again."""
        gate_F, up_F, weight_DF = ctx.saved_tensors
        of_gate_F, activated_F = gradients[0] @ weight_DF, silu(gate_F)
        of_up_F = activated_F * of_gate_F
        of_weight_DF = None
        if ctx.needs_input_grad[2]:
            of_weight_DF = gradients[0].flatten(0, -2).t() @ activated_F.mul_(up_F).flatten(0, -2)
        of_gate_F.mul_(up_F)
        torch.ops.aten.silu_backward.grad_input(of_gate_F, gate_F, grad_input=of_gate_F)
        return of_gate_F, of_up_F, of_weight_DF


class GeluMLP(torch.autograd.Function):
    """W2 · gelu(W1 · x + b1) + b2. Autograd would keep two tensors as wide as the inside; one is enough.

    On CPU some rows go all the way before the next ones start, in both directions.
    """

    @staticmethod
    def forward(ctx: Any, x_D: Tensor, w1_FD: Tensor, b1_F: Tensor, w2_DF: Tensor, b2_D: Tensor) -> Tensor:
        """(..., D) in and out, all of one dtype."""
        x_ND = x_D.flatten(0, -2)
        inside_NF, out_ND = x_ND.new_empty(len(x_ND), len(w1_FD)), x_ND.new_empty(len(x_ND), len(w2_DF))
        for rows in _rows_at_once(x_ND):
            torch.addmm(b1_F, x_ND[rows], w1_FD.t(), out=inside_NF[rows])
            torch.addmm(b2_D, gelu(inside_NF[rows]), w2_DF.t(), out=out_ND[rows])
        ctx.save_for_backward(x_ND, w1_FD, w2_DF, inside_NF)
        return out_ND.unflatten(0, x_D.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of x, W1, b1, W2 and b2."""
        x_ND, w1_FD, w2_DF, inside_NF = ctx.saved_tensors
        of_out_ND = gradients[0].flatten(0, -2)
        wanted = ctx.needs_input_grad
        of_x_ND = torch.empty_like(x_ND) if wanted[0] else None
        of_w1_FD, of_w2_DF = (torch.zeros_like(w) if at else None for w, at in ((w1_FD, wanted[1]), (w2_DF, wanted[3])))
        of_b1_F = w1_FD.new_zeros(len(w1_FD)) if wanted[2] else None
        for rows in _rows_at_once(x_ND):
            if of_w2_DF is not None:
                torch.addmm(of_w2_DF, of_out_ND[rows].t(), gelu(inside_NF[rows]), out=of_w2_DF)
            of_inside_F = torch.ops.aten.gelu_backward(of_out_ND[rows] @ w2_DF, inside_NF[rows])
            if of_w1_FD is not None:
                torch.addmm(of_w1_FD, of_inside_F.t(), x_ND[rows], out=of_w1_FD)
            if of_b1_F is not None:
                of_b1_F += of_inside_F.sum(0)
            if of_x_ND is not None:
                torch.mm(of_inside_F, w1_FD, out=of_x_ND[rows])
        of_x_D = None if of_x_ND is None else of_x_ND.view_as(gradients[0])
        return of_x_D, of_w1_FD, of_b1_F, of_w2_DF, of_out_ND.sum(0) if wanted[4] else None


def _rows_at_once(x_ND: Tensor) -> Iterator[slice]:
    """All rows, but on CPU in float32 (less would lose digits from sum to sum) as many as its caches can bear."""
    slow = x_ND.device.type == "cpu" and x_ND.dtype == torch.float32
    step = ROWS_OF_A_THREAD * torch.get_num_threads() if slow else max(1, len(x_ND))
    return (slice(start, start + step) for start in range(0, len(x_ND), step))


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
