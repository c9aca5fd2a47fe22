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
        str,
        typer.Option("--stage", help="Which of the three, in this order.", metavar="knowledge|instruction|preference"),
    ],
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

    Examples

    $ sailctl sft --stage knowledge

    $ sailctl sft --stage instruction --data mine.jsonl --set train.lr=2e-5
    """
    from sailctl.commands import output
    from sailctl.core.train.plan import describe_plan
    from sailctl.core.train.request import TrainRequest, describe_result

    request = TrainRequest("sft", stage, recipe, set_ or [], data or [], checkpoint, out, resume, device)
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
