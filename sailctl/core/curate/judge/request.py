"""The judge command as a value: samples judged by a model, verdicts and opinions of it, agreement with people."""

from __future__ import annotations

import asyncio
import math
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sailctl.core.curate.judge.ask import Asking, Chunk, Drawn, nothing_line, unjudged_line
from sailctl.core.curate.judge.engine import JudgeEngine
from sailctl.core.curate.judge.opinions import OPINIONS, PERSON, read_opinions, write_opinions
from sailctl.core.curate.judge.pairs import ReferencePath, References, open_references
from sailctl.core.curate.judge.people import compare, shared_items
from sailctl.core.curate.judge.tasks import MAX_REFERENCES, TASKS, JudgeTask
from sailctl.core.curate.judge.verdicts import Asked, Verdicts, has_failed, opinions_of, summarise
from sailctl.core.curate.parts import Data, Part, open_data
from sailctl.core.curate.passes import Pass, Workers, default_workers, file_of, run_tasks
from sailctl.core.data.verdicts import VERDICTS
from sailctl.core.engines.ask import Engine
from sailctl.core.engines.rubrics import LANGUAGES
from sailctl.core.errors import DataError, Interrupted, SailctlError, UsageError
from sailctl.core.records import Sample
from sailctl.core.reporter import Reporter

PARTS_A_PROCESS = 8
WORK, ANSWERS = "work", "answers"  # folders: what goes when all is done, and the tables of answers


@dataclass(frozen=True)
class JudgeRequest:
    """The options of `sailctl curate judge`, as given."""

    data: Sequence[str]
    out: Path | None
    task: str
    engine: JudgeEngine
    references: Sequence[str] = ()
    image_root: str | None = None
    captions: str | None = None
    lang: str = "auto"
    samples: int | None = None
    seed: int = 0
    minimums: Sequence[str] = ()
    max_tokens: int = 512
    max_unjudged: float = 0.1
    people: Sequence[str] = ()
    processes: int | None = None
    ray: str | None = None

    def perform(self, reporter: Reporter, *, dry_run: bool = False) -> dict[str, Any]:
        """Judge, or go on judging; what came of it as JSON.

        Raises UsageError for options that make no sense, DataError where too few answers can be read, and what stops
        the judge: what was answered is kept then.
        """
        self._check()
        people = self._people()
        data = open_data(self.data, image_root=self.image_root, captions=self.captions, reporter=reporter)
        found = [open_references(path) for path in self.references]
        drawn = Drawn.of(data, self.samples, self.seed)
        if dry_run:
            return self._plan(data, drawn)
        assert self.out is not None
        places = tuple(References(self.out / WORK / f"references-{number}") for number in range(len(found)))
        task = JudgeTask(self.task, self.lang, places)
        minimums = self._minimums(task)
        engine = self.engine.open() if self.engine.choice.kind == "local" else None  # whose name its weights tell
        try:
            name = self.engine.model if engine is None else engine.model
            told = self._parameters(task, str(name), found, minimums)
            made = Pass("judge", self.out, told, data, self._workers(len(data.parts)), reporter)
            if not made.open():
                try:
                    self._judge(made, task, drawn, found, minimums, engine)
                except SailctlError as error:
                    if not isinstance(error, Interrupted) and not _answered(made.out):
                        made.discard(WORK, ANSWERS)
                    raise
        finally:
            if engine is not None:
                asyncio.run(engine.close())
        assert made.summary is not None
        report = {**made.summary, "out": str(self.out)}
        if people is not None:
            items = people["item"].unique().to_pylist()
            opinions = read_opinions([self.out / OPINIONS], items)
            report |= {"agreement": compare(opinions, people), "shared_items": shared_items(opinions, people)}
        return {**report, "next": self._next()}

    # --- the work ------------------------------------------------------------------------------------------------

    def _judge(
        self,
        made: Pass,
        task: JudgeTask,
        drawn: Drawn,
        found: Sequence[ReferencePath],
        minimums: tuple[tuple[str, float], ...],
        engine: Engine | None,
    ) -> None:
        for place, source in zip(task.references, found, strict=True):
            assert isinstance(place, References)
            place.build(source, made.reporter)
        work, answers = made.out / WORK, made.out / ANSWERS
        listed = drawn.chunks()
        # one event loop keeps hundreds of questions in flight: more processes are for those who ask for them
        workers = Workers(1 if self.engine.choice.kind == "local" else self.processes or 1, self.ray)
        sizes = {chunk.name: chunk.stop - chunk.first for chunk in listed}
        left = [chunk for chunk in listed if not file_of(answers, chunk).is_file()]
        share = max(1, min(workers.processes, len(left)))
        alone = share == 1 and self.ray is None
        tick = _ticker(made.reporter, left, sizes) if alone else None
        asking = Asking(made.data, drawn, task, self.engine, work / ANSWERS, share, self.max_tokens,
                        self.max_unjudged, engine if alone else None, tick)  # fmt: skip
        run_tasks(asking, listed, answers, workers, made.reporter, "judge", sizes)
        if alone and (used := asking.spent).prompt_tokens:
            cost = f", cost {used.cost:.4g}" if used.cost else ""
            tokens = f"{used.prompt_tokens:,} prompt and {used.completion_tokens:,} completion tokens"
            guessed = f"; estimated for {used.uncounted:,} answers without a count" if used.uncounted else ""
            made.reporter.info(f"this run: {tokens}{cost}{guessed}")
        tables = [file_of(answers, chunk) for chunk in listed]
        asked = Asked()
        for path in tables:
            asked.add(path)
        if not asked.samples:
            raise DataError(nothing_line(asked.not_asked, _first_problem(made.data, drawn)))
        if asked.unread > self.max_unjudged * asked.samples:
            for path in tables:
                if has_failed(path):  # their journals stand: the same command asks what failed, and nothing else
                    path.unlink()
            raise DataError(unjudged_line(asked.unread, asked.samples, asked.examples))
        verdicts = Verdicts(made.data, drawn, task, answers, minimums)
        sizes = {part.name: part.stop - part.first for part in made.data.parts}
        run_tasks(verdicts, made.data.parts, made.out / VERDICTS, made.workers, made.reporter, "verdicts", sizes)
        name = made.parameters["model"]
        write_opinions(made.out / OPINIONS, opinions_of(tables, task, name))
        summary = summarise(list(made.tables()), made.data, task)
        about = {
            "task": self.task,
            "rubric": task.rubric,
            "model": name,
            "prompts": task.versions(),
            "asked": asked.samples,
        }
        shutil.rmtree(work, ignore_errors=True)
        made.finish({**about, **summary})

    def _plan(self, data: Data, drawn: Drawn) -> dict[str, Any]:
        """What would be asked, with the rubric as the first sample has it."""
        task = JudgeTask(self.task, self.lang, tuple(_Shown() for _ in self.references))
        self._minimums(task)
        example: list[str] = []
        for number in range(len(data.sources)):
            for place in range(min(drawn.sizes[number], 100)):
                ordinal = drawn.ordinal(number, place)
                row = next(data.rows(Part(number, ordinal, ordinal + 1, "")))
                if row.sample is not None and (case := task.case("0", row.sample)).questions:
                    example = case.questions[0].turns[0].text.splitlines()
                    break
            if example:
                break
        sources = {source.name: size for source, size in zip(data.sources, drawn.sizes, strict=True)}
        return {
            "dry_run": True,
            "task": self.task,
            "rubric": task.rubric,
            "model": self.engine.model or self.engine.checkpoint,
            "prompts": task.versions(),
            "sources": sources,
            "questions": task.rounds * sum(drawn.sizes),
            "in_flight": self.engine.in_flight,
            "example": example,
        }

    # --- the options ---------------------------------------------------------------------------------------------

    def _workers(self, parts: int) -> Workers:
        """Who makes the verdicts; starting a process takes as long as some parts do."""
        usual = default_workers(self.processes, self.ray)
        return Workers(
            usual.processes if self.processes else min(usual.processes, 1 + parts // PARTS_A_PROCESS), self.ray
        )

    def _check(self) -> None:
        if self.task not in TASKS:
            raise UsageError(f"--task {self.task}: unknown; known: {', '.join(TASKS)}")
        if self.out is None:
            raise UsageError("no --out: give a folder for verdicts and opinions")
        if self.lang not in ("auto", *LANGUAGES):
            raise UsageError(f"--lang {self.lang}: unknown; known: auto, {', '.join(LANGUAGES)}")
        given = len(self.references)
        if self.task == "sft" and given:
            raise UsageError("--reference is for captions; --task sft judges conversations by themselves")
        if self.task == "gsb" and given != 1:
            raise UsageError(f"--task gsb compares with one --reference, {given} are given")
        if given > MAX_REFERENCES:
            raise UsageError(f"--reference: {given} are given; a caption is compared with {MAX_REFERENCES} at most")
        if self.minimums and self.samples is not None:
            raise UsageError("--min needs a score of every sample: leave out --samples, or --min")
        if self.engine.choice.kind == "local" and (self.ray is not None or (self.processes or 1) > 1):
            raise UsageError("--engine local answers in one process; leave out --processes and --ray")

    def _minimums(self, task: JudgeTask) -> tuple[tuple[str, float], ...]:
        """--min as criteria and scores; a bare number is for the task's own one."""
        found: dict[str, float] = {}
        for text in self.minimums:
            name, equals, number = text.rpartition("=")
            if not equals and task.name == "sft":
                raise UsageError(f"--min {text}: of which one? give CRITERION={text}, of {', '.join(task.columns)}")
            name = name if equals else task.columns[0]
            if name not in task.columns:
                raise UsageError(f"--min {text}: --task {task.name} gives {', '.join(task.columns)}")
            try:
                found[name] = float(number)
            except ValueError:
                found[name] = math.nan
            if not math.isfinite(found[name]):
                raise UsageError(f"--min {text}: give a number, such as {name}=3")
        return tuple(sorted(found.items()))

    def _parameters(
        self, task: JudgeTask, model: str, found: Sequence[ReferencePath], minimums: Sequence[tuple[str, float]]
    ) -> dict[str, Any]:
        """All that decides the outcome beside the data."""
        return {
            "task": self.task,
            "lang": self.lang,
            "model": model,
            "prompts": task.versions(),
            "references": [{"path": one.path, "fingerprint": one.fingerprint()} for one in found],
            "samples": self.samples,
            "seed": self.seed if self.samples is not None else 0,
            "max_tokens": self.max_tokens,
            "min": dict(minimums),
        }

    def _people(self) -> Any:
        """The opinions of people, None where none are asked for. Raises UsageError where there are none."""
        if not self.people:
            return None
        import pyarrow.compute as pc

        table = read_opinions(self.people)
        table = table.filter(pc.starts_with(table["judge"], PERSON))
        if not len(table):
            raise UsageError(f"--people {', '.join(map(str, self.people))}: holds no opinion of a person")
        return table

    def _next(self) -> str:
        """What usually comes next: people, to know what the judge is worth."""
        if self.people or self.task not in TASKS:
            return ""
        words = ["sailctl", "curate", "annotate", "--task", self.task]
        words += [word for path in self.data for word in ("--data", path)]
        words += [word for path in self.references[:1] for word in ("--reference", path)]
        words += ["--captions", self.captions] if self.captions else []
        return shlex.join([*words, "--annotators", "NAME,NAME", "--out", f"{str(self.out).rstrip('/')}-people"])


class _Shown:
    """Stands for references where a plan shows a rubric."""

    def find(self, sample: Sample) -> str:
        """What a plan shows in a reference's place."""
        return f"(the reference of {sample.key})"


def _answered(out: Path) -> bool:
    """Whether anything was answered that another try would want: journals hold answers, and go last."""
    return any(path.stat().st_size for path in (out / WORK / ANSWERS).rglob("*.jsonl"))


def _first_problem(data: Data, drawn: Drawn) -> str:
    """Why the first drawn sample cannot be read, if it cannot."""
    number = next((number for number, size in enumerate(drawn.sizes) if size), None)
    if number is None:
        return ""
    ordinal = drawn.ordinal(number, 0)
    return next(data.rows(Part(number, ordinal, ordinal + 1, ""))).problem()


def _ticker(reporter: Reporter, left: Sequence[Chunk], sizes: dict[str, int]) -> Callable[[str, int], None]:
    """Tells the reporter of samples done, all chunks together."""
    done = sum(sizes.values()) - sum(sizes[chunk.name] for chunk in left)
    before: dict[str, int] = {}
    for chunk in left:
        before[chunk.name] = done
        done += sizes[chunk.name]
    return lambda name, count: reporter.update(before[name] + count)
