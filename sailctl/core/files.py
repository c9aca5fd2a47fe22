"""Local paths and fsspec URLs: reading, listing shards, atomic writes. Stores behind URLs: `stores.py`.

Formats of samples do not live here (see `core/data/`); neither does Parquet, which `core/data/sources.py` reads.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, NoReturn

from sailctl.core import stores
from sailctl.core.errors import SailctlError, StorageError, UsageError

SHARD_SUFFIXES = (".tar", ".parquet", ".jsonl", ".json")
_REFUSED = {
    errno.EFBIG,
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
}


def is_url(path: str | Path) -> bool:
    """Whether a path is an fsspec URL (`s3://…`, `memory://…`); Path objects never are."""
    return isinstance(path, str) and "://" in path


def open_read(path_or_url: str | Path) -> BinaryIO:
    """Open a local path or an fsspec URL for reading bytes; the caller closes it. Raises OSError."""
    if is_url(path_or_url):
        return stores.open_read(str(path_or_url))
    return open(path_or_url, "rb")


def file_stamp(path_or_url: str | Path) -> tuple[int, str]:
    """Size in bytes and a string that changes when the file does (mtime; for a URL whatever its store offers).

    Raises OSError when the file is not there.
    """
    if not is_url(path_or_url):
        stat = os.stat(path_or_url)
        return stat.st_size, str(stat.st_mtime_ns)
    return stores.stamp(str(path_or_url))


def read_whole(path_or_url: str | Path) -> bytes:
    """All bytes of a file; a URL in one request, asked again as in `stores.read_range`. Raises OSError."""
    if not is_url(path_or_url):
        with open(path_or_url, "rb") as handle:
            return handle.read()
    return stores.read_whole(str(path_or_url))


def list_shards(pattern: str | Path, suffixes: Iterable[str] = SHARD_SUFFIXES) -> list[str]:
    """Files meant by a file, a folder, a glob or an fsspec URL of any of these, sorted by name.

    In a folder only the first of `suffixes` that occurs counts: beside `00000.tar` img2dataset leaves `00000.parquet`
    and `00000_stats.json`, which are no samples. Hidden files never count. An empty list means nothing is there.
    Raises UsageError for a store that is unknown, lacks its driver or cannot be reached.
    """
    text = str(pattern)
    if is_url(text):
        try:
            names = stores.listed(text, is_glob=_has_glob(text))
            return [text] if names == [text] else _visible(names) if _has_glob(text) else _first_suffix(names, suffixes)
        except OSError as error:
            raise UsageError(f"{text}: cannot be listed: {error}; check the address and your credentials") from error
    path = Path(text).expanduser()
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        return _first_suffix([str(child) for child in path.iterdir() if child.is_file()], suffixes)
    if _has_glob(text):
        import glob

        return _visible([name for name in glob.glob(str(path), recursive=True) if os.path.isfile(name)])
    return []


def _has_glob(text: str) -> bool:
    return any(character in text for character in "*?[")


def _visible(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not name.rsplit("/", 1)[-1].startswith("."))


def _first_suffix(names: list[str], suffixes: Iterable[str]) -> list[str]:
    visible = _visible(names)
    for suffix in suffixes:
        if found := [name for name in visible if name.endswith(suffix)]:
            return found
    return []


def base_name(path_or_url: str | Path) -> str:
    """The last part of a path or URL, of a URL without what a query adds to it (a signature, for one)."""
    name = str(path_or_url).rsplit("/", 1)[-1]
    return name.partition("?")[0] if is_url(path_or_url) else name


def fsync_dir(path: str | Path) -> None:
    """Make a rename in a folder durable; file systems that cannot sync a folder are left alone."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def refuse_write(path: str | Path, error: OSError) -> NoReturn:
    """Turn a failed write into a StorageError naming the path and what is in its way, such as a file or the free bytes.

    Errors of other kinds go on as they are.
    """
    if error.errno not in _REFUSED:
        raise error
    folder = Path(path).absolute()
    while not folder.is_dir() and folder != folder.parent:
        if error.errno in (errno.ENOTDIR, errno.EEXIST) and os.path.lexists(folder):
            kind = "a file" if folder.exists() else "a link to nothing"
            raise StorageError(f"cannot write {path}: {folder} is {kind}, not a folder; give another --out") from error
        folder = folder.parent
    if error.errno == errno.ENOENT:
        raise StorageError(f"cannot write {path}: it cannot be made below {folder}; give another --out") from error
    free = "unknown"
    with suppress(OSError):
        free = str(shutil.disk_usage(folder).free)
    remedy = "free some space or choose another --out"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        remedy = "check its permissions or choose another --out"
    raise StorageError(f"cannot write {path}: {error.strerror} ({free} bytes free); {remedy}") from error


@contextmanager
def storage_errors(path: str | Path) -> Iterator[None]:
    """Within the block a full or refusing disk raises StorageError naming `path` and the free bytes.

    The writers of safetensors and tokenizers have no class for it: they raise their general error, or a plain
    Exception, with the system's number in the text.
    """
    try:
        yield
    except OSError as error:
        refuse_write(path, error)
    except SailctlError:
        raise
    except Exception as error:
        if (code := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        refuse_write(path, OSError(int(code[1]), os.strerror(int(code[1]))))


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Write a file that is there complete or not at all: temporary name in its folder, fsync, rename, folder fsync.

    `mode` is "wb" or "w" (UTF-8). After an error the temporary file is gone and an earlier file of that name untouched.
    Raises StorageError when the disk is full or refuses.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    fsync_dir(path.parent)


def make_folder(path: str | Path) -> None:
    """Make a folder and those above it, unless it is there. Raises StorageError where the disk refuses."""
    with storage_errors(path):
        Path(path).mkdir(parents=True, exist_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write one JSON document atomically: UTF-8, indented, keys as given, a final newline."""
    with atomic_write(path, "w") as handle:
        handle.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def append_jsonl(path: str | Path, rows: Iterable[Any], *, sync: bool = False) -> None:
    """Append rows as JSON lines; a line torn by an earlier crash is cut off first. `sync` waits for the disk.

    Raises StorageError when the disk is full; what was written of these rows is then taken back.
    """
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "backslashreplace")
    if not data:
        return
    path = Path(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+", buffering=0) as handle:
            end = _cut_torn_line(handle)
            try:
                _write_all(handle, data)
                if sync:
                    os.fsync(handle.fileno())
            except OSError:
                with suppress(OSError):
                    handle.truncate(end)
                raise


def _write_all(handle: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[handle.write(view) :]


def _cut_torn_line(handle: IO[bytes]) -> int:
    """Truncate after the last newline; returns the new size."""
    end = handle.seek(0, os.SEEK_END)
    position = end
    while position > 0:
        start = max(0, position - 65536)
        handle.seek(start)
        newline = handle.read(position - start).rfind(b"\n")
        if newline >= 0:
            position = start + newline + 1
            break
        position = start
    if position != end:
        handle.truncate(position)
        handle.seek(position)
    return position


def read_jsonl(path: str | Path) -> list[Any]:
    """Rows of a JSON-lines file of ours; a torn last line (a crash while writing) is ignored.

    Raises ValueError for a broken line elsewhere, naming its number.
    """
    with open_read(path) as handle:
        lines = handle.read().split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number == len(lines):  # no newline behind it: never completely written
                break
            raise ValueError(f"{path}: line {number} is not JSON") from None
    return rows
