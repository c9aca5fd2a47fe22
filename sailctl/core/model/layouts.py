"""Names and shapes of the same weights in other people's checkpoints, as one table that serves both directions.

Ours are the names of `VisionLanguageModel.state_dict()`: stock transformers modules under `vision`, `projector`, `llm`.

| layout       | tower under  | its names                       | projector             | language model under |
|--------------|--------------|---------------------------------|-----------------------|----------------------|
| internvl     | vision_model | InternViT's or AIMv2's original | mlp1                  | language_model       |
| transformers | vision_tower | stock                           | multi_modal_projector | language_model       |
| part         | (nothing)    | either                          | (none)                | (nothing)            |

In memory transformers 5 calls the second `model.vision_tower`, `model.language_model` and so on; both are read.

Shapes: E experts, D width, P patches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch

Tensors = list[torch.Tensor]
TowerNames = Literal["stock", "internvit", "aimv2"]


@dataclass(frozen=True)
class Entry:
    """Some of our tensors and the foreign ones that hold the same numbers; `load` turns theirs into ours."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    load: Callable[[Tensors], Tensors]
    store: Callable[[Tensors], Tensors]


@dataclass(frozen=True)
class Layout:
    """Where a foreign checkpoint keeps its parts; `fused_experts` as transformers 5 holds them in memory."""

    tower: str
    tower_names: TowerNames
    projector: tuple[str, str, str]
    body: str
    head: str
    fused_experts: bool


_MLP1 = ("mlp1.0", "mlp1.1", "mlp1.3")
_MM_PROJECTOR = ("multi_modal_projector.layer_norm", "multi_modal_projector.linear_1", "multi_modal_projector.linear_2")

# ours -> theirs inside a tower; `qkv` stands for the fused projection of q, k and v
_INTERNVIT = (
    (r"embeddings\.cls_token$", "embeddings.class_embedding"),
    (r"embeddings\.position_embeddings$", "embeddings.position_embedding"),
    (r"embeddings\.patch_embeddings\.projection\.", "embeddings.patch_embedding."),
    (r"encoder\.layer\.", "encoder.layers."),
    (r"attention\.[qkv]_proj\.", "attn.qkv."),
    (r"attention\.projection_layer\.", "attn.proj."),
    (r"attention\.([qk])_norm\.", r"attn.\1_norm."),
    (r"layernorm_before\.", "norm1."),
    (r"layernorm_after\.", "norm2."),
    (r"lambda_([12])$", r"ls\1"),
)
_AIMV2 = (
    (r"^embeddings\.patch_embed\.", "preprocessor.patchifier.proj."),
    (r"^embeddings\.rms_norm\.", "preprocessor.patchifier.norm."),
    (r"^embeddings\.position_embedding\.weight$", "preprocessor.pos_embed"),
    (r"^rms_norm\.", "trunk.post_trunk_norm."),
    (r"^encoder\.layers\.", "trunk.blocks."),
    (r"attention\.[qkv]_proj\.", "attn.qkv."),
    (r"attention\.out_proj\.", "attn.proj."),
    (r"ffn\.gate_proj\.", "mlp.fc1."),
    (r"ffn\.down_proj\.", "mlp.fc2."),
    (r"ffn\.up_proj\.", "mlp.fc3."),
    (r"rms_norm([12])\.", r"norm_\1."),
)


def internvl_layout(tower_names: TowerNames) -> Layout:
    """The original InternVL and SAIL-VL layout, as written by us."""
    return Layout("vision_model.", tower_names, _MLP1, "language_model.model.", "language_model.lm_head.", False)


def transformers_layout() -> Layout:
    """What stock transformers writes for InternVLForConditionalGeneration."""
    return Layout("vision_tower.", "stock", _MM_PROJECTOR, "language_model.model.", "language_model.lm_head.", False)


def found_layout(names: set[str], kind: Literal["internvl", "transformers", "part"]) -> Layout:
    """The variant of a layout that a checkpoint's names show."""
    if kind == "part":
        return Layout("", tower_names_in(names, ""), _MLP1, "model.", "lm_head.", _are_experts_fused(names))
    if kind == "internvl":
        base = internvl_layout(tower_names_in(names, "vision_model."))
    else:
        base = transformers_layout()
        if any(name.startswith("model.") for name in names):  # the names transformers 5 has in memory
            norm, first, second = (f"model.{name}" for name in _MM_PROJECTOR)
            base = Layout(
                "model.vision_tower.", "stock", (norm, first, second), "model.language_model.", "lm_head.", False
            )
    return Layout(base.tower, base.tower_names, base.projector, base.body, base.head, _are_experts_fused(names))


def tower_names_in(names: set[str], prefix: str) -> TowerNames:
    """Whose names the tower's tensors bear."""
    if f"{prefix}preprocessor.patchifier.proj.weight" in names:
        return "aimv2"
    return "internvit" if f"{prefix}embeddings.class_embedding" in names else "stock"


def _are_experts_fused(names: set[str]) -> bool:
    return any(name.endswith(".mlp.experts.gate_up_proj") for name in names)


def entries(shapes: dict[str, torch.Size], layout: Layout) -> list[Entry]:
    """The table for the named tensors of ours (a whole model's, or those of one part)."""
    table: list[Entry] = []
    for ours, shape in shapes.items():
        part, _, name = ours.partition(".")
        if part == "vision":
            table += _tower_entries(name, shape, layout)
        elif part == "projector":
            index, _, leaf = name.partition(".")
            table.append(same(ours, f"{layout.projector[(0, 1, 3).index(int(index))]}.{leaf}"))
        elif name.startswith("lm_head."):
            table.append(same(ours, layout.head + name.removeprefix("lm_head.")))
        else:
            table.append(_body_entry(ours, layout.body + name.removeprefix("model."), shape, layout))
    return table


def ignored(names: Iterable[str], layout: Layout, *, tied: bool) -> set[str]:
    """Foreign tensors that stand for nothing we hold: tied heads, buffers, AIMv2's pooling head."""
    skipped = {name for name in names if re.search(r"(rotary_emb\.inv_freq|position_ids)$", name)}
    skipped |= {name for name in names if name.startswith(f"{layout.tower}head.")}
    return skipped | ({f"{layout.head}weight"} if tied else set())


def same(ours: str, theirs: str | None = None) -> Entry:
    """One tensor of ours that is one of theirs, under the same name unless another is given."""
    return Entry((ours,), (theirs or ours,), list, list)


def _tower_entries(name: str, shape: torch.Size, layout: Layout) -> list[Entry]:
    ours = f"vision.{name}"
    if layout.tower_names == "stock":
        return [same(ours, layout.tower + name)]
    theirs = name
    for pattern, replacement in _INTERNVIT if layout.tower_names == "internvit" else _AIMV2:
        theirs = re.sub(pattern, replacement, theirs)
    theirs = layout.tower + theirs
    if fused := re.search(r"\.([qkv])_proj\.", name):
        if fused[1] != "q":
            return []  # the entry of q carries k and v
        three = tuple(ours.replace(".q_proj.", f".{letter}_proj.") for letter in "qkv")
        return [Entry(three, (theirs,), lambda t: list(t[0].chunk(3)), lambda t: [torch.cat(t)])]
    if theirs.endswith("preprocessor.pos_embed"):
        return [Entry((ours,), (theirs,), lambda t: [t[0].reshape(shape)], lambda t: [t[0].unsqueeze(0)])]
    return [same(ours, theirs)]


def _body_entry(ours: str, theirs: str, shape: torch.Size, layout: Layout) -> Entry:
    base, _, leaf = theirs.rpartition(".")
    if layout.fused_experts or leaf not in ("gate_up_proj", "down_proj") or not base.endswith(".mlp.experts"):
        return same(ours, theirs)
    experts = range(shape[0])
    if leaf == "down_proj":
        names = tuple(f"{base}.{expert}.down_proj.weight" for expert in experts)
        return Entry((ours,), names, lambda t: [torch.stack(t)], lambda t: list(t[0].unbind(0)))
    # (E, 2 x inner, D): an expert's gate rows, then its up rows
    pairs = tuple(f"{base}.{expert}.{half}_proj.weight" for expert in experts for half in ("gate", "up"))
    return Entry(
        (ours,),
        pairs,
        lambda t: [torch.stack([torch.cat(t[i : i + 2]) for i in range(0, len(t), 2)])],
        lambda t: [half for expert in t[0].unbind(0) for half in expert.chunk(2)],
    )
