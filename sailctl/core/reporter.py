"""What a run tells its user while it works; the commands have one for people and a quiet one."""

from __future__ import annotations

from typing import Protocol


def counted(number: int, thing: str) -> str:
    """A number of things in words: "1 step", "1,000 steps"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


class Reporter(Protocol):
    """What a run tells its user; `commands/output.py` has one for people and a quiet one."""

    def info(self, line: str) -> None:
        """Say something once."""
        ...

    def start(self, label: str, total: float | None = None, *, completed: float = 0, unit: str = "samples") -> None:
        """Begin work of `total` units, `completed` of which are done."""
        ...

    def update(self, completed: float, **fields: float | int | str) -> None:
        """Set the units done so far and the numbers shown beside them."""
        ...

    def expect(self, total: float) -> None:
        """Correct the total, where it could only be estimated."""
        ...

    def finish(self) -> None:
        """End the work begun."""
        ...


class Quiet:
    """The reporter of all ranks but the first."""

    def info(self, line: str) -> None:
        """Nothing: rank 0 says it."""

    def start(self, label: str, total: float | None = None, *, completed: float = 0, unit: str = "samples") -> None:
        """Nothing: rank 0 shows it."""

    def update(self, completed: float, **fields: float | int | str) -> None:
        """Nothing: rank 0 shows it."""

    def expect(self, total: float) -> None:
        """Nothing: rank 0 shows it."""

    def finish(self) -> None:
        """Nothing: rank 0 shows it."""
