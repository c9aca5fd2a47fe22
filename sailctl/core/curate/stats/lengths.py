"""How long samples are under a recipe: its encoder, and what decides its answers. Loaded where it is used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sailctl.core.errors import CheckpointError, UsageError
from sailctl.core.schema.load import load_recipe, recipe_stages

if TYPE_CHECKING:
    from sailctl.core.data.encode import Encoder


@dataclass(frozen=True, slots=True)
class RecipeChoice:
    """A stage of a recipe, with `--set` overrides; without a stage its first."""

    name: str
    stage: str | None = None
    overrides: tuple[str, ...] = ()

    def encoder(self) -> Encoder:
        """What measures samples under it. Raises UsageError where the recipe or its tokenizer is not there."""
        return _encoder(self)

    def decides(self) -> dict[str, Any]:
        """All of the recipe that tokens and tiles depend on, as JSON has it."""
        encoder = self.encoder()
        data = encoder.data
        vocabulary = encoder.tokenizer.backend_tokenizer.to_str().encode()
        return {
            "recipe": self.name,
            "stage": self.stage or recipe_stages(self.name)[0],
            "template": encoder.model.template,
            "system": encoder.model.system,
            "tokenizer": hashlib.blake2b(vocabulary, digest_size=8).hexdigest(),
            "tile_size": encoder.tile_size,
            "tokens_per_tile": encoder.model.tokens_per_tile,
            "min_tiles": data.min_tiles,
            "max_tiles": data.max_tiles,
            "thumbnail": data.thumbnail,
            "max_image_pixels": data.max_image_pixels,
            "pack_tokens": data.pack_tokens,
            "pack_tiles": data.pack_tiles,
            "overlong": data.overlong,
        }


@lru_cache(maxsize=2)
def _encoder(choice: RecipeChoice) -> Encoder:
    from sailctl.core.data.encode import Encoder
    from sailctl.core.model.presets import model_config
    from sailctl.core.model.tokenizer import add_markers, load_tokenizer

    stages = recipe_stages(choice.name)
    recipe, first = (
        load_recipe(choice.name, stage, list(choice.overrides))[0] for stage in (choice.stage or stages[0], stages[0])
    )
    # only the stage that starts from parts has to name the tokenizer
    folder = next(filter(None, (part.tokenizer or part.llm_weights for part in (recipe.model, first.model))), None)
    if folder is None:
        raise UsageError(f"--recipe {choice.name}: names no tokenizer; give --set model.tokenizer=FOLDER")
    try:
        tokenizer = load_tokenizer(folder)
    except CheckpointError as error:
        raise UsageError(f"--recipe {choice.name}: {error}, or give --set model.tokenizer=FOLDER") from None
    add_markers(tokenizer)
    return Encoder(tokenizer, model_config(recipe.model), recipe.data)
