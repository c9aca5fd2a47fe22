"""Questions as bodies of `/v1/chat/completions` requests; pictures are put in as bytes, untouched.

A body is kept as pieces and made whole only while it is written: a thousand questions in flight then hold their
pictures once, not a base64 copy of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from pybase64 import b64encode  # a hundred times as fast as base64, which is half of a question's time otherwise

from sailctl.core.engines.ask import Ask
from sailctl.core.errors import SampleError
from sailctl.core.records import IMAGE_PLACEHOLDER

_MAGIC = (
    (b"\xff\xd8\xff", b"image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", b"image/png"),
    (b"GIF8", b"image/gif"),
    (b"BM", b"image/bmp"),
    (b"II*\0", b"image/tiff"),
    (b"MM\0*", b"image/tiff"),
)
_BRANDS = {b"avif": b"image/avif", b"avis": b"image/avif", b"heic": b"image/heic", b"mif1": b"image/heif"}


def mime_type(image: bytes) -> bytes:
    """What an encoded picture calls itself by its first bytes; JPEG for what nobody knows."""
    for magic, name in _MAGIC:
        if image.startswith(magic):
            return name
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return b"image/webp"
    if image[4:8] == b"ftyp":
        return _BRANDS.get(image[8:12], b"image/avif")
    return b"image/jpeg"


class Body:
    """A request's body: JSON text around pictures. `size` is its length in bytes."""

    __slots__ = ("images", "size", "texts")

    def __init__(self, texts: Sequence[bytes], images: Sequence[bytes]) -> None:
        self.texts = texts  # one more than pictures
        self.images = images
        self.size = sum(map(len, texts)) + sum((len(image) + 2) // 3 * 4 for image in images)

    def pieces(self) -> list[bytes]:
        """Its bytes, in order; the pictures' base64 is made here."""
        made = [self.texts[0]]
        for image, text in zip(self.images, self.texts[1:], strict=True):
            made.append(b64encode(image))
            made.append(text)
        return made


def request(ask: Ask, model: str, *, temperature: float | None = None, seed: int | None = None) -> Body:
    """The body of a question; `temperature` and `seed` replace the question's own.

    Raises SampleError where the placeholders of the user's turns match the number of pictures neither exactly nor by
    there being none.
    """
    shown = sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in ask.turns if turn.role == "user")
    if shown not in (0, len(ask.images)):
        raise SampleError("placeholder_mismatch", f"{shown} {IMAGE_PLACEHOLDER} placeholders, {len(ask.images)} images")
    first = len(ask.images) - shown  # pictures nobody placed: before the first user turn
    texts: list[bytes] = []
    text = b'{"model":%b,"messages":[' % _json(model)
    for index, turn in enumerate(ask.turns):
        text += b'%b{"role":"%b","content":' % (b"," if index else b"", turn.role.encode())
        parts = turn.text.split(IMAGE_PLACEHOLDER) if turn.role == "user" and shown else [turn.text]
        if turn.role == "user" and first:
            parts, first = [""] * first + parts, 0
        if len(parts) == 1:
            text += _json(turn.text) + b"}"
            continue
        text += b"["
        for number, part in enumerate(parts):
            if words := part.strip():
                text += b'%b{"type":"text","text":%b}' % (b"," if text[-1:] == b"}" else b"", _json(words))
            if number + 1 < len(parts):
                start = b'%b{"type":"image_url","image_url":{"url":"data:' % (b"," if text[-1:] == b"}" else b"")
                texts.append(text + start + mime_type(ask.images[len(texts)]) + b";base64,")
                text = b'"}}'
        text += b"]}"
    settings: dict[str, float | int] = {"max_tokens": ask.max_tokens}
    settings["temperature"] = ask.temperature if temperature is None else temperature
    if (chosen := ask.seed if seed is None else seed) is not None:
        settings["seed"] = chosen
    texts.append(text + b"]," + orjson.dumps(settings)[1:])
    return Body(texts, ask.images)


def request_body(ask: Ask, model: str) -> bytes:
    """The whole body of a question as bytes."""
    return b"".join(request(ask, model).pieces())


def _json(text: str) -> bytes:
    try:
        return orjson.dumps(text)
    except TypeError:  # half of a surrogate pair, from somebody's broken alt-text
        return orjson.dumps(text.encode("utf-8", "replace").decode())
