"""`sailctl curate judge`: a model judges samples."""

from __future__ import annotations

from typing import Annotated

import typer

from sailctl.commands._options import (
    CaptionsOpt,
    CuratedOpt,
    DeviceOpt,
    DryRunOpt,
    ImageRootOpt,
    JsonOpt,
    OutOpt,
    PassRayOpt,
    ProcessesOpt,
)

S = typer.Option


def judge(
    data: CuratedOpt = None,
    image_root: ImageRootOpt = None,
    captions: CaptionsOpt = None,
    task: Annotated[str, S("--task", help="What is judged.", metavar="quality|sft|gsb")] = "quality",
    reference: Annotated[
        list[str] | None,
        S("--reference", help="Captions to compare with: sidecars or data; up to 3, gsb takes one.", metavar="PATH"),
    ] = None,
    lang: Annotated[str, S("--lang", help="Language of the rubric; auto: each text's.", metavar="auto|en|zh")] = "auto",
    endpoint: Annotated[
        list[str] | None, S("--endpoint", help="OpenAI-compatible server of the judge; repeatable.", metavar="URL")
    ] = None,
    model: Annotated[str | None, S("--model", help="The judge, as the server calls it.", metavar="NAME")] = None,
    engine: Annotated[
        str | None, S("--engine", help="Who answers; openai if --endpoint is given.", metavar="openai|local")
    ] = None,
    checkpoint: Annotated[str | None, S("--checkpoint", help="Model of --engine local.", metavar="PATH")] = None,
    device: DeviceOpt = "auto",
    api_key_env: Annotated[
        str, S("--api-key-env", help="Environment variable that holds the endpoints' key.", metavar="NAME")
    ] = "OPENAI_API_KEY",
    out: OutOpt = None,
    samples: Annotated[
        int | None, S("--samples", help="So many of each source, drawn by --seed; all without.", min=1)
    ] = None,
    seed: Annotated[int, S("--seed", help="Which samples are drawn.", min=0)] = 0,
    min_: Annotated[
        list[str] | None,
        S("--min", help="Keep only what scores so much; repeatable.", metavar="[CRITERION=]SCORE"),
    ] = None,
    max_unjudged: Annotated[
        float, S("--max-unjudged", help="Share of samples without a readable answer that is allowed.", min=0, max=1)
    ] = 0.1,
    max_tokens: Annotated[int, S("--max-tokens", help="Longest answer of the judge, in tokens.", min=1)] = 512,
    in_flight: Annotated[int, S("--in-flight", help="Most requests open at once, over all processes.", min=1)] = 64,
    timeout: Annotated[float, S("--timeout", help="Seconds one request may take.", min=0.1)] = 300.0,
    requests_per_minute: Annotated[
        float | None, S("--requests-per-minute", help="Rate limit of the whole run.", min=0.001)
    ] = None,
    price_in: Annotated[float, S("--price-in", help="Price of a million prompt tokens.", min=0)] = 0.0,
    price_out: Annotated[float, S("--price-out", help="Price of a million completion tokens.", min=0)] = 0.0,
    max_cost: Annotated[
        float | None, S("--max-cost", help="Stop when this run has cost so much; needs prices.", min=0)
    ] = None,
    people: Annotated[
        list[str] | None,
        S("--people", help="Opinions of people on the same data: agreement is told; repeatable.", metavar="DIR"),
    ] = None,
    processes: ProcessesOpt = None,
    ray: PassRayOpt = None,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
) -> None:
    """Have a model judge samples: captions, conversations, or pairs of captions. Killed, the same command goes on.

    quality: a caption against --reference captions (precision and recall, 1 to 10; quality 0 to 100) or, without any,
    by its picture (hallucination, inaccuracy, omission, fluency, overall, 1 to 5). sft: difficulty, complexity and
    relevance of a conversation, 1 to 5. gsb: whether a caption is better than the reference, asked in both orders.

    Examples

    $ sailctl curate judge --data D --reference R --endpoint URL --model M

    $ sailctl curate judge --task sft --data D --engine local --checkpoint C

    $ sailctl curate judge --task gsb --data D --reference R --people P …
    """
    from sailctl.commands import output
    from sailctl.core.curate.judge.engine import JudgeEngine
    from sailctl.core.curate.judge.lines import lines_of, tables_of
    from sailctl.core.curate.judge.request import JudgeRequest

    asked = JudgeEngine(
        engine, endpoint or (), model, checkpoint, device, api_key_env, in_flight, timeout, requests_per_minute,
        price_in, price_out, max_cost,
    )  # fmt: skip
    request = JudgeRequest(
        data or [], out, task, asked, reference or (), image_root, captions, lang, samples, seed, min_ or (),
        max_tokens, max_unjudged, people or (), processes, ray,
    )  # fmt: skip
    with output.Reporter(json=json) as reporter:
        report = request.perform(reporter, dry_run=dry_run)
    output.emit_result(report, tables_of(report), lines_of(report), json=json)
    if report.get("next") and not json:
        output.next_command(report["next"])
