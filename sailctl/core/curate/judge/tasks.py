"""What a judge is asked about a sample, and what its answers make of it. Pure, but for the look-up of references.

quality     each caption against references (precision and recall, 1 to 10) or, without any, by its picture (1 to 5)
sft         each conversation, with its pictures: difficulty, complexity, relevance, 1 to 5
gsb         each caption beside a reference, by the picture, in both orders: +1 good, 0 same, -1 bad
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sailctl.core.curate.judge.opinions import item_of
from sailctl.core.curate.judge.pairs import caption_of
from sailctl.core.engines import rubrics
from sailctl.core.engines.judge import JudgeItem
from sailctl.core.records import Sample

TASKS = ("quality", "sft", "gsb")
MAX_REFERENCES = 3  # as the paper compares with
CHINESE = 0.2  # of the letters: more, and the rubric is asked in Chinese
_BOTH_ORDERS = ("candidate_first", "reference_first")
# Columns of verdicts by rubric; those before the bar are put together from what the judge said.
COLUMNS = {
    "caption_quality": ("quality", "precision", "recall"),
    "caption_marks": ("quality", "overall", "hallucination", "inaccuracy", "omission", "fluency"),
    "sft": ("difficulty", "complexity", "relevance"),
    "caption_gsb": ("preference", *_BOTH_ORDERS),
}
DERIVED = ("quality", "preference")


class Finder(Protocol):
    """Knows references; `pairs.References` is one."""

    def find(self, sample: Sample) -> str | None:
        """The reference of a sample."""
        ...


@dataclass(frozen=True)
class Case:
    """A sample as it is judged: the name of what is judged, its questions in the order of rounds, or why there are
    none."""

    item: str
    questions: tuple[JudgeItem, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class JudgeTask:
    """Which rubric, in which language (auto: that of the text judged), against which references."""

    name: str
    lang: str
    references: tuple[Finder, ...] = ()

    @property
    def rubric(self) -> str:
        """The rubric's name, which is that of its prompt."""
        if self.name == "quality":
            return "caption_quality" if self.references else "caption_marks"
        return {"sft": "sft", "gsb": "caption_gsb"}[self.name]

    @property
    def columns(self) -> tuple[str, ...]:
        """The scores of a verdict."""
        return COLUMNS[self.rubric]

    @property
    def criteria(self) -> tuple[str, ...]:
        """What opinions are given on."""
        if self.name == "gsb":
            return ("preference",)
        return tuple(name for name in self.columns if name not in DERIVED)

    @property
    def rounds(self) -> int:
        """Questions a sample."""
        return 2 if self.name == "gsb" else 1

    def versions(self) -> dict[str, str]:
        """The prompts that may be used, each with the hash of its text."""
        names = ("sft", "sft_text") if self.name == "sft" else (self.rubric,)
        langs = rubrics.LANGUAGES if self.lang == "auto" else (self.lang,)
        return {f"{name}.{lang}": rubrics.prompt_version(name, lang) for name in names for lang in langs}

    def case(self, key: str, sample: Sample) -> Case:
        """The questions about a sample; their keys are `key` and the round."""
        if self.name == "sft":
            item = item_of(sample.id)
            if sample.is_bare_caption or not any(turn.role == "user" for turn in sample.turns):
                return Case(item, reason="no_question")
            lang = self._language(" ".join(turn.text for turn in sample.turns))
            return Case(item, (rubrics.sft(f"{key}:0", sample.turns, sample.images, lang),))
        candidate = caption_of(sample)
        if not candidate:
            return Case(item_of(sample.id), reason="no_caption")
        lang = self._language(candidate)
        found = [text for one in self.references if (text := one.find(sample)) is not None]
        item = item_of(sample.id, candidate, *(found[:1] if self.name == "gsb" else ()))
        if self.references and not found:
            return Case(item, reason="no_reference")
        if self.rubric == "caption_quality":
            return Case(item, (rubrics.caption_quality(f"{key}:0", candidate, found[:MAX_REFERENCES], lang),))
        if not sample.images:
            return Case(item, reason="no_image")
        if self.rubric == "caption_marks":
            return Case(item, (rubrics.caption_marks(f"{key}:0", candidate, sample.images, lang),))
        ask = rubrics.caption_gsb
        return Case(
            item,
            (
                ask(f"{key}:0", candidate, found[0], sample.images, lang),
                ask(f"{key}:1", found[0], candidate, sample.images, lang),
            ),
        )

    def values(self, number: int, said: Any) -> dict[str, float]:
        """What the answer to question `number` says by criterion; a preference is told as of the candidate."""
        if self.name != "gsb":
            return {name: float(value) for name, value in said.items()}
        winner = {"first": 1, "same": 0, "second": -1}[said]
        return {"preference": float(winner if number == 0 else -winner)}

    def scores(self, values: Sequence[Mapping[str, float | None]]) -> dict[str, float] | None:
        """The columns of a verdict from the values of all rounds; None where one of them is missing."""
        read = [{name: value for name, value in one.items() if value is not None} for one in values]
        if len(read) < self.rounds or not all(read):
            return None
        if self.name == "gsb":
            orders = [one["preference"] for one in read]
            return {"preference": both_orders(*orders), **dict(zip(_BOTH_ORDERS, orders, strict=True))}
        if self.rubric == "caption_quality":
            return {"quality": rubrics.quality(read[0]), **read[0]}
        if self.rubric == "caption_marks":
            return {"quality": 20 * read[0]["overall"], **read[0]}
        return read[0]

    def _language(self, text: str) -> str:
        return rubric_language(text) if self.lang == "auto" else self.lang


def both_orders(candidate_first: float, reference_first: float) -> float:
    """The verdict of two orders: what both say; where they differ, the order spoke, and the captions are the same."""
    return candidate_first if candidate_first == reference_first else 0.0


def rubric_language(text: str) -> str:
    """ "zh" where a fifth of the letters or more are Chinese, else "en"."""
    chinese = len(re.findall(r"[\u3400-\u9fff]", text))
    letters = chinese + len(re.findall(r"[^\W\d_\u3400-\u9fff]", text))
    return "zh" if letters and chinese >= CHINESE * letters else "en"
