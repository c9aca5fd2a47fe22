"""The caption command as a value: options in, the plan or the report out."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import socket
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from glob import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sailctl.core.caption.display import Display, Reporter
from sailctl.core.caption.engine import KINDS, EngineChoice, open_local
from sailctl.core.caption.job import Job, Parameters, find_data
from sailctl.core.caption.prompts import LANGUAGES, load_prompts
from sailctl.core.caption.report import add_up, write_report
from sailctl.core.caption.tasks import parse_tasks
from sailctl.core.caption.worker import STOP, Part, Progress, heard, together, work, work_here
from sailctl.core.engines.ask import Engine
from sailctl.core.errors import DataError, Interrupted, SailctlError, UsageError
from sailctl.core.files import storage_errors
from sailctl.core.workers import map_parts, ray_nodes, stop_signals


@dataclass(frozen=True)
class CaptionRequest:
    """The options of `sailctl caption`, as given; `retry` asks what was quarantined once more."""

    data: list[str]
    out: Path | None
    tasks: list[str] = field(default_factory=lambda: ["detailed"])
    lang: str = "en"
    image_root: str | None = None
    prompts: Path | None = None
    endpoints: list[str] = field(default_factory=list)
    model: str | None = None
    engine: str | None = None
    checkpoint: str | None = None
    device: str = "auto"
    key_env: str = "OPENAI_API_KEY"
    max_tokens: int = 1024
    temperature: float = 0.0
    max_image_side: int | None = None
    in_flight: int = 256
    timeout_s: float = 300.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0
    max_cost: float | None = None
    processes: int = 1
    shard: str = "0/1"
    ray: str | None = None
    retry: bool = False

    def job(self) -> Job:
        """The job, its data found and its prompts read. Raises UsageError for an option that makes no sense."""
        if not self.data:
            raise UsageError("no data: give --data PATH, a tar, JSON, JSONL or Parquet file, folder, glob or URL")
        if self.out is None:
            raise UsageError("no --out: give a folder for the captions")
        if self.lang not in LANGUAGES:
            raise UsageError(f"--lang {self.lang}: unknown; known: {', '.join(LANGUAGES)}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"--temperature {self.temperature}: must be 0 (greedy) or a finite number above")
        prompts = load_prompts(parse_tasks(self.tasks), self.lang, self.prompts)
        shards = find_data(self.data, self.image_root)
        parameters = Parameters(self.max_tokens, self.temperature, self.max_image_side)
        replay = self.command_line("--retry-quarantined")
        return Job(self.out, shards, prompts, self.lang, self.choice().model, parameters, replay)

    def choice(self) -> EngineChoice:
        """The engine asked for. Raises UsageError where something it needs is missing."""
        kind = self.engine or ("openai" if self.endpoints else None)
        if kind is None:
            raise UsageError("nobody to ask: give --endpoint URL and --model NAME, or --engine local --checkpoint PATH")
        if kind not in KINDS:
            raise UsageError(f"--engine {kind}: unknown; known: {', '.join(KINDS)}")
        if kind == "openai" and not (self.endpoints and self.model):
            missing = "--model NAME, as the server calls it" if self.endpoints else "--endpoint URL"
            raise UsageError(f"--engine openai needs {missing}")
        if kind != "openai" and (self.checkpoint is None or self.endpoints):
            raise UsageError(f"--engine {kind} needs --checkpoint PATH, and takes no --endpoint")
        for url in self.endpoints:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise UsageError(f"--endpoint {url.rpartition('@')[2]}: give a URL such as http://host:23333/v1")
            if parts.username is not None:
                raise UsageError(
                    f"--endpoint …@{parts.hostname}: no user or password in a URL; put the key in the environment "
                    "and name it with --api-key-env"
                )
        model = self.model or str(self.checkpoint)
        if self.max_cost is not None and not (self.price_in or self.price_out):
            raise UsageError("--max-cost needs --price-in and --price-out, per million tokens")
        return EngineChoice(
            kind=kind,
            model=model,
            urls=tuple(self.endpoints),
            key_env=self.key_env,
            checkpoint=self.checkpoint,
            device=self.device,
            in_flight=self.in_flight,
            timeout_s=self.timeout_s,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            max_cost=self.max_cost,
            price_in=self.price_in,
            price_out=self.price_out,
        )

    def plan(self) -> dict[str, Any]:
        """What `run` would do, as JSON; nothing is written but an index beside shards that have none."""
        job, choice = self.job(), self.choice()
        if choice.kind != "local":  # whose name is known when its weights are
            job.check()
        index, count = self._shard()
        processes = self._processes()
        done = add_up(job, choice)
        return {
            "out": str(job.out),
            "data_shards": len(job.shards),
            "data_bytes": sum(shard.num_bytes for shard in job.shards),
            "mine": len({shard.name for number in range(processes)
                         for shard, _ in job.units(index * processes + number, count * processes)}),
            "sealed": done["shards"]["sealed"],
            "tasks": list(job.tasks),
            "lang": job.lang,
            "engine": choice.kind,
            "model": choice.model,
            "endpoints": list(choice.urls),
            "processes": processes,
            "in_flight": choice.in_flight,
            "prompts": {prompt.task: prompt.text for prompt in job.prompts},
        }  # fmt: skip

    def run(self, reporter: Reporter) -> dict[str, Any]:
        """Caption, and return the report. Raises SailctlError saying how to go on where something is left."""
        job, choice = self.job(), self.choice()
        index, count = self._shard()
        processes = self._processes()
        local = open_local(choice) if choice.kind == "local" else None
        if local is not None and self.model is None:  # named by its weights, which are known only now
            job = replace(job, model=local.model)
        job.check()  # before servers load for minutes; what cannot be served leaves no folder behind
        with self._servers(choice, reporter) as served:
            job.claim()
            began = time.monotonic()
            parts = [
                Part(
                    job,
                    served,
                    worker=index * processes + number,
                    workers=count * processes,
                    processes=processes,
                    retry=self.retry,
                    needs_key=bool(served.key_env and os.environ.get(served.key_env)),
                )
                for number in range(processes)
            ]
            try:
                told = self._work(parts, reporter, local)
            except SailctlError as error:
                with suppress(SailctlError):  # what is sealed is worth a report; the failure is worth more
                    write_report(job, choice, {}, self.data[0])
                raise _with_remedy(error, self.command_line()) from error
        seconds = time.monotonic() - began
        for line in told["remarks"]:
            reporter.info(line)
        fresh = told["samples"] - told["before"]
        session = {
            "samples": fresh,
            "seconds": round(seconds, 3),
            "per_s": round(fresh / max(seconds, 1e-9), 3),
            "answered": told["answered"],
            "failed": told["failed"],
            "tokens": {"prompt": told["prompt"], "completion": told["completion"]},
            "limit_by": told["engine"].get("limit_by", "unknown"),
            "engine": told["engine"],
            "retry": job.replay,
        }
        report = write_report(job, choice, session, self.data[0])
        self._judge(told, report)
        return report

    def command_line(self, *more: str) -> str:
        """The same command line, and `more`."""
        words = ["sailctl", "caption"]
        words += [word for path in self.data for word in ("--data", path)]
        default = CaptionRequest([], None)
        named: list[tuple[str, Any, Any]] = [
            ("--image-root", self.image_root, None),
            ("--task", ",".join(self.tasks), ",".join(default.tasks)),
            ("--lang", self.lang, default.lang),
            ("--prompts", self.prompts, None),
            *(("--endpoint", url, None) for url in self.endpoints),
            ("--model", self.model, None),
            ("--engine", self.engine, None),
            ("--checkpoint", self.checkpoint, None),
            ("--device", self.device, default.device),
            ("--api-key-env", self.key_env, default.key_env),
            ("--max-tokens", self.max_tokens, default.max_tokens),
            ("--temperature", self.temperature, default.temperature),
            ("--max-image-side", self.max_image_side, None),
            ("--in-flight", self.in_flight, default.in_flight),
            ("--timeout", self.timeout_s, default.timeout_s),
            ("--requests-per-minute", self.requests_per_minute, None),
            ("--tokens-per-minute", self.tokens_per_minute, None),
            ("--price-in", self.price_in, default.price_in),
            ("--price-out", self.price_out, default.price_out),
            ("--max-cost", self.max_cost, None),
            ("--processes", self.processes, default.processes),
            ("--shard", self.shard, default.shard),
            ("--ray", self.ray, None),
            ("--out", self.out, None),
        ]
        words += [word for name, value, usual in named if value != usual for word in (name, str(value))]
        return shlex.join([*words, *more])

    # --- the parts -----------------------------------------------------------------------------------------------

    def _shard(self) -> tuple[int, int]:
        index, slash, count = self.shard.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and 0 <= int(index) < int(count)):
            raise UsageError(f"--shard {self.shard}: give i/n, i from 0 to n - 1, such as 0/4 … 3/4")
        return int(index), int(count)

    def _processes(self) -> int:
        if self.engine == "local" and (self.processes > 1 or self.ray is not None):
            raise UsageError("--engine local answers in one process; start one command a device, with --shard i/n")
        if self.ray is not None and self.processes == 1 and self.ray != "local":
            return ray_nodes(self.ray)
        return self.processes

    def _servers(self, choice: EngineChoice, reporter: Reporter) -> Any:
        """A context that gives the choice with the addresses of servers that were started for it."""
        if choice.kind != "lmdeploy":
            return nullcontext(choice)
        from sailctl.core.caption.servers import served

        return served(choice, reporter.info)

    def _work(self, parts: list[Part], reporter: Reporter, local: Engine | None) -> Progress:
        show = Display(reporter)
        with stop_signals() as asked:
            if len(parts) == 1 and self.ray is None:
                return work_here(parts[0], asked, show, local)
            channel = parts[0].job.out / f".progress-{socket.gethostname()}-{os.getpid()}"
            with storage_errors(channel):
                _clear_channels(channel)
                channel.mkdir(parents=True, exist_ok=True)

            def tick() -> None:
                if told := heard(channel):
                    show(told)
                if asked():
                    (channel / STOP).touch()

            sent = [replace(part, channel=channel) for part in parts]
            try:
                return together(map_parts(work, sent, tick, ray=self.ray))
            finally:
                shutil.rmtree(channel, ignore_errors=True)

    def _judge(self, told: Progress, report: dict[str, Any]) -> None:
        """Raise what keeps the job from being done."""
        if told["stopped"]:
            raise Interrupted(
                f"stopped; {report['samples']:,} samples are sealed in {report['out']}, what was answered beyond them "
                f"is noted; go on with: {self.command_line()}"
            )
        if broken := told["broken"]:
            raise DataError(
                f"{len(broken)} of the data shards could not be read, the others are done; the first: {broken[0]}; "
                f"mend that and go on with: {self.command_line()}"
            )
        busy = [unit for unit in told["busy"] if not (self.out / "manifests" / f"{unit}.json").is_file()]  # type: ignore[operator]
        if busy:
            raise SailctlError(
                f"{len(busy)} of the data shards ({', '.join(busy[:3])}) are in work by another process, the others "
                f"are done; when it has ended, see with: {self.command_line()}"
            )


def _clear_channels(own: Path) -> None:
    """Remove what commands on this machine that were killed left of theirs."""
    prefix = own.name.rpartition("-")[0]
    for folder in own.parent.glob(f"{escape(prefix)}-*"):
        pid = folder.name.rpartition("-")[2]
        if not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _with_remedy(error: SailctlError, command: str) -> SailctlError:
    """The same failure, saying that nothing answered is lost and how to go on; usage errors stay as they are."""
    if isinstance(error, UsageError):
        return error
    raised = SailctlError(f"{error}; what was answered is kept, go on with: {command}")
    raised.exit_code = error.exit_code
    return raised
