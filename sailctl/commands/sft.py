"""`sailctl sft`: the three stages of supervised fine-tuning, of rising difficulty."""

from __future__ import annotations

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


def sft(
    stage: Annotated[
        str | None,
        typer.Option("--stage", help="Which of the three, in this order.", metavar="knowledge|instruction|preference"),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule",
            help="Instead of one stage all three: one after another, or all their data in one run (aio).",
            metavar="curriculum|aio",
        ),
    ] = None,
    recipe: RecipeOpt = None,
    set_: SetOpt = None,
    data: DataOpt = None,
    checkpoint: CheckpointOpt = None,
    out: OutOpt = None,
    resume: ResumeOpt = False,
    device: DeviceOpt = "auto",
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
) -> None:
    """Fine-tune on conversations, in three stages of rising quality and difficulty: knowledge, instruction, preference.

    Without --out the run is runs/RECIPE/STAGE; without --checkpoint it starts from the recipe's stage before it.
    A schedule's --out holds a folder for each stage; all in one it is the run itself, by default runs/RECIPE/aio.

    Examples

    $ sailctl sft --stage knowledge

    $ sailctl sft --stage instruction --data mine.jsonl --set train.lr=2e-5

    $ sailctl sft --schedule curriculum --dry-run
    """
    from sailctl.commands import output
    from sailctl.core.train.request import sft_request

    request = sft_request(stage, schedule, recipe, set_ or [], data or [], checkpoint, out, resume, device)
    with output.Reporter(json=json) as reporter:
        summary = request.plan() if dry_run else request.run(reporter)
    if summary is None:  # the run's first process tells
        return
    if json:
        output.emit_json(summary)
    elif dry_run:
        output.emit_text(request.describe_plan(summary))
    else:
        output.emit_text(request.describe_result(summary))
        output.next_command(summary["next"])
