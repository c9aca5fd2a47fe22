"""What the tasks make of an answer: the conversation to train on, or the reason why the answer is of no use."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from sailctl.core.caption.prompts import TASKS
from sailctl.core.errors import UsageError
from sailctl.core.records import IMAGE_PLACEHOLDER, Turn

# Questions a transcription is trained with; the sample's id chooses. Descriptions need none: they are bare captions.
OCR_QUESTIONS = {
    "en": (
        "What does the text in this image say?",
        "Transcribe all text in the image.",
        "Read out the writing in this picture.",
        "Please copy the text shown in the image.",
    ),
    "zh": ("图中写了什么文字?", "请抄录图片中的所有文字。", "请读出这张图片里的文字。", "请写出图中的文字内容。"),
}
MAX_PAIRS = 20
_ASKS, _ANSWERS = "q|question|问题|问|問", "a|answer|答案|答|回答"
_MARK = re.compile(
    rf"^[\s>#*\-\d.)]*(?:({_ASKS})|({_ANSWERS}))\s*\d*\s*\**\s*[:\uff1a]\s*\**\s*(.*)$", re.IGNORECASE
)  # U+FF1A is the Chinese colon


class Unparsable(Exception):
    """An answer that is not in the form asked for."""


def parse_tasks(given: Iterable[str]) -> tuple[str, ...]:
    """Tasks from "detailed,ocr" and more of these, in the order of TASKS. Raises UsageError for an unknown one."""
    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    for name in names:
        if name not in TASKS:
            raise UsageError(f"--task {name}: unknown; known: {', '.join(TASKS)}")
    if not names:
        raise UsageError(f"--task is empty; name some of {', '.join(TASKS)}")
    return tuple(task for task in TASKS if task in names)


def clean(text: str) -> str:
    """An answer's text as it is kept: valid Unicode, no outer white space."""
    return text.encode("utf-8", "replace").decode().replace("\0", "").strip()


def turns_of(task: str, lang: str, text: str, sample_id: str, num_images: int) -> tuple[Turn, ...] | None:
    """The conversation an answer becomes, None for a bare caption. Raises Unparsable naming what was looked for."""
    shown = f"{IMAGE_PLACEHOLDER}\n" * num_images
    if task == "ocr":
        questions = OCR_QUESTIONS[lang]
        question = questions[int(sample_id[:16], 16) % len(questions)]
        return Turn("user", shown + question), Turn("assistant", text)
    if task != "qa":
        return None
    pairs = parse_pairs(text)
    if not pairs:
        raise Unparsable(f"no question with an answer (Q: … A: …) in {text[:120]!r}")
    turns = [
        turn for question, answer in pairs for turn in (Turn("user", question), Turn("assistant", answer))
    ]  # fmt: skip
    return Turn("user", shown + turns[0].text), *turns[1:]


def parse_pairs(text: str) -> list[tuple[str, str]]:
    """Questions with answers from `Q:` and `A:` lines (numbered, bold, Chinese too) or from JSON, without halves."""
    pairs = _from_json(text) or _from_lines(text)
    cleaned = [(question.replace(IMAGE_PLACEHOLDER, "").strip(), answer.strip()) for question, answer in pairs]
    return [pair for pair in cleaned if all(pair)][:MAX_PAIRS]


def _from_lines(text: str) -> list[tuple[str, str]]:
    pairs: list[list[list[str]]] = []  # lines of a question, lines of its answer
    for line in text.splitlines():
        match = _MARK.match(line)
        if match and match[1]:
            pairs.append([[match[3]], []])
        elif match and pairs:
            pairs[-1][1].append(match[3])
        elif pairs:
            pairs[-1][1 if pairs[-1][1] else 0].append(line)
    return [("\n".join(question), "\n".join(answer)) for question, answer in pairs]


def _from_json(text: str) -> list[tuple[str, str]]:
    begin, end = text.find("["), text.rfind("]")
    if begin < 0 or end < begin:
        return []
    try:
        items = json.loads(text[begin : end + 1])
    except (ValueError, RecursionError):
        return []
    pairs = []
    for item in items if isinstance(items, list) else []:
        if isinstance(item, dict):
            low = {str(name).lower(): value for name, value in item.items()}
            question, answer = low.get("question", low.get("q")), low.get("answer", low.get("a"))
            if isinstance(question, str) and isinstance(answer, str):
                pairs.append((question, answer))
    return pairs
