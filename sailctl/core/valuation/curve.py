"""`curve.jsonl`: what a trunk is worth at each size, a row for each checkpoint that was annealed (or trained on).

Rows depend on training and bench alone, on no clock, path outside the run or git state. A row is
identified by the trunk's step and by what was measured, and is written once (schema in docs/scaling.md).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sailctl.core.errors import DataError
from sailctl.core.files import atomic_write, read_jsonl
from sailctl.core.train.checkpoint import Checkpoint, latest

CURVE = "curve.jsonl"


@dataclass(frozen=True, slots=True)
class Place:
    """What is measured of a checkpoint: after which stage, on which suite; `questions` None is the suite's default.

    `branch_samples` is what the branch is annealed on, None for the trunk's checkpoint as it is.
    """

    stage: str
    then: str | None
    branch_samples: int | None
    suite: str
    questions: int | None


@dataclass(frozen=True, slots=True)
class Curve:
    """The rows of a curve, in the order of the trunk's samples."""

    path: Path
    rows: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Curve:
        """Read a curve, empty where there is none. Raises DataError for one that is no curve of ours."""
        try:
            rows = read_jsonl(path) if path.is_file() else []
        except ValueError as error:
            raise DataError(str(error)) from None
        keys = {"step", "samples", "tokens", "trunk_sha256", "score", *asdict(Place("", None, None, "", None))}
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict) or not keys <= row.keys():
                raise DataError(
                    f"{path}: row {number} is none of a curve (needs {', '.join(sorted(keys))}); move it away"
                )
        return cls(path, rows)

    def has(self, step: int, place: Place) -> bool:
        """Whether the curve has this measurement of the checkpoint of that step."""
        wanted = {"step": step, **asdict(place)}
        return any(all(row[key] == value for key, value in wanted.items()) for row in self.rows)

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row: the file is replaced as a whole, so that a kill leaves it as it was or with the row.

        The caller holds the branches' lock.
        """
        self.rows.append(dict(row))
        self.rows.sort(key=lambda one: int(one["samples"]))  # stable: the order of work within one checkpoint
        with atomic_write(self.path, "w") as file:
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in self.rows)


def about_trunk(trunk: Checkpoint) -> dict[str, Any]:
    """What rows say of a trunk's checkpoint: step, samples and real tokens (no padding) seen so far, stage, weights."""
    state = trunk.state()
    return {
        "step": state["counters"]["steps"],
        "samples": state["counters"]["samples"],
        "tokens": state["counters"]["tokens"],
        "trunk": state["recipe"]["stage"],
        "trunk_sha256": trunk.weights_sha256(),
    }


def row_of(
    about: Mapping[str, Any], place: Place, folder: Path, found: Mapping[str, Any], home: Path
) -> dict[str, Any]:
    """A row: the trunk's checkpoint (`about_trunk`), what was measured where, and `found`, the score with n and ci95.

    `trained_samples` and `trained_tokens` are those of the last stage after the trunk, 0 for the trunk itself.
    """
    trained, checkpoint = {"samples": 0, "tokens": 0}, folder
    if place.branch_samples is not None and (own := latest(folder)) is not None:
        trained, checkpoint = own.state()["counters"], own.path
    return {
        **about,
        **asdict(place),
        "trained_samples": trained["samples"],
        "trained_tokens": trained["tokens"],
        **found,
        "checkpoint": os.path.relpath(checkpoint.resolve(), home.resolve()),
    }


def measured(results: Mapping[str, Any]) -> dict[str, Any]:
    """Score (0 to 1), n and ci95 of a bench: the overall score of synth, the first average of any other suite.

    `parts` are its other averages, or the tasks of synth. Raises DataError where the suite has no average.
    """
    if "overall" in results:
        overall, parts = results["overall"], results["tasks"]
    else:
        averages = dict(results["averages"])
        name = next(iter(averages), None)
        overall, parts = averages.pop(name) if name is not None else None, averages
    if overall is None:
        raise DataError(f"suite {results['suite']}: has no average, for a benchmark of it is missing; add its table")
    return {
        "score": overall["score"],
        "n": overall["n"],
        "ci95": overall["ci95"],
        "parts": {name: one["score"] for name, one in parts.items() if one is not None},
    }


def shown_rows(rows: list[dict[str, Any]]) -> tuple[str, list[str], list[list[str]]]:
    """The curve as a table for people: scores in points."""
    cells = []
    for row in rows:
        bounds = row.get("ci95")
        interval = f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}" if bounds else "–"
        kind = row["then"] or ("annealed" if row["branch_samples"] else f"{row['stage']}, as it is")
        items = "–" if row.get("n") is None else f"{row['n']:,}"
        numbers = [f"{row['samples']:,}", f"{row['tokens']:,}", f"{100 * row['score']:.1f}", interval, items]
        cells.append([f"step {row['step']:,}", *numbers, row["suite"], kind])
    columns = ["checkpoint", "samples", "tokens", "points", "95% interval", "n", "suite", "measured"]
    return f"{len(rows)} rows", columns, cells
