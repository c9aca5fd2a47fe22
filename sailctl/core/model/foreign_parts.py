"""Other people's configs of a tower and of a language model, read into ours; nothing in them is assumed or executed.

`auto_map` (remote code) is ignored. What our modules cannot do exactly is refused, naming file, key and value.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub.errors import StrictDataclassError
from pydantic import ValidationError
from transformers import InternVLVisionConfig

from sailctl.core.errors import CheckpointError
from sailctl.core.model.language import STOCK_CONFIGS
from sailctl.core.schema.load import explain
from sailctl.core.schema.model import LLMConfig, VisionConfig

Shape = TypeVar("Shape", VisionConfig, LLMConfig)
_LLM_COUNTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
_AIMV2_TYPES = ("aimv2", "aimv2_vision_model", "sailvit", "sail_vit")


class Section:
    """A JSON object that knows its file and path, for errors."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise CheckpointError(f"{where}: not a JSON object")
        self.values, self.where = values, where

    def need(self, key: str) -> Any:
        """The value of a key that nothing can stand in for."""
        if self.values.get(key) is None:
            raise CheckpointError(f"{self.where}: {key} is missing; it decides what the weights mean, so add it")
        return self.values[key]

    def count(self, key: str) -> int:
        """A positive whole number that has to be there."""
        found = self.need(key)
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            raise CheckpointError(f"{self.where}: {key} = {found!r} is not a positive whole number")
        return found

    def get(self, key: str, default: Any) -> Any:
        """The value of a key; `default` where it is absent or null."""
        found = self.values.get(key)
        return default if found is None else found

    def refuse_unless(self, key: str, default: Any, allowed: Any) -> None:
        """Raise CheckpointError where a key says anything but what our modules do."""
        found = self.get(key, default)
        if found != allowed:
            raise CheckpointError(f"{self.where}: {key} = {found!r} is not supported; only {allowed!r} is")

    def part(self, key: str) -> Section:
        """The object under a key."""
        return Section(self.need(key), f"{self.where} {key}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; CheckpointError naming it where it is absent or none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; copy the whole checkpoint") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not readable JSON ({error})") from error
    return Section(values, str(path)).values


def read_vision(source: Section | dict[str, Any], where: str = "config.json") -> VisionConfig:
    """A tower's shape from an original or a stock transformers vision config."""
    source = source if isinstance(source, Section) else Section(source, where)
    kind = str(source.get("model_type", ""))
    if kind in _AIMV2_TYPES or "rms_norm_eps" in source.values:
        return _read_aimv2(source)
    if kind == "internvl_vision":
        stock = InternVLVisionConfig
        for key, allowed in (("use_mean_pooling", True), ("use_absolute_position_embeddings", True)):
            source.refuse_unless(key, allowed, allowed)
        bias, qk_norm = source.get("attention_bias", stock.attention_bias), source.get("use_qk_norm", stock.use_qk_norm)
        scale = source.get("layer_scale_init_value", stock.layer_scale_init_value)
    elif kind == "intern_vit_6b":  # the type of every InternViT, of 300M parameters as of 6B
        bias, qk_norm = source.need("qkv_bias"), source.need("qk_normalization")
        scale = source.get("initializer_factor", 0.1)
    else:
        raise CheckpointError(f"{source.where}: model_type {kind!r} is no vision tower known here (InternViT, AIMv2)")
    source.refuse_unless("norm_type", "layer_norm", "layer_norm")
    source.refuse_unless("hidden_act", "gelu", "gelu")
    return _checked(
        VisionConfig,
        source,
        kind="internvit",
        **_common_vision(source),
        norm_eps=source.get("layer_norm_eps", 1e-6),
        attention_bias=bias,
        qk_norm=qk_norm,
        drop_path=source.get("drop_path_rate", 0.0),
        layer_scale_init=scale,
    )


def _read_aimv2(source: Section) -> VisionConfig:
    for key, allowed in (("is_native", False), ("mlp_bias", False), ("use_bias", False), ("hidden_act", "silu")):
        source.refuse_unless(key, allowed, allowed)
    return _checked(
        VisionConfig,
        source,
        kind="aimv2",
        **_common_vision(source),
        norm_eps=source.get("rms_norm_eps", 1e-5),
        attention_bias=source.get("qkv_bias", False),
    )


def _checked(shape: type[Shape], source: Section, /, **values: Any) -> Shape:
    try:
        return shape(**values)
    except ValidationError as error:
        raise CheckpointError(explain(error, shape, source.where)) from error


def _common_vision(source: Section) -> dict[str, Any]:
    return {
        "hidden_size": source.count("hidden_size"),
        "intermediate_size": source.count("intermediate_size"),
        "num_layers": source.count("num_hidden_layers"),
        "num_heads": source.count("num_attention_heads"),
        "image_size": _side(source, "image_size"),
        "patch_size": _side(source, "patch_size"),
    }


def _side(source: Section, key: str) -> int:
    found = source.need(key)
    if not isinstance(found, list):
        return source.count(key)
    if len(set(found)) != 1:
        raise CheckpointError(f"{source.where}: {key} = {found} is not square")
    return int(found[0])


def read_llm(source: Section | dict[str, Any], where: str = "config.json") -> LLMConfig:
    """A language model's shape from a stock transformers config (any version's way of writing it)."""
    source = source if isinstance(source, Section) else Section(source, where)
    kind = source.need("model_type")
    if kind not in STOCK_CONFIGS:
        raise CheckpointError(f"{source.where}: model_type {kind!r} is not one of {', '.join(STOCK_CONFIGS)}")
    for key in _LLM_COUNTS:
        source.count(key)
    for key, allowed in (("use_sliding_window", False), ("hidden_act", "silu"), ("decoder_sparse_step", 1)):
        source.refuse_unless(key, allowed, allowed)
    source.refuse_unless("mlp_only_layers", [], [])
    if kind == "qwen2":
        width = source.count("hidden_size") // source.count("num_attention_heads")
        source.refuse_unless("head_dim", width, width)
    else:
        source.refuse_unless("attention_bias", False, False)
    known = {
        key: value for key, value in source.values.items() if key not in ("auto_map", "architectures", "model_type")
    }
    try:
        stock: Any = STOCK_CONFIGS[kind](**known)
    except (StrictDataclassError, TypeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{source.where}: transformers refuses it: {str(error).strip().splitlines()[-1]}"
        ) from error
    rope = dict(stock.rope_parameters)
    theta = rope.pop("rope_theta")
    moe = {}
    if kind == "qwen3_moe":
        moe = {
            "num_experts": stock.num_experts,
            "experts_per_token": stock.num_experts_per_tok,
            "moe_intermediate_size": stock.moe_intermediate_size,
            "norm_topk_prob": stock.norm_topk_prob,
        }
    return _checked(
        LLMConfig,
        source,
        kind=kind,
        vocab_size=stock.vocab_size,
        hidden_size=stock.hidden_size,
        intermediate_size=stock.intermediate_size,
        num_layers=stock.num_hidden_layers,
        num_heads=stock.num_attention_heads,
        num_kv_heads=stock.num_key_value_heads,
        head_dim=None if kind == "qwen2" else stock.head_dim,
        tie_embeddings=bool(stock.tie_word_embeddings),
        rope_theta=theta,
        rope_scaling=None if rope.get("rope_type", "default") == "default" else rope,
        norm_eps=stock.rms_norm_eps,
        max_position_embeddings=stock.max_position_embeddings,
        **moe,
    )
