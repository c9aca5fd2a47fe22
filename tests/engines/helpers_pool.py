"""Questions for a stub, and a pool that answers them: what the tests of the pool share."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from sailctl.core.engines.ask import Answer, Ask, Failed, Outcome
from sailctl.core.engines.pool import HttpPool, PoolOptions, PoolSnapshot
from sailctl.core.engines.secret import Secret
from sailctl.core.records import Turn
from tests.stub_engine import Stub, told

PROMPT = "Describe the image."


@functools.cache
def _only_stub() -> Stub:
    stub = Stub()
    atexit.register(stub.close)
    return stub


@contextlib.contextmanager
def shared(**behaviour: Any) -> Iterator[Stub]:
    """One stub for all tests that need one: each finds it as if newly started."""
    yield _only_stub().reset(**behaviour)


def picture(number: int, size: int = 2000) -> bytes:
    return b"\xff\xd8\xff" + number.to_bytes(8, "big") * (size // 8)


def question(number: int, **options: Any) -> Ask:
    return Ask(str(number), (Turn("user", f"<image>\n{PROMPT}"),), (picture(number),), **options)


async def questions(count: int) -> AsyncIterator[Ask]:
    for number in range(count):
        yield question(number)


def answer_all(
    urls: Sequence[str], asks: int | AsyncIterator[Ask], *, key: str | None = None, **options: Any
) -> tuple[dict[str, Outcome], PoolSnapshot]:
    """All outcomes by key, each seen once, and the pool's last words."""

    async def run() -> tuple[dict[str, Outcome], PoolSnapshot]:
        api_key = None if key is None else Secret(key)
        pool = HttpPool(urls, "stub", api_key=api_key, options=PoolOptions(**options))
        outcomes: dict[str, Outcome] = {}
        try:
            async for outcome in pool.run(questions(asks) if isinstance(asks, int) else asks):
                assert outcome.key not in outcomes
                outcomes[outcome.key] = outcome
            return outcomes, pool.snapshot()
        finally:
            await pool.close()

    return asyncio.run(run())


def check_answers(outcomes: dict[str, Outcome]) -> list[Failed]:
    """Every answer is the one to its question; returns what was given up."""
    for key, outcome in outcomes.items():
        if isinstance(outcome, Answer):
            assert outcome.text == told([picture(int(key))], PROMPT)
    return [outcome for outcome in outcomes.values() if isinstance(outcome, Failed)]
