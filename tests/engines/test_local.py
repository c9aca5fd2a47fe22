"""The local engine: order, batches, placeholders, stops."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from helpers_model import tiny_model, tiny_tokenizer
from PIL import Image

from sailctl.core.device import pick
from sailctl.core.engines.local import LocalEngine, Request
from sailctl.core.errors import DataError, UsageError
from sailctl.core.records import Turn

TOKENIZER = tiny_tokenizer()
CPU = pick("cpu")


def picture(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    shape = (height, width, len(mode))
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def question(text: str, *images: Image.Image | bytes, tokens: int = 6, **options: float) -> Request:
    return Request((Turn("user", text),), images, tokens, **options)


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return LocalEngine(tiny_model(), TOKENIZER, CPU, batch_size=2)


def test_batches_answer_in_order_as_one_by_one(engine: LocalEngine) -> None:
    requests = [
        question("<image>\na longer question than the others", picture(60, 60)),
        question("b", tokens=3),
        question("two: <image> and <image>", picture(112, 56, 1), picture(56, 56, 2)),
        question("c"),
        question("<image>\nd", picture(60, 60, 3, "RGBA")),
    ]
    together = engine.generate(requests)
    assert together == [engine.generate([request])[0] for request in requests]
    assert [completion.num_tiles for completion in together] == [1, 0, 4, 0, 1]  # 112 x 56: two tiles and a thumbnail
    for completion, request in zip(together, requests, strict=True):
        assert 0 < len(completion.token_ids) <= request.max_new_tokens
        assert completion.prompt_ids.count(261) == 4 * completion.num_tiles


def test_bytes_and_pictures_are_the_same(engine: LocalEngine) -> None:
    buffer = io.BytesIO()
    picture(80, 40).save(buffer, format="PNG")
    first, second = engine.generate([question("q", picture(80, 40)), question("q", buffer.getvalue())])
    assert first == second


def test_pictures_without_placeholders_come_first(engine: LocalEngine) -> None:
    shown, told = engine.generate(
        [
            question("q", picture(56, 56), picture(56, 56, 1)),
            question("<image>\n<image>\nq", picture(56, 56), picture(56, 56, 1)),
        ]
    )
    assert shown == told


def test_answers_end_at_the_stop_token(engine: LocalEngine) -> None:
    free = engine.generate([question("stop here", tokens=12)])[0]
    stop = free.token_ids[3]
    text = TOKENIZER.decode(free.token_ids[: free.token_ids.index(stop)]).strip()
    engine._stops.append(stop)
    try:
        cut = engine.generate([question("stop here", tokens=12)])[0]
    finally:
        engine._stops.remove(stop)
    assert cut.token_ids == free.token_ids[: free.token_ids.index(stop) + 1] and cut.text.startswith(text)
    assert cut.ended and not free.ended


def test_lengths_never_mix_in_a_batch_and_temperatures_may(engine: LocalEngine) -> None:
    alone = engine.generate([question("q", tokens=4)])[0]
    mixed = engine.generate(
        [question("q", tokens=4), question("q", tokens=4, temperature=1.5), question("q", tokens=9)]
    )
    assert mixed[0] == alone and len(mixed[2].token_ids) > 4


def test_a_seed_draws_the_same_in_any_company(engine: LocalEngine) -> None:
    warm = [question(text, tokens=8, temperature=1.5, seed=seed) for text in ("q", "longer") for seed in (1, 2)]
    together = engine.generate([question("cold", tokens=8), *warm, question("q", tokens=8)])
    alone = [engine.generate([request])[0] for request in warm]
    assert together[1:5] == alone
    assert len({tuple(completion.token_ids) for completion in alone}) == 4
    assert together[5] == engine.generate([question("q", tokens=8)])[0]


def test_tile_limit_of_a_request(engine: LocalEngine) -> None:
    wide = picture(400, 100)
    few, many = engine.generate([question("q", wide, max_tiles=1), question("q", wide)])
    assert (few.num_tiles, many.num_tiles) == (1, 5)


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (
            question("<image><image>", picture(9, 9)),
            DataError,
            "request 0: placeholder_mismatch: 2 <image> placeholders ≠ 1",
        ),
        (question("q", b"no picture"), DataError, "request 0: bad_image"),
        (question("q", tokens=40000), UsageError, r"prompt tokens \+ 40000 new ones > 32768"),
    ],
)
def test_bad_requests_are_named(engine: LocalEngine, request_: Request, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        engine.generate([request_])


def test_pictures_shown_again_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine(tiny_model(), TOKENIZER, CPU, batch_size=7)
    requests = [question(text, picture(112, 56, n)) for n in (1, 2) for text in ("a", "bb", "ccc")]
    requests.append(question("no picture"))
    alone = [engine.generate([request])[0] for request in requests]
    encode, encoded = engine.model.encode_tiles, []

    def counted(tiles: torch.Tensor, patches: int | None = None) -> torch.Tensor:
        encoded.append(len(tiles))
        return encode(tiles, patches)

    monkeypatch.setattr(engine.model, "encode_tiles", counted)
    assert engine.generate(requests) == alone
    assert encoded == [6]  # two pictures of two tiles and a thumbnail
    assert len({tuple(one.token_ids) for one in alone}) > 5


def test_a_row_that_goes_on_leaves_the_others_as_they_are(engine: LocalEngine) -> None:
    """Rows end at different times and leave the batch; what the others say, cold or warm, does not change."""
    free = engine.generate([question("one", tokens=24), question("two", tokens=24)])
    stops = [free[0].token_ids[2], free[1].token_ids[9]]
    requests = [
        question("one", tokens=24),
        question("two", tokens=24),
        question("a longer one, warm", tokens=24, temperature=1.5, seed=3),
        question("warm", tokens=24, temperature=1.5, seed=4),
        question("cold", tokens=24),
    ]
    wide = LocalEngine(engine.model, TOKENIZER, CPU, batch_size=5)
    wide._stops += stops
    together, alone = wide.generate(requests), [wide.generate([request])[0] for request in requests]
    assert together == alone
    assert len({len(one.token_ids) for one in together}) > 2
