"""The bench command as a value: its options, what they mean together, and what its user is shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sailctl.core.bench.lineage import as_name, bench_config, checkpoints_of, default_out, report_folder, run_of
from sailctl.core.bench.shown import Shown, show_comparison, show_recomputed, show_suites
from sailctl.core.bench.suites import Suite, load_suite
from sailctl.core.engines.choice import KEY_ENV, check_access
from sailctl.core.errors import SailctlError, UsageError
from sailctl.core.workers import share_of

if TYPE_CHECKING:
    from sailctl.core.bench.predict import Reporter
    from sailctl.core.bench.remote import Respondent
    from sailctl.core.bench.suite_run import SuiteJob
    from sailctl.core.engines.ask import Engine

SYNTH, LIST = "synth", "list"
TABLES_VARIABLE = "LMUData"  # VLMEvalKit's own, as is the folder without it
# Fields whose option is not called as they are.
OPTIONS = {
    "endpoints": "--endpoint",
    "key_env": "--api-key-env",
    "baselines": "--no-baselines",
    "judge_endpoints": "--judge-endpoint",
    "judge_key_env": "--judge-api-key-env",
}


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """The options of `sailctl bench`, as given."""

    suite: str | None = None
    checkpoint: str | None = None
    run: Path | None = None
    endpoints: tuple[str, ...] = ()
    model: str | None = None
    key_env: str = KEY_ENV
    data: Path | None = None
    out: Path | None = None
    samples: int | None = None
    seed: int | None = None
    skip_missing: bool = False
    baselines: bool = True
    judge_endpoints: tuple[str, ...] = ()
    judge_model: str | None = None
    judge_key_env: str = KEY_ENV
    scorer_python: Path | None = None
    published: Path | None = None
    published_model: str | None = None
    shard: str | None = None
    device: str = "auto"
    overlap: Path | None = None
    from_scores: Path | None = None
    compare: tuple[Path, ...] = ()

    def perform(self, reporter: Reporter, *, dry_run: bool = False) -> Shown:
        """Do it, or say what would be done. Raises UsageError for options that make no sense together."""
        if self.suite == LIST:
            self._alone(f"--suite {LIST}", "suite")
            return show_suites()
        if self.from_scores is not None:
            self._alone("--from-scores", "from_scores", "suite")
            return show_recomputed(self.from_scores, self.suite)
        if self.compare:
            self._alone("--compare", "compare")
            return show_comparison(self.compare)
        self._check()
        if self.run is not None:
            return self._every_checkpoint(reporter, dry_run)
        if (self.suite or SYNTH) == SYNTH:
            return self._synth(reporter, dry_run)
        return self._suite(reporter, dry_run)

    # --- what makes no sense -------------------------------------------------------------------------------------

    def _alone(self, option: str, *taken: str) -> None:
        """Refuse what means nothing beside an option that only reads."""
        for one in fields(self):
            if one.name not in taken and getattr(self, one.name) != one.default:
                name = OPTIONS.get(one.name, f"--{one.name.replace('_', '-')}")
                raise UsageError(f"{name}: means nothing with {option}, which benches nothing; leave one of them out")

    def _check(self) -> None:
        named = [
            name
            for name, value in (
                ("--checkpoint", self.checkpoint), ("--run", self.run), ("--endpoint", self.endpoints)
            )
            if value
        ]  # fmt: skip
        if len(named) > 1:
            raise UsageError(f"{' and '.join(named)}: each names who is to be benched; give one of them")
        if self.model is not None and not self.endpoints:
            raise UsageError("--model names what --endpoint URL serves, and none is given; a folder is --checkpoint")
        if self.endpoints and not self.model:
            raise UsageError("--model is missing: the name the endpoint serves its model under")
        if (self.judge_model is None) != (not self.judge_endpoints):
            missing = "--judge-model NAME" if self.judge_endpoints else "--judge-endpoint URL"
            raise UsageError(f"a judge needs --judge-endpoint and --judge-model; {missing} is missing")
        if (self.published is None) != (self.published_model is None):
            raise UsageError("--published FILE and --published-model NAME go together: whose row is compared with")
        if (self.suite or SYNTH) == SYNTH:
            others = {
                "--endpoint": self.endpoints,
                "--data": self.data,
                "--judge-endpoint": self.judge_endpoints,
                "--published": self.published,
                "--overlap": self.overlap,
                "--shard": self.shard,
                "--skip-missing": self.skip_missing,
            }
            for option, value in others.items():
                if value:
                    raise UsageError(f"{option}: the suite {SYNTH} takes none; name another with --suite")
        elif not self.baselines:
            raise UsageError(f"--no-baselines: of the suite {SYNTH} alone; {self.suite} has none to leave out")
        check_access(self.endpoints, self.key_env)
        check_access(self.judge_endpoints, self.judge_key_env, prefix="--judge-")

    # --- the synthetic suite -------------------------------------------------------------------------------------

    def _checkpoint(self) -> Path:
        from sailctl.core.model.lookup import newest_stage

        return newest_stage() if self.checkpoint is None else Path(self.checkpoint)

    def _synth(self, reporter: Reporter, dry_run: bool) -> Shown:
        from sailctl.core.bench.run import bench, plan, table

        path = self._checkpoint()
        config = bench_config(path, samples=self.samples, seed=self.seed)
        folder = self.out or default_out(path)
        if dry_run:
            planned = plan(path, config, folder, baselines=self.baselines)
            return Shown(planned, [("plan", ["setting", "value"], [[key, str(v)] for key, v in planned.items()])])
        results = bench(path, config, folder, self.device, reporter, baselines=self.baselines)
        runs = report_folder(folder)
        return Shown(
            results,
            [(f"{config.suite}, {results['overall']['n']} questions", *table(results))],
            [f"answers: {folder / 'samples.jsonl'}"],
            next=None if runs is None else f"sailctl report --runs {runs}",
            folders=[folder],
        )

    # --- all others ----------------------------------------------------------------------------------------------

    def _suite(self, reporter: Reporter, dry_run: bool) -> Shown:
        from sailctl.core.bench.suite_results import table
        from sailctl.core.bench.suite_run import plan_suite, plan_table, run_suite

        suite = load_suite(self.suite or SYNTH)
        job = self._job(suite)
        if dry_run:
            planned = plan_suite(job)
            names = ", ".join(Path(one["table"]).name for one in planned if not one["there"])
            missing = [f"missing there: {names}"] if names else []
            return Shown(
                {"suite": suite.name, **job.about, "out": str(job.out), "benchmarks": planned},
                [(f"plan: {suite.name}", *plan_table(planned))],
                [f"tables: {job.tables}", *missing, f"results: {job.out}"],
            )
        results = run_suite(self._respondent(job.about["checkpoint"]), job, reporter)
        if job.share is not None:
            return Shown(results, lines=[f"answered {self.shard}; once all are, the command without --shard scores"])
        failed = [name for name, one in results["benchmarks"].items() if "error" in one]
        shown = Shown(results, [(f"{suite.title}: points of 100", *table(results))], folders=[job.out])
        if failed:
            shown.failure = SailctlError(
                f"not scored: {', '.join(failed)} (see remarks); what was answered is kept, the same command scores"
            )
        return shown

    def _job(self, suite: Suite) -> SuiteJob:
        from sailctl.core.bench.overlap import read_overlap
        from sailctl.core.bench.published import published_row, published_rows
        from sailctl.core.bench.suite_run import SuiteJob

        published = None
        if self.published is not None and self.published_model is not None:
            row = published_row(published_rows(self.published, suite), self.published_model)
            published = (self.published_model, row)
        if self.endpoints:
            about: dict[str, Any] = {"checkpoint": f"{self.model}, by endpoint"}
            out = self.out or Path("runs/bench") / f"{as_name(self.model or '')}-{as_name(suite.name)}"
            follows = False
        else:
            path = self._checkpoint()
            about = {"checkpoint": str(path)}
            own = default_out(path, suite.name)
            out = self.out or own
            follows = run_of(path) is not None and out.resolve() == own.resolve()
        return SuiteJob(
            follows=follows,
            asked=self.suite or SYNTH,
            suite=suite,
            tables=self.data or _tables(),
            out=out,
            about=about,
            samples=self.samples,
            seed=self.seed or 0,
            share=None if self.shard is None else share_of(self.shard),
            skip_missing=self.skip_missing,
            scorer_python=self.scorer_python,
            judge=self._judge(),
            published=published,
            overlap=None if self.overlap is None else read_overlap(self.overlap),
        )

    def _respondent(self, checkpoint: str) -> Callable[[], Respondent]:
        from sailctl.core.bench import remote

        if self.endpoints:
            return lambda: remote.endpoints(self.endpoints, self.model or "", key_env=self.key_env)
        return lambda: remote.local(checkpoint, self.device)

    def _judge(self) -> Callable[[], Engine] | None:
        if self.judge_model is None:
            return None
        from sailctl.core.bench.judge_proxy import JUDGE_OPTIONS
        from sailctl.core.engines.pool import HttpPool
        from sailctl.core.engines.secret import Secret

        model, urls, key_env = self.judge_model, self.judge_endpoints, self.judge_key_env
        return lambda: HttpPool(urls, model, api_key=Secret.from_env(key_env), options=JUDGE_OPTIONS)

    # --- every checkpoint of a run -------------------------------------------------------------------------------

    def _each(self) -> Iterator[tuple[Path, BenchRequest]]:
        assert self.run is not None
        if self.out is not None:
            raise UsageError("--out: with --run every checkpoint has a folder of its own in the run")
        if run_of(self.run) is None:
            raise UsageError(f"{self.run}: is no run of sailctl; --run takes the folder that holds run.json")
        found = checkpoints_of(self.run)
        if not found:
            raise UsageError(f"{self.run}: has no complete checkpoint yet")
        for path in found:
            yield path, replace(self, run=None, checkpoint=str(path))

    def _every_checkpoint(self, reporter: Reporter, dry_run: bool) -> Shown:
        """Bench one after another; a table of their averages, and the failure of any of them."""
        all_shown = []
        for path, request in self._each():
            reporter.info(f"checkpoint {path}")
            all_shown.append((path, request.perform(reporter, dry_run=dry_run)))
        if dry_run:
            return Shown([one.json for _, one in all_shown], [table for _, one in all_shown for table in one.tables])
        columns: dict[str, None] = {}
        cells = []
        for path, one in all_shown:
            scores = _averages(one.json)
            columns |= dict.fromkeys(scores)
            cells.append((path.name, scores))
        rows = [[name, *(scores.get(column, "–") for column in columns)] for name, scores in cells]
        return Shown(
            [one.json for _, one in all_shown],
            [("points of 100 with 95% intervals", ["checkpoint", *columns], rows)],
            [line for _, one in all_shown for line in one.lines],
            folders=[folder for _, one in all_shown for folder in one.folders],
            failure=next((one.failure for _, one in all_shown if one.failure is not None), None),
        )


def _averages(results: dict[str, Any]) -> dict[str, str]:
    found = results["averages"] if "averages" in results else {"overall": results["overall"]}
    said = {}
    for name, one in found.items():
        interval = "" if not one or not one["ci95"] else " ({:.1f} to {:.1f})".format(*(100 * b for b in one["ci95"]))
        said[name] = "–" if one is None else f"{100 * one['score']:.1f}{interval}"
    return said


def _tables() -> Path:
    return Path(os.environ.get(TABLES_VARIABLE) or Path.home() / "LMUData")
