"""Weights out in other people's layouts: complete folders that appear at once, and read back bit for bit."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import GenerationConfig

from sailctl.core.device import pick
from sailctl.core.errors import UsageError
from sailctl.core.files import fsync_dir, storage_errors, write_json
from sailctl.core.model import foreign, layouts
from sailctl.core.model.foreign_parts import read_json
from sailctl.core.model.template import IM_END, IM_START, IMG_CONTEXT, IMG_END, IMG_START, ChatTemplate, chat_template
from sailctl.core.model.tokenizer import stop_ids
from sailctl.core.model.vision import IMAGENET_MEAN, IMAGENET_STD
from sailctl.core.model.vlm import VisionLanguageModel
from sailctl.core.model.weights import WEIGHTS_NAME, Loaded, load_model, own_tensors, save_weights, write_tensors
from sailctl.core.schema.model import ModelConfig

ExportFormat = Literal["transformers", "internvl", "sailctl"]
FORMATS: tuple[str, ...] = get_args(ExportFormat)


def export(path: Path | str, format: str, out: Path | str) -> Path:
    """Write the checkpoint at `path` into the new folder `out`, in the dtype it is stored in; returns `out`.

    `transformers` is what stock AutoModelForImageTextToText loads, `internvl` the original layout (its modelling code
    is not ours to ship), `sailctl` our own. Raises UsageError for a format that cannot hold this model (naming those
    that can) and for an `out` that is not empty, CheckpointError for a broken checkpoint, StorageError.
    """
    out = Path(out)
    if format not in FORMATS:
        raise UsageError(f"--format {format}: unknown; use one of {', '.join(FORMATS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: already there and not empty; choose a new folder")
    loaded = load_model(path, device=pick("cpu"), dtype=None)
    _refuse_what_does_not_fit(loaded.config, format)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with storage_errors(out):
            if format == "sailctl":
                save_weights(loaded.model, loaded.tokenizer, temporary)
            else:
                temporary.mkdir(parents=True)
                _write_foreign(loaded, format, temporary)
            fsync_dir(temporary)
            os.replace(temporary, out)
            fsync_dir(out.absolute().parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def _refuse_what_does_not_fit(config: ModelConfig, format: str) -> None:
    if format != "transformers":
        return
    if config.vision.kind != "internvit":
        raise UsageError(
            "--format transformers: stock transformers has no such architecture (InternVL with an AIMv2 tower); "
            "use --format internvl or sailctl"
        )
    if config.ps_version != "v2":
        raise UsageError(
            f"--format transformers: stock transformers shuffles pixels in v2 order only, this model in "
            f"{config.ps_version}; use --format internvl or sailctl"
        )


def _write_foreign(loaded: Loaded, format: str, folder: Path) -> None:
    model, tokenizer, config = loaded.model, loaded.tokenizer, loaded.config
    dtype = str(model.llm.get_input_embeddings().weight.dtype).removeprefix("torch.")
    template = chat_template(config.template, config.system)
    tokenizer.chat_template = jinja_template(template)
    if format == "transformers":
        layout = layouts.transformers_layout()
        values = foreign.transformers_config(config, model.image_token_id, dtype)
    else:
        layout = layouts.internvl_layout("internvit" if config.vision.kind == "internvit" else "aimv2")
        values = foreign.internvl_config(config, dtype)
    write_json(folder / "config.json", values)
    tokenizer.save_pretrained(folder)
    if format == "transformers":
        _name_image_tokens(folder / "tokenizer_config.json")
        _write_processor(config, folder)
    stops = stop_ids(tokenizer)
    GenerationConfig(eos_token_id=stops, pad_token_id=tokenizer.pad_token_id or stops[-1]).save_pretrained(folder)
    write_tensors(foreign_tensors(model, layout), folder / WEIGHTS_NAME)


def foreign_tensors(model: VisionLanguageModel, layout: layouts.Layout) -> dict[str, torch.Tensor]:
    """A model's tensors under a layout's names and in its shapes."""
    ours = own_tensors(model)
    theirs: dict[str, torch.Tensor] = {}
    for entry in layouts.entries({name: value.shape for name, value in ours.items()}, layout):
        # copies: two names of one storage are more than safetensors writes
        stored = [value.clone() for value in entry.store([ours[name] for name in entry.ours])]
        theirs.update(zip(entry.theirs, stored, strict=True))
    return theirs


def jinja_template(template: ChatTemplate) -> str:
    """The chat template as stock tokenizers and processors run it; a picture is one image token, then a line end."""
    end = IM_END + template.separator.replace("\n", "\\n")
    system = template.system.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    unless_said = "{% if not messages or messages[0]['role'] != 'system' %}"
    opening = f"{unless_said}{{{{ '{IM_START}system\\n{system}{end}' }}}}{{% endif %}}" if system else ""
    return (
        opening + "{% for message in messages %}"
        f"{{{{ '{IM_START}' + message['role'] + '\\n' }}}}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{{{{ '{IMG_CONTEXT}\\n' }}}}"
        "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endif %}"
        f"{{{{ '{end}' }}}}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ '{IM_START}assistant\\n' }}}}{{% endif %}}"
    )


def _name_image_tokens(path: Path) -> None:
    """Give the tokens the names stock InternVLProcessor looks for, and the class a name every transformers knows."""
    names = {
        "start_image_token": IMG_START,
        "end_image_token": IMG_END,
        "context_image_token": IMG_CONTEXT,
        "video_token": "<video>",  # the processor wants to know one, and writes image tokens in its place
    }
    values = read_json(path)
    write_json(path, {**values, "tokenizer_class": "PreTrainedTokenizerFast", "extra_special_tokens": names})


def _write_processor(config: ModelConfig, folder: Path) -> None:
    side = {"height": config.vision.image_size, "width": config.vision.image_size}
    pixels: dict[str, Any] = {
        "do_resize": True,
        "size": side,
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
        "do_convert_rgb": True,
    }
    tiling = {"crop_to_patches": True, "min_patches": config.min_tiles, "max_patches": config.max_tiles}
    image_type = {"image_processor_type": "GotOcr2ImageProcessor", "processor_class": "InternVLProcessor"}
    video_type = {"video_processor_type": "InternVLVideoProcessor", "processor_class": "InternVLProcessor"}
    write_json(folder / "preprocessor_config.json", {**image_type, **pixels, **tiling})
    write_json(folder / "video_preprocessor_config.json", {**video_type, **pixels})
    processor = {"processor_class": "InternVLProcessor", "image_seq_length": config.tokens_per_tile}
    write_json(folder / "processor_config.json", processor)
