"""What the user of a captioning job sees of it while it works."""

from __future__ import annotations

from typing import Any, Protocol
from urllib.parse import urlsplit


class Reporter(Protocol):
    """What captioning tells its user; `commands/output.py` has one."""

    def info(self, line: str) -> None:
        """Say something once."""
        ...

    def start(self, label: str, total: float | None = None, *, completed: float = 0, unit: str = "samples") -> None:
        """Begin work of `total` units, `completed` of which are done."""
        ...

    def expect(self, total: float) -> None:
        """Correct the total."""
        ...

    def update(self, completed: float, **fields: float | int | str) -> None:
        """Set the units done so far and the numbers shown beside them."""
        ...


class Display:
    """Progress as one line: what is done, what is in flight, what went wrong where, what it costs."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.total: float | None = None

    def __call__(self, told: dict[str, Any]) -> None:
        total = max(told["total"], told["samples"])
        if self.total is None:
            self.reporter.start("caption", total, completed=told["before"])
        elif total != self.total:
            self.reporter.expect(total)
        self.total = total
        engine = told["engine"]
        fields: dict[str, float | int | str] = {"in flight": engine.get("in_flight", 0)}
        if errors := _errors(engine):
            fields["errors"] = errors
        if told["failed"]:
            fields["given up"] = told["failed"]
        fields["tokens"] = told["prompt"] + told["completion"]
        if engine.get("cost"):
            fields["cost"] = float(engine["cost"])
        self.reporter.update(told["samples"], **fields)


def _errors(engine: dict[str, Any]) -> str:
    """The share of failed requests of each endpoint that has any."""
    shares = []
    for name, endpoint in dict(engine.get("endpoints") or {}).items():
        failed = sum((endpoint.get("errors") or {}).values())
        if failed:
            shares.append(f"{urlsplit(name).netloc or name} {failed / (failed + endpoint.get('ok', 0)):.1%}")
    return ", ".join(shares)
