"""How many floating-point operations a model's shapes ask for, per tile, per token, per target and per square.

Counted are the matrix products (a multiplication and an addition are two FLOPs): linear layers, the patch convolution
and attention's two products, of which causal attention needs half. Left out are norms, softmax, activations, rotary
positions, embedding look-ups, the loss and the optimiser: few operations beside the products. A mixture of experts
counts its router and the experts that see a token. Pure arithmetic: no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sailctl.core.schema.model import LLMConfig, ModelConfig, VisionConfig


@dataclass(frozen=True, slots=True)
class ForwardFlops:
    """One forward pass: `patches`, `tower`, `tower_attention`, `projector` of a tile; `token`, `target`, `square`.

    `token` are the language model's linear layers for one token, but for the last layer's query, output and MLP, which
    supervised tokens alone go through; `target` are these and the head for one of them; `square` is attention for a
    document of one token: times the sum of squared document lengths.
    """

    patches: float
    tower: float
    tower_attention: float
    projector: float
    token: float
    target: float
    square: float

    @classmethod
    def of(cls, config: ModelConfig) -> ForwardFlops:
        """Count a model's shapes; of the tower only the layers that `select_layer` needs."""
        tower, llm = config.vision, config.llm
        patches = (tower.image_size // tower.patch_size) ** 2
        positions = patches + (tower.kind == "internvit")  # the class token
        layers = selected_layers(config)
        width_in, width = projector_widths(config)
        last = _last_layer_weights(llm)
        return cls(
            patches=2.0 * patches * 3 * tower.patch_size**2 * tower.hidden_size,
            tower=2.0 * positions * layers * tower_layer_weights(tower),
            tower_attention=4.0 * positions**2 * tower.hidden_size * layers,
            projector=2.0 * config.tokens_per_tile * (width_in * width + width * width),
            token=2.0 * (llm.num_layers * llm_layer_weights(llm, llm.experts_per_token) - last),
            target=2.0 * (last + llm.hidden_size * llm.vocab_size),
            square=2.0 * llm.num_layers * llm.num_heads * head_width(llm),
        )

    @property
    def tile(self) -> float:
        """Tower and projector for one tile."""
        return self.patches + self.tower + self.tower_attention + self.projector


@dataclass(frozen=True, slots=True)
class ModelFlops:
    """Forward and backward under a freeze map: what one tile, token, target and squared token cost in training.

    A trained module costs three forward passes. A frozen one that gradients pass through costs two, but attention's
    products, which have no weights, still three; a frozen one with nothing trained before it costs one.
    """

    per_tile: float
    per_token: float
    per_target: float
    per_square: float
    forward: ForwardFlops

    @classmethod
    def of(cls, config: ModelConfig, trainable: Sequence[str], *, checkpointing: bool = False) -> ModelFlops:
        """Cost a model whose `trainable` modules (vision, projector, llm) learn.

        With `checkpointing` the layers that keep a graph are run forward once more: what the device executes. Without
        it, what the model needs: the figure an MFU is made of.
        """
        forward = ForwardFlops.of(config)
        vision, projector, llm = (name in trainable for name in ("vision", "projector", "llm"))
        again = 1.0 if checkpointing else 0.0
        tower = 3.0 if vision else 1.0
        # No gradient reaches the pixels, so the patch convolution has a weight gradient only.
        patches = 2.0 if vision else 1.0
        # The projector's norm comes first: a trained projector needs the gradient of its first product's input, too.
        bridge = 3.0 if projector else 2.0 if vision else 1.0
        graph = vision or projector or llm
        linear = 3.0 if llm else 2.0 if graph else 1.0
        attention = 3.0 + again if graph else 1.0
        return cls(
            per_tile=patches * forward.patches
            + tower * (forward.tower + forward.tower_attention)
            + (again * _recomputed_tower(config, forward) if vision else 0.0)
            + bridge * forward.projector,
            per_token=linear * forward.token + (again * _recomputed_token(config.llm, forward) if graph else 0.0),
            per_target=linear * forward.target + (again * _recomputed_target(config.llm) if graph else 0.0),
            per_square=attention * forward.square,
            forward=forward,
        )

    def vision(self, tiles: float) -> float:
        """Tower and projector for `tiles` tiles."""
        return self.per_tile * tiles

    def llm(self, tokens: float, targets: float, squares: float) -> float:
        """Language model for `tokens` tokens, `targets` of them supervised; `squares` sums squared document lengths."""
        return self.per_token * tokens + self.per_target * targets + self.per_square * squares

    def total(self, tokens: float, tiles: float, targets: float, squares: float) -> float:
        """The whole model."""
        return self.vision(tiles) + self.llm(tokens, targets, squares)


def selected_layers(config: ModelConfig) -> int:
    """How many of the tower's layers run: hidden state 0 are the embeddings, N the last layer's output."""
    layers, select = config.vision.num_layers, config.select_layer
    return select if select >= 0 else layers + 1 + select


def projector_widths(config: ModelConfig) -> tuple[int, int]:
    """Widths of the projector's input (the merged patches) and of its output (the language model's)."""
    return config.vision.hidden_size * round(1 / config.downsample_ratio) ** 2, config.llm.hidden_size


def head_width(llm: LLMConfig) -> int:
    """Width of one attention head."""
    return llm.head_dim or llm.hidden_size // llm.num_heads


def tower_layer_weights(tower: VisionConfig) -> int:
    """Entries of the matrices of one layer of the tower: attention's four, and two (GELU) or three (SwiGLU) more."""
    matrices = 2 if tower.kind == "internvit" else 3
    return 4 * tower.hidden_size**2 + matrices * tower.hidden_size * tower.intermediate_size


def llm_layer_weights(llm: LLMConfig, experts: int) -> int:
    """Entries of the matrices of one layer of the language model, with this many of its experts where it has some."""
    heads, kv_heads = llm.num_heads * head_width(llm), llm.num_kv_heads * head_width(llm)
    return llm.hidden_size * (2 * heads + 2 * kv_heads) + llm_mlp_weights(llm, experts)


def llm_mlp_weights(llm: LLMConfig, experts: int) -> int:
    """Entries of what follows the attention in one layer: three matrices, or a router and this many experts."""
    if llm.kind != "qwen3_moe":
        return 3 * llm.hidden_size * llm.intermediate_size
    return llm.hidden_size * llm.num_experts + experts * 3 * llm.hidden_size * llm.moe_intermediate_size


def _last_layer_weights(llm: LLMConfig) -> int:
    """Of the last layer's matrices those that only supervised tokens need: query, output, MLP."""
    return 2 * llm.hidden_size * llm.num_heads * head_width(llm) + llm_mlp_weights(llm, llm.experts_per_token)


def _recomputed_tower(config: ModelConfig, forward: ForwardFlops) -> float:
    """Recomputing a layer stops at the last value the backward pass needs: not the last product."""
    tower = config.vision
    positions = (tower.image_size // tower.patch_size) ** 2
    last = 2.0 * positions * selected_layers(config) * tower.hidden_size * tower.intermediate_size
    return forward.tower + forward.tower_attention - last


def _recomputed_token(llm: LLMConfig, forward: ForwardFlops) -> float:
    """Likewise; experts' outputs are needed, since the router's weights multiply them."""
    last = 2.0 * (llm.num_layers - 1) * llm.hidden_size * llm.intermediate_size
    return forward.token - (0.0 if llm.kind == "qwen3_moe" else last)


def _recomputed_target(llm: LLMConfig) -> float:
    """Likewise, of the last layer."""
    last = 0 if llm.kind == "qwen3_moe" else llm.hidden_size * llm.intermediate_size
    return 2.0 * (_last_layer_weights(llm) - last)
