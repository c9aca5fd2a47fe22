"""`sailctl bench`: score a model on a suite of benchmarks, or finished scores against one another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sailctl.commands._options import DeviceOpt, DryRunOpt, JsonOpt, MeasuredCheckpointOpt

S = typer.Option


def bench(
    suite: Annotated[
        str | None,
        S(
            "--suite",
            help="A suite (--suite list shows them), a YAML file, or dataset:NAME; without it synth.",
            metavar="NAME|PATH",
        ),
    ] = None,
    checkpoint: MeasuredCheckpointOpt = None,
    run: Annotated[Path | None, S("--run", help="Every checkpoint of a run, one after another.", metavar="RUN")] = None,
    endpoint: Annotated[
        list[str] | None,
        S("--endpoint", help="Who answers instead: an OpenAI-compatible server; repeatable.", metavar="URL"),
    ] = None,
    model: Annotated[str | None, S("--model", help="The model as --endpoint serves it.", metavar="NAME")] = None,
    api_key_env: Annotated[
        str, S("--api-key-env", help="Environment variable that holds the endpoints' key.", metavar="NAME")
    ] = "OPENAI_API_KEY",
    data: Annotated[
        Path | None,
        S("--data", help="Folder of the benchmarks' tables; without it $LMUData or ~/LMUData.", metavar="DIR"),
    ] = None,
    out: Annotated[
        Path | None,
        S("--out", help="Folder of the results; by default bench-SUITE in the run, or in runs/bench.", metavar="PATH"),
    ] = None,
    samples: Annotated[int | None, S("--samples", help="At most so many questions a benchmark, drawn.", min=1)] = None,
    seed: Annotated[int | None, S("--seed", help="Of what is drawn; for synth, of its questions.", min=0)] = None,
    skip_missing: Annotated[bool, S("--skip-missing", help="Leave out benchmarks whose table is not there.")] = False,
    baselines: Annotated[
        bool, S("--baselines/--no-baselines", help="Of synth, score the blind and the untrained model too.")
    ] = True,
    judge_endpoint: Annotated[
        list[str] | None, S("--judge-endpoint", help="Server of a judge; repeatable.", metavar="URL")
    ] = None,
    judge_model: Annotated[str | None, S("--judge-model", help="The judge as it is served.", metavar="NAME")] = None,
    judge_api_key_env: Annotated[
        str, S("--judge-api-key-env", help="Environment variable that holds the judge's key.", metavar="NAME")
    ] = "OPENAI_API_KEY",
    scorer_python: Annotated[
        Path | None, S("--scorer-python", help="Interpreter of an environment with VLMEvalKit.", metavar="PATH")
    ] = None,
    published: Annotated[
        Path | None, S("--published", help="JSON of published scores to compare with.", metavar="FILE")
    ] = None,
    published_model: Annotated[
        str | None, S("--published-model", help="Whose row of --published.", metavar="NAME")
    ] = None,
    overlap: Annotated[
        Path | None, S("--overlap", help="Of sailctl curate decontaminate: set beside the scores.", metavar="DIR")
    ] = None,
    shard: Annotated[
        str | None, S("--shard", help="Answer one n-th of the questions, score nothing.", metavar="i/n")
    ] = None,
    from_scores: Annotated[
        Path | None,
        S("--from-scores", help="Only the averages of {model: {benchmark: raw score}}.", metavar="FILE"),
    ] = None,
    compare: Annotated[
        list[Path] | None,
        S("--compare", help="Only finished benches side by side, tested against the first.", metavar="RUN"),
    ] = None,
    device: DeviceOpt = "auto",
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
) -> None:
    """Score a model; without --checkpoint the newest run in runs/tiny. A rerun only asks what is not answered yet.

    Examples

    $ sailctl bench --checkpoint runs/tiny/preference

    $ sailctl bench --suite sail18 --data tables --checkpoint path/to/InternVL

    $ sailctl bench --from-scores scores.json --suite sail18 --json

    $ sailctl bench --compare runs/a/bench --compare runs/b/bench
    """
    from sailctl.commands import output
    from sailctl.core.bench.request import BenchRequest

    request = BenchRequest(
        suite, checkpoint, run, tuple(endpoint or ()), model, api_key_env, data, out, samples, seed, skip_missing,
        baselines, tuple(judge_endpoint or ()), judge_model, judge_api_key_env, scorer_python, published,
        published_model, shard, device, overlap, from_scores, tuple(compare or ()),
    )  # fmt: skip
    with output.Reporter(json=json) as reporter:
        shown = request.perform(reporter, dry_run=dry_run)
    for remark in shown.remarks:
        output.console.print(remark, markup=False)
    for folder in shown.folders:
        from sailctl.core.report.wrong_answers import write_wrong_answers

        shown.lines.append(f"wrong answers: {write_wrong_answers(folder).path}")
    output.emit_result(shown.json, shown.tables, shown.lines, json=json)
    if shown.next is not None and not json:
        output.next_command(shown.next)
    if shown.failure is not None:
        raise shown.failure
