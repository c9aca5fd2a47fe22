"""Questions for a judge, with the parsers of their answers; their texts are files in `prompts/`."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

from sailctl.core.engines import parse
from sailctl.core.engines.judge import JudgeItem
from sailctl.core.errors import UsageError
from sailctl.core.records import IMAGE_PLACEHOLDER, Turn

LANGUAGES = ("en", "zh")
_QUALITY = {
    "precision": ("准确程度", "精确率", "精确度", "准确率", "准确度"),
    "recall": ("完整程度", "召回率", "召回"),
}
# Scales of 1 to 5, higher being better (marks) or more (sft); the paper calls difficulty "challenging".
_MARKS = {
    "hallucination": ("幻觉",),
    "inaccuracy": ("失准", "不准确"),
    "omission": ("遗漏",),
    "fluency": ("language fluency", "流畅度", "流畅"),
    "overall": ("overall score", "总体评价", "总体"),
}
_SFT = {
    "difficulty": ("challenging score", "challenging", "难度"),
    "complexity": ("complexity score", "复杂程度", "复杂度"),
    "relevance": ("relevance score", "相关程度", "相关性"),
}
_TAG = re.compile(r"</?(?:candidate|reference|conversation|caption_[12])[^>]*>", re.IGNORECASE)


def caption_quality(key: str, candidate: str, references: Sequence[str], lang: str = "en") -> JudgeItem:
    """How good a caption is against one or more references: {"precision": 1 to 10, "recall": 1 to 10}.

    What the SAIL-VL paper asks its judge (appendices D and E), in words of our own. Raises UsageError for another
    language or no reference.
    """
    if not references:
        raise UsageError(f"caption quality of {key}: no reference to judge against")
    told = "\n\n".join(f"<reference>\n{_quoted(text)}\n</reference>" for text in references)
    return _item(key, "caption_quality", lang, parse_quality, references=told, candidate=_quoted(candidate))


def parse_quality(text: str) -> dict[str, float] | None:
    """Precision and recall as a judge of `caption_quality` gives them."""
    return parse.scores(text, _QUALITY)


def quality(scores: Mapping[str, float]) -> float:
    """0 to 100: the mean of precision and recall, tenfold. The paper rescales without saying how; this is ours."""
    return 10 * (scores["precision"] + scores["recall"]) / 2


def caption_marks(key: str, candidate: str, images: Sequence[bytes], lang: str = "en") -> JudgeItem:
    """How good a caption of pictures is: hallucination, inaccuracy, omission, fluency and overall, each 1 to 5 (best).

    What the paper asks people (appendix D). Raises UsageError for another language.
    """
    return _item(key, "caption_marks", lang, parse_marks, images, candidate=_quoted(candidate))


def parse_marks(text: str) -> dict[str, float] | None:
    """The five marks as a judge of `caption_marks` gives them."""
    return parse.scores(text, _MARKS, 1, 5)


def caption_gsb(key: str, first: str, second: str, images: Sequence[bytes], lang: str = "en") -> JudgeItem:
    """Which of two captions of pictures is better: "first", "second" or "same"; asked of both orders by whoever asks.

    The paper's Good-Same-Bad (appendix D). Raises UsageError for another language.
    """
    return _item(key, "caption_gsb", lang, parse.preference, images, first=_quoted(first), second=_quoted(second))


def sft(key: str, turns: Sequence[Turn], images: Sequence[bytes], lang: str = "en") -> JudgeItem:
    """What a conversation is like as training data: difficulty, complexity and, with pictures, relevance, 1 to 5.

    The paper's appendix F. Raises UsageError for another language.
    """
    told = "\n\n".join(f"[{turn.role}]\n{_quoted(turn.text)}" for turn in turns)
    if images:
        return _item(key, "sft", lang, parse_sft, images, conversation=told)
    return _item(key, "sft_text", lang, parse_sft_text, conversation=told)


def parse_sft(text: str) -> dict[str, float] | None:
    """The three scores as a judge of `sft` gives them."""
    return parse.scores(text, _SFT, 1, 5)


def parse_sft_text(text: str) -> dict[str, float] | None:
    """The two scores of a conversation without pictures."""
    return parse.scores(text, {name: _SFT[name] for name in ("difficulty", "complexity")}, 1, 5)


def prompt_version(rubric: str, lang: str) -> str:
    """The hash by which a rubric's text is known: caption_quality, caption_marks, caption_gsb, sft or sft_text."""
    return _prompt(f"{rubric}.{lang}.txt")[1]


def _item(
    key: str,
    rubric: str,
    lang: str,
    read: Callable[[str], Any | None],
    images: Sequence[bytes] = (),
    **values: str,
) -> JudgeItem:
    if lang not in LANGUAGES:
        raise UsageError(f"{rubric.replace('_', ' ')} in {lang!r}: no such rubric; known: {', '.join(LANGUAGES)}")
    template, version = _prompt(f"{rubric}.{lang}.txt")
    # in one pass, so that a brace in a text stays one
    question = re.sub(rf"\{{({'|'.join(values)})\}}", lambda match: values[match[1]], template)
    return JudgeItem(key, (Turn("user", question),), read, tuple(images), version)


@functools.cache
def _prompt(name: str) -> tuple[str, str]:
    """A prompt's text and its version, which is its hash."""
    text = resources.files("sailctl.core.engines").joinpath("prompts", name).read_text(encoding="utf-8").strip()
    return text, hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _quoted(text: str) -> str:
    """Text from data inside tags: it can neither close them nor show a picture."""
    return _TAG.sub(" ", text).replace(IMAGE_PLACEHOLDER, " ").strip()
