"""What the generator yields, what it is told, and where its choices come from. Nothing here draws."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")
Split = Literal["train", "heldout"]
Language = Literal["en", "zh"]

TASKS = (
    "caption",
    "region",
    "ocr_word",
    "ocr_word_unseen",
    "ocr_code",
    "ocr_text",
    "chart",
    "closed_vqa",
    "open_vqa",
    "document_vqa",
    "math",
    "text_qa",
)
LEVELS = (1, 2, 3)
NATIVE_SIZE = 112  # px; every position below is in native pixels and scaled when drawn


@dataclass(frozen=True, slots=True)
class SynthItem:
    """One picture (None for text QA), its question and its answer.

    `question` holds no image placeholder. `options` is empty for open questions, else the answers the question offers,
    all equally likely. `references` are the accepted answers, the given one first. `elements` are the visual elements a
    caption should name, such as "red circle". `kind` groups items whose questions ask for the same sort of answer.
    `preface` is a description of the same picture as (question, answer), empty where there is none.
    """

    image: Image.Image | None
    question: str
    answer: str
    references: tuple[str, ...]
    options: tuple[str, ...]
    elements: tuple[str, ...]
    task: str
    level: int
    kind: str
    preface: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Brief:
    """What one item is asked to be; `size` in pixels, `font` a font file or None for Pillow's embedded one."""

    task: str
    level: int
    split: Split
    size: int = NATIVE_SIZE
    font: str | None = None
    lang: Language = "en"


class Draw:
    """A stream of choices, a pure function of `parts`.

    Built on `random.Random.random()`, the one method whose sequence Python promises to keep.
    """

    def __init__(self, *parts: object) -> None:
        digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
        self._next = random.Random(int.from_bytes(digest, "little")).random

    def below(self, n: int) -> int:
        """An integer in 0..n-1."""
        return int(self._next() * n)

    def integer(self, low: int, high: int) -> int:
        """An integer in low..high, both included."""
        return low + int(self._next() * (high - low + 1))

    def choice(self, items: Sequence[T]) -> T:
        """One of the items, all equally likely."""
        return items[int(self._next() * len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items in random order."""
        pool = list(items)
        for position in range(count):
            other = position + int(self._next() * (len(pool) - position))
            pool[position], pool[other] = pool[other], pool[position]
        return pool[:count]

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self._next() < probability
