"""Concepts: words and phrases of a user's list, found in captions. MetaCLIP's lists come from WordNet and Wikipedia."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sailctl.core.curate.sample.ngrams import tokens
from sailctl.core.errors import UsageError


@dataclass(frozen=True)
class Concepts:
    """The concepts of a file in its order, and their number by their words."""

    names: tuple[str, ...]
    table: dict[str, int]
    lengths: tuple[int, ...]  # in words, those that occur

    @classmethod
    def read(cls, path: Path) -> Concepts:
        """One word or phrase a line; empty lines and lines of # count nothing. Raises UsageError."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--concepts {path}: cannot be read: {error}; give a text file") from None
        names: list[str] = []
        table: dict[str, int] = {}
        lengths: set[int] = set()
        for number, line in enumerate(lines, 1):
            name = line.strip()
            if not name or name.startswith("#"):
                continue
            words = tokens(name)
            if not words:
                raise UsageError(f"--concepts {path}:{number}: {name!r} holds no word")
            if table.setdefault(" ".join(words), len(names)) == len(names):
                names.append(name)
                lengths.add(len(words))
        if not names:
            raise UsageError(f"--concepts {path}: holds no concept; write one a line")
        return cls(tuple(names), table, tuple(sorted(lengths)))

    def found(self, text: str) -> list[int]:
        """Numbers of the concepts a text names, each once, rising.

        Whole words in any case ("cat" is not in "cats" or "category"), Chinese anywhere in the text.
        """
        words = tokens(text)
        spans = (" ".join(words[at : at + n]) for n in self.lengths for at in range(len(words) - n + 1))
        return sorted({self.table[span] for span in spans if span in self.table})
