"""Patience with stores: a real HTTP server that stalls, hangs up, is busy, lies or recovers."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sailctl.core import files, stores
from sailctl.core.data.sources import open_source
from sailctl.core.errors import DataError, SampleError, UsageError
from sailctl.core.schema.data import SourceConfig
from tests.helpers_data import picture, write_tar

pytest.importorskip("aiohttp", reason="fsspec's http needs aiohttp (extra remote)")
MAX = 1 << 20


class Handler(BaseHTTPRequestHandler):
    """Files with byte ranges; before each answer to a GET the next fault, if any, has its turn."""

    protocol_version = "HTTP/1.1"
    server: Store

    def do_HEAD(self) -> None:
        self.answer(send=False)

    def do_GET(self) -> None:
        self.answer(send=True)

    def answer(self, *, send: bool) -> None:
        store = self.server
        data = store.files.get(self.path.partition("?")[0])
        fault = store.faults.popleft() if store.faults and (send or store.heads_too) else ""
        store.asked.append((self.command, self.path, self.headers.get("Range", ""), fault))
        if fault == "stall":
            store.released.wait(20)
            self.close_connection = True
            return
        if fault == "hang up":
            self.close_connection = True
            return
        if fault.isdigit() or data is None:
            self.reply(int(fault or 404), b"<html>sorry</html>", send)
            return
        begin, end = 0, len(data)
        if (wanted := self.headers.get("Range")) and not store.ignores_ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(end, int(last) + 1)
            self.reply(206, data[begin:end], send, f"bytes {begin}-{end - 1}/{len(data)}", cut=fault == "cut")
        else:
            self.reply(200, data, send, cut=fault == "cut")

    def reply(self, status: int, body: bytes, send: bool, content_range: str = "", cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if self.server.tags and status < 300:
            self.send_header("ETag", f'"{hash(self.server.files[self.path.partition("?")[0]])}"')
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        if send:
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Store(ThreadingHTTPServer):
    """A store of a few files, and the faults to come."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: deque[str] = deque()
        self.asked: list[tuple[str, str, str, str]] = []
        self.released = threading.Event()
        self.ignores_ranges = self.heads_too = False
        self.tags = True

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


@contextmanager
def serving() -> Iterator[Store]:
    """A store in a thread of this process."""
    server = Store()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def store(monkeypatch, tmp_path) -> Iterator[Store]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(stores, "PATIENCE", stores.Patience(timeout_s=0.4, attempts=5, pause_s=0.01))
    with serving() as server:
        yield server


def captions_tar(folder: Path, prefix: str = "") -> bytes:
    members = [m for i in range(6) for m in ((f"{prefix}{i}.png", picture(i)), (f"{prefix}{i}.txt", b"noise"))]
    return write_tar(folder / "a.tar", members).read_bytes()


def source(url: str):
    return open_source(SourceConfig(name="s", path=url))


@pytest.mark.parametrize("fault", ["stall", "hang up", "cut", "503", "500", "429"])
def test_a_store_that_stumbles_is_asked_again(store, fault):
    store.files["/x"] = os.urandom(1000)
    store.faults.extend([fault, "503", fault])
    start = time.monotonic()
    assert stores.read_range(store.url("x"), 100, 50) == store.files["/x"][100:150]
    assert time.monotonic() - start < 10
    assert [row[3] for row in store.asked] == [fault, "503", fault, ""]
    assert store.asked[-1][2] == "bytes=100-149"


@pytest.mark.parametrize("fault", ["stall", "hang up", "503"])
def test_a_store_that_never_answers_is_unreachable_in_one_line(store, fault):
    store.files["/x"] = b"0123456789"
    store.faults.extend([fault] * 20)
    with pytest.raises(stores.Unreachable, match="no answer in 5 attempts") as caught:
        stores.read_range(store.url("x?signature=secret"), 0, 5)
    assert 5 <= len(store.asked) <= 10  # aiohttp itself asks again where a kept connection was closed
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_store_that_does_not_answer_is_told_of_once_and_so_is_its_return(store, monkeypatch):
    monkeypatch.setattr(stores, "PATIENCE", stores.Patience(timeout_s=9, attempts=6, pause_s=0.1, quiet_s=0.05))
    store.files["/x"], said = b"0123456789", []
    with stores.telling(said.append):
        store.faults.extend(["503"])  # over at once: not worth a line
        assert stores.read_range(store.url("x"), 0, 5) == b"01234" and said == []
        store.faults.extend(["503"] * 6)
        url = store.url("x?signature=secret").replace("//", "//me:secret@")
        readers = [threading.Thread(target=stores.read_range, args=(url, 0, 5)) for _ in range(2)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    host = store.url("").rstrip("/")
    told = rf"{host}/x does not answer \(HTTP 503 Service Unavailable\); asking again for up to \d s"
    assert re.fullmatch(told, said[0])
    assert said[1:] == [f"{host} answers again"]


@pytest.mark.parametrize(("status", "kind"), [("404", FileNotFoundError), ("403", OSError), ("401", OSError)])
def test_what_would_be_the_same_the_next_time_is_not_asked_again(store, status, kind):
    store.files["/x"] = b"0123456789"
    store.faults.extend([status] * 9)
    with pytest.raises(kind) as caught:
        stores.read_range(store.url("x"), 0, 5)
    assert not isinstance(caught.value, stores.Unreachable) and len(store.asked) == 1


def test_headers_are_asked_for_again_too(store):
    store.files["/x"] = b"0123456789"
    store.heads_too = True
    store.faults.extend(["503", "503", "hang up", "hang up", "stall"])  # each try of fsspec's is a HEAD and a GET
    assert files.file_stamp(store.url("x"))[0] == 10
    assert len(store.asked) >= 6
    with pytest.raises(FileNotFoundError):
        files.file_stamp(store.url("y"))


def test_a_server_without_ranges_is_told_apart(store, tmp_path):
    store.files["/x"] = bytes(5000)
    store.ignores_ranges = True
    with pytest.raises(OSError, match=r"ignores byte ranges .10 bytes asked for, 5000 sent"):
        stores.read_range(store.url("x"), 0, 10)
    store.files["/a.tar"] = captions_tar(tmp_path)  # small enough to be indexed by one request for all of it
    with pytest.raises(DataError, match=r"shard .*a\.tar: the server ignores byte ranges .* or copy the file here$"):
        source(store.url("a.tar")).read(0)


def test_long_reads_are_several_requests_and_files_can_be_sought(store, monkeypatch):
    monkeypatch.setattr(stores, "_REQUEST_BYTES", MAX)
    store.files["/x"] = data = os.urandom(2 * MAX + 1000)
    assert stores.read_range(store.url("x"), 5, 2 * MAX) == data[5 : 2 * MAX + 5]
    assert len(store.asked) == 2
    store.faults.extend(["", "cut"])
    with files.open_read(store.url("x")) as handle:
        assert handle.read(10) == data[:10]
        handle.seek(-7, os.SEEK_END)
        assert handle.read() == data[-7:]
        handle.seek(MAX)
        assert handle.read(3) == data[MAX : MAX + 3] and handle.tell() == MAX + 3
        store.asked.clear()
        handle.seek(0)
        assert handle.read() == data and len(store.asked) <= 4


@pytest.mark.parametrize("fault", ["stall", "hang up", "503"])
def test_an_epoch_over_a_stumbling_store_loses_nothing(store, tmp_path, fault):
    store.files["/a.tar"] = captions_tar(tmp_path)
    local = [open_source(SourceConfig(name="s", path=str(tmp_path / "a.tar"))).read(n).id for n in range(6)]
    store.faults.extend([fault, fault])
    found = source(store.url("a.tar"))
    read = []
    for ordinal in range(6):
        if ordinal in (1, 4):
            store.faults.extend([fault, "cut"])
        read.append(found.read(ordinal).id)
    assert read == local
    assert sum(row[3] == fault for row in store.asked) == 4


def test_a_store_that_is_gone_ends_the_run_and_rejects_nothing(store, tmp_path):
    store.files["/a.tar"] = captions_tar(tmp_path)
    store.files["/rows.jsonl"] = json.dumps({"image": "i.png", "text": "x"}).encode()
    store.files["/i.png"] = picture(0)
    pq.write_table(pa.table({"image": [picture(0)], "text": ["x"]}), tmp_path / "p.parquet")
    store.files["/p.parquet"] = (tmp_path / "p.parquet").read_bytes()
    for name in ("a.tar", "rows.jsonl", "p.parquet"):
        found = source(store.url(name))
        assert found.read(0).images == (picture(0),)
        found.close()
        if name == "p.parquet":
            found._cache.clear()
        store.faults.extend(["503"] * 20)
        with pytest.raises(DataError, match=r"no answer in 5 attempts .*503.*nothing is lost") as caught:
            found.read(0)
        assert "\n" not in str(caught.value) and store.url("") in str(caught.value)
        store.faults.clear()
        assert found.read(0).images == (picture(0),)  # as after a resume
    store.files.pop("/i.png")
    with pytest.raises(SampleError, match="no_image"):
        source(store.url("rows.jsonl")).read(0)
    gone = source(store.url("a.tar"))
    store.files.pop("/a.tar")
    with pytest.raises(DataError, match=r"a\.tar cannot be opened"):
        gone.read(0)


def test_a_changed_file_gets_another_stamp(store, tmp_path):
    store.files["/a.tar"] = captions_tar(tmp_path, "a")
    before = source(store.url("a.tar")).fingerprint()
    stamp = files.file_stamp(store.url("a.tar"))
    store.files["/a.tar"] = captions_tar(tmp_path, "b")  # as long as it was
    assert files.file_stamp(store.url("a.tar"))[0] == stamp[0] and files.file_stamp(store.url("a.tar")) != stamp
    assert source(store.url("a.tar")).fingerprint() != before


def test_missing_and_unreachable_sources_are_one_line(store):
    with pytest.raises(UsageError, match=r"no file.*nothing\.tar"):
        source(store.url("nothing.tar"))
    store.heads_too = True
    store.faults.extend(["503"] * 40)
    with pytest.raises(UsageError, match=r"a\.tar: cannot be listed: no answer in 5 attempts") as caught:
        source(store.url("a.tar"))
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="nowhere://x"):
        source("nowhere://x/a.tar")
