"""Counted parameters against the modules themselves, built on the meta device."""

from __future__ import annotations

import pytest
import torch
from helpers_model import tiny_config

from sailctl.core.model.count import parameter_counts
from sailctl.core.model.presets import preset
from sailctl.core.model.vlm import MODULES, VisionLanguageModel
from sailctl.core.schema.model import ModelConfig


def built(config: ModelConfig) -> dict[str, int]:
    with torch.device("meta"):
        model = VisionLanguageModel(config, image_token_id=0, initialise=False)
    counts = {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in MODULES}
    return {**counts, "total": sum(counts.values())}


def with_tower(**changes: object) -> ModelConfig:
    config = tiny_config()
    return config.model_copy(update={"vision": config.vision.model_copy(update=changes)})


@pytest.mark.parametrize(
    "config",
    [
        tiny_config("qwen2", "internvit"),
        tiny_config("qwen3", "aimv2"),
        tiny_config("qwen3_moe", "internvit"),
        with_tower(qk_norm=True),
        with_tower(attention_bias=False),
        with_tower(kind="aimv2", attention_bias=True),
        preset("sail-vl-2b"),
        preset("sail-vl2-8b"),
    ],
    ids=["qwen2", "qwen3-aimv2", "moe", "qk_norm", "no bias", "aimv2 bias", "sail-vl-2b", "sail-vl2-8b"],
)
def test_counts_are_the_modules_own(config: ModelConfig) -> None:
    assert parameter_counts(config) == built(config)
