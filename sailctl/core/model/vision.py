"""The vision tower: stock transformers InternViT or AIMv2, run only as deep as `select_layer` asks.

Shapes: I tiles, P patches, D the tower's width; pixels are ICSS: C colours, S pixels of a tile's side.
"""

from __future__ import annotations

import functools

import torch
from torch import nn
from transformers import Aimv2VisionConfig, Aimv2VisionModel, InternVLVisionConfig, InternVLVisionModel

from sailctl.core.model.lean import lean_mlp, lean_norms
from sailctl.core.model.lean_tower import lean_internvit
from sailctl.core.schema.model import VisionConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Tower = InternVLVisionModel | Aimv2VisionModel


def stock_config(config: VisionConfig) -> InternVLVisionConfig | Aimv2VisionConfig:
    """The transformers config of a tower."""
    return _internvit_config(config) if config.kind == "internvit" else _aimv2_config(config)


def _internvit_config(config: VisionConfig) -> InternVLVisionConfig:
    return InternVLVisionConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        image_size=[config.image_size, config.image_size],
        patch_size=[config.patch_size, config.patch_size],
        layer_norm_eps=config.norm_eps,
        attention_bias=config.attention_bias,
        use_qk_norm=config.qk_norm,
        layer_scale_init_value=config.layer_scale_init,
    )


def _aimv2_config(config: VisionConfig) -> Aimv2VisionConfig:
    return Aimv2VisionConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        image_size=config.image_size,
        patch_size=config.patch_size,
        rms_norm_eps=config.norm_eps,
        qkv_bias=config.attention_bias,
        use_head=False,  # the pooling head belongs to the contrastive model, not to patch features
    )


def build_vision(config: VisionConfig) -> Tower:
    """A tower of this shape with transformers' own initial values; drop path is added by hooks where asked for."""
    if config.kind == "aimv2":
        aimv2 = Aimv2VisionModel(_aimv2_config(config))
        for layer in aimv2.encoder.layers:
            lean_mlp(layer.get_submodule("ffn"))
        lean_norms(aimv2)
        return aimv2
    tower = InternVLVisionModel(_internvit_config(config))
    lean_internvit(tower)
    lean_norms(tower)  # InternViT of 300M has LayerNorms, but may have RMSNorms of queries and keys
    if config.drop_path > 0:
        _add_drop_path(tower, config)
    return tower


def layers_of(tower: Tower) -> nn.ModuleList:
    """The tower's transformer layers, first to last."""
    return tower.encoder.layer if isinstance(tower, InternVLVisionModel) else tower.encoder.layers


def normalise(tiles_ICSS: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """uint8 pixels to ImageNet-normalised values in `dtype`, on the tiles' own device."""
    mean, std = _imagenet(tiles_ICSS.device)
    return tiles_ICSS.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std).to(dtype)


@functools.cache
def _imagenet(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation on a device, copied there once: a copy in every step would wait for it."""
    with torch.inference_mode(False):
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return mean, std


def patch_features(
    tower: Tower, pixels_ICSS: torch.Tensor, select_layer: int, patches: int | None = None
) -> torch.Tensor:
    """Patch features (I, P, D) with the class token dropped, as `hidden_states[select_layer]` of the original code.

    hidden_states holds the embeddings and then each layer's output: N + 1 entries. Only -1 means the tower's last
    hidden state, which for AIMv2 includes the final norm; no other entry does, not even the last layer's own. With
    `patches` only that many first ones of each tile are kept, from the embedding on.
    """
    layers = layers_of(tower)
    depth = select_layer if select_layer >= 0 else len(layers) + 1 + select_layer
    hidden_IPD = tower.embeddings(pixels_ICSS)
    if patches is not None:
        hidden_IPD = hidden_IPD[:, : patches + isinstance(tower, InternVLVisionModel)]
    for layer in layers[:depth]:
        hidden_IPD = layer(hidden_IPD)
    if isinstance(tower, InternVLVisionModel):
        return hidden_IPD[:, 1:]
    return tower.rms_norm(hidden_IPD) if select_layer == -1 else hidden_IPD


def pixel_shuffle(features_IPD: torch.Tensor, factor: int, version: str) -> torch.Tensor:
    """Merge `factor` x `factor` neighbouring patches into one, factor^2 as wide: (I, P / factor^2, D factor^2).

    Channels of a merged patch come row by row. v2 keeps the tile's row order; v1, as first released, leaves rows and
    columns of the result swapped.
    """
    tiles, patches, width = features_IPD.shape
    side = round(patches**0.5)
    small = side // factor
    grid = features_IPD.reshape(tiles, small, factor, small, factor, width)
    order = (0, 1, 3, 2, 4, 5) if version == "v2" else (0, 3, 1, 2, 4, 5)
    return grid.permute(order).reshape(tiles, small * small, factor * factor * width)


def _add_drop_path(tower: InternVLVisionModel, config: VisionConfig) -> None:
    """Drop residual branches per tile, at rates rising linearly to `drop_path` at the last layer.

    A hook on each branch equals stochastic depth on the branch itself: the layer scale between them is a plain factor.
    """

    def hook_for(rate: float):  # type: ignore[no-untyped-def]
        def hook(module: nn.Module, _: object, output: torch.Tensor | tuple) -> torch.Tensor | tuple:
            if not module.training:
                return output
            branch = output[0] if isinstance(output, tuple) else output
            kept = (torch.rand(branch.shape[0], 1, 1, device=branch.device) >= rate).to(branch.dtype) / (1 - rate)
            return (branch * kept, *output[1:]) if isinstance(output, tuple) else branch * kept

        return hook

    for index, layer in enumerate(tower.encoder.layer):
        rate = config.drop_path * index / max(1, config.num_layers - 1)
        if rate > 0:
            for branch in (layer.get_submodule("attention"), layer.get_submodule("mlp")):
                branch.register_forward_hook(hook_for(rate))
