"""The untrained model of a checkpoint: what its lineage began with, before any stage of training.

A run's folder names its parent in `run.json`; the first run of the chain names the pretrained parts in its
`recipe.yaml`. A checkpoint that does not lead to such a run is measured against random weights of its own shapes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from sailctl.core.errors import SailctlError
from sailctl.core.schema.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from sailctl.core.device import Device
    from sailctl.core.model.weights import Loaded

RANDOM_SEED = 0


def untrained_model(checkpoint: Path, trained: Loaded, *, device: Device, dtype: torch.dtype) -> tuple[Loaded, str]:
    """The untrained counterpart of a loaded checkpoint, on its device, and one line saying what it is.

    `trained` lends its shapes and its tokenizer where there is no lineage to follow; its weights are not touched.
    """
    root = root_run(checkpoint)
    if root is not None:
        recipe = Recipe.model_validate(yaml.safe_load((root / "recipe.yaml").read_text(encoding="utf-8")))
        try:
            return _root_model(recipe, root, device, dtype)
        except SailctlError as error:
            missing = f"random weights of the same shapes (the parts that {root} began with cannot be read: {error})"
            return _random_model(trained, device, dtype), missing
    return _random_model(trained, device, dtype), "random weights of the same shapes (no lineage leads to a first run)"


def root_run(checkpoint: Path) -> Path | None:
    """The folder of the run a checkpoint's lineage began with; None where it did not begin with a run of ours.

    The folders of the runs must still be there, their checkpoints need not.
    """
    path, seen = checkpoint, set[Path]()
    while (run := run_of(path)) is not None and run not in seen:
        seen.add(run)
        parent = json.loads((run / "run.json").read_text(encoding="utf-8")).get("parent")
        if parent is None:
            return run
        path = run / parent["checkpoint"]  # relative where the two are neighbours, absolute otherwise
    return None


def run_of(path: Path) -> Path | None:
    """The run folder that a run, a checkpoint or a checkpoint's weights folder belongs to."""
    path = path.resolve()
    # RUN, RUN/checkpoints/STEP or RUN/checkpoints/STEP/weights
    places = (path, *path.parents[1:3])
    return next((p for p in places if (p / "run.json").is_file() and (p / "recipe.yaml").is_file()), None)


def _root_model(recipe: Recipe, root: Path, device: Device, dtype: torch.dtype) -> tuple[Loaded, str]:
    from sailctl.core.model.weights import init_model

    device.seed(recipe.train.seed)  # the seed the run itself drew its fresh weights from
    loaded = init_model(recipe.model, root)
    loaded.model.to(device=device.torch, dtype=dtype).eval()
    pretrained = [part for part in ("vision", "llm") if getattr(recipe.model, f"{part}_weights") is not None]
    parts = f"pretrained {' and '.join(pretrained)}, the rest fresh" if pretrained else "all weights fresh"
    return loaded, f"what the first run of the lineage ({recipe.name} {recipe.stage}) began with: {parts}"


def _random_model(trained: Loaded, device: Device, dtype: torch.dtype) -> Loaded:
    from sailctl.core.model.vlm import VisionLanguageModel
    from sailctl.core.model.weights import Loaded

    device.seed(RANDOM_SEED)
    model = VisionLanguageModel(trained.config, trained.model.image_token_id)
    model.to(device=device.torch, dtype=dtype).eval()
    return Loaded(model, trained.tokenizer, trained.config, None)
