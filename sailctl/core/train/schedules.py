"""The three SFT stages as one piece of work: one after another (curriculum), or all their data at once (aio).

Both start from the same parent and take as many samples of every source, so that they can be compared: Fig. 5 of the
SAIL-VL paper. Here is what each is made of and where it lives; a stage is trained by `run.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sailctl.core.data.order import Mixture
from sailctl.core.errors import UsageError
from sailctl.core.reporter import Reporter, counted
from sailctl.core.schema.data import SourceConfig
from sailctl.core.schema.recipe import Recipe
from sailctl.core.schema.train import TrainConfig
from sailctl.core.train import checkpoint as checkpoints
from sailctl.core.train import parents, rundir
from sailctl.core.train.inputs import make_missing_data
from sailctl.core.train.plan import describe_plan, foresee_source, plan_stage
from sailctl.core.train.run import RunResult, train_stage
from sailctl.core.train.schedule import Budget
from sailctl.core.train.world import World

SFT_STAGES = ("knowledge", "instruction", "preference")
SCHEDULES = ("curriculum", "aio")


@dataclass(slots=True)
class Portion:
    """A source, and how many samples of it each stage that has it takes."""

    source: SourceConfig
    samples: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Samples of it over all stages."""
        return sum(self.samples.values())


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be trained: the recipes of the three stages, from the same folder, and how the command was called."""

    schedule: str
    recipes: Sequence[Recipe]
    recipe_dir: Path
    out: Path | None
    checkpoint: str | None
    resume: bool

    @property
    def runs(self) -> Path:
        """Where the recipe's other stages live, and so the parent of the first: the same whatever `out` is."""
        return parents.default_out(self.recipes[0]).parent

    @property
    def folders(self) -> dict[str, Path]:
        """The runs of the schedule by name, in order: a folder a stage in `out`, or `out` itself for aio."""
        return run_folders(self.schedule, self.recipes[0], self.out)


def run_folders(schedule: str, recipe: Recipe, out: Path | None) -> dict[str, Path]:
    """Where a schedule's runs live, in order; without `out` beside the other stages of the recipe."""
    runs = parents.default_out(recipe).parent
    return {"aio": out or runs / "aio"} if schedule == "aio" else {stage: (out or runs) / stage for stage in SFT_STAGES}


# --- what is trained ---------------------------------------------------------------------------------------------


def stage_samples(train: TrainConfig, mixture: Mixture) -> int:
    """Samples until a stage ends; where `max_steps` decides, as many as its steps hold on average."""
    budget = Budget.of(train, mixture.epoch)
    ends = [] if budget.max_samples is None else [budget.max_samples]
    ends += [] if budget.max_steps is None else [budget.max_steps * train.global_batch_samples]
    return min(ends)


def portions(recipes: Sequence[Recipe], sizes: Sequence[Sequence[int]]) -> list[Portion]:
    """What the stages take of each source, given the sources' sizes; one that several stages share is one Portion.

    A source is the same where all but its name, weight and repeats are: path, format, part of it, captions.
    """
    found: dict[str, Portion] = {}
    for recipe, stage_sizes in zip(recipes, sizes, strict=True):
        if not recipe.data.sources:
            raise UsageError(f"stage {recipe.stage}: data.sources is empty; name a source in the recipe")
        mixture = Mixture.of(stage_sizes, recipe.data.sources)
        counts = mixture.counts(stage_samples(recipe.train, mixture))
        for source, count in zip(recipe.data.sources, counts, strict=True):
            key = source.model_copy(update={"name": "", "weight": None, "repeats": None}).model_dump_json()
            portion = found.setdefault(key, Portion(source))
            portion.samples[recipe.stage] = portion.samples.get(recipe.stage, 0) + count
    return list(found.values())


def all_in_one(recipes: Sequence[Recipe], shares: Sequence[Portion]) -> Recipe:
    """One stage on everything: the first stage's recipe, with all sources, weighted by their samples, to their sum.

    Its first draws, as many as there are samples, hold of each source exactly its total.
    """
    raw = recipes[0].model_dump(mode="json")
    raw["data"]["sources"] = []
    names: set[str] = set()
    for portion in shares:
        if not portion.total:  # a share so small that no stage came to it
            continue
        name = portion.source.name
        if name in names:  # another source that another stage calls the same
            name = f"{name}-{next(iter(portion.samples))}"
        names.add(name)
        source = portion.source.model_dump(mode="json")
        raw["data"]["sources"].append(source | {"name": name, "weight": float(portion.total), "repeats": None})
    raw["train"] |= {"max_steps": None, "max_samples": sum(portion.total for portion in shares)}
    return Recipe.model_validate(raw)


def departures(recipes: Sequence[Recipe]) -> list[str]:
    """Where later stages say otherwise than the first, whose recipe aio follows; the way and the end left out."""
    lines = []
    first, *later = [recipe.model_dump(mode="json") for recipe in recipes]
    for recipe in later:
        for section in ("data", "train"):
            for key, value in recipe[section].items():
                own = first[section][key]
                if value != own and key != "sources" and f"{section}.{key}" not in rundir.RESUMABLE:
                    lines.append(f"{section}.{key} is {own} throughout; {recipe['stage']} has {value}")
    return lines


# --- doing it, and saying what would be done -----------------------------------------------------------------------


def train_schedule(work: Work, world: World, reporter: Reporter, resume_command: str) -> dict[str, RunResult]:
    """Train the schedule and return its runs in order; runs that are finished already are left alone.

    Data of all stages is made or missed before the first one begins. Raises what `train_stage` raises, and UsageError
    for a stage that an earlier session began from another checkpoint than the one before it ends with.
    """
    folders = work.folders

    def prepare() -> None:
        _check_free(work)
        for recipe, folder in zip(work.recipes, _by_stage(work), strict=True):
            if not is_finished(folder):
                make_missing_data(recipe, reporter, f"name another in the recipe's stage {recipe.stage}")

    world.first(prepare)
    if work.schedule == "aio":
        composed = world.first(lambda: _compose(work, reporter).model_dump(mode="json"))
        stages = [Recipe.model_validate(composed)]
    else:
        stages = list(work.recipes)
    results: dict[str, RunResult] = {}
    given = work.checkpoint
    for recipe, (name, folder) in zip(stages, folders.items(), strict=True):
        if results:
            world.first(partial(_check_chain, folder, Path(str(given))))
        results[name] = train_stage(
            recipe,
            recipe_dir=work.recipe_dir,
            out=folder,
            checkpoint=given,
            resume=work.resume,
            world=world,
            reporter=reporter,
            resume_command=resume_command,
            runs=work.runs,
        )
        given = str(folder)
    return results


def plan_schedule(work: Work, *, device: str, ranks: int) -> dict[str, Any]:
    """What `train_schedule` would do: samples of every source by stage, and the plan of every run; nothing is made."""
    _check_free(work)
    sizes = [
        [foresee_source(source, recipe.bootstrap)["samples"] for source in recipe.data.sources]
        for recipe in work.recipes
    ]
    shares = portions(work.recipes, sizes)
    stages = [all_in_one(work.recipes, shares)] if work.schedule == "aio" else work.recipes
    plans: dict[str, Any] = {}
    before: Path | None = None
    for recipe, (name, folder) in zip(stages, work.folders.items(), strict=True):
        awaited = before is not None and not is_finished(before)  # then its checkpoint is not there to be named
        plans[name] = plan_stage(
            recipe.model_copy(update={"parent": None}) if awaited else recipe,
            recipe_dir=work.recipe_dir,
            out=folder,
            checkpoint=None if awaited else str(before) if before else work.checkpoint,
            resume=work.resume,
            device=device,
            ranks=ranks,
            runs=work.runs,
        )
        if awaited:
            plans[name] |= {
                "recipe": recipe.model_dump(mode="json"),
                "parent": {"path": str(before), "state": "to be trained first"},
            }
        before = folder
    return {
        "schedule": work.schedule,
        "sources": [
            {"name": portion.source.name, "path": portion.source.path, "samples": portion.samples}
            | {"total": portion.total}
            for portion in shares
        ],
        "samples": sum(portion.total for portion in shares),
        "departures": departures(work.recipes) if work.schedule == "aio" else [],
        "runs": plans,
    }


def describe_schedule(plan: dict[str, Any]) -> str:
    """The plan as text for people; of a curriculum without the three recipes, which `--stage` shows."""
    how = "all stages' data in one run" if plan["schedule"] == "aio" else "one stage after another"
    lines = [f"schedule:   {plan['schedule']}: {how}, {counted(plan['samples'], 'sample')}"]
    for source in plan["sources"]:
        parts = ", ".join(f"{stage} {count:,}" for stage, count in source["samples"].items())
        lines.append(f"samples:    {source['total']:,} of {source['name']} ({parts})")
    lines += [f"note:       {line}" for line in plan["departures"]]
    for run in plan["runs"].values():
        text = describe_plan(run)
        lines += ["", text if plan["schedule"] == "aio" else text.partition("\n\n")[0]]
    return "\n".join(lines)


def is_finished(run_dir: Path) -> bool:
    """Whether a run's newest checkpoint is the one its training ended with."""
    found = checkpoints.latest(run_dir)
    return found is not None and bool(found.state()["finished"])


def _compose(work: Work, reporter: Reporter) -> Recipe:
    from sailctl.core.data.sources import open_source

    sizes = [[len(open_source(source)) for source in recipe.data.sources] for recipe in work.recipes]
    shares = portions(work.recipes, sizes)
    counts = ", ".join(f"{portion.total:,} of {portion.source.name}" for portion in shares)
    reporter.info(f"all in one: {counts}; all else as {work.recipes[0].stage}")
    for line in departures(work.recipes):
        reporter.info(f"all in one: {line}")
    return all_in_one(work.recipes, shares)


def _by_stage(work: Work) -> list[Path]:
    """The run that each stage's data goes into."""
    folders = list(work.folders.values())
    return folders * len(SFT_STAGES) if work.schedule == "aio" else folders


def _check_free(work: Work) -> None:
    """Refuse before anything is trained, if only the last of the folders is taken."""
    for folder in work.folders.values():
        rundir.check_free(folder, resume=work.resume)


def _check_chain(folder: Path, before: Path) -> None:
    """Refuse to go on with a stage that did not begin from the last checkpoint of the one before it."""
    if checkpoints.latest(folder) is None:
        return
    parent = rundir.read_run(folder).get("parent") or {}
    now = parents.open_parent(before).about(folder)
    if parent.get("weights_sha256") != now["weights_sha256"]:
        raise UsageError(
            f"{folder} began from {parent.get('checkpoint')}, but {before} ends with {now['checkpoint']}; "
            "move it away, or give another --out"
        )
