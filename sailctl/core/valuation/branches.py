"""Branches off a trunk: every checkpoint wanted is annealed beside the run, trained on where asked, and benched.

    RUN/anneal/step-00000100/             the branch, a run of its own, with its bench/
    RUN/sft-tiny-instruction/step-...     the branch trained on (`--then sft:tiny:instruction`), likewise
    RUN/curve.jsonl                       one row for each of them, see `curve.py`

The trunk is read only. Whatever a kill leaves half done is gone on with; a row is written once.
"""

from __future__ import annotations

import functools
import shlex
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sailctl.core.bench.lineage import default_out, recipe_of
from sailctl.core.bench.request import SYNTH, BenchRequest
from sailctl.core.bench.shown import Shown
from sailctl.core.errors import SailctlError, UsageError
from sailctl.core.reporter import Quiet, Reporter
from sailctl.core.schema.load import dump_recipe, load_recipe
from sailctl.core.schema.recipe import Recipe
from sailctl.core.train.checkpoint import Checkpoint
from sailctl.core.train.inputs import make_missing_data
from sailctl.core.train.run import train_stage
from sailctl.core.train.rundir import locked, read_run
from sailctl.core.train.world import World, find_seat
from sailctl.core.valuation.curve import CURVE, Curve, Place, about_trunk, measured, row_of, shown_rows
from sailctl.core.valuation.trunk import Then, choose, count_of, trunk_recipe

BRANCHES = "anneal"
DEFAULT_SAMPLES = 2_000_000  # as the paper: "lightweight annealing training with 2M identically distributed data"


@dataclass(frozen=True, slots=True)
class BranchRequest:
    """The options of `sailctl anneal --run`, as given; `every` and `samples` count samples of training."""

    run: Path
    every: int
    samples: int = DEFAULT_SAMPLES
    recipe: str | None = None
    overrides: list[str] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    suite: str = "synth"
    questions: int | None = None
    then: str | None = None
    bench_trunk: bool = False
    out: Path | None = None
    device: str = "auto"

    def perform(self, reporter: Reporter, *, dry_run: bool = False) -> Shown | None:
        """Do what is not done yet, or say what would be done; None on every rank but the first.

        Raises UsageError where there is nothing to branch off, and for branches that were begun otherwise.
        """
        then = Then.parse(self.then) if self.then else None
        then_recipe = load_recipe(then.recipe, then.stage, list(then.overrides))[0] if then else None
        recipe = self._recipe()
        if dry_run:
            seat = find_seat()
            return None if seat is not None and seat.rank > 0 else self._plan(then)
        world = World.join(self.device)
        try:
            with world, ExitStack() as held:
                words = reporter if world.is_first else Quiet()
                world.first(lambda: held.enter_context(locked(self.home / BRANCHES)))
                steps: list[int] = world.first(lambda: self._begin(then, words))
                if steps and then_recipe is not None:  # what it lacks is told before an hour is spent on a branch
                    world.first(functools.partial(make_missing_data, then_recipe, words, "mend the recipe of --then"))
                for number, step in enumerate(steps, 1):
                    words.info(f"checkpoint {number} of {len(steps)}: step {step:,} of {self.run}")
                    self._branch(step, recipe, then, then_recipe, world, words)
                return self._shown(then) if world.is_first else None
        except SailctlError as error:
            error.told = not world.speaks(str(error))
            raise

    @property
    def home(self) -> Path:
        """Where branches and curve go: the trunk's own folder unless `--out` says otherwise."""
        return self.out or self.run

    def resume_command(self) -> str:
        """The same command line, which goes on where this one stopped."""
        words = ["sailctl", "anneal", "--run", str(self.run)]
        words += ["--every", str(self.every), "--samples", str(self.samples)]
        words += ["--recipe", self.recipe] if self.recipe else []
        words += [word for text in self.overrides for word in ("--set", text)]
        words += [word for path in self.data for word in ("--data", path)]
        words += ["--suite", self.suite] if self.suite != "synth" else []
        words += ["--questions", str(self.questions)] if self.questions else []
        words += ["--then", self.then] if self.then else []
        words += ["--bench-trunk"] if self.bench_trunk else []
        words += ["--out", str(self.out)] if self.out else []
        return shlex.join([*words, *(["--device", self.device] if self.device != "auto" else [])])

    # --- what is to be done --------------------------------------------------------------------------------------

    def _places(self, then: Then | None) -> list[Place]:
        """What every checkpoint is measured at, in the order of the work."""
        kinds: list[tuple[str, str | None, int | None]] = [(BRANCHES, None, self.samples)]
        if self.bench_trunk:
            kinds.insert(0, (trunk_recipe(self.run).stage, None, None))
        if then:
            kinds.append((then.stage, then.name, self.samples))
        return [Place(*kind, self.suite, self.questions) for kind in kinds]

    def _begin(self, then: Then | None, reporter: Reporter) -> list[int]:
        """The steps whose branches have work left, after what is wrong with them has been said."""
        kept, missing = self._chosen(then)
        curve = Curve.read(self.home / CURVE)
        places = self._places(then)
        for step, checkpoint in kept.items():
            self._check(step, checkpoint, curve)
        if missing:
            reporter.info(missing)
        if then is not None and self.overrides and not then.overrides:
            reporter.info(f"--set is for the branches; what {then.name} is to have instead goes behind it: ,KEY=VALUE")
        schedule = trunk_recipe(self.run).train.schedule
        if schedule != "constant":
            reporter.info(
                f"{self.run}: its schedule is {schedule}: later checkpoints have decayed already; "
                "a trunk to be annealed anywhere is trained with train.schedule=constant"
            )
        return [step for step in kept if not all(curve.has(step, place) for place in places)]

    def _chosen(self, then: Then | None) -> tuple[dict[int, Checkpoint], str | None]:
        """See `choose`: sizes whose rows are all there count as covered."""
        curve, places = Curve.read(self.home / CURVE), self._places(then)
        measured_already = [row["samples"] for row in curve.rows if all(curve.has(row["step"], one) for one in places)]
        return choose(self.run, self.every, measured_already)

    def _check(self, step: int, checkpoint: Checkpoint, curve: Curve) -> None:
        """Refuse branches and rows of another trunk, and branches of another length, under this one's name."""
        weights = checkpoint.weights_sha256()
        if any(row["step"] == step and row["trunk_sha256"] != weights for row in curve.rows):
            raise UsageError(
                f"{curve.path}: its rows of step {step} are of other weights than {checkpoint.path}: the trunk was "
                f"trained anew; move {curve.path.name} and {self.home / BRANCHES} away, or give another --out"
            )
        folder = self._folder(BRANCHES, step)
        parent = read_run(folder).get("parent")
        if parent is None:
            return
        if parent.get("weights_sha256") != weights:
            raise UsageError(f"{folder}: branches off other weights than {checkpoint.path}; give another --out")
        length = recipe_of(folder).train.max_samples
        if length != self.samples:
            raise UsageError(f"{folder}: anneals on {length} samples, --samples is {self.samples}; give another --out")

    def _plan(self, then: Then | None) -> Shown:
        kept, missing = self._chosen(then)
        curve = Curve.read(self.home / CURVE)
        rows = [
            {
                "step": step,
                "checkpoint": str(checkpoint.path),
                "branch": str(self._folder(BRANCHES, step)),
                "state": "done" if all(curve.has(step, place) for place in self._places(then)) else "to do",
            }
            for step, checkpoint in kept.items()
        ]
        cells = [[str(cell) for cell in row.values()] for row in rows]
        title = f"plan: {len(rows)} checkpoints, each annealed on {self.samples:,} samples"
        return Shown(
            {"run": str(self.run), "curve": str(curve.path), "branches": rows, "missing": missing},
            [(title, ["step", "checkpoint", "branch", "state"], cells)],
            remarks=[missing] if missing else [],
        )

    # --- doing it ------------------------------------------------------------------------------------------------

    def _branch(
        self,
        step: int,
        recipe: Recipe,
        then: Then | None,
        then_recipe: Recipe | None,
        world: World,
        reporter: Reporter,
    ) -> None:
        trunk = Checkpoint(self.run / "checkpoints" / f"step-{step:08d}")
        about: dict[str, Any] = world.first(lambda: about_trunk(trunk))  # a run that goes on may remove it meanwhile
        branch = self._folder(BRANCHES, step)

        def train(recipe: Recipe, parent: Path, out: Path) -> None:
            train_stage(
                recipe,
                recipe_dir=self.run,
                out=out,
                checkpoint=str(parent),
                resume=True,
                world=world,
                reporter=reporter,
                resume_command=self.resume_command(),
            )

        for place in self._places(then):
            folder = trunk.path
            if place.then is not None and then is not None and then_recipe is not None:
                folder = self._folder(then.folder, step)
                train(then_recipe, branch, folder)
            elif place.branch_samples is not None:
                folder = branch
                train(recipe, trunk.path, folder)
            world.first(functools.partial(self._measure, about, place, folder, reporter))

    def _measure(self, about: dict[str, Any], place: Place, folder: Path, reporter: Reporter) -> None:
        """Bench a folder and append its row; nothing where the curve has it."""
        curve = Curve.read(self.home / CURVE)
        if curve.has(about["step"], place):
            return
        of_trunk = place.branch_samples is None  # whose bench goes beside the branches, too
        out = self.home / BRANCHES / default_out(folder, place.suite).name if of_trunk else None
        request = BenchRequest(
            suite=place.suite,
            checkpoint=str(folder),
            out=out,
            samples=place.questions,
            baselines=place.suite != SYNTH,  # nobody looks at them
            device=self.device,
        )
        shown = request.perform(reporter)
        if shown.failure is not None:
            raise shown.failure
        curve.append(row_of(about, place, folder, measured(shown.json), self.home))

    def _folder(self, kind: str, step: int) -> Path:
        return self.home / kind / f"step-{step:08d}"

    def _recipe(self) -> Recipe:
        """The recipe of a branch: `--recipe`'s anneal stage, else the trunk's own with a decay to zero."""
        if self.samples < 1 or self.every < 1:
            raise UsageError("--every and --samples: should be 1 sample or more")
        asked = [*self.overrides, f"train.max_samples={self.samples}", "train.max_steps=null"]
        if self.recipe is not None:
            return load_recipe(self.recipe, "anneal", asked, self.data)[0]
        trunk = trunk_recipe(self.run)
        schedule = {"schedule": "linear_to_zero", "warmup_ratio": 0.0, "keep_checkpoints": 1}
        changed = {"stage": "anneal", "parent": None, "train": trunk.train.model_copy(update=schedule)}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "anneal.yaml"
            file.write_text(dump_recipe(trunk.model_copy(update=changed)), encoding="utf-8")
            return load_recipe(str(file), "anneal", asked, self.data)[0]

    def _shown(self, then: Then | None) -> Shown:
        _, missing = self._chosen(then)
        curve = Curve.read(self.home / CURVE)
        summary = {"run": str(self.run), "curve": str(curve.path), "rows": curve.rows, "missing": missing}
        return Shown(
            summary,
            [shown_rows(curve.rows)],
            [f"curve: {curve.path}"],
            next=shlex.join(["sailctl", "scaling", "--run", str(self.home)]),
        )


def branch_request(
    run: Path | None,
    every: str | None,
    samples: str | None,
    suite: str | None,
    questions: int | None,
    then: str | None,
    bench_trunk: bool,
    recipe: str | None,
    overrides: list[str],
    data: list[str],
    checkpoint: str | None,
    out: Path | None,
    device: str,
) -> BranchRequest | None:
    """The options of `sailctl anneal` as a request for branches; None without `--run`. Raises UsageError."""
    own = {"--every": every, "--samples": samples, "--suite": suite, "--questions": questions, "--then": then}
    given = [name for name, value in {**own, "--bench-trunk": bench_trunk}.items() if value]
    if run is None:
        if given:
            raise UsageError(f"{given[0]} goes with --run RUN, whose checkpoints are to be annealed")
        return None
    if checkpoint is not None:
        raise UsageError("--run and --checkpoint: the first anneals every checkpoint of a run, the other one")
    if every is None:
        raise UsageError("--every N is missing: the samples of the trunk between two branches, such as --every 500k")
    return BranchRequest(
        run,
        count_of(every, "--every"),
        DEFAULT_SAMPLES if samples is None else count_of(samples, "--samples"),
        recipe,
        overrides,
        data,
        suite or "synth",
        questions,
        then,
        bench_trunk,
        out,
        device,
    )
