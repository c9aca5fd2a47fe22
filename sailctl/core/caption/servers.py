"""Servers started for a job and ended with it: the captioner behind LMDeploy, one server a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from sailctl.core.engines.choice import EngineChoice
from sailctl.core.engines.lmdeploy import LmdeployServers


@contextmanager
def served(choice: EngineChoice, say: Callable[[str], None]) -> Iterator[EngineChoice]:
    """The choice with the addresses of its servers, which run as long as the block does; they take no key."""
    name = None if choice.model == choice.checkpoint else choice.model
    with LmdeployServers(
        choice.checkpoint, model=name, device=choice.device, say=say, secrets=[choice.key_env]
    ) as servers:
        say(f"serving {choice.checkpoint} at {', '.join(servers.urls)}")
        yield replace(choice, kind="openai", model=servers.model, urls=tuple(servers.urls), key_env="")
