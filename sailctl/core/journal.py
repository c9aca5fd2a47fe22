"""What was done, exactly once: an append-only journal of keyed records that outlives any kill.

Every record goes to the operating system at once, so a killed process loses nothing it has noted; a machine that loses
its power loses what `sync` had not yet brought to the disk. Who holds a journal open holds its lock. What the records
mean is its owner's business, and so is sealing what they add up to: then the journal is removed. Locks between
processes live here, too.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from sailctl.core.errors import StorageError

SYNC_BYTES = 1 << 20
SYNC_SECONDS = 1.0
_SUM = 9  # bytes before a record: eight hexadecimal digits of its CRC-32 and a space


class Busy(Exception):
    """Another process holds the journal."""


class Journal:
    """A file of lines `CRC32 {"k": key, …}`; of equal keys the last record counts. Only keys and places are in memory.

    `damaged` counts lines inside the file that do not agree with their sum: they are passed over, and what they noted
    is not known to be done. A torn end is cut off.
    """

    def __init__(self, path: Path, handle: IO[bytes]) -> None:
        self.path = path
        self.damaged = 0
        self._handle = handle
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0
        self._synced = 0  # bytes known to be on the disk
        self._synced_at = time.monotonic()

    @classmethod
    def open(cls, path: str | Path) -> Journal:
        """Open a journal, made if absent, and read what it knows.

        Raises Busy where another process holds it, OSError where the disk refuses. A new file is durable once its
        folder is synced, which is left to the owner.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = open(path, "ab+", buffering=0)  # noqa: SIM115 - the journal's own
            if not try_lock(handle, path):
                handle.close()
                raise Busy(path)
            if _is_still(path, handle):
                break
            handle.close()  # its holder removed it between our opening and our locking
        journal = cls(path, handle)
        journal._load()
        return journal

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def keys(self) -> list[str]:
        """Keys of all records, in the order in which they were first noted."""
        return list(self._places)

    def read(self, key: str) -> dict[str, Any]:
        """The last record of a key; KeyError without one."""
        place, length = self._places[key]
        record = json.loads(os.pread(self._handle.fileno(), length, place + _SUM))
        del record["k"]
        return record

    def append(self, key: str, record: dict[str, Any]) -> None:
        """Note a record; when this returns, only the machine's own end can undo it.

        Raises OSError when the disk is full; what had been written of the record is then taken back.
        """
        body = json.dumps({"k": key, **record}).encode()
        line = b"%08x %s\n" % (zlib.crc32(body), body)
        try:
            written = 0
            while written < len(line):
                written += self._handle.write(line[written:])
        except OSError:
            with contextlib.suppress(OSError):
                self._handle.truncate(self._end)
            raise
        self._places[key] = (self._end, len(body))
        self._end += len(line)

    def forget(self, key: str) -> None:
        """Pass over a record for as long as this journal is open: its owner is about to note another one."""
        del self._places[key]

    @property
    def due(self) -> bool:
        """Whether enough records or enough time make it worth waiting for the disk."""
        waiting = self._end - self._synced
        return waiting >= SYNC_BYTES or (waiting > 0 and time.monotonic() - self._synced_at >= SYNC_SECONDS)

    def sync(self) -> None:
        """Wait until all records are on the disk; may run beside `append` in another thread."""
        self._synced_at, end = time.monotonic(), self._end
        if end > self._synced:
            os.fdatasync(self._handle.fileno())
            self._synced = end

    def close(self) -> None:
        """Sync and let go of the lock."""
        if not self._handle.closed:
            try:
                self.sync()
            finally:
                self._handle.close()

    def remove(self) -> None:
        """Delete the file, for what it noted is sealed elsewhere; then let go of the lock."""
        self.path.unlink(missing_ok=True)
        self._handle.close()

    def _load(self) -> None:
        self._handle.seek(0)
        sound = 0  # end of the last line that agrees with its sum
        bad = 0  # lines since then that do not
        with open(self.path, "rb") as reader:
            for line in reader:
                start, self._end = self._end, self._end + len(line)
                key = _key_of(line)
                if key is None:
                    bad += 1
                    continue
                self.damaged, bad, sound = self.damaged + bad, 0, self._end
                self._places[key] = (start, len(line) - _SUM - 1)
        if sound < self._end:
            self._handle.truncate(sound)
            self._end = sound


def read_records(path: str | Path) -> dict[str, dict[str, Any]]:
    """The last record of every key of a journal that somebody else may be writing; none where there is no file."""
    found: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as reader:
        for line in reader:
            if (key := _key_of(line)) is not None:
                found[key] = json.loads(line[_SUM:-1])
    return found


def try_lock(handle: IO[Any], path: str | Path, *, wait: bool = False) -> bool:
    """Take the exclusive lock of an open file; False where somebody else has it, unless told to wait.

    The kernel drops the lock with the process, however that ends. Raises StorageError on a file system without locks.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:  # some network file systems, unless mounted with it
        raise StorageError(
            f"{path}: cannot be locked ({error.strerror}); give an --out on a file system that has flock"
        ) from error
    return True


@contextlib.contextmanager
def by_turns(path: str | Path) -> Iterator[None]:
    """Within the block nobody else is in a block of the same file (made if absent); whoever comes later waits."""
    with open(path, "ab") as handle:
        try_lock(handle, path, wait=True)
        yield


def _is_still(path: Path, handle: Any) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle.fileno()))
    except FileNotFoundError:
        return False


def _key_of(line: bytes) -> str | None:
    """The key of a line that agrees with its sum."""
    body = line[_SUM:-1]
    if line[-1:] != b"\n" or line[:_SUM] != b"%08x " % zlib.crc32(body):
        return None
    try:
        record = json.loads(body)
    except ValueError:
        return None
    return record.get("k") if isinstance(record, dict) else None
