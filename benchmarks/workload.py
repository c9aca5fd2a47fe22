"""What the training benchmarks measure on: streams of sample lengths, samples and packs of them, stock transformers.

Shapes: T tokens of a pack, B rows and S positions of a padded micro-batch, I tiles of C colours and W pixels a side.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import InternVLConfig, InternVLForConditionalGeneration

from sailctl.core.data.choose import CostPacker, Costs, Packable
from sailctl.core.data.pack_target import pack_target
from sailctl.core.data.packing import Encoded, Pack, merge
from sailctl.core.model import language, vision
from sailctl.core.model.flops import ForwardFlops, ModelFlops
from sailctl.core.model.vision import normalise
from sailctl.core.model.vlm import VisionLanguageModel
from sailctl.core.schema.data import DataConfig
from sailctl.core.schema.model import LLMConfig, ModelConfig, VisionConfig
from sailctl.core.train.loss import supervised_loss

STAGES = {
    "alignment": ["projector"],
    "advance": ["vision", "projector"],
    "sft": ["vision", "projector", "llm"],
}
FULL_TOKENS_PER_TILE = 256  # of the lengths as they are given, before scaling

# sail-vl-2b made small for a CPU with its proportions kept: what a tile costs the tower beside what its visual tokens
# cost the language model, the head's weights beside the layers' (0.18), attention's share in both, the layers used
# (8 of 9; there 21 of 24).
LAPTOP = ModelConfig(
    name="sail-vl-2b in small",
    vision=VisionConfig(
        kind="internvit",
        hidden_size=128,
        intermediate_size=512,
        num_layers=9,
        num_heads=4,
        image_size=168,
    ),
    llm=LLMConfig(
        kind="qwen2",
        vocab_size=5472,
        hidden_size=256,
        intermediate_size=1496,
        num_layers=6,
        num_heads=4,
        num_kv_heads=1,
        tie_embeddings=True,
    ),
    select_layer=-2,
)


@dataclass(frozen=True, slots=True)
class Size:
    """A sample's size, all a packer looks at."""

    row: int
    num_tokens: int
    num_tiles: int
    num_targets: int
    epoch: int = 0


def mixed_sizes(count: int, seed: int) -> list[Size]:
    """12% text only, 32 to 8192 tokens; else 1 to 12 tiles and 20 to 1024 tokens of text, half of the text supervised.

    Numbers are log-uniform, for the small is common and the large rare; their quantiles are evenly spaced and shuffled,
    so that a short stream is like a long one. At full scale: 256 tokens a tile.
    """
    draw = random.Random(seed)

    def spread(number: int, low: int, high: int) -> list[int]:
        shares = [(index + 0.5) / number for index in range(number)]
        draw.shuffle(shares)
        return [int(low * ((high + 1) / low) ** share) for share in shares]

    texts = round(0.12 * count)
    pictured = zip(spread(count - texts, 1, 12), spread(count - texts, 20, 1024), strict=True)
    rows = [*((0, text) for text in spread(texts, 32, 8192)), *pictured]
    draw.shuffle(rows)
    return [Size(row, tiles * FULL_TOKENS_PER_TILE + text, tiles, text // 2) for row, (tiles, text) in enumerate(rows)]


def listed_sizes(path: Path, count: int, seed: int) -> list[Size]:
    """`count` rows, drawn without replacement, of a CSV with columns tokens and tiles; `targets` is used where it is
    there, else half of the tokens that are no image are taken to be supervised."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = random.Random(seed).sample(range(len(rows)), min(count, len(rows)))
    sizes = []
    for row in chosen:
        tokens, tiles = int(rows[row]["tokens"]), int(rows[row]["tiles"])
        text = tokens - tiles * FULL_TOKENS_PER_TILE
        sizes.append(Size(row, tokens, tiles, int(rows[row].get("targets") or max(1, text // 2))))
    return sizes


def scaled(size: Size, tokens_per_tile: int) -> Size:
    """The same sample with smaller tiles and text shortened alike; at least 4 tokens of text, half of them answer."""
    factor = tokens_per_tile / FULL_TOKENS_PER_TILE
    text = max(4, round((size.num_tokens - size.num_tiles * FULL_TOKENS_PER_TILE) * factor))
    targets = min(max(1, round(size.num_targets * factor)), text - 1)
    return Size(size.row, size.num_tiles * tokens_per_tile + text, size.num_tiles, targets)


def sample_of(size: Size, config: ModelConfig, image_token_id: int, seed: int) -> Encoded:
    """A sample of that size: one word, the picture, the question, the answer; random ids and pixels."""
    draw = np.random.default_rng([seed, size.row])
    visual = size.num_tiles * config.tokens_per_tile
    ids = draw.integers(0, image_token_id, size.num_tokens, dtype=np.int32)
    ids[1 : 1 + visual] = image_token_id
    supervised = np.zeros(size.num_tokens, dtype=bool)
    supervised[size.num_tokens - size.num_targets :] = True
    side = config.vision.image_size
    tiles = draw.integers(0, 256, (size.num_tiles, 3, side, side), dtype=np.uint8)
    return Encoded(f"{size.row:032x}", str(size.row), "stream", ids, supervised, tiles)


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """A padded micro-batch: rows on the right filled up, labels -100 where nothing is supervised."""

    input_ids_BS: Tensor
    mask_BS: Tensor
    labels_BS: Tensor
    tiles_ICWW: Tensor | None
    num_targets: int

    def to(self, device: torch.device) -> PaddedBatch:
        """The same on a device."""
        tiles = None if self.tiles_ICWW is None else self.tiles_ICWW.to(device)
        rows = (self.input_ids_BS.to(device), self.mask_BS.to(device), self.labels_BS.to(device))
        return PaddedBatch(*rows, tiles, self.num_targets)


def pad(samples: Sequence[Encoded]) -> PaddedBatch:
    """Rows of one micro-batch, padded to its longest."""
    shape = (len(samples), max(sample.num_tokens for sample in samples))
    ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, -100)
    for row, sample in enumerate(samples):
        tokens = torch.from_numpy(sample.input_ids.astype(np.int64))
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        labels[row, : len(tokens)] = torch.where(torch.from_numpy(sample.supervised), tokens, -100)
    tiles = [sample.tiles for sample in samples if sample.num_tiles]
    return PaddedBatch(
        ids,
        mask,
        labels,
        torch.from_numpy(np.concatenate(tiles)) if tiles else None,
        int((labels[:, 1:] != -100).sum()),
    )


def pack_all(
    sizes: Sequence[Size], samples: Sequence[Encoded], config: ModelConfig, stage: str, *, tokens: int, tiles: int
) -> list[Pack]:
    """All the samples (`sizes` are theirs) in packs, as the trainer chooses them with this stage's costs."""
    flops = ModelFlops.of(config, STAGES[stage])
    costs = Costs(flops.per_tile, flops.per_token, flops.per_target, flops.per_square)
    _, target = pack_target(sizes, costs, tokens=tokens, tiles=tiles)
    packer: CostPacker[Size] = CostPacker(tokens, tiles, DataConfig().pack_window, costs, target)
    groups = [group for size in sizes for group in packer.add(size)]
    by_row = {size.row: sample for size, sample in zip(sizes, samples, strict=True)}
    return [merge([by_row[size.row] for size in group]) for group in [*groups, *packer.flush()]]


def stock_twin(ours: VisionLanguageModel, implementation: str = "sdpa") -> InternVLForConditionalGeneration:
    """Stock transformers' InternVL with a copy of the same weights."""
    config = ours.config
    stock = InternVLForConditionalGeneration(
        InternVLConfig(
            vision_config=vision.stock_config(config.vision),
            text_config=language.stock_config(config.llm),
            image_token_id=ours.image_token_id,
            image_seq_length=config.tokens_per_tile,
            vision_feature_layer=config.select_layer,
            tie_word_embeddings=config.llm.tie_embeddings,
            attn_implementation=implementation,
        )
    )
    model = stock.model
    model.vision_tower.load_state_dict(ours.vision.state_dict())
    model.language_model.load_state_dict(ours.llm.model.state_dict())
    parts = (model.multi_modal_projector.layer_norm, model.multi_modal_projector.linear_1)
    for part, index in zip((*parts, model.multi_modal_projector.linear_2), (0, 1, 3), strict=True):
        part.load_state_dict(ours.projector[index].state_dict())
    stock.lm_head.load_state_dict(ours.llm.lm_head.state_dict())
    stock.tie_weights()
    return stock.to(next(ours.parameters()).device)


def freeze_stock(stock: InternVLForConditionalGeneration, trainable: Sequence[str]) -> None:
    """The same freeze map on the stock model: tower, projector, language model with its head."""
    model = stock.model
    stock.lm_head.requires_grad_("llm" in trainable)
    model.vision_tower.requires_grad_("vision" in trainable)
    model.multi_modal_projector.requires_grad_("projector" in trainable)
    model.language_model.requires_grad_("llm" in trainable)


def stock_loss(stock: InternVLForConditionalGeneration, batch: PaddedBatch) -> Tensor:
    """The stock model's own loss of a padded micro-batch: the mean over its supervised tokens."""
    arguments: dict[str, Any] = {}
    if batch.tiles_ICWW is not None:
        arguments["pixel_values"] = normalise(batch.tiles_ICWW, torch.float32)
    return stock(
        input_ids=batch.input_ids_BS,
        attention_mask=batch.mask_BS,
        labels=batch.labels_BS,
        use_cache=False,
        **arguments,
    ).loss


def padded_loss(model: VisionLanguageModel, batch: PaddedBatch) -> Tensor:
    """Our model on the padded micro-batch, with our loss on supervised positions only: the sum over them."""
    embeddings = model.embed(batch.input_ids_BS.flatten(), batch.tiles_ICWW).view(*batch.input_ids_BS.shape, -1)
    hidden = model.llm.model(inputs_embeds=embeddings, attention_mask=batch.mask_BS, use_cache=False).last_hidden_state
    targets = batch.labels_BS[:, 1:]
    rows, columns = torch.nonzero(targets != -100, as_tuple=True)
    weights = torch.ones(len(rows), device=hidden.device)
    return supervised_loss(model, hidden[rows, columns], targets[rows, columns], weights)


def packed_flops(config: ModelConfig, stage: str, samples: Sequence[Packable]) -> float:
    """What a step over the samples asks for, packed: no padding, half of each square, of the last layer queries,
    output and MLP, and the head, on supervised tokens."""
    squares = sum(sample.num_tokens**2 for sample in samples)
    tokens, tiles, targets = _totals(samples)
    return ModelFlops.of(config, STAGES[stage]).total(tokens, tiles, targets, squares)


def padded_flops(config: ModelConfig, stage: str, batches: Sequence[Sequence[Packable]]) -> float:
    """The same on padded rows: every cell a token, whole squares (a dense mask), the head alone on supervised ones."""
    shapes = [(len(batch), max(sample.num_tokens for sample in batch)) for batch in batches]
    cells, squares = sum(rows * longest for rows, longest in shapes), sum(2 * rows * long**2 for rows, long in shapes)
    _, tiles, targets = _totals([sample for batch in batches for sample in batch])
    flops = ModelFlops.of(config, STAGES[stage])
    return flops.total(cells, tiles, targets, squares) + (cells - targets) * (flops.per_target - _head(config, stage))


def stock_flops(config: ModelConfig, stage: str, batches: Sequence[Sequence[Packable]]) -> float:
    """The same as stock transformers does it: the head on every cell, the tower's unused layers run forward."""
    flops = ModelFlops.of(config, STAGES[stage])
    _, tiles, targets = _totals([sample for batch in batches for sample in batch])
    cells = sum(len(batch) * max(sample.num_tokens for sample in batch) for batch in batches)
    whole = ForwardFlops.of(config.model_copy(update={"select_layer": -1}))
    unused = tiles * (whole.tile - flops.forward.tile)
    return padded_flops(config, stage, batches) + (cells - targets) * _head(config, stage) + unused


def _head(config: ModelConfig, stage: str) -> float:
    """The head alone for one token: of what a target costs, the part that has the vocabulary in it."""
    without = config.model_copy(update={"llm": config.llm.model_copy(update={"vocab_size": 0})})
    return ModelFlops.of(config, STAGES[stage]).per_target - ModelFlops.of(without, STAGES[stage]).per_target


def _totals(samples: Sequence[Packable]) -> tuple[int, int, int]:
    return (
        sum(sample.num_tokens for sample in samples),
        sum(sample.num_tiles for sample in samples),
        sum(sample.num_targets for sample in samples),
    )
