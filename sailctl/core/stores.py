"""Stores behind fsspec URLs: ranged reads and listings, with patience for those that stall, hang up or are busy."""

from __future__ import annotations

import errno
import io
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, TypeVar

from sailctl.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a store may take to answer one request, how often it is asked, and the first pause (later ones double).

    As it stands, a store that refuses has two minutes to come back, and one that stalls ten. Once a request has taken
    `quiet_s`, the user is told.
    """

    timeout_s: float = 60.0
    attempts: int = 8
    pause_s: float = 1.0
    quiet_s: float = 2.0


PATIENCE = Patience()
_REQUEST_BYTES = 8 << 20  # the most that is asked for at once, so that a slow line is not taken for a stalled one
_PASSING_STATUS = {408, 425, 429}  # HTTP's own words for "later"; so is everything from 500 on
_LASTING = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, ValueError, TypeError)
_jitter = random.Random()  # its own, for the global one belongs to the training
Answer = TypeVar("Answer")


class Unreachable(OSError):
    """A store that gave no usable answer however often it was asked; what was asked for may well be there."""


class NoRanges(OSError):
    """A server that sends whole files where parts of them were asked for."""


# --- what is said of a store that does not answer ---------------------------------------------------------------------

Told = Callable[[str, str], None]  # a store, and what is wrong with it: nothing, once it answers again
_listeners: list[Told] = []


def tell(store: str, trouble: str) -> None:
    """Pass on to who listens in this process that a store does not answer, or that it does again."""
    if _listeners:
        _listeners[-1](store, trouble)


def listen(listener: Told) -> None:
    """From now on, in this process, `listener` is told of stores that do not answer."""
    _listeners.append(listener)


@contextmanager
def telling(say: Callable[[str], None]) -> Iterator[None]:
    """In this block a line is said of every store that does not answer: once, however many wait for it."""
    silent: set[str] = set()
    lock = threading.Lock()

    def listener(store: str, trouble: str) -> None:
        with lock:
            if bool(trouble) == (store in silent):
                return
            silent.symmetric_difference_update({store})
        say(trouble or f"{store} answers again")

    listen(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


# --- requests ---------------------------------------------------------------------------------------------------------


def open_read(url: str) -> BinaryIO:
    """A URL as a file for reading bytes, each read a patient one. Raises OSError."""
    return io.BufferedReader(_RemoteFile(url), _REQUEST_BYTES)


def stamp(url: str) -> tuple[int, str]:
    """Size in bytes and a string that changes when the file does, as far as its store tells. Raises OSError."""
    filesystem, inner = _url_to_fs(url)
    info = _asked(url, lambda: filesystem.info(inner))
    if info.get("size") is None:
        raise OSError("the server does not tell its size")
    marks = [str(info[name]) for name in ("ETag", "Content-MD5", "Digest", "Last-Modified") if info.get(name)]
    return int(info["size"]), " ".join(marks) or str(_asked(url, lambda: filesystem.ukey(inner)))


def read_range(url: str, offset: int, length: int) -> bytes:
    """Up to `length` bytes from `offset` of a URL, without keeping a handle open.

    A store that stalls, hangs up or is busy is asked again, with growing pauses (`PATIENCE`). Raises OSError;
    Unreachable when it never answered, NoRanges when it sent more than that.
    """
    filesystem, inner = _url_to_fs(url)
    parts: list[bytes] = []
    end = offset + length
    while offset < end:
        wanted = min(end - offset, _REQUEST_BYTES)
        part = bytes(_asked(url, partial(filesystem.cat_file, inner, start=offset, end=offset + wanted)))
        if len(part) > wanted:
            raise NoRanges(
                f"the server ignores byte ranges ({wanted} bytes asked for, {len(part)} sent); "
                "use one that honours them, or copy the file here"
            )
        parts.append(part)
        offset += len(part)
        if len(part) < wanted:
            break
    return b"".join(parts)


def read_whole(url: str) -> bytes:
    """All bytes of a URL in one request. Raises OSError as `read_range` does."""
    filesystem, inner = _url_to_fs(url)
    return _asked(url, lambda: bytes(filesystem.cat_file(inner)))


def listed(url: str, *, is_glob: bool) -> list[str]:
    """The URLs a glob matches or a folder holds; the URL itself if it is a file; none if nothing is there.

    Raises OSError, UsageError for an unknown store or a missing driver.
    """
    filesystem, inner = _url_to_fs(url)
    if is_glob:
        return [str(filesystem.unstrip_protocol(name)) for name in _asked(url, lambda: filesystem.glob(inner))]
    try:
        is_file = _asked(url, lambda: filesystem.info(inner))["type"] == "file"
    except FileNotFoundError:
        return []
    if is_file:
        return [url]
    return [str(filesystem.unstrip_protocol(name)) for name in _asked(url, lambda: filesystem.ls(inner, detail=False))]


def _url_to_fs(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path in it; UsageError for an unknown store or a missing driver."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        remedy = "install 'sailctl[remote]' for https:// and s3://, the store's own driver for others"
        raise UsageError(f"{url}: cannot be opened: {error}; {remedy}") from error
    except ValueError as error:
        raise UsageError(f"{url}: cannot be opened: {error}") from error


class _RemoteFile(io.RawIOBase):
    """A URL as a file, every read a patient one."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._size = stamp(url)[0]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def readall(self) -> bytes:  # what is inherited would ask for a few KiB at a time
        data = read_range(self.url, self._position, max(0, self._size - self._position))
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._position, _REQUEST_BYTES)
        data = read_range(self.url, self._position, wanted) if wanted > 0 else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _asked(url: str, request: Callable[[], Answer]) -> Answer:
    """The answer to a request of a URL, which is made again while the store only stumbles.

    What would be the same the next time (no such file, no permission, a 4xx status) is raised at once, as an OSError.
    """
    begun, store, is_told = time.monotonic(), "/".join(_public(url).split("/")[:3]), False
    for attempt in range(PATIENCE.attempts):
        asked = time.monotonic()
        try:
            answer = _in_time(request)
            if is_told:
                tell(store, "")
            return answer
        except Exception as error:
            found = _real(error)
            status = getattr(found, "status", None)
            if status in (404, 410):
                raise FileNotFoundError(errno.ENOENT, "no such file") from error
            if isinstance(status, int) and status < 500 and status not in _PASSING_STATUS:
                raise OSError(_told(found)) from error
            if isinstance(found, _LASTING):
                raise
            last = found
        left, pause, now = PATIENCE.attempts - attempt - 1, PATIENCE.pause_s * 2**attempt, time.monotonic()
        if left and not is_told and now - begun >= PATIENCE.quiet_s:
            still = left * (now - asked) + pause * (2**left - 1)
            tell(store, f"{_public(url)} does not answer ({_told(last)}); asking again for up to {still:.0f} s")
            is_told = True
        if left:
            time.sleep(pause * _jitter.uniform(0.75, 1.25))
    raise Unreachable(f"no answer in {PATIENCE.attempts} attempts ({_told(last)})") from last


def _real(error: BaseException) -> BaseException:
    """fsspec calls whatever went wrong with a page's headers a missing file; what it was is the cause then."""
    cause = error.__cause__
    stumbled = isinstance(cause, TimeoutError | ConnectionError) or hasattr(cause, "status")
    if cause is not None and (stumbled or type(cause).__module__.startswith("aiohttp.")):
        return cause
    return error


def _in_time(request: Callable[[], Answer]) -> Answer:
    """The request's answer, if it comes in time. One that stalls is left to itself: no driver can be told to stop."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((request(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE.timeout_s)
    if not outcome:
        raise TimeoutError(f"stalled for {PATIENCE.timeout_s:g} s")
    answer, error = outcome[0]
    if error is not None:
        raise error
    return answer


def _public(url: str) -> str:
    """A URL without what may be a secret in it: a signature, a password."""
    return re.sub(r"//[^/@]*@", "//", url.partition("?")[0])


def _told(error: BaseException) -> str:
    """An error in a few words, without the URL it may quote: a signed one is a secret."""
    if (status := getattr(error, "status", None)) is not None:
        return f"HTTP {status} {getattr(error, 'message', '')}".strip()
    text = re.sub(r"[a-z0-9+]+://\S+", "…", " ".join(str(error).split()), flags=re.IGNORECASE)
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__
