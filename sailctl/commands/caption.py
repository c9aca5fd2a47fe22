"""`sailctl caption`: annotate pictures with a captioner behind any number of endpoints, each question exactly once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sailctl.commands._options import DeviceOpt, DryRunOpt, JsonOpt, OutOpt

S = typer.Option


def caption(
    data: Annotated[
        list[str] | None,
        S("--data", help="Tar, JSON, JSONL or Parquet file, folder, glob or URL; repeatable.", metavar="PATH"),
    ] = None,
    image_root: Annotated[
        str | None, S("--image-root", help="Where image paths count from; else the file's folder.", metavar="PATH")
    ] = None,
    task: Annotated[
        list[str] | None,
        S(
            "--task",
            help="Several, with commas or repeated; detailed alone if not given.",
            metavar="detailed|recaption|ocr|qa",
        ),
    ] = None,
    lang: Annotated[str, S("--lang", help="Language of prompts and answers.", metavar="en|zh")] = "en",
    prompts: Annotated[
        Path | None, S("--prompts", help="Folder with prompts of your own, such as detailed.en.txt.", metavar="DIR")
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        S("--endpoint", help="OpenAI-compatible server: LMDeploy, vLLM, an API; repeatable.", metavar="URL"),
    ] = None,
    model: Annotated[str | None, S("--model", help="The captioner, as the server calls it.", metavar="NAME")] = None,
    engine: Annotated[
        str | None, S("--engine", help="Who answers; openai if --endpoint is given.", metavar="openai|local|lmdeploy")
    ] = None,
    checkpoint: Annotated[
        str | None,
        S("--checkpoint", help="Model of --engine local or lmdeploy.", metavar="PATH"),
    ] = None,
    device: DeviceOpt = "auto",
    api_key_env: Annotated[
        str, S("--api-key-env", help="Environment variable that holds the endpoints' key.", metavar="NAME")
    ] = "OPENAI_API_KEY",
    out: OutOpt = None,
    max_tokens: Annotated[int, S("--max-tokens", help="Longest answer, in tokens.", min=1)] = 1024,
    temperature: Annotated[float, S("--temperature", help="0 is greedy; above it answers vary.")] = 0.0,
    max_image_side: Annotated[
        int | None, S("--max-image-side", help="Make larger pictures smaller; else bytes go as they are.", min=16)
    ] = None,
    in_flight: Annotated[int, S("--in-flight", help="Most requests open at once, over all processes.", min=1)] = 256,
    timeout: Annotated[float, S("--timeout", help="Seconds one request may take.", min=0.1)] = 300.0,
    requests_per_minute: Annotated[
        float | None, S("--requests-per-minute", help="Rate limit of the whole job, over all --shard i/n.", min=0.001)
    ] = None,
    tokens_per_minute: Annotated[
        float | None, S("--tokens-per-minute", help="Rate limit of the whole job, over all --shard i/n.", min=0.001)
    ] = None,
    price_in: Annotated[float, S("--price-in", help="Price of a million prompt tokens.", min=0)] = 0.0,
    price_out: Annotated[float, S("--price-out", help="Price of a million completion tokens.", min=0)] = 0.0,
    max_cost: Annotated[
        float | None, S("--max-cost", help="Stop when the job's answers have cost this much; needs prices.", min=0)
    ] = None,
    processes: Annotated[int, S("--processes", help="Local processes, each an event loop; or Ray workers.", min=1)] = 1,
    shard: Annotated[str, S("--shard", help="Every n-th data shard from i on, for job arrays.", metavar="i/n")] = "0/1",
    ray: Annotated[
        str | None,
        S("--ray", help="Spread the work over a Ray cluster; 'local' starts one.", metavar="ADDRESS"),
    ] = None,
    retry_quarantined: Annotated[
        bool, S("--retry-quarantined", help="Ask once more what was given up in earlier runs.")
    ] = False,
    only: Annotated[
        str | None, S("--only", help="Of what was given up, ask of this sample alone, by its key or id.", metavar="KEY")
    ] = None,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
) -> None:
    """Caption pictures into sidecars for training. Killed or stopped anywhere, the same command goes on.

    Examples

    $ sailctl caption --data shards --endpoint URL --model NAME --out OUT

    $ sailctl caption --data a.tar --task detailed,qa --lang zh --out OUT

    $ sailctl caption --data a.tar --engine local --checkpoint RUN --out OUT
    """
    from sailctl.commands import output
    from sailctl.core.caption.report import describe, describe_plan
    from sailctl.core.caption.request import CaptionRequest
    from sailctl.core.caption.run import run

    request = CaptionRequest(
        data or [], out, task or ["detailed"], lang, image_root, prompts, endpoint or [], model, engine, checkpoint,
        device, api_key_env, max_tokens, temperature, max_image_side, in_flight, timeout, requests_per_minute,
        tokens_per_minute, price_in, price_out, max_cost, processes, shard, ray, retry_quarantined, only,
    )  # fmt: skip
    failure = None
    if dry_run:
        report = request.plan()
    else:
        with output.Reporter(json=json) as reporter:
            report, failure = run(request, reporter)
    if json:
        output.emit_json(report)
    elif failure is None:
        for line in describe_plan(report) if dry_run else describe(report):
            output.emit_text(line)
        if report.get("next"):
            output.next_command(report["next"])
    if failure is not None:
        raise failure
