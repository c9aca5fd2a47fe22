"""Groups of samples with defects that we planted ourselves: the ground truth that valuation is measured against.

A group is a folder with `samples.jsonl` (LLaVA conversations) and its pictures beside it. Its samples come from the
generator of held-in questions; what is wrong with them is done here, by a seed, and is known exactly:

    clean          questions and answers as they were made
    shuffled       every answer belongs to another sample of the group
    half-shuffled  so for a seeded half of them, the other half is clean
    duplicated     a handful of samples, over and over
    off-domain     clean, but of a task that is not measured: codes to be read off
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sailctl.core.data.synth import generate, item_to_record
from sailctl.core.data.synth.layouts import encode_jpeg
from sailctl.core.files import atomic_write

Kind = Literal["clean", "shuffled", "half-shuffled", "duplicated", "off-domain"]
KINDS: tuple[Kind, ...] = get_args(Kind)

QUESTIONS: dict[str, float] = {"closed_vqa": 2, "open_vqa": 3}
OFF_DOMAIN: dict[str, float] = {"ocr_code": 1}
SHUFFLED_SHARE = {"shuffled": 1.0, "half-shuffled": 0.5}
DISTINCT = 8  # samples of a duplicated group that are not copies


@dataclass(frozen=True, slots=True)
class Group:
    """A planted group: what is wrong with it, how many samples of which tasks (with weights) and levels."""

    kind: Kind
    samples: int
    seed: int
    tasks: Mapping[str, float] | None = None  # None: QUESTIONS, or OFF_DOMAIN for that kind
    levels: Sequence[int] = (1,)


def make_group(group: Group, folder: Path) -> Path:
    """Write the group unless it is there; returns its `samples.jsonl`. The same group gives the same bytes."""
    target = folder / "samples.jsonl"
    if target.exists():
        return target
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = _clean(group, folder)
    share = SHUFFLED_SHARE.get(group.kind, 0.0)
    if share:
        shuffle_answers(rows, share, group.seed)
    if group.kind == "duplicated":
        rows = [rows[number % len(rows)] | {"id": f"{group.seed}-{number:06d}"} for number in range(group.samples)]
    with atomic_write(target, "w") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return target


def shuffle_answers(rows: list[dict[str, Any]], share: float, seed: int) -> list[int]:
    """Pass the answers of a seeded share of the rows around among them, in place: none of these keeps its own.

    Returns which rows they are. Answers may still be right by chance, where many samples have the same.
    """
    draw = random.Random(f"shuffle {seed}")
    chosen = draw.sample(range(len(rows)), round(share * len(rows)))
    answers = [rows[at]["conversations"][-1]["value"] for at in chosen]
    for at, answer in zip(chosen, answers[1:] + answers[:1], strict=True):
        rows[at]["conversations"][-1]["value"] = answer
    return sorted(chosen)


def _clean(group: Group, folder: Path) -> list[dict[str, Any]]:
    """The distinct samples of a group as they were made, their pictures written."""
    tasks = group.tasks or (OFF_DOMAIN if group.kind == "off-domain" else QUESTIONS)
    draw = random.Random(f"tasks {group.seed}")
    count = min(group.samples, DISTINCT) if group.kind == "duplicated" else group.samples
    # Dealt like cards, so that every stretch holds the tasks in proportion.
    deck = [task for task, weight in tasks.items() for _ in range(max(1, round(weight)))]
    rows = []
    for number in range(count):
        if number % len(deck) == 0:
            draw.shuffle(deck)
        level = group.levels[draw.randrange(len(group.levels))]
        item = generate(deck[number % len(deck)], level, group.seed, number, "train")
        record = item_to_record(item, f"{group.seed}-{number:06d}")
        picture = encode_jpeg(item)
        if picture is not None:
            name = f"images/{number:06d}.jpg"
            with atomic_write(folder / name) as file:
                file.write(picture)
            record["image"] = name
        rows.append(record)
    return rows
