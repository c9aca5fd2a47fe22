"""Where samples come from, how they are mixed, tiled and packed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sailctl.core.schema.base import Config

SourceFormat = Literal["auto", "tar", "jsonl", "json", "parquet"]


class SynthConfig(Config):
    """Data a recipe makes for itself with the `synth` generator where the source's path does not exist yet."""

    tasks: dict[str, float]
    levels: list[int] = [1, 2, 3]
    samples: int = Field(gt=0)
    seed: int = 0
    split: Literal["train", "heldout"] = "train"
    documents: float = Field(0.5, ge=0, le=1)  # share of train items described first, then asked


class SourceConfig(Config):
    """One source: a tar, JSON, JSONL or Parquet file, a glob, a folder of shards, or an fsspec URL of any of these.

    Without weights every source counts by its number of samples, times its repeats. With `verdicts` only what they keep
    is in it, with `samples` a random part of so many of these, drawn by `subset_seed`; a smaller part lies within every
    larger one of the same seed. `group` is the tag by which valuation judges sources together.
    """

    name: str
    path: str
    format: SourceFormat = "auto"
    weight: float | None = Field(None, gt=0)
    repeats: float | None = Field(None, gt=0)  # times it comes in an epoch of the mixture
    image_root: str | None = None
    captions: str | None = None  # sidecars of `sailctl caption`: their rows are the source's samples
    verdicts: list[str] = []  # passes of `sailctl curate`: samples that one of them drops are none
    samples: int | None = Field(None, gt=0)
    subset_seed: int = Field(0, ge=0)
    group: str | None = None
    synth: SynthConfig | None = None


class DataConfig(Config):
    """The mixture and its way to packs. `pack_tokens` and `pack_tiles` are hard caps of one pack."""

    sources: list[SourceConfig] = []
    min_tiles: int = Field(1, ge=1, le=40)
    max_tiles: int = Field(10, ge=1, le=40)
    thumbnail: bool = True
    max_image_pixels: int = Field(100_000_000, gt=0)
    pack_tokens: int = Field(16384, gt=0)
    pack_tiles: int = Field(48, gt=0)
    pack_window: int = Field(24, gt=0)  # samples to choose from, beyond a full pack
    balance: Literal["sum", "module"] = "sum"
    overlong: Literal["truncate", "reject"] = "truncate"
    max_reject_rate: float = Field(0.5, ge=0, le=1)
    lanes: int = Field(1, ge=1)
    workers: int = Field(1, ge=0)
    shuffle: bool = True

    @model_validator(mode="after")
    def _weights_for_all_or_none(self) -> DataConfig:
        repeated = [source.name for source in self.sources if source.repeats is not None]
        weighted = [source.name for source in self.sources if source.weight is not None]
        if repeated and weighted:
            raise ValueError(
                f"weights and repeats do not mix: {weighted[0]} has a weight, {repeated[0]} repeats; "
                "give every source a weight, or some of them repeats"
            )
        bare = [source.name for source in self.sources if source.weight is None]
        if bare and len(bare) < len(self.sources):
            # a number of samples and a hand-written weight are not of one kind: 0.8 : 6400 is nobody's mixture
            raise ValueError(f"give every source a weight or none; without one: {', '.join(bare)}")
        return self
