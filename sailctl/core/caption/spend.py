"""What a job has spent: tokens and requests, every answer of use or not, over all its runs.

Each worker keeps a small record of its own, written when a request ends: a kill forgets what was in flight, no more.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sailctl.core.errors import StorageError
from sailctl.core.files import storage_errors
from sailctl.core.journal import SYNC_SECONDS, try_lock

FOLDER = "spent"
TOKENS = ("prompt", "completion", "unreported_prompt", "unreported_completion")
COUNTED = (*TOKENS, "uncounted", "requests")  # uncounted are answers whose tokens no server told
RECORD_BYTES = 256  # one write of less than a disk's sector: there as it was, or as it is


class Spent:
    """One worker's record; in memory only where it has no file. `session` counts from when it was opened."""

    def __init__(self, handle: IO[bytes] | None = None, path: Path | None = None) -> None:
        self.session: Counter[str] = Counter()
        self._handle, self._path = handle, path
        self._before: Counter[str] = Counter() if path is None else _read(path)
        self._noted = False  # since the last sync
        self._synced_at = time.monotonic()

    @classmethod
    def open(cls, out: Path, worker: int, workers: int) -> Spent:
        """The record of a worker, made if absent. Raises StorageError."""
        folder = out / FOLDER
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for more in range(10_000):  # another command may be at the same share
                path = folder / f"{worker}-of-{workers}{f'.{more}' if more else ''}.json"
                handle = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
                if try_lock(handle, path):
                    return cls(handle, path)
                handle.close()
        raise StorageError(f"{folder}: every record is in use")

    def note(
        self, prompt: int, completion: int, requests: int = 1, *, reported: bool = True, answered: bool = True
    ) -> None:
        """A request ended; tokens that no server reported are estimated. Raises StorageError."""
        kind = "" if reported else "unreported_"
        self.session.update({f"{kind}prompt": prompt, f"{kind}completion": completion, "requests": requests})
        if answered and not reported:
            self.session["uncounted"] += 1
        if self._handle is not None and self._path is not None:
            total = self._before + self.session
            record = json.dumps({name: total[name] for name in COUNTED}).encode().ljust(RECORD_BYTES - 1) + b"\n"
            with storage_errors(self._path):
                os.pwrite(self._handle.fileno(), record, 0)
            self._noted = True

    @property
    def due(self) -> bool:
        """Whether it is worth waiting for the disk."""
        return self._noted and time.monotonic() - self._synced_at >= SYNC_SECONDS

    def sync(self) -> None:
        """Bring it to the disk."""
        if self._handle is not None and self._noted:
            self._noted, self._synced_at = False, time.monotonic()
            os.fdatasync(self._handle.fileno())

    def close(self) -> None:
        """Sync and let go of it."""
        if self._handle is not None:
            self.sync()
            self._handle.close()
            self._handle = None


def spent(out: Path) -> Counter[str]:
    """What the whole job has spent."""
    return sum((counts for _, _, counts in _records(out)), Counter())


def spent_by(out: Path, worker: int, workers: int) -> Counter[str]:
    """What counts against one worker's share: its own, and its part of what was spent when there were more or fewer."""
    mine: Counter[str] = Counter()
    for number, of, counts in _records(out):
        if of != workers:
            mine.update({name: -(-count // workers) for name, count in counts.items()})
        elif number == worker:
            mine.update(counts)
    return mine


def tokens(counts: Counter[str]) -> tuple[int, int]:
    """Prompt and completion tokens to pay for, reported or not."""
    return (
        counts["prompt"] + counts["unreported_prompt"],
        counts["completion"] + counts["unreported_completion"],
    )


def _records(out: Path) -> Iterator[tuple[int, int, Counter[str]]]:
    for path in sorted((out / FOLDER).glob("*-of-*.json")):
        worker, _, rest = path.name.partition("-of-")
        yield int(worker), int(rest.partition(".")[0]), _read(path)


def _read(path: Path) -> Counter[str]:
    text = path.read_bytes()
    try:
        found: dict[str, Any] = json.loads(text) if text.strip() else {}
        return Counter({name: int(found.get(name, 0)) for name in COUNTED})
    except (ValueError, AttributeError) as error:
        raise StorageError(
            f"{path}: what was spent cannot be read ({error}); remove it to go on, and lower --max-cost by what it held"
        ) from error
