"""The projector from shuffled patch features to the language model's width: LayerNorm, Linear, GELU, Linear."""

from __future__ import annotations

from torch import nn

from sailctl.core.schema.model import ModelConfig


def shuffle_factor(config: ModelConfig) -> int:
    """How many neighbouring patches a side become one token (2 for a downsample ratio of 0.5)."""
    return round(1 / config.downsample_ratio)


def build_projector(config: ModelConfig) -> nn.Sequential:
    """Indices 0, 1 and 3 carry weights, as in the original `mlp1`."""
    width_in = config.vision.hidden_size * shuffle_factor(config) ** 2
    width_out = config.llm.hidden_size
    return nn.Sequential(
        nn.LayerNorm(width_in), nn.Linear(width_in, width_out), nn.GELU(), nn.Linear(width_out, width_out)
    )
