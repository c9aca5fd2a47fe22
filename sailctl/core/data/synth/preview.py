"""A contact sheet: one picture per task and level with its question and answer beneath."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sailctl.core.data.synth.item import SynthItem
from sailctl.core.files import atomic_write

_TEXT_HEIGHT = 66  # px below a picture
_GAP = 8


def contact_sheet(
    items: Sequence[SynthItem], *, columns: int = 6, size: int = 168, font: str | None = None
) -> Image.Image:
    """Lay pictures out in rows of `columns`, each `size` px wide, with question and answer as text below."""
    rows = -(-len(items) // columns)
    sheet = Image.new("RGB", (columns * (size + _GAP) + _GAP, rows * (size + _TEXT_HEIGHT + _GAP) + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    face = ImageFont.truetype(font, 10) if font else ImageFont.load_default(size=10)
    for number, item in enumerate(items):
        left, top = _GAP + number % columns * (size + _GAP), _GAP + number // columns * (size + _TEXT_HEIGHT + _GAP)
        if item.image is not None:
            sheet.paste(item.image.resize((size, size), Image.Resampling.NEAREST), (left, top))
        lines = [f"{item.task} {item.level}"] if item.image is not None else [f"{item.task} {item.level} (no image)"]
        for part in (f"Q {item.question}", f"A {item.answer}"):
            lines += textwrap.wrap(part.replace("\n", " | "), 34)
        start = top + size + 1 if item.image is not None else top
        for row, line in enumerate(lines[: 6 if item.image is not None else 20]):
            pen.text((left, start + row * 11), line, "black", font=face)
    return sheet


def write_contact_sheet(items: Sequence[SynthItem], path: Path, *, font: str | None = None) -> None:
    """Write the contact sheet as PNG, complete or not at all. Raises StorageError."""
    sheet = contact_sheet(items, font=font)
    with atomic_write(path) as handle:
        sheet.save(handle, format="PNG")
