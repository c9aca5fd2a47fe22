"""Weights in, from our own folders, run directories, original InternVL/SAIL-VL and transformers InternVL checkpoints;
and out, in our own layout. Other people's layouts are written in `export.py`; names and shapes live in `layouts.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from sailctl.core.device import Device
from sailctl.core.errors import CheckpointError, UsageError
from sailctl.core.files import storage_errors, write_json
from sailctl.core.model import foreign, layouts
from sailctl.core.model.foreign_parts import read_json, read_llm, read_vision
from sailctl.core.model.presets import model_config
from sailctl.core.model.shards import TensorFolder, check_weights
from sailctl.core.model.tokenizer import add_markers, ensure_tokens, load_tokenizer, token_id
from sailctl.core.model.vlm import VisionLanguageModel
from sailctl.core.schema.load import explain
from sailctl.core.schema.model import LLMConfig, ModelConfig, ModelSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CONFIG_NAME, WEIGHTS_NAME = "sailctl_config.json", "model.safetensors"


@dataclass
class Loaded:
    """A model ready to use; `lineage` is the `run.json` of the run that made it, if one did."""

    model: VisionLanguageModel
    tokenizer: PreTrainedTokenizerFast
    config: ModelConfig
    lineage: dict[str, Any] | None = None


def resolve_weights_dir(path: Path | str) -> Path:
    """The folder with the tensors, given it, a checkpoint (`weights/`) or a run (`latest` naming a checkpoint).

    Raises UsageError where nothing is at `path`, CheckpointError where it holds no checkpoint.
    """
    path = Path(path)
    if not path.is_dir():
        raise UsageError(f"--checkpoint {path}: no such folder; give a checkpoint, a run or a weights folder")
    if (path / CONFIG_NAME).is_file() or (path / "config.json").is_file():
        return path
    if (path / "weights").is_dir():
        return resolve_weights_dir(path / "weights")
    if (path / "latest").is_file():
        name = (path / "latest").read_text(encoding="utf-8").strip()
        if not name or name == ".." or Path(name).name != name:
            raise CheckpointError(f"{path / 'latest'}: {name!r} is not a checkpoint's name")
        if not (path / "checkpoints" / name).is_dir():
            raise CheckpointError(f"{path / 'latest'} names {name}, which is not in {path / 'checkpoints'}")
        return resolve_weights_dir(path / "checkpoints" / name)
    raise CheckpointError(f"{path}: no checkpoint here (config.json, {CONFIG_NAME}, weights/ or latest)")


def load_model(path: Path | str, *, device: Device, dtype: torch.dtype | None) -> Loaded:
    """Load a checkpoint of any known layout; `dtype` None keeps the one it is stored in.

    Raises UsageError for a missing path, CheckpointError naming file, tensor and both shapes for one that does not fit,
    or the file of a checkpoint of ours that is not what its manifest says.
    """
    folder = resolve_weights_dir(path)
    check_weights(folder)
    tensors = TensorFolder(folder)
    tokenizer = load_tokenizer(folder)
    kind = foreign.layout_of(folder)
    if kind == "sailctl":
        return _load_own(folder, tensors, tokenizer, device, dtype)
    config = foreign.read_config(folder)
    layout = layouts.found_layout(tensors.names, kind)
    config = config.model_copy(update={"llm": _untie_if_stored_apart(config.llm, tensors, layout)})
    image_token_id = _foreign_image_token(folder, tokenizer)
    model = _allocate(config, image_token_id, dtype or _stored_dtype(tensors))
    fill(model, tensors, layout, modules=("vision", "projector", "llm"), tied=config.llm.tie_embeddings)
    ensure_tokens(tokenizer, model)
    return Loaded(model.to(device.torch).eval(), tokenizer, model.config, None)


def _load_own(
    folder: Path, tensors: TensorFolder, tokenizer: PreTrainedTokenizerFast, device: Device, dtype: torch.dtype | None
) -> Loaded:
    path = folder / CONFIG_NAME
    values = read_json(path)
    try:
        config = ModelConfig.model_validate(values["model"])
        image_token_id = int(values["image_token_id"])
    except ValidationError as error:
        raise CheckpointError(explain(error, ModelConfig, str(path))) from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a config of ours ({error!r})") from error
    if token_id(tokenizer, "<IMG_CONTEXT>") != image_token_id:
        raise CheckpointError(
            f"{path}: image_token_id {image_token_id} ≠ {token_id(tokenizer, '<IMG_CONTEXT>')}, the tokenizer's "
            "<IMG_CONTEXT>; the folder's files are from different checkpoints"
        )
    model = _allocate(config, image_token_id, dtype or _stored_dtype(tensors))
    table = [layouts.same(name) for name in own_tensors(model)]
    _fill(model, tensors, table, extra=tensors.names - own_tensors(model).keys())
    return Loaded(model.to(device.torch).eval(), tokenizer, config, _lineage(folder))


def init_model(section: ModelSection, recipe_dir: Path) -> Loaded:
    """A model from its pretrained parts and a fresh projector, in fp32 on CPU; parts not named get random weights.

    The parts' own configs must agree with the recipe's shapes (CheckpointError naming key and both values). Seed torch
    before for a reproducible projector. Raises UsageError where no tokenizer is named.
    """
    config = model_config(section)
    named = {
        key: _recipe_path(getattr(section, key), recipe_dir) for key in ("vision_weights", "llm_weights", "tokenizer")
    }
    tokenizer_folder = named["tokenizer"] or named["llm_weights"]
    if tokenizer_folder is None:
        raise UsageError("model.tokenizer: not set, and no model.llm_weights to take it from; name a tokenizer folder")
    tokenizer = load_tokenizer(tokenizer_folder)
    image_token_id = add_markers(tokenizer)
    config = config.model_copy(update={"llm": config.llm.model_copy()})
    vision_folder, llm_folder = named["vision_weights"], named["llm_weights"]
    if llm_folder is not None:
        config.llm = _agreed_llm(config.llm, llm_folder)
    if vision_folder is not None:
        _check_vision(config, vision_folder)
    model = VisionLanguageModel(config, image_token_id)
    if vision_folder is not None:
        _fill_part(model, vision_folder, "vision", tied=False)
    if llm_folder is not None:
        _fill_part(model, llm_folder, "llm", tied=config.llm.tie_embeddings)
    ensure_tokens(tokenizer, model)
    return Loaded(model, tokenizer, model.config, None)


def save_weights(
    model: VisionLanguageModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    tensors: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write our own layout into a folder: `model.safetensors`, configs, tokenizer. Equal weights give equal bytes.

    `tensors` stand for the model's own where those are spread over processes. Everything is fsynced; the caller makes
    the folder appear at once by renaming it. Raises StorageError.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save_pretrained(folder)
        write_tensors(own_tensors(model) if tensors is None else tensors, folder / WEIGHTS_NAME)
    values = {"format": 1, "image_token_id": model.image_token_id, "model": model.config.model_dump(mode="json")}
    write_json(folder / CONFIG_NAME, values)
    write_json(folder / "config.json", {"model_type": "sailctl", "architectures": ["VisionLanguageModel"]})


def write_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write and fsync one safetensors file; tensors are brought to the CPU."""
    save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, path, {"format": "pt"})
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())


def fill(
    model: VisionLanguageModel,
    tensors: TensorFolder,
    layout: layouts.Layout,
    *,
    modules: Iterable[str],
    tied: bool,
) -> None:
    """Fill the named modules of a model from a foreign checkpoint; every tensor on both sides is accounted for."""
    wanted = {name: value.shape for name, value in own_tensors(model).items() if name.split(".")[0] in modules}
    table = layouts.entries(wanted, layout)
    known = {name for entry in table for name in entry.theirs} | layouts.ignored(tensors.names, layout, tied=tied)
    _fill(model, tensors, table, extra=tensors.names - known)


@torch.no_grad()
def _fill(model: VisionLanguageModel, tensors: TensorFolder, table: list[layouts.Entry], extra: set[str]) -> None:
    ours = dict(model.state_dict(keep_vars=True))
    for entry in table:
        expected = entry.store([torch.empty(ours[name].shape, device="meta") for name in entry.ours])
        for name, value in zip(entry.theirs, expected, strict=True):
            if name not in tensors:
                raise CheckpointError(
                    f"{tensors.folder}: tensor {name} {list(value.shape)} is missing; the checkpoint is incomplete or "
                    "its config.json describes another model"
                )
            if tensors.shape(name) != value.shape:
                raise CheckpointError(
                    f"{tensors.file(name)}: tensor {name} has shape {list(tensors.shape(name))}, "
                    f"the config says {list(value.shape)}"
                )
    if extra:
        name = min(extra)
        raise CheckpointError(
            f"{tensors.file(name)}: tensor {name} {list(tensors.shape(name))} belongs to nothing in this model "
            f"({len(extra)} such); the config describes another model"
        )
    for entry in table:
        loaded = entry.load([tensors.get(name) for name in entry.theirs])
        for name, value in zip(entry.ours, loaded, strict=True):
            ours[name].copy_(value)


def own_tensors(model: VisionLanguageModel) -> dict[str, torch.Tensor]:
    """The tensors of a model by our names; a tied head is its embedding and not written twice."""
    state = model.state_dict()
    if model.config.llm.tie_embeddings:
        state.pop("llm.lm_head.weight", None)
    return state


def _lineage(folder: Path) -> dict[str, Any] | None:
    """The `run.json` of the run whose checkpoint this is: RUN/checkpoints/NAME/weights."""
    path = folder.absolute().parent.parent.parent / "run.json"
    return read_json(path) if folder.name == "weights" and path.is_file() else None


def _allocate(config: ModelConfig, image_token_id: int, dtype: torch.dtype) -> VisionLanguageModel:
    """An uninitialised model in `dtype`; buffers that are computed stay as transformers computes them."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return VisionLanguageModel(config, image_token_id, initialise=False)
    finally:
        torch.set_default_dtype(before)


def _stored_dtype(tensors: TensorFolder) -> torch.dtype:
    """The dtype every stored tensor fits in without loss."""
    found = {tensors.dtype(name) for name in tensors.names}
    floating = sorted((dtype for dtype in found if dtype.is_floating_point), key=str)
    result = floating[0]
    for dtype in floating[1:]:
        result = torch.promote_types(result, dtype)
    return result


def _untie_if_stored_apart(llm: LLMConfig, tensors: TensorFolder, layout: layouts.Layout) -> LLMConfig:
    """A head stored beside a differing embedding is its own head, whatever the config says (transformers 5 agrees)."""
    head, embedding = f"{layout.head}weight", f"{layout.body}embed_tokens.weight"
    if not llm.tie_embeddings or head not in tensors or embedding not in tensors:
        return llm
    same = torch.equal(tensors.get(head), tensors.get(embedding))
    return llm if same else llm.model_copy(update={"tie_embeddings": False})


def _foreign_image_token(folder: Path, tokenizer: PreTrainedTokenizerFast) -> int:
    found = token_id(tokenizer, "<IMG_CONTEXT>")
    stated = read_json(folder / "config.json").get("image_token_id")
    if stated is not None and stated != found:
        raise CheckpointError(
            f"{folder / 'config.json'}: image_token_id {stated} ≠ {found}, the tokenizer's <IMG_CONTEXT>; "
            "the folder's files are from different checkpoints"
        )
    return add_markers(tokenizer)


def _recipe_path(text: str | None, recipe_dir: Path) -> Path | None:
    if text is None:
        return None
    path = recipe_dir / text.removeprefix("recipe:") if text.startswith("recipe:") else Path(text).expanduser()
    if not path.is_dir():
        raise UsageError(f"model weights {text}: no such folder ({path})")
    return path


def _agreed_llm(wanted: LLMConfig, folder: Path) -> LLMConfig:
    """The LLM config of its own checkpoint, which must have the recipe's shapes."""
    path = folder / "config.json"
    found = read_llm(read_json(path), str(path))
    theirs, ours = found.model_dump(), wanted.model_dump()
    if wanted.kind == "qwen2" or wanted.head_dim is None:
        ours["head_dim"] = theirs["head_dim"]
    # positions and rope scaling only bound how long a text may be; the checkpoint knows best
    for key in theirs.keys() - {"max_position_embeddings", "rope_scaling"}:
        if theirs[key] != ours[key]:
            raise CheckpointError(f"{path}: {key} is {theirs[key]!r}, the recipe's model says {ours[key]!r}")
    return found


def _check_vision(config: ModelConfig, folder: Path) -> None:
    path = folder / "config.json"
    theirs = read_vision(read_json(path), str(path)).model_dump()
    ours = config.vision.model_dump()
    for key in theirs.keys() - {"drop_path", "layer_scale_init"}:  # of training and of random weights
        if theirs[key] != ours[key]:
            raise CheckpointError(f"{path}: {key} is {theirs[key]!r}, the recipe's model says {ours[key]!r}")


def _fill_part(model: VisionLanguageModel, folder: Path, module: str, *, tied: bool) -> None:
    tensors = TensorFolder(folder)
    fill(model, tensors, layouts.found_layout(tensors.names, "part"), modules=(module,), tied=tied)
