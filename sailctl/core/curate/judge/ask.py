"""Asking the judge: chunks of the samples drawn, a table of answers each, a journal of answers while one is under way.

A chunk is judged by one process in one go, its questions in flight together. What the judge said stands in the chunk's
journal at once, so a kill costs what was in flight; the table comes when all of the chunk is judged.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sailctl.core.curate.judge.engine import JudgeEngine, Spent
from sailctl.core.curate.judge.tasks import JudgeTask
from sailctl.core.curate.parts import Data, Part, Row
from sailctl.core.data.order import permute
from sailctl.core.engines.ask import Engine
from sailctl.core.engines.judge import Judge, JudgeItem, Judgement
from sailctl.core.errors import DataError

CHUNK = 20_000  # samples whose answers are in memory at once
EARLY, HOPELESS = 50, 0.5  # so many samples, more than this share of them without a readable answer: no use to go on
JUDGED, UNPARSED, FAILED, NOT_ASKED = "judged", "unparsed", "failed", "not_asked"
COLUMNS = {"source": "string", "shard": "string", "row": "int64", "key": "string", "id": "string", "ordinal": "int64",
           "item": "string", "round": "int64", "state": "string", "detail": "string", "answer": "string"}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """Which samples of each source are judged: sorted ordinals, or None for all of them."""

    ordinals: tuple[np.ndarray | None, ...]
    sizes: tuple[int, ...]
    chunk: int  # samples of a chunk

    @classmethod
    def of(cls, data: Data, samples: int | None, seed: int) -> Drawn:
        """So many of every source by a seeded order, all of one that has no more; a smaller draw lies in a larger."""
        found: list[np.ndarray | None] = []
        for number, source in enumerate(data.sources):
            if samples is None or samples >= len(source):
                found.append(None)
            else:
                drawn = [permute(place, len(source), seed, number, 0) for place in range(samples)]
                found.append(np.sort(np.array(drawn, dtype=np.int64)))
        sizes = tuple(len(s) if o is None else len(o) for s, o in zip(data.sources, found, strict=True))
        return cls(tuple(found), sizes, CHUNK)

    def ordinal(self, source: int, place: int) -> int:
        """The ordinal of the sample at a place of a source's draw."""
        ordinals = self.ordinals[source]
        return place if ordinals is None else int(ordinals[place])

    def chunks(self) -> list[Chunk]:
        """All chunks, in order."""
        return [one for source, size in enumerate(self.sizes) for one in self._chunks(source, 0, size)]

    def chunks_of(self, part: Part) -> list[Chunk]:
        """The chunks in which the samples of a part are judged that are drawn."""
        first, stop, ordinals = part.first, part.stop, self.ordinals[part.source]
        if ordinals is not None:
            first, stop = int(np.searchsorted(ordinals, first)), int(np.searchsorted(ordinals, stop))
        return self._chunks(part.source, first // self.chunk * self.chunk, stop) if stop > first else []

    def _chunks(self, source: int, first: int, stop: int) -> list[Chunk]:
        size = self.sizes[source]
        return [
            Chunk(source, start, min(start + self.chunk, size), f"{source:03d}/{start:010d}")
            for start in range(first, stop, self.chunk)
        ]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Places `first` up to `stop` of a source's draw. `name` is that of its table and of its journal."""

    source: int
    first: int
    stop: int
    name: str


@dataclass(frozen=True)
class Asking:
    """The work on a chunk; travels to workers unless it has an engine of this process or somebody who listens.

    `journals` is the folder of the journals. `max_unjudged` is the share of samples that may go without a readable
    answer; far above it a chunk is given up early. `tick` hears the chunk's name and how many of its samples are done.
    """

    data: Data
    drawn: Drawn
    task: JudgeTask
    choice: JudgeEngine
    journals: Path
    workers: int
    max_tokens: int
    max_unjudged: float
    engine: Engine | None = field(default=None, compare=False)
    tick: Callable[[str, int], None] | None = field(default=None, compare=False)
    spent: Spent = field(default_factory=Spent, compare=False)  # by this process, over all its chunks

    def __call__(self, chunk: Chunk) -> Any:
        """The table of a chunk: a row for every question, and one for each sample there is none about.

        Samples that cannot be read have none. Raises what stops the judge, DataError where hardly an answer is read.
        """
        return asyncio.run(self._judge(chunk))

    async def _judge(self, chunk: Chunk) -> Any:
        engine = self.engine or self.choice.open(self.workers, self.spent)
        try:
            judge = Judge(engine, self.journals / f"{chunk.name}.jsonl", max_tokens=self.max_tokens)
            try:
                book = _Book(self, chunk)
                async for judgement in judge.ask(book.questions()):
                    book.note(judgement)
                return book.table()
            finally:
                judge.close()
        finally:
            self.spent.add(engine)
            if self.engine is None:
                await engine.close()

    def rows(self, chunk: Chunk) -> Iterator[tuple[int, Row]]:
        """Ordinals and samples of a chunk."""
        for place in range(chunk.first, chunk.stop):
            ordinal = self.drawn.ordinal(chunk.source, place)
            for row in self.data.rows(Part(chunk.source, ordinal, ordinal + 1, "")):
                yield ordinal, row


class _Book:
    """What is known of a chunk so far, a record for each question."""

    def __init__(self, asking: Asking, chunk: Chunk) -> None:
        self.asking, self.chunk = asking, chunk
        self.task = asking.task
        self.records: dict[str, dict[str, Any]] = {}
        self.open: Counter[int] = Counter()  # ordinal → questions without an outcome
        self.unread: set[int] = set()
        self.done = self.asked = 0

    def questions(self) -> Iterator[JudgeItem]:
        """The questions about all samples; notes the samples there are none about."""
        for ordinal, row in self.asking.rows(self.chunk):
            if row.sample is None:
                self._finish()
                continue
            case = self.task.case(str(ordinal), row.sample)
            told = {**row.place(), "ordinal": ordinal, "item": case.item, "detail": "", "answer": ""}
            if not case.questions:
                state = {"round": 0, "state": NOT_ASKED, "detail": case.reason}
                self.records[f"{ordinal}:0"] = {**told, **state}
                self._finish()
                continue
            self.asked += 1
            self.open[ordinal] = len(case.questions)
            for number, question in enumerate(case.questions):
                self.records[question.key] = {**told, "round": number, "state": ""}
                yield question

    def note(self, judgement: Judgement) -> None:
        """Take what became of a question."""
        record = self.records[judgement.key]
        record["answer"] = judgement.text
        if judgement.parsed:
            record.update(self.task.values(record["round"], judgement.value), state=JUDGED)
        else:
            self.unread.add(record["ordinal"])
            record["state"] = FAILED if judgement.reason else UNPARSED
            record["detail"] = judgement.reason or f"cannot be read: {judgement.text[:80]!r}"
        self.open[record["ordinal"]] -= 1
        if not self.open[record["ordinal"]]:
            del self.open[record["ordinal"]]
            self._finish()
        finished = self.asked - len(self.open)
        limit = max(HOPELESS, self.asking.max_unjudged)
        if finished >= EARLY and len(self.unread) > limit * finished:
            raise DataError(unjudged_line(len(self.unread), finished, [record]))

    def table(self) -> Any:
        """All records, sample after sample, round after round."""
        import pyarrow as pa

        kinds = {**COLUMNS, **dict.fromkeys(self.task.criteria, "double")}
        schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in kinds.items()])
        return pa.Table.from_pylist(list(self.records.values()), schema=schema)

    def _finish(self) -> None:
        self.done += 1
        if self.asking.tick is not None:
            self.asking.tick(self.chunk.name, self.done)


def nothing_line(not_asked: dict[str, int], problem: str = "") -> str:
    """Why there was nothing to ask about any sample; `problem` is that of the first one, where it cannot be read."""
    reasons = {
        "no_reference": "no reference has their id or their pictures; see what --reference names",
        "no_question": "conversations without a question; --task quality is for captions",
        "no_caption": "nothing is said of the pictures; give --captions",
        "no_image": "there is no picture to judge by",
    }
    told = "; ".join(f"{count:,} samples: {reasons.get(why, why)}" for why, count in not_asked.items())
    unread = "no sample can be read" + (f", the first is {problem}" if problem else "")
    return f"there is nothing to judge: {told or unread}"


def unjudged_line(unread: int, asked: int, examples: Sequence[dict[str, Any]]) -> str:
    """Why a run with too few readable answers does not go on."""
    shown = "; ".join(f"{one['key']}: {one['detail']}"[:200] for one in examples)
    return (
        f"the judge gave no readable answer on {unread:,} of {asked:,} samples ({shown}); try another --model or "
        "--max-tokens, see to the server, or allow it with --max-unjudged; answers are kept and what failed is asked "
        "again"
    )
