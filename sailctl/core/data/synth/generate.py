"""One item of any task: a pure function of task, level, seed, index and split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sailctl.core.data.synth import arithmetic, charts, documents, questions, reading, scenes, writing
from sailctl.core.data.synth.item import LEVELS, NATIVE_SIZE, TASKS, Brief, Draw, Language, Split, SynthItem
from sailctl.core.errors import UsageError

CHINESE_TASKS = ("caption", "ocr_word", "ocr_word_unseen")
MAX_SIZE = 4096  # px

_BUILDERS: dict[str, Callable[[Brief, Draw], SynthItem]] = {
    "caption": scenes.caption,
    "region": scenes.region,
    "ocr_word": writing.ocr_word,
    "ocr_word_unseen": writing.ocr_word,
    "ocr_code": writing.ocr_code,
    "ocr_text": writing.ocr_text,
    "chart": charts.chart,
    "closed_vqa": questions.closed_vqa,
    "open_vqa": questions.open_vqa,
    "document_vqa": documents.document_vqa,
    "math": arithmetic.math_question,
    "text_qa": reading.text_qa,
}


def generate(
    task: str,
    level: int,
    seed: int,
    index: int,
    split: Split,
    *,
    font: str | Path | None = None,
    size: int = NATIVE_SIZE,
    lang: Language = "en",
) -> SynthItem:
    """One question, its answer and its picture (RGB, `size` x `size` pixels; None for text QA).

    The same arguments give the same item; `size` and `font` change the drawing and never the content. Raises UsageError
    for an unknown task, level, split or language, for `ocr_word_unseen` in the train split, and for a font without the
    glyphs.
    """
    check(task, level, split, size, lang)
    brief = Brief(task, level, split, size, None if font is None else str(font), lang)
    return _BUILDERS[task](brief, Draw("synth-1", lang, task, level, seed, index, split))


def check(task: str, level: int, split: str, size: int = NATIVE_SIZE, lang: str = "en") -> None:
    """Raise UsageError naming the first argument that no item can be made of."""
    if task not in TASKS:
        raise UsageError(f"unknown synth task {task!r}; known: {', '.join(TASKS)}")
    if level not in LEVELS:
        raise UsageError(f"synth level {level} does not exist; levels are 1, 2 and 3")
    if split not in ("train", "heldout"):
        raise UsageError(f"unknown synth split {split!r}; use train or heldout")
    if task == "ocr_word_unseen" and split == "train":
        raise UsageError("synth task 'ocr_word_unseen' shows held-out words, so it exists in the heldout split only")
    if not NATIVE_SIZE // 2 <= size <= MAX_SIZE:
        raise UsageError(
            f"synth pictures of {size} px cannot be made; give a size from {NATIVE_SIZE // 2} to {MAX_SIZE}"
        )
    if lang not in ("en", "zh"):
        raise UsageError(f"unknown synth language {lang!r}; use en or zh")
    if lang == "zh" and task not in CHINESE_TASKS:
        raise UsageError(f"synth task {task!r} has no Chinese templates; with zh use {', '.join(CHINESE_TASKS)}")
