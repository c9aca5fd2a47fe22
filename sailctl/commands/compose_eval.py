"""`sailctl compose-eval`: which groups of a mixture to halve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sailctl.commands._options import (
    AlphaOpt,
    BudgetOpt,
    CheckpointOpt,
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


def compose_eval(
    mixture: MixtureOpt = None,
    group: GroupOpt = None,
    strategy: Annotated[
        str, typer.Option("--strategy", help="How is decided.", metavar="sequential|paper|joint")
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
    """Halve each group of a mixture in turn, at constant total samples: halve, keep or undecided.

    All are judged against one shared baseline, at a stated error rate. Writes the new mixture with the reasons.

    --strategy paper decides by one run each, as in the SAIL-VL paper; joint fits all mixtures in the workspace and
    proposes which to try next.

    Examples

    $ sailctl compose-eval --mixture sft.yaml --samples 2M

    $ sailctl compose-eval --mixture sft.yaml --budget 48h --dry-run
    """
    from sailctl.commands import output
    from sailctl.core.valuation.request import EvalRequest

    request = EvalRequest(
        "compose-eval", stage, recipe, set_ or (), checkpoint, mixture=mixture, rules=group or (), strategy=strategy,
        samples=samples, rungs=rungs, seeds=seeds, worth=worth, alpha=alpha, suite=suite, number=score,
        questions=questions, tables=tables, scorer_python=scorer_python, seed=seed, budget=budget, workers=workers,
        ray=ray, workspace=workspace, out=out, retry_failed=retry_failed, device=device,
    )  # fmt: skip
    with output.Reporter(json=json) as reporter:
        verdict = request.perform(reporter, dry_run=dry_run)
    output.emit_result(verdict.json, verdict.tables, verdict.lines, json=json)
    if verdict.next is not None and not json:
        output.next_command(verdict.next)
