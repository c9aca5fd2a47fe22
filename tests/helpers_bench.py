"""Benchmark tables written by tests, and the entry of a suite that goes with them."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sailctl.core.bench.suites import Benchmark


def benchmark(name: str = "MMStar", **changes: Any) -> Benchmark:
    """A benchmark whose answers are short."""
    values: dict[str, Any] = {
        "name": name,
        "dataset": name,
        "category": "General VQA",
        "metric": "accuracy",
        "prompt": "mcq",
        "max_tiles": 4,
        "max_new_tokens": 12,
        "full_marks": 100.0,
        "judge": False,
        "split": None,
        "limit": None,
    }
    return Benchmark(**{**values, **changes})


def png(seed: int = 0, width: int = 60, height: int = 60, *, flat: bool = False) -> bytes:
    """A picture of a few coloured squares, or of one colour, another for every seed."""
    squares = np.random.default_rng(seed).integers(0, 256, (1, 1, 3) if flat else (3, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(squares).resize((width, height), Image.Resampling.NEAREST).save(buffer, format="PNG")
    return buffer.getvalue()


def b64(image: bytes) -> str:
    """As a table holds a picture."""
    return base64.b64encode(image).decode()


def write_tsv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A table as pandas writes one: the columns of the first row, quotes only where they are needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter="\t", lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def choice(index: int | str, image: str = "", **cells: Any) -> dict[str, Any]:
    """A row of a choice of two."""
    row = {"index": index, "question": f"Which one, {index}?", "A": "left", "B": "right", "answer": "A"}
    return {**row, "image": image or b64(png(int(index) if str(index).isdigit() else 0)), **cells}
