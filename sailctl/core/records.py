"""The rows that travel through the house: samples, verdicts, scores. No tensors, no I/O."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]
IMAGE_PLACEHOLDER = "<image>"

# Why a sample was refused; one word a reason, so that counts per reason can be added up over runs.
REJECT_REASONS = (
    "unreadable",  # the member or row cannot be read: truncated tar, I/O error
    "no_image",  # an image is announced but absent
    "bad_image",  # bytes that no decoder accepts, or that end early
    "image_too_large",  # more pixels than allowed: a decompression bomb, or a header that lies
    "bad_json",  # not JSON, or not an object
    "no_turns",  # neither a conversation nor a caption
    "bad_turns",  # roles do not alternate, unknown role, text that is no string
    "no_answer",  # nothing to supervise
    "placeholder_mismatch",  # number of <image> placeholders is not the number of images
    "too_long",  # longer than a pack and not truncatable under the recipe's rule
    "unsafe_path",  # an image path that leaves its folder
    "verdict_mismatch",  # a sample stands where another one was judged
    "caption_mismatch",  # a caption made for another sample than the one that stands in its place now
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation; a user's text holds one `<image>` placeholder per image it shows."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One training or evaluation sample, as read: encoded image bytes, turns, optional alt-text.

    `id` joins captions, verdicts, cursors and ledgers (see `sample_id`); `key` is the name inside its source (tar key,
    JSON id, row number); `source` is the source's name in the mixture; `meta` is whatever else the record carried.
    A bare caption has `turns == (Turn("assistant", caption),)`: the prompt is chosen when it is encoded.
    """

    id: str
    key: str
    source: str
    images: tuple[bytes, ...]
    turns: tuple[Turn, ...]
    alt_text: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def is_bare_caption(self) -> bool:
        """True when there is an answer and no question yet."""
        return len(self.turns) == 1 and self.turns[0].role == "assistant"


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """One answer of a captioner, as a sidecar holds it: which raw sample it belongs to, what was said, by whom.

    `id` is the raw sample's; the base name of its data shard and its row there say where it lies. `turns` is the
    conversation to train on, None for a bare caption; `created` is UTC to the second.
    """

    id: str
    shard: str
    row: int
    key: str
    task: str
    lang: str
    text: str
    turns: tuple[Turn, ...] | None
    model: str
    prompt_id: str
    finish: str
    prompt_tokens: int
    completion_tokens: int
    created: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Keep or drop, and why; everything that may drop something returns one."""

    keep: bool
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """A number on a 0-1 scale that never travels without its sample size and 95% interval."""

    score: float
    n: int
    ci95: tuple[float, float]


def canonical_turns(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """Bring equal conversations to equal form: line ends unified, outer white space stripped.

    A single exchange whose question is nothing but image placeholders is a bare caption: the question is dropped, so
    that the same picture and caption get the same id from every layout.
    """
    cleaned = tuple(Turn(turn.role, turn.text.replace("\r\n", "\n").strip()) for turn in turns)
    if len(cleaned) == 2 and cleaned[0].role == "user" and cleaned[1].role == "assistant":
        question = re.sub(re.escape(IMAGE_PLACEHOLDER), "", cleaned[0].text).strip()
        if not question:
            return cleaned[1:]
    return cleaned


def sample_id(images: Sequence[bytes], turns: Sequence[Turn]) -> str:
    """blake2b-128 (32 hex digits) of the image bytes and the canonical turns of the raw sample.

    Every field is length-prefixed, so that no two different samples can feed the same bytes to the hash.
    """
    digest = hashlib.blake2b(digest_size=16)

    def feed(data: bytes) -> None:
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)

    digest.update(len(images).to_bytes(8, "little"))
    for image in images:
        feed(image)
    for turn in canonical_turns(turns):
        feed(turn.role.encode())
        feed(turn.text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
