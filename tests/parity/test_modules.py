"""Parity in fp32 with stock transformers module by module: towers, AIMv2's original layout, Qwen3 and Qwen3-MoE."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers_model import tiny_config, tiny_model, tiny_tokenizer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Aimv2VisionModel, InternVLVisionModel, Qwen3ForCausalLM, Qwen3MoeForCausalLM

from sailctl.core.device import pick
from sailctl.core.errors import UsageError
from sailctl.core.model.export import export
from sailctl.core.model.vision import layers_of, normalise, patch_features, pixel_shuffle
from sailctl.core.model.vlm import VisionLanguageModel
from sailctl.core.model.weights import init_model, load_model, save_weights
from sailctl.core.schema.model import ModelSection

TILES = torch.randint(0, 256, (3, 3, 56, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
PIXELS = normalise(TILES, torch.float32)
LAYERS = [-1, -2, -4, 0, 3, 4]


@torch.no_grad()
def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter moved away from its neutral start."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.15)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("vision", ["internvit", "aimv2"])
def test_tower_features(vision: str, layer: int) -> None:
    ours = shaken(tiny_model(vision=vision).vision)
    stock = (InternVLVisionModel if vision == "internvit" else Aimv2VisionModel)(ours.config).eval()
    stock.load_state_dict(ours.state_dict())
    output = stock(PIXELS, output_hidden_states=True)
    assert len(output.hidden_states) == 5
    wanted = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
    if vision == "internvit":
        wanted = wanted[:, 1:]
    ran: list[int] = []
    for index, module in enumerate(layers_of(ours)):
        module.register_forward_hook(lambda *_, index=index: ran.append(index))
    found = patch_features(ours, PIXELS, layer)
    assert found.shape == (3, 16, 32)
    assert (found - wanted).abs().max() <= 1e-5  # worst measured 0.0
    assert ran == list(range(layer if layer >= 0 else 5 + layer))  # no deeper than asked


@torch.no_grad()
def test_final_norm_of_aimv2_belongs_to_minus_one_alone() -> None:
    tower = shaken(tiny_model(vision="aimv2").vision)
    last, normed = patch_features(tower, PIXELS, 4), patch_features(tower, PIXELS, -1)
    assert torch.equal(tower.rms_norm(last), normed) and not torch.allclose(last, normed)


def original_aimv2(model: VisionLanguageModel, folder: Path) -> None:
    """Write a model in the original layout around AIMv2's original names, as SAIL-VL 1.5 and later are."""
    tensors: dict[str, torch.Tensor] = {}
    state = model.state_dict()
    tower = {name.removeprefix("vision."): value for name, value in state.items() if name.startswith("vision.")}
    first = "vision_model.preprocessor."
    tensors[f"{first}patchifier.proj.weight"] = tower["embeddings.patch_embed.weight"]
    tensors[f"{first}patchifier.proj.bias"] = tower["embeddings.patch_embed.bias"]
    tensors[f"{first}patchifier.norm.weight"] = tower["embeddings.rms_norm.weight"]
    tensors[f"{first}pos_embed"] = tower["embeddings.position_embedding.weight"].unsqueeze(0).clone()
    tensors["vision_model.trunk.post_trunk_norm.weight"] = tower["rms_norm.weight"]
    for index in range(model.config.vision.num_layers):
        layer, block = f"encoder.layers.{index}.", f"vision_model.trunk.blocks.{index}."
        three = [tower[f"{layer}attention.{letter}_proj.weight"] for letter in "qkv"]
        tensors[f"{block}attn.qkv.weight"] = torch.cat(three)
        for theirs, name in {
            "attn.proj": "attention.out_proj",
            "mlp.fc1": "ffn.gate_proj",
            "mlp.fc2": "ffn.down_proj",
            "mlp.fc3": "ffn.up_proj",
            "norm_1": "rms_norm1",
            "norm_2": "rms_norm2",
        }.items():
            tensors[f"{block}{theirs}.weight"] = tower[f"{layer}{name}.weight"]
    tensors |= {f"mlp1.{name[10:]}": value for name, value in state.items() if name.startswith("projector.")}
    tensors |= {f"language_model.{name[4:]}": value for name, value in state.items() if name.startswith("llm.")}
    tensors.pop("language_model.lm_head.weight")  # tied
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    tower_config = {
        "model_type": "aimv2",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 56,
        "patch_size": 14,
        "rms_norm_eps": 1e-5,
        "qkv_bias": False,
        "use_bias": False,
    }
    config = {
        "model_type": "internvl_chat",
        "vision_config": tower_config,
        "llm_config": model.llm.config.to_dict(),
        "select_layer": -4,
        "ps_version": "v2",
        "downsample_ratio": 0.5,
        "template": "sailvl-chat",
        "max_dynamic_patch": 10,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tiny_tokenizer(folder)


@torch.no_grad()
def test_original_aimv2_layout_in_and_out(tmp_path: Path) -> None:
    model = shaken(tiny_model(vision="aimv2", select_layer=-4), seed=3)
    original_aimv2(model, tmp_path / "original")
    loaded = load_model(tmp_path / "original", device=pick("cpu"), dtype=None)
    assert loaded.config.vision.kind == "aimv2" and loaded.config.select_layer == -4
    assert loaded.config.vision.norm_eps == 1e-5 and loaded.config.max_tiles == 10
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.model.state_dict().items())
    stock = Aimv2VisionModel(model.vision.config).eval()
    stock.load_state_dict(loaded.model.vision.state_dict())
    features = stock(PIXELS, output_hidden_states=True).hidden_states[-4]
    projected = loaded.model.projector(pixel_shuffle(features, 2, "v2")).flatten(0, 1)
    assert (loaded.model.encode_tiles(TILES) - projected).abs().max() <= 1e-5  # worst measured 0.0

    with pytest.raises(UsageError, match=r"no such architecture.*use --format internvl or sailctl"):
        export(tmp_path / "original", "transformers", tmp_path / "no")
    export(tmp_path / "original", "sailctl", tmp_path / "own")
    export(tmp_path / "own", "internvl", tmp_path / "back")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("original", "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["qwen3", "qwen3_moe"])
def test_language_model_from_its_published_names(tmp_path: Path, kind: str) -> None:
    """Experts come one by one, as they are published; transformers 5 fuses them in memory."""
    torch.manual_seed(1)
    config = tiny_model(llm=kind).llm.config
    config._attn_implementation = "sdpa"
    stock = shaken((Qwen3ForCausalLM if kind == "qwen3" else Qwen3MoeForCausalLM)(config), seed=4)
    stock.save_pretrained(tmp_path / "llm")
    tiny_tokenizer(tmp_path / "llm")
    with safe_open(tmp_path / "llm" / "model.safetensors", "pt") as handle:
        names = set(handle.keys())
    assert ("model.layers.0.mlp.experts.3.up_proj.weight" in names) == (kind == "qwen3_moe")
    section = ModelSection(config=tiny_config(llm=kind), llm_weights=str(tmp_path / "llm"))
    ours = init_model(section, tmp_path).model.eval()
    ids = torch.randint(0, 256, (23,))
    hidden = ours.hidden(ids, torch.arange(23), torch.tensor([0, 23]).int(), 23, None)
    logits = stock(ids.unsqueeze(0)).logits[0]
    assert (ours.lm_head(hidden) - logits).abs().max() <= 1e-4  # worst measured 0.0
    mine = ours.generate([ids.tolist()], [None], max_new_tokens=10, temperature=0.0, eos_ids=[256])[0]
    assert mine == stock.generate(ids.unsqueeze(0), max_new_tokens=10, do_sample=False)[0, 23:].tolist()


def test_fused_experts_are_read_too(tmp_path: Path) -> None:
    model = tiny_model(llm="qwen3_moe")
    save_weights(model, tiny_tokenizer(), tmp_path / "own")
    export(tmp_path / "own", "internvl", tmp_path / "published")
    tensors = load_file(tmp_path / "published" / "model.safetensors")
    fused = {name: value for name, value in tensors.items() if ".experts." not in name}
    for name, value in model.llm.state_dict().items():
        if ".experts." in name:
            fused[f"language_model.{name}"] = value.clone()
    assert len(fused) < len(tensors)
    save_file(fused, tmp_path / "published" / "model.safetensors")
    loaded = load_model(tmp_path / "published", device=pick("cpu"), dtype=None).model.state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())
