"""What is judged and by whom: a seeded draw of samples, whom each falls to, in which order, which text on which side.

All of it is decided once, from the data and the seed, and written down as `items.jsonl`; no clock, no chance.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sailctl.core import files
from sailctl.core.curate.judge.pairs import References, caption_of
from sailctl.core.curate.parts import Data, Part, Row
from sailctl.core.data.order import permute
from sailctl.core.errors import DataError, UsageError
from sailctl.core.records import IMAGE_PLACEHOLDER

ITEMS = "items.jsonl"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to judge. `origin` and `ordinal` are where its pictures are read; `annotators` whom it falls to.

    `turns` are roles and texts as they are shown, `candidate` the caption among them, `reference` the other one of a
    pair.
    """

    number: int
    id: str
    source: str
    shard: str
    row: int
    key: str
    origin: int
    ordinal: int
    turns: tuple[tuple[str, str], ...]
    candidate: str
    reference: str | None = None
    annotators: tuple[str, ...] = ()

    def place(self) -> dict[str, Any]:
        """The columns by which an opinion knows its sample."""
        return {"id": self.id, "source": self.source, "shard": self.shard, "row": self.row, "key": self.key}


def draw(
    data: Data, count: int, seed: int, *, whole: bool = False, references: References | None = None
) -> tuple[list[Item], dict[str, int]]:
    """`count` samples with a picture and an answer in seeded order, fewer where there are no more; what was left out.

    `whole` conversations are shown, else the caption alone, for what stands around it would tell it from a reference.
    A sample that comes again counts once. With `references` only samples that have one are drawn. Raises UsageError
    where not one can be drawn.
    """
    ends = [0]
    for source in data.sources:
        ends.append(ends[-1] + len(source))
    items: list[Item] = []
    left_out: Counter[str] = Counter()
    seen: set[str] = set()
    for place in range(ends[-1]):
        if len(items) == count:
            break
        ordinal = permute(place, ends[-1], seed, 0, 0)
        origin = next(number for number, end in enumerate(ends[1:]) if ordinal < end)
        first = ordinal - ends[origin]
        row = next(data.rows(Part(origin, first, first + 1, "")))
        found = _item(row, origin, first, whole, references)
        if isinstance(found, str):
            left_out[found] += 1
        elif found.id in seen:
            left_out["seen"] += 1
        else:
            seen.add(found.id)
            items.append(replace(found, number=len(items)))
    if not items:
        why = ", ".join(f"{name} {number}" for name, number in sorted(left_out.items()))
        raise UsageError(f"--data: no sample with a picture and an answer can be drawn ({why})")
    return items, dict(sorted(left_out.items()))


def _item(row: Row, origin: int, ordinal: int, whole: bool, references: References | None) -> Item | str:
    """A sample as something to judge, or why it is none."""
    sample = row.sample
    if sample is None:
        return "unreadable" if row.error is None else row.error.reason
    if not sample.images:
        return "no_image"
    if not caption_of(sample):
        return "no_answer"
    if whole and not any(turn.role == "user" for turn in sample.turns):
        return "no_question"
    reference = None if references is None else references.find(sample)
    if references is not None and reference is None:
        return "no_reference"
    turns: tuple[tuple[str, str], ...] = (("assistant", caption_of(sample)),)
    if whole:
        turns = tuple((turn.role, turn.text.replace(IMAGE_PLACEHOLDER, " ").strip()) for turn in sample.turns)
    place = (row.source, row.shard, row.row, row.key, origin, ordinal)
    return Item(0, sample.id, *place, turns, caption_of(sample), reference)


def assign(items: Sequence[Item], annotators: Sequence[str], double: float, seed: int) -> list[Item]:
    """Give every item to an annotator, by turns, and a seeded share of them to a second one.

    A share rounds to the nearest number of items, one at least where it is not 0. The second is whoever has the least
    to do by then. One annotator alone has no second.
    """
    twice: set[int] = set()
    if double > 0 and len(annotators) > 1:
        share = min(len(items), max(1, math.floor(double * len(items) + 0.5)))
        # First items take turns as well, so that nobody's are judged again more often than another one's.
        order = sorted(range(len(items)), key=lambda number: _mix(seed, "double", number))
        ranks: Counter[int] = Counter()
        rank: dict[int, int] = {}
        for number in order:
            rank[number] = ranks[number % len(annotators)]
            ranks[number % len(annotators)] += 1
        twice = set(sorted(order, key=lambda number: rank[number])[:share])
    chosen: list[tuple[str, ...]] = [(annotators[number % len(annotators)],) for number in range(len(items))]
    load = {name: sum(name in who for who in chosen) for name in annotators}
    for number in sorted(twice):
        second = min((name for name in annotators if name not in chosen[number]), key=lambda name: load[name])
        load[second] += 1
        chosen[number] = (*chosen[number], second)
    return [replace(item, annotators=who) for item, who in zip(items, chosen, strict=True)]


def order_for(items: Sequence[Item], annotator: str, seed: int) -> list[Item]:
    """An annotator's items in an order of their own."""
    mine = [item for item in items if annotator in item.annotators]
    return sorted(mine, key=lambda item: _mix(seed, "order", annotator, item.number))


def is_swapped(item: Item, annotator: str, seed: int) -> bool:
    """Whether this annotator sees the reference first."""
    return _mix(seed, "side", annotator, item.number)[0] & 1 == 1


def _mix(*parts: object) -> bytes:
    return hashlib.blake2b("\0".join(map(str, parts)).encode("utf-8", "surrogatepass"), digest_size=8).digest()


def write_items(path: Path, items: Sequence[Item]) -> None:
    """Write the items down, whole or not at all."""
    with files.atomic_write(path) as handle:
        for item in items:
            handle.write((json.dumps(asdict(item), ensure_ascii=True) + "\n").encode())


def read_items(path: Path) -> list[Item]:
    """The items as they were written down. Raises DataError where the file is damaged."""
    try:
        return [_restored(record) for record in files.read_jsonl(path)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path} cannot be read: {error}; give another --out") from error


def _restored(record: dict[str, Any]) -> Item:
    turns = tuple((str(role), str(text)) for role, text in record["turns"])
    return Item(**{**record, "turns": turns, "annotators": tuple(record["annotators"])})
