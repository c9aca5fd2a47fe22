"""Other people's `config.json` of a whole model, read into a ModelConfig and written from one.

What a tower's or a language model's part of it means is read in `foreign_parts.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from transformers import InternVLConfig

from sailctl.core.errors import CheckpointError
from sailctl.core.model import language, vision
from sailctl.core.model.foreign_parts import Section, read_json, read_llm, read_vision
from sailctl.core.model.template import TEMPLATES
from sailctl.core.schema.load import explain
from sailctl.core.schema.model import ModelConfig


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
    source = Section(read_json(path), str(path))
    try:
        return _read_internvl(source, folder) if "llm_config" in source.values else _read_transformers(source, folder)
    except ValidationError as error:
        raise CheckpointError(explain(error, ModelConfig, str(path))) from error


def _read_internvl(source: Section, folder: Path) -> ModelConfig:
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


def _read_transformers(source: Section, folder: Path) -> ModelConfig:
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
    extra = Section(source.get("sailctl", {}), f"{source.where} sailctl")
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
