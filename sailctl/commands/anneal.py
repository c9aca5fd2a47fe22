"""`sailctl anneal`: a short branch off a run, its learning rate going to zero."""

from __future__ import annotations

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


def anneal(
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
    """Branch off a run, with its optimiser state, and decay the learning rate to zero; the run itself is not touched.

    The branch keeps the run's freeze map, optimiser and learning rate. Without --checkpoint it is the recipe's trunk.

    Examples

    $ sailctl anneal

    $ sailctl anneal --checkpoint runs/trunk --set train.max_samples=2e6
    """
    from sailctl.commands import output
    from sailctl.core.train.plan import describe_plan
    from sailctl.core.train.request import TrainRequest, describe_result

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
