"""Drawing: textured backgrounds, characters in cells, shapes; in native pixels (0..112), scaled when drawn.

One cell is 14 px, the patch size of the towers: a character fills one patch, a quadrant four by four of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sailctl.core.data.synth.item import NATIVE_SIZE, Brief, Draw
from sailctl.core.errors import UsageError

CELL = 14
Color = tuple[int, int, int]
_BANK_SIDE = 160  # px; a background is a window cut out of a larger texture at a random place


@functools.cache
def _textures() -> np.ndarray:
    """Fixed zero-mean textures, float32 (8, 160, 160) in -1..1; RandomState's sequence is frozen by numpy."""
    random = np.random.RandomState(20240111)
    side = _BANK_SIDE
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)

    def blotches(step: int) -> np.ndarray:
        coarse = random.random_sample((side // step + 1, side // step + 1)).astype(np.float32) * 2 - 1
        return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR))

    grain = random.random_sample((side, side)).astype(np.float32) * 2 - 1
    weave = np.where(((x // 2).astype(int) + (y // 2).astype(int)) % 2 == 0, 0.5, -0.5)
    bank = [
        grain,
        blotches(8),
        blotches(24),
        (np.sin(x * 0.9) + grain) / 2,
        (np.sin((x + y) * 0.5) + grain) / 2,
        weave + grain / 2,
        (y / side) * 2 - 1,
        (x + y) / side - 1,
    ]
    return np.stack(bank).astype(np.float32)


@functools.lru_cache(maxsize=64)
def _font(path: str | None, pixels: int) -> ImageFont.FreeTypeFont:
    if path is None:
        font = ImageFont.load_default(size=pixels)
        if not isinstance(font, ImageFont.FreeTypeFont):
            raise UsageError("Pillow's embedded font cannot be scaled here; give a font file with --font")
        return font
    try:
        return ImageFont.truetype(path, pixels, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise UsageError(
            f"--font {path}: cannot be read as a font ({error}); give a TrueType or OpenType file"
        ) from None


@functools.lru_cache(maxsize=8192)
def _glyph(path: str | None, character: str, width: int, height: int) -> Image.Image:
    """A mask (mode L, width x height px) with one character, centred on the cell's width."""
    # Latin capitals fill three quarters of the em; a Chinese character fills nearly all of it.
    factor, baseline = (1.15, 0.88) if character.isascii() else (0.92, 0.86)
    font = _font(path, max(4, round(height * factor)))
    left, _, right, _ = font.getbbox(character, anchor="ls")
    if bytes(font.getmask(character)) == bytes(font.getmask("\U0010fffe")) and not character.isspace():
        raise UsageError(
            f"the font {path or 'embedded in Pillow'} has no glyph for {character!r}; give one with --font"
        )
    drawn = max(1, math.ceil(right - left))
    mask = Image.new("L", (max(drawn, width), height), 0)
    ImageDraw.Draw(mask).text(
        ((mask.width - drawn) // 2 - left, round(height * baseline)), character, 255, font=font, anchor="ls"
    )
    return mask if mask.width == width else mask.resize((width, height), Image.Resampling.BILINEAR)


def _star() -> list[tuple[float, float]]:
    spokes = [(1.0 if k % 2 == 0 else 0.42, math.pi * k / 5 - math.pi / 2) for k in range(10)]
    return [(1.08 * radius * math.cos(angle), 1.08 * radius * math.sin(angle) + 0.08) for radius, angle in spokes]


def _heart() -> list[tuple[float, float]]:
    angles = [2 * math.pi * k / 28 for k in range(28)]
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16 - 0.1,
        )
        for t in angles
    ]


_POLYGONS: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0.0, -0.95), (1.0, 0.85), (-1.0, 0.85)],
    "diamond": [(0.0, -1.1), (0.75, 0.0), (0.0, 1.1), (-0.75, 0.0)],
    "cross": [(x * a, y * b) for x, y, a, b in (
        (-1, -1, 0.33, 1), (1, -1, 0.33, 1), (1, -1, 0.33, 0.33), (1, -1, 1, 0.33), (1, 1, 1, 0.33),
        (1, 1, 0.33, 0.33), (1, 1, 0.33, 1), (-1, 1, 0.33, 1), (-1, 1, 0.33, 0.33), (-1, 1, 1, 0.33),
        (-1, -1, 1, 0.33), (-1, -1, 0.33, 0.33),
    )],
    "star": _star(),
    "heart": _heart(),
}  # fmt: skip


class Canvas:
    """A picture in the making. `low`..`high` bounds the background's brightness; its texture gets rougher by level."""

    def __init__(self, brief: Brief, draw: Draw, low: int, high: int) -> None:
        self.scale = brief.size / NATIVE_SIZE
        self.font = brief.font
        grey = draw.integer(low, high)
        base = np.array([grey + draw.integer(-8, 8) for _ in range(3)], dtype=np.float32)
        top, left = draw.below(_BANK_SIDE - NATIVE_SIZE), draw.below(_BANK_SIDE - NATIVE_SIZE)
        texture = _textures()[draw.below(8), top : top + NATIVE_SIZE, left : left + NATIVE_SIZE]
        amplitude = (5, 9, 14)[brief.level - 1]
        pixels = (texture * amplitude)[:, :, None] + base
        self.image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        if brief.size != NATIVE_SIZE:
            self.image = self.image.resize((brief.size, brief.size), Image.Resampling.BILINEAR)
        self._pen = ImageDraw.Draw(self.image)

    def _points(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x * self.scale, y * self.scale) for x, y in points]

    def rectangle(
        self, left: float, top: float, right: float, bottom: float, fill: Color | None, edge: Color | None = None
    ) -> None:
        """Fill and outline; right and bottom are exclusive."""
        scale = self.scale
        box = (left * scale, top * scale, right * scale - 1, bottom * scale - 1)
        self._pen.rectangle(box, fill=fill, outline=edge, width=max(1, round(scale)))

    def line(self, x0: float, y0: float, x1: float, y1: float, color: Color) -> None:
        """A line one native pixel wide."""
        self._pen.line(self._points([(x0, y0), (x1, y1)]), fill=color, width=max(1, round(self.scale)))

    def shape(self, name: str, x: float, y: float, radius: float, color: Color) -> None:
        """One of the shapes, centred on (x, y)."""
        if name in _POLYGONS:
            self._pen.polygon(self._points([(x + radius * u, y + radius * v) for u, v in _POLYGONS[name]]), fill=color)
            return
        box = self._points([(x - radius, y - radius), (x + radius, y + radius)])
        if name == "circle":
            self._pen.ellipse(box, fill=color)
        else:
            self._pen.ellipse(box, outline=color, width=round(radius * 0.36 * self.scale))

    def text(self, text: str, x: float, y: float, color: Color, cell: int = CELL, height: int | None = None) -> None:
        """One character per cell, `cell` px wide and `height` (default `cell`) px high, from the top left corner."""
        height = height or cell
        width_px, height_px = round(cell * self.scale), round(height * self.scale)
        for position, character in enumerate(text):
            if character != " ":
                mask = _glyph(self.font, character, width_px, height_px)
                corner = (round((x + position * cell) * self.scale), round(y * self.scale))
                self.image.paste(color, (*corner, corner[0] + width_px, corner[1] + height_px), mask)


def ink(draw: Draw) -> Color:
    """A dark colour for writing on a light background."""
    return draw.choice(((15, 15, 15), (20, 20, 110), (120, 15, 15), (10, 80, 25), (80, 20, 100)))


def shade(draw: Draw, color: Color) -> Color:
    """The colour, slightly varied."""
    red, green, blue = (min(255, max(0, part + draw.integer(-10, 10))) for part in color)
    return red, green, blue
