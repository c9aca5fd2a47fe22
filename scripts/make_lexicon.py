"""Collect the word list and the text corpus of `sailctl synth` from documents every Python installation carries.

Reads the standard library's docstrings, its topic help and its licence, and writes `words.txt` (words of 3 to 8
letters) and `text.txt` (runs of consecutive short words). Both files are checked in: the result depends on the Python
version that ran this script, and the generator must give the same pixels on all of them.

    python scripts/make_lexicon.py sailctl/core/data/synth/data
"""

from __future__ import annotations

import ast
import builtins
import collections
import hashlib
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

MAX_BYTES = 58_000
SKIPPED_PACKAGES = {"test", "tests", "idlelib", "site-packages", "lib2to3", "turtledemo", "encodings", "ensurepip"}
MIN_COUNT = 2  # a word met once is more often a typing error or an identifier than a word


def documents() -> Iterator[str]:
    """Yield the licence, the help topics and every docstring of the standard library, in a fixed order."""
    builtins.license._Printer__setup()  # type: ignore[attr-defined]
    yield "\n".join(builtins.license._Printer__lines)  # type: ignore[attr-defined]
    from pydoc_data.topics import topics

    yield from (topics[name] for name in sorted(topics))
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if SKIPPED_PACKAGES.intersection(path.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield ast.get_docstring(node) or ""


def plain_word(token: str) -> str | None:
    """The token's letters when it is an ordinary word with ordinary punctuation around it, else None."""
    match = re.fullmatch(r"[(\"']?([A-Z]?[a-z]+)[,.;:!?)\"']*", token)
    return match.group(1) if match else None


def runs(text: str) -> Iterator[list[str]]:
    """Yield maximal runs of consecutive words of at most 8 letters; identifiers and symbols end a run."""
    for paragraph in re.split(r"\n\s*\n", text):
        run: list[str] = []
        for token in paragraph.split():
            word = plain_word(token)
            if word is None or len(word) > 8:
                yield run
                run = []
            else:
                run.append(word)
        yield run


def by_hash(line: str) -> bytes:
    """A sort key that mixes sources without favouring any."""
    return hashlib.blake2b(line.encode(), digest_size=8).digest()


def fitting(lines: list[str], used: int) -> list[str]:
    """As many of the first lines as fit into the size of one data file."""
    kept = []
    for line in lines:
        used += len(line) + 1
        if used > MAX_BYTES:
            break
        kept.append(line)
    return kept


def main(folder: Path) -> None:
    """Write both files; print what they hold."""
    counts: collections.Counter[str] = collections.Counter()
    lines: set[str] = set()
    for text in documents():
        for run in runs(text):
            counts.update(word.lower() for word in run if re.fullmatch(r"[A-Za-z][a-z]{2,7}", word))
            if 5 <= len(run) <= 14:
                lines.add(" ".join(run))
    words = [word for word, count in counts.most_common() if count >= MIN_COUNT and re.search("[aeiouy]", word)]
    kept = fitting(words, 0)
    (folder / "words.txt").write_text("".join(f"{word}\n" for word in sorted(kept)), encoding="ascii")
    header = "# Runs of words from the Python standard library's documentation and licence (PSF-2.0).\n"
    body = fitting(sorted(lines, key=by_hash), len(header))
    (folder / "text.txt").write_text(header + "".join(f"{line}\n" for line in sorted(body)), encoding="ascii")
    print(f"{len(kept)} words, {len(body)} lines of text ({len(lines)} found)")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
