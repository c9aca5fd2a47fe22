"""The shapes of the SAIL-VL family by name; their weights (`weights.py`) and sizes (`count.py`) are elsewhere.

A checkpoint's own config always wins over a preset: presets are for models built from their pretrained parts.
"""

from __future__ import annotations

from pydantic import ValidationError

from sailctl.core.errors import UsageError
from sailctl.core.schema.load import explain
from sailctl.core.schema.model import LLMConfig, ModelConfig, ModelSection, VisionConfig

INTERNVIT_300M = VisionConfig(
    kind="internvit",
    hidden_size=1024,
    intermediate_size=4096,
    num_layers=24,
    num_heads=16,
    drop_path=0.1,
)
AIMV2_HUGE = VisionConfig(
    kind="aimv2",
    hidden_size=1536,
    intermediate_size=4096,
    num_layers=24,
    num_heads=12,
    norm_eps=1e-5,
    attention_bias=False,
)
QWEN25_1_5B = LLMConfig(
    kind="qwen2",
    vocab_size=151936,
    hidden_size=1536,
    intermediate_size=8960,
    num_layers=28,
    num_heads=12,
    num_kv_heads=2,
    tie_embeddings=True,
)
QWEN25_7B = LLMConfig(
    kind="qwen2",
    vocab_size=152064,
    hidden_size=3584,
    intermediate_size=18944,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
)
QWEN3_1_7B = LLMConfig(
    kind="qwen3",
    vocab_size=151936,
    hidden_size=2048,
    intermediate_size=6144,
    num_layers=28,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
    tie_embeddings=True,
    max_position_embeddings=40960,
)
QWEN3_8B = LLMConfig(
    kind="qwen3",
    vocab_size=151936,
    hidden_size=4096,
    intermediate_size=12288,
    num_layers=36,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    max_position_embeddings=40960,
)
QWEN3_30B_A3B = LLMConfig(
    kind="qwen3_moe",
    vocab_size=151936,
    hidden_size=2048,
    intermediate_size=6144,  # of a dense layer; every layer is sparse here, so no parameter has this size
    num_layers=48,
    num_heads=32,
    num_kv_heads=4,
    head_dim=128,
    max_position_embeddings=40960,
    num_experts=128,
    experts_per_token=8,
    moe_intermediate_size=768,
)
TINY_VISION = VisionConfig(
    kind="internvit",
    hidden_size=128,
    intermediate_size=512,
    num_layers=4,
    num_heads=4,
    image_size=112,
    layer_scale_init=1.0,  # 0.1 learns slower at this depth
)
TINY_LLM = LLMConfig(
    kind="qwen2",
    vocab_size=2048,
    hidden_size=128,
    intermediate_size=512,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    tie_embeddings=True,
)

# The released SAIL-VL config class takes the output of the fourth layer from the end unless the checkpoint says
# otherwise (InternVL: the last, -1). It is a public config's default, not the paper's word: `model.select_layer` in a
# recipe overrides it.
SAIL_SELECT_LAYER = -4


def _model(name: str, vision: VisionConfig, llm: LLMConfig, select_layer: int = -1) -> ModelConfig:
    return ModelConfig(name=name, vision=vision, llm=llm, select_layer=select_layer)


PRESETS: dict[str, ModelConfig] = {
    model.name: model
    for model in (
        _model("tiny", TINY_VISION, TINY_LLM),
        _model("sail-vl-2b", INTERNVIT_300M, QWEN25_1_5B, SAIL_SELECT_LAYER),
        _model("sail-vl-8b", INTERNVIT_300M, QWEN25_7B, SAIL_SELECT_LAYER),
        _model("sail-vl-1.5-2b", AIMV2_HUGE, QWEN25_1_5B, SAIL_SELECT_LAYER),
        _model("sail-vl-1.5-8b", INTERNVIT_300M, QWEN25_7B, SAIL_SELECT_LAYER),
        _model("sail-vl-1.6-8b", AIMV2_HUGE, QWEN25_7B, SAIL_SELECT_LAYER),
        # SAIL-ViT-Huge keeps the shape of the AIMv2-Huge it was trained from.
        _model("sail-vl2-2b", AIMV2_HUGE, QWEN3_1_7B),
        _model("sail-vl2-8b", AIMV2_HUGE, QWEN3_8B),
        _model("sail-vl2-moe", AIMV2_HUGE, QWEN3_30B_A3B),
    )
}


def preset(name: str) -> ModelConfig:
    """A fresh copy of the shapes called `name`; an unknown name is a UsageError that lists the known ones."""
    if name not in PRESETS:
        raise UsageError(f"model.preset = '{name}' does not exist; presets: {', '.join(PRESETS)}")
    return PRESETS[name].model_copy(deep=True)


def model_config(section: ModelSection) -> ModelConfig:
    """The shapes a recipe's `model:` section asks for: its own `config` or else its preset, with its select_layer."""
    if section.config is not None:
        config = section.config.model_copy(deep=True)
    elif section.preset is not None:
        config = preset(section.preset)
    else:
        raise UsageError(f"model.preset is missing; presets: {', '.join(PRESETS)}, or write out model.config")
    if section.select_layer is not None:
        try:
            config.select_layer = section.select_layer
        except ValidationError as error:
            raise UsageError(explain(error, ModelConfig, "model.select_layer")) from None
    return config
