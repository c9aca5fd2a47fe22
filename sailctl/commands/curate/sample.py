"""`sailctl curate sample`: a balanced part of the data, of exactly the size asked for."""

from __future__ import annotations

from pathlib import Path
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


def sample(
    data: CuratedOpt = None,
    verdicts: Annotated[
        list[str] | None,
        S("--verdicts", help="Passes whose drops are out, and whose columns --by may name; repeatable.", metavar="DIR"),
    ] = None,
    samples: Annotated[str | None, S("--samples", help="How many, exactly: 5000, 50k, 2M.", metavar="N")] = None,
    by: Annotated[
        str | None,
        S("--by", help="Groups to balance: source, shard, lang, concepts or a column.", metavar="GROUP"),
    ] = None,
    cap: Annotated[int | None, S("--cap", help="Most samples of one group.", min=1)] = None,
    quota: Annotated[
        list[str] | None,
        S("--quota", help="Share of the samples that a group gives, such as ocr=30%; repeatable.", metavar="G=SHARE"),
    ] = None,
    natural: Annotated[
        bool, S("--natural", help="Groups in the proportion they have; else as equal as they can be.")
    ] = False,
    concepts: Annotated[
        Path | None,
        S("--concepts", help="Balance over the words and phrases of this file, one a line.", metavar="FILE"),
    ] = None,
    embeddings: Annotated[
        str | None,
        S("--embeddings", help="Balance over clusters of these: Parquet of id and a vector.", metavar="DIR"),
    ] = None,
    clusters: Annotated[int | None, S("--clusters", help="How many clusters; 1000 for many embeddings.", min=1)] = None,
    even_ngrams: Annotated[
        int | None,
        S("--even-ngrams", help="Prefer captions whose runs of so many words are rare.", min=1, max=8),
    ] = None,
    seed: Annotated[int, S("--seed", help="Decides who is drawn; the number of processes does not.", min=0)] = 0,
    image_root: ImageRootOpt = None,
    captions: CaptionsOpt = None,
    out: OutOpt = None,
    processes: ProcessesOpt = None,
    ray: PassRayOpt = None,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
) -> None:
    """Draw a balanced part of the data as verdicts: everybody gets one, and who was drawn is kept.

    Its folder serves as verdicts: of a mixture's source, and for sailctl curate write. Killed, the same command goes
    on.

    Examples

    $ sailctl curate sample --data m.yaml --samples 2M --by source --out OUT

    $ sailctl curate sample --data a --samples 50k --concepts w.txt --out OUT

    $ sailctl curate sample --data a --samples 50k --even-ngrams 2 --out OUT
    """
    from sailctl.commands import output
    from sailctl.core.curate.sample.request import SampleRequest
    from sailctl.core.curate.sample.told import describe

    request = SampleRequest(
        data or [], verdicts or (), samples, by, cap, quota or (), natural, concepts, embeddings, clusters, even_ngrams,
        seed, out, image_root, captions, processes, ray,
    )  # fmt: skip
    with output.Reporter(json=json) as reporter:
        summary = request.perform(reporter, dry_run=dry_run)
    output.emit_result(summary, *describe(summary, dry_run=dry_run), json=json)
    if not dry_run and not json:
        output.next_command(request.next())
