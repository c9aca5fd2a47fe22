"""How many parameters a model's shapes have and how many of them each stage trains. Pure arithmetic: no torch.

The tests hold it to the modules themselves, built without memory.
"""

from __future__ import annotations

from typing import Any

from sailctl.core.model.flops import head_width, llm_layer_weights, projector_widths, tower_layer_weights
from sailctl.core.model.presets import model_config
from sailctl.core.schema.load import load_recipe, recipe_stages
from sailctl.core.schema.model import LLMConfig, ModelConfig, VisionConfig


def parameter_counts(config: ModelConfig) -> dict[str, int]:
    """Parameters of vision, projector and llm, and their total; tied embeddings count once, all experts count."""
    width_in, width = projector_widths(config)
    projector = 2 * width_in + width_in * width + width + width * width + width
    counts = {"vision": _tower(config.vision), "projector": projector, "llm": _llm(config.llm)}
    return {**counts, "total": sum(counts.values())}


def _tower(tower: VisionConfig) -> int:
    """Layers behind `select_layer` too: they are in the file and in memory."""
    width, inner = tower.hidden_size, tower.intermediate_size
    patches = (tower.image_size // tower.patch_size) ** 2
    stem = 3 * tower.patch_size**2 * width + width + patches * width
    bias = 3 * width if tower.attention_bias else 0
    if tower.kind == "aimv2":  # RMSNorms: two a layer, one behind the patches, one at the end
        layer = tower_layer_weights(tower) + bias + (width if tower.attention_bias else 0) + 2 * width
        return stem + width + tower.num_layers * layer + width
    norms = 4 * width + (2 * width if tower.qk_norm else 0)
    vectors = bias + width + inner + width + 2 * width  # biases of the output and the MLP, two layer scales
    return stem + 2 * width + tower.num_layers * (tower_layer_weights(tower) + norms + vectors)  # class token, position


def _llm(llm: LLMConfig) -> int:
    width, heads, kv_heads = llm.hidden_size, llm.num_heads, llm.num_kv_heads
    # Biases of q, k and v, or one norm for each of q's and k's heads.
    vectors = (heads + 2 * kv_heads if llm.kind == "qwen2" else 2) * head_width(llm)
    layer = llm_layer_weights(llm, llm.num_experts) + vectors + 2 * width
    embeddings = (1 if llm.tie_embeddings else 2) * llm.vocab_size * width
    return embeddings + llm.num_layers * layer + width


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
