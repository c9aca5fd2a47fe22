"""Fresh random weights that learn fast from scratch: fan-in scaled matrices, sin-cos positions, unit norms.

transformers starts InternViT's position embedding at zero, from which a small tower learns noticeably slower.

Shapes: P patches of a tile, D width.
"""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def reset_weights(module: nn.Module, *, layer_scale_init: float = 1.0) -> None:
    """Fill a model, or one of its parts, with random weights drawn from torch's global generator."""
    for name, parameter in module.named_parameters():
        *_, owner, leaf = ("", *name.split("."))
        if leaf == "bias":
            parameter.zero_()
        elif leaf in ("lambda_1", "lambda_2"):
            parameter.fill_(layer_scale_init)
        elif leaf == "position_embeddings":  # InternViT, (1, 1 + P, D): the class token has no place
            parameter.zero_()
            parameter[0, 1:] = sincos_positions(parameter.shape[1] - 1, parameter.shape[2])
        elif owner == "position_embedding":  # AIMv2, (P, D)
            parameter.copy_(sincos_positions(*parameter.shape))
        elif owner == "embed_tokens" or leaf == "cls_token":
            parameter.normal_(std=0.02)
        elif parameter.ndim == 1:
            parameter.fill_(1.0)
        else:
            fan_in = parameter.shape[-1] if parameter.ndim == 3 else parameter[0].numel()  # 3-D: stacked experts
            parameter.normal_(std=fan_in**-0.5)


def sincos_positions(num_patches: int, width: int) -> torch.Tensor:
    """Fixed 2-D sin-cos position vectors (P, D) of a square grid, row by row; half the width for each axis."""
    side = round(num_patches**0.5)
    steps = width // 4
    frequencies = 1.0 / 10000 ** (torch.arange(steps, dtype=torch.float64) / steps)
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, D / 2)
    rows = axis[:, None].expand(side, side, -1)
    columns = axis[None, :].expand(side, side, -1)
    return torch.cat([columns, rows], dim=-1).reshape(num_patches, -1).float()
