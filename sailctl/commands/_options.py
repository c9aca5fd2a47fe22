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
