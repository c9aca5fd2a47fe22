"""Other people's `config.json`, read into a ModelConfig and written from one; nothing in it is assumed or executed.

`auto_map` (remote code) is ignored. What our modules cannot do exactly is refused, naming file, key and value.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.errors import StrictDataclassError
from pydantic import ValidationError
from transformers import (
    InternVLConfig,
    InternVLVisionConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from sailctl.core.errors import CheckpointError
from sailctl.core.model import language, vision
from sailctl.core.model.template import TEMPLATES
from sailctl.core.schema.model import LLMConfig, ModelConfig, VisionConfig

_LLM_CLASSES: dict[str, type[PreTrainedConfig]] = {
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "qwen3_moe": Qwen3MoeConfig,
}
_AIMV2_TYPES = ("aimv2", "aimv2_vision_model", "sailvit", "sail_vit")


class _Reader:
    """A JSON object that knows its file and path, for errors."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise CheckpointError(f"{where}: not a JSON object")
        self.values, self.where = values, where

    def need(self, key: str) -> Any:
        if self.values.get(key) is None:
            raise CheckpointError(f"{self.where}: {key} is missing; it decides what the weights mean, so add it")
        return self.values[key]

    def get(self, key: str, default: Any) -> Any:
        found = self.values.get(key)
        return default if found is None else found

    def refuse_unless(self, key: str, default: Any, allowed: Any) -> None:
        found = self.get(key, default)
        if found != allowed:
            raise CheckpointError(f"{self.where}: {key} = {found!r} is not supported; only {allowed!r} is")

    def part(self, key: str) -> _Reader:
        return _Reader(self.need(key), f"{self.where} {key}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; CheckpointError naming it where it is absent or none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; copy the whole checkpoint") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not readable JSON ({error})") from error
    return _Reader(values, str(path)).values


def layout_of(folder: Path) -> Literal["sailctl", "internvl", "transformers"]:
    """Whose layout a weights folder has; CheckpointError naming model_type where it is nobody's we know."""
    if (folder / "sailctl_config.json").is_file():
        return "sailctl"
    values = read_json(folder / "config.json")
    if values.get("model_type") == "internvl":
        return "transformers"
    if "llm_config" in values and "vision_config" in values:
        return "internvl"
    raise CheckpointError(
        f"{folder / 'config.json'}: model_type {values.get('model_type')!r} is no vision-language model known here; "
        "expected sailctl's own weights, an original InternVL/SAIL-VL or a transformers InternVL checkpoint"
    )


def read_config(folder: Path) -> ModelConfig:
    """The ModelConfig of a foreign checkpoint folder of either layout."""
    path = folder / "config.json"
    source = _Reader(read_json(path), str(path))
    try:
        return _read_internvl(source, folder) if "llm_config" in source.values else _read_transformers(source, folder)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{path}: {key} = {first.get('input')!r}: {first['msg']}") from error


def _read_internvl(source: _Reader, folder: Path) -> ModelConfig:
    tower = read_vision(source.part("vision_config"))
    forced = source.get("force_image_size", tower.image_size)
    if forced != tower.image_size:
        raise CheckpointError(
            f"{source.where}: force_image_size {forced} ≠ vision_config.image_size {tower.image_size}; position "
            "embeddings are not resized here: resize them where the checkpoint comes from"
        )
    template = source.need("template")
    if template not in TEMPLATES:
        raise CheckpointError(
            f"{source.where}: template {template!r} is unknown; known: {', '.join(sorted(TEMPLATES))}"
        )
    # defaults of the rest are those of the original configuration class
    return ModelConfig(
        name=folder.name,
        vision=tower,
        llm=read_llm(source.part("llm_config")),
        downsample_ratio=source.need("downsample_ratio"),
        ps_version=source.need("ps_version"),
        select_layer=source.need("select_layer"),
        template=template,
        system=source.get("system_message", None),
        min_tiles=source.get("min_dynamic_patch", 1),
        max_tiles=source.get("max_dynamic_patch", 6),
        thumbnail=source.get("use_thumbnail", False),
    )


def _read_transformers(source: _Reader, folder: Path) -> ModelConfig:
    for key, allowed in (("vision_feature_select_strategy", "default"), ("projector_hidden_act", "gelu")):
        source.refuse_unless(key, allowed, allowed)
    layer = source.get("vision_feature_layer", -1)
    if not isinstance(layer, int):
        raise CheckpointError(f"{source.where}: vision_feature_layer = {layer!r} is not supported; only one layer is")
    llm = read_llm(source.part("text_config"))
    tied = source.get(
        "tie_word_embeddings", InternVLConfig.tie_word_embeddings
    )  # the outer flag is the one that counts
    processor_path = folder / "preprocessor_config.json"
    processor = read_json(processor_path) if processor_path.is_file() else {}
    extra = _Reader(source.get("sailctl", {}), f"{source.where} sailctl")
    return ModelConfig(
        name=folder.name,
        vision=read_vision(source.part("vision_config")),
        llm=llm.model_copy(update={"tie_embeddings": tied}),
        downsample_ratio=source.get("downsample_ratio", InternVLConfig.downsample_ratio),
        ps_version="v2",
        select_layer=layer,
        template=extra.get("template", _template_from_jinja(folder)),
        system=extra.values.get("system", ""),
        min_tiles=processor.get("min_patches", 1),
        max_tiles=processor.get("max_patches", 12),
        thumbnail=extra.get("thumbnail", True),
    )


def _template_from_jinja(folder: Path) -> str:
    """Which ChatML variant a checkpoint's own template writes: with or without a line end after `<|im_end|>`."""
    text = ""
    for name, key in (("chat_template.jinja", None), ("chat_template.json", "chat_template")):
        path = folder / name
        if path.is_file():
            text = path.read_text(encoding="utf-8") if key is None else str(read_json(path).get(key, ""))
            break
    else:
        if (folder / "tokenizer_config.json").is_file():
            text = str(read_json(folder / "tokenizer_config.json").get("chat_template") or "")
    if "<|im_end|>" in text and not any(
        ending in text for ending in ("<|im_end|>\\n", "<|im_end|>\n", "<|im_end|>' + '\\n")
    ):
        return "sail"
    return "internvl2_5"


def read_vision(source: _Reader | dict[str, Any], where: str = "config.json") -> VisionConfig:
    """A tower's shape from an original or a stock transformers vision config."""
    source = source if isinstance(source, _Reader) else _Reader(source, where)
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
    return VisionConfig(
        kind="internvit",
        **_common_vision(source),
        norm_eps=source.get("layer_norm_eps", 1e-6),
        attention_bias=bias,
        qk_norm=qk_norm,
        drop_path=source.get("drop_path_rate", 0.0),
        layer_scale_init=scale,
    )


def _read_aimv2(source: _Reader) -> VisionConfig:
    for key, allowed in (("is_native", False), ("mlp_bias", False), ("use_bias", False), ("hidden_act", "silu")):
        source.refuse_unless(key, allowed, allowed)
    return VisionConfig(
        kind="aimv2",
        **_common_vision(source),
        norm_eps=source.get("rms_norm_eps", 1e-5),
        attention_bias=source.get("qkv_bias", False),
    )


def _common_vision(source: _Reader) -> dict[str, Any]:
    return {
        "hidden_size": source.need("hidden_size"),
        "intermediate_size": source.need("intermediate_size"),
        "num_layers": source.need("num_hidden_layers"),
        "num_heads": source.need("num_attention_heads"),
        "image_size": _side(source, "image_size"),
        "patch_size": _side(source, "patch_size"),
    }


def _side(source: _Reader, key: str) -> int:
    found = source.need(key)
    if isinstance(found, list):
        if len(set(found)) != 1:
            raise CheckpointError(f"{source.where}: {key} = {found} is not square")
        return int(found[0])
    return int(found)


def read_llm(source: _Reader | dict[str, Any], where: str = "config.json") -> LLMConfig:
    """A language model's shape from a stock transformers config (any version's way of writing it)."""
    source = source if isinstance(source, _Reader) else _Reader(source, where)
    kind = source.need("model_type")
    if kind not in _LLM_CLASSES:
        raise CheckpointError(f"{source.where}: model_type {kind!r} is not one of {', '.join(_LLM_CLASSES)}")
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        source.need(key)
    for key, allowed in (("use_sliding_window", False), ("hidden_act", "silu"), ("decoder_sparse_step", 1)):
        source.refuse_unless(key, allowed, allowed)
    source.refuse_unless("mlp_only_layers", [], [])
    if kind == "qwen2":
        width = source.need("hidden_size") // source.need("num_attention_heads")
        source.refuse_unless("head_dim", width, width)
    else:
        source.refuse_unless("attention_bias", False, False)
    known = {
        key: value for key, value in source.values.items() if key not in ("auto_map", "architectures", "model_type")
    }
    try:
        stock: Any = _LLM_CLASSES[kind](**known)
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
    return LLMConfig(
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


def transformers_config(config: ModelConfig, image_token_id: int, dtype: str) -> dict[str, Any]:
    """`config.json` of a stock InternVLForConditionalGeneration with these weights."""
    stock = InternVLConfig(
        vision_config=vision.stock_config(config.vision).to_dict(),
        text_config=language.stock_config(config.llm).to_dict(),
        image_token_id=image_token_id,
        image_seq_length=config.tokens_per_tile,
        downsample_ratio=config.downsample_ratio,
        vision_feature_layer=config.select_layer,
        tie_word_embeddings=config.llm.tie_embeddings,
    )
    extra = {"template": config.template, "system": config.system, "thumbnail": config.thumbnail}
    architectures = ["InternVLForConditionalGeneration"]
    return {**stock.to_dict(), "architectures": architectures, "dtype": dtype, "sailctl": extra}


def internvl_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """`config.json` of the original InternVL layout, without anybody's code."""
    tower = config.vision
    common = {
        "hidden_size": tower.hidden_size,
        "intermediate_size": tower.intermediate_size,
        "num_hidden_layers": tower.num_layers,
        "num_attention_heads": tower.num_heads,
        "image_size": tower.image_size,
        "patch_size": tower.patch_size,
        "num_channels": 3,
        "qkv_bias": tower.attention_bias,
    }
    vision_config = (
        {
            "architectures": ["InternVisionModel"],
            "model_type": "intern_vit_6b",
            **common,
            "qk_normalization": tower.qk_norm,
            "layer_norm_eps": tower.norm_eps,
            "norm_type": "layer_norm",
            "hidden_act": "gelu",
            "initializer_factor": tower.layer_scale_init,
            "drop_path_rate": tower.drop_path,
        }
        if tower.kind == "internvit"
        else {"architectures": ["AIMv2Model"], "model_type": "aimv2", **common, "rms_norm_eps": tower.norm_eps}
    )
    llm = language.stock_config(config.llm)
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "vision_config": vision_config,
        "llm_config": {**llm.to_dict(), "architectures": [language.model_class(config.llm).__name__]},
        "downsample_ratio": config.downsample_ratio,
        "ps_version": config.ps_version,
        "select_layer": config.select_layer,
        "template": config.template,
        "system_message": config.system,
        "force_image_size": tower.image_size,
        "dynamic_image_size": config.max_tiles > 1,
        "min_dynamic_patch": config.min_tiles,
        "max_dynamic_patch": config.max_tiles,
        "use_thumbnail": config.thumbnail,
        "torch_dtype": dtype,
    }
