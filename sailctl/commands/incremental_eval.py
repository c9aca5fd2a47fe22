"""`sailctl incremental-eval`: which new datasets to let into a mixture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sailctl.commands._options import (
    AlphaOpt,
    BudgetOpt,
    CheckpointOpt,
    DatasetsOpt,
    DeviceOpt,
    DryRunOpt,
    FullSizeOpt,
    GroupOpt,
    JsonOpt,
    MixtureOpt,
    NumberOpt,
    OutOpt,
    QuestionsOpt,
    RayOpt,
    RecipeOpt,
    RetryOpt,
    RungsOpt,
    ScorerPythonOpt,
    SeedOpt,
    SeedsOpt,
    SetOpt,
    StageOpt,
    TablesOpt,
    TrialSuiteOpt,
    WorkersOpt,
    WorkspaceOpt,
    WorthOpt,
)


def incremental_eval(
    data: DatasetsOpt = None,
    mixture: MixtureOpt = None,
    group: GroupOpt = None,
    margin: Annotated[
        float, typer.Option("--margin", help="Points that a candidate may cost and still enter.", min=0)
    ] = 0.0,
    fdr: Annotated[float, typer.Option("--fdr", help="Expected share of false accepts among all.")] = 0.2,
    strategy: Annotated[
        str, typer.Option("--strategy", help="How is decided.", metavar="sequential|paper")
    ] = "sequential",
    stage: StageOpt = "instruction",
    samples: FullSizeOpt = None,
    rungs: RungsOpt = None,
    seeds: SeedsOpt = None,
    worth: WorthOpt = 1.0,
    alpha: AlphaOpt = 0.05,
    recipe: RecipeOpt = None,
    set_: SetOpt = None,
    checkpoint: CheckpointOpt = None,
    suite: TrialSuiteOpt = "synth",
    score: NumberOpt = None,
    questions: QuestionsOpt = None,
    tables: TablesOpt = None,
    scorer_python: ScorerPythonOpt = None,
    seed: SeedOpt = 0,
    budget: BudgetOpt = None,
    workers: WorkersOpt = None,
    ray: RayOpt = None,
    workspace: WorkspaceOpt = Path("runs/valuation"),
    out: OutOpt = None,
    retry_failed: RetryOpt = False,
    device: DeviceOpt = "auto",
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
) -> None:
    """Judge candidates for a mixture, each against the mixture as grown so far: accept, reject or undecided.

    The most promising comes first. Writes the grown mixture with the reasons.

    A candidate is accepted if it makes the score better or, with --margin, not worse by more than that. False accepts
    are held to --alpha a decision and to --fdr of all accepts.

    Examples

    $ sailctl incremental-eval --mixture sft.yaml --data new.jsonl

    $ sailctl incremental-eval --mixture sft.yaml --data a.tar --margin 0.5
    """
    from sailctl.commands import output
    from sailctl.core.valuation.request import EvalRequest

    request = EvalRequest(
        "incremental-eval", stage, recipe, set_ or (), checkpoint, data=data or (), mixture=mixture, rules=group or
        (), strategy=strategy, samples=samples, rungs=rungs, seeds=seeds, worth=worth, alpha=alpha, margin=margin,
        fdr=fdr, suite=suite, number=score, questions=questions, tables=tables, scorer_python=scorer_python,
        seed=seed, budget=budget, workers=workers, ray=ray, workspace=workspace, out=out, retry_failed=retry_failed,
        device=device,
    )  # fmt: skip
    with output.Reporter(json=json) as reporter:
        verdict = request.perform(reporter, dry_run=dry_run)
    output.emit_result(verdict.json, verdict.tables, verdict.lines, json=json)
    if verdict.next is not None and not json:
        output.next_command(verdict.next)
