"""`sailctl curate filter`: which samples pass a set of rules, and why the others do not."""

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


def filter(
    data: CuratedOpt = None,
    rules: Annotated[
        str | None, S("--rules", help="YAML file of rules; without it the set of --print-rules.", metavar="FILE")
    ] = None,
    scores: Annotated[
        list[str] | None,
        S("--scores", help="A pass whose table has a column that a score rule bounds; repeatable.", metavar="DIR"),
    ] = None,
    image_root: ImageRootOpt = None,
    captions: CaptionsOpt = None,
    out: OutOpt = None,
    samples: Annotated[
        int | None, S("--samples", help="Samples that --dry-run judges, drawn by --seed; 2,000 if not given.", min=1)
    ] = None,
    seed: Annotated[int | None, S("--seed", help="Which samples --dry-run draws; 0 without it.", min=0)] = None,
    page: Annotated[
        Path | None, S("--page", help="Where --dry-run writes its page; else preview.html in --out.", metavar="FILE")
    ] = None,
    print_rules: Annotated[
        bool, S("--print-rules", help="Print the default set, a file to begin one's own with, and do nothing.")
    ] = False,
    processes: ProcessesOpt = None,
    ray: PassRayOpt = None,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
) -> None:
    """Judge samples by rules on their text, pictures and scores: a verdict with its reason for each, data untouched.

    Rules are tried in order, those that decode pictures last; the first that fails is the reason. --dry-run judges a
    seeded sample by all of them and writes a page of what each would drop. Killed anywhere, the same command goes on.

    Examples

    $ sailctl curate filter --data shards --dry-run --page preview.html

    $ sailctl curate filter --data shards --rules rules.yaml --out OUT

    $ sailctl curate filter --data a.tar --rules r.yaml --scores Q --out OUT
    """
    from sailctl.commands import output
    from sailctl.core.curate.filter.request import FilterRequest, describe
    from sailctl.core.curate.filter.rules import default_text

    if print_rules:
        output.emit_text(default_text().rstrip())
        return
    request = FilterRequest(
        data or [], out, rules, scores or [], image_root, captions, processes, ray, samples, seed, page
    )
    with output.Reporter(json=json) as reporter:
        result = request.dry_run(reporter) if dry_run else request.run(reporter)
    output.emit_result(result, *describe(result), json=json)
    if result.get("next") and not json:
        output.next_command(result["next"])
