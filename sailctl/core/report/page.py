"""The report: one HTML file that needs nothing else, neither beside it nor from the network.

Whatever comes from files is escaped by the template; only plots made in this package are inserted as markup.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sailctl.core.files import atomic_write
from sailctl.core.html import render_page
from sailctl.core.report.figures import short_count
from sailctl.core.report.plots import loss_curves, stage_scores
from sailctl.core.report.read import Runs, read_runs, read_samples

PAGE = "report.html"
_TEMPLATES = Path(__file__).parent / "templates"
CARDS_PER_TASK = 12
RIGHT = 0.5  # a graded answer at or above this is shown among the right ones
_MAGIC = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def write_report(runs_dir: Path, out_html: Path, *, cards_per_task: int = CARDS_PER_TASK) -> Path:
    """Write the report of a folder of runs to `out_html` (atomically) and return its path.

    A folder (one that is there, or a name that does not end in .html) gets a `report.html`. `cards_per_task` bounds the
    sample answers shown for each task. Raises UsageError where there is nothing to show.
    """
    if out_html.is_dir() or (out_html.suffix != ".html" and not out_html.exists()):
        out_html = out_html / PAGE
    html = render(read_runs(runs_dir), cards_per_task=cards_per_task)
    with atomic_write(out_html, "w") as file:
        file.write(html)
    return out_html


def render(runs: Runs, *, cards_per_task: int = CARDS_PER_TASK) -> str:
    """The page as text."""
    from markupsafe import Markup

    results = runs.results or {}
    return render_page(
        _TEMPLATES / "report.html.j2",
        styles=("report.css",),
        script="report.js",
        images="data:",
        filters={"count": short_count, "score": _three, "duration": duration, "percent": _percent},
        title=runs.folder.resolve().name,
        stages=runs.stages,
        results=results,
        overall=results.get("overall"),
        rows=headline(results["overall"]) if results else [],
        tasks=results.get("tasks", {}),
        loss_plot=Markup(loss_curves(runs.stages)) if runs.stages else None,
        score_plot=Markup(stage_scores(runs.stages)) if any(stage.results for stage in runs.stages) else None,
        gallery=gallery(runs.bench_folder, cards_per_task) if runs.bench_folder else [],
        seconds=sum(stage.perf["seconds"] for stage in runs.stages),
    )


def headline(overall: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the headline's bars: the model and what it has to beat, best first, those that were measured."""
    rows = [{"name": "this model", "value": overall["score"], "ci95": overall["ci95"], "note": ""}]
    notes = {
        "blind": "same weights, grey images",
        "chance": "answers of other questions",
        "untrained": "before any training",
    }
    for tier, note in notes.items():
        if overall.get(tier) is not None:
            rows.append({"name": tier, "value": overall[tier], "ci95": overall.get(f"{tier}_ci95"), "note": note})
    return rows[:1] + sorted(rows[1:], key=lambda row: -float(row["value"]))


def gallery(bench_folder: Path, cards_per_task: int) -> list[dict[str, Any]]:
    """Sample answers by task: right and wrong in equal parts where there are enough, easy levels before hard ones."""
    tasks: dict[str, list[dict[str, Any]]] = {}
    for row in read_samples(bench_folder):
        tasks.setdefault(str(row.get("task", "")), []).append(row)
    return [
        {
            "task": task,
            "total": len(rows),
            "cards": [_card(row, bench_folder) for row in choose(rows, cards_per_task)],
        }
        for task, rows in tasks.items()
    ]


def choose(rows: Sequence[Mapping[str, Any]], limit: int) -> list[Mapping[str, Any]]:
    """Up to `limit` rows: half right, half wrong as far as they go, each half spread over the rows in their order."""
    right = [row for row in rows if float(row["score"]) >= RIGHT]
    wrong = [row for row in rows if float(row["score"]) < RIGHT]
    of_right = min(len(right), max(limit - limit // 2, limit - len(wrong)))
    chosen = _spread(right, of_right) + _spread(wrong, limit - of_right)
    return sorted(chosen, key=lambda row: (int(row.get("level") or 0), float(row["score"]) < RIGHT))


def duration(seconds: float) -> str:
    """75 as 1m 15s; 4,000 as 1h 07m."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02}m"
    return f"{minutes}m {rest:02}s" if minutes else f"{seconds:.1f}s" if seconds < 10 else f"{rest}s"


def _spread(rows: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    if count >= len(rows):
        return list(rows)
    return [rows[place * len(rows) // count] for place in range(count)]


def _card(row: Mapping[str, Any], bench_folder: Path) -> dict[str, Any]:
    keys = ("task", "level", "question", "answer", "prediction", "score", "blind", "untrained")
    card: dict[str, Any] = {key: row.get(key) for key in keys}
    card["right"] = float(row["score"]) >= RIGHT
    card["image"] = _data_uri(bench_folder, row.get("image"))
    return card


def _data_uri(bench_folder: Path, name: object) -> str | None:
    """The image as a data URI; None if it is absent, no PNG or JPEG, or outside the bench's own folder."""
    if not isinstance(name, str) or not name:
        return None
    path = (bench_folder / name).resolve()
    if not path.is_relative_to(bench_folder.resolve()) or not path.is_file():
        return None
    data = path.read_bytes()
    kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)
    return f"data:{kind};base64,{base64.b64encode(data).decode()}" if kind else None


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{100 * min(1.0, max(0.0, value)):.2f}%"
