"""The three evaluation commands as a value: options in; a plan, or a decision with its reasons and its cost, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sailctl.core.errors import SailctlError, UsageError
from sailctl.core.files import make_folder, write_json
from sailctl.core.reporter import Reporter
from sailctl.core.schema.load import load_recipe
from sailctl.core.schema.recipe import Recipe
from sailctl.core.train import parents
from sailctl.core.train.inputs import make_missing_data
from sailctl.core.valuation import telling, verdicts
from sailctl.core.valuation.compose import compose, compose_like_the_paper
from sailctl.core.valuation.incremental import incremental, incremental_like_the_paper
from sailctl.core.valuation.ladder import plan_for
from sailctl.core.valuation.ledger import Ledger, digest, workspace
from sailctl.core.valuation.mixture import (
    Part,
    by_group,
    by_weight,
    open_candidates,
    open_parts,
    overlap,
    read_sources,
    sizes_of,
    write_mixture,
)
from sailctl.core.valuation.quick import QuickPlan, quick
from sailctl.core.valuation.race import Plan
from sailctl.core.valuation.rehearsal import rehearse
from sailctl.core.valuation.seam import Trial, Trials, allot
from sailctl.core.valuation.suite import find_suite
from sailctl.core.valuation.telling import Verdict
from sailctl.core.valuation.trainer import Spec, facts_of
from sailctl.core.valuation.workshop import Workshop, parse_budget, workers_and_devices

Command = Literal["quick-eval", "compose-eval", "incremental-eval"]


@dataclass(frozen=True, slots=True)
class EvalRequest:
    """The options of an evaluation, as given; what is None is chosen."""

    command: Command
    stage: str
    recipe: str | None = None
    overrides: Sequence[str] = ()
    checkpoint: str | None = None
    data: Sequence[str] = ()
    mixture: str | None = None
    rules: Sequence[str] = ()
    samples: str | None = None
    rungs: str | None = None
    seeds: str | None = None
    finalists: int = 2
    worth: float = 1.0
    margin: float = 0.0
    alpha: float = 0.05
    fdr: float = 0.2
    strategy: str = "sequential"
    suite: str = "synth"
    number: str | None = None
    questions: int | None = None
    tables: Path | None = None
    scorer_python: Path | None = None
    seed: int = 0
    budget: str | None = None
    workers: int | None = None
    threads: int = 1
    ray: str | None = None
    workspace: Path = Path("runs/valuation")
    out: Path | None = None
    retry_failed: bool = False
    device: str = "auto"

    def perform(self, reporter: Reporter, *, dry_run: bool = False) -> Verdict:
        """Decide, or say what deciding would take. Raises UsageError for what makes no sense, before anything is
        trained; a question asked before is answered from the ledger.
        """
        strategies = {"quick-eval": ("sequential",), "compose-eval": ("sequential", "paper", "joint")}
        allowed = strategies.get(self.command, ("sequential", "paper"))
        if self.strategy not in allowed:
            raise UsageError(f"--strategy {self.strategy}: should be {' or '.join(allowed)}")
        recipe, recipe_dir = load_recipe(self.recipe, self.stage, list(self.overrides))
        mixture, candidates = self._parts(recipe, reporter)
        budget = None if self.budget is None else parse_budget(self.budget)
        reporter.info(f"suite {self.suite}: reading its questions")
        suite = find_suite(self.suite, self.number, self.questions, 1234, self.tables, self.scorer_python)
        workers, devices = workers_and_devices(self.device, self.workers)
        parent, parent_id = self._parent(recipe, recipe_dir)
        spec = Spec(
            recipe, recipe_dir, parent, parent_id, {**mixture, **candidates}, suite,
            self.workspace.resolve(), devices, self.threads,
        )  # fmt: skip
        plan = plan_for(self, recipe, sizes_of(mixture), sizes_of(candidates))
        with workspace(self.workspace, look_only=dry_run) as ledger:
            shop = Workshop(spec, ledger, reporter, workers, self.ray)
            asked = self._asked(spec, plan)
            key = digest(asked)
            for line in self._warnings(ledger, spec, mixture, candidates):
                reporter.info(line)
            if dry_run:
                in_samples = budget[0] if budget is not None and budget[1] == "samples" else None
                first, least = rehearse(partial(self._decide, shop, plan, mixture, candidates), in_samples)
                return telling.planned(
                    self,
                    plan,
                    spec,
                    workers,
                    sizes_of(mixture),
                    sizes_of(candidates),
                    first,
                    least,
                    shop.foresee(least),
                )
            make_folder(self._out())
            if self.retry_failed and (count := shop.forget_failures()):
                reporter.info(f"{count} failed trials are tried again")
            elif (known := ledger.decision(key)) is not None:
                return self._finish(known, spec, mixture, candidates)
            if budget is not None and budget[1] != "samples":
                shop.gauge(_first(spec, plan, mixture, candidates))
            trials = shop.trials(budget)
            result = self._decide(shop, plan, mixture, candidates, trials)
            if failures := trials.counts["failed"]:
                _tell(failures, trials.counts["trials"], ledger.first_error(set(shop.asked)), reporter)
            predicted, actual = shop.foretold(), ledger.seconds(set(shop.asked))
            trained = result["cost"]
            result |= {
                "command": self.command,
                "strategy": self.strategy,
                "about": facts_of(spec),
                "plan": verdicts.plan_of(plan),
                "datasets": list(candidates),
                "trials": sorted(shop.asked),
                "cost": trained | {"predicted_s": predicted, "actual_s": actual},
            }
            ledger.decide(key, self.command, asked, result)
        return self._finish(result, spec, mixture, candidates)

    def _out(self) -> Path:
        """Where record and mixture go: strategies do not write over one another's."""
        own = self.command if self.strategy == "sequential" else f"{self.command}-{self.strategy}"
        return self.out or self.workspace / own

    # --- what is judged ----------------------------------------------------------------------------------------------

    def _parts(self, recipe: Recipe, reporter: Reporter) -> tuple[dict[str, list[Part]], dict[str, list[Part]]]:
        """The mixture by group, and the candidates (datasets) by name."""
        mixture: dict[str, list[Part]] = {}
        if self.command != "quick-eval":
            if self.mixture is not None:
                sources = read_sources([self.mixture])
            else:
                make_missing_data(recipe, reporter)
                sources = by_weight(recipe.data.sources)
            mixture = by_group(open_parts(sources), self.rules)
        candidates = open_candidates(self.data, mixture, reporter.info)
        if self.command == "quick-eval" and len(candidates) < 2:
            raise UsageError("quick-eval ranks datasets: give --data twice or more")
        if self.command == "incremental-eval" and not candidates:
            raise UsageError("incremental-eval judges candidates: give --data CANDIDATE, once or more")
        return mixture, candidates

    def _parent(self, recipe: Recipe, recipe_dir: Path) -> tuple[str | None, str | None]:
        """The checkpoint all trials start from, and the hash of its weights."""
        if self.checkpoint is not None:
            path = Path(self.checkpoint)
        elif recipe.parent is None:
            return None, None
        else:
            path = parents.default_out(recipe).parent / recipe.parent
            if not parents.usable(path):
                raise parents.missing_parent(recipe, recipe_dir, path)
        found = parents.open_parent(path)
        return str(path.resolve()), str(found.about(path)["weights_sha256"])

    def _warnings(
        self, ledger: Ledger, spec: Spec, mixture: Mapping[str, list[Part]], candidates: Mapping[str, list[Part]]
    ) -> list[str]:
        """What the user should know of the data and the ledger."""
        lines = []
        if others := ledger.of_other_suites(spec.recipe_id, spec.suite.version):
            lines.append(f"{others} trials in {self.workspace} were scored on other questions: they are not used")
        pairs = [(name, other) for name in candidates for other in mixture]
        names = list(candidates)
        pairs += [(one, other) for number, one in enumerate(names) for other in names[number + 1 :]]
        everything = {**mixture, **candidates}
        for one, other in pairs:
            first, second = everything[one], everything[other]
            key = digest(["overlap", *([p.fingerprint for p in side] for side in (first, second))])
            share, exact = ledger.fact(key, partial(overlap, first, second))
            if share > 0:
                lines.append(f"{'' if exact else 'about '}{share:.1%} of {one} is in {other} too")
        return lines

    # --- how ---------------------------------------------------------------------------------------------------------

    def _decide(
        self,
        shop: Workshop,
        plan: Plan | QuickPlan,
        groups: Mapping[str, list[Part]],
        datasets: Mapping[str, list[Part]],
        trials: Trials,
    ) -> dict[str, Any]:
        mixture, candidates = sizes_of(groups), sizes_of(datasets)
        parent, full = shop.spec.parent_id, plan.rungs[-1]
        if isinstance(plan, QuickPlan):
            return verdicts.of_quick(quick(trials, candidates, plan, parent=parent))
        if self.command == "incremental-eval":
            if self.strategy == "paper":
                steps, grown = incremental_like_the_paper(
                    trials, mixture, candidates, full, holds=self.margin, seed=self.seed, parent=parent
                )
                return verdicts.of_paper(steps, grown, trials, "accept", "reject")
            found = incremental(trials, mixture, candidates, plan, fdr=self.fdr, parent=parent)
            return verdicts.of_incremental(found, plan)
        if self.strategy == "sequential":
            return verdicts.of_compose(compose(trials, mixture, plan, parent=parent), plan)
        steps, halved = compose_like_the_paper(trials, mixture, full, seed=self.seed, parent=parent)
        if self.strategy == "paper":
            return verdicts.of_paper(steps, halved, trials, "halve", "keep")
        return verdicts.of_joint(shop, mixture, full, trials)

    def _asked(self, spec: Spec, plan: Plan | QuickPlan) -> dict[str, Any]:
        """The question, as far as the answer depends on it."""
        about = facts_of(spec)
        groups = {name: [part["content"] for part in parts] for name, parts in about["groups"].items()}
        return {
            "command": self.command,
            "strategy": self.strategy,
            "rules": 2,  # what was decided by other ones is decided anew
            "plan": verdicts.plan_of(plan),
            "fdr": self.fdr,
            "budget": self.budget,
            "candidates": list(self.data),
            "recipe": about["recipe_id"],
            "parent": about["parent_weights"],
            "suite": about["suite"]["version"],
            "groups": groups,
        }

    def _finish(
        self,
        result: dict[str, Any],
        spec: Spec,
        mixture: Mapping[str, list[Part]],
        candidates: Mapping[str, list[Part]],
    ) -> Verdict:
        """Write the record and the mixture file, and put what the user sees together."""
        out = self._out()
        verdict = telling.shown(result, out)
        make_folder(out)
        write_json(out / telling.RECORD, result)
        if "mixture" in result:
            everything = {**mixture, **candidates}
            remarks = telling.remarks(result)
            write_mixture(out / telling.MIXTURE, everything, result["mixture"], remarks)
        return replace(verdict, next=telling.next_command(self, out, result))


def _first(
    spec: Spec, plan: Plan | QuickPlan, mixture: Mapping[str, list[Part]], candidates: Mapping[str, list[Part]]
) -> Trial:
    """The trial that every campaign of this kind begins with."""
    from sailctl.core.valuation.seam import trial_seed

    sizes = sizes_of(mixture) or dict([next(iter(sizes_of(candidates).items()))])
    return Trial(allot(sizes, plan.rungs[0]), trial_seed(plan.seed, 0, 0), 0, spec.parent_id)


def _tell(failed: int, count: int, reason: str, reporter: Reporter) -> None:
    """Say that trials failed, and why; raises SailctlError where all of them did: nothing was found out."""
    reason = reason.partition("; sample ids:")[0]  # the trial's folder has them, and they would drown the remedy
    if failed == count:
        raise SailctlError(f"all {count} trials failed: {reason}; mend that and add --retry-failed")
    reporter.info(f"{failed} of {count} trials failed, the first: {reason}; --retry-failed tries them again")
