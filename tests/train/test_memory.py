"""The memory model against what autograd's hooks see saved, and against parts counted by hand."""

from __future__ import annotations

import inspect

import pytest
import torch

from sailctl.core.model.presets import preset
from sailctl.core.model.vlm import VisionLanguageModel
from sailctl.core.schema.model import ModelConfig
from sailctl.core.schema.train import TrainConfig
from sailctl.core.train.loss import supervised_loss
from sailctl.core.train.memory import LOGIT_ROWS, estimate_memory, saved_bytes
from tests.helpers_model import tiny_config

TOKENS, TILES, TARGETS = 700, 9, 90
FREEZE_MAPS = {"alignment": ["projector"], "advance": ["vision", "projector"], "sft": ["vision", "projector", "llm"]}


def hooked(config: ModelConfig, trainable: list[str], *, checkpointing: bool) -> int:
    """Bytes of the distinct tensors, parameters left out, that a forward pass under bf16 autocast saves."""
    image = config.llm.vocab_size - 1
    model = VisionLanguageModel(config, image_token_id=image)
    model.train()
    model.freeze(trainable)
    model.set_gradient_checkpointing(checkpointing)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage
        return tensor

    ids_T = torch.arange(TOKENS) % 50
    ids_T[: config.tokens_per_tile * TILES] = image
    bounds = torch.tensor([0, TOKENS // 2, TOKENS], dtype=torch.int32)
    positions_T = torch.arange(TOKENS // 2).repeat(2)
    side = config.vision.image_size
    tiles = torch.zeros(TILES, 3, side, side, dtype=torch.uint8)
    index_N = torch.arange(TARGETS)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        hidden_ND = model.hidden(ids_T, positions_T, bounds, TOKENS // 2, tiles, wanted_N=index_N)
        supervised_loss(model, hidden_ND, index_N, torch.ones(TARGETS))
    return sum(storage.nbytes() for storage in saved.values())


def larger(llm: str, vision: str) -> ModelConfig:
    """Wide enough that what a pack saves is not lost among odds and ends."""
    config = tiny_config(llm, vision)
    tower = config.vision.model_copy(update={"hidden_size": 64, "intermediate_size": 160})
    language = config.llm.model_copy(update={"hidden_size": 96, "intermediate_size": 256, "num_layers": 3})
    return config.model_copy(update={"vision": tower, "llm": language})


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("trainable", FREEZE_MAPS.values(), ids=FREEZE_MAPS)
@pytest.mark.parametrize("shapes", [("qwen2", "internvit"), ("qwen3", "aimv2")], ids="-".join)
def test_saved_bytes_are_those_autograd_saves(
    shapes: tuple[str, str], trainable: list[str], checkpointing: bool
) -> None:
    config = larger(*shapes)
    parts = saved_bytes(config, trainable, tokens=TOKENS, tiles=TILES, targets=TARGETS, checkpointing=checkpointing)
    assert sum(parts.values()) == pytest.approx(hooked(config, trainable, checkpointing=checkpointing), rel=0.1)


def test_the_loss_has_the_chunk_that_is_assumed() -> None:
    assert inspect.signature(supervised_loss).parameters["chunk"].default == LOGIT_ROWS


def test_weights_gradients_and_moments_of_sail_vl_2b() -> None:
    size = {"ranks": 8, "tokens": 16384, "tiles": 48, "targets": 2000}
    config, total = preset("sail-vl-2b"), 1_856_388_608
    behind = 3 * (4 * 1024**2 + 2 * 1024 * 4096 + (3 + 1 + 4 + 1 + 2 + 4) * 1024)  # layers 22 to 24: select_layer is -4
    trained = total - behind
    plain = estimate_memory(config, TrainConfig(), **size)
    assert (plain.weights, plain.gradients, plain.optimizer) == (4 * total, 4 * trained, 8 * trained)
    alignment = estimate_memory(config, TrainConfig(trainable=["projector"]), **size)
    assert (alignment.weights, alignment.optimizer) == (4 * total, 8 * 8_662_016)
    for stage, share in {1: (2, 4, 1.5), 2: (2, 0.5, 1.5), 3: (0.25, 0.5, 1.5)}.items():
        zero = estimate_memory(config, TrainConfig(backend="deepspeed", zero_stage=stage), **size)
        expected = (share[0] * total, share[1] * trained, share[2] * trained)
        assert (zero.weights, zero.gradients, zero.optimizer) == tuple(map(round, expected))
        assert zero.activations == plain.activations
    away = TrainConfig(backend="deepspeed", zero_stage=3, offload="cpu")
    assert estimate_memory(config, away, **size).optimizer == estimate_memory(config, away, **size).weights == 0


def test_recomputation_and_frozen_parts_save_memory() -> None:
    size = {"ranks": 1, "tokens": 16384, "tiles": 48, "targets": 2000}
    config = preset("sail-vl-2b")
    kept, recomputed = (
        estimate_memory(config, TrainConfig(gradient_checkpointing=again), **size).activations
        for again in (False, True)
    )
    alignment = estimate_memory(config, TrainConfig(trainable=["projector"]), **size).activations
    assert recomputed < kept / 5 and alignment < kept / 2
