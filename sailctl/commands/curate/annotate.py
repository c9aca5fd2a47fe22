"""`sailctl curate annotate`: people judge samples in their browser."""

from __future__ import annotations

from typing import Annotated

import typer

from sailctl.commands._options import CaptionsOpt, CuratedOpt, ImageRootOpt, JsonOpt, OutOpt

S = typer.Option


def annotate(
    data: CuratedOpt = None,
    image_root: ImageRootOpt = None,
    captions: CaptionsOpt = None,
    task: Annotated[str, S("--task", help="What is judged.", metavar="quality|sft|gsb")] = "quality",
    reference: Annotated[
        str | None,
        S("--reference", help="Captions to compare with: sidecars, or samples of the same pictures.", metavar="PATH"),
    ] = None,
    samples: Annotated[int, S("--samples", help="Items, drawn by --seed.", min=1)] = 200,
    annotators: Annotated[
        str | None, S("--annotators", help="Who judges, such as ann,bo.", metavar="NAME,NAME")
    ] = None,
    double: Annotated[float, S("--double", help="The share of items that two people judge.", metavar="SHARE")] = 0.1,
    seed: Annotated[int, S("--seed", help="Which items, for whom, in which order and on which side.", min=0)] = 0,
    lang: Annotated[str, S("--lang", help="Language of the page.", metavar="en|zh")] = "en",
    port: Annotated[int, S("--port", help="Port on 127.0.0.1; 0 takes any that is free.", min=0)] = 8765,
    out: OutOpt = None,
    report: Annotated[
        bool, S("--report", "--export", help="Serve nothing: write the opinions so far, tell the agreement.")
    ] = False,
    json: JsonOpt = False,
) -> None:
    """Have people judge samples in a page of their browser, blind and by keyboard; answers become opinions.

    Each annotator gets a secret address on this machine. Every answer is on the disk before the page says so: stopped
    or killed anywhere, the same command goes on. Captions are scored on hallucination, inaccuracy, omission and
    fluency, with --reference both of a pair and which is better (--task gsb: only that), conversations (--task sft) on
    difficulty, complexity and relevance.

    Examples

    $ sailctl curate annotate --data shards --annotators ann,bo --out OUT

    $ sailctl curate annotate --data A --reference B --annotators ann --out OUT

    $ sailctl curate annotate --report --out OUT
    """
    from sailctl.commands import output
    from sailctl.core.curate.annotate.request import AnnotateRequest
    from sailctl.core.curate.annotate.results import describe

    request = AnnotateRequest(
        data or [], out, task, captions, reference, image_root, samples, annotators, double, seed, lang, port
    )
    with output.Reporter(json=json) as reporter:
        result = request.perform(reporter, report_only=report)
    output.emit_result(result, *describe(result), json=json)
    if not json:
        output.next_command(result["next"])
