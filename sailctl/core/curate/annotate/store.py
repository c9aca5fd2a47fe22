"""The answers of an annotator: each on the disk before it is said to be saved, the last one of a field counts.

One journal an annotator in `answers/`, held by the server that writes it; whoever only reads needs no lock.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sailctl.core.curate.annotate.items import Item
from sailctl.core.curate.judge.opinions import PERSON, SCALES, item_of
from sailctl.core.errors import UsageError
from sailctl.core.files import fsync_dir
from sailctl.core.journal import Busy, Journal, read_records

ANSWERS = "answers"
SKIP = "skip"
SKIP_REASON = "broken"
CRITERIA = {
    "quality": ("hallucination", "inaccuracy", "omission", "fluency"),
    "sft": ("difficulty", "complexity", "relevance"),
    "gsb": (),
}
PREFERENCE = "preference"
CANDIDATE, REFERENCE = "candidate", "reference"  # whom a field is about: "candidate.fluency"


def fields_of(task: str, *, pair: bool) -> tuple[str, ...]:
    """What is asked of an item, in order: of a pair first which is better, then each text by itself."""
    sides = (CANDIDATE, REFERENCE) if pair else (CANDIDATE,)
    scores = tuple(f"{side}.{criterion}" for side in sides for criterion in CRITERIA[task])
    return (PREFERENCE, *scores) if pair else scores


def scale_of(task: str, field: str) -> tuple[int, int]:
    """Lowest and highest value of a field."""
    low, high = SCALES["gsb"][PREFERENCE] if field == PREFERENCE else SCALES[task][field.partition(".")[2]]
    return int(low), int(high)


def journal_path(out: Path, annotator: str) -> Path:
    """Where an annotator's answers are noted."""
    return out / ANSWERS / f"{annotator}.journal"


class Answers:
    """What an annotator has said of their items; `state` is item number → field → value."""

    def __init__(self, fields: Sequence[str], numbers: Iterable[int]) -> None:
        self.fields = tuple(fields)
        self.state: dict[int, dict[str, Any]] = {number: {} for number in numbers}

    @classmethod
    def read(cls, path: Path, fields: Sequence[str], numbers: Iterable[int]) -> Answers:
        """The answers of a journal that may be written meanwhile; none where there is no journal."""
        answers = cls(fields, numbers)
        for key, record in read_records(path).items():
            answers.take(key, record)
        return answers

    def take(self, key: str, record: dict[str, Any]) -> None:
        """Take over a record of the journal."""
        number, _, field = key.partition(" ")
        known = self.state.get(int(number)) if number.isdecimal() else None
        if known is None or field not in (*self.fields, SKIP):
            return
        known.pop(field, None)  # so that the one said last stands last
        if record.get("value") is not None:
            known[field] = record["value"]

    def skipped(self, number: int) -> bool:
        """Whether the item was passed over."""
        return SKIP in self.state[number]

    def is_complete(self, number: int) -> bool:
        """Whether everything that is asked has been answered."""
        return not self.skipped(number) and all(field in self.state[number] for field in self.fields)

    def is_done(self, number: int) -> bool:
        """Whether nothing is left to do: answered, or passed over."""
        return self.skipped(number) or self.is_complete(number)

    @property
    def done(self) -> int:
        """Items with nothing left to do."""
        return sum(self.is_done(number) for number in self.state)


class Book(Answers):
    """Answers under way, with the journal they go to. Threads may use it at once."""

    def __init__(self, path: Path, fields: Sequence[str], numbers: Iterable[int]) -> None:
        super().__init__(fields, numbers)
        try:
            self._journal = Journal.open(path)
        except Busy as error:
            raise UsageError(
                f"{path}: another sailctl curate annotate is running in this --out; use its addresses, or stop it first"
            ) from error
        fsync_dir(path.parent)
        fsync_dir(path.parent.parent)
        self._turn = threading.Lock()
        for key in self._journal.keys():  # noqa: SIM118 - no mapping
            self.take(key, self._journal.read(key))

    def note(self, number: int, field: str, value: int | str | None) -> dict[str, Any]:
        """Note an answer (None takes it back) and wait for the disk; what is now said of the item.

        Answering something that was passed over takes that back. Raises OSError where the disk refuses: then nothing
        has changed.
        """
        with self._turn:
            if field != SKIP and value is not None and self.skipped(number):
                self._write(number, SKIP, None)
            self._write(number, field, value)
            self._journal.sync()
            return dict(self.state[number])

    def _write(self, number: int, field: str, value: int | str | None) -> None:
        key, record = f"{number} {field}", {"value": value}
        self._journal.append(key, record)
        self.take(key, record)

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()


def opinions(task: str, items: Sequence[Item], answers: dict[str, Answers]) -> list[dict[str, Any]]:
    """The records of all items that are complete, in the order of items, annotators and fields."""
    records = []
    for item in items:
        for name in item.annotators:
            if answers[name].is_complete(item.number):
                said = answers[name].state[item.number]
                records += [_opinion(task, item, name, field, said[field]) for field in answers[name].fields]
    return records


def _opinion(task: str, item: Item, annotator: str, field: str, value: int) -> dict[str, Any]:
    candidate, reference = item.candidate, item.reference or ""
    side, _, criterion = field.partition(".")
    if field == PREFERENCE:
        task, criterion, texts = "gsb", PREFERENCE, [candidate, reference]
    elif task == "sft":
        texts = []
    else:
        texts = [candidate if side == CANDIDATE else reference]
    judged = {"item": item_of(item.id, *texts), "task": task, "criterion": criterion, "value": float(value)}
    return {**item.place(), **judged, "judge": f"{PERSON}{annotator}", "round": 0}
