"""Counted FLOPs against what torch's own counter sees in real forward and backward passes of small models.

Tolerance 1 %; measured with torch 2.13 and transformers 5.23: no difference at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from helpers_model import tiny_config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sailctl.core.model.flops import ForwardFlops, ModelFlops
from sailctl.core.model.presets import preset
from sailctl.core.model.vlm import VisionLanguageModel
from sailctl.core.schema.model import ModelConfig
from sailctl.core.train.loss import supervised_loss

LENGTHS = (19, 7, 30)
TILES = 3
TARGETS = 11
FREEZE_MAPS = {"alignment": ["projector"], "advance": ["vision", "projector"], "sft": ["vision", "projector", "llm"]}


def counted(config: ModelConfig, trainable: Sequence[str], *, backward: bool = True, again: bool = False) -> int:
    """FLOPs of one pack of three documents, as torch counts the matrix products it runs (`again`: checkpointing)."""
    image = config.llm.vocab_size - 1
    model = VisionLanguageModel(config, image_token_id=image)
    if config.llm.num_experts:
        model.llm.set_experts_implementation("eager")
    model.freeze(trainable)
    model.set_gradient_checkpointing(again)
    ids_T = torch.arange(sum(LENGTHS)) % 50
    ids_T[: config.tokens_per_tile * TILES] = image
    positions_T = torch.cat([torch.arange(length) for length in LENGTHS])
    bounds = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()], dtype=torch.int32)
    side = config.vision.image_size
    tiles = torch.zeros(TILES, 3, side, side, dtype=torch.uint8)
    # The plain kernel multiplies whole squares and recomputes nothing; torch's counter knows no fused one of the CPU,
    # nor the grouped products of experts.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        index_N = torch.arange(TARGETS)
        hidden_ND = model.hidden(ids_T, positions_T, bounds, max(LENGTHS), tiles, wanted_N=index_N)
        loss = supervised_loss(model, hidden_ND, index_N, torch.ones(TARGETS))
        if backward:
            loss.backward()
    return counter.get_total_flops()


def whole_squares() -> float:
    """Twice the squared lengths: the plain kernel does not skip the half that is masked."""
    return 2.0 * sum(length**2 for length in LENGTHS)


CONFIGS = {
    "internvit-qwen2": lambda: tiny_config("qwen2", "internvit"),
    "aimv2-qwen3": lambda: tiny_config("qwen3", "aimv2"),
    "internvit-qwen3_moe": lambda: tiny_config("qwen3_moe", "internvit"),
    "select_layer -3": lambda: tiny_config("qwen2", "aimv2", select_layer=-3),
}


@pytest.mark.parametrize("trainable", FREEZE_MAPS.values(), ids=FREEZE_MAPS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_training_flops_match_a_hooked_count(config, trainable) -> None:  # type: ignore[no-untyped-def]
    shapes = config()
    flops = ModelFlops.of(shapes, trainable)
    expected = flops.total(sum(LENGTHS), TILES, TARGETS, whole_squares())
    assert expected == pytest.approx(counted(shapes, trainable), rel=0.01)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_forward_flops_match_a_hooked_count(config) -> None:  # type: ignore[no-untyped-def]
    shapes = config()
    forward = ForwardFlops.of(shapes)
    llm = forward.token * sum(LENGTHS) + forward.target * TARGETS + forward.square * whole_squares()
    assert forward.tile * TILES + llm == pytest.approx(counted(shapes, [], backward=False), rel=0.01)


@pytest.mark.parametrize("trainable", FREEZE_MAPS.values(), ids=FREEZE_MAPS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_checkpointing_adds_a_forward_pass_of_the_layers(config, trainable) -> None:  # type: ignore[no-untyped-def]
    shapes = config()
    expected = ModelFlops.of(shapes, trainable, checkpointing=True)
    found = counted(shapes, trainable, again=True)
    assert expected.total(sum(LENGTHS), TILES, TARGETS, whole_squares()) == pytest.approx(found, rel=0.01)


def test_sail_vl_2b_by_hand() -> None:
    """24 layers of the tower, as the usual hand count has it: 2 x 0.304e9 weights x 1025 patches and the squares."""
    shapes = preset("sail-vl-2b")
    shapes.select_layer = -1
    forward = ForwardFlops.of(shapes)
    assert forward.tower + forward.tower_attention + forward.patches == pytest.approx(
        2 * 0.304e9 * 1025 + 4 * 1025**2 * 1024 * 24, rel=0.01
    )
    assert forward.projector == 2 * 256 * 8_650_752  # the weight matrices of the paper's "8.65M"
    last = 3 * 1536 * 8960 + 2 * 1536 * 1536  # MLP, query and output: for supervised tokens alone
    assert forward.token == pytest.approx(2 * (1.31e9 - last), rel=0.002)
    assert forward.target == pytest.approx(2 * (0.233e9 + last), rel=0.002)
    assert forward.square == 2 * 28 * 1536


def test_select_layer_leaves_out_the_layers_behind_it() -> None:
    shapes = preset("sail-vl-2b")  # -4: 21 of 24 layers
    whole = shapes.model_copy(update={"select_layer": -1})
    short, long = ForwardFlops.of(shapes), ForwardFlops.of(whole)
    assert short.tower / long.tower == short.tower_attention / long.tower_attention == 21 / 24


def test_freeze_maps_scale_the_modules() -> None:
    shapes = preset("sail-vl-2b")
    alignment, advance, sft = (ModelFlops.of(shapes, trainable) for trainable in FREEZE_MAPS.values())
    forward = alignment.forward
    assert alignment.per_tile == forward.tile + 2 * forward.projector
    assert advance.per_tile == sft.per_tile == 3 * forward.tile - forward.patches
    assert (alignment.per_token, advance.per_token, sft.per_token) == tuple(n * forward.token for n in (2, 2, 3))
    assert (alignment.per_target, sft.per_target) == (2 * forward.target, 3 * forward.target)
    assert {flops.per_square for flops in (alignment, advance, sft)} == {3 * forward.square}


def test_a_mixture_of_experts_counts_the_active_ones() -> None:
    """Qwen3-30B-A3B: 3.35B active parameters, of which two 0.31B embeddings; the rest, a forty-eighth of the experts
    aside, meets every token."""
    forward, embedding = ForwardFlops.of(preset("sail-vl2-moe")), 151936 * 2048
    assert forward.token == pytest.approx(2 * (3.35e9 - 2 * embedding), rel=0.03)
    assert forward.token + forward.target == pytest.approx(2 * (3.35e9 - embedding), rel=0.02)
