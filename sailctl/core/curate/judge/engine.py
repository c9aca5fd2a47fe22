"""Who judges, and how hard it may be asked: a choice that travels to workers, opened where the work is done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from sailctl.core.engines.ask import Engine
from sailctl.core.errors import SailctlError, UsageError

KINDS = ("openai", "local")
KEY_ENV = "OPENAI_API_KEY"
KEPT = "what was answered is kept, the same command goes on"
MAX_BATCH = 32  # questions a local model answers at once


@dataclass
class Spent:
    """What this run's questions took in a process so far; cost in the currency of the prices."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def add(self, engine: Engine) -> None:
        """Count what an engine that is done has used, as far as it tells."""
        if (usage := getattr(engine, "usage", None)) is not None:
            self.prompt_tokens += usage.prompt_tokens
            self.completion_tokens += usage.completion_tokens
            self.cost += usage.cost


@dataclass(frozen=True)
class JudgeEngine:
    """A judge behind endpoints or of this process. Budgets are those of the whole command, `max_cost` of one run of it.

    The key of the endpoints is read from the environment of whoever opens the engine; it never travels.
    """

    engine: str | None = None
    endpoints: Sequence[str] = ()
    model: str | None = None
    checkpoint: str | None = None
    device: str = "auto"
    key_env: str = KEY_ENV
    in_flight: int = 64
    timeout_s: float = 300.0
    requests_per_minute: float | None = None
    price_in: float = 0.0  # of a million tokens
    price_out: float = 0.0
    max_cost: float | None = None

    @property
    def kind(self) -> str:
        """openai or local. Raises UsageError where nobody is named, or both are."""
        kind = self.engine or ("openai" if self.endpoints else None)
        if kind is None:
            raise UsageError("nobody to ask: give --endpoint URL and --model NAME, or --engine local --checkpoint PATH")
        if kind not in KINDS:
            raise UsageError(f"--engine {kind}: unknown; known: {', '.join(KINDS)}")
        return kind

    def check(self) -> None:
        """Raise UsageError for what cannot work, before anything is done."""
        if self.kind == "local":
            if self.checkpoint is None or self.endpoints:
                raise UsageError("--engine local needs --checkpoint PATH, and takes no --endpoint")
            return
        if not (self.endpoints and self.model):
            missing = "--model NAME, as the server calls it" if self.endpoints else "--endpoint URL"
            raise UsageError(f"--engine openai needs {missing}")
        if self.checkpoint is not None:
            raise UsageError("--checkpoint is for --engine local; endpoints have --model NAME")
        for url in self.endpoints:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise UsageError(f"--endpoint {url.rpartition('@')[2]}: give a URL such as http://host:23333/v1")
            if parts.username is not None:
                raise UsageError(
                    f"--endpoint …@{parts.hostname}: no user or password in a URL; put the key in the environment "
                    "and name it with --api-key-env"
                )
        if self.max_cost is not None and not (self.price_in or self.price_out):
            raise UsageError("--max-cost needs --price-in and --price-out, per million tokens")
        if self.key_env != KEY_ENV and not os.environ.get(self.key_env):
            raise UsageError(f"--api-key-env {self.key_env}: that environment variable is not set")

    def open(self, workers: int = 1, spent: Spent | None = None) -> Engine:
        """The engine for one of so many workers, each of which has its share of the budgets, less what it has spent.

        Raises SailctlError where that share is spent.
        """
        if self.kind == "local":
            from sailctl.core.engines.batched import BatchedLocal

            assert self.checkpoint is not None
            return BatchedLocal.open(self.checkpoint, self.device, min(self.in_flight, MAX_BATCH), accept_cut=False)
        from sailctl.core.engines.pool import HttpPool, PoolOptions
        from sailctl.core.engines.secret import Secret

        left = None if self.max_cost is None else self.max_cost / workers - (0.0 if spent is None else spent.cost)
        if left is not None and left <= 0:
            raise SailctlError(f"spending cap reached: --max-cost {self.max_cost:g}; {KEPT}")
        rate = self.requests_per_minute
        options = PoolOptions(
            in_flight=max(1, self.in_flight // workers),
            timeout_s=self.timeout_s,
            requests_per_minute=None if rate is None else rate / workers,
            max_cost=left,
            price_in=self.price_in,
            price_out=self.price_out,
        )
        assert self.model is not None
        return HttpPool(list(self.endpoints), self.model, api_key=Secret.from_env(self.key_env), options=options)
