"""Words and running text for pictures of writing; which of them are held out never changes.

`data/words.txt` and `data/text.txt` are made by `scripts/make_lexicon.py`. A word is held out by its own hash, so that
neither a longer list nor another order moves it. No train item of any task shows or says a held-out word.
"""

from __future__ import annotations

import functools
import hashlib
from importlib import resources

from sailctl.core.data.synth import words
from sailctl.core.data.synth.item import Split

HELDOUT_PERCENT = 15
# Running text cannot do without these, so they are never held out.
_FUNCTION_WORDS = """
a an and any are as at be been but by can do does each for from had has have he her his if in into is it its may
more must no nor not of on one only or other our out over own shall she should so some such than that the their
them then there these they this those to two under up use used was we were what when where which who will with
without would you your
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


def _percentile(text: str) -> int:
    """A number in 0..99 that depends on nothing but the text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") % 100


def _read(name: str) -> list[str]:
    text = resources.files(__package__).joinpath("data", name).read_text(encoding="ascii")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@functools.cache
def heldout_words() -> frozenset[str]:
    """Words (3 to 8 letters, lower-case) that occur in no train item."""
    kept = FUNCTION_WORDS.union(word.lower() for word in words.vocabulary())
    return frozenset(word for word in _read("words.txt") if word not in kept and _percentile(word) < HELDOUT_PERCENT)


@functools.cache
def train_words() -> frozenset[str]:
    """Words (3 to 8 letters, lower-case) for training, disjoint from the held-out ones."""
    return frozenset(_read("words.txt")) - heldout_words()


@functools.cache
def words_by_length(heldout: bool, shortest: int, longest: int) -> tuple[str, ...]:
    """The words of one part with `shortest` to `longest` letters, sorted."""
    chosen = heldout_words() if heldout else train_words()
    return tuple(sorted(word for word in chosen if shortest <= len(word) <= longest))


@functools.cache
def passages(split: Split, fewest: int, most: int, width: int) -> tuple[tuple[str, ...], ...]:
    """Pieces of real text wrapped into `fewest` to `most` full lines of at most `width` characters.

    A single line holds at least two words. Train and held-out pieces come from different lines of the corpus and
    never coincide; train pieces hold no held-out word.
    """
    trained = frozenset(passages("train", fewest, most, width)) if split == "heldout" else frozenset()
    found: dict[tuple[str, ...], None] = {}
    for text in _read("text.txt"):
        if (_percentile(text) < HELDOUT_PERCENT) != (split == "heldout"):
            continue
        run = text.lower().split()
        for start in range(len(run)):
            lines = tuple(_wrap(run[start:], most, width))
            if len(lines) < fewest or (most == 1 and " " not in lines[0]) or lines in trained:
                continue
            if split == "heldout" or heldout_words().isdisjoint(word for line in lines for word in line.split()):
                found[lines] = None
    return tuple(found)


def _wrap(run: list[str], most: int, width: int) -> list[str]:
    """Break words into at most `most` lines of at most `width` characters; the rest is left out."""
    lines: list[str] = []
    for word in run:
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        elif len(lines) < most:
            lines.append(word)
        else:
            break
    return lines
