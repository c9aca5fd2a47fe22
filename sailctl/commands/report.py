"""`sailctl report`: one HTML page, and a summary for machines, from a folder of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sailctl.commands._options import JsonOpt

PageOpt = Annotated[
    Path | None,
    typer.Option("--out", help="The page to write: a file; a folder gets report.html in it.", metavar="PATH"),
]


def report(
    runs: Annotated[
        Path, typer.Option("--runs", help="Folder that holds the runs of a recipe.", metavar="PATH")
    ] = Path("runs/tiny"),
    out: PageOpt = None,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", help="Wall-clock time of the whole, for the summary.", min=0),
    ] = None,
    json: JsonOpt = False,
) -> None:
    """Write one self-contained HTML page (default: RUNS/report.html) and RUNS/summary.json from result files.

    Examples

    $ sailctl report --runs runs/tiny

    $ sailctl report --runs runs/tiny --out report.html --json
    """
    from sailctl.commands import output
    from sailctl.core.report.page import write_report
    from sailctl.core.report.summary import SUMMARY, write_summary

    page = write_report(runs, out or runs)
    summary = write_summary(runs, seconds=seconds)
    if json:
        output.emit_json({"report": page, "summary": runs / SUMMARY, **summary})
        return
    output.emit_text(f"report: {page}")
    output.emit_text(f"summary: {runs / SUMMARY}")
