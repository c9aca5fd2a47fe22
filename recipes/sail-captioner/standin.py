"""Stands in for the strong API and for the judge of run.sh where there are none: pictures whose captions are known.

An OpenAI-compatible server on this machine. Asked about a picture of --data, it answers with the caption that lies
beside it. Asked to rate a caption against a reference, it answers by rule: of the candidate's visual elements how many
the reference has (precision), of the reference's how many the candidate has (recall), each as 1 to 10. That shows that
the steps fit together and whether captions got better; it is no opinion of anybody.

    python standin.py --data DIR --url-file FILE
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sailctl.core.bench.elements import elements
from sailctl.core.data.sources import open_source
from sailctl.core.schema.data import SourceConfig


def known_captions(paths: list[str]) -> dict[bytes, str]:
    """The caption of every picture, by a hash of its bytes."""
    known = {}
    for path in paths:
        source = open_source(SourceConfig(name=path, path=path))
        for number in range(len(source)):
            sample = source.read(number)
            known[hashlib.sha256(sample.images[0]).digest()] = sample.turns[-1].text
        source.close()
    return known


def rating(candidate: str, reference: str) -> str:
    """Precision and recall over objects, attributes and relations, in the form that the rubric asks for."""
    said, shown = ({(kind, *one) for kind, found in elements(text, "en").items() for one in found}
                   for text in (candidate, reference))  # fmt: skip
    same = len(said & shown)
    grades = {"precision": same / len(said) if said else 0.0, "recall": same / len(shown) if shown else 0.0}
    return json.dumps({name: round(1 + 9 * grade) for name, grade in grades.items()})


def answer(content: Any, known: dict[bytes, str]) -> str:
    """What is said to a user's turn: a picture and a question, or two captions between tags."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    rated = [re.search(rf"<{tag}[^>]*>\n?(.*?)\n?</{tag}>", text, re.S) for tag in ("candidate", "reference")]
    if rated[0] and rated[1]:
        return rating(rated[0][1], rated[1][1])
    for part in parts:
        if part["type"] == "image_url":
            picture = base64.b64decode(part["image_url"]["url"].partition(",")[2])
            return known.get(hashlib.sha256(picture).digest(), "")
    return ""


def main() -> None:
    """Serve until killed, or orphaned; the address is in the file when questions may come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True, help="pictures with captions; repeatable")
    parser.add_argument("--url-file", required=True, type=Path, help="where the server's address is written")
    options = parser.parse_args()
    known, parent = known_captions(options.data), os.getppid()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = answer(body["messages"][-1]["content"], known)
            words = {"prompt_tokens": 0, "completion_tokens": len(said.split())}
            choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
            self.send({"object": "chat.completion", "model": "standin", "choices": [choice], "usage": words})

        def do_GET(self) -> None:
            self.send({"object": "list", "data": [{"id": "standin", "object": "model"}]})

        def send(self, value: dict[str, Any]) -> None:
            sent = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 256  # connections come in bursts
        daemon_threads = True

        def service_actions(self) -> None:  # twice a second: whoever started us may have been killed
            if os.getppid() != parent:
                raise SystemExit

    server = Server(("127.0.0.1", 0), Handler)
    written = options.url_file.with_suffix(".part")
    written.write_text(f"http://127.0.0.1:{server.server_address[1]}/v1")
    written.rename(options.url_file)
    server.serve_forever()


if __name__ == "__main__":
    main()
