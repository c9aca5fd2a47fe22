"""Questions for a judge, with the parsers of their answers; their texts are files in `prompts/`."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib import resources

from sailctl.core.engines import parse
from sailctl.core.engines.judge import JudgeItem
from sailctl.core.errors import UsageError
from sailctl.core.records import IMAGE_PLACEHOLDER, Turn

LANGUAGES = ("en", "zh")
_QUALITY = {
    "precision": ("准确程度", "精确率", "精确度", "准确率", "准确度"),
    "recall": ("完整程度", "召回率", "召回"),
}
_TAG = re.compile(r"</?(?:candidate|reference)[^>]*>", re.IGNORECASE)


def caption_quality(key: str, candidate: str, references: Sequence[str], lang: str = "en") -> JudgeItem:
    """How good a caption is against one or more references: {"precision": 1 to 10, "recall": 1 to 10}.

    What the SAIL-VL paper asks its judge (appendices D and E), in words of our own. Raises UsageError for another
    language or no reference.
    """
    if lang not in LANGUAGES:
        raise UsageError(f"caption quality in {lang!r}: no such rubric; known: {', '.join(LANGUAGES)}")
    if not references:
        raise UsageError(f"caption quality of {key}: no reference to judge against")
    template, version = _prompt(f"caption_quality.{lang}.txt")
    told = "\n\n".join(f"<reference>\n{_quoted(text)}\n</reference>" for text in references)
    values = {"references": told, "candidate": _quoted(candidate)}
    # in one pass, so that a brace in a caption stays one
    question = re.sub(r"\{(references|candidate)\}", lambda match: values[match[1]], template)
    return JudgeItem(key, (Turn("user", question),), parse_quality, version=version)


def parse_quality(text: str) -> dict[str, float] | None:
    """Precision and recall as a judge of `caption_quality` gives them."""
    return parse.scores(text, _QUALITY)


def quality(scores: Mapping[str, float]) -> float:
    """0 to 100: the mean of precision and recall, tenfold. The paper rescales without saying how; this is ours."""
    return 10 * (scores["precision"] + scores["recall"]) / 2


@functools.cache
def _prompt(name: str) -> tuple[str, str]:
    """A prompt's text and its version, which is its hash."""
    text = resources.files("sailctl.core.engines").joinpath("prompts", name).read_text(encoding="utf-8").strip()
    return text, hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _quoted(text: str) -> str:
    """Text from data inside tags: it can neither close them nor show a picture."""
    return _TAG.sub(" ", text).replace(IMAGE_PLACEHOLDER, " ").strip()
