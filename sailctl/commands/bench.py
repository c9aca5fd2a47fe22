"""`sailctl bench`: score a checkpoint on held-out questions, beside chance, its blind self and its untrained self."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sailctl.commands._options import DeviceOpt, DryRunOpt, JsonOpt, MeasuredCheckpointOpt

BenchOutOpt = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder of the results; by default bench/ in the run, or runs/bench/NAME-HASH for a foreign model folder.",
        metavar="PATH",
    ),
]


def bench(
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            help="sail18, opencompass8, card14, understanding, synth, a YAML file, or dataset:NAME; without it synth.",
            metavar="NAME|PATH",
        ),
    ] = None,
    checkpoint: MeasuredCheckpointOpt = None,
    out: BenchOutOpt = None,
    samples: Annotated[
        int | None, typer.Option("--samples", help="Questions a task; without it the recipe's number.", min=1)
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Another seed asks other questions.", min=0)] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Score the blind and the untrained model too.")
    ] = True,
    from_scores: Annotated[
        Path | None,
        typer.Option(
            "--from-scores",
            help="Only recompute the suite's averages from a JSON file of {model: {benchmark: raw score}}.",
            metavar="FILE",
        ),
    ] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            "--compare",
            help="Only show finished benches side by side, later ones tested against the first; give it for each.",
            metavar="RUN",
        ),
    ] = None,
    device: DeviceOpt = "auto",
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
) -> None:
    """Score a checkpoint; without --checkpoint the newest run in runs/tiny. A rerun only asks what is not answered yet.

    Examples

    $ sailctl bench --checkpoint runs/tiny/preference

    $ sailctl bench --checkpoint path/to/InternVL --out results --samples 50

    $ sailctl bench --from-scores scores.json --suite sail18 --json

    $ sailctl bench --compare runs/a/bench --compare runs/b/bench
    """
    from sailctl.commands import output
    from sailctl.core.bench.lineage import bench_config, check_suite, default_out, report_folder

    if from_scores is not None:
        from sailctl.core.bench.published import recompute, score_table

        averages, remarks = recompute(from_scores, suite)
        for remark in remarks:
            output.console.print(remark, markup=False)
        if json:
            output.emit_json(averages)
        else:
            output.emit_table(f"{suite}: averages in points", *score_table(averages))
        return

    if compare:
        from sailctl.core.bench.compare import comparison_table, side_by_side

        found = side_by_side(compare)
        if json:
            output.emit_json(found)
        else:
            output.emit_table("points with 95% intervals, p adjusted for all benchmarks", *comparison_table(found))
        return

    from sailctl.core.bench.run import bench as run_bench
    from sailctl.core.bench.run import plan, table
    from sailctl.core.model.lookup import newest_stage

    check_suite(suite or "synth")
    path = newest_stage() if checkpoint is None else Path(checkpoint)
    config = bench_config(path, samples=samples, seed=seed)
    folder = out or default_out(path)
    if dry_run:
        planned = plan(path, config, folder, baselines=baselines)
        if json:
            output.emit_json(planned)
        else:
            output.emit_table("plan", ["setting", "value"], [[key, str(value)] for key, value in planned.items()])
        return
    with output.Reporter(json=json) as reporter:
        results = run_bench(path, config, folder, device, reporter, baselines=baselines)
    if json:
        output.emit_json(results)
        return
    output.emit_table(f"{config.suite}, {results['overall']['n']} questions", *table(results))
    output.emit_text(f"answers: {folder / 'samples.jsonl'}")
    if (runs := report_folder(path)) is not None:
        output.next_command(f"sailctl report --runs {runs}")
