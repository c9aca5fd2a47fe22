"""Answers that loop: a unit said over and over, in any script, found in linear time.

Most answers cost a look at their end and one pass of a fast compressor: what goes in circles shrinks to next to
nothing, what does not shrink is let through at once. The rest is looked at closely, for tables and lists shrink too.
"""

from __future__ import annotations

import zlib
from collections import Counter

SHORTEST = 120  # characters; what is shorter has not had the time to loop
SHRINKS_TO = 0.34  # of its bytes: what compresses less does not loop
REPEATS = 4  # of a unit at the end
RUN = 80  # characters a repeated end must fill
LEADERS = frozenset(" \n\t.·…-_=*|+#~—─")  # drawn in rows by tables and contents
NUMBERING = " \t0123456789.)-*•、"
N_GRAM = 6


def is_looping(text: str) -> bool:
    """Whether an answer got stuck repeating itself."""
    if len(text) < SHORTEST:
        return False
    if _ends_in_a_loop(text.rstrip()):
        return True
    data = text.encode("utf-8", "replace")
    if len(zlib.compress(data, 1)) > SHRINKS_TO * len(data):
        return False
    return _repeats_lines(text) or _repeats_words(text)


def _ends_in_a_loop(text: str) -> bool:
    """Whether the end is one unit again and again: its period is how far back its last characters stood before."""
    for length in (1, 4, 12, 32):  # a short probe finds short periods, a long one is not misled by chance
        probe = text[-length:]
        before = text.rfind(probe, 0, len(text) - 1)
        if before < 0:
            return False
        period = len(text) - length - before
        most = max((REPEATS - 1) * period, RUN)
        if most + period > len(text):
            continue
        if text[-most:] == text[-most - period : -period] and not LEADERS.issuperset(text[-period:]):
            return True
    return False


def _repeats_lines(text: str) -> bool:
    """Whether one line of some length, its number or bullet aside, makes up half of the text."""
    lines = Counter(line for raw in text.splitlines() if len(line := raw.strip(NUMBERING)) >= 8)
    if not lines:
        return False
    line, times = lines.most_common(1)[0]
    return times >= 2 * REPEATS and times * len(line) > len(text) / 2 and not LEADERS.issuperset(line)


def _repeats_words(text: str) -> bool:
    """Whether fewer than two fifths of the runs of six words (of six characters, where words are not spaced) differ."""
    words: list[str] | str = [word for word in text.split() if not LEADERS.issuperset(word)]
    if len(words) * 12 < sum(map(len, words)):
        words = "".join(words)
    total = len(words) - N_GRAM + 1
    if total < 40:
        return False
    if isinstance(words, str):
        different = len({words[start : start + N_GRAM] for start in range(total)})
    else:
        different = len(set(zip(*(words[start:] for start in range(N_GRAM)), strict=False)))
    return different < 0.4 * total
