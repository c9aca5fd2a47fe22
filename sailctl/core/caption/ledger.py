"""The books of one unit of work: what was read, asked, answered and given up, until all of it is sealed.

The journal holds a record a row (`r17`: the sample's id and its questions, or why it was refused), one an answered
question, by the question's name, and one for a first try that was of no use (`t` before that name). A question's name
is a hash of sample, task, prompt, model and parameters, so equal samples of a unit are asked once.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sailctl.core.caption import sidecar
from sailctl.core.caption.job import JOURNALS, QUARANTINE, Job, Unit
from sailctl.core.errors import SampleError
from sailctl.core.files import atomic_write, base_name, fsync_dir, read_jsonl, storage_errors
from sailctl.core.journal import Journal
from sailctl.core.records import Turn

HEADER = "unit"
_PICTURES = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}


class Ledger:
    """A unit in work, its journal open and locked. For one thread, but for `sync` and what `seal.py` does."""

    def __init__(self, job: Job, unit: Unit, digest: str, journal: Journal) -> None:
        self.job = job
        self.unit = unit
        self.digest = digest
        self.journal = journal
        self.resumed = len(journal) > 0  # somebody worked on it before, and may have been killed at any instant
        self.reopened = False  # it was sealed: its rows are read anew, whether anything is asked of them or not
        self.changed = ""  # how its data shard is another than when it was begun
        self.unread = 0  # rows not yet noted in this session
        self.waiting: set[str] = set()  # questions put and not yet answered

    @classmethod
    def open(cls, job: Job, unit: Unit, digest: str, *, retry: bool, only: str = "") -> Ledger | None:
        """Take up a unit where it stands; None when it is sealed and whole. `digest` stands for its shard's content.

        With `retry` what was quarantined counts as not yet asked, or that of the sample `only`. A sealed file that was
        damaged since is made again: what the others hold is kept. Of a shard that has changed before it was sealed the
        rows are read anew, and answers to samples that are still there are kept. Raises Busy, StorageError.
        """
        path = job.out / JOURNALS / f"{unit.name}.jsonl"
        with storage_errors(path):
            journal = Journal.open(path)
            fsync_dir(path.parent)
        try:
            ledger = cls(job, unit, digest, journal)
            manifest = sidecar.read_manifest(job.out, unit.name)
            if manifest is not None:
                damaged = sidecar.damaged_files(job.out, manifest)
                if not damaged and not (retry and manifest["reasons"]["quarantined"]):
                    journal.remove()
                    return None
                ledger._unseal(manifest, damaged, retry, only)
            ledger._begin(retry and not only)
        except BaseException:
            journal.close()
            raise
        return ledger

    def _begin(self, retry: bool) -> None:
        unit = self.unit
        mine = {"shard": base_name(unit.shard.path), "rows": [unit.start, unit.stop], "digest": self.digest}
        if HEADER not in self.journal:
            self._note(HEADER, mine)
        found = self.journal.read(HEADER)
        if found != mine:
            self.changed = f"{unit.shard.path} has changed since its captions were begun; its samples are read anew"
            for key in self.journal.keys():  # noqa: SIM118 - a journal is no dict
                if key != HEADER and key[0] == "r":
                    self._note(key, {})
            self._note(HEADER, mine)  # the last: killed before it, this is done again
        if retry:
            for key in self.journal.keys():  # noqa: SIM118 - a journal is no dict
                if key != HEADER and key[0] != "r" and "reason" in self.journal.read(key):
                    self.journal.forget(key)
                    if f"t{key}" in self.journal:
                        self.journal.forget(f"t{key}")

    def _unseal(self, manifest: dict[str, Any], damaged: dict[str, str], retry: bool, only: str) -> None:
        """Put what a sealed unit holds back into the journal; its rows are read anew."""
        self.reopened = True
        out, kept = (
            self.job.out,
            ("text", "turns", "prompt_id", "finish", "prompt_tokens", "completion_tokens", "created"),
        )
        for task in self.job.tasks:
            if str(self.sidecar(task).relative_to(out)) not in damaged:
                for row in sidecar.read_sidecar(self.sidecar(task)):
                    if row["question"] not in self.journal:
                        self._note(row["question"], {"task": task, "attempts": 0, **{key: row[key] for key in kept}})
        given_up = f"{QUARANTINE}/{self.unit.name}.jsonl"
        if given_up in manifest["files"] and given_up not in damaged:
            for row in read_jsonl(out / given_up):
                if not (retry and (not only or is_of(row, only))):
                    self._note(
                        row["question"], {key: row[key] for key in ("task", "reason", "detail", "attempts", "images")}
                    )
        self._begin(retry=False)
        self.sync()
        with storage_errors(self.journal.path):
            sidecar.manifest_path(out, self.unit.name).unlink()

    # --- rows and answers ----------------------------------------------------------------------------------------

    def rows_to_read(self) -> list[int]:
        """Rows of which something is still to be found out; they count as unread from now on."""
        rows = []
        for row in range(self.unit.start, self.unit.stop):
            if f"r{row}" in self.journal:
                read = self.journal.read(f"r{row}")  # empty where the shard has changed since
                if read and all(name in self.journal for name in read["asks"].values()):
                    continue
            rows.append(row)
        self.unread = len(rows)
        return rows

    def note_row(self, row: int, sample_id: str, key: str, asks: dict[str, str], refused: list[dict[str, str]]) -> None:
        """A sample was read: the names of its questions by task, and tasks that cannot be asked of it."""
        record = {"id": sample_id, "key": key, "asks": asks, "refused": refused}
        if f"r{row}" not in self.journal or self.journal.read(f"r{row}") != record:
            self._note(f"r{row}", record)
        self.unread -= 1

    def note_reject(self, row: int, error: SampleError) -> None:
        """A row is no sample."""
        refused = [{"task": "", "reason": error.reason, "detail": error.detail}]
        self.note_row(row, "", error.key, {}, refused)

    def note_answer(self, name: str, task: str, record: dict[str, Any], turns: tuple[Turn, ...] | None) -> None:
        """A question is answered."""
        told = None if turns is None else [{"role": turn.role, "content": turn.text} for turn in turns]
        self._note(name, {"task": task, "turns": told, "created": now(), **record})
        self.waiting.discard(name)

    def note_try(self, name: str, attempts: int) -> None:
        """A first answer was of no use; the question is asked once more."""
        self._note(f"t{name}", {"attempts": attempts})

    def tries(self, name: str) -> int:
        """Requests that were spent on a first answer of no use; 0 if there was none."""
        return int(self.journal.read(f"t{name}")["attempts"]) if f"t{name}" in self.journal else 0

    def note_failure(
        self, name: str, task: str, reason: str, detail: str, attempts: int, row: int, images: tuple[bytes, ...]
    ) -> None:
        """A question is given up; its pictures are kept beside what is said of it."""
        kept = []
        for number, image in enumerate(images):
            path = self.pictures / f"{row}-{number}.{_ending(image)}"
            with atomic_write(path) as handle:
                handle.write(image)
            kept.append(str(path.relative_to(self.job.out)))
        self._note(name, {"task": task, "reason": reason, "detail": detail, "attempts": attempts, "images": kept})
        self.waiting.discard(name)

    def answer(self, name: str) -> dict[str, Any] | None:
        """What is known of a question: an answer, or a failure with its `reason`; None while nothing is."""
        return self.journal.read(name) if name in self.journal else None

    @property
    def is_complete(self) -> bool:
        """Whether every row is read and every question answered or given up."""
        return not self.unread and not self.waiting

    def _note(self, key: str, record: dict[str, Any]) -> None:
        with storage_errors(self.journal.path):
            self.journal.append(key, record)

    def sync(self) -> None:
        """Bring the journal to the disk."""
        with storage_errors(self.journal.path):
            self.journal.sync()

    def close(self) -> None:
        """Leave the unit as it stands, for the next run to take up."""
        with storage_errors(self.journal.path):
            self.journal.close()

    def sidecar(self, task: str) -> Path:
        """Where the captions of a task are sealed."""
        return self.job.out / self.job.folder(task) / f"{self.unit.name}.parquet"

    @property
    def pictures(self) -> Path:
        """The folder of pictures whose questions were given up."""
        return self.job.out / QUARANTINE / self.unit.name


def is_of(row: dict[str, Any], sample: str) -> bool:
    """Whether a row is of the sample of this id or key."""
    return sample in (row["id"], row["key"])


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _ending(image: bytes) -> str:
    return next((ending for magic, ending in _PICTURES.items() if image.startswith(magic)), "bin")
