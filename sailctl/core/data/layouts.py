"""From a raw record (tar members, a JSON object, a Parquet row) to a Sample, or to the reason why it is none.

Reads what LLaVA, img2dataset and the Hugging Face hub write; where the bytes come from is `sources.py`'s business.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Mapping
from typing import Any

from sailctl.core import files
from sailctl.core.errors import SampleError
from sailctl.core.records import IMAGE_PLACEHOLDER, Role, Sample, Turn, canonical_turns, sample_id

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2")
_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_NOT_META = {"image", "images", "conversations", "messages", "caption", "text", "alt_text"}


def parse_json(data: bytes) -> dict[str, Any]:
    """A JSON object from bytes. Raises SampleError "bad_json" saying what is there instead."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SampleError("bad_json", f"{len(data)} bytes: {str(error) or type(error).__name__}") from None
    if not isinstance(value, dict):
        raise SampleError("bad_json", f"a JSON {type(value).__name__}, not an object")
    return value


def tar_sample(members: Mapping[str, bytes], key: str, source: str, *, textless: bool = False) -> Sample:
    """A Sample from the members of one key, by suffix: pictures, `txt` (a caption), `json` (turns or a caption).

    A picture named in the JSON must be there as a member; text alone is a sample too. `textless` as in `build_sample`.
    """
    record = parse_json(members["json"]) if "json" in members else {}
    images = tuple(data for suffix, data in members.items() if suffix.rsplit(".", 1)[-1] in IMAGE_SUFFIXES)
    if not images and (named := record.get("image") or record.get("images")):
        raise SampleError("no_image", f"image {_short(named)} is announced, but the tar has no such member")
    caption = None
    if "txt" in members:
        try:
            caption = members["txt"].decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise SampleError("bad_turns", f"the caption is not UTF-8: {error}") from None
    return build_sample(record, images, key, source, caption, textless=textless)


def record_sample(
    record: Mapping[str, Any],
    read_image: Callable[[str], bytes],
    fallback_key: str,
    source: str,
    *,
    textless: bool = False,
) -> Sample:
    """A Sample from a JSON object or a Parquet row; `read_image` gives the bytes behind an image path.

    `image` or `images` holds a path, bytes, a `{bytes, path}` struct, or a list of these.
    """
    found = record.get("image")
    if found is None or found == []:
        found = record.get("images")
    entries = [] if found is None else found if isinstance(found, list) else [found]
    images = tuple(_image_bytes(entry, read_image) for entry in entries)
    key = record.get("id")
    name = str(key) if isinstance(key, str | int) else fallback_key
    return build_sample(record, images, name, source, None, textless=textless)


def _image_bytes(entry: Any, read_image: Callable[[str], bytes]) -> bytes:
    if isinstance(entry, bytes):
        return entry
    if isinstance(entry, dict):
        if isinstance(entry.get("bytes"), bytes):
            return entry["bytes"]
        entry = entry.get("path")
    if not isinstance(entry, str) or not entry:
        raise SampleError("no_image", f"image is {_short(entry)}, neither a path nor bytes")
    return read_image(entry)


def build_sample(
    record: Mapping[str, Any],
    images: tuple[bytes, ...],
    key: str,
    source: str,
    caption: str | None,
    *,
    textless: bool = False,
) -> Sample:
    """Put a Sample together; turns go before captions, a caption file before one in the record.

    With `textless`, a picture that nothing is said of (no turns, no caption, an empty one) is a sample without turns.
    Raises SampleError no_turns, bad_turns, no_answer or placeholder_mismatch.
    """
    raw = () if textless and images and _is_silent(record, caption) else _turns(record, caption)
    turns = canonical_turns(raw)
    if len(turns) < len(raw) and (count := raw[0].text.count(IMAGE_PLACEHOLDER)) not in (0, len(images)):
        raise SampleError("placeholder_mismatch", f"{count} {IMAGE_PLACEHOLDER} placeholders ≠ {len(images)} images")
    alt_text = record.get("alt_text")
    return Sample(
        id=sample_id(images, turns),
        key=key,
        source=source,
        images=images,
        turns=turns,
        alt_text=alt_text if isinstance(alt_text, str) else None,
        meta={name: value for name, value in record.items() if name not in _NOT_META},
    )


def _is_silent(record: Mapping[str, Any], caption: str | None) -> bool:
    """Whether neither turns nor a caption with text in it are there."""
    texts = [caption, *(record.get(name) for name in ("caption", "text"))]
    said = any(not isinstance(text, str) or text.strip() for text in texts if text is not None)
    return not said and not any(record.get(name) for name in ("conversations", "messages"))


def _turns(record: Mapping[str, Any], caption: str | None) -> tuple[Turn, ...]:
    for name in ("conversations", "messages"):
        if (conversation := record.get(name)) is not None:
            return conversation_turns(conversation, name)
    if caption is None:
        name, caption = next(((n, record[n]) for n in ("caption", "text") if record.get(n) is not None), ("", None))
        if caption is None:
            raise SampleError("no_turns", "neither conversations, messages, caption nor text")
        if not isinstance(caption, str):
            raise SampleError("bad_turns", f"{name} is {_short(caption)}, not text")
    if not caption.strip():
        raise SampleError("no_answer", "the caption is empty")
    return (Turn("assistant", _encodable(caption)),)


def conversation_turns(conversation: Any, name: str) -> tuple[Turn, ...]:
    """Turns from a list of `from` and `value`, or `role` and `content`; SampleError names the entry that is wrong."""
    if not isinstance(conversation, list):
        raise SampleError("bad_turns", f"{name} is {_short(conversation)}, not a list")
    if not conversation:
        raise SampleError("no_turns", f"{name} is empty")
    turns = []
    for number, entry in enumerate(conversation):
        if not isinstance(entry, dict):
            raise SampleError("bad_turns", f"{name}[{number}] is {_short(entry)}, not an object")
        said_by = entry.get("from") if entry.get("from") is not None else entry.get("role")
        text = entry.get("value") if entry.get("value") is not None else entry.get("content")
        role = _ROLES.get(said_by) if isinstance(said_by, str) else None
        if role is None:
            raise SampleError("bad_turns", f"{name}[{number}]: role {_short(said_by)}; known: {', '.join(_ROLES)}")
        if not isinstance(text, str):
            raise SampleError("bad_turns", f"{name}[{number}]: text is {_short(text)}")
        turns.append(Turn(role, _encodable(text)))
    dialogue = turns[1:] if turns[0].role == "system" else turns
    if not any(turn.role == "assistant" and turn.text.strip() for turn in dialogue):
        raise SampleError("no_answer", f"{len(turns)} turns, none of them an answer with text")
    if len(turns) == 1:  # an answer alone is a bare caption
        return tuple(turns)
    for number, turn in enumerate(dialogue):
        if turn.role != ("user", "assistant")[number % 2]:
            roles = " ".join(turn.role for turn in turns[:8])
            raise SampleError("bad_turns", f"turns do not alternate between user and assistant: {roles}")
    return tuple(turns)


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SampleError("bad_turns", f"text is not valid Unicode: {error}") from None
    return text


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def safe_join(root: str, path: str) -> str:
    """Where an image path leads below `root` (a folder or an fsspec URL).

    An absolute path is allowed when it stands below `root`. Raises SampleError "unsafe_path" for whatever leaves it.
    Links within the folder are followed: they were put there by its owner, not by the record.
    """
    inside = path
    prefix = root.rstrip("/") + "/"
    if path.startswith(prefix) and (files.is_url(root) or path.startswith("/")):
        inside = path[len(prefix) :]
    parts = inside.replace("\\", "/").split("/")
    if inside.startswith(("/", "\\")) or files.is_url(inside) or "\0" in inside or ".." in _collapsed(parts):
        raise SampleError("unsafe_path", f"image path {_short(path)} leaves {root}; image_root would allow its folder")
    return prefix + posixpath.normpath(inside)


def _collapsed(parts: list[str]) -> list[str]:
    return posixpath.normpath("/".join(parts)).split("/")
