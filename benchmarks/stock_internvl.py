"""Stock transformers' InternVL answering one question at a time; runs wherever torch and transformers are.

Model, tokenizer and picture processor are transformers' own; what is here is what its InternVLProcessor does, which
cannot be loaded without torchvision: the chat template, and one run of image tokens for each picture.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoTokenizer, GotOcr2ImageProcessorPil


@dataclass(frozen=True)
class Said:
    """A greedy answer, why it ended, and tokens of prompt and answer."""

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int


class StockInternVL:
    """The model in a folder that `sailctl export --format transformers` wrote, in float32."""

    def __init__(self, folder: Path | str, device: str = "cpu") -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval().to(device)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.pictures = GotOcr2ImageProcessorPil.from_pretrained(folder)
        tokens = self.model.config.image_seq_length
        self._start, self._context, self._end = (
            getattr(self.tokenizer, f"{name}_image_token") for name in ("start", "context", "end")
        )
        self._tokens_per_tile = tokens

    @torch.inference_mode()
    def answer(self, content: Sequence[str | bytes], max_new_tokens: int, max_tiles: int | None = None) -> Said:
        """Answer a user's turn of texts and encoded pictures, with a KV cache, in a batch of one."""
        parts = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in content]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
        )
        shown: dict[str, Any] = {}
        if images := [Image.open(io.BytesIO(part)).convert("RGB") for part in content if isinstance(part, bytes)]:
            limit = {} if max_tiles is None else {"max_patches": max_tiles}
            processed = self.pictures(images, return_tensors="pt", **limit)
            shown["pixel_values"] = processed["pixel_values"].to(self.model.device)
            first, *others = text.split(self._context)
            for count, other in zip(processed["num_patches"].tolist(), others, strict=True):
                first += self._start + self._context * count * self._tokens_per_tile + self._end + other
            text = first
        inputs = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").to(self.model.device)
        length = inputs["input_ids"].shape[1]
        row = self.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            **shown,
        )[0, length:]
        stops = self.model.generation_config.eos_token_id
        ended = int(row[-1]) in (stops if isinstance(stops, list) else [stops])
        said = self.tokenizer.decode(row, skip_special_tokens=True).strip()
        return Said(said, "stop" if ended else "length", length, len(row))
