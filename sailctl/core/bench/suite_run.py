"""A bench of a suite: tables to questions, questions to answers, answers to scores, scores to result files.

Answers are kept as they come (`answers.py`), a judge's, too; scoring is made anew from them each time. So the same
command goes on after whatever stopped it, and asks nothing twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sailctl.core.bench.answers import Answers, Store, answer_all
from sailctl.core.bench.judge_proxy import JudgeProxy
from sailctl.core.bench.overlap import set_beside
from sailctl.core.bench.predict import Reporter
from sailctl.core.bench.questions import Questions, questions, table_path
from sailctl.core.bench.references import OWN_METRICS
from sailctl.core.bench.scorer import READ_BY_RULE, Job, Scored, needed_columns, score_all
from sailctl.core.bench.scorer_run import find_python
from sailctl.core.bench.suite_results import SAMPLES, SampleWriter, averages, compare_published, entry, failure
from sailctl.core.bench.suites import Benchmark, Suite
from sailctl.core.data.tsv import Table
from sailctl.core.errors import DataError, Interrupted, SailctlError, UsageError
from sailctl.core.files import atomic_write, write_json
from sailctl.core.records import Score

if TYPE_CHECKING:
    from sailctl.core.bench.remote import Respondent
    from sailctl.core.engines.ask import Engine

RESULTS = "results.json"
JUDGED, CAPTIONS_JUDGED = "judge.jsonl", "judge-captions.jsonl"
PICTURES = 500  # of wrong answers of each benchmark that are kept


@dataclass(frozen=True, slots=True)
class SuiteJob:
    """What is benched and how; `about` goes into results.json as it is and says who answered.

    `judge` opens the judge's engine. `share` asks one worker's part of the questions and scores nothing. `published` is
    a model's name and its row in points, `overlap` what of each benchmark was found in the training data.
    """

    follows: bool  # whether `out` is a run's own folder, whose results follow the run as it goes on
    asked: str  # the suite's name or file, as it was asked for
    suite: Suite
    tables: Path
    out: Path
    about: Mapping[str, Any]
    samples: int | None = None
    seed: int = 0
    share: tuple[int, int] | None = None
    skip_missing: bool = False
    scorer_python: Path | None = None
    judge: Callable[[], Engine] | None = None
    published: tuple[str, Mapping[str, float]] | None = None
    overlap: Mapping[str, Mapping[str, Any]] | None = None


def run_suite(open_respondent: Callable[[], Respondent], job: SuiteJob, reporter: Reporter) -> dict[str, Any]:
    """Bench whoever `open_respondent` gives, and return what results.json holds; the model is loaded after the tables
    are found to be in order.

    A benchmark that cannot be scored has its `error` there, the others go on. Raises UsageError for tables that are
    missing, all of them at once, and for a folder with another model's results; Interrupted at Ctrl-C.
    """
    began = time.perf_counter()
    if job.share is None and any(one.metric not in OWN_METRICS for one in job.suite.benchmarks):
        find_python(job.scorer_python)  # before hours of answers, not after them
    _make_out(job.out)
    sets = _open_tables(job, reporter)
    try:
        identity, answers = _answer(open_respondent, job, sets, reporter)
        if job.share is not None:
            counts = {name: {"answered": len(one.texts) - len(one.failed)} for name, one in answers.items()}
            return {"suite": job.asked, **job.about, "share": list(job.share), "benchmarks": counts}
        results = {"answered_by": identity, **_score(job, sets, answers, reporter)}
        results["perf"] = {"seconds": round(time.perf_counter() - began, 3)}
        write_json(job.out / RESULTS, results)
        return results
    except KeyboardInterrupt:
        raise Interrupted(f"the answers so far are kept in {job.out}; the same command asks only the others") from None
    finally:
        for one in sets:
            one.close()


def _make_out(folder: Path) -> None:
    if (folder / "run.json").exists():
        raise UsageError(f"{folder}: is a training run; choose another --out, or leave it out for a folder in the run")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder}: cannot be made: {error.strerror}") from None


def plan_suite(job: SuiteJob) -> list[dict[str, Any]]:
    """For each benchmark where its table should be and is, how it is asked and who scores it; no table is read."""
    rows = []
    for benchmark in job.suite.benchmarks:
        path = table_path(benchmark, job.tables)
        rows.append(
            {
                "benchmark": benchmark.name,
                "table": str(path),
                "there": path.exists(),
                "metric": benchmark.metric,
                "prompt": benchmark.prompt,
                "max_tiles": benchmark.max_tiles,
                "max_new_tokens": benchmark.max_new_tokens,
                "questions": _limit(benchmark, job.samples) or "all",
                "judge": _judge(benchmark, job),
            }
        )
    return rows


def plan_table(planned: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of `plan_suite` for people, narrow enough for 80 columns."""
    rows = [
        [
            one["benchmark"],
            "there" if one["there"] else "missing",
            one["metric"],
            one["prompt"],
            str(one["max_tiles"]),
            str(one["questions"]),
            {None: "–", "yes": "yes"}.get(one["judge"], "fallback"),
        ]
        for one in planned
    ]
    return ["benchmark", "table", "metric", "prompt", "tiles", "rows", "judge"], rows


def _judge(benchmark: Benchmark, job: SuiteJob) -> str | None:
    """Who judges; nobody where answers are read by a rule."""
    if not benchmark.judge or benchmark.metric in READ_BY_RULE:
        return None
    return "yes" if job.judge is not None else "none: fallback"


def _open_tables(job: SuiteJob, reporter: Reporter) -> list[Questions]:
    """The questions of every benchmark. Raises one UsageError that names every table that is not there."""
    sets: list[Questions] = []
    paths = {one.name: table_path(one, job.tables) for one in job.suite.benchmarks}
    missing = [one for one in job.suite.benchmarks if not paths[one.name].exists()]
    if missing and (not job.skip_missing or len(missing) == len(paths)):
        if len(missing) == 1:
            questions(missing[0], job.tables, seed=job.seed)  # says what it has to hold
        hint = "" if len(missing) == len(paths) else "; --skip-missing benches the others"
        raise UsageError(
            f"{job.tables}: lacks {len(missing)} of the {len(paths)} tables of {job.suite.name}: "
            f"{', '.join(paths[one.name].name for one in missing)}; --data DIR is where they are looked for{hint}"
        )
    for one in missing:
        reporter.info(f"{paths[one.name]}: not there; benched without it")
    there = [one for one in job.suite.benchmarks if one not in missing]
    reporter.start("tables", len(there), unit="tables")
    try:
        for benchmark in there:
            if benchmark.metric not in OWN_METRICS:
                Table(paths[benchmark.name], needed_columns(benchmark)).close()
            limited = replace(benchmark, limit=_limit(benchmark, job.samples))
            sets.append(questions(limited, job.tables, seed=job.seed))
            reporter.update(len(sets))
            if not len(sets[-1]):
                raise DataError(f"{paths[benchmark.name]}: holds no question that counts")
    except BaseException:
        for opened in sets:
            opened.close()
        raise
    reporter.finish()
    for opened in sets:
        if opened.rejects:
            index, reject = next(iter(opened.rejects.items()))
            reporter.info(
                f"{opened.benchmark.name}: {len(opened.rejects)} questions cannot be asked and score 0; question "
                f"{index}: {reject.reason}: {reject.detail}"
            )
    return sets


def _limit(benchmark: Benchmark, samples: int | None) -> int | None:
    known = [limit for limit in (benchmark.limit, samples) if limit is not None]
    return min(known) if known else None


def _answer(
    open_respondent: Callable[[], Respondent], job: SuiteJob, sets: Sequence[Questions], reporter: Reporter
) -> tuple[str, dict[str, Answers]]:
    share = job.share or (0, 1)
    with Store(job.out, share[0]) as store:
        respondent = open_respondent()
        _refuse_anothers(job, respondent.identity)
        options: dict[str, Any] = {"identity": respondent.identity, "share": share, "reporter": reporter}
        return respondent.identity, answer_all(respondent.engine, sets, store, **options)


def _refuse_anothers(job: SuiteJob, identity: str) -> None:
    """Raise UsageError where a folder holds the results of somebody else, or of another suite."""
    path = job.out / RESULTS
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        held, held_suite = str(found["answered_by"]), str(found["suite"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: is no result file of a suite's bench; choose another --out, or remove it") from None
    if held_suite != job.asked:
        raise UsageError(
            f"{path}: holds the results of the suite {held_suite}, not of {job.asked}; choose another --out, or remove "
            "the file"
        )
    if held != identity and not job.follows:
        raise UsageError(f"{path}: holds the results of {held}, not of {identity}; choose another --out, or remove it")


def _score(
    job: SuiteJob, sets: Sequence[Questions], answers: Mapping[str, Answers], reporter: Reporter
) -> dict[str, Any]:
    scored: dict[str, Scored | SailctlError] = {}
    counts: dict[str, Any] | None = None
    kit = [one for one in sets if one.benchmark.metric not in OWN_METRICS]
    reporter.info(f"scoring {', '.join(one.benchmark.name for one in sets)}")
    if kit:
        with ExitStack() as stack:
            proxy = stack.enter_context(JudgeProxy(job.judge(), job.out / JUDGED, seed=job.seed)) if job.judge else None
            jobs = [Job(one.benchmark, one.path, answers[one.benchmark.name].texts) for one in kit]
            found = score_all(jobs, job.out / "scoring", scorer_python=job.scorer_python, judge=proxy)
            scored |= {one.benchmark.name: result for one, result in zip(kit, found, strict=True)}
            if proxy is not None:
                counts = {"model": proxy.model, **proxy.counts()}
    for one in sets:
        if one.benchmark.metric in OWN_METRICS:
            from sailctl.core.bench.understanding import score_understanding

            engine = job.judge() if job.judge is not None and one.benchmark.judge else None
            texts = answers[one.benchmark.name].texts
            try:
                scored[one.benchmark.name] = score_understanding(
                    one.benchmark, one, texts, judge=engine, cache=job.out / CAPTIONS_JUDGED
                )
            except SailctlError as error:
                scored[one.benchmark.name] = error
    return _results(job, sets, answers, scored, counts)


def _results(
    job: SuiteJob,
    sets: Sequence[Questions],
    answers: Mapping[str, Answers],
    scored: Mapping[str, Scored | SailctlError],
    counts: dict[str, Any] | None,
) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    measured: dict[str, Score] = {}
    raw: dict[str, float] = {}
    with atomic_write(job.out / SAMPLES, "w") as lines:
        writer = SampleWriter(job.out, lines, PICTURES)
        for one in sets:
            name, result = one.benchmark.name, scored[one.benchmark.name]
            if isinstance(result, SailctlError):
                entries[name] = failure(one, result)
                continue
            rows = writer.add(one, answers[name], result)
            entries[name], with_interval = entry(one, answers[name], result, rows, job.seed)
            raw[name] = result.raw
            if with_interval is not None:
                measured[name] = with_interval
    results: dict[str, Any] = {
        "suite": job.asked,
        **job.about,
        "seed": job.seed,
        "samples": job.samples,
        "benchmarks": entries,
        "averages": averages(job.suite, raw, measured),
        "wrong": writer.wrong,
        "judge": counts,
    }
    if job.overlap is not None:
        set_beside(results, job.overlap)
    if job.published is not None:
        compare_published(results, job.suite, measured, *job.published)
    return results
