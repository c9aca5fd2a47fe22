"""Where a checkpoint comes from: its run, the recipe of that run, and the first run of its lineage.

A run's folder names its parent in `run.json`; the first run of the chain has none. Only these small files are read, so
checkpoints on the way may be gone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from pydantic import ValidationError

from sailctl.core.errors import CheckpointError
from sailctl.core.schema.bench import BenchConfig
from sailctl.core.schema.load import explain, read_yaml
from sailctl.core.schema.recipe import Recipe

ABOUT, RECIPE = "run.json", "recipe.yaml"
MANIFEST = "manifest.json"  # of a complete checkpoint


def run_of(path: Path) -> Path | None:
    """The run folder that a run, a checkpoint or a checkpoint's weights folder belongs to."""
    path = path.resolve()
    # RUN, RUN/checkpoints/STEP or RUN/checkpoints/STEP/weights
    places = (path, *path.parents[1:3])
    return next((place for place in places if (place / ABOUT).is_file() and (place / RECIPE).is_file()), None)


def root_run(checkpoint: Path) -> Path | None:
    """The run a checkpoint's lineage began with; None where it did not begin with a run of ours."""
    path, seen = checkpoint, set[Path]()
    while (run := run_of(path)) is not None and run not in seen:
        seen.add(run)
        try:
            parent = json.loads((run / ABOUT).read_text(encoding="utf-8")).get("parent")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{run / ABOUT}: is not a readable JSON file: {error}") from None
        if parent is None:
            return run
        path = run / parent["checkpoint"]  # relative where the two are neighbours, absolute otherwise
    return None


def recipe_of(run: Path) -> Recipe:
    """The resolved recipe a run was made with."""
    path = run / RECIPE
    try:
        return Recipe.model_validate(read_yaml(path))
    except ValidationError as error:
        raise CheckpointError(explain(error, Recipe, str(path))) from None


def bench_config(checkpoint: Path, *, samples: int | None = None, seed: int | None = None) -> BenchConfig:
    """The `bench` section of the recipe that made a checkpoint (defaults for any other), with what was asked for."""
    run = run_of(checkpoint)
    config = BenchConfig() if run is None else recipe_of(run).bench
    asked = {"samples": samples, "seed": seed}
    return config.model_copy(update={key: value for key, value in asked.items() if value is not None})


def checkpoints_of(run: Path) -> list[Path]:
    """The complete checkpoints of a run, in the order of their steps."""
    return sorted(path.parent for path in (run / "checkpoints").glob(f"step-*/{MANIFEST}"))


def as_name(text: str) -> str:
    """A name of somebody else's as part of a folder's."""
    return re.sub(r"[^\w.+-]+", "-", text).strip("-.") or "unnamed"


def default_out(checkpoint: Path, suite: str = "synth") -> Path:
    """`bench` in the checkpoint's run, `bench-STEP` for one checkpoint of it, `runs/bench/NAME-HASH` for another model.

    The hash is of the folder's path: two model folders of one name keep their results apart. Any other suite than synth
    has a folder of its own, which ends in its name.
    """
    run, path = run_of(checkpoint), checkpoint.resolve()
    step = path if path.name != "weights" else path.parent
    ending = "" if suite == "synth" else f"-{as_name(suite)}"
    if run is None:
        digest = hashlib.blake2b(str(step).encode(), digest_size=3).hexdigest()
        return Path("runs/bench") / f"{step.name}-{digest}{ending}"
    name = ("bench" if step == run else f"bench-{step.name}") + ending
    return checkpoint / name if path == run else run / name


def report_folder(results: Path) -> Path | None:
    """The folder of runs whose report shows a bench with its results here, as seen from the working directory.

    A report takes `bench` in a run, or beside runs; None for all others.
    """
    if results.name != "bench":
        return None
    home = results.resolve().parent
    return Path(os.path.relpath(home.parent if (home / ABOUT).is_file() else home))
