"""API keys: read from the environment, shown to nobody, sent only in a header."""

from __future__ import annotations

import os
from typing import NoReturn

from sailctl.core.errors import UsageError

HIDDEN = "[key]"


class Secret:
    """A key. Its text leaves it in a request's header only: not in a repr, a format, a copy, an error or a pickle."""

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value = value

    @classmethod
    def from_env(cls, name: str) -> Secret | None:
        """The key an environment variable holds; None where there is none. Raises UsageError for one no header can."""
        value = os.environ.get(name, "").strip()
        if not value:
            return None
        if not (value.isascii() and value.isprintable()):
            raise UsageError(f"{name}: holds characters that no HTTP header can; set it to the key alone, in one line")
        return cls(value)

    def header(self, host: str = "") -> dict[str, str]:
        """What a request bears; Azure's hosts want the key under a name of their own."""
        if host.endswith(".azure.com"):
            return {"api-key": self.__value}
        return {"Authorization": f"Bearer {self.__value}"}

    def scrub(self, text: str) -> str:
        """A text somebody else wrote, without the key it may quote."""
        return text.replace(self.__value, HIDDEN)

    def __repr__(self) -> str:
        return f"Secret({HIDDEN})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key does not travel: read it from the environment where it is used")
