"""The ledger: every trial ever made in a workspace, with its score, its cost and where it came from; and all decisions.

One SQLite file. A trial's key stands for all that its score may depend on (`Spec.key`), so an equal one is found and
not trained again, and another suite, recipe or parent never mixes with it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from sailctl.core.errors import DataError, StorageError, UsageError
from sailctl.core.journal import try_lock
from sailctl.core.valuation.seam import Outcome, Trial

FILE, LOCK = "ledger.sqlite", ".lock"
VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS trials (
  key TEXT PRIMARY KEY, recipe TEXT NOT NULL, suite TEXT NOT NULL, parent TEXT, seed INTEGER NOT NULL,
  samples INTEGER NOT NULL, mixture TEXT NOT NULL, manifest TEXT NOT NULL, score REAL, n INTEGER NOT NULL,
  items BLOB, weights BLOB, ids TEXT, error TEXT NOT NULL, train_s REAL NOT NULL, bench_s REAL NOT NULL,
  predicted_s REAL, folder TEXT NOT NULL, made TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS decisions (
  key TEXT PRIMARY KEY, command TEXT NOT NULL, request TEXT NOT NULL, result TEXT NOT NULL, trials TEXT NOT NULL,
  samples INTEGER NOT NULL, predicted_s REAL, actual_s REAL NOT NULL, made TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A trial as it goes into the ledger; seconds are of the device that ran it."""

    key: str
    recipe: str
    suite: str
    parent: str | None
    trial: Trial
    manifest: list[list[str | int]]
    outcome: Outcome
    train_s: float
    bench_s: float
    predicted_s: float | None
    folder: str


@contextmanager
def workspace(folder: Path, *, look_only: bool = False) -> Iterator[Ledger]:
    """The ledger of a workspace, made if absent; one campaign at a time, a second gets a UsageError.

    To `look_only` writes nothing there and takes no turn: the ledger is a copy as of now.
    """
    if look_only:
        with closing(Ledger(folder / FILE, copy=True)) as ledger:
            yield ledger
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / LOCK, "a", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        raise StorageError(f"{folder}: cannot be used as a workspace: {error.strerror}") from None
    with handle:
        if not try_lock(handle, folder / LOCK):
            raise UsageError(f"{folder} is in use by another evaluation; wait for it, or give another --workspace")
        with closing(Ledger(folder / FILE)) as ledger:
            try:
                yield ledger
            except sqlite3.Error as error:
                kept = "move it away to begin anew; trials that were finished are found in their folders"
                raise DataError(f"{ledger.path}: is a damaged ledger: {error}; {kept}") from None


class Ledger:
    """An open ledger, or a `copy` of one in memory. Raises DataError where the file is none or of a later version."""

    def __init__(self, path: Path, *, copy: bool = False) -> None:
        self.path = path
        try:
            self._rows = sqlite3.connect(":memory:" if copy else path, timeout=60, isolation_level=None)
            if copy and path.is_file():
                with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", timeout=60, uri=True)) as kept:
                    kept.backup(self._rows)
            self._rows.execute("PRAGMA synchronous = FULL")
            version = self._rows.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise DataError(f"{path}: is a ledger of version {version}, this sailctl writes {VERSION}; upgrade it")
            self._rows.executescript(_TABLES)
            self._rows.execute(f"PRAGMA user_version = {VERSION}")
        except sqlite3.Error as error:
            raise DataError(f"{path}: is no usable ledger: {error}; move it away to begin anew") from None

    def close(self) -> None:
        """Close the file."""
        self._rows.close()

    def outcome(self, key: str) -> Outcome | None:
        """The outcome of a trial; None where there is none."""
        row = self._rows.execute(
            "SELECT score, n, items, weights, ids, error FROM trials WHERE key = ?", (key,)
        ).fetchone()
        if row is None:
            return None
        score, n, items, weights, ids, error = row
        return Outcome(
            float("nan") if score is None else score,
            n,
            None if items is None else np.frombuffer(items),
            None if ids is None else (ids,),
            None if weights is None else np.frombuffer(weights),
            error,
        )

    def put(self, entry: Entry) -> None:
        """Keep a trial; one that is there already stays as it is, unless it had failed."""
        trial, outcome = entry.trial, entry.outcome
        values = (
            entry.key, entry.recipe, entry.suite, entry.parent, trial.seed, trial.samples,
            json.dumps(dict(trial.mixture), ensure_ascii=False), json.dumps(entry.manifest),
            None if outcome.error else outcome.score, outcome.n, _blob(outcome.items), _blob(outcome.weights),
            None if outcome.ids is None else "".join(outcome.ids), outcome.error, entry.train_s, entry.bench_s,
            entry.predicted_s, entry.folder, _now(),
        )  # fmt: skip
        marks = ", ".join("?" * len(values))
        with self._told():
            self._rows.execute("DELETE FROM trials WHERE key = ? AND error != ''", (entry.key,))
            self._rows.execute(f"INSERT OR IGNORE INTO trials VALUES ({marks})", values)

    def forget_failures(self) -> int:
        """Drop failed trials, so that they are tried again; returns how many."""
        with self._told():
            return self._rows.execute("DELETE FROM trials WHERE error != ''").rowcount

    def seconds(self, keys: set[str]) -> float:
        """Device seconds that these trials took."""
        rows = self._rows.execute("SELECT key, train_s + bench_s FROM trials")
        return float(sum(took for key, took in rows if key in keys))

    def first_error(self, keys: set[str]) -> str:
        """Why the first of these trials that failed did; empty where none did."""
        return next((row["error"] for row in self.rows() if row["error"] and row["key"] in keys), "")

    def rows(self) -> list[dict[str, Any]]:
        """All trials without their items, in the order they were made."""
        names = "key recipe suite parent seed samples mixture score n error train_s bench_s predicted_s folder made"
        columns = names.split()
        found = self._rows.execute(f"SELECT {', '.join(columns)} FROM trials ORDER BY rowid")
        return [dict(zip(columns, row, strict=True)) | {"mixture": json.loads(row[6])} for row in found]

    def of_other_suites(self, recipe: str, suite: str) -> int:
        """Trials of this recipe scored on another suite (or version of it): there, and not used."""
        query = "SELECT count(*) FROM trials WHERE recipe = ? AND suite != ?"
        return int(self._rows.execute(query, (recipe, suite)).fetchone()[0])

    def fact(self, key: str, make: Callable[[], Any]) -> Any:
        """A value that is dear to find out and does not change, from the ledger, or made and kept."""
        row = self._rows.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        if row is not None:
            return json.loads(row[0])
        value = make()
        with self._told():
            self._rows.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, json.dumps(value)))
        return value

    def decision(self, key: str) -> dict[str, Any] | None:
        """A decision made before on the very same question; None where there is none."""
        row = self._rows.execute("SELECT result FROM decisions WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def decide(self, key: str, command: str, request: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Keep a decision with the question and the trials it rests on (`result["cost"]`, `result["trials"]`)."""
        cost = result["cost"]
        values = (
            key, command, json.dumps(request, ensure_ascii=False), json.dumps(result, ensure_ascii=False),
            json.dumps(result["trials"]), cost["samples"], cost["predicted_s"], cost["actual_s"], _now(),
        )  # fmt: skip
        with self._told():
            self._rows.execute(f"INSERT OR REPLACE INTO decisions VALUES ({', '.join('?' * len(values))})", values)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"{self.path}: cannot be written: {error}; what is in it stays") from None


def digest(value: Any) -> str:
    """blake2b-128 (32 hex digits) of a JSON value."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _blob(values: np.ndarray | None) -> bytes | None:
    return None if values is None else np.ascontiguousarray(values, dtype=np.float64).tobytes()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
