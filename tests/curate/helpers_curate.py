"""Data and functions for tests of passes; in a module of their own, for workers import them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sailctl.core.curate.parts import Row
from sailctl.core.curate.passes import verdict_table


def captions_tar(path: Path, captions: Sequence[str], pictures: Sequence[bytes] | None = None) -> Path:
    """A tar in img2dataset layout, a picture of its own for every caption unless given."""
    from tests.helpers_data import picture, write_tar  # which imports torch, and workers do without

    members: list[tuple[str, bytes]] = []
    for number, text in enumerate(captions):
        members.append((f"{number:06d}.png", picture(number) if pictures is None else pictures[number]))
        members.append((f"{number:06d}.txt", text.encode()))
    return write_tar(path, members)


@dataclass(frozen=True)
class LongEnough:
    """Keeps captions of so many characters; slow where that is wanted."""

    characters: int
    pause_s: float = 0.0

    def __call__(self, rows: Iterator[Row]) -> Any:
        """A verdict for every row."""
        records = []
        for row in rows:
            time.sleep(self.pause_s)
            if row.error is not None:
                records.append({**row.place(), "keep": False, "reason": row.error.reason, "detail": row.error.detail})
                continue
            assert row.sample is not None
            keep = len(row.sample.turns[0].text) >= self.characters
            records.append({**row.place(), "keep": keep, "reason": "" if keep else "short", "detail": ""})
        return verdict_table(records)


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def verdicts(rows: Iterable[dict[str, Any]]) -> list[tuple[str, bool, str]]:
    """Key, keep and reason of verdicts."""
    return [(row["key"], row["keep"], row["reason"]) for row in rows]
