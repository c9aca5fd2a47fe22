"""Who answers a bench: a model of this process or OpenAI-compatible endpoints, set up for benchmarks.

Both answer greedily and the first answer counts: one that is cut, empty or goes in circles is what the model says.
Nothing is asked twice for speed. An endpoint's own limits decide how it cuts pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sailctl.core.engines.ask import Engine
from sailctl.core.errors import UsageError

BATCH = {"cpu": 32}  # questions answered at once; one that does not fit into memory is halved
BATCH_ELSEWHERE = 64
IN_FLIGHT = 64
ATTEMPTS = 6


@dataclass(frozen=True, slots=True)
class Respondent:
    """An engine, and what names all that its answers depend on: weights, or a model behind endpoints."""

    engine: Engine
    identity: str


def local(checkpoint: str, device: str = "auto", batch_size: int | None = None) -> Respondent:
    """The model of a checkpoint; wherever its folder lies, the same weights have the same answers.

    Raises UsageError for a path or device that is not there, CheckpointError for weights that do not fit.
    """
    from sailctl.core.device import pick
    from sailctl.core.engines.batched import BatchedLocal

    size = batch_size or BATCH.get(pick(device).kind, BATCH_ELSEWHERE)
    engine = BatchedLocal.open(checkpoint, device, size, accept_all=True)
    return Respondent(engine, f"weights {engine.model.rpartition('@')[2]}")


def endpoints(
    urls: Sequence[str],
    model: str,
    *,
    key_env: str = "OPENAI_API_KEY",
    in_flight: int = IN_FLIGHT,
    timeout_s: float = 300.0,
    patience_s: float | None = None,
) -> Respondent:
    """A model behind endpoints, by the name it has there; which machines serve it does not matter.

    The key is read from the environment variable `key_env`, if it is set. Raises UsageError for wrong addresses.
    """
    from sailctl.core.engines.pool import PATIENCE_S, HttpPool, PoolOptions
    from sailctl.core.engines.secret import Secret

    if not model:
        raise UsageError("--model is missing: the name the endpoint serves its model under")
    options = PoolOptions(
        in_flight=in_flight,
        timeout_s=timeout_s,
        attempts=ATTEMPTS,
        hedge=False,
        accept_cut=True,
        accept_all=True,
        patience_s=PATIENCE_S if patience_s is None else patience_s,
    )
    pool = HttpPool(urls, model, api_key=Secret.from_env(key_env), options=options)
    return Respondent(pool, f"endpoint {model}")
