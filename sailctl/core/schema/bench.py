"""What is measured after training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sailctl.core.schema.base import Config


class BenchConfig(Config):
    """`samples` held-out questions a task; without `max_tiles` pictures are tiled as the checkpoint was trained to."""

    suite: Literal["synth"] = "synth"
    samples: int = Field(100, gt=0)
    seed: int = Field(1234, ge=0)
    batch_size: int = Field(64, gt=0)
    max_tiles: int | None = Field(None, ge=1, le=40)
