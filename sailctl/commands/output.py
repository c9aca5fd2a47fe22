"""What the user sees: people read standard error, machines read standard output.

Progress and remarks go to standard error; a command's result is its text on standard output or, with --json, exactly
one JSON object there.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task, TaskID
from rich.table import Table
from rich.text import Text

console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
# A pipe has no width: a table there is as wide as it needs to be, so that nothing is cut.
_stdout = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 240)

TableOf = tuple[str, list[str], list[list[str]]]

SECONDS_BETWEEN_LINES = 15.0  # sparse enough for a log file, often enough to see that a run lives
SECONDS_TO_FIRST_LINE = 3.0
SMALLEST_BAR, LARGEST_BAR = 8, 40


def emit_json(value: Any) -> None:
    """Print one JSON object on standard output; paths become strings, NaN and infinity are refused."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain) + "\n")
    sys.stdout.flush()


def emit_text(text: str) -> None:
    """Print a result for people on standard output, exactly as it is: no markup, no :emoji: names, no tabs widened."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def emit_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table and an empty line on standard output; columns of numbers are set to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        numbers = all(row[index][:1].isdecimal() for row in rows) and index > 0
        prose = index == len(columns) - 1 and not numbers  # wraps where the terminal is narrow; nothing is cut
        table.add_column(column, justify="right" if numbers else "left", header_style="dim", no_wrap=not prose)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: a cell's square brackets are no markup
    with _stdout.capture() as drawn:
        _stdout.print(table)
    emit_text("\n".join(line.rstrip() for line in drawn.get().splitlines()) + "\n")  # no blanks at the ends of lines


def emit_result(value: Any, tables: Sequence[TableOf], lines: Sequence[str] = (), *, json: bool) -> None:
    """A result for machines, or for people as tables (title, columns, rows) and lines."""
    if json:
        emit_json(value)
        return
    for table in tables:
        emit_table(*table)
    for line in lines:
        emit_text(line)


def next_command(line: str) -> None:
    """End a run by naming the command that usually comes next."""
    console.print(f"next: {line}", markup=False)


class _Line(ProgressColumn):
    """A piece of work on one line: what it is, how far, how long still; the rest as far as the terminal is wide."""

    def render(self, task: Task) -> Text:
        done = f"{task.completed:,.0f}" + ("" if task.total is None else f"/{task.total:,.0f}")
        left = "" if task.time_remaining is None else f"{_duration(task.time_remaining)} left"
        label, room = str(task.description), console.width - 1
        label = label if len(label) + 2 + len(done) <= room else label[: max(room - len(done) - 3, 1)] + "…"
        room -= len(label) + 2 + len(done)
        shown = []
        for part in (left, task.fields["rate"], *task.fields["extra"]):  # the most important first
            if part and len(part) + 2 <= room:
                shown.append(part)
                room -= len(part) + 2
        words = [(label, ""), (f"  {done}", "progress.download"), *((f"  {part}", "") for part in shown)]
        if task.total and room >= SMALLEST_BAR + 2:
            width = min(room - 2, LARGEST_BAR)
            filled = round(width * min(task.completed / task.total, 1.0))
            dash = "-" if console.options.ascii_only else "━"
            words[1:1] = [("  ", ""), (dash * filled, "bar.complete"), (dash * (width - filled), "bar.back")]
        return Text.assemble(*words, no_wrap=True)


class Reporter:
    """Progress of long work: a live bar on a terminal, a line now and then elsewhere, remarks only with --json.

    Use: `start(label, total)`, then `update(completed, loss=…)`, then `finish()`; several in turn are fine. As a
    context manager it finishes whatever is still running, so that an error never leaves half a bar behind.
    """

    def __init__(self, *, json: bool = False) -> None:
        self._silent = json
        self._live = not json and console.is_terminal
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._label = ""
        self._unit = ""
        self._total: float | None = None
        self._first = 0.0
        self._began = self._last_line = 0.0

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def info(self, line: str) -> None:
        """Say something once, on standard error; above the bar if there is one."""
        (self._progress.console if self._progress else console).print(line, markup=False)

    def start(self, label: str, total: float | None = None, *, completed: float = 0, unit: str = "samples") -> None:
        """Begin a piece of work of `total` units (None: unknown), `completed` of which were done by an earlier run."""
        self.finish()
        self._label, self._unit, self._total, self._first = label, unit, total, completed
        self._began = time.monotonic()
        self._last_line = self._began + SECONDS_TO_FIRST_LINE - SECONDS_BETWEEN_LINES
        if not self._live:
            return
        self._progress = Progress(_Line(), console=console)
        self._progress.start()
        self._task = self._progress.add_task(label, total=total, completed=int(completed), rate="", extra=[])

    def update(self, completed: float, **fields: float | int | str) -> None:
        """Set the units done so far; `fields` (loss, tokens_per_s …), the most important first, go beside the rate."""
        now = time.monotonic()
        rate = (completed - self._first) / max(now - self._began, 1e-9)
        extra = [f"{name} {_short(value)}" for name, value in fields.items()]
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=completed, rate=f"{rate:,.1f} {self._unit}/s", extra=extra)
        elif not self._silent and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            of_total, left = "", ""
            if self._total is not None:
                of_total = f"/{self._total:,.0f}"
                left = f"  {_duration((self._total - completed) / rate)} left" if rate > 0 else ""
            line = f"{self._label} {completed:,.0f}{of_total} {self._unit}  {rate:,.1f}/s{left}"
            console.print("  ".join([line, *extra]), markup=False)

    def expect(self, total: float) -> None:
        """Correct the total of the piece of work under way, where it could only be estimated."""
        self._total = total
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, total=total)

    def finish(self) -> None:
        """End the current piece of work; harmless when there is none."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._task = None


def as_size(num_bytes: int) -> str:
    """Bytes as GiB: "12.5 GiB"."""
    return f"{num_bytes / 2**30:,.1f} GiB"


def as_millions(count: int) -> str:
    """A parameter count as in the papers: "1,856.4M"."""
    return f"{count / 1e6:,.1f}M"


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in a JSON answer")


def _short(value: float | int | str) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"
