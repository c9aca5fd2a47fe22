"""Streams of lengths for the packer's tests."""

import random
from dataclasses import dataclass

from sailctl.core.data.choose import Costs

# One tile costs as much as 400 tokens, a document of 4,000 tokens a third more than its tokens.
COSTS = Costs(per_tile=400.0, per_token=1.0, per_target=0.1, per_square=1 / 12_000)


@dataclass(frozen=True)
class Piece:
    name: int
    num_tokens: int
    num_tiles: int = 0
    num_targets: int = 0
    epoch: int = 0


def names(groups):
    return [[piece.name for piece in group] for group in groups]


def mixed(count, seed=0, *, text=0.12):
    """Image samples of 1 to 12 tiles of 256 tokens, and text alone."""
    draw, pieces = random.Random(seed), []
    for name in range(count):
        tiles = 0 if draw.random() < text else draw.randint(1, 12)
        words = int(draw.lognormvariate(5.8 if tiles == 0 else 4.7, 0.9)) + 15
        pieces.append(Piece(name, min(16_384, 256 * tiles + words), tiles, words // 2))
    return pieces


def half_long(count, seed=0):
    """Half of it text alone, a few thousand tokens as a rule and up to 16,384; half pictures."""
    draw, pieces = random.Random(seed), []
    for name in range(count):
        tiles = 0 if draw.random() < 0.5 else draw.randint(1, 12)
        words = int(draw.lognormvariate(5, 0.8) if tiles else draw.lognormvariate(8.3, 0.7)) + 15
        pieces.append(Piece(name, min(16_384, 256 * tiles + words), tiles, words // 2))
    return pieces
