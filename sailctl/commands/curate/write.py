"""`sailctl curate write`: what verdicts keep, as new shards."""

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


def write(
    data: CuratedOpt = None,
    verdicts: Annotated[
        list[str] | None,
        S("--verdicts", help="Passes whose drops are left out, beside a mixture's own; repeatable.", metavar="DIR"),
    ] = None,
    image_root: ImageRootOpt = None,
    captions: CaptionsOpt = None,
    out: OutOpt = None,
    shard_samples: Annotated[
        int | None, S("--shard-samples", help="Samples of a shard; 10,000 if not given.", min=1)
    ] = None,
    shard_bytes: Annotated[
        str | None, S("--shard-bytes", help="About so much a shard instead, such as 1GB.", metavar="SIZE")
    ] = None,
    processes: ProcessesOpt = None,
    ray: PassRayOpt = None,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
) -> None:
    """Write the samples that verdicts keep as WebDataset shards, pictures untouched, with a manifest.

    Weights and repeats of a mixture are the trainer's and change nothing here. Killed anywhere, the same command goes
    on; called again when all is done, it looks whether every shard still is what was written.

    Examples

    $ sailctl curate write --data mixture.yaml --out OUT

    $ sailctl curate write --data a.tar --verdicts F --shard-bytes 1GB --out O
    """
    from sailctl.commands import output
    from sailctl.core.curate.write.request import WriteRequest, describe

    request = WriteRequest(
        data or [], out, verdicts or [], image_root, captions, shard_samples, shard_bytes, processes, ray
    )
    with output.Reporter(json=json) as reporter:
        result = request.run(reporter, dry_run=dry_run)
    output.emit_result(result, *describe(result), json=json)
    if result.get("next") and not json:
        output.next_command(result["next"])
