"""`sailctl verify`: prove on one's own recipe and data that packing, loss and resume are right."""

from __future__ import annotations

from typing import Annotated

import typer

from sailctl.commands._options import CheckpointOpt, DataOpt, DeviceOpt, JsonOpt, RecipeOpt, SetOpt


def verify(
    recipe: RecipeOpt = None,
    stage: Annotated[
        str,
        typer.Option(
            "--stage",
            help="Stage whose freeze map, data and loss weighting are checked.",
            metavar="alignment|advance|anneal|knowledge|instruction|preference",
        ),
    ] = "instruction",
    set_: SetOpt = None,
    data: DataOpt = None,
    checkpoint: CheckpointOpt = None,
    samples: Annotated[int, typer.Option("--samples", help="Samples to look at, at least.", min=1)] = 32,
    device: DeviceOpt = "auto",
    json: JsonOpt = False,
) -> None:
    """Prove packing, attention, loss and resume on your own recipe and data: measured, tolerance, verdict; 1 if any
    fails. Its short runs live in a temporary folder (TMPDIR) that needs room for two checkpoints.

    Examples

    $ sailctl verify

    $ sailctl verify --recipe sail-vl-2b --stage advance --samples 64 --json
    """
    from sailctl.commands import output
    from sailctl.core.train.verify import table
    from sailctl.core.train.verify import verify as run_checks

    with output.Reporter(json=json) as reporter:
        found = run_checks(
            recipe,
            stage,
            set_ or [],
            data or [],
            checkpoint=checkpoint,
            samples=samples,
            device=device,
            reporter=reporter,
        )
    if json:
        output.emit_json(found)
    else:
        looked_at = f"{found['samples']} samples in {found['packs']} packs, {found['precision']}"
        output.emit_table(f"{found['recipe']} {found['stage']}: {looked_at}", *table(found))
        failed = [row["check"] for row in found["checks"] if not row["ok"]]
        output.emit_text(f"FAILED: {', '.join(failed)}" if failed else f"all {len(found['checks'])} checks passed")
    raise typer.Exit(0 if found["ok"] else 1)
