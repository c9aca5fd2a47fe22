"""A trunk and what its branches are asked to be: which checkpoints are near the sizes wanted, and which are gone.

Reads the run's recipe and the counters of its checkpoints; trains and benches nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sailctl.core.bench.lineage import as_name, recipe_of, run_of
from sailctl.core.errors import UsageError
from sailctl.core.schema.load import STAGES, recipe_names
from sailctl.core.schema.recipe import Recipe
from sailctl.core.train.checkpoint import Checkpoint, complete
from sailctl.core.train.parents import COMMANDS

DEFAULT_THEN = "instruction"


@dataclass(frozen=True, slots=True)
class Then:
    """What a branch is trained on with: a recipe, one of its SFT stages, and values that it is to have instead."""

    recipe: str
    stage: str
    overrides: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Then:
        """Read `sft:RECIPE` (stage instruction) or `sft:RECIPE:STAGE`, with `,KEY=VALUE` behind. Raises UsageError."""
        words, *overrides = text.split(",")
        kind, _, rest = words.partition(":")
        name, _, stage = rest.rpartition(":")
        if not name or stage not in STAGES:  # no stage named
            name, stage = rest, DEFAULT_THEN
        fitting = [known for known in STAGES if COMMANDS[known] == "sft"]
        tail = rest.rpartition(":")
        if kind == "sft" and tail[0] in recipe_names() and tail[2] not in STAGES:
            raise UsageError(f"--then {text}: recipe {tail[0]} has no stage {tail[2]}; give {' or '.join(fitting)}")
        if kind != "sft" or not name or stage not in fitting:
            raise UsageError(f"--then {text}: should be sft:RECIPE or sft:RECIPE:STAGE with {' or '.join(fitting)}")
        return cls(name, stage, tuple(overrides))

    @property
    def name(self) -> str:
        """What rows of the curve call it."""
        return ",".join((f"sft:{self.recipe}:{self.stage}", *self.overrides))

    @property
    def folder(self) -> str:
        """The folder beside the branches that it trains in."""
        return as_name("-".join((f"sft-{Path(self.recipe).name}-{self.stage}", *self.overrides)))


def trunk_recipe(run: Path) -> Recipe:
    """The recipe a trunk was trained with. Raises UsageError for a folder that is no run."""
    if run_of(run) is None or run_of(run) != run.resolve():
        raise UsageError(f"--run {run}: is no run of sailctl; give the folder that holds run.json")
    return recipe_of(run)


def choose(run: Path, every: int, covered: Sequence[int]) -> tuple[dict[int, Checkpoint], str | None]:
    """The kept checkpoints nearest to multiples of `every` samples by step, and what is to be said of those not kept.

    Near is within half of `every`. `covered` are sizes in samples that need no checkpoint: a trunk that still trains
    may have removed theirs. Raises UsageError where nothing is left to branch off and nothing is covered.
    """
    recipe = trunk_recipe(run)
    found = [Checkpoint(run / "checkpoints" / name) for name in complete(run)]
    kept = {(counters := one.state()["counters"])["steps"]: (one, counters["samples"]) for one in found}
    if not kept:
        raise UsageError(f"--run {run}: has no complete checkpoint yet")
    steps, samples = max(kept), kept[max(kept)][1]
    count = round(samples / every)
    if not count:
        raise UsageError(f"--every {every:,}: the trunk has seen {samples:,} samples only; give less")
    chosen: dict[int, Checkpoint] = {}
    gone = []
    for target in range(every, (count + 1) * every, every):
        nearest = min(kept, key=lambda step: abs(kept[step][1] - target))
        if abs(kept[nearest][1] - target) <= every / 2:
            chosen[nearest] = kept[nearest][0]
        elif not any(abs(size - target) <= every / 2 for size in covered):
            gone.append(target)
    said = _too_few(run, recipe, every, gone, count, steps, samples / steps) if gone else None
    if said and not chosen and not covered:
        raise UsageError(said)
    return dict(sorted(chosen.items())), said


def _too_few(
    run: Path, recipe: Recipe, every: int, gone: Sequence[int], count: int, steps: int, per_step: float
) -> str:
    """Which sizes are missing and which settings keep them: numbers as they are and as they should be."""
    train = recipe.train
    sizes = ", ".join(f"{target:,}" for target in gone[:6]) + (", …" if len(gone) > 6 else "")
    save = min(train.save_every, max(1, math.floor(every / per_step)))
    keep = math.ceil(steps / save)
    settings = [f"--set train.save_every={save}"] if save != train.save_every else []
    if keep > train.keep_checkpoints:
        settings.append(f"--set train.keep_checkpoints={keep}")
    how = f"train it with {' '.join(settings)}, or run this while it trains" if settings else "they were removed"
    return (
        f"{run}: no checkpoint is kept near {sizes} samples ({len(gone)} of {count} sizes): the trunk saves every "
        f"{train.save_every:,} steps (train.save_every; about {train.save_every * per_step:,.0f} samples) and keeps "
        f"{train.keep_checkpoints} (train.keep_checkpoints); {how}"
    )


def count_of(text: str, option: str) -> int:
    """A number of samples as people write it: 2000000, 2e6, 2M, 500k. Raises UsageError naming the option."""
    units = {"k": 1e3, "m": 1e6, "b": 1e9}
    word = text.strip().replace(",", "").replace("_", "")
    factor = units.get(word[-1:].lower(), 1.0)
    try:
        value = float(word[:-1] if factor != 1.0 else word) * factor
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 1 and value == round(value)):
        raise UsageError(f"{option} {text}: should be a whole number of samples from 1 up, such as 500k, 2M or 2e6")
    return round(value)
