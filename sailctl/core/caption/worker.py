"""One worker of a job: an event loop, an engine and its share of the data shards; and how it tells of itself.

Workers in other processes or on other machines write how far they are into a folder of the job's, and look there
whether somebody asks to stop: all that is needed between them is the file system they share anyway.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sailctl.core.caption.feed import Feed
from sailctl.core.caption.job import Job
from sailctl.core.caption.pipeline import Pipeline
from sailctl.core.caption.spend import Spent, spent_by, tokens
from sailctl.core.engines.ask import Engine
from sailctl.core.engines.choice import EngineChoice, open_pool
from sailctl.core.errors import UsageError

STOP = "stop"
Progress = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """Worker `worker` of `workers` over all commands of the job, `processes` of which are this command's."""

    job: Job
    engine: EngineChoice
    worker: int
    workers: int
    processes: int = 1
    retry: bool = False
    only: str = ""
    channel: Path | None = None  # where it tells of itself, for one that is not in the command's own process
    needs_key: bool = False


def work(part: Part) -> Progress:
    """Do a part in a process of its own; returns how it ended."""
    if part.needs_key and not os.environ.get(part.engine.key_env):
        raise UsageError(f"{part.engine.key_env} is not set where this worker runs; set it on every machine")
    assert part.channel is not None
    own, stop = part.channel / f"{part.worker}.json", part.channel / STOP

    def tell(progress: Progress) -> None:
        with suppress(OSError):  # only a display
            temporary = own.with_suffix(".tmp")
            temporary.write_text(json.dumps(progress))
            os.replace(temporary, own)

    return work_here(part, stop.exists, tell)


def work_here(
    part: Part, stop: Callable[[], bool], tell: Callable[[Progress], None], engine: Engine | None = None
) -> Progress:
    """Do a part in this process, with an engine that is open already or with the part's endpoints."""
    return asyncio.run(_work(part, stop, tell, engine))


async def _work(
    part: Part, stop: Callable[[], bool], tell: Callable[[Progress], None], engine: Engine | None
) -> Progress:
    out, spent = part.job.out, Spent.open(part.job.out, part.worker, part.workers)
    try:
        if engine is None:
            so_far = tokens(spent_by(out, part.worker, part.workers)) if part.engine.max_cost is not None else (0, 0)
            engine = open_pool(part.engine, processes=part.processes, workers=part.workers, spent=so_far)
        feed = Feed(part.job, part.worker, part.workers, retry=part.retry, only=part.only)
        pipeline = Pipeline(part.job, engine, feed, stop=stop, tell=tell, spent=spent)
        try:
            progress = await pipeline.run()
        finally:
            await engine.close()
            tell(pipeline.progress())
    finally:
        spent.close()
    return {
        **progress,
        "stopped": pipeline.stopped,
        "busy": feed.busy,
        "broken": feed.broken,
        "remarks": feed.remarks,
    }


# --- many workers' words as one --------------------------------------------------------------------------------------


def heard(channel: Path) -> Progress:
    """What the workers told so far, together; empty before the first word."""
    told = []
    for path in sorted(channel.glob("*.json")):
        with suppress(OSError, ValueError):
            told.append(json.loads(path.read_text()))
    return together(told)


def together(told: Iterable[Progress]) -> Progress:
    """Several workers' progress as one: numbers add up, lists follow one another, words are kept if they agree."""
    result: Progress = {}
    for one in told:
        result = _added(result, one) if result else one
    return result


def _added(left: Any, right: Any) -> Any:
    if isinstance(left, dict) and isinstance(right, dict):
        return {
            key: _added(left.get(key), right.get(key)) for key in [*left, *(key for key in right if key not in left)]
        }
    if left is None or right is None:
        return left if right is None else right
    if isinstance(left, bool) and isinstance(right, bool):
        return left or right
    if isinstance(left, int | float) and isinstance(right, int | float):
        return left + right
    if isinstance(left, list) and isinstance(right, list):
        return left + right
    return left if left == right else f"{left}, {right}" if str(right) not in str(left).split(", ") else left
