"""A small OpenAI-compatible server over stock transformers' InternVL: real HTTP, its own process, one thread a request.

python -m tests.bench.hf_server FOLDER [--max-tiles N]    # prints {"url": "http://127.0.0.1:PORT/v1"}
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Handler(BaseHTTPRequestHandler):
    """Answers chat/completions of one user's turn; the model takes one question at a time."""

    protocol_version = "HTTP/1.1"
    stock: Any
    max_tiles: int | None
    lock = threading.Lock()

    def do_GET(self) -> None:
        """The models there are."""
        known = self.path == "/v1/models"
        self._send(200 if known else 404, {"object": "list", "data": [{"id": "stock", "object": "model"}]})

    def do_POST(self) -> None:
        """An answer, 400 for a question that is none, 404 elsewhere."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/v1/chat/completions":
            self._send(404, {"error": {"message": f"nothing at {self.path}"}})
            return
        try:
            asked = json.loads(body)
            (message,) = asked["messages"]
            content = _content(message["content"])
            assert not asked.get("temperature"), "greedy only"
            with self.lock:
                said = self.stock.answer(content, asked["max_tokens"], self.max_tiles)
        except (ValueError, KeyError, TypeError, AssertionError, OSError) as error:
            self._send(400, {"error": {"message": f"{type(error).__name__}: {error}"}})
            return
        usage = {"prompt_tokens": said.prompt_tokens, "completion_tokens": said.completion_tokens}
        message = {"role": "assistant", "content": said.text}
        choice = {"index": 0, "message": message, "finish_reason": said.finish}
        self._send(200, {"object": "chat.completion", "model": "stock", "choices": [choice], "usage": usage})

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _content(content: str | list[dict[str, Any]]) -> list[str | bytes]:
    if isinstance(content, str):
        return [content]
    found: list[str | bytes] = []
    for part in content:
        if part["type"] == "text":
            found.append(part["text"])
        else:
            try:
                found.append(base64.b64decode(part["image_url"]["url"].partition(";base64,")[2], validate=True))
            except binascii.Error as error:
                raise ValueError(f"a picture that is not base64: {error}") from None
    return found


@contextlib.contextmanager
def served(folder: Path, max_tiles: int | None = None) -> Iterator[str]:
    """The address of a server in a process of its own, which ends with the block."""
    command = [sys.executable, "-m", "tests.bench.hf_server", str(folder)]
    if max_tiles is not None:
        command += ["--max-tiles", str(max_tiles)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.kill()


def main() -> None:
    """Serve until whoever started it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--max-tiles", type=int)
    options = parser.parse_args()
    from benchmarks.stock_internvl import StockInternVL

    Handler.stock, Handler.max_tiles = StockInternVL(options.folder), options.max_tiles
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"url": f"http://127.0.0.1:{server.server_address[1]}/v1"}), flush=True)
    sys.stdin.read()  # whoever started it holds the other end


if __name__ == "__main__":
    main()
