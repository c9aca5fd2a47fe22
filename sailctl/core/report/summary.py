"""`summary.json`: what a whole recipe's runs came to, for machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sailctl.core.files import write_json
from sailctl.core.report.read import Runs, read_runs

SUMMARY = "summary.json"


def write_summary(runs_dir: Path, *, seconds: float | None = None) -> dict[str, Any]:
    """Write `summary.json` into a folder of runs and return what it holds (schema in docs/results.md).

    `seconds` is the wall-clock time of the whole, where the caller has measured it; otherwise it is the sum of what
    the steps and benches took.
    """
    summary = summarise(read_runs(runs_dir), seconds=seconds)
    write_json(runs_dir / SUMMARY, summary)
    return summary


def summarise(runs: Runs, *, seconds: float | None = None) -> dict[str, Any]:
    """The summary of runs that were read."""
    stages = [
        {
            "name": stage.name,
            "samples": stage.samples,
            "tokens": stage.tokens,
            "loss_first": stage.loss_first,
            "loss_last": stage.loss_last,
            "score": stage.score,
            "perf": stage.perf,
        }
        for stage in runs.stages
    ]
    bench = None
    if runs.results is not None:
        bench = {"overall": runs.results["overall"], "tasks": runs.results["tasks"]}
    return {
        "seconds": round(_measured(runs) if seconds is None else seconds, 3),
        "stages": stages,
        "bench": bench,
    }


def _measured(runs: Runs) -> float:
    benches = {stage.folder / "bench": stage.results for stage in runs.stages if stage.results is not None}
    if runs.bench_folder is not None and runs.results is not None:
        benches[runs.bench_folder] = runs.results
    return sum(stage.perf["seconds"] for stage in runs.stages) + sum(
        float(results.get("perf", {}).get("seconds", 0.0)) for results in benches.values()
    )
