"""The recipe: what one stage of one model is trained on, how, and how it is measured."""

from __future__ import annotations

from typing import Literal

from sailctl.core.schema.base import Config
from sailctl.core.schema.bench import BenchConfig
from sailctl.core.schema.data import DataConfig
from sailctl.core.schema.model import ModelSection
from sailctl.core.schema.train import TrainConfig

Stage = Literal["alignment", "advance", "anneal", "knowledge", "instruction", "preference"]


class Recipe(Config):
    """One stage of one model. `parent` names the stage whose last checkpoint this one starts from (none: from `model`).

    With `bootstrap: true` a missing parent, and missing `synth` data, are made; otherwise they are usage errors.
    """

    name: str
    stage: Stage
    parent: Stage | None = None
    bootstrap: bool = False
    model: ModelSection = ModelSection()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    bench: BenchConfig = BenchConfig()
