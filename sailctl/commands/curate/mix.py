"""`sailctl curate mix`: a mixture file of sources, their verdicts and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sailctl.commands._options import CuratedOpt, DryRunOpt, JsonOpt

S = typer.Option


def mix(
    data: CuratedOpt = None,
    verdicts: Annotated[
        list[str] | None,
        S("--verdicts", help="Passes whose drops are out: of every source, or NAME=DIR of one.", metavar="DIR"),
    ] = None,
    weight: Annotated[
        list[str] | None, S("--weight", help="Share of a source among the weights of all.", metavar="NAME=W")
    ] = None,
    repeats: Annotated[
        list[str] | None, S("--repeats", help="Times a source comes in an epoch.", metavar="NAME=N")
    ] = None,
    samples: Annotated[
        list[str] | None, S("--samples", help="So many of a source's samples, drawn by --seed.", metavar="NAME=N")
    ] = None,
    captions: Annotated[
        list[str] | None, S("--captions", help="Sidecars of sailctl caption for a source.", metavar="NAME=DIR")
    ] = None,
    image_root: Annotated[
        list[str] | None, S("--image-root", help="Where a source's image paths count from.", metavar="NAME=PATH")
    ] = None,
    group: Annotated[
        list[str] | None, S("--group", help="Tag by which evaluations judge sources together.", metavar="NAME=TAG")
    ] = None,
    seed: Annotated[int | None, S("--seed", help="Draws the part of --samples; 0 without it.", min=0)] = None,
    out: Annotated[Path | None, S("--out", help="The mixture file, such as mixture.yaml.", metavar="FILE")] = None,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
) -> None:
    """Write a mixture file that training, evaluations and every curate command take as --data.

    Sources are named after their files; those of mixture files keep their names and what they say. Every source is
    opened, and what verdicts keep of it is told. With one source NAME= may be left out.

    Examples

    $ sailctl curate mix --data shards --verdicts F --out mixture.yaml

    $ sailctl curate mix --data a.tar --data b.tar --repeats b=2 --out m.yaml
    """
    from sailctl.commands import output
    from sailctl.core.curate.mix import MixRequest, describe

    request = MixRequest(
        data or [], out, verdicts or [], weight or [], repeats or [], samples or [], captions or [], image_root or [],
        group or [], seed,
    )  # fmt: skip
    with output.Reporter(json=json) as reporter:
        result = request.run(reporter, dry_run=dry_run)
    output.emit_result(result, *describe(result), json=json)
    if result.get("next") and not json:
        output.next_command(result["next"])
