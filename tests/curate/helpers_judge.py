"""A judge over real HTTP, in a thread of the test, that says what a function of the question tells it to say."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler

from tests.http_stub import HttpStub, send

USAGE = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}
KEY = "the-real-key-0123456789"


@dataclass(frozen=True)
class Question:
    """What was asked: the text, how many pictures, and whether it is a second try."""

    text: str
    images: int
    warm: bool

    def tagged(self, tag: str) -> str:
        """The text between a pair of tags; of several the last."""
        found = re.findall(rf"<{tag}>\n(.*?)\n</{tag}>", self.text, re.DOTALL)
        return str(found[-1]) if found else ""

    def chance(self) -> float:
        """A number in 0 to 1 that this question always has."""
        return int.from_bytes(hashlib.blake2b(self.text.encode(), digest_size=4).digest(), "big") / 2**32


Says = Callable[[Question], str | int]  # what is said, or the status of a refusal


class JudgeStub(HttpStub):
    """Serves while it is entered; `asked` counts requests and `answered` answers by text and seed."""

    def __init__(self, says: Says, *, pause_s: float = 0.0) -> None:
        super().__init__()
        self.says, self.pause_s = says, pause_s
        self.asked: Counter[tuple[str, int]] = Counter()
        self.answered: Counter[tuple[str, int]] = Counter()
        self.images: Counter[int] = Counter()
        self.wrong_keys = 0

    @property
    def count(self) -> int:
        """Requests so far."""
        return sum(self.asked.values())

    def post(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a question."""
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        content = body["messages"][-1]["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        text = "".join(part["text"] for part in parts if part["type"] == "text").strip()
        question = Question(text, sum(part["type"] == "image_url" for part in parts), bool(body.get("temperature")))
        with self.lock:
            self.wrong_keys += request.headers.get("Authorization") != f"Bearer {KEY}"
            self.asked[text, body.get("seed", 0)] += 1
            self.images[question.images] += 1
        time.sleep(self.pause_s)
        said = self.says(question)
        if isinstance(said, int):
            send(request, said, b'{"error": {"message": "told to"}}')
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        send(
            request,
            200,
            json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode(),
        )
        with self.lock:
            self.answered[text, body.get("seed", 0)] += 1


def worth(text: str) -> float:
    """What a caption says it is worth: "… q=7"."""
    found = re.search(r"q=(\d+)", text)
    return float(found[1]) if found else 0.0


def fair(question: Question) -> str | int:
    """Judges captions by what they say they are worth: precision is that, recall one less; gsb the larger number."""
    if "<caption_1>" in question.text:
        first, second = worth(question.tagged("caption_1")), worth(question.tagged("caption_2"))
        return json.dumps({"better": "1" if first > second else "2" if second > first else "same"})
    if "<conversation>" in question.text:
        told = worth(question.tagged("conversation"))
        scores = {"difficulty": told, "complexity": min(5, told + 1)}
        return json.dumps(scores | ({"relevance": 4} if question.images else {}))
    if "hallucination" in question.text:
        told = worth(question.tagged("candidate"))
        return json.dumps(dict.fromkeys(("hallucination", "inaccuracy", "omission", "fluency", "overall"), told))
    told = worth(question.tagged("candidate"))
    return json.dumps({"precision": told, "recall": max(1, told - 1)})
