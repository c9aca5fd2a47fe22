"""What a step keeps on one device, predicted from shapes: weights, gradients, optimiser, activations. No torch.

The coefficients of activations are bytes that the modules save for the backward pass under bf16 autocast
(fp32 arithmetic about doubles them), as autograd's own hooks count them: the tests hold them to that count. Not
counted: the CUDA context, fragmentation, communication buffers, and kernels' workspaces.

T tokens of a pack, I tiles, N positions of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sailctl.core.model.count import parameter_counts
from sailctl.core.model.flops import (
    head_width,
    llm_layer_weights,
    projector_widths,
    selected_layers,
    tower_layer_weights,
)
from sailctl.core.schema.model import LLMConfig, ModelConfig, VisionConfig
from sailctl.core.schema.train import TrainConfig

LOGIT_ROWS = 4096  # positions whose logits exist at a time: the loss's chunk
LOGIT_BYTES = 12  # of one logit: log-softmax, its gradient and the logits' gradient, in fp32
PIXEL_BYTES = 12  # of one pixel of a colour: uint8, its fp32 copies while it is normalised, bf16


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one device at the worst moment of a step."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All four."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def to_dict(self) -> dict[str, int]:
        """The parts and their total."""
        return {**asdict(self), "total": self.total}


def estimate_memory(
    config: ModelConfig, train: TrainConfig, *, ranks: int, tokens: int, tiles: int, targets: int
) -> Memory:
    """Memory of one of `ranks` devices for a pack of `tokens` tokens, `tiles` tiles and `targets` supervised tokens.

    Plain keeps whole fp32 weights, gradients and AdamW moments on each device. DeepSpeed in bf16 keeps bf16 weights and
    fp32 master weights, moments and gradients: spread over the ranks from ZeRO 1 on (master and moments), 2 (gradients)
    and 3 (weights); offloaded parts are not on the device.
    """
    counts = parameter_counts(config)
    reached = {**counts, "vision": _reached_tower(config)}
    trained = sum(reached[name] for name in train.trainable)
    if train.backend == "plain" or not train.zero_stage:
        weights, gradients, optimizer = 4.0 * counts["total"], 4.0 * trained, 8.0 * trained
    else:
        stage, away = train.zero_stage, train.offload != "none"
        weights = 0.0 if away and stage == 3 else 2.0 * counts["total"] / (ranks if stage == 3 else 1)
        gradients = 4.0 * trained / (ranks if stage >= 2 else 1)
        optimizer = 0.0 if away else 12.0 * trained / ranks
    bytes_ = activation_bytes(
        config,
        train.trainable,
        tokens=tokens,
        tiles=tiles,
        targets=targets,
        checkpointing=train.gradient_checkpointing,
    )
    if train.precision == "fp32":
        bytes_ *= 2
    return Memory(round(weights), round(gradients), round(optimizer), round(bytes_))


def activation_bytes(
    config: ModelConfig, trainable: Sequence[str], *, tokens: int, tiles: int, targets: int, checkpointing: bool
) -> float:
    """Bytes alive when the backward pass begins, and what its most expensive piece adds to them."""
    saved = saved_bytes(config, trainable, tokens=tokens, tiles=tiles, targets=targets, checkpointing=checkpointing)
    logits = LOGIT_BYTES * min(targets, LOGIT_ROWS) * config.llm.vocab_size - saved["logits"]
    layer, tower = _llm_layer(config.llm, "llm" in trainable), _tower_layer(config.vision)
    if checkpointing:  # the MLP of a layer that is recomputed keeps all
        layer += 4.0 * config.llm.intermediate_size * (config.llm.kind != "qwen3_moe")
        tower += (2.0 if config.vision.kind == "internvit" else 4.0) * config.vision.intermediate_size
    layer, tower = tokens * layer, tiles * _positions(config.vision) * tower
    pixels = PIXEL_BYTES * 3.0 * tiles * config.vision.image_size**2
    # Never two of them at once. A recomputed layer exists whole; otherwise its gradients come on top of what is saved.
    pieces = [logits, pixels, layer if checkpointing else 0.3 * layer, tower if checkpointing else 0.3 * tower]
    return sum(saved.values()) + max(pieces)


def saved_bytes(
    config: ModelConfig, trainable: Sequence[str], *, tokens: int, tiles: int, targets: int, checkpointing: bool
) -> dict[str, float]:
    """What the forward pass saves for the backward pass, by part; the logits are those of one chunk at most."""
    tower, llm = config.vision, config.llm
    vision, learns = "vision" in trainable, "llm" in trainable
    positions, depth = tiles * _positions(tower), selected_layers(config)
    width_in, width = projector_widths(config)
    stem = positions * tower.hidden_size * (3.0 if tower.kind == "internvit" else 22.0)  # AIMv2 has norms there
    if not vision:
        in_tower = 0.0
    elif checkpointing:
        in_tower = depth * positions * 4.0 * tower.hidden_size + stem
    else:
        in_tower = depth * (positions * _tower_layer(tower) + 2.0 * tower_layer_weights(tower)) + stem
    if checkpointing:
        in_llm = llm.num_layers * tokens * 4.0 * llm.hidden_size
    else:
        matrices = 2.0 * llm_layer_weights(llm, llm.num_experts)
        in_llm = llm.num_layers * (tokens * _llm_layer(llm, learns) + matrices)
        in_llm -= (tokens - targets) * _llm_mlp(llm, learns)  # behind the last attention only supervised tokens go on
    visual, pixels = tiles * config.tokens_per_tile, 3 * tiles * tower.image_size**2
    final_norm = targets * (8.0 if learns else 4.0) * llm.hidden_size
    return {
        "pixels": 2.0 * pixels if vision else 0.0,
        "tower": in_tower,
        "projector": visual * (6.0 * width_in + 10.0 * width) if vision or "projector" in trainable else 0.0,
        "llm": in_llm,
        "ends": final_norm + tokens * 8.0 * head_width(llm),  # and the rotary angles
        "logits": min(targets, LOGIT_ROWS) * (4.0 * llm.vocab_size + 2.0 * llm.hidden_size),
    }


def _reached_tower(config: ModelConfig) -> int:
    """Parameters of the tower that a gradient reaches: layers behind `select_layer` have none, nor moments."""
    tower = config.vision.model_copy(update={"num_layers": selected_layers(config)})
    return parameter_counts(config.model_copy(update={"vision": tower}))["vision"]


def _positions(tower: VisionConfig) -> int:
    return (tower.image_size // tower.patch_size) ** 2 + (tower.kind == "internvit")


def _tower_layer(tower: VisionConfig) -> float:
    """Bytes one position saves in one trained layer of the tower."""
    width, inner = (20, 2) if tower.kind == "internvit" else (26, 4)
    return width * tower.hidden_size + inner * tower.intermediate_size + 4 * tower.num_heads + 16


def _llm_layer(llm: LLMConfig, trained: bool) -> float:
    """Bytes one token saves in one layer; a frozen layer needs no inputs of its linear parts."""
    queries, keys = llm.num_heads * head_width(llm), llm.num_kv_heads * head_width(llm)
    width = 6 if trained else 4
    of_queries, of_keys = (6, 4) if trained else (4, 4)
    if llm.kind != "qwen2":  # norms of queries and keys
        of_queries, of_keys = (8, 6) if trained else (6, 6)
    attention = width * llm.hidden_size + of_queries * queries + of_keys * keys + 8 * llm.num_heads + 4
    return attention + _llm_mlp(llm, trained)


def _llm_mlp(llm: LLMConfig, trained: bool) -> float:
    """Bytes one token saves behind the attention of one layer, its norm included."""
    bytes_ = (6 if trained else 4) * llm.hidden_size + 4
    if llm.kind != "qwen3_moe":
        return bytes_ + 4 * llm.intermediate_size
    rows = (8.5, 17) if trained else (4.5, 13)
    return bytes_ + llm.experts_per_token * (rows[0] * llm.hidden_size + rows[1] * llm.moe_intermediate_size)
