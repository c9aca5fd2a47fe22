"""A captioning job over small data, an engine that answers by rule, and what a job's folder holds."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sailctl.core.caption.feed import Feed
from sailctl.core.caption.job import Job, Parameters
from sailctl.core.caption.pipeline import Pipeline
from sailctl.core.caption.prompts import load_prompts
from sailctl.core.caption.shards import find_data
from sailctl.core.engines.ask import Answer, Ask, Failed, Outcome
from tests.helpers_data import picture, write_tar

Rule = Callable[[Ask], str | Failed]


def told(ask: Ask) -> str:
    """What the rule engine says of pictures: a hash of them, so that every answer shows what was asked about."""
    return "picture " + hashlib.sha256(b"".join(ask.images)).hexdigest()[:12]


class RuleEngine:
    """Answers by a rule, up to `in_flight` at once, in an order of its own; keeps what it was asked."""

    model = "rule"

    def __init__(
        self, rule: Rule = told, *, in_flight: int = 4, fail_after: int | None = None, held: tuple[str, int] = ("", 0)
    ) -> None:
        self.rule = rule
        self.in_flight = in_flight
        self.fail_after = fail_after
        self.asked: list[Ask] = []
        self.held = held  # an answer that comes only when so many questions were asked

    async def run(self, asks: AsyncIterator[Ask]) -> AsyncIterator[Outcome]:
        done: asyncio.Queue[Outcome | None] = asyncio.Queue()
        slots = asyncio.Semaphore(self.in_flight)
        tasks: set[asyncio.Task[None]] = set()

        async def answer(ask: Ask, turns: int) -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            said = self.rule(ask)
            while said == self.held[0] and len(self.asked) < self.held[1]:
                await asyncio.sleep(0.001)
            if isinstance(said, str):
                said_outcome: Outcome = Answer(ask.key, said, "stop", 10, len(said.split()), "here", 1, 0.0)
            else:
                said_outcome = Failed(ask.key, said.reason, said.detail, said.attempts)
            done.put_nowait(said_outcome)
            slots.release()

        async def draw() -> None:
            async for ask in asks:
                self.asked.append(ask)
                await slots.acquire()
                task = asyncio.create_task(answer(ask, len(self.asked) * 7 % 5))
                tasks.add(task)
            await asyncio.gather(*tasks)
            done.put_nowait(None)

        drawing = asyncio.create_task(draw())
        given = 0
        try:
            while (outcome := await done.get()) is not None:
                if self.fail_after is not None and given >= self.fail_after:
                    raise RuntimeError("the engine broke")
                given += 1
                yield outcome
        finally:
            drawing.cancel()
            for task in tasks:
                task.cancel()

    async def close(self) -> None:
        pass


def make_job(
    out: Path, *data: Path | str, tasks: Sequence[str] = ("detailed",), lang: str = "en", **options: Any
) -> Job:
    """A job of one model called rule."""
    prompts = load_prompts(tasks, lang, options.pop("prompts", None))
    image_root = options.pop("image_root", None)
    model = options.pop("model", "rule")
    shards = find_data([str(path) for path in data], image_root, out)
    return Job(out, shards, prompts, lang, model, Parameters(**options), replay="sailctl caption --retry-quarantined")


def caption(
    job: Job, engine: RuleEngine | None = None, *, worker: int = 0, workers: int = 1, **options: Any
) -> Pipeline:
    """Run a job in this process; returns the finished pipeline."""
    feeding = {name: options.pop(name) for name in ("retry", "only") if name in options}
    job = job.claim()

    async def run() -> Pipeline:
        feed = Feed(job, worker, workers, **feeding)
        pipeline = Pipeline(job, engine or RuleEngine(), feed, **options)
        await pipeline.run()
        return pipeline

    return asyncio.run(run())


def sidecar_rows(out: Path, task: str = "detailed-en") -> list[dict[str, Any]]:
    """All rows of a task's sidecars, in the order of names and rows, without the time."""
    rows = [row for path in sorted((out / task).rglob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    for row in rows:
        del row["created"]
    return rows


def lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def all_lines(out: Path, kind: str) -> list[dict[str, Any]]:
    """Rejects or quarantined questions of all units."""
    return [row for path in sorted((out / kind).rglob("*.jsonl")) for row in lines(path)]


def picture_tar(path: Path, numbers: Sequence[int], *, captions: bool = True) -> Path:
    """An img2dataset tar of small pictures of these numbers."""
    members = []
    for number in numbers:
        members.append((f"{number:05d}.png", picture(number, 12, 10)))
        if captions:
            members.append((f"{number:05d}.txt", f"alt {number}".encode()))
    return write_tar(path, members)
