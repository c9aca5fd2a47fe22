"""Worker processes and their line to the trainer: what they tell of stores is said once, and its end is theirs."""

from __future__ import annotations

import time
from socket import socket

from sailctl.core import stores
from sailctl.core.data.fetch import Line, start_worker, worker_context


def wait_for_a_store(line: socket) -> None:
    start_worker(0, line)
    for trouble in ("x does not answer", "y does not answer"):
        stores.tell("http://a", trouble)
    time.sleep(60)


def test_what_workers_tell_is_said_once_and_they_end_with_the_line_whatever_they_wait_for() -> None:
    said: list[str] = []
    line = Line()
    with stores.telling(said.append):
        workers = [worker_context([]).Process(target=wait_for_a_store, args=(line.theirs,)) for _ in range(2)]
        for worker in workers:
            worker.start()
        deadline = time.monotonic() + 30
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        line.shut()
        for worker in workers:
            worker.join(10)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert said == ["x does not answer"]
