"""`sailctl curate stats`: what is in caption data: languages, lengths, sizes, and how rich the captions' words are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sailctl.commands._options import (
    CaptionsOpt,
    CuratedOpt,
    ImageRootOpt,
    JsonOpt,
    OutOpt,
    PassRayOpt,
    ProcessesOpt,
    SetOpt,
)

S = typer.Option


def stats(
    data: CuratedOpt = None,
    image_root: ImageRootOpt = None,
    captions: CaptionsOpt = None,
    recipe: Annotated[
        str | None,
        S("--recipe", help="Count tokens and tiles under this recipe, too; writes lengths.csv.", metavar="NAME|PATH"),
    ] = None,
    stage: Annotated[
        str | None, S("--stage", help="The recipe's stage; its first one if not given.", metavar="NAME")
    ] = None,
    set_: SetOpt = None,
    sample: Annotated[
        int, S("--sample", help="Captions of each language whose words are counted.", metavar="N", min=1)
    ] = 10_000,
    seed: Annotated[int, S("--seed", help="Of the sample: which captions.", min=0)] = 0,
    tagger: Annotated[
        str, S("--tagger", help="Tagger of English; nltk needs data of NLTK.", metavar="textblob|nltk")
    ] = "textblob",
    against: Annotated[
        Path | None, S("--against", help="Show the differences to another pass: its --out.", metavar="DIR")
    ] = None,
    out: OutOpt = None,
    processes: ProcessesOpt = None,
    ray: PassRayOpt = None,
    json: JsonOpt = False,
) -> None:
    """Count what captions are made of: by source, languages, lengths, sizes, different n-grams and parts of speech.

    Killed or stopped anywhere, the same command goes on. Samples of different sizes are never compared.

    Examples

    $ sailctl curate stats --data shards --out stats/web

    $ sailctl curate stats --data a.tar --recipe tiny --out stats/a

    $ sailctl curate stats --data b.tar --out stats/b --against stats/a
    """
    from sailctl.commands import output
    from sailctl.core.curate.stats.report import lines, tables
    from sailctl.core.curate.stats.request import StatsRequest

    request = StatsRequest(
        data or [], out, image_root, captions, recipe, stage, set_ or [], sample, seed, tagger, against, processes, ray
    )
    with output.Reporter(json=json) as reporter:
        result = request.run(reporter)
    output.emit_result(result, tables(result), lines(result), json=json)
    if not json:
        output.next_command(request.next(result))
