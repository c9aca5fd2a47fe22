"""Finished benches as a suite leaves them, made of rows that a test writes down."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

ATTACK = '</script><script>alert("run")</script><img src=x onerror=alert(1)>\u2028<b>bold</b>'
SUITE = {"AI2D": "General VQA", "MMBench": "General VQA", "DocVQA": "OCR VQA"}


def row(benchmark: str, index: str, *, score: float = 0.0, images: Sequence[Any] = (), **more: Any) -> dict[str, Any]:
    """A row of samples.jsonl, wrong unless told otherwise."""
    made: dict[str, Any] = {"benchmark": benchmark, "index": index, "group": index, "cluster": index, "category": ""}
    made |= {"question": "What is\nthis?", "answer": "that", "options": None}
    made |= {"image": images[0] if images else None, "images": list(images), "prediction": "this", "score": score}
    return made | {"parsed": True, "failed": None, "cut": False} | more


def write_bench(
    folder: Path, rows: Sequence[dict[str, Any]], *, pictures: Sequence[str] = (), checkpoint: str = "runs/x"
) -> None:
    """Write results.json, samples.jsonl and small pictures of these names, each of another size."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    benchmarks = {name: {"category": SUITE.get(name, ""), "metric": "accuracy", "score": 0.5} for name in SUITE}
    results = {"suite": "sail18", "checkpoint": checkpoint, "benchmarks": benchmarks}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "samples.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    for place, name in enumerate(pictures):
        buffer = io.BytesIO()
        Image.new("RGB", (40 + 10 * place, 30), (200, 80, 40)).save(buffer, "PNG")
        (folder / "images" / name).write_bytes(buffer.getvalue())
