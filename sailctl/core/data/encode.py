"""From a Sample to token ids and tiles: prompts for bare captions, placeholders, tiling, the rule for what is too long.

Shapes: T tokens, I tiles, S pixels along a tile's side. Runs in worker processes; needs a tokenizer and no model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sailctl.core import images
from sailctl.core.data.packing import Encoded
from sailctl.core.errors import SampleError, UsageError
from sailctl.core.model.template import IMG_START, chat_template, encode_turns
from sailctl.core.records import IMAGE_PLACEHOLDER, Sample, Turn
from sailctl.core.schema.data import DataConfig
from sailctl.core.schema.model import ModelConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Questions for bare captions. The sample's id chooses the first one; every epoch over the source asks the next.
PROMPTS_EN = (
    "Describe this image in detail.",
    "What do you see in this picture?",
    "Write a detailed caption for this image.",
    "Please give a thorough description of the picture.",
    "Explain what is shown in the image.",
    "Tell me everything you can see here.",
    "Provide a full account of the content of this image.",
    "What is in this image? Describe it carefully.",
)
PROMPTS_ZH = (
    "请详细描述这张图片。",
    "这张图片里有什么?",
    "请为这张图片写一段详细的说明。",
    "请仔细描述图中的内容。",
    "你在图中看到了什么?请具体说明。",
    "请完整地介绍这幅画面。",
    "图片展示了什么内容?请详细回答。",
    "请用文字描述这张图。",
)


class SampleEncoder(Protocol):
    """What the loader needs of an encoder; `Encoder` is the one for training."""

    @property
    def tile_size(self) -> int: ...

    def encode(self, sample: Sample, epoch: int = 0) -> Encoded: ...

    def measure(self, sample: Sample) -> tuple[int, int, int]: ...


def is_mostly_chinese(text: str) -> bool:
    """Whether more than half of the letters are Chinese characters."""
    letters = [character for character in text if character.isalpha()]
    chinese = sum("\u3400" <= character <= "\u9fff" for character in letters)
    return chinese * 2 > len(letters)


def caption_prompt(sample_id: str, caption: str, epoch: int = 0) -> str:
    """The question put before a bare caption, in the caption's language.

    Another one each epoch: a sample that only ever heard one question would be known by it, not by its picture.
    """
    prompts = PROMPTS_ZH if is_mostly_chinese(caption) else PROMPTS_EN
    return prompts[(int(sample_id[:16], 16) + epoch) % len(prompts)]


def full_turns(sample: Sample, epoch: int = 0) -> tuple[Turn, ...]:
    """A sample's turns with one placeholder per image: a bare caption gets its question, a lone picture its place.

    Raises SampleError "placeholder_mismatch" naming both numbers, "no_image" for a bare caption without a picture.
    """
    count = len(sample.images)
    if sample.is_bare_caption:
        if not count:
            raise SampleError("no_image", "a caption without a picture, and without a question")
        question = f"{IMAGE_PLACEHOLDER}\n" * count + caption_prompt(sample.id, sample.turns[0].text, epoch)
        return (Turn("user", question), *sample.turns)
    placeholders = sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in sample.turns if turn.role == "user")
    if placeholders == count:
        return sample.turns
    if placeholders == 0 and count == 1:
        first = next(number for number, turn in enumerate(sample.turns) if turn.role == "user")
        pictured = replace(sample.turns[first], text=f"{IMAGE_PLACEHOLDER}\n{sample.turns[first].text}")
        return (*sample.turns[:first], pictured, *sample.turns[first + 1 :])
    raise SampleError("placeholder_mismatch", f"{placeholders} {IMAGE_PLACEHOLDER} placeholders ≠ {count} images")


class Encoder:
    """Samples to Encoded ones, under the caps of `data.pack_tokens` and `data.pack_tiles`."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, model: ModelConfig, data: DataConfig) -> None:
        if data.min_tiles > data.max_tiles:
            raise UsageError(f"data.min_tiles {data.min_tiles} > data.max_tiles {data.max_tiles}; lower the first")
        if data.min_tiles > data.pack_tiles:
            raise UsageError(
                f"data.min_tiles {data.min_tiles} > data.pack_tiles {data.pack_tiles}; no picture would fit"
            )
        self.tokenizer = tokenizer
        self.tile_size = model.vision.image_size
        self.model = model
        self.data = data
        self.template = chat_template(model.template, model.system)
        self.image_start_id = tokenizer.convert_tokens_to_ids(IMG_START)

    def encode(self, sample: Sample, epoch: int = 0) -> Encoded:
        """Token ids, supervision and tiles of a sample, met in its source's `epoch`.

        Too long a sample is cut at its end, never inside a picture's tokens (pictures behind the cut go with it), as
        long as something supervised stays; otherwise, and always with `overlong: reject`, it raises SampleError
        "too_long" naming both numbers. Raises SampleError for bad images and mismatched placeholders, too.
        """
        turns = full_turns(sample, epoch)
        size = self.tile_size
        tiles = [
            images.tile(
                images.decode(data, max_pixels=self.data.max_image_pixels),
                tile_size=size,
                min_tiles=self.data.min_tiles,
                max_tiles=self.data.max_tiles,
                thumbnail=self.data.thumbnail,
            )
            for data in sample.images
        ]
        counts = [len(of_image) for of_image in tiles]
        input_ids, supervised = self._tokens(turns, counts)
        length, kept = self._fit(input_ids, supervised, counts)
        stacked = (
            tiles[0] if kept == 1 else np.concatenate(tiles[:kept]) if kept else np.empty((0, 3, size, size), "u1")
        )
        return Encoded(
            id=sample.id,
            key=sample.key,
            source=sample.source,
            input_ids=input_ids[:length],
            supervised=supervised[:length],
            tiles=stacked,
            truncated=length < len(input_ids),
        )

    def measure(self, sample: Sample) -> tuple[int, int, int]:
        """Tokens, tiles and supervised tokens `encode` would give, by the pictures' headers. Raises SampleError."""
        counts = [
            images.num_tiles(
                *images.image_size(data),
                tile_size=self.tile_size,
                min_tiles=self.data.min_tiles,
                max_tiles=self.data.max_tiles,
                thumbnail=self.data.thumbnail,
            )
            for data in sample.images
        ]
        input_ids, supervised = self._tokens(full_turns(sample), counts)
        length, kept = self._fit(input_ids, supervised, counts)
        return length, sum(counts[:kept]), int(np.count_nonzero(supervised[1:length]))

    def _tokens(self, turns: tuple[Turn, ...], num_tiles: list[int]) -> tuple[np.ndarray, np.ndarray]:
        tokens = self.model.tokens_per_tile
        input_ids, supervised = encode_turns(self.tokenizer, self.template, turns, num_tiles, tokens)
        return np.array(input_ids, dtype=np.int32), np.array(supervised, dtype=bool)

    def _fit(self, input_ids: np.ndarray, supervised: np.ndarray, num_tiles: list[int]) -> tuple[int, int]:
        """Tokens and images to keep."""
        limit, total = self.data.pack_tokens, len(input_ids)
        length, kept = total, len(num_tiles)
        if total > limit:
            message = f"{total} tokens > data.pack_tokens {limit}"
            if self.data.overlong == "reject":
                raise SampleError("too_long", f"{message}; overlong samples are rejected")
            length = limit
            # a picture is <img>, its visual tokens, </img>; it stays whole or goes
            starts = np.flatnonzero(input_ids == self.image_start_id)
            ends = starts + 2 + np.array(num_tiles, dtype=np.int64) * self.model.tokens_per_tile
            if len(cut := np.flatnonzero(ends > length)):
                length, kept = min(length, int(starts[cut[0]])), int(cut[0])
            if not supervised[1:length].any():
                raise SampleError("too_long", f"{message}, and nothing supervised would be left after cutting")
        if sum(num_tiles[:kept]) > self.data.pack_tiles:
            raise SampleError("too_long", f"{sum(num_tiles[:kept])} tiles > data.pack_tiles {self.data.pack_tiles}")
        return length, kept
