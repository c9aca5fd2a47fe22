"""A judge over real HTTP, in a thread of the test: says what an answer under judgement tells it to say.

`judge=TEXT` at the end of an answer is what it answers; `warm/TEXT` only when asked with warmth, `dead` never. With
`faults` the first request for one question in four is met by 429, 500, a page, JSON without a choice, or silence.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler

from tests.http_stub import HttpStub, send

KEY = "the-real-key"
FAULTS = ("429", "500", "page", "no choice", "silence")


class StubJudge(HttpStub):
    """Serves while it is entered; `asked` counts requests by what they said, `faulted` the faults by kind."""

    def __init__(self, *, faults: bool = False, silence_s: float = 1.5) -> None:
        super().__init__()
        self.faults = faults
        self.silence_s = silence_s
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.faulted: Counter[str] = Counter()
        self.models: set[str] = set()
        self.wrong_keys = 0

    def post(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        with self.lock:
            self.wrong_keys += request.headers.get("Authorization") != f"Bearer {KEY}"
            self.models.add(body["model"])
            said = body["messages"][-1]["content"]
            name = json.dumps([said, body.get("temperature")])
            self.asked[name] += 1
            turn, is_met = divmod(len(self.asked), 4)
            is_met = self.faults and self.asked[name] == 1 and not is_met
            fault = FAULTS[turn % len(FAULTS)] if is_met else "none"
            text = answer(said if isinstance(said, str) else "", float(body.get("temperature") or 0))
            fault = "500" if text == "dead" else fault
            self.faulted[fault] += 1
            if fault == "none":
                self.answered[name] += 1
        if fault == "silence":
            time.sleep(self.silence_s)
        elif fault in ("429", "500"):
            send(request, int(fault), b'{"error": {"message": "told to"}}')
        elif fault == "page":
            send(request, 200, b"<html>gateway</html>")
        elif fault == "no choice":
            send(request, 200, b'{"choices": []}')
        else:
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "length"}
            send(request, 200, json.dumps({"id": "x", "object": "chat.completion", "choices": [choice]}).encode())


def answer(said: str, temperature: float) -> str:
    """What is said to a prompt of VLMEvalKit's."""
    if said == "hello":
        return "Hello!"
    told = re.findall(r"judge=(.*?)(?: \| |Extracted answer:|\nYour output|$)", said)
    text = str(told[-1]) if told else "0.0"
    if text.startswith("warm/"):
        return text.removeprefix("warm/") if temperature else "unsure"
    return text
