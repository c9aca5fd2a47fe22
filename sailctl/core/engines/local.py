"""The local model as an engine: requests in, completions out, in batches of similar length.

Tiling, templates and decoding happen here as in training; sampling itself is the model's (`core/model/vlm.py`).
"""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from sailctl.core import images
from sailctl.core.device import Device
from sailctl.core.errors import DataError, SampleError, UsageError
from sailctl.core.model.template import chat_template, encode_turns
from sailctl.core.model.tokenizer import stop_ids
from sailctl.core.model.vlm import VisionLanguageModel
from sailctl.core.records import IMAGE_PLACEHOLDER, Turn

MAX_IMAGE_PIXELS = 100_000_000  # a picture with more is a decompression bomb, not a question


@dataclass(frozen=True)
class Request:
    """One question: turns that end with the user's, its pictures, and how to answer.

    Pictures the turns show no `<image>` for are put before the first user turn. `max_tiles` None is the model's own;
    `seed` decides what is drawn above temperature 0.
    """

    turns: tuple[Turn, ...]
    images: tuple[Image.Image | bytes, ...]
    max_new_tokens: int
    temperature: float = 0.0
    max_tiles: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Completion:
    """An answer: its text, the ids drawn (with the stop token, if one was), the prompt's ids, all tiles shown.

    One that is not `ended` reached `max_new_tokens` without a stop token.
    """

    text: str
    token_ids: list[int]
    prompt_ids: list[int]
    num_tiles: int
    ended: bool


@dataclass(frozen=True)
class Prepared:
    """A request on its way: its prompt's ids, how many tiles it shows and, where they are cut already, the tiles."""

    request: Request
    prompt_ids: list[int]
    num_tiles: int
    tiles: torch.Tensor | None = None


class LocalEngine:
    """Greedy or sampled generation with a KV cache; batches hold up to `batch_size` requests of similar length."""

    def __init__(
        self, model: VisionLanguageModel, tokenizer: PreTrainedTokenizerFast, device: Device, *, batch_size: int = 64
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.device = device
        self.batch_size = batch_size
        self._template = chat_template(model.config.template, model.config.system)
        self._stops = stop_ids(tokenizer)
        self._cut: WeakValueDictionary[str, torch.Tensor] = WeakValueDictionary()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer every request, in the order given.

        Raises DataError naming the request for a picture that cannot be read or placeholders that match no picture,
        UsageError for a prompt longer than the model's positions.
        """
        return self.complete([self._named(index, request) for index, request in enumerate(requests)])

    def prepare(self, request: Request, *, cut: bool = False) -> Prepared:
        """Look at a request before it is answered; `cut` decodes its pictures and makes their tiles now.

        Raises SampleError for a picture that cannot be read or placeholders that match no picture, UsageError for a
        prompt longer than the model's positions.
        """
        config = self.model.config
        tiling = self._tiling(request.max_tiles)
        counts = [images.num_tiles(*_size(image), **tiling) for image in request.images]
        turns = _with_placeholders(request.turns, len(counts))
        prompt_ids, _ = encode_turns(
            self.tokenizer, self._template, turns, counts, config.tokens_per_tile, add_generation_prompt=True
        )
        limit = config.llm.max_position_embeddings
        if len(prompt_ids) + request.max_new_tokens > limit:
            raise UsageError(
                f"{len(prompt_ids)} prompt tokens + {request.max_new_tokens} new ones > {limit}, the model's longest "
                "text; ask for fewer, or show fewer tiles"
            )
        return Prepared(request, prompt_ids, sum(counts), self._tiles(request) if cut else None)

    def visual_tokens(self, sizes: Sequence[tuple[int, int]], max_tiles: int | None) -> int:
        """How many tokens pictures of such widths and heights become."""
        tiling = self._tiling(max_tiles)
        return self.model.config.tokens_per_tile * sum(images.num_tiles(*size, **tiling) for size in sizes)

    def complete(
        self, prepared: Sequence[Prepared], *, abandon: Callable[[], bool] = lambda: False
    ) -> list[Completion]:
        """Answer requests that were looked at, in the order given.

        When `abandon`, asked after every token, says so, answers end where they are.
        """
        order = sorted(range(len(prepared)), key=lambda index: _batch_key(prepared[index]))
        completions: list[Completion | None] = [None] * len(prepared)
        for _, same in itertools.groupby(order, key=lambda index: prepared[index].request.max_new_tokens):
            alike = list(same)
            for start in range(0, len(alike), self.batch_size):
                batch = alike[start : start + self.batch_size]
                answers = self._answer([prepared[index] for index in batch], abandon)
                for index, completion in zip(batch, answers, strict=True):
                    completions[index] = completion
        return [completion for completion in completions if completion is not None]

    def _named(self, index: int, request: Request) -> Prepared:
        try:
            return self.prepare(request)
        except SampleError as error:
            raise DataError(f"request {index}: {error}") from error
        except UsageError as error:
            raise UsageError(f"request {index}: {error}") from error

    def _answer(self, batch: list[Prepared], abandon: Callable[[], bool]) -> list[Completion]:
        rows = self.model.generate(
            [item.prompt_ids for item in batch],
            [self._shown(item) for item in batch],
            max_new_tokens=batch[0].request.max_new_tokens,
            temperature=[item.request.temperature for item in batch],
            eos_ids=self._stops,
            seed=[item.request.seed for item in batch],
            abandon=abandon,
        )
        texts = [str(self.tokenizer.decode(row, skip_special_tokens=True)).strip() for row in rows]
        return [
            Completion(text, row, item.prompt_ids, item.num_tiles, row[-1] in self._stops)
            for text, row, item in zip(texts, rows, batch, strict=True)
        ]

    def _shown(self, item: Prepared) -> torch.Tensor | None:
        try:
            return self._tiles(item.request) if item.tiles is None else item.tiles
        except SampleError as error:
            raise DataError(f"picture: {error}") from error

    def _tiles(self, request: Request) -> torch.Tensor | None:
        """A request's tiles; one tensor for all requests in hand that show the same pictures, to be encoded once."""
        if not request.images:
            return None
        tiling = self._tiling(request.max_tiles)
        key = _digest(request.images, tiling["max_tiles"])
        if (tiles := self._cut.get(key)) is None:
            tiles = torch.cat(
                [torch.from_numpy(images.tile(_picture(image), **tiling)) for image in request.images]
            )  # fmt: skip
            self._cut[key] = tiles
        return tiles

    def _tiling(self, max_tiles: int | None) -> dict[str, Any]:
        config = self.model.config
        most = max_tiles or config.max_tiles
        return {
            "tile_size": config.vision.image_size,
            "min_tiles": min(config.min_tiles, most),
            "max_tiles": most,
            "thumbnail": config.thumbnail,
        }


def _batch_key(item: Prepared) -> tuple[int, int]:
    return item.request.max_new_tokens, len(item.prompt_ids)


def _with_placeholders(turns: tuple[Turn, ...], num_images: int) -> tuple[Turn, ...]:
    """Put `<image>` lines before the first user turn where a conversation with pictures shows none."""
    shown = any(IMAGE_PLACEHOLDER in turn.text for turn in turns if turn.role == "user")
    if shown or not num_images:
        return turns
    first = next((index for index, turn in enumerate(turns) if turn.role == "user"), 0)
    text = f"{IMAGE_PLACEHOLDER}\n" * num_images + turns[first].text
    return (*turns[:first], Turn("user", text), *turns[first + 1 :])


def _digest(pictures: tuple[Image.Image | bytes, ...], max_tiles: int) -> str:
    digest = hashlib.blake2b(str(max_tiles).encode(), digest_size=16)
    for picture in pictures:
        data = (
            picture if isinstance(picture, bytes) else repr((picture.mode, picture.size)).encode() + picture.tobytes()
        )
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _size(image: Image.Image | bytes) -> tuple[int, int]:
    return image.size if isinstance(image, Image.Image) else images.image_size(image)


def _picture(image: Image.Image | bytes) -> Image.Image:
    """An RGB picture; what is not one yet goes through the one decoder, which knows alpha, palettes and depths."""
    if isinstance(image, Image.Image):
        if image.mode == "RGB":
            return image
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", compress_level=0)
        image = buffer.getvalue()
    return images.decode(image, max_pixels=MAX_IMAGE_PIXELS)
