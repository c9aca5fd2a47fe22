"""Answers of an engine to benchmarks' questions, kept by content: nothing is asked twice, a kill costs little.

An answer's key is a hash of who answers, the prompt, the pictures and the limits; whatever has the same key has the
same answer, in whatever run, by however many workers. Questions that could not be asked or were given up have an empty
answer and a reason; the latter are asked again by the next run.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sailctl.core.bench.predict import Reporter
from sailctl.core.bench.questions import Question, Questions
from sailctl.core.engines.ask import Ask, Engine, Failed
from sailctl.core.errors import Interrupted, UsageError
from sailctl.core.files import storage_errors
from sailctl.core.journal import Busy, Journal, read_records
from sailctl.core.records import Turn

PREDICTIONS = "predictions.jsonl"


@dataclass(frozen=True, slots=True)
class Answers:
    """A benchmark's answers by index. `texts` has all questions, those in `failed` with an empty text.

    `failed` says why there is no answer, `cut` are answers that reached the limit of new tokens, `asked` and `kept`
    count questions answered in this call and found answered before it.
    """

    texts: Mapping[str, str]
    failed: Mapping[str, str]
    cut: tuple[str, ...]
    asked: int
    kept: int


class Store:
    """Answers by key in a folder's journals, one for each worker; all are read, one is written.

    Raises UsageError where another process writes the same one, or where the file is none of ours.
    """

    def __init__(self, folder: Path, worker: int = 0) -> None:
        self.folder = folder
        path = folder / (f"predictions-{worker}.jsonl" if worker else PREDICTIONS)
        for place in folder.glob("predictions*.jsonl"):
            with open(place, "rb") as handle:
                if handle.read(1) == b"{":  # JSON without the sums of a journal: the answers of a suite of our own
                    raise UsageError(f"{place}: holds another suite's answers; choose another --out for this one")
        try:
            with storage_errors(path):
                self._journal = Journal.open(path)
        except Busy:
            raise UsageError(f"{path}: another bench is writing there; wait for it, or choose another --out") from None
        self._others: dict[str, dict[str, Any]] = {}
        for place in folder.glob("predictions*.jsonl"):
            if place != path:
                self._others |= read_records(place)

    def __contains__(self, key: str) -> bool:
        return key in self._journal or key in self._others

    def __len__(self) -> int:
        return len(self._others.keys() | set(self._journal.keys()))

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, key: str) -> dict[str, Any]:
        """`text` and `finish` of an answer; KeyError without one."""
        return self._journal.read(key) if key in self._journal else self._others[key]

    def add(self, key: str, text: str, finish: str) -> None:
        """Keep an answer; from here on no kill can undo it."""
        with storage_errors(self._journal.path):
            self._journal.append(key, {"text": text, "finish": finish})

    @property
    def due(self) -> bool:
        """Whether there is enough to be brought to the disk."""
        return self._journal.due

    def sync(self) -> None:
        """Wait for the disk."""
        with storage_errors(self._journal.path):
            self._journal.sync()

    def close(self) -> None:
        """Sync and let go of the folder."""
        self._journal.close()


@dataclass(frozen=True, slots=True)
class _Open:
    """A question to be asked."""

    key: str
    questions: Questions
    position: int


def answer_all(
    engine: Engine,
    sets: Sequence[Questions],
    store: Store,
    *,
    identity: str | None = None,
    share: tuple[int, int] = (0, 1),
    reporter: Reporter | None = None,
) -> dict[str, Answers]:
    """Ask what is not answered yet, greedily, and return every benchmark's answers by its name; closes the engine.

    `identity` names all that answers depend on, the engine's `model` by default. As worker `share[0]` of `share[1]`
    only this part of the questions is asked, and others' answers are those in the store when it was opened. Raises
    Interrupted at Ctrl-C, PoolStopped where no endpoint is left, StorageError; what was answered is kept in any case.
    """
    who = identity or engine.model
    waiting = _waiting(engine, sets, store, who, share)
    before = {key_of(who, one, position) for one in sets for position in range(len(one))}
    kept = {key for key in before if key in store}
    if reporter is not None:
        reporter.start("answers", len(kept) + len(waiting), completed=len(kept), unit="answers")
    failed: dict[str, str] = {}

    def tell(done: int) -> None:
        if reporter is not None:
            reporter.update(len(kept) + done)

    try:
        asyncio.run(_ask(engine, waiting, store, failed, tell))
    except KeyboardInterrupt:
        raise Interrupted(
            f"the answers so far are kept in {store.folder}; the same command asks only the others"
        ) from None
    finally:
        store.sync()
        if reporter is not None:
            reporter.finish()
    return {one.benchmark.name: _collect(one, store, who, failed, kept) for one in sets}


def answer(engine: Engine, questions: Questions, store: Store, **options: Any) -> Answers:
    """`answer_all` for one benchmark."""
    return answer_all(engine, [questions], store, **options)[questions.benchmark.name]


def key_of(identity: str, questions: Questions, position: int) -> str:
    """The key of a question's answer: a hash of who answers, prompt, pictures, tile limit and limit of new tokens."""
    limits = questions.benchmark.max_tiles, questions.benchmark.max_new_tokens
    told = repr((identity, questions.content(position), *limits))
    return hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _waiting(
    engine: Engine, sets: Sequence[Questions], store: Store, identity: str, share: tuple[int, int]
) -> list[_Open]:
    """What this worker has to ask, each key once, in the order in which it is best asked.

    The tail of a benchmark overlaps with the head of the next.
    """
    waiting: list[_Open] = []
    seen: set[str] = set()
    for questions in sets:
        part = []
        for position, index in enumerate(questions.indexes):
            key = key_of(identity, questions, position)
            if index in questions.rejects or key in store or key in seen or int(key[:8], 16) % share[1] != share[0]:
                continue
            seen.add(key)
            part.append(_Open(key, questions, position))
        waiting += _by_length(engine, questions, part)
    return waiting


def _by_length(engine: Engine, questions: Questions, part: list[_Open]) -> list[_Open]:
    """For a model of this process, questions of like length together, and within these those about one picture.

    So a batch has little padding, and a picture is encoded once. The longest come first, that memory which does not
    suffice shows at once. Endpoints do their own batching: they are asked in the table's order.
    """
    visual_tokens: Callable[..., int] | None = getattr(engine, "visual_tokens", None)
    if visual_tokens is None:
        return part
    groups, longest, keys = questions.groups, Counter[str](), {}
    for one in part:
        chars, _ = questions.size(one.position)
        longest[groups[one.position]] = max(chars, longest[groups[one.position]])
    for one in part:
        group, (chars, sizes) = groups[one.position], questions.size(one.position)
        visual = visual_tokens(sizes, questions.benchmark.max_tiles)
        keys[one.key] = (-visual, -longest[group], group, -chars)
    return sorted(part, key=lambda one: keys[one.key])


async def _ask(
    engine: Engine, waiting: Sequence[_Open], store: Store, failed: dict[str, str], tell: Callable[[int], None]
) -> None:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, "disk") as disk:

        async def asks() -> AsyncIterator[Ask]:
            for one in waiting:
                question: Question = await loop.run_in_executor(disk, one.questions.__getitem__, one.position)
                limits = one.questions.benchmark
                turns = (Turn("user", question.prompt),)
                yield Ask(
                    one.key, turns, question.images, limits.max_new_tokens, max_tiles=limits.max_tiles
                )  # fmt: skip

        done = 0
        outcomes = engine.run(asks())
        try:
            if not waiting:
                return
            async for outcome in outcomes:
                if isinstance(outcome, Failed):
                    failed[outcome.key] = f"{outcome.reason}: {outcome.detail}"
                else:
                    store.add(outcome.key, outcome.text, outcome.finish)
                    if store.due:
                        await loop.run_in_executor(disk, store.sync)
                done += 1
                tell(done)
        finally:
            if (close := getattr(outcomes, "aclose", None)) is not None:
                await close()
            await engine.close()


def _collect(questions: Questions, store: Store, identity: str, failed: Mapping[str, str], kept: set[str]) -> Answers:
    """What is known of a benchmark's questions."""
    texts: dict[str, str] = {}
    reasons: dict[str, str] = {}
    cut: list[str] = []
    num_kept = 0
    for position, index in enumerate(questions.indexes):
        key = key_of(identity, questions, position)
        texts[index] = ""
        if (reject := questions.rejects.get(index)) is not None:
            reasons[index] = f"{reject.reason}: {reject.detail}"
        elif key in store:
            said = store.read(key)
            texts[index] = said["text"]
            num_kept += key in kept
            if said["finish"] == "length":
                cut.append(index)
        else:
            reasons[index] = failed.get(key, "not asked: another worker's part")
    return Answers(texts, reasons, tuple(cut), len(texts) - len(reasons) - num_kept, num_kept)
