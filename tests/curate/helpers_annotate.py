"""An annotation server in a thread, and what speaks to it as a program does."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from sailctl.core.curate.annotate import server
from sailctl.core.curate.annotate.request import AnnotateRequest
from sailctl.core.reporter import Quiet

Reply = tuple[int, dict[str, str], bytes]


class Heard(Quiet):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, line: str) -> None:
        self.lines.append(line)


class Served:
    """A server that runs: the addresses it printed, and afterwards its result."""

    def __init__(self, heard: Heard) -> None:
        self.heard = heard
        self.result: dict[str, Any] = {}

    def address(self, name: str) -> str:
        """What an annotator would open."""
        return next(line.rsplit(" ", 1)[1] for line in self.heard.lines if line.startswith(f"{name} ("))

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """A request as it is, underscores in the names of headers being dashes."""
        parts = urlsplit(self.address(next(line.split(" ")[0] for line in self.heard.lines if "http" in line)))
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, data, {"Content-Type": "application/json", **named})
        reply = connection.getresponse()
        found = (reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read())
        connection.close()
        return found

    def token(self, name: str) -> str:
        """The secret of an annotator."""
        return self.address(name).rpartition("=")[2]

    def get(self, name: str, what: str) -> Any:
        """JSON as the page gets it."""
        status, _, body = self.ask("GET", f"/{name}/{what}", Authorization=f"Bearer {self.token(name)}")
        assert status == 200, body
        return json.loads(body)

    def answer(self, name: str, place: Any, field: Any, value: Any) -> tuple[int, Any]:
        """Status and reply of an answer."""
        said = {"place": place, "field": field, "value": value}
        status, _, body = self.ask("POST", f"/{name}/answer", said, Authorization=f"Bearer {self.token(name)}")
        return status, json.loads(body)


@contextmanager
def serving(request: AnnotateRequest) -> Iterator[Served]:
    """Within the block the request is served, at a port that is free."""
    heard, made, failed = Heard(), [], []
    served = Served(heard)
    make_server = server.make_server

    def remember(site: server.Site) -> Any:
        made.append(make_server(site))
        return made[-1]

    def work() -> None:
        try:
            served.result = replace(request, port=0).perform(heard, report_only=False)
        except BaseException as error:
            failed.append(error)

    with mock.patch.object(server, "make_server", remember):
        thread = threading.Thread(target=work)
        thread.start()
        while not (made and made[-1].started) and thread.is_alive():
            time.sleep(0.01)
        try:
            if not failed:
                yield served
        finally:
            if made:
                made[-1].should_exit = True
            thread.join(30)
    if failed:
        raise failed[0]
