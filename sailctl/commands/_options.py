"""The shared option vocabulary: an option means the same, and is spelt the same, in every command.

Only option declarations live here. What they do lives in core; how results are shown lives in `output.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeOpt = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="Recipe name, recipe folder or YAML file; without it the embedded 'tiny' recipe is used.",
        metavar="NAME|PATH",
    ),
]

SetOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Override one recipe value, e.g. --set train.lr=2e-5 or --set data.sources.0.weight=2; repeatable.",
        metavar="KEY=VALUE",
    ),
]

DataOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="Samples: a tar, JSON, JSONL or Parquet file, folder, glob or URL, instead of the recipe's; repeatable.",
        metavar="PATH",
    ),
]

CheckpointOpt = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        help="Weights to start from: a run, a checkpoint, or a foreign model folder (InternVL, SAIL-VL).",
        metavar="PATH",
    ),
]

MeasuredCheckpointOpt = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        help="A run, a checkpoint, or a foreign model folder; without it the newest completed stage of runs/tiny.",
        metavar="PATH",
    ),
]

OutOpt = Annotated[
    Path | None,
    typer.Option("--out", help="Folder the results are written to.", metavar="PATH"),
]

ResumeOpt = Annotated[
    bool,
    typer.Option("--resume", help="Go on where the run in --out stood; start it if there is none."),
]

DeviceOpt = Annotated[
    str,
    typer.Option("--device", help="auto, cpu, cuda, cuda:N or npu; auto takes the accelerator that is there."),
]

DryRunOpt = Annotated[
    bool,
    typer.Option("--dry-run", help="Print what would be done, and do nothing."),
]

JsonOpt = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on standard output and nothing else there."),
]

# --- of the evaluations that judge data by training on it ------------------------------------------------------------

DatasetsOpt = Annotated[
    list[str] | None,
    typer.Option("--data", help="A dataset: any path of samples, or a mixture file; repeatable.", metavar="PATH"),
]

MixtureOpt = Annotated[
    str | None,
    typer.Option("--mixture", help="YAML file of sources with groups; without it the recipe's data.", metavar="FILE"),
]

GroupOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--group",
        help="A group by rule: sources whose name or tag matches; without one every tag is a group; repeatable.",
        metavar="NAME=GLOB,GLOB",
    ),
]

StageOpt = Annotated[
    str,
    typer.Option("--stage", help="The stage that trials train.", metavar="advance|knowledge|instruction|preference"),
]

FullSizeOpt = Annotated[
    str | None,
    typer.Option("--samples", help="Samples of a full-size trial; without it what there is, 2M at most.", metavar="N"),
]

RungsOpt = Annotated[
    str | None,
    typer.Option("--rungs", help="Sizes instead, rising, the full one last: 50k,200k,2M.", metavar="N,N"),
]

SeedsOpt = Annotated[
    str | None,
    typer.Option("--seeds", help="Seeds of each rung but the last, which has as many as it takes.", metavar="N,N"),
]

WorthOpt = Annotated[float, typer.Option("--worth", help="The difference that is to be found, in points.")]

MarginOpt = Annotated[float, typer.Option("--margin", help="Points that a candidate may cost and still enter.", min=0)]

AlphaOpt = Annotated[float, typer.Option("--alpha", help="The chance of a false claim that is allowed a decision.")]

TrialSuiteOpt = Annotated[
    str, typer.Option("--suite", help="What trials are scored on, as of sailctl bench.", metavar="NAME|PATH")
]

NumberOpt = Annotated[
    str | None,
    typer.Option("--score", help="Which of the suite's averages or benchmarks decides; its first.", metavar="NAME"),
]

QuestionsOpt = Annotated[int | None, typer.Option("--questions", help="At most so many questions a benchmark.", min=1)]

TablesOpt = Annotated[
    Path | None,
    typer.Option("--tables", help="Folder of the benchmarks' tables, as of sailctl bench --data.", metavar="DIR"),
]

ScorerPythonOpt = Annotated[
    Path | None,
    typer.Option("--scorer-python", help="Interpreter of an environment with VLMEvalKit.", metavar="PATH"),
]

SeedOpt = Annotated[int, typer.Option("--seed", help="Of the whole evaluation: which parts, which orders.", min=0)]

BudgetOpt = Annotated[
    str | None,
    typer.Option("--budget", help="Samples (2M) or device time (90m, 12h) a decision may take.", metavar="AMOUNT"),
]

WorkersOpt = Annotated[
    int | None, typer.Option("--workers", help="Trials at once; one a device, on CPU one a core.", min=1)
]

RayOpt = Annotated[
    str | None,
    typer.Option("--ray", help="Run trials on the Ray cluster at this address; local starts one.", metavar="ADDRESS"),
]

WorkspaceOpt = Annotated[
    Path,
    typer.Option("--workspace", help="Folder of the ledger and of all trials; what is in it is never repeated."),
]

RetryOpt = Annotated[bool, typer.Option("--retry-failed", help="Try trials again that have failed.")]

# --- of the passes that curate data ----------------------------------------------------------------------------------

CuratedOpt = Annotated[
    list[str] | None,
    typer.Option("--data", help="Samples: file, folder, glob or URL, or a mixture file; repeatable.", metavar="PATH"),
]

ImageRootOpt = Annotated[
    str | None,
    typer.Option("--image-root", help="Where image paths count from; else the file's folder.", metavar="PATH"),
]

CaptionsOpt = Annotated[
    str | None,
    typer.Option("--captions", help="Sidecars of sailctl caption for the data: a task's folder.", metavar="DIR"),
]

ProcessesOpt = Annotated[
    int | None,
    typer.Option("--processes", help="Local processes, or Ray workers; a core each without it.", min=1),
]

PassRayOpt = Annotated[
    str | None,
    typer.Option("--ray", help="Spread the work over a Ray cluster; 'local' starts one.", metavar="ADDRESS"),
]
