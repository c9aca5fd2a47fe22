"""Where a stage starts from and what comes after it: parents, the trunk of an anneal branch, the next command."""

from __future__ import annotations

import hashlib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sailctl.core.errors import UsageError
from sailctl.core.model.shards import MANIFEST
from sailctl.core.schema.load import STAGES, load_recipe, recipe_root
from sailctl.core.schema.recipe import Recipe
from sailctl.core.train.checkpoint import Checkpoint, latest
from sailctl.core.train.rundir import read_run

COMMANDS = {
    "alignment": "pretrain",
    "advance": "pretrain",
    "anneal": "anneal",
    "knowledge": "sft",
    "instruction": "sft",
    "preference": "sft",
}

# What a branch takes over from its trunk: the freeze map, and everything the optimiser's state depends on.
TRUNK_KEYS = ("trainable", "optimizer", "lr_scale", "beta1", "beta2", "eps", "weight_decay")


@dataclass(frozen=True, slots=True)
class Parent:
    """A starting point: `path` as given or found, and the checkpoint it means if it is one of ours."""

    path: Path
    checkpoint: Checkpoint | None

    @property
    def weights(self) -> Path:
        """What to load the model from."""
        return self.checkpoint.weights if self.checkpoint else self.path

    def about(self, run_dir: Path) -> dict[str, Any]:
        """The parent's entry in `run.json`: its path (relative to the run where they are neighbours) and hash."""
        found = self.checkpoint.path if self.checkpoint else self.path
        neighbours = run_dir.resolve().parent in found.resolve().parents
        path = os.path.relpath(found.resolve(), run_dir.resolve()) if neighbours else str(found.resolve())
        entry: dict[str, Any] = {"checkpoint": path, "weights_sha256": self._weights_sha256()}
        if self.checkpoint:
            state = self.checkpoint.state()
            entry |= {"stage": state["recipe"]["stage"], "step": state["counters"]["steps"]}
        return entry

    def _weights_sha256(self) -> str:
        if self.checkpoint:
            return self.checkpoint.weights_sha256()
        from sailctl.core.model.weights import resolve_weights_dir

        digest = hashlib.sha256()
        for file in sorted(resolve_weights_dir(self.path).glob("*.safetensors")):
            with open(file, "rb") as handle:
                digest.update(f"{file.name} {hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()


def default_out(recipe: Recipe) -> Path:
    """Where a stage's run lives unless `--out` says otherwise."""
    return Path("runs") / recipe.name / recipe.stage


def sibling(recipe: Recipe, out: Path, stage: str, runs: Path | None = None) -> Path:
    """The run of another stage of this recipe: in `runs`, else beside `out` where that is named after its stage, else
    in the default place."""
    return (runs or (out.parent if out.name == recipe.stage else default_out(recipe).parent)) / stage


def open_parent(path: Path) -> Parent:
    """Read a run directory, a checkpoint or a foreign model folder as a starting point; UsageError if it is absent."""
    if not path.exists():
        raise UsageError(f"--checkpoint {path} does not exist; give a run, a checkpoint or a model folder")
    if (path / MANIFEST).is_file():
        return Parent(path, Checkpoint(path))
    if path.name == "weights" and (path.parent / MANIFEST).is_file():
        return Parent(path, Checkpoint(path.parent))
    return Parent(path, latest(path))


def missing_parent(recipe: Recipe, recipe_dir: Path, run_dir: Path) -> UsageError:
    """The error for a parent stage that has not been run: names the command that makes it."""
    command = stage_command(recipe, recipe_dir, str(recipe.parent))
    return UsageError(
        f"{recipe.stage} starts from stage {recipe.parent}, but {run_dir} has no checkpoint; "
        f"make it with: {command}, or give --checkpoint"
    )


def usable(run_dir: Path) -> bool:
    """Whether a parent's run can be started from: it has a checkpoint, and the last one if its child had it begun."""
    found = latest(run_dir)
    return found is not None and (found.state()["finished"] or not read_run(run_dir).get("bootstrapped"))


def follow_trunk(recipe: Recipe, trunk: Parent | None) -> Recipe:
    """The recipe of an anneal branch: the trunk's freeze map and optimiser, and the learning rate it stood at.

    Raises UsageError where the trunk has no optimiser state, or where the recipe's schedule would not decay.
    """
    if trunk is None:
        raise UsageError("anneal branches off a run; give --checkpoint RUN, or name a parent in the recipe")
    if trunk.checkpoint is None:
        raise UsageError(f"{trunk.path} has no optimiser state; anneal branches off a run or a run's checkpoint")
    if recipe.train.schedule == "constant":
        raise UsageError("train.schedule constant does not decay; anneal wants linear_to_zero or cosine")
    state = trunk.checkpoint.state()
    inherited = {key: state["recipe"]["train"][key] for key in TRUNK_KEYS} | {"lr": state["lr"]}
    return _with_train(recipe, inherited)


def keep_trunk(recipe: Recipe, stored: dict[str, Any]) -> Recipe:
    """The recipe of a branch that is resumed: what it took over from its trunk stays, whatever became of that."""
    return _with_train(recipe, {key: stored["train"][key] for key in (*TRUNK_KEYS, "lr")})


def _with_train(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    raw = recipe.model_dump(mode="json")
    raw["train"] |= values
    return Recipe.model_validate(raw)


def stage_words(stage: str) -> list[str]:
    """The first words of the command that trains a stage."""
    command = COMMANDS[stage]
    return ["sailctl", command] if command == stage else ["sailctl", command, "--stage", stage]


def stage_command(recipe: Recipe, recipe_dir: Path, stage: str) -> str:
    """The command line of another stage of this recipe."""
    name = recipe.name if recipe_dir.resolve() == (recipe_root() / recipe.name).resolve() else str(recipe_dir)
    return shlex.join([*stage_words(stage), "--recipe", name])


def next_command(recipe: Recipe, recipe_dir: Path, run_dir: Path) -> str:
    """The command that usually comes after this stage: the first later stage of the recipe that starts from it."""
    for stage in STAGES:
        if not (recipe_dir / f"{stage}.yaml").is_file():
            continue
        try:
            following, _ = load_recipe(str(recipe_dir), stage)
        except UsageError:  # a neighbour's mistake must not fail a run that is over
            continue
        if following.parent == recipe.stage:
            command = stage_command(recipe, recipe_dir, stage)
            found = run_dir.resolve() == default_out(recipe).resolve()
            return command if found else f"{command} {shlex.join(['--checkpoint', str(run_dir)])}"
    return shlex.join(["sailctl", "bench", "--suite", "synth", "--checkpoint", str(run_dir)])
