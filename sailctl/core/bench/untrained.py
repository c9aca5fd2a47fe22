"""The untrained model of a checkpoint: what its lineage began with, before any stage of training.

That is the pretrained parts named by the first run's recipe, with everything else fresh. A checkpoint that does not
lead to a run of ours is measured against random weights of its own shapes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sailctl.core.bench.lineage import recipe_of, root_run
from sailctl.core.errors import SailctlError

if TYPE_CHECKING:
    import torch

    from sailctl.core.device import Device
    from sailctl.core.model.vlm import VisionLanguageModel
    from sailctl.core.model.weights import Loaded

RANDOM_SEED = 0


def untrained_model(checkpoint: Path, trained: Loaded, *, device: Device, dtype: torch.dtype) -> tuple[Loaded, str]:
    """The untrained counterpart of a loaded checkpoint, on its device, and one line saying what it is.

    `trained` lends its shapes and its tokenizer where there is no lineage to follow; its weights are not touched.
    """
    root = root_run(checkpoint)
    reason = "its lineage leads to no run of ours"
    if root is not None:
        try:
            return _first_model(root, device, dtype)
        except SailctlError as error:
            reason = f"what {root} began with cannot be read: {error}"
    return _random_model(trained, device, dtype), f"random weights of the same shapes ({reason})"


def _first_model(root: Path, device: Device, dtype: torch.dtype) -> tuple[Loaded, str]:
    from sailctl.core.model.weights import init_model

    recipe = recipe_of(root)
    device.seed(recipe.train.seed)  # the seed the run itself drew its fresh weights from
    loaded = init_model(recipe.model, root)
    parts = [part for part in ("vision", "llm") if getattr(recipe.model, f"{part}_weights") is not None]
    how = f"pretrained {' and '.join(parts)}, the rest fresh" if parts else "fresh weights throughout"
    _place(loaded.model, device, dtype)
    return loaded, f"what the lineage began with ({recipe.name} {recipe.stage}): {how}"


def _random_model(trained: Loaded, device: Device, dtype: torch.dtype) -> Loaded:
    from sailctl.core.model.vlm import VisionLanguageModel
    from sailctl.core.model.weights import Loaded

    device.seed(RANDOM_SEED)
    model = VisionLanguageModel(trained.config, trained.model.image_token_id)
    _place(model, device, dtype)
    return Loaded(model, trained.tokenizer, trained.config, None)


def _place(model: VisionLanguageModel, device: Device, dtype: torch.dtype) -> None:
    """Parameters to device and dtype; buffers that are computed (rotary frequencies) keep their precision."""
    model.to(device.torch).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
