"""The local model behind the engine protocol: a long stream, broken questions, seeds, cut answers, leaving early."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_model import tiny_checkpoint, tiny_model, tiny_tokenizer
from PIL import Image

from sailctl.core.device import pick
from sailctl.core.engines.ask import Answer, Ask, Engine, Failed, Outcome
from sailctl.core.engines.batched import BatchedLocal
from sailctl.core.engines.local import Completion, LocalEngine, Prepared, Request
from sailctl.core.errors import UsageError
from sailctl.core.model.fingerprint import fingerprint
from sailctl.core.model.weights import load_model
from sailctl.core.records import Turn

CPU = pick("cpu")


def png(seed: int = 0, width: int = 60, height: int = 60) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def ask(key: str, text: str = "q", *images: bytes, tokens: int = 6, **options: Any) -> Ask:
    return Ask(key, (Turn("user", text),), images, max_tokens=tokens, **options)


async def stream(asks: Iterable[Ask]) -> AsyncIterator[Ask]:
    for one in asks:
        yield one


def answers(engine: BatchedLocal, asks: Iterable[Ask]) -> dict[str, Outcome]:
    """All outcomes by key; each key once."""

    async def collect() -> dict[str, Outcome]:
        found: dict[str, Outcome] = {}
        async for outcome in engine.run(stream(asks)):
            assert outcome.key not in found
            found[outcome.key] = outcome
        return found

    return asyncio.run(collect())


def batched(size: int = 3, **options: Any) -> BatchedLocal:
    return BatchedLocal(LocalEngine(tiny_model(), tiny_tokenizer(), CPU, batch_size=size), "tiny", **options)


@pytest.fixture(scope="module")
def engine() -> BatchedLocal:
    return batched()


def test_answers_are_those_of_the_model(engine: BatchedLocal) -> None:
    asked: Engine = engine  # the protocol, as mypy reads it
    assert asked.model == "tiny"
    asks = [
        ask("a", "first"),
        ask("b", "<image>\nlook", png(1)),
        ask("c", "two", png(2), png(3, 112, 56), tokens=3),
        ask("d", "warm", tokens=9, temperature=1.5, seed=4),
        ask("e", "the last of them"),
    ]
    found = answers(engine, asks)
    assert found.keys() == {"a", "b", "c", "d", "e"}
    local = LocalEngine(tiny_model(), tiny_tokenizer(), CPU)
    for one in asks:
        request = Request(one.turns, one.images, one.max_tokens, one.temperature, seed=one.seed or 0)
        expected = local.generate([request])[0]
        outcome = found[one.key]
        assert isinstance(outcome, Answer)
        assert outcome.text == expected.text
        assert (outcome.prompt_tokens, outcome.completion_tokens) == (len(expected.prompt_ids), one.max_tokens)
        assert (outcome.finish, outcome.endpoint, outcome.attempts) == ("length", "local", 1)
        assert outcome.seconds > 0


def test_a_broken_question_fails_alone(engine: BatchedLocal) -> None:
    cut = png(5, 200, 200)[:4000]
    found = answers(
        engine,
        [
            ask("fine", "q", png(1)),
            ask("no picture", "q", b"these are words"),
            ask("ends early", "q", cut),
            ask("mismatch", "<image> and <image>", png(1)),
            ask("too long", "q", tokens=40000),
            ask("also fine", "q", png(2)),
        ],
    )
    failed = {key: outcome for key, outcome in found.items() if isinstance(outcome, Failed)}
    assert {key: one.reason for key, one in failed.items()} == {
        "no picture": "bad_image",
        "ends early": "bad_image",
        "mismatch": "placeholder_mismatch",
        "too long": "too_long",
    }
    assert "2 <image> placeholders ≠ 1" in failed["mismatch"].detail
    assert "40000 new ones > 32768" in failed["too long"].detail
    alone = answers(engine, [ask("also fine", "q", png(2))])["also fine"]
    together = found["also fine"]
    assert isinstance(alone, Answer) and isinstance(together, Answer) and alone.text == together.text


def test_seeds_decide_what_is_drawn(engine: BatchedLocal) -> None:
    warm = {"temperature": 1.5, "tokens": 12}
    asks = [ask("one", seed=1, **warm), ask("same", seed=1, **warm), ask("two", seed=2, **warm)]
    found = answers(engine, [*asks, ask("none", **warm), ask("other", **warm)])
    texts = {key: one.text for key, one in found.items() if isinstance(one, Answer)}
    assert texts["one"] == texts["same"]
    assert len(set(texts.values())) == 4  # without a seed every key draws on its own
    assert answers(engine, [ask("none", **warm)])["none"].text == texts["none"]  # type: ignore[union-attr]


def test_a_stop_token_ends_an_answer_and_its_absence_is_told(engine: BatchedLocal) -> None:
    local = engine._engine
    free = local.generate([Request((Turn("user", "q"),), (), 12)])[0]
    local._stops.append(free.token_ids[2])
    try:
        found = answers(engine, [ask("stopped", tokens=12), ask("cut", tokens=1)])
    finally:
        local._stops.pop()
    assert [(found[key].finish, found[key].completion_tokens) for key in ("stopped", "cut")] == [  # type: ignore[union-attr]
        ("stop", free.token_ids.index(free.token_ids[2]) + 1),
        ("length", 1),
    ]


def test_cut_answers_are_drawn_again_where_they_are_not_accepted() -> None:
    engine = batched(accept_cut=False, attempts=2)
    given = answers(engine, [ask("a", tokens=5)])["a"]
    assert given == Failed("a", "cut", given.detail, 2)  # type: ignore[union-attr]
    assert given.detail.startswith("5 tokens, ending in: ")  # type: ignore[union-attr]

    # what the second try draws is warmer and from the next seed: let that end where the first did not
    local = engine._engine
    cold, warm = (
        local.generate([Request((Turn("user", "q"),), (), 5, temperature, seed=seed)])[0]
        for temperature, seed in ((0.0, 3), (0.7, 4))
    )
    stop = next(token for token in warm.token_ids if token not in cold.token_ids)
    local._stops.append(stop)
    again = answers(engine, [ask("a", tokens=5, seed=3)])["a"]
    assert isinstance(again, Answer) and (again.finish, again.attempts) == ("stop", 2)
    assert again.completion_tokens == warm.token_ids.index(stop) + 1


def scripted(engine: BatchedLocal, texts: Callable[[Request], str]) -> list[list[Request]]:
    """Let the engine say what a test tells it; returns the batches it was given."""
    batches: list[list[Request]] = []

    def complete(prepared: list[Prepared], *, abandon: Callable[[], bool]) -> list[Completion]:
        batches.append([item.request for item in prepared])
        return [Completion(texts(item.request), [1, 2], item.prompt_ids, 0, True) for item in prepared]

    engine._engine.complete = complete  # type: ignore[method-assign, assignment]
    return batches


def test_a_looping_answer_is_drawn_again() -> None:
    engine = batched(attempts=3)
    scripted(engine, lambda request: "a dog " * 60 if request.temperature == 0 else "A dog on a lawn.")
    found = answers(engine, [ask("a"), ask("b", temperature=0.2)])
    assert [(found[key].text, found[key].attempts) for key in "ab"] == [
        ("A dog on a lawn.", 2),
        ("A dog on a lawn.", 1),
    ]  # type: ignore[union-attr]
    for text, reason in (("a dog " * 60, "looping"), ("", "empty")):
        scripted(engine, lambda request, text=text: text)  # type: ignore[misc]
        given = answers(engine, [ask("a")])["a"]
        assert isinstance(given, Failed) and (given.reason, given.attempts) == (reason, 3)


def test_full_batches_are_made_while_questions_come() -> None:
    engine = batched(4)
    batches = scripted(engine, lambda request: "text")
    assert len(answers(engine, [ask(str(number)) for number in range(10)])) == 10
    assert [len(batch) for batch in batches] == [4, 4, 2]


def test_a_question_that_waits_for_an_answer_gets_it() -> None:
    """Whoever asks may need an answer for the next question: an engine that waits for a full batch would hang."""
    engine = batched(8)

    async def chain() -> list[str]:
        said: list[str] = []
        came = asyncio.Event()

        async def asks() -> AsyncIterator[Ask]:
            for number in range(3):
                yield ask(str(number), f"{number} {said[-1:]}")
                await came.wait()
                came.clear()

        async for outcome in engine.run(asks()):
            assert isinstance(outcome, Answer)
            said.append(outcome.text)
            came.set()
        return said

    assert len(asyncio.run(asyncio.wait_for(chain(), 60))) == 3


def test_a_stream_is_drawn_no_faster_than_it_is_answered() -> None:
    engine = batched(2)
    drawn = 0

    async def asks() -> AsyncIterator[Ask]:
        nonlocal drawn
        while True:
            drawn += 1
            yield ask(str(drawn), tokens=1)

    async def some() -> None:
        outcomes = engine.run(asks())
        done = 0
        async for _ in outcomes:
            done += 1
            assert drawn <= done + 3 * engine.batch_size  # a batch in work, one ahead, and those being prepared
            if done == 20:
                break
        await outcomes.aclose()  # type: ignore[attr-defined]

    asyncio.run(some())


def test_the_loop_lives_while_the_model_works_and_leaving_ends_it() -> None:
    engine = batched(1)

    complete = engine._engine.complete
    working = threading.Event()

    def seen(prepared: list[Prepared], *, abandon: Callable[[], bool]) -> list[Completion]:
        working.set()
        return complete(prepared, abandon=abandon)

    engine._engine.complete = seen  # type: ignore[method-assign, assignment]

    async def leave() -> None:
        outcomes = engine.run(stream([ask("long", tokens=30000)]))  # minutes of work
        first = asyncio.ensure_future(anext(outcomes))
        while not working.is_set():
            await asyncio.sleep(0.001)
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert not first.done()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await engine.close()

    asyncio.run(asyncio.wait_for(leave(), 60))
    threads = engine._answering._threads | engine._preparing._threads
    assert threads and not any(thread.is_alive() for thread in threads)


def test_what_the_stream_raises_comes_out_after_the_answers(engine: BatchedLocal) -> None:
    async def asks() -> AsyncIterator[Ask]:
        yield ask("a")
        raise UsageError("no more")

    async def collect() -> list[str]:
        found = []
        with pytest.raises(UsageError, match="no more"):
            async for outcome in engine.run(asks()):
                found.append(outcome.key)
        return found

    assert asyncio.run(collect()) == ["a"]


def test_a_batch_too_large_for_memory_is_halved() -> None:
    engine = batched(8)
    complete = engine._engine.complete

    def small(prepared: list[Prepared], *, abandon: Callable[[], bool]) -> list[Completion]:
        if len(prepared) > 2 or any(item.request.max_new_tokens > 100 for item in prepared):
            raise torch.OutOfMemoryError("out of memory")
        return complete(prepared, abandon=abandon)

    engine._engine.complete = small  # type: ignore[method-assign, assignment]
    found = answers(engine, [ask(str(number)) for number in range(8)])
    assert sum(isinstance(outcome, Answer) for outcome in found.values()) == 8
    assert engine.batch_size == 2
    huge = answers(engine, [ask("huge", tokens=101), ask("fine")])
    assert isinstance(huge["fine"], Answer)
    failed = huge["huge"]
    assert isinstance(failed, Failed) and failed.reason == "out_of_memory" and "101 new ones" in failed.detail


def test_open_names_the_weights(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "captioner")
    tiny_checkpoint(tmp_path / "other" / "captioner", seed=1)
    engine = BatchedLocal.open(str(tmp_path / "captioner"), "cpu", 2)
    loaded = load_model(tmp_path / "captioner", device=CPU, dtype=torch.float32)
    assert engine.model == f"captioner@{fingerprint(loaded)}"
    assert engine.batch_size == 2
    assert BatchedLocal.open(str(tmp_path / "other" / "captioner"), "cpu").model != engine.model
    assert isinstance(answers(engine, [ask("a", "q", png())])["a"], Answer)
    with pytest.raises(UsageError, match="no such folder"):
        BatchedLocal.open(str(tmp_path / "nowhere"), "cpu")


def test_for_a_benchmark_the_first_answer_counts_whatever_it_is() -> None:
    for text in ("a dog " * 60, "", "fine"):
        engine = batched(attempts=3, accept_all=True)
        batches = scripted(engine, lambda request, text=text: text)  # type: ignore[misc]
        given = answers(engine, [ask("a")])["a"]
        assert isinstance(given, Answer) and (given.text, given.attempts, len(batches)) == (text, 1, 1)


def test_a_question_has_its_own_tile_limit(engine: BatchedLocal) -> None:
    wide = png(4, 224, 56)
    found = answers(
        engine, [ask("own", "q", wide), ask("one", "q", wide, max_tiles=1), ask("two", "q", wide, max_tiles=2)]
    )
    lengths = {key: one.prompt_tokens for key, one in found.items() if isinstance(one, Answer)}
    assert [(lengths["own"] - lengths["one"]) // 4, (lengths["two"] - lengths["one"]) // 4] == [4, 2]  # thumbnails, too
    assert engine.visual_tokens([(224, 56), (56, 56)], None) == 4 * 6
    assert engine.visual_tokens([(224, 56)], 1) == 4
