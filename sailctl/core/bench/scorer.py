"""Scoring with VLMEvalKit: predictions in, one honest number per benchmark and a verdict per question out.

The kit runs in a process of its own (`scorer_run.py`, `scorer_script.py`), offline, over tables without their pictures;
`headline.py` makes the numbers of what it writes. Its judge, where there is one, is reached through `judge_proxy.py`.
Without one the declared fallback is used and named in the result.
"""

from __future__ import annotations

import csv
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sailctl.core.bench.headline import Found, Headline, ItemScore, ScoringError, headline, mmvet_without_judge
from sailctl.core.bench.judge_proxy import ALIAS
from sailctl.core.bench.scorer_run import TIMEOUT_S, find_python, run
from sailctl.core.data.tsv import Table
from sailctl.core.errors import DataError, SailctlError
from sailctl.core.files import atomic_write

if TYPE_CHECKING:
    from sailctl.core.bench.judge_proxy import JudgeProxy
    from sailctl.core.bench.suites import Benchmark

__all__ = ["ItemScore", "Job", "Scored", "ScoringError", "score", "score_all"]

PICTURES = ("image", "image_path")
THREADS = 16  # in which the kit asks its judge; each call waits up to half a second before it begins
# What scoring needs of a table besides index, question and answer, by metric; of judged ones by benchmark.
COLUMNS = {
    "mme": ("category", "image_path"),
    "hallusion": ("l2-category",),
    "f1": ("category",),
    "ocrbench": ("category",),
    "accuracy": ("A", "B"),
    "circular_accuracy": ("A", "B"),
    "MathVista": ("question_type", "answer_type", "answer_option", "choices", "task", "skills"),
    "MMVet": ("category",),
}
READ_BY_RULE = ("anls", "relaxed_accuracy", "vqa_score", "exact_match", "ocrbench")  # no judge is asked whatever comes
FALLBACKS = {
    "MathVista": "answers extracted without a judge",
    "MMVet": "containment of the reference, no judge",
}
EXACT = "exact matching"


@dataclass(frozen=True, slots=True)
class Job:
    """One benchmark to be scored: its table, and the answers by index. Rows without an answer are left out."""

    benchmark: Benchmark
    questions_tsv: Path
    predictions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Scored:
    """What a benchmark's predictions are worth.

    `raw` is in the benchmark's own unit (MME of 2800, OCRBench of 1000, else of 100), `kit` the headline VLMEvalKit
    picks, None where it picks none or was not asked. `unparsed` are the questions whose answers, or the judge's about
    them, could not be read: they count as wrong. `fallback` says what stood in for a judge; `judge` who judged.
    """

    raw: float
    kit: float | None
    items: tuple[ItemScore, ...]
    details: Mapping[str, Any]
    unparsed: tuple[str, ...]
    fallback: str | None
    judge: str | None = None


@dataclass(slots=True)
class _Prepared:
    job: Job
    folder: Path
    questions: dict[str, dict[str, str]] = field(default_factory=dict)
    left_out: int = 0


def score(
    benchmark: Benchmark,
    questions_tsv: Path,
    predictions: Mapping[str, str],
    work: Path,
    *,
    scorer_python: Path | None = None,
    judge: JudgeProxy | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Scored:
    """Score one benchmark; see `score_all`. Raises what is returned there."""
    job = Job(benchmark, questions_tsv, predictions)
    (scored,) = score_all([job], work, scorer_python=scorer_python, judge=judge, timeout_s=timeout_s)
    if isinstance(scored, SailctlError):
        raise scored
    return scored


def score_all(
    jobs: Sequence[Job],
    work: Path,
    *,
    scorer_python: Path | None = None,
    judge: JudgeProxy | None = None,
    timeout_s: float = TIMEOUT_S,
) -> list[Scored | SailctlError]:
    """Score benchmarks in one process of the scorer; of each what it is worth, or why it could not be scored.

    Files go to `work/DATASET/`, made anew. `timeout_s` is for each benchmark. Raises UsageError where VLMEvalKit is not
    installed, and what stopped the judge where it answers nothing more: then nothing is scored, what it has answered is
    kept, and the same call goes on from there.
    """
    results: dict[int, Scored | SailctlError] = {}
    prepared: dict[int, _Prepared] = {}
    for number, job in enumerate(jobs):
        try:
            prepared[number] = _prepare(job, _folder(work, job, list(jobs)[:number]))
        except SailctlError as error:
            results[number] = error
    for number, one in list(prepared.items()):
        if _family(one.job.benchmark) == "MMVet" and judge is None:  # the kit refuses to begin
            found = mmvet_without_judge(one.questions)
            results[number] = _scored(one, found, Found(one.questions, {}), None)
            del prepared[number]
    if prepared:
        python = find_python(scorer_python)
        for number, told in zip(
            prepared, run([_told(one, judge) for one in prepared.values()], work, python, judge, timeout_s), strict=True
        ):
            results[number] = told if isinstance(told, SailctlError) else _read(prepared[number], told, judge)
    return [results[number] for number in range(len(jobs))]


def needed_columns(benchmark: Benchmark) -> list[str]:
    """The columns VLMEvalKit's rule for a benchmark wants of its table."""
    split = ["split"] if benchmark.split is not None else []
    return ["index", "question", "answer", *COLUMNS.get(_family(benchmark), ()), *split]


def _family(benchmark: Benchmark) -> str:
    """The metric, but for the judged ones the benchmark whose rule it is."""
    return next((name for name in FALLBACKS if benchmark.dataset.startswith(name)), benchmark.metric)


def _folder(work: Path, job: Job, before: Sequence[Job]) -> Path:
    name = job.benchmark.dataset
    if any(other.benchmark.dataset == name for other in before):
        name += "-" + job.benchmark.name
    return work.absolute() / re.sub(r"[^\w.+-]", "_", name)


def _prepare(job: Job, folder: Path) -> _Prepared:
    """Check the table and write it twice without its pictures: as the kit's table, and with the predictions."""
    benchmark = job.benchmark
    table = Table(job.questions_tsv, needed_columns(benchmark))
    prepared = _Prepared(job, folder)
    with_pictures = [name for name in PICTURES if name in table.columns]
    for row in table:
        index = row.cells["index"].strip()
        if index.isascii() and index.isdigit():
            index = str(int(index))
        if index in prepared.questions:
            raise DataError(f"{job.questions_tsv}: line {row.line}: index {index!r} is there twice")
        if (prediction := job.predictions.get(index)) is None:
            prepared.left_out += 1
            continue
        if benchmark.split is not None and row.cells["split"] != benchmark.split:
            raise DataError(f"{job.questions_tsv}: question {index} is of split {row.cells['split']!r}, not counted")
        if with_pictures and not any(row.cells[name] not in ("", "nan") for name in with_pictures):
            raise DataError(f"{job.questions_tsv}: question {index} shows no picture, VLMEvalKit leaves it out")
        cells = {name: text for name, text in row.cells.items() if name != "image"}
        prepared.questions[index] = {**cells, "index": index, "prediction": _writable(prediction)}
    table.close()
    if unknown := job.predictions.keys() - prepared.questions.keys():
        raise DataError(f"{job.questions_tsv}: there is no question {min(unknown)!r}, {len(unknown)} such predictions")
    if not prepared.questions:
        raise DataError(f"{benchmark.name}: no prediction to score")
    if benchmark.metric == "mme":
        pairs = Counter((cells["category"], cells["image_path"]) for cells in prepared.questions.values())
        for (category, picture), number in pairs.items():
            if number != 2:
                raise DataError(
                    f"{job.questions_tsv}: MME asks two questions about a picture; {picture} of {category} has {number}"
                )
    shutil.rmtree(folder, ignore_errors=True)  # the kit would take up what an earlier run left
    columns = [name for name in table.columns if name != "image"]
    if "image" in table.columns and "image_path" not in columns:
        # of a table it does not know the kit tells by this column that pictures belong to it
        columns.append("image_path")
        for cells in prepared.questions.values():
            cells["image_path"] = f"{cells['index']}.png"
    _write(folder / "tables" / f"{benchmark.dataset}.tsv", columns, prepared.questions)
    _write(folder / "predictions.tsv", [*columns, "prediction"], prepared.questions)
    return prepared


def _writable(text: str) -> str:
    """An answer without what no table holds: half a surrogate pair, and the byte that ends strings."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _write(path: Path, columns: Sequence[str], questions: Mapping[str, Mapping[str, str]]) -> None:
    with atomic_write(path, "w") as handle:
        # all quoted: of what ends a line, csv quotes only what it ends lines with itself
        writer = csv.DictWriter(
            handle, columns, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL, extrasaction="ignore"
        )
        writer.writeheader()
        writer.writerows(questions.values())


def _told(one: _Prepared, judge: JudgeProxy | None) -> dict[str, Any]:
    """A job as `scorer_script.py` reads it."""
    wants_judge = judge is not None and one.job.benchmark.metric not in READ_BY_RULE
    kit = one.folder / "vlmevalkit"
    kit.mkdir(parents=True)
    return {
        "name": one.job.benchmark.name,
        "dataset": one.job.benchmark.dataset,
        "metric": one.job.benchmark.metric,
        "tables": str(one.folder / "tables"),
        "answers": str(one.folder / "predictions.tsv"),
        "work": str(kit),
        "result": str(one.folder / "result.json"),
        "judge": {"model": ALIAS, "url": judge.url} if judge is not None and wants_judge else None,
        "nproc": THREADS,
    }


def _read(one: _Prepared, told: Mapping[str, Any], judge: JudgeProxy | None) -> Scored | SailctlError:
    found = Found(one.questions, told["rows"], told["table"], told["picked"], told.get("rotations"))
    try:
        made = headline(one.job.benchmark.metric, one.job.benchmark.dataset, found)
    except ScoringError as error:
        return ScoringError(f"{one.job.benchmark.name}: {error}; see {one.folder}")
    scored = _scored(one, made, found, judge)
    if judge is not None and scored.judge is not None:
        judge.note_unparsed(len(scored.unparsed))
    return scored


def _scored(one: _Prepared, made: Headline, found: Found, judge: JudgeProxy | None) -> Scored:
    raw, items = made
    benchmark = one.job.benchmark
    by_rule = benchmark.metric in READ_BY_RULE
    fallback = None if by_rule or judge is not None else FALLBACKS.get(_family(benchmark), EXACT)
    return Scored(
        raw=raw,
        kit=found.picked,
        items=items,
        details={"table": _in_order(found.table), "left_out": one.left_out, "files": str(one.folder)},
        unparsed=tuple(item.index for item in items if not item.parsed),
        fallback=fallback,
        judge=judge.model if judge is not None and not by_rule else None,
    )


def _in_order(table: Any) -> Any:
    """Rows of a table by their text: VLMEvalKit goes through sets, whose order is another one in each process."""
    return sorted(table, key=str) if isinstance(table, list) else table
