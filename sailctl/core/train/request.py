"""A training command as a value: options in, the plan or the run's summary out. Pretrain, sft and anneal share it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sailctl.core.errors import SailctlError, UsageError
from sailctl.core.schema.load import STAGES, load_recipe
from sailctl.core.schema.recipe import Recipe
from sailctl.core.train.parents import COMMANDS, default_out, next_command, stage_words
from sailctl.core.train.plan import plan_stage
from sailctl.core.train.reporter import Quiet, Reporter
from sailctl.core.train.run import train_stage
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
            "next": next_command(recipe, recipe_dir, out),
        }

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
        words = stage_words(self.stage)
        words += ["--recipe", self.recipe] if self.recipe else []
        words += [word for text in self.overrides for word in ("--set", text)]
        words += [word for path in self.data for word in ("--data", path)]
        words += ["--checkpoint", self.checkpoint] if self.checkpoint else []
        words += ["--out", str(self.out)] if self.out else []
        words += ["--device", self.device] if self.device != "auto" else []
        return shlex.join([*words, "--resume"])

    def _resolve(self) -> tuple[Recipe, Path, Path]:
        fitting = [stage for stage in STAGES if COMMANDS[stage] == self.command]
        if self.stage not in fitting:
            raise UsageError(f"--stage {self.stage}: sailctl {self.command} trains {' or '.join(fitting)}")
        recipe, recipe_dir = load_recipe(self.recipe, self.stage, self.overrides, self.data)
        return recipe, recipe_dir, self.out or default_out(recipe)


def describe_result(summary: dict[str, Any]) -> str:
    """The summary of a run as one line for people."""
    return (
        f"{summary['steps']:,} steps, {summary['samples']:,} samples, {summary['tokens']:,} tokens in "
        f"{summary['seconds']:,.1f} s; loss {summary['loss_first']:.4f} → {summary['loss_last']:.4f}; "
        f"ended by {summary['ended_by']}; {summary['checkpoint']}"
    )
