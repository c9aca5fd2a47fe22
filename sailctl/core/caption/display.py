"""What the user of a captioning job sees of it while it works."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from sailctl.core.caption.spend import TOKENS
from sailctl.core.reporter import Reporter

ENOUGH = 20  # requests of an endpoint before a share of errors says anything


class Display:
    """Progress as one line: what is done, what goes wrong, what it costs; the least important last."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.total: float | None = None
        self.done = 0.0
        self.last: dict[str, Any] = {}  # what was told

    def __call__(self, told: dict[str, Any]) -> None:
        self.last = told
        self.done = max(self.done, told["samples"])  # of several workers' words some are older than others
        total = max(told["total"], self.done)
        if self.total is None:
            self.reporter.start("caption", total, completed=told["before"])
        elif total != self.total:
            self.reporter.expect(total)
        self.total = total
        engine = told["engine"]
        endpoints: dict[str, Any] = engine.get("endpoints") or {}
        shares = {name: share for name, one in endpoints.items() if (share := error_share([one]))}
        fields: dict[str, float | int | str] = {}
        if share := error_share(endpoints.values()):
            fields["errors"] = percent(share)
        if told["failed"]:
            fields["given up"] = told["failed"]
        if engine.get("cost"):
            fields["cost"] = float(engine["cost"])
        fields["in flight"] = engine.get("in_flight", 0)
        fields["tokens"] = sum(told[name] for name in TOKENS)
        if shares and len(endpoints) > 1:
            worst = max(shares, key=lambda name: shares[name])
            fields["most errors at"] = urlsplit(worst).netloc or worst
        self.reporter.update(self.done, **fields)


def error_share(endpoints: Iterable[dict[str, Any]]) -> float:
    """The share of failed requests; 0 as long as there are too few to tell."""
    failed = ok = 0
    for endpoint in endpoints:
        failed += sum((endpoint.get("errors") or {}).values())
        ok += endpoint.get("ok", 0)
    return failed / (failed + ok) if failed + ok >= ENOUGH else 0.0


def percent(share: float) -> str:
    """A share in words, short."""
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"
