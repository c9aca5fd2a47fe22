"""`sailctl pretrain`: pretraining: alignment (projector), then advance (the trunk)."""

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


def pretrain(
    stage: Annotated[
        str,
        typer.Option(
            "--stage", help="alignment: a fresh projector; advance: the vision tower too.", metavar="alignment|advance"
        ),
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
    """Pretrain: alignment teaches a fresh projector, advance opens the vision tower and is the trunk of a recipe.

    Without --out the run is runs/RECIPE/STAGE; without --checkpoint it starts from the recipe's stage before it.

    Examples

    $ sailctl pretrain --stage alignment

    $ sailctl pretrain --stage advance --data shards/ --out runs/trunk --resume
    """
    from sailctl.commands import output
    from sailctl.core.train.plan import describe_plan
    from sailctl.core.train.request import TrainRequest, describe_result

    request = TrainRequest("pretrain", stage, recipe, set_ or [], data or [], checkpoint, out, resume, device)
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
