"""Which engine answers, and what it may spend: a choice that travels to workers, opened where the work is done."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from sailctl.core.engines.ask import Engine
from sailctl.core.errors import SailctlError, UsageError

KEY_ENV = "OPENAI_API_KEY"
CAP_REACHED = "spending cap reached"  # how a worker's error begins, as the pool's
MAX_BATCH = 32  # questions a local model answers at once


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """An engine and its budgets, those of the whole job but for `in_flight`, which is this command's.

    The key of the endpoints is read from the environment of whoever opens the engine; it never travels.
    """

    kind: str
    model: str
    urls: tuple[str, ...] = ()
    key_env: str = KEY_ENV
    checkpoint: str | None = None
    device: str = "auto"
    in_flight: int = 256
    timeout_s: float = 300.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_cost: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What tokens cost; prices are a million's."""
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6


def choose(
    kinds: Sequence[str],
    engine: str | None,
    endpoints: Sequence[str],
    model: str | None,
    checkpoint: str | None,
    *,
    key_env: str = KEY_ENV,
    device: str = "auto",
    in_flight: int = 256,
    timeout_s: float = 300.0,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    max_cost: float | None = None,
    price_in: float = 0.0,
    price_out: float = 0.0,
) -> EngineChoice:
    """The engine that options ask for, of one of `kinds`. Raises UsageError where something it needs is missing."""
    kind = engine or ("openai" if endpoints else None)
    if kind is None:
        raise UsageError("nobody to ask: give --endpoint URL and --model NAME, or --engine local --checkpoint PATH")
    if kind not in kinds:
        raise UsageError(f"--engine {kind}: unknown; known: {', '.join(kinds)}")
    if kind == "openai" and not (endpoints and model):
        missing = "--model NAME, as the server calls it" if endpoints else "--endpoint URL"
        raise UsageError(f"--engine openai needs {missing}")
    if kind != "openai" and (checkpoint is None or endpoints):
        raise UsageError(f"--engine {kind} needs --checkpoint PATH, and takes no --endpoint")
    check_access(endpoints, key_env)
    if max_cost is not None and not (price_in or price_out):
        raise UsageError("--max-cost needs --price-in and --price-out, per million tokens")
    return EngineChoice(
        kind=kind,
        model=model or str(checkpoint),
        urls=tuple(endpoints),
        key_env=key_env,
        checkpoint=checkpoint,
        device=device,
        in_flight=in_flight,
        timeout_s=timeout_s,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        max_cost=max_cost,
        price_in=price_in,
        price_out=price_out,
    )


def check_access(endpoints: Sequence[str], key_env: str, *, prefix: str = "--") -> None:
    """Raises UsageError where an address or the variable with the key cannot be used, for `<prefix>endpoint` and so on.

    What may be a key is not shown.
    """
    for url in endpoints:
        _check_url(url, prefix)
    if not re.fullmatch(r"[A-Za-z_]\w*", key_env, re.ASCII):
        raise UsageError(
            f"{prefix}api-key-env: give the name of an environment variable that holds the key, not the key"
        )
    if key_env != KEY_ENV and not os.environ.get(key_env):
        raise UsageError(f"{prefix}api-key-env {key_env}: that environment variable is not set")


def _check_url(url: str, prefix: str) -> None:
    """Addresses are shown and stored, so no key may be in one."""
    shown = re.split(r"[?#]", url.rpartition("@")[2])[0]
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(f"{prefix}endpoint {shown}: give a URL such as http://host:23333/v1")
    remedy = f"put the key in the environment and name it with {prefix}api-key-env"
    if parts.username is not None:
        raise UsageError(f"{prefix}endpoint …@{parts.hostname}: no user or password in a URL; {remedy}")
    azure = re.fullmatch(r"(api-version=[\w.-]*)?", parts.query, re.ASCII)
    if "#" in url or not azure:
        raise UsageError(f"{prefix}endpoint {shown}: no query but api-version and no fragment in a URL; {remedy}")


def open_local(choice: EngineChoice) -> Engine:
    """The model of this process; its name tells its weights."""
    from sailctl.core.engines.batched import BatchedLocal

    assert choice.checkpoint is not None
    return BatchedLocal.open(choice.checkpoint, choice.device, min(choice.in_flight, MAX_BATCH), accept_cut=False)


def open_pool(choice: EngineChoice, *, processes: int, workers: int, spent: tuple[int, int]) -> Engine:
    """The endpoints for one of `workers` workers, of which `processes` are this command's.

    `spent` are the tokens that count against this worker's share of the cap. Raises SailctlError where that is spent.
    """
    left = None if choice.max_cost is None else choice.max_cost / workers - choice.cost(*spent)
    if left is not None and left <= 0:
        raise SailctlError(CAP_REACHED)
    from sailctl.core.engines.pool import HttpPool, PoolOptions
    from sailctl.core.engines.secret import Secret

    options = PoolOptions(
        in_flight=max(1, choice.in_flight // processes),
        timeout_s=choice.timeout_s,
        requests_per_minute=_part(choice.requests_per_minute, workers),
        tokens_per_minute=_part(choice.tokens_per_minute, workers),
        max_cost=left,
        price_in=choice.price_in,
        price_out=choice.price_out,
    )
    return HttpPool(choice.urls, choice.model, api_key=Secret.from_env(choice.key_env), options=options)


def _part(budget: float | None, workers: int) -> float | None:
    return None if budget is None else budget / workers
