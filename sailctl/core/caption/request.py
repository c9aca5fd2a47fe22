"""The caption command as a value: its options, what they mean, and the command line that says the same."""

from __future__ import annotations

import math
import shlex
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sailctl.core.caption.job import Job, Parameters
from sailctl.core.caption.prompts import LANGUAGES, load_prompts
from sailctl.core.caption.report import add_up
from sailctl.core.caption.shards import find_data
from sailctl.core.caption.tasks import parse_tasks
from sailctl.core.engines.choice import KEY_ENV, EngineChoice, choose
from sailctl.core.errors import UsageError
from sailctl.core.workers import ray_nodes, share_of

KINDS = ("openai", "local", "lmdeploy")
RAY_S = 5.0


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
    key_env: str = KEY_ENV
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
    only: str | None = None

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
        shards = find_data(self.data, self.image_root, self.out)
        parameters = Parameters(self.max_tokens, self.temperature, self.max_image_side)
        replay = self.command_line("--retry-quarantined")
        return Job(self.out, shards, prompts, self.lang, self.choice().model, parameters, replay)

    def choice(self) -> EngineChoice:
        """The engine asked for. Raises UsageError where something it needs is missing."""
        return choose(
            KINDS,
            self.engine,
            self.endpoints,
            self.model,
            self.checkpoint,
            key_env=self.key_env,
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
        index, count = self.job_share()
        processes = self.workers()
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

    def job_share(self) -> tuple[int, int]:
        """Which command of how many this is. Raises UsageError."""
        return share_of(self.shard)

    def workers(self) -> int:
        """How many processes, here or on a cluster, this command has. Raises UsageError."""
        if self.engine == "local" and (self.processes > 1 or self.ray is not None):
            raise UsageError("--engine local answers in one process; start one command a device, with --shard i/n")
        if self.ray is not None:
            _check_ray(self.ray)
        if self.ray is not None and self.processes == 1 and self.ray != "local":
            return ray_nodes(self.ray)
        return self.processes


def _check_ray(address: str) -> None:
    """Refuse an address where nobody listens: Ray itself would try for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if address in ("local", "auto") or not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=RAY_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(
            f"--ray {address}: nobody answers there ({getattr(error, 'strerror', None) or error}); give HOST:PORT of "
            "the cluster's head, or local"
        ) from error
