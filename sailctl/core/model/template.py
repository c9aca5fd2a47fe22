"""Chat templates: turns to text and markers, and to token ids with the supervised ones marked.

Only an assistant's text and its closing `<|im_end|>` are supervised. Markers are written by id; what people wrote is
tokenised with special tokens split, so that a literal `<|im_end|>` or `<IMG_CONTEXT>` in data stays ordinary text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sailctl.core.errors import CheckpointError, SampleError
from sailctl.core.records import IMAGE_PLACEHOLDER, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IM_START, IM_END = "<|im_start|>", "<|im_end|>"
IMG_START, IMG_END, IMG_CONTEXT = "<img>", "</img>", "<IMG_CONTEXT>"
MARKERS = (IM_START, IM_END, IMG_START, IMG_END, IMG_CONTEXT)


@dataclass(frozen=True)
class ChatTemplate:
    """ChatML roles. `separator` follows each `<|im_end|>`; `system` is said first where a conversation brings none."""

    name: str
    system: str
    separator: str


@dataclass(frozen=True)
class Segment:
    """A piece of a rendered conversation; a marker's text is one of `MARKERS` and stands `repeat` times."""

    text: str
    supervised: bool = False
    marker: bool = False
    repeat: int = 1


# The system texts are those of the public configurations; a model's own `system` goes before them.
_INTERNVL_SYSTEM = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)
_QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
_INTERNVL = ChatTemplate("internvl2_5", _INTERNVL_SYSTEM, "\n")
_SAIL_SYSTEM = "你是由抖音内容理解组开发的多模态大模型，英文名叫UniVL, 是一个有用无害的人工智能助手。"
TEMPLATES: dict[str, ChatTemplate] = {
    "sail": ChatTemplate("sail", "", ""),
    "sailvl-chat": ChatTemplate("sailvl-chat", _SAIL_SYSTEM, ""),  # the name in released configs
    "internvl2_5": _INTERNVL,
    "internvl3": _INTERNVL,
    "qwen2": ChatTemplate("qwen2", _QWEN_SYSTEM, "\n"),
}


def chat_template(name: str, system: str | None = None) -> ChatTemplate:
    """The template of a name, with its system text replaced unless `system` is None; CheckpointError if unknown."""
    if name not in TEMPLATES:
        raise CheckpointError(f"chat template {name!r} is unknown; known: {', '.join(sorted(TEMPLATES))}")
    found = TEMPLATES[name]
    return found if system is None else ChatTemplate(found.name, system, found.separator)


def render(
    turns: Sequence[Turn],
    num_tiles_per_image: Sequence[int],
    tokens_per_tile: int,
    template: ChatTemplate,
    *,
    add_generation_prompt: bool = False,
) -> list[Segment]:
    """A conversation as segments; the n-th `<image>` of the user's turns becomes the n-th image's visual tokens.

    Raises SampleError("placeholder_mismatch") naming both numbers.
    """
    placeholders = sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in turns if turn.role == "user")
    if placeholders != len(num_tiles_per_image):
        raise SampleError(
            "placeholder_mismatch",
            f"{placeholders} {IMAGE_PLACEHOLDER} placeholders ≠ {len(num_tiles_per_image)} images",
        )
    if template.system and not (turns and turns[0].role == "system"):
        turns = (Turn("system", template.system), *turns)
    images = iter(num_tiles_per_image)
    segments: list[Segment] = []
    for turn in turns:
        answer = turn.role == "assistant"
        segments.append(Segment(IM_START, marker=True))
        if answer:
            segments += [Segment("assistant\n"), Segment(turn.text, supervised=True)]
        else:
            # a role's line and what follows it are one text: a tokenizer may join across the line's end
            first, *others = turn.text.split(IMAGE_PLACEHOLDER) if turn.role == "user" else [turn.text]
            segments.append(Segment(f"{turn.role}\n{first}"))
            for text in others:
                visual_tokens = next(images) * tokens_per_tile
                segments += [
                    Segment(IMG_START, marker=True),
                    Segment(IMG_CONTEXT, marker=True, repeat=visual_tokens),
                    Segment(IMG_END, marker=True),
                    Segment(text),
                ]
        segments += [Segment(IM_END, supervised=answer, marker=True), Segment(template.separator)]
    if add_generation_prompt:
        segments += [Segment(IM_START, marker=True), Segment("assistant\n")]
    return [segment for segment in segments if segment.text]


def encode_turns(
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    turns: Sequence[Turn],
    num_tiles: Sequence[int],
    tokens_per_tile: int,
    add_generation_prompt: bool = False,
) -> tuple[list[int], list[bool]]:
    """Token ids of a conversation, and for each whether it is supervised."""
    segments = render(turns, num_tiles, tokens_per_tile, template, add_generation_prompt=add_generation_prompt)
    texts = [segment.text for segment in segments if not segment.marker]
    pieces = iter(
        tokenizer(texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False)["input_ids"]
    )
    input_ids: list[int] = []
    supervised: list[bool] = []
    for segment in segments:
        ids: list[int] = _marker_id(tokenizer, segment.text) * segment.repeat if segment.marker else next(pieces)
        input_ids += ids
        supervised += [segment.supervised] * len(ids)
    return input_ids, supervised


def _marker_id(tokenizer: PreTrainedTokenizerFast, marker: str) -> list[int]:
    found = tokenizer.convert_tokens_to_ids(marker)
    if not isinstance(found, int) or found == tokenizer.unk_token_id:
        raise CheckpointError(f"the tokenizer has no {marker}; load it with load_tokenizer and add_markers")
    return [found]
