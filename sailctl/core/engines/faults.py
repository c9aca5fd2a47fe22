"""What can go wrong with a request, sorted by whom it speaks against: the endpoint, the question, or chance."""

from __future__ import annotations

from dataclasses import dataclass

# Kinds that speak against the endpoint: it is asked less, or not at all, and the question goes elsewhere.
ENDPOINT = frozenset(
    {"connect", "timeout", "reset", "status_429", "status_5xx", "bad_json", "no_choice", "too_large", "denied"}
)
# Kinds that speak against the question: another endpoint may differ, the same one will not.
QUESTION = frozenset({"status_4xx", "filtered"})
# Kinds that other sampling may mend.
SAMPLING = frozenset({"empty", "looping", "cut"})

# Kinds after which an answer may have been made, and may be on the bill, though nobody heard it.
UNHEARD = frozenset({"timeout", "bad_json", "too_large"})

OVERLOADED = frozenset({429, 503, 529})
# Refused whatever the question: a wrong key, no money, a wrong address or model, a detour we do not take.
DENIED = frozenset({401, 402, 403, 404, 405, 407})


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server said: text, why it ended, tokens as it counted them (0 where it does not)."""

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int

    @property
    def counted(self) -> bool:
        """Whether the server told its tokens."""
        return bool(self.prompt_tokens or self.completion_tokens)


class Fault(Exception):
    """A request that brought no usable answer.

    `kind` is one word of the sets above, `detail` says it in words without any key, `retry_after_s` is what the server
    asked for, `reply` the unusable answer: its tokens are paid for.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        status: int = 0,
        retry_after_s: float | None = None,
        reply: Reply | None = None,
    ) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
        self.status = status
        self.retry_after_s = retry_after_s
        self.reply = reply

    @property
    def unheard(self) -> bool:
        """Whether an answer may have been made, and may be on the bill, that never came."""
        return self.reply is None and self.kind in UNHEARD and self.status in (0, 200)

    @property
    def overload(self) -> float:
        """How far it says "too much": a refusal does, a crash or a silence only maybe, the rest not at all."""
        if self.status in OVERLOADED:
            return 1.0
        return 0.25 if self.kind in ("status_5xx", "timeout", "reset") else 0.0
