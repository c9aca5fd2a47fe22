"""Regular expressions of users over texts of anybody: none may take for ever.

Repeats within repeats are refused when the rules are read. Whatever else takes long is stopped by the clock and ends
the pass in words: a verdict must not depend on how busy a machine is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sailctl.core.errors import UsageError

TIMEOUT_S = 5.0


def check_pattern(pattern: str) -> None:
    """Raises ValueError, which a config's validation turns into the user's line, for what is no expression or nests."""
    import regex

    try:
        regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    if (nested := nested_repeat(pattern)) is not None:
        raise ValueError(
            f"{pattern!r}: a repeat within a repeat, {nested}, can take for ever; bound the inner one: {{1,20}} for +"
        )


def nested_repeat(pattern: str) -> str | None:
    """The first group that is repeated without bound and has such a repeat inside, as it is written; None if none."""
    groups: list[tuple[int, bool]] = []  # where it begins, and whether something in it is repeated
    repeated, position = False, 0
    while position < len(pattern):
        character = pattern[position]
        width = _atom(pattern, position)
        if character == "(":
            groups.append((position, repeated))
            repeated, position = False, position + 1
            continue
        if character == ")" and groups:
            begin, before = groups.pop()
            length, endless = _repeat(pattern, position + 1)
            if endless and repeated:
                return pattern[begin : position + 1 + length]
            repeated, position = repeated or before or endless, position + 1 + length
            continue
        length, endless = _repeat(pattern, position + width)
        repeated, position = repeated or endless, position + width + length
    return None


def _atom(pattern: str, position: int) -> int:
    """Characters of what stands there: an escape, a class, or one character."""
    if pattern[position] == "\\":
        return 2
    if pattern[position] != "[":
        return 1
    end = position + 1 + (pattern[position + 1 : position + 2] == "^")
    end += 1  # a closing bracket right at the front is a member
    while end < len(pattern) and pattern[end] != "]":
        end += 2 if pattern[end] == "\\" else 1
    return end + 1 - position


def _repeat(pattern: str, position: int) -> tuple[int, bool]:
    """Length of a repeat without a bound (* + {n,}) that stands there, and whether it can be tried anew in many ways.

    A possessive one (a++) never goes back, so it cannot.
    """
    rest = pattern[position:]
    length = 0
    if rest[:1] in ("*", "+"):
        length = 1
    elif rest.startswith("{") and "}" in rest and rest[1 : (end := rest.index("}"))].endswith(","):
        length = end + 1
    more = rest[length : length + 1] if length else ""
    return length + (more in ("+", "?")), bool(length) and more != "+"


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:
    import regex

    return regex.compile(pattern)


def find(pattern: str, text: str) -> str | None:
    """What a checked pattern first matches in a text; None if nothing. Raises UsageError where that takes too long."""
    try:
        match = _compiled(pattern).search(text, timeout=TIMEOUT_S)
    except TimeoutError:
        raise UsageError(
            f"pattern {pattern!r} takes longer than {TIMEOUT_S:g} s on a text of {len(text)} characters "
            f"({text[:40]!r} …); write it without ambiguous repeats"
        ) from None
    return None if match is None else str(match.group())
