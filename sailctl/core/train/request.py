"""A training command as a value: options in, the plan or the run's summary out. Pretrain, sft and anneal share it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sailctl.core.errors import SailctlError, UsageError
from sailctl.core.reporter import Quiet, Reporter, counted
from sailctl.core.schema.load import STAGES, load_recipe
from sailctl.core.schema.recipe import Recipe
from sailctl.core.train.parents import COMMANDS, default_out, next_command, stage_words
from sailctl.core.train.plan import describe_plan, plan_stage
from sailctl.core.train.run import RunResult, train_stage
from sailctl.core.train.schedules import (
    SCHEDULES,
    SFT_STAGES,
    Work,
    describe_schedule,
    is_finished,
    plan_schedule,
    run_folders,
    train_schedule,
)
from sailctl.core.train.world import World, find_seat


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """The options of a training command, as given; `command` is pretrain, sft or anneal."""

    command: str
    stage: str
    recipe: str | None = None
    overrides: list[str] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    checkpoint: str | None = None
    out: Path | None = None
    resume: bool = False
    device: str = "auto"

    def run(self, reporter: Reporter) -> dict[str, Any] | None:
        """Train, and return what `--json` prints: where the run is, its totals and losses, and the next command.

        None on every rank of a run but the first, which has nothing to say. What several ranks fail with alike is
        marked as told on all but one.
        """
        world = World.join(self.device)
        try:
            with world:
                return self._run(reporter if world.is_first else Quiet(), world)
        except SailctlError as error:
            error.told = not world.speaks(str(error))
            raise

    def _run(self, reporter: Reporter, world: World) -> dict[str, Any] | None:
        recipe, recipe_dir, out = self._resolve()
        result = train_stage(
            recipe,
            recipe_dir=recipe_dir,
            out=out,
            checkpoint=self.checkpoint,
            resume=self.resume,
            world=world,
            reporter=reporter,
            resume_command=self.resume_command(),
        )
        if not world.is_first:
            return None
        return summary_of(result) | {"next": next_command(recipe, recipe_dir, out)}

    def plan(self) -> dict[str, Any] | None:
        """What `run` would do; see `plan_stage`. Nothing on every rank but the first."""
        seat = find_seat()
        if seat is not None and seat.rank > 0:
            return None
        recipe, recipe_dir, out = self._resolve()
        return plan_stage(
            recipe,
            recipe_dir=recipe_dir,
            out=out,
            checkpoint=self.checkpoint,
            resume=self.resume,
            device=self.device,
            ranks=1 if seat is None else seat.size,
        )

    def resume_command(self) -> str:
        """The same command line, with `--resume`."""
        return shlex.join([*self._words(stage_words(self.stage), self.out), "--resume"])

    def describe_plan(self, plan: dict[str, Any]) -> str:
        """What `plan` returned, as text for people."""
        return describe_plan(plan)

    def describe_result(self, summary: dict[str, Any]) -> str:
        """What `run` returned, as text for people."""
        return describe_result(summary)

    def _words(self, command: list[str], out: Path | None) -> list[str]:
        words = command + (["--recipe", self.recipe] if self.recipe else [])
        words += [word for text in self.overrides for word in ("--set", text)]
        words += [word for path in self.data for word in ("--data", path)]
        words += ["--checkpoint", self.checkpoint] if self.checkpoint else []
        words += ["--out", str(out)] if out else []
        return words + (["--device", self.device] if self.device != "auto" else [])

    def _resolve(self) -> tuple[Recipe, Path, Path]:
        fitting = [stage for stage in STAGES if COMMANDS[stage] == self.command]
        if self.stage not in fitting:
            raise UsageError(f"--stage {self.stage}: sailctl {self.command} trains {' or '.join(fitting)}")
        recipe, recipe_dir = load_recipe(self.recipe, self.stage, self.overrides, self.data)
        return recipe, recipe_dir, self.out or default_out(recipe)


class ScheduleRequest(TrainRequest):
    """`sailctl sft --schedule`: all three stages; `stage` is the name of the schedule."""

    def _run(self, reporter: Reporter, world: World) -> dict[str, Any] | None:
        work = self._work()
        results = train_schedule(work, world, reporter, self.resume_command())
        if not world.is_first:
            return None
        runs = {name: summary_of(result) for name, result in results.items()}
        last = list(results.values())[-1]
        return {
            "schedule": self.stage,
            "checkpoint": str(last.checkpoint),
            **{key: sum(run[key] for run in runs.values()) for key in ("steps", "samples", "tokens", "seconds")},
            "runs": runs,
            "next": self._next(work.recipes[0], last.run_dir),
        }

    def plan(self) -> dict[str, Any] | None:
        """What `run` would do; see `plan_schedule`. Nothing on every rank but the first."""
        seat = find_seat()
        if seat is not None and seat.rank > 0:
            return None
        return plan_schedule(self._work(), device=self.device, ranks=1 if seat is None else seat.size)

    def resume_command(self) -> str:
        """The same command line, with `--resume`."""
        return shlex.join([*self._words(["sailctl", "sft", "--schedule", self.stage], self.out), "--resume"])

    def describe_plan(self, plan: dict[str, Any]) -> str:
        """What `plan` returned, as text for people."""
        return describe_schedule(plan)

    def describe_result(self, summary: dict[str, Any]) -> str:
        """What `run` returned, as text for people: a line a run."""
        return "\n".join(f"{name}: {describe_result(run)}" for name, run in summary["runs"].items())

    def _work(self) -> Work:
        loaded = [load_recipe(self.recipe, stage, self.overrides) for stage in SFT_STAGES]
        recipes = [recipe for recipe, _ in loaded]
        return Work(self.stage, recipes, loaded[0][1], self.out, self.checkpoint, self.resume)

    def _next(self, recipe: Recipe, done: Path) -> str:
        """The other schedule, of the same options; once that is there, the benches of both and their comparison.

        The other one of `--out OUT` is `OUT/aio`, or of `--out OUT/aio` OUT; else it is in the default place.
        """
        other = next(name for name in SCHEDULES if name != self.stage)
        out = None
        if self.out is not None and (other == "aio" or self.out.name == "aio"):
            out = self.out / "aio" if other == "aio" else self.out.parent
        found = list(run_folders(other, recipe, out).values())[-1]
        if not is_finished(found):
            return shlex.join(self._words(["sailctl", "sft", "--schedule", other], out))
        both = [found, done] if other == "aio" else [done, found]
        commands = [["sailctl", "bench", "--suite", "synth", "--checkpoint", str(run)] for run in both]
        compare = [word for run in both for word in ("--compare", str(run / "bench"))]
        return " && ".join(shlex.join(words) for words in [*commands, ["sailctl", "bench", *compare]])


def sft_request(
    stage: str | None,
    schedule: str | None,
    recipe: str | None,
    overrides: list[str],
    data: list[str],
    checkpoint: str | None,
    out: Path | None,
    resume: bool,
    device: str,
) -> TrainRequest:
    """The request of `sailctl sft`: one stage, or all three by a schedule; UsageError for both, neither or another."""
    if stage is not None and schedule is not None:
        raise UsageError(f"--stage {stage} is one stage, --schedule {schedule} all three; give one of the two")
    if stage is not None:
        return TrainRequest("sft", stage, recipe, overrides, data, checkpoint, out, resume, device)
    if schedule is None:
        raise UsageError(f"give --stage {'|'.join(SFT_STAGES)}, or --schedule {'|'.join(SCHEDULES)} for all three")
    if schedule not in SCHEDULES:
        raise UsageError(f"--schedule {schedule}: should be {' or '.join(SCHEDULES)}")
    if data:
        raise UsageError(f"--data {data[0]}: --schedule trains on what the three stages name; write it into a recipe")
    return ScheduleRequest("sft", schedule, recipe, overrides, [], checkpoint, out, resume, device)


def summary_of(result: RunResult) -> dict[str, Any]:
    """What `--json` prints of a run, without the next command."""
    return {
        "run_dir": str(result.run_dir),
        "checkpoint": str(result.checkpoint),
        "steps": result.steps,
        "samples": result.samples,
        "tokens": result.tokens,
        "loss_first": result.loss_first,
        "loss_last": result.loss_last,
        "seconds": result.seconds,
        "rejected": result.rejected,
        "ended_by": result.ended_by,
    }


def describe_result(summary: dict[str, Any]) -> str:
    """The summary of a run as one line for people."""
    return (
        f"{counted(summary['steps'], 'step')}, {counted(summary['samples'], 'sample')}, "
        f"{summary['tokens']:,} tokens in {summary['seconds']:,.1f} s; "
        f"loss {summary['loss_first']:.4f} → {summary['loss_last']:.4f}; "
        f"ended by {summary['ended_by']}; {summary['checkpoint']}"
    )
