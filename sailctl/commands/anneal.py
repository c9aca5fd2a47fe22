"""`sailctl anneal`: a short branch off a run, its learning rate going to zero; or one off each of its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sailctl.commands._options import (
    CheckpointOpt,
    DataOpt,
    DeviceOpt,
    DryRunOpt,
    JsonOpt,
    OutOpt,
    RecipeOpt,
    ResumeOpt,
    SetOpt,
)

S = typer.Option


def anneal(
    recipe: RecipeOpt = None,
    set_: SetOpt = None,
    data: DataOpt = None,
    checkpoint: CheckpointOpt = None,
    out: OutOpt = None,
    resume: ResumeOpt = False,
    run: Annotated[
        Path | None,
        S("--run", help="Branch off each checkpoint of this run, bench the branches, keep a curve.", metavar="RUN"),
    ] = None,
    every: Annotated[
        str | None, S("--every", help="With --run: samples of the trunk between branches, such as 500k.", metavar="N")
    ] = None,
    samples: Annotated[
        str | None, S("--samples", help="With --run: samples each branch is annealed on; 2M if not given.", metavar="N")
    ] = None,
    suite: Annotated[
        str | None, S("--suite", help="With --run: the suite of the benches; synth if not given.", metavar="NAME|PATH")
    ] = None,
    questions: Annotated[
        int | None, S("--questions", help="With --run: at most so many questions a benchmark or task.", min=1)
    ] = None,
    then: Annotated[
        str | None,
        S(
            "--then",
            help="With --run: train branches on and bench that, too.",
            metavar="sft:RECIPE[:STAGE][,KEY=VALUE]",
        ),
    ] = None,
    bench_trunk: Annotated[
        bool, S("--bench-trunk", help="With --run: bench the trunk's checkpoints as they are, too.")
    ] = False,
    device: DeviceOpt = "auto",
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
) -> None:
    """Branch off a run, with its optimiser state, and decay the learning rate to zero; the run itself is not touched.

    The branch keeps the run's freeze map, optimiser and learning rate. Without --checkpoint it is the recipe's trunk.
    With --run every N samples of that run are branched off and benched; a rerun does only what is missing.

    Examples

    $ sailctl anneal

    $ sailctl anneal --checkpoint runs/trunk --set train.max_samples=2e6

    $ sailctl anneal --run runs/trunk --every 8M --then sft:sail-vl-2b
    """
    from sailctl.commands import output
    from sailctl.core.train.plan import describe_plan
    from sailctl.core.train.request import TrainRequest, describe_result
    from sailctl.core.valuation.branches import branch_request

    branches = branch_request(
        run,
        every,
        samples,
        suite,
        questions,
        then,
        bench_trunk,
        recipe,
        set_ or [],
        data or [],
        checkpoint,
        out,
        device,
    )
    if branches is not None:
        with output.Reporter(json=json) as reporter:
            shown = branches.perform(reporter, dry_run=dry_run)
        if shown is not None:
            for remark in shown.remarks:
                output.console.print(remark, markup=False)
            output.emit_result(shown.json, shown.tables, shown.lines, json=json)
            if shown.next is not None and not json:
                output.next_command(shown.next)
        return
    request = TrainRequest("anneal", "anneal", recipe, set_ or [], data or [], checkpoint, out, resume, device)
    with output.Reporter(json=json) as reporter:
        summary = request.plan() if dry_run else request.run(reporter)
    if summary is None:  # the run's first process tells
        return
    if json:
        output.emit_json(summary)
    elif dry_run:
        output.emit_text(describe_plan(summary))
    else:
        output.emit_text(describe_result(summary))
        output.next_command(summary["next"])
