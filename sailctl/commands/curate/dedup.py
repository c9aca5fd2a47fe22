"""`sailctl curate dedup`: find samples that are there more than once, and keep the best of them."""

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


def dedup(
    data: CuratedOpt = None,
    verdicts: Annotated[
        list[str] | None,
        S("--verdicts", help="Passes whose drops take no part; repeatable.", metavar="DIR"),
    ] = None,
    out: OutOpt = None,
    image_root: ImageRootOpt = None,
    captions: CaptionsOpt = None,
    by: Annotated[
        str,
        S(
            "--by",
            help="A duplicate has the same picture and text (sample), or just one of them; several with commas.",
            metavar="sample|image|text",
        ),
    ] = "sample",
    scope: Annotated[
        str,
        S(
            "--scope",
            help="Look for duplicates everywhere, in one source, or between two.",
            metavar="all|within|across",
        ),
    ] = "all",
    keep: Annotated[
        str,
        S("--keep", help="Of duplicates the first, the one of most pixels or words.", metavar="first|largest|longest"),
    ] = "first",
    prefer: Annotated[
        list[str] | None,
        S("--prefer", help="Keep samples of this source before others, then --keep; repeatable.", metavar="SOURCE"),
    ] = None,
    image_distance: Annotated[
        float | None, S("--image-distance", help="Grey levels pictures may be apart at most; 7 if not given.")
    ] = None,
    text_distance: Annotated[
        float | None, S("--text-distance", help="Share of words that may be others or missing; 0.2 if not given.")
    ] = None,
    processes: ProcessesOpt = None,
    ray: PassRayOpt = None,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
) -> None:
    """Find exact and near duplicates; verdicts say which go, and for which sample that stays.

    What --verdicts drop is not looked at, so that no sample goes for one that is gone already.

    Examples

    $ sailctl curate dedup --data shards --verdicts FILTER --out OUT

    $ sailctl curate dedup --data mix.yaml --by image --keep largest --out OUT

    $ sailctl curate dedup --data a.tar --data b.tar --prefer b --out OUT
    """
    from sailctl.commands import output
    from sailctl.core.curate.dedup.request import DedupRequest, describe

    request = DedupRequest(
        data or [], out, image_root, captions, verdicts or [], by, scope, keep, prefer or [], image_distance,
        text_distance, processes, ray,
    )  # fmt: skip
    with output.Reporter(json=json) as reporter:
        result = request.perform(reporter, dry_run=dry_run)
    output.emit_result(result, *describe(result), json=json)
    if result.get("next") and not json:
        output.next_command(result["next"])
