"""Shapes of a vision-language model: vision tower, projector, language model."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sailctl.core.schema.base import Config

Count = Annotated[int, Field(gt=0)]


def _must_divide(part: str, small: int, whole: str, large: int) -> None:
    if large % small:
        raise ValueError(f"{part} {small} does not divide {whole} {large}")


class VisionConfig(Config):
    """A vision tower: InternViT (CLS token, LayerNorm, GELU, layer scale) or AIMv2 (RMSNorm, SwiGLU, no CLS token)."""

    kind: Literal["internvit", "aimv2"]
    hidden_size: Count
    intermediate_size: Count
    num_layers: Count
    num_heads: Count
    image_size: Count = 448
    patch_size: Count = 14
    norm_eps: float = 1e-6
    attention_bias: bool = True
    qk_norm: bool = False
    drop_path: float = 0.0
    layer_scale_init: float = 0.1

    @model_validator(mode="after")
    def _divides(self) -> VisionConfig:
        _must_divide("num_heads", self.num_heads, "hidden_size", self.hidden_size)
        _must_divide("patch_size", self.patch_size, "image_size", self.image_size)
        return self


class LLMConfig(Config):
    """A decoder-only language model of the Qwen2, Qwen3 or Qwen3-MoE architecture."""

    kind: Literal["qwen2", "qwen3", "qwen3_moe"]
    vocab_size: Count
    hidden_size: Count
    intermediate_size: Count
    num_layers: Count
    num_heads: Count
    num_kv_heads: Count
    head_dim: Count | None = None
    tie_embeddings: bool = False
    rope_theta: float = 1_000_000.0
    rope_scaling: dict[str, Any] | None = None  # transformers' rope parameters but theta, as a checkpoint has them
    norm_eps: float = 1e-6
    max_position_embeddings: Count = 32768
    num_experts: int = 0
    experts_per_token: int = 0
    moe_intermediate_size: int = 0
    norm_topk_prob: bool = True

    @model_validator(mode="after")
    def _divides(self) -> LLMConfig:
        _must_divide("num_kv_heads", self.num_kv_heads, "num_heads", self.num_heads)
        if self.head_dim is None:
            _must_divide("num_heads", self.num_heads, "hidden_size", self.hidden_size)
        return self


class ModelConfig(Config):
    """A composite model. `min_tiles`/`max_tiles` bound the grid at inference; the thumbnail is not counted in them."""

    name: str
    vision: VisionConfig
    llm: LLMConfig
    downsample_ratio: float = Field(0.5, gt=0, le=1)
    ps_version: Literal["v1", "v2"] = "v2"
    select_layer: int = -1
    template: str = "sail"
    system: str | None = None
    min_tiles: int = Field(1, ge=1, le=40)
    max_tiles: int = Field(10, ge=1, le=40)
    thumbnail: bool = True

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        layers = self.vision.num_layers
        if not -layers - 1 <= self.select_layer <= layers:
            raise ValueError(f"select_layer {self.select_layer} is none of the tower's {layers} layers")
        side = self.vision.image_size // self.vision.patch_size
        _must_divide("the pixel shuffle's factor", round(1 / self.downsample_ratio), "patches a side", side)
        return self

    @property
    def tokens_per_tile(self) -> int:
        """Visual tokens of one tile after the pixel shuffle (256 for 448 px, patch 14, ratio 0.5)."""
        side = int(self.vision.image_size // self.vision.patch_size * self.downsample_ratio)
        return side * side


class ModelSection(Config):
    """The `model:` part of a recipe: a preset (or an inline `config`) and, for a first stage, the pretrained parts.

    `vision_weights` and `llm_weights` are folders of stock transformers checkpoints (safetensors); the tokenizer is
    read from `tokenizer` or else from `llm_weights`. Paths beginning with `recipe:` are relative to its folder.
    `select_layer` overrides the preset's vision layer (-1: the last).
    """

    preset: str | None = None
    config: ModelConfig | None = None
    vision_weights: str | None = None
    llm_weights: str | None = None
    tokenizer: str | None = None
    select_layer: int | None = Field(None, lt=0)
