"""`sailctl quick-eval`: which of several datasets is best to train on."""

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
    JsonOpt,
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


def quick_eval(
    data: DatasetsOpt = None,
    stage: StageOpt = "instruction",
    samples: FullSizeOpt = None,
    rungs: RungsOpt = None,
    seeds: SeedsOpt = None,
    finalists: Annotated[
        int, typer.Option("--finalists", help="Datasets that reach the full size, at least.", min=1)
    ] = 2,
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
    """Rank datasets by training on each alone and scoring what comes of it, with intervals.

    The field is halved from rung to rung, and claims are made at the full size only.

    SFT data are ranked in --stage instruction, captions in --stage advance with --suite understanding. Trials start
    from --checkpoint (by default the recipe's stage before) and differ in their data alone.

    Examples

    $ sailctl quick-eval --data a.jsonl --data b.jsonl --samples 2M

    $ sailctl quick-eval --stage advance --data recap.tar --data alt.tar
    """
    from sailctl.commands import output
    from sailctl.core.valuation.request import EvalRequest

    request = EvalRequest(
        "quick-eval", stage, recipe, set_ or (), checkpoint, data=data or (), samples=samples, rungs=rungs,
        seeds=seeds, finalists=finalists, worth=worth, alpha=alpha, suite=suite, number=score, questions=questions,
        tables=tables, scorer_python=scorer_python, seed=seed, budget=budget, workers=workers, ray=ray,
        workspace=workspace, out=out, retry_failed=retry_failed, device=device,
    )  # fmt: skip
    with output.Reporter(json=json) as reporter:
        verdict = request.perform(reporter, dry_run=dry_run)
    output.emit_result(verdict.json, verdict.tables, verdict.lines, json=json)
    if verdict.next is not None and not json:
        output.next_command(verdict.next)
