"""What a stage would do, without doing it: the resolved recipe, its parent, its data, what is trained, how long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sailctl.core.data.loader import check_lanes
from sailctl.core.data.order import Mixture
from sailctl.core.device import pick
from sailctl.core.errors import UsageError
from sailctl.core.files import list_shards
from sailctl.core.reporter import counted
from sailctl.core.schema.data import SourceConfig
from sailctl.core.schema.recipe import Recipe
from sailctl.core.train import checkpoint as checkpoints
from sailctl.core.train import parents, rundir
from sailctl.core.train.schedule import Budget
from sailctl.core.train.trackers import check_trackers


def plan_stage(
    recipe: Recipe,
    *,
    recipe_dir: Path,
    out: Path,
    checkpoint: str | None,
    resume: bool,
    device: str,
    ranks: int = 1,
    runs: Path | None = None,
) -> dict[str, Any]:
    """The plan of `train_stage` with the same arguments, and the same UsageErrors as far as they can be foreseen.

    Nothing is written but the shards' indexes. Steps are exact where `max_steps` decides, else an expectation.
    """
    from sailctl.core.model.count import parameter_counts
    from sailctl.core.model.presets import model_config

    place = pick(device)
    check_lanes(recipe.data.lanes, ranks, recipe.train.global_batch_samples)
    check_trackers(recipe.train.trackers)
    rundir.check_free(out, resume=resume)
    position = checkpoints.latest(out)
    parent, recipe = _parent(recipe, recipe_dir, out, checkpoint, position, runs)
    if position is not None:
        rundir.check_same_recipe(out, position.state()["recipe"], recipe.model_dump(mode="json"))
    sources = [foresee_source(source, recipe.bootstrap) for source in recipe.data.sources]
    if not sources:
        raise UsageError("data.sources is empty; give --data PATH or name a source in the recipe")
    mixture = Mixture.of([source["samples"] for source in sources], recipe.data.sources)
    budget = Budget.of(recipe.train, mixture.epoch)
    counts = parameter_counts(model_config(recipe.model))
    return {
        "recipe": recipe.model_dump(mode="json"),
        "run_dir": str(out),
        "starts_at_step": position.state()["counters"]["steps"] if position else 0,
        "device": place.name(),
        "ranks": ranks,
        "parent": parent,
        "data": sources,
        "parameters": {
            name: {"total": counts[name], "trainable": counts[name] if name in recipe.train.trainable else 0}
            for name in ("vision", "projector", "llm")
        },
        "steps": budget.expected_steps(recipe.train.global_batch_samples),
    }


def describe_plan(plan: dict[str, Any]) -> str:
    """The plan as text for people; the recipe itself comes last."""
    from sailctl.core.schema.load import dump_recipe

    parent, train, data = plan["parent"], plan["recipe"]["train"], plan["recipe"]["data"]
    backend = f"DeepSpeed ZeRO {train['zero_stage']}" if train["backend"] == "deepspeed" else "plain"
    schedule = f"schedule {train['schedule']}"
    start = "none: starts from the recipe's model" if parent is None else f"{parent['path']} ({parent['state']})"
    lines = [
        f"run:        {plan['run_dir']}, from step {plan['starts_at_step']}",
        f"ranks:      {plan['ranks']} on {plan['device']}, {backend}; {counted(data['lanes'], 'lane')}, "
        f"packs balanced by {data['balance']}",
        f"parent:     {start}",
        *(
            f"data:       {source['name']}: {counted(source['samples'], 'sample')} {source['state']} in "
            f"{source['path']}"
            for source in plan["data"]
        ),
        *(
            f"parameters: {name}: {entry['trainable']:,} of {entry['total']:,} trainable"
            for name, entry in plan["parameters"].items()
        ),
        f"steps:      {plan['steps']:,}, about {counted(train['global_batch_samples'], 'sample')} each, {schedule}",
        "",
        dump_recipe(Recipe.model_validate(plan["recipe"])).rstrip(),
    ]
    return "\n".join(lines)


def _parent(
    recipe: Recipe,
    recipe_dir: Path,
    out: Path,
    given: str | None,
    position: checkpoints.Checkpoint | None,
    runs: Path | None,
) -> tuple[dict[str, str] | None, Recipe]:
    if position is not None:
        if recipe.stage == "anneal":
            recipe = parents.keep_trunk(recipe, position.state()["recipe"])
        return {"path": str(position.path), "state": "this run's own checkpoint"}, recipe
    if given is None and recipe.parent is None and recipe.stage != "anneal":
        return None, recipe
    if given is None and recipe.parent is not None:
        run_dir = parents.sibling(recipe, out, recipe.parent, runs)
        if not parents.usable(run_dir):
            if not recipe.bootstrap:
                raise parents.missing_parent(recipe, recipe_dir, run_dir)
            return {"path": str(run_dir), "state": "to be made first"}, recipe
        given = str(run_dir)
    parent = None if given is None else parents.open_parent(Path(given))
    if recipe.stage == "anneal":
        recipe = parents.follow_trunk(recipe, parent)
    assert parent is not None  # anneal without one was refused
    return {"path": str(parent.checkpoint.path if parent.checkpoint else parent.path), "state": "found"}, recipe


def foresee_source(source: SourceConfig, bootstrap: bool) -> dict[str, Any]:
    """A source's name, path and number of samples, and whether it is `found` or `to be made`."""
    from sailctl.core.data.sources import open_source

    if bootstrap and source.synth is not None and not list_shards(source.path):
        samples = source.samples or source.synth.samples
        return {"name": source.name, "path": source.path, "samples": samples, "state": "to be made"}
    return {"name": source.name, "path": source.path, "samples": len(open_source(source)), "state": "found"}
