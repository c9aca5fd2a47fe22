"""The suite `synth`: held-out synthetic questions of ten tasks, how each is asked and how its answers are scored.

Items come from `core/data/synth` (split "heldout", its three levels in equal parts) and are a pure function of
(task, seed, index): a larger `samples` extends a smaller one. The overall score is the flat mean of the tasks.
Generating answers and keeping books is `run.py`'s business.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from sailctl.core.metrics import anls, element_f1, exact_match
from sailctl.core.records import IMAGE_PLACEHOLDER

Metric = Literal["accuracy", "anls", "element_f1"]
LEVELS = (1, 2, 3)
GREY = (128, 128, 128)
MAX_PARTNERS = 64  # other items whose answers stand in for guesses; more would only narrow a known mean


@dataclass(frozen=True, slots=True)
class Task:
    """One task of the suite: its name in `core/data/synth`, its metric, and the longest answer it allows."""

    name: str
    metric: Metric
    max_new_tokens: int


# Limits are generous: in characters, the longest answers of the generator are 40 (ocr_text) and 200 (caption).
TASKS = (
    Task("closed_vqa", "accuracy", 16),
    Task("open_vqa", "accuracy", 16),
    Task("document_vqa", "anls", 24),
    Task("math", "accuracy", 16),
    Task("text_qa", "accuracy", 16),
    Task("ocr_word", "anls", 24),
    Task("ocr_word_unseen", "anls", 24),
    Task("ocr_text", "anls", 96),
    Task("caption", "element_f1", 128),
    Task("chart", "accuracy", 16),
)


@dataclass(frozen=True, slots=True)
class Item:
    """One question. `image` is PNG bytes, None for text alone; `kind` names the form of question within the task."""

    task: str
    index: int
    level: int
    kind: str
    question: str
    answer: str
    references: tuple[str, ...]
    options: tuple[str, ...]
    elements: tuple[str, ...]
    image: bytes | None

    @property
    def prompt(self) -> str:
        """The user's turn, as in the training data: the placeholder, a line end, the question."""
        return self.question if self.image is None else f"{IMAGE_PLACEHOLDER}\n{self.question}"

    @property
    def image_name(self) -> str | None:
        """The image's file name, content-addressed."""
        return None if self.image is None else hashlib.sha256(self.image).hexdigest()[:24] + ".png"


def load_items(task: Task, samples: int, seed: int) -> list[Item]:
    """The first `samples` held-out items of a task."""
    from sailctl.core.data.synth import generate

    items = []
    for index in range(samples):
        level = LEVELS[index % len(LEVELS)]
        made = generate(task.name, level, seed, index, "heldout")
        image = None if made.image is None else _png(made.image)
        items.append(
            Item(
                task=task.name,
                index=index,
                level=level,
                kind=made.kind,
                question=made.question,
                answer=made.answer,
                references=tuple(made.references) or (made.answer,),
                options=tuple(made.options),
                elements=tuple(made.elements),
                image=image,
            )
        )
    return items


def universe(items: Sequence[Item]) -> frozenset[str]:
    """What a caption could have claimed: every colour with every shape of the generator, and what the items show."""
    from sailctl.core.data.synth.words import COLORS, SHAPES

    possible = {f"{color} {shape}" for color in COLORS for shape in SHAPES}
    return frozenset(possible | {element for item in items for element in item.elements})


def scorer(task: Task, items: Sequence[Item]) -> Callable[[str, Item], float]:
    """The task's metric as a function of (prediction, item), 0 to 1."""
    if task.metric == "element_f1":
        possible = universe(items)
        return lambda prediction, item: element_f1(prediction, item.elements, possible)
    metric = exact_match if task.metric == "accuracy" else anls
    return lambda prediction, item: metric(prediction, item.references)


def chance(task: Task, items: Sequence[Item]) -> list[float]:
    """Expected score of each item when it is answered without looking: (N,) floats, 0 to 1.

    Where options are given, the guess is uniform over them. Otherwise it is the answer of another item of the same
    kind and level (of the same kind, or of any, where there is no nearer one): a guesser who knows what such answers
    look like.
    """
    score = scorer(task, items)
    expected = []
    for item in items:
        guesses = list(item.options) or [partner.answer for partner in _partners(item, items)]
        expected.append(sum(score(guess, item) for guess in guesses) / len(guesses) if guesses else 0.0)
    return expected


def grey(image: bytes) -> bytes:
    """A uniform grey PNG of the same size: what the blind model is shown."""
    with Image.open(io.BytesIO(image)) as picture:
        return _png(Image.new("RGB", picture.size, GREY))


def _partners(item: Item, items: Sequence[Item]) -> list[Item]:
    others = [other for other in items if other.index != item.index]
    same_kind = [other for other in others if other.kind == item.kind]
    same_level = [other for other in same_kind if other.level == item.level]
    pool = same_level or same_kind or others
    stride = -(-len(pool) // MAX_PARTNERS)  # spread over the pool, so that no choice of seed is needed
    return pool[:: max(1, stride)]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
