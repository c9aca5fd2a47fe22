"""Bodies of requests: the right JSON, the pictures' very bytes, the size announced."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from sailctl.core.engines.ask import Ask
from sailctl.core.engines.messages import mime_type, request, request_body
from sailctl.core.errors import SampleError
from sailctl.core.records import Turn

JPEG = b"\xff\xd8\xff\xe0 a jpeg"
PNG = b"\x89PNG\r\n\x1a\n a png, longer"


def body(*turns: Turn, images: tuple[bytes, ...] = (), **options: Any) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(request_body(Ask("k", turns, images, **options), 'a "model"'))
    return said


def url(kind: str, image: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{base64.b64encode(image).decode()}"}}


def test_a_question_with_pictures_written_out() -> None:
    said = body(
        Turn("system", "Be exact."),
        Turn("user", "<image>\nWhat is \"this\"?"),
        Turn("assistant", "一只猫 <image>"),
        Turn("user", "And compare <image> with it."),
        images=(JPEG, PNG),
        max_tokens=77,
        temperature=0.5,
        seed=3,
    )  # fmt: skip
    assert said == {
        "model": 'a "model"',
        "messages": [
            {"role": "system", "content": "Be exact."},
            {"role": "user", "content": [url("image/jpeg", JPEG), {"type": "text", "text": 'What is "this"?'}]},
            {"role": "assistant", "content": "一只猫 <image>"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "And compare"},
                    url("image/png", PNG),
                    {"type": "text", "text": "with it."},
                ],
            },
        ],
        "max_tokens": 77,
        "temperature": 0.5,
        "seed": 3,
    }


def test_pictures_nobody_placed_come_before_the_first_user_turn() -> None:
    said = body(Turn("system", "s"), Turn("user", "first"), Turn("user", "second"), images=(JPEG, PNG))
    assert said["messages"][1:] == [
        {
            "role": "user",
            "content": [url("image/jpeg", JPEG), url("image/png", PNG), {"type": "text", "text": "first"}],
        },
        {"role": "user", "content": "second"},
    ]
    assert "seed" not in said


def test_a_picture_alone_and_a_text_alone() -> None:
    assert body(Turn("user", "<image>"), images=(PNG,))["messages"][0]["content"] == [url("image/png", PNG)]
    assert body(Turn("user", "just words"))["messages"] == [{"role": "user", "content": "just words"}]


@pytest.mark.parametrize("text", ["<image>", "<image><image><image>"])
def test_placeholders_that_fit_no_picture_are_refused(text: str) -> None:
    with pytest.raises(SampleError, match="placeholders, 2 images"):
        body(Turn("user", text), images=(JPEG, PNG))


def test_the_size_is_that_of_the_bytes_and_settings_can_be_replaced() -> None:
    for length in range(7):
        ask = Ask("k", (Turn("user", "<image> 描述"),), (b"x" * length,))
        made = request(ask, "m", temperature=0.9, seed=5)
        whole = b"".join(made.pieces())
        assert made.size == len(whole)
        assert (json.loads(whole)["temperature"], json.loads(whole)["seed"]) == (0.9, 5)


def test_half_a_surrogate_pair_does_not_break_a_body() -> None:
    assert body(Turn("user", "alt \ud83d text"))["messages"][0]["content"] == "alt ? text"


def test_pictures_tell_what_they_are() -> None:
    heads = {
        b"\xff\xd8\xff": b"image/jpeg", PNG: b"image/png", b"GIF89a": b"image/gif", b"BM..": b"image/bmp",
        b"RIFF\0\0\0\0WEBPVP8 ": b"image/webp", b"II*\0": b"image/tiff", b"MM\0*": b"image/tiff",
        b"\0\0\0\x1cftypavif": b"image/avif", b"\0\0\0\x1cftypheic": b"image/heic", b"": b"image/jpeg",
    }  # fmt: skip
    assert {head: mime_type(head) for head in heads} == heads
