"""One training schema for pretraining, SFT and annealing: stages differ only in their YAML."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sailctl.core.schema.base import Config

Module = Literal["vision", "projector", "llm"]


class TrainConfig(Config):
    """How a stage trains. Schedules, ends and logs count samples and real tokens, never packs.

    The run ends at `max_steps` or `max_samples`, whichever comes first; with neither, after `epochs` over the mixture.
    `lr_scale` multiplies the learning rate of a module (for example `vision: 0.1`). `zero_stage` and `offload` are
    DeepSpeed's.
    """

    trainable: list[Module] = ["vision", "projector", "llm"]
    global_batch_samples: int = Field(512, gt=0)
    lr: float = Field(2e-5, gt=0)
    lr_scale: dict[Module, Annotated[float, Field(ge=0)]] = {}
    optimizer: Literal["adamw", "muon"] = "adamw"
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    grad_clip: float = Field(1.0, gt=0)
    schedule: Literal["constant", "cosine", "linear_to_zero"] = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    max_steps: int | None = Field(None, gt=0)
    max_samples: int | None = Field(None, gt=0)
    epochs: float = Field(1.0, gt=0)
    loss_weighting: Literal["token", "sample", "sqrt"] = "token"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    backend: Literal["plain", "deepspeed"] = "plain"
    zero_stage: int = Field(1, ge=0, le=3)
    offload: Literal["none", "cpu"] = "none"
    save_every: int = Field(500, gt=0)
    keep_checkpoints: int = Field(2, ge=1)
    trackers: list[Literal["tensorboard", "wandb"]] = []
    max_loss: float = Field(50.0, gt=0)  # a mean loss above this is an explosion
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fits_backend(self) -> TrainConfig:
        if self.offload != "none" and (self.backend != "deepspeed" or not self.zero_stage):
            raise ValueError(
                f"offload {self.offload} needs backend deepspeed and zero_stage 1, 2 or 3, "
                f"not {self.backend} and {self.zero_stage}"
            )
        if self.optimizer == "muon" and self.backend == "deepspeed":
            raise ValueError("optimizer muon needs whole matrices and so backend plain; with deepspeed use adamw")
        if self.compile and self.backend == "deepspeed" and self.zero_stage == 3:
            raise ValueError("compile true does not go with zero_stage 3, which gathers a layer's weights as it runs")
        return self
