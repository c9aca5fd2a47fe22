"""Parity in fp32 with stock transformers' InternVL, from both layouts in and back out again.

The original layout is built here by renaming, from its published key names, without the product's tables.
Tolerances are the promised ones; beside them stands the worst error measured on CPU over the cases here.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from helpers_model import tiny_tokenizer
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from sailctl.core.device import pick
from sailctl.core.errors import CheckpointError, UsageError
from sailctl.core.model.export import export
from sailctl.core.model.vision import normalise
from sailctl.core.model.vlm import VisionLanguageModel
from sailctl.core.model.weights import load_model

IMAGE, TOLERANCE = 261, 1e-4
PROMPT = [257, 84, 259, *[IMAGE] * 8, 260, 71, 72, 258]  # two tiles of four tokens
TEXT = {"vocab_size": 262, "hidden_size": 40, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
QWEN2 = {**TEXT, **HEADS, "model_type": "qwen2"}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


def text_config(kind: str) -> Qwen2Config:
    if kind == "qwen2":
        return Qwen2Config(**TEXT, **HEADS, rope_theta=1e6, max_position_embeddings=512)
    if kind == "qwen3":
        return Qwen3Config(**TEXT, **HEADS, head_dim=16)
    return Qwen3MoeConfig(**TEXT, **HEADS, **EXPERTS, head_dim=16, norm_topk_prob=True)


def reference(kind: str, *, tied: bool, layer: int, seed: int) -> InternVLForConditionalGeneration:
    torch.manual_seed(seed)
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=[56, 56],
            patch_size=[14, 14],
            attention_bias=True,
        ),
        text_config=text_config(kind),
        image_token_id=IMAGE,
        image_seq_length=4,
        vision_feature_layer=layer,
        tie_word_embeddings=tied,
    )
    model = InternVLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # away from zeros and ones, that every tensor may matter
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model


def some_tiles() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 56, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def worst_error(ours: VisionLanguageModel, stock: InternVLForConditionalGeneration) -> float:
    ids, tiles = torch.tensor(PROMPT), some_tiles()
    hidden = ours.hidden(ids, torch.arange(len(ids)), torch.tensor([0, len(ids)]).int(), len(ids), tiles)
    logits = stock(input_ids=ids.unsqueeze(0), pixel_values=normalise(tiles, torch.float32)).logits[0]
    assert logits.std() > 0.1  # the comparison is about something
    return float((ours.lm_head(hidden) - logits).abs().max())


@torch.no_grad()
def assert_same_tokens(ours: VisionLanguageModel, stock: InternVLForConditionalGeneration) -> None:
    tiles = some_tiles()
    mine = ours.generate([PROMPT], [tiles], max_new_tokens=16, temperature=0.0, eos_ids=[256])[0]
    ids = torch.tensor([PROMPT])
    theirs = stock.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=normalise(tiles, torch.float32),
        max_new_tokens=16,
        do_sample=False,
        eos_token_id=256,
        pad_token_id=256,
    )[0, len(PROMPT) :].tolist()
    assert mine == theirs and len(set(mine)) > 1


def load(path: Path) -> VisionLanguageModel:
    return load_model(path, device=pick("cpu"), dtype=torch.float32).model


CASES = [("qwen2", True, -1), ("qwen2", False, -1), ("qwen2", False, -3), ("qwen3", True, -2), ("qwen3_moe", False, 2)]


@pytest.mark.parametrize(("kind", "tied", "layer"), CASES)
def test_transformers_layout_in_and_out(tmp_path: Path, kind: str, tied: bool, layer: int) -> None:
    stock = reference(kind, tied=tied, layer=layer, seed=len(kind) + layer)
    stock.save_pretrained(tmp_path / "stock", max_shard_size="40KB")
    assert len(list((tmp_path / "stock").glob("model-*.safetensors"))) > 2  # sharded
    tiny_tokenizer(tmp_path / "stock")
    ours = load(tmp_path / "stock")
    assert ours.config.select_layer == layer and ours.config.llm.tie_embeddings == tied
    assert worst_error(ours, stock) <= TOLERANCE  # worst measured 0.0: the same kernels on the same numbers
    assert_same_tokens(ours, stock)

    export(tmp_path / "stock", "sailctl", tmp_path / "own")
    export(tmp_path / "own", "transformers", tmp_path / "out")
    again, report = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()), report
    assert worst_error(ours, again) <= TOLERANCE  # worst measured 0.0: the same kernels on the same numbers
    assert_same_tokens(ours, again)
    left, right = stock.state_dict(), again.state_dict()
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_names_as_transformers_5_has_them_in_memory_are_read_too(tmp_path: Path) -> None:
    stock = reference("qwen3_moe", tied=False, layer=-1, seed=1)
    stock.save_pretrained(tmp_path)
    save_file({name: value.clone() for name, value in stock.state_dict().items()}, tmp_path / "model.safetensors")
    tiny_tokenizer(tmp_path)
    assert worst_error(load(tmp_path), stock) <= TOLERANCE  # worst measured 0.0


def to_original(stock: InternVLForConditionalGeneration, folder: Path, **changes: object) -> None:
    """Write a stock model in the original InternVL layout."""
    state = {name: value.clone() for name, value in stock.state_dict().items()}
    tensors: dict[str, torch.Tensor] = {}
    renames = [
        ("model.vision_tower.embeddings.cls_token", "vision_model.embeddings.class_embedding"),
        ("model.vision_tower.embeddings.position_embeddings", "vision_model.embeddings.position_embedding"),
        ("model.vision_tower.embeddings.patch_embeddings.projection", "vision_model.embeddings.patch_embedding"),
        ("model.vision_tower.encoder.layer.", "vision_model.encoder.layers."),
        (".attention.projection_layer.", ".attn.proj."),
        (".layernorm_before.", ".norm1."),
        (".layernorm_after.", ".norm2."),
        (".lambda_1", ".ls1"),
        (".lambda_2", ".ls2"),
        ("model.multi_modal_projector.layer_norm", "mlp1.0"),
        ("model.multi_modal_projector.linear_1", "mlp1.1"),
        ("model.multi_modal_projector.linear_2", "mlp1.3"),
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    ]
    for name, value in state.items():
        new = name
        for old, replacement in renames:
            new = new.replace(old, replacement, 1) if not new.startswith("language_model") else new
        if stock.config.tie_word_embeddings and new == "language_model.lm_head.weight":
            continue
        if match := re.search(r"\.attention\.([qkv])_proj\.", new):
            if match[1] == "q":
                three = [state[name.replace(".q_proj.", f".{letter}_proj.")] for letter in "qkv"]
                tensors[new.replace(".attention.q_proj.", ".attn.qkv.")] = torch.cat(three)
        elif new.endswith("experts.gate_up_proj"):
            for expert, matrix in enumerate(value):
                gate, up = matrix.chunk(2)
                base = new.removesuffix("gate_up_proj") + str(expert)
                tensors |= {f"{base}.gate_proj.weight": gate.clone(), f"{base}.up_proj.weight": up.clone()}
        elif new.endswith("experts.down_proj"):
            base = new.removesuffix("down_proj")
            tensors |= {f"{base}{expert}.down_proj.weight": matrix.clone() for expert, matrix in enumerate(value)}
        else:
            tensors[new] = value
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    vision, text = stock.config.vision_config, stock.config.text_config
    llm_config = {
        **TEXT,
        **HEADS,
        "model_type": text.model_type,
        "architectures": ["Qwen2ForCausalLM"],
        "rope_theta": text.rope_parameters["rope_theta"],  # the way it was written in those days
        "rms_norm_eps": text.rms_norm_eps,
        "tie_word_embeddings": stock.config.tie_word_embeddings,
        "hidden_act": "silu",
        "max_position_embeddings": text.max_position_embeddings,
        "use_sliding_window": False,
    }
    if text.model_type != "qwen2":
        llm_config["head_dim"] = text.head_dim
    if text.model_type == "qwen3_moe":
        llm_config |= {**EXPERTS, "norm_topk_prob": True}
    config = {
        "model_type": "internvl_chat",
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"},
        "vision_config": {
            "model_type": "intern_vit_6b",
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "image_size": 56,
            "patch_size": 14,
            "qkv_bias": True,
            "qk_normalization": False,
            "layer_norm_eps": vision.layer_norm_eps,
            "norm_type": "layer_norm",
            "hidden_act": "gelu",
            "drop_path_rate": 0.1,
        },
        "llm_config": llm_config,
        "select_layer": stock.config.vision_feature_layer,
        "ps_version": "v2",
        "downsample_ratio": 0.5,
        "template": "internvl2_5",
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 12,
        "force_image_size": 56,
        "use_thumbnail": True,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "evil.py").write_text("raise SystemExit('remote code was executed')\n", encoding="utf-8")
    tiny_tokenizer(folder)


@pytest.mark.parametrize(("kind", "tied", "layer"), CASES)
def test_original_layout_in_and_out(tmp_path: Path, kind: str, tied: bool, layer: int) -> None:
    stock = reference(kind, tied=tied, layer=layer, seed=20 + layer)
    to_original(stock, tmp_path / "original")
    ours = load(tmp_path / "original")
    config = ours.config
    assert (config.max_tiles, config.template, config.thumbnail, config.select_layer) == (
        12,
        "internvl2_5",
        True,
        layer,
    )
    assert config.vision.drop_path == 0.1 and config.llm.tie_embeddings == tied
    assert worst_error(ours, stock) <= TOLERANCE  # worst measured 0.0: the same kernels on the same numbers
    assert_same_tokens(ours, stock)

    export(tmp_path / "original", "transformers", tmp_path / "out")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert worst_error(ours, again) <= TOLERANCE
    assert_same_tokens(ours, again)
    export(tmp_path / "out", "internvl", tmp_path / "back")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("original", "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    written = json.loads((tmp_path / "back" / "config.json").read_text(encoding="utf-8"))
    wanted = json.loads((tmp_path / "original" / "config.json").read_text(encoding="utf-8"))
    assert written["select_layer"] == layer and "auto_map" not in written
    assert {key: written[key] for key in ("ps_version", "template", "max_dynamic_patch", "force_image_size")} == {
        key: wanted[key] for key in ("ps_version", "template", "max_dynamic_patch", "force_image_size")
    }


def test_export_is_complete_for_stock_transformers(tmp_path: Path) -> None:
    to_original(reference("qwen2", tied=True, layer=-1, seed=3), tmp_path / "original")
    export(tmp_path / "original", "transformers", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.context_image_token_id == IMAGE and tokenizer.start_image_token == "<img>"
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "hi"}]}
    text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\n你是书生·万象")
    assert text.endswith("<|im_end|>\n<|im_start|>user\n<IMG_CONTEXT>\nhi<|im_end|>\n<|im_start|>assistant\n")
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["eos_token_id"] == [258, 256]
    processor = GotOcr2ImageProcessorPil.from_pretrained(tmp_path / "out")
    assert (processor.max_patches, processor.size["height"], processor.crop_to_patches) == (12, 56, True)
    values = json.loads((tmp_path / "out" / "processor_config.json").read_text(encoding="utf-8"))
    assert values == {"processor_class": "InternVLProcessor", "image_seq_length": 4}


def test_a_head_stored_apart_from_a_tied_embedding_is_kept(tmp_path: Path) -> None:
    stock = reference("qwen2", tied=False, layer=-1, seed=4)
    to_original(stock, tmp_path / "original")
    path = tmp_path / "original" / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["llm_config"]["tie_word_embeddings"] = True
    path.write_text(json.dumps(values), encoding="utf-8")
    ours = load(tmp_path / "original")
    assert not ours.config.llm.tie_embeddings and worst_error(ours, stock) <= TOLERANCE


@pytest.mark.parametrize("key", ["select_layer", "ps_version", "downsample_ratio", "template"])
def test_what_decides_the_meaning_is_never_assumed(tmp_path: Path, key: str) -> None:
    to_original(reference("qwen2", tied=True, layer=-1, seed=5), tmp_path / "original", **{key: None})
    with pytest.raises(CheckpointError, match=rf"config\.json: {key} is missing"):
        load(tmp_path / "original")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"template": "vicuna"}, "template 'vicuna' is unknown; known:"),
        ({"force_image_size": 448}, "force_image_size 448 ≠ vision_config.image_size 56"),
        ({"ps_version": "v3"}, "ps_version = 'v3'"),
        ({"llm_config": {"model_type": "internlm2"}}, "model_type 'internlm2' is not one of qwen2, qwen3, qwen3_moe"),
        ({"llm_config": {**QWEN2, "num_key_value_heads": None}}, "llm_config: num_key_value_heads is missing"),
        (
            {"llm_config": {**QWEN2, "hidden_size": "40"}},
            "llm_config: hidden_size = '40' is not a positive whole number",
        ),
        (
            {"llm_config": {**QWEN2, "use_sliding_window": True}},
            "use_sliding_window = True is not supported; only False",
        ),
        ({"vision_config": {"model_type": "clip"}}, "model_type 'clip' is no vision tower known here"),
        ({"max_dynamic_patch": 400}, "max_tiles = 400"),
        ({"select_layer": -30}, r"config\.json: select_layer -30 is none of the tower's \d+ layers"),
        ({"llm_config": {**QWEN2, "num_key_value_heads": 3}}, "llm_config: num_kv_heads 3 does not divide num_heads"),
    ],
)
def test_configs_that_cannot_be_honoured_are_refused(tmp_path: Path, changes: dict, message: str) -> None:
    to_original(reference("qwen2", tied=True, layer=-1, seed=5), tmp_path / "original", **changes)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "original")


def test_misshapen_fused_tensor_names_file_and_both_shapes(tmp_path: Path) -> None:
    folder = tmp_path / "original"
    to_original(reference("qwen2", tied=True, layer=-1, seed=5), folder)
    tensors = load_file(folder / "model.safetensors")
    name = "vision_model.encoder.layers.1.attn.qkv.weight"
    tensors[name] = torch.zeros(64, 32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: tensor {name} has shape \[64, 32\].*\[96, 32\]"):
        load(folder)


def test_rope_scaling_is_carried_through(tmp_path: Path) -> None:
    scaling = {"type": "dynamic", "rope_type": "dynamic", "factor": 2.0}
    config = {**QWEN2, "rope_theta": 1e6, "rope_scaling": scaling, "tie_word_embeddings": True}
    to_original(reference("qwen2", tied=True, layer=-1, seed=5), tmp_path / "original", llm_config=config)
    ours = load(tmp_path / "original")
    assert ours.config.llm.rope_theta == 1e6 and ours.config.llm.rope_scaling == scaling
    assert ours.llm.config.rope_parameters["rope_type"] == "dynamic"


def test_v1_pixel_shuffle_has_no_place_in_stock_transformers(tmp_path: Path) -> None:
    to_original(reference("qwen2", tied=True, layer=-1, seed=5), tmp_path / "original", ps_version="v1")
    with pytest.raises(UsageError, match="v2 order only, this model in v1; use --format internvl or sailctl"):
        export(tmp_path / "original", "transformers", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original"]
    export(tmp_path / "original", "internvl", tmp_path / "out")
    assert load(tmp_path / "out").config.ps_version == "v1"
