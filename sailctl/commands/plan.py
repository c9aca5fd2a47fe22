"""`sailctl plan`: what training would take: packs, balance, memory, time, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sailctl.commands._options import DataOpt, JsonOpt, RecipeOpt, SetOpt


def plan(
    recipe: RecipeOpt = None,
    stage: Annotated[
        str | None,
        typer.Option(
            "--stage",
            help="One stage only (sft: any of the last three); without it every stage, and their total.",
            metavar="alignment|advance|knowledge|instruction|preference|sft",
        ),
    ] = None,
    lengths: Annotated[
        Path | None,
        typer.Option(
            "--lengths",
            help="A CSV with a row a sample: tokens, tiles and, if known, targets (supervised tokens).",
            metavar="CSV",
        ),
    ] = None,
    data: DataOpt = None,
    set_: SetOpt = None,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", help="Most tokens of a pack, instead of data.pack_tokens.", metavar="N", min=1),
    ] = None,
    tiles: Annotated[
        int | None,
        typer.Option("--tiles", help="Most tiles of a pack, instead of data.pack_tiles.", metavar="N", min=1),
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(
            "--ranks",
            help="Plan this many devices with one full pack a step each; without it the recipe's lanes and batch.",
            metavar="R",
            min=1,
        ),
    ] = None,
    balance: Annotated[
        str | None,
        typer.Option("--balance", help="What packs have in common, instead of data.balance.", metavar="sum|module"),
    ] = None,
    packs: Annotated[
        Path | None,
        typer.Option(
            "--packs", help="Write the packs here, a JSON line each; rows are numbered from 0.", metavar="JSONL"
        ),
    ] = None,
    mfu: Annotated[
        float | None,
        typer.Option("--mfu", help="Share of the peak that one device reaches while it computes (0.45).", metavar="X"),
    ] = None,
    device_type: Annotated[
        str | None, typer.Option("--device-type", help="Whose data sheet to reckon with (H200).", metavar="NAME")
    ] = None,
    json: JsonOpt = False,
) -> None:
    """Plan a recipe on lengths or on data: packs, fill, balance, memory a device, samples/s and device-hours.

    Nothing is trained. Lengths are those of --lengths, or measured on the first samples of --data or the recipe's data.

    Examples

    $ sailctl plan --recipe sail-vl-2b --lengths lengths.csv --mfu 0.5

    $ sailctl plan --stage sft --lengths lengths.csv --ranks 64 --packs p.jsonl
    """
    from sailctl.commands import output
    from sailctl.core.train.forecast import PlanRequest, describe_plan

    request = PlanRequest(
        recipe, stage, set_ or [], data or [], lengths, tokens, tiles, ranks, balance, packs, mfu, device_type
    )
    found = request.run()
    if json:
        output.emit_json(found)
    else:
        output.emit_text(describe_plan(found))
