"""Small pictures, and the same samples written in every layout, for whatever test needs data."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sailctl.core.data.encode import Encoder
from sailctl.core.schema.data import DataConfig, SourceConfig
from sailctl.core.schema.model import LLMConfig, ModelConfig, VisionConfig
from tests.helpers_model import tiny_tokenizer

CONFIG = ModelConfig(
    name="tiny",
    vision=VisionConfig(
        kind="internvit", hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1, image_size=28, patch_size=14
    ),
    llm=LLMConfig(
        kind="qwen2", vocab_size=512, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1, num_kv_heads=1
    ),
)  # one visual token a tile of 28 pixels


def picture(seed: int, width: int = 40, height: int = 30, kind: str = "PNG") -> bytes:
    """Encoded noise of a seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def conversation(question: str, answer: str, *more: str) -> list[dict[str, str]]:
    """LLaVA turns."""
    return [
        {"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate((question, answer, *more))
    ]


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], *, end: bool = True) -> Path:
    """A tar of members as given, whatever their names."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        size = tar.offset
    path.write_bytes(buffer.getvalue() if end else buffer.getvalue()[:size])
    return path


def write_jsonl(path: Path, rows: Iterable[object]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def data_config(*paths: Path | str, **options: object) -> DataConfig:
    """A mixture of unweighted sources called s0, s1, …; in process unless told otherwise."""
    sources = [SourceConfig(name=f"s{number}", path=str(path)) for number, path in enumerate(paths)]
    chosen = {"workers": 0, "max_tiles": 4, "pack_tokens": 400, "pack_tiles": 12, **options}
    return DataConfig.model_validate({"sources": sources, **chosen})


def encoder(data: DataConfig, config: ModelConfig = CONFIG) -> Encoder:
    """The training encoder over a byte-level tokenizer."""
    return Encoder(tiny_tokenizer(), config, data)


def caption_samples(count: int) -> list[tuple[bytes, str]]:
    """Pictures of several shapes and their captions."""
    shapes: Sequence[tuple[int, int]] = [(40, 30), (90, 30), (28, 28), (30, 70)]
    return [(picture(i, *shapes[i % 4]), f"picture number {i} of {'noise ' * (i % 5)}".strip()) for i in range(count)]
