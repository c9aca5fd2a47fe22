"""How many parameters a model has and how many of them each stage trains, on the meta device: no weights, no memory."""

from __future__ import annotations

from typing import Any

import torch

from sailctl.core.model.presets import model_config
from sailctl.core.model.vlm import MODULES, VisionLanguageModel
from sailctl.core.schema.load import load_recipe, recipe_stages
from sailctl.core.schema.model import ModelConfig


def parameter_counts(config: ModelConfig) -> dict[str, int]:
    """Parameters of vision, projector and llm, and their total; tied embeddings count once."""
    with torch.device("meta"):
        model = VisionLanguageModel(config, image_token_id=0, initialise=False)
    counts = {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in MODULES}
    return {**counts, "total": sum(counts.values())}


def recipe_sizes(name_or_path: str | None, overrides: list[str] | None = None) -> dict[str, Any]:
    """Sizes of a recipe's model: {"recipe", "model", "parameters": {module: n}, "trainable": {stage: n}}.

    Reads every stage the recipe has (of a single YAML file: that one); raises UsageError as `load_recipe` does.
    """
    recipes = [load_recipe(name_or_path, stage, overrides)[0] for stage in recipe_stages(name_or_path)]
    first = recipes[0]
    config = model_config(first.model)
    parameters = parameter_counts(config)
    return {
        "recipe": first.name,
        "model": config.name,
        "parameters": parameters,
        "trainable": {recipe.stage: sum(parameters[module] for module in recipe.train.trainable) for recipe in recipes},
    }
