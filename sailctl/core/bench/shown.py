"""What a bench shows, and the showings that read only: suites, averages of scores, finished runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sailctl.core.bench.suites import dataset_names, load_suite, suite_names
from sailctl.core.errors import SailctlError

Table = tuple[str, list[str], list[list[str]]]


@dataclass(slots=True)
class Shown:
    """What a bench shows: `json` for machines; for people tables (title, columns, rows), lines, and what comes next.

    `remarks` go to standard error either way. `folders` hold finished results. `failure` ends the command after that.
    """

    json: Any
    tables: list[Table] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    next: str | None = None
    folders: list[Path] = field(default_factory=list)
    failure: SailctlError | None = None


def show_suites() -> Shown:
    """The suites that come with sailctl, with their benchmarks and averages, and all datasets known by name."""
    suites = {name: load_suite(name) for name in suite_names()}
    found = {
        name: {
            "title": suite.title,
            "benchmarks": [one.name for one in suite.benchmarks],
            "averages": list(suite.aggregates),
        }
        for name, suite in suites.items()
    }
    rows = [[name, ", ".join(one["benchmarks"])] for name, one in found.items()]
    names = dataset_names()
    line = f"and each of {len(names)} datasets by its name: --suite MMStar, or dataset:A,B; --json lists them"
    return Shown({"suites": found, "datasets": names}, [("suites", ["suite", "benchmarks"], rows)], [line])


def show_recomputed(path: Path, suite: str | None) -> Shown:
    """The suite's averages from a file of scores; see `published.recompute`."""
    from sailctl.core.bench.published import recompute, score_table

    found, remarks = recompute(path, suite)
    return Shown(found, [(f"{suite}: averages in points", *score_table(found))], remarks=remarks)


def show_comparison(runs: Sequence[Path]) -> Shown:
    """Finished benches side by side; see `compare.side_by_side`."""
    from sailctl.core.bench.compare import comparison_tables, side_by_side

    found = side_by_side(runs)
    lines = [
        f"run {place}: {one['run']} ({one['suite']}, {one['checkpoint']})" for place, one in enumerate(found["runs"], 1)
    ]
    if not found["averages"]:
        lines.append("no averages: the runs are of different suites")
    return Shown(found, comparison_tables(found), lines)
