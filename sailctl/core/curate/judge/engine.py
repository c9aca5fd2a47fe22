"""Who judges, and how hard it may be asked: a choice that travels to workers, opened where the work is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sailctl.core.engines.ask import Engine
from sailctl.core.engines.choice import CAP_REACHED, KEY_ENV, EngineChoice, choose, open_local, open_pool
from sailctl.core.errors import SailctlError, UsageError

KINDS = ("openai", "local")
KEPT = "what was answered is kept, the same command goes on"


@dataclass
class Spent:
    """What this run's questions took in a process so far; cost in the currency of the prices."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0  # answers for which these are estimated
    cost: float = 0.0

    def add(self, engine: Engine) -> None:
        """Count what an engine that is done has used, as far as it tells."""
        if (usage := getattr(engine, "usage", None)) is not None:
            self.prompt_tokens += usage.prompt_tokens
            self.completion_tokens += usage.completion_tokens
            self.uncounted += usage.uncounted
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
    def choice(self) -> EngineChoice:
        """The engine asked for. Raises UsageError for what cannot work, before anything is done."""
        chosen = choose(
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
            max_cost=self.max_cost,
            price_in=self.price_in,
            price_out=self.price_out,
        )
        if chosen.kind == "openai" and self.checkpoint is not None:
            raise UsageError("--checkpoint is for --engine local; endpoints have --model NAME")
        return chosen

    def open(self, workers: int = 1, spent: Spent | None = None) -> Engine:
        """The engine for one of so many workers, each of which has its share of the budgets, less what it has spent.

        Raises SailctlError where that share is spent.
        """
        chosen, so_far = self.choice, spent or Spent()
        if chosen.kind == "local":
            return open_local(chosen)
        try:
            tokens = (so_far.prompt_tokens, so_far.completion_tokens)
            return open_pool(chosen, processes=workers, workers=workers, spent=tokens)
        except SailctlError as error:
            if not str(error).startswith(CAP_REACHED):
                raise
            raise SailctlError(f"{CAP_REACHED}: --max-cost {self.max_cost:g}; {KEPT}") from None
