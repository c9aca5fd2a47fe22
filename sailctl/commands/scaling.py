"""`sailctl scaling`: how a score grows with data, from curves: laws, what comes next, correlations, a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sailctl.commands._options import JsonOpt

S = typer.Option


def scaling(
    curve: Annotated[
        list[Path] | None,
        S(
            "--curve",
            help="A curve.jsonl, or a CSV with samples or tokens, score and suite; repeatable.",
            metavar="FILE",
        ),
    ] = None,
    run: Annotated[
        list[Path] | None,
        S("--run", help="A trunk whose branches were benched by sailctl anneal --run; repeatable.", metavar="RUN"),
    ] = None,
    out: Annotated[
        Path | None,
        S("--out", help="Folder of scaling.json, pictures and page; by default scaling in the run.", metavar="DIR"),
    ] = None,
    json: JsonOpt = False,
) -> None:
    """Fit score = a + b ln(size) with intervals, foretell the next doubling, correlate suites; write a page of it.

    Examples

    $ sailctl scaling --run runs/tiny/advance

    $ sailctl scaling --curve scores.csv --out results/scaling --json
    """
    from sailctl.commands import output
    from sailctl.core.report.scaling import describe, find, folder_for, tables, write_scaling

    files = [*(curve or []), *(run or [])]
    folder = folder_for(files, out)
    found = find(files)
    paths = write_scaling(found, folder)
    for remark in found.remarks:
        output.console.print(remark, markup=False)
    lines = [f"{kind.partition('_')[0]}: {path}" for kind, path in paths.items()]
    output.emit_result(describe(found, paths), tables(found), lines, json=json)
