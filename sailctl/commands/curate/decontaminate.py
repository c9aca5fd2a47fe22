"""`sailctl curate decontaminate`: find samples that stand in a benchmark, by picture or by question."""

from __future__ import annotations

from typing import Annotated

import typer

from sailctl.commands._options import (
    CaptionsOpt,
    CuratedOpt,
    DryRunOpt,
    ImageRootOpt,
    JsonOpt,
    OutOpt,
    PassRayOpt,
    ProcessesOpt,
)

S = typer.Option


def decontaminate(
    data: CuratedOpt = None,
    against: Annotated[
        list[str] | None,
        S(
            "--against",
            help="A benchmark's table (.tsv) as VLMEvalKit has it, or a folder; repeatable.",
            metavar="PATH",
        ),
    ] = None,
    verdicts: Annotated[
        list[str] | None,
        S("--verdicts", help="Passes whose drops take no part; repeatable.", metavar="DIR"),
    ] = None,
    out: OutOpt = None,
    image_root: ImageRootOpt = None,
    captions: CaptionsOpt = None,
    by: Annotated[
        str,
        S("--by", help="What counts: the picture or a crop of it, the question, or both.", metavar="image,question"),
    ] = "image,question",
    ngram: Annotated[
        int, S("--ngram", help="Words of a question that a sample has in a run; shorter ones whole, from 8 words on.")
    ] = 13,
    common: Annotated[
        int, S("--common", help="Words that more samples than this have in a run are a phrase, no question.", min=0)
    ] = 20,
    image_distance: Annotated[
        float, S("--image-distance", help="Grey levels a picture may be off the part of a benchmark's.")
    ] = 18.0,
    processes: ProcessesOpt = None,
    ray: PassRayOpt = None,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
) -> None:
    """Find benchmarks' pictures and questions in the data; verdicts drop them, and bench tells the overlap.

    Examples

    $ sailctl curate decontaminate --data shards --against LMUData --out OUT

    $ sailctl curate decontaminate --data a --against B.tsv --out O --by image
    """
    from sailctl.commands import output
    from sailctl.core.curate.decontaminate.request import DecontaminateRequest, describe

    request = DecontaminateRequest(
        data or [], against or [], out, image_root, captions, verdicts or [], by, ngram, common, image_distance,
        processes, ray,
    )  # fmt: skip
    with output.Reporter(json=json) as reporter:
        result = request.perform(reporter, dry_run=dry_run)
    output.emit_result(result, *describe(result), json=json)
    if result.get("next") and not json:
        output.next_command(result["next"])
