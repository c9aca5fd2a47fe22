"""Weights in and out of our own layout, of pretrained parts, and what is said about broken ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers_model import tiny_checkpoint, tiny_config, tiny_model, tiny_tokenizer
from safetensors.torch import load_file, save_file

from sailctl.core.device import pick
from sailctl.core.errors import CheckpointError, UsageError
from sailctl.core.model.weights import Loaded, init_model, load_model, resolve_weights_dir, save_weights
from sailctl.core.schema.model import ModelSection

WEIGHTS = "model.safetensors"


def load(path: Path) -> Loaded:
    return load_model(path, device=pick("cpu"), dtype=None)


def same(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("vision", ["internvit", "aimv2"])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "qwen3_moe"])
def test_round_trip_is_bit_identical(tmp_path: Path, kind: str, vision: str) -> None:
    model = tiny_checkpoint(tmp_path / "a", llm=kind, vision=vision, select_layer=-3, template="qwen2", system="Hi")
    loaded = load(tmp_path / "a")
    assert same(model, loaded.model) and loaded.config == model.config
    save_weights(loaded.model, loaded.tokenizer, tmp_path / "b")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert {"config.json", WEIGHTS, "sailctl_config.json", "tokenizer.json"} <= set(names)
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_dtype_is_kept_or_chosen_and_buffers_stay_exact(tmp_path: Path) -> None:
    model = tiny_model()
    frequencies = model.llm.model.rotary_emb.inv_freq.clone()
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    save_weights(model, tiny_tokenizer(), tmp_path)
    assert load(tmp_path).model.llm.dtype == torch.bfloat16
    wide = load_model(tmp_path, device=pick("cpu"), dtype=torch.float32).model
    assert wide.llm.dtype == torch.float32
    for loaded in (load(tmp_path).model, wide):
        assert torch.equal(loaded.llm.model.rotary_emb.inv_freq, frequencies)


def test_a_checkpoint_is_found_from_its_run(tmp_path: Path) -> None:
    step = tmp_path / "checkpoints" / "step-00000010"
    tiny_checkpoint(step / "weights")
    (tmp_path / "latest").write_text("step-00000010\n", encoding="utf-8")
    (tmp_path / "run.json").write_text('{"stage": "advance"}', encoding="utf-8")
    assert {resolve_weights_dir(path) for path in (tmp_path, step, step / "weights")} == {step / "weights"}
    assert load(tmp_path).lineage == {"stage": "advance"}
    (tmp_path / "latest").write_text("../elsewhere", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"latest: '\.\./elsewhere' is not a checkpoint's name"):
        resolve_weights_dir(tmp_path)
    (tmp_path / "latest").write_text("..", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"latest: '\.\.' is not a checkpoint's name"):
        resolve_weights_dir(tmp_path)
    (tmp_path / "latest").write_text("step-00000020", encoding="utf-8")
    with pytest.raises(CheckpointError, match="names step-00000020, which is not in"):
        resolve_weights_dir(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        resolve_weights_dir(tmp_path / "none")
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        resolve_weights_dir(tmp_path)


def broken(folder: Path, change: str) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = "projector.1.weight"
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        tensors["projector.9.weight"] = torch.zeros(3)
    else:
        tensors[name] = torch.zeros(7, 128)
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"tensor projector\.1\.weight \[40, 128\] is missing"),
        ("extra", r"model\.safetensors: tensor projector\.9\.weight \[3\] belongs to nothing in this model"),
        (
            "misshapen",
            r"model\.safetensors: tensor projector\.1\.weight has shape \[7, 128\], the config says \[40, 128\]",
        ),
    ],
)
def test_broken_tensors_are_named(tmp_path: Path, change: str, message: str) -> None:
    tiny_checkpoint(tmp_path)
    broken(tmp_path, change)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


def test_truncated_file_is_named(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path)
    data = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a readable safetensors file"):
        load(tmp_path)


def test_pickles_are_refused_with_a_remedy(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path)
    (tmp_path / WEIGHTS).rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match=r"only pickled weights \(pytorch_model.bin\).*save it again as safetensors"
    ):
        load(tmp_path)


def test_config_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path)
    path = tmp_path / "sailctl_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(values | {"image_token_id": 9}), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"image_token_id 9 ≠ 261"):
        load(tmp_path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"sailctl_config\.json: not readable JSON"):
        load(tmp_path)


def write_parts(folder: Path, **kinds: str) -> torch.nn.Module:
    model = tiny_model(11, **kinds)
    model.vision.save_pretrained(folder / "tower")
    model.llm.save_pretrained(folder / "language")
    tiny_tokenizer(folder / "language")
    return model


@pytest.mark.parametrize(("kind", "vision"), [("qwen2", "internvit"), ("qwen3_moe", "aimv2")])
def test_model_from_pretrained_parts(tmp_path: Path, kind: str, vision: str) -> None:
    parts = write_parts(tmp_path, llm=kind, vision=vision)
    config = tiny_config(llm=kind, vision=vision)
    section = ModelSection(config=config, vision_weights="recipe:tower", llm_weights=str(tmp_path / "language"))
    torch.manual_seed(5)
    loaded = init_model(section, tmp_path)
    assert same(loaded.model.vision, parts.vision) and same(loaded.model.llm, parts.llm)
    assert not same(loaded.model.projector, parts.projector)
    torch.manual_seed(5)
    assert same(init_model(section, tmp_path).model, loaded.model)


def test_parts_must_agree_with_the_recipe(tmp_path: Path) -> None:
    write_parts(tmp_path)
    config = tiny_config()
    section = ModelSection(config=config, vision_weights="recipe:tower", llm_weights="recipe:language")
    section.config.llm.rope_theta = 10_000.0
    with pytest.raises(CheckpointError, match=r"rope_theta is 1000000\.0, the recipe's model says 10000\.0"):
        init_model(section, tmp_path)
    section = ModelSection(config=tiny_config(), vision_weights="recipe:tower", llm_weights="recipe:language")
    section.config.vision.num_heads = 2
    with pytest.raises(CheckpointError, match="num_heads is 4, the recipe's model says 2"):
        init_model(section, tmp_path)


def test_missing_parts_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.tokenizer: not set"):
        init_model(ModelSection(config=tiny_config()), tmp_path)
    with pytest.raises(UsageError, match="recipe:none: no such folder"):
        init_model(ModelSection(config=tiny_config(), tokenizer="recipe:none"), tmp_path)


def test_save_refuses_a_read_only_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(Exception, match="cannot write"):
        save_weights(tiny_model(), tiny_tokenizer(), tmp_path / "file" / "weights")
    shutil.rmtree(tmp_path)
