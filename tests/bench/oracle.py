"""A model over real HTTP that knows what to say: every question of a table bears its benchmark and index."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.bench.kit_tables import Made

TAG = re.compile(r"\[([\w.+-]+)/([\w.+-]+)\]")


def tagged(tables: Sequence[Made]) -> dict[str, str]:
    """Name benchmark and index in every question; the answers by "benchmark/index"."""
    answers = {}
    for made in tables:
        for row in made.rows:
            name = f"{made.benchmark.name}/{row['index']}"
            row["question"] = f"[{name}] {row['question']}"
            answers[name] = made.predictions.get(row["index"], "")
    return answers


class Oracle:
    """Serves while it is entered; `asked` counts requests by "benchmark/index"."""

    def __init__(self, answers: Mapping[str, str], seconds: float = 0.0) -> None:
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()
        oracle = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                content = call["messages"][-1]["content"]
                text = content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)
                name = "/".join(TAG.search(text).groups())  # type: ignore[union-attr]
                with oracle.lock:
                    oracle.asked[name] += 1
                time.sleep(seconds)
                choice = {"message": {"role": "assistant", "content": answers[name]}, "finish_reason": "stop"}
                body = json.dumps({"choices": [{"index": 0, **choice}]}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __enter__(self) -> Oracle:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
