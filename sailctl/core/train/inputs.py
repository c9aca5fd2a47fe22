"""What goes into a run: the data (made where the recipe says how), the model to start from, the loader."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sailctl.core.device import Device
from sailctl.core.errors import UsageError
from sailctl.core.files import is_url, list_shards
from sailctl.core.reporter import Reporter
from sailctl.core.schema.data import SourceConfig
from sailctl.core.schema.recipe import Recipe
from sailctl.core.train.checkpoint import Checkpoint
from sailctl.core.train.parents import Parent
from sailctl.core.train.world import World

if TYPE_CHECKING:
    from sailctl.core.data.loader import Loader
    from sailctl.core.model.weights import Loaded


def make_missing_data(recipe: Recipe, reporter: Reporter, remedy: str = "give --data PATH") -> None:
    """Make the `synth` sources of a bootstrapping recipe; a UsageError names a source that is not there, and `remedy`.

    Generated data that was begun and not finished is completed; data that is there is left as it is.
    """
    from sailctl.core.data.synth.shards import write_shards

    if not recipe.data.sources:
        raise UsageError("data.sources is empty; give --data PATH or name a source in the recipe")
    for source in recipe.data.sources:
        if source.synth is not None and recipe.bootstrap and _is_ours_to_make(source.path):
            reporter.start(f"synthetic data in {source.path}", source.synth.samples)
            try:
                write_shards(source.synth, source.path, progress=reporter.update)
            finally:
                reporter.finish()
        elif not list_shards(source.path):
            there = not is_url(source.path) and Path(source.path).exists()
            what = "no tar, Parquet, JSONL or JSON file in" if there else "nothing at"
            raise UsageError(f"data source {source.name!r}: {what} {source.path}; {remedy}{_how(source)}")


def point_at_samples(raw: dict[str, Any], recipe: Recipe, temporary: Path, samples: int) -> None:
    """In `raw`, point sources that the recipe would make, and has not, at a small set to be made in `temporary`."""
    for number, source in enumerate(raw["data"]["sources"]):
        if source["synth"] is not None and recipe.bootstrap and not list_shards(source["path"]):
            source["path"] = str(temporary / f"data-{number}")
            source["synth"]["samples"] = min(source["synth"]["samples"], samples)


def _is_ours_to_make(path: str) -> bool:
    """Whether nothing is at a local path yet, or a generated data set that may be incomplete; never a user's data."""
    from sailctl.core.data.synth.shards import MANIFEST

    return not is_url(path) and ((Path(path) / MANIFEST).is_file() or not list_shards(path))


def _how(source: SourceConfig) -> str:
    if source.synth is None:
        return ""
    tasks = ",".join(f"{name}={weight:g}" for name, weight in source.synth.tasks.items())
    return f", or make it with: sailctl synth --out {source.path} --samples {source.synth.samples} --tasks {tasks}"


def build_model(
    recipe: Recipe, recipe_dir: Path, device: Device, position: Checkpoint | None, parent: Parent | None
) -> Loaded:
    """The model of the run's own checkpoint, else of its parent, else from the recipe's parts; on `device`.

    Float32 master weights whatever the precision of the arithmetic.
    """
    from sailctl.core.model.weights import init_model, load_model

    start = position or parent
    if start is not None:
        loaded = load_model(start.weights, device=device, dtype=torch.float32)
    else:
        loaded = init_model(recipe.model, recipe_dir)
        loaded.model.to(device.torch)
    # What a model was trained to see is what it is shown later: chat and bench tile as this stage does.
    for limit in ("min_tiles", "max_tiles", "thumbnail"):
        setattr(loaded.config, limit, getattr(recipe.data, limit))
    loaded.model.train()
    if "vision" not in recipe.train.trainable:
        loaded.model.vision.eval()  # a frozen tower drops no paths
    return loaded


def build_loader(recipe: Recipe, loaded: Loaded, world: World) -> Loader:
    """The recipe's stream of steps, at its beginning: this rank's part of each; for an accelerator, one step ahead."""
    from sailctl.core.data.ahead import Ahead
    from sailctl.core.data.choose import Costs
    from sailctl.core.data.encode import Encoder
    from sailctl.core.data.loader import Loader
    from sailctl.core.model.flops import ModelFlops

    train = recipe.train
    flops = ModelFlops.of(loaded.config, train.trainable)  # packs are the same with and without recomputation
    kind = Loader if world.device.kind == "cpu" else Ahead
    return kind(
        recipe.data,
        Encoder(loaded.tokenizer, loaded.config, recipe.data),
        seed=recipe.train.seed,
        global_batch_samples=recipe.train.global_batch_samples,
        loss_weighting=recipe.train.loss_weighting,
        rank=world.rank,
        world=world.size,
        costs=Costs(flops.per_tile, flops.per_token, flops.per_target, flops.per_square),
    )


def same_stream(trunk: dict[str, Any], recipe: Recipe, fingerprints: dict[str, str]) -> bool:
    """Whether a trunk's loader state means the same stream of samples here."""
    then, now = trunk["recipe"], recipe.model_dump(mode="json")
    keys = ("global_batch_samples", "seed", "loss_weighting")
    data = [{key: value for key, value in one["data"].items() if key != "workers"} for one in (then, now)]
    same = all(then["train"][key] == now["train"][key] for key in keys)
    return same and data[0] == data[1] and trunk["data"] == fingerprints
