"""Pictures with something in them, changes of them, and tars of conversations: what duplicates are made of in tests."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sailctl.core.data.verdicts import read_rows
from tests.helpers_data import write_tar


def scene(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """A picture of soft colours with a few hard-edged rectangles."""
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(60, 200, (5, 6, 3), dtype=np.uint8)).resize((width, height), 3)
    pixels = np.array(soft)
    for _ in range(5):
        x, y = rng.integers(0, width - 30), rng.integers(0, height - 30)
        pixels[y : y + rng.integers(8, 30), x : x + rng.integers(8, 30)] = rng.integers(0, 256, 3)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "PNG", quality: int = 90) -> bytes:
    """Bytes of a picture."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({} if kind == "PNG" else {"quality": quality}))
    return buffer.getvalue()


def write_samples(path: Path, samples: Sequence[tuple[bytes | None, str, str]]) -> Path:
    """A tar of (picture, question, answer); keys are places."""
    members: list[tuple[str, bytes]] = []
    for number, (picture, question, answer) in enumerate(samples):
        asked = question if picture is None else f"<image>\n{question}"
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
        members.append((f"{number:04d}.json", json.dumps({"conversations": turns}).encode()))
        if picture is not None:
            members.append((f"{number:04d}.png", picture))
    return write_tar(path, members)


def by_key(out: Path) -> dict[str, dict[str, Any]]:
    """Verdicts by their keys."""
    return {row["key"]: row for row in read_rows(out)}
