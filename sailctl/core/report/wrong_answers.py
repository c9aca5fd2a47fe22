"""A page to leaf through the wrong answers of a bench, with their pictures: one file beside `images/`, no network.

The rows of samples.jsonl go into the page as JSON in which no tag can end, and its script makes text of them, never
markup. Pictures are named, not embedded: only files that lie in the bench's own `images/`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sailctl.core.errors import DataError, UsageError
from sailctl.core.files import atomic_write
from sailctl.core.html import render_page
from sailctl.core.report.read import read_object, read_samples

PAGE = "wrong_answers.html"
_TEMPLATES = Path(__file__).parent / "templates"
MAX_BYTES = 50_000_000  # of JSON: a browser reads that within seconds
_PICTURE = re.compile(r"images/([A-Za-z0-9_-][A-Za-z0-9._-]*)")


@dataclass(frozen=True, slots=True)
class WrongAnswers:
    """What was written: the page, and how many of the bench's answers are wrong and are shown.

    `left_out` counts wrong answers by benchmark that the page had no room for. `missing` counts pictures that rows name
    and the bench has not kept, `refused` those whose path does not lead into its `images/`.
    """

    path: Path
    answers: int
    wrong: int
    shown: int
    left_out: Mapping[str, int]
    missing: int
    refused: int


def write_wrong_answers(folder: Path, *, max_bytes: int = MAX_BYTES) -> WrongAnswers:
    """Write `wrong_answers.html` of a finished bench into its folder, atomically.

    Wrong is what scores below 1. Where all rows together would take more than `max_bytes` of JSON, every benchmark gets
    as much room as any other, and what it does not need goes to the rest; its first rows are kept, for theirs are the
    pictures that a bench keeps.
    Raises UsageError where there is no finished bench, DataError where its files are damaged.
    """
    for name in ("results.json", "samples.jsonl"):
        if not (folder / name).is_file():
            raise UsageError(f"{folder / name} does not exist: a finished bench holds results.json and samples.jsonl")
    results = read_object(folder / "results.json")
    benchmarks = results.get("benchmarks", {})
    if not isinstance(benchmarks, dict) or not all(isinstance(about, dict) for about in benchmarks.values()):
        raise DataError(f"{folder / 'results.json'}: key 'benchmarks' is malformed; run sailctl bench again")
    rows = read_samples(folder)
    pictures = _Pictures(folder)
    made: dict[str, list[str]] = {}
    for number, row in enumerate(rows, 1):
        if float(row["score"]) < 1:
            name, short = _shown(row, pictures, f"{folder / 'samples.jsonl'}: row {number}")
            made.setdefault(name, []).append(_json(short))
    kept = _fitting(made, max_bytes)
    left_out = {name: len(made[name]) - len(kept[name]) for name in made if len(kept[name]) < len(made[name])}
    found = WrongAnswers(
        path=folder / PAGE,
        answers=len(rows),
        wrong=sum(map(len, made.values())),
        shown=sum(map(len, kept.values())),
        left_out=left_out,
        missing=pictures.missing,
        refused=pictures.refused,
    )
    with atomic_write(found.path) as file:
        file.write(_bytes(_render(results, benchmarks, kept, found)))
    return found


def _render(
    results: Mapping[str, Any], benchmarks: Mapping[str, Any], kept: Mapping[str, Sequence[str]], found: WrongAnswers
) -> str:
    from markupsafe import Markup

    suites = {name: str(benchmarks[name].get("category") or "") for name in kept if name in benchmarks}
    rows = ",\n".join(line for lines in kept.values() for line in lines)
    return render_page(
        _TEMPLATES / "wrong_answers.html.j2",
        styles=("wrong_answers.css",),
        script="wrong_answers.js",
        # To Chromium a local file is of the page's own origin, to others it may not be.
        images="'self' file:",
        checkpoint=str(results.get("checkpoint", "")),
        suite=str(results.get("suite", "")),
        found=found,
        data=Markup(f'{{"suites": {_json(suites)}, "rows": [\n{rows}\n]}}'),
    )


def _shown(row: Mapping[str, Any], pictures: _Pictures, where: str) -> tuple[str, dict[str, Any]]:
    """A row's benchmark, and what the page shows of the row, by short keys; what is empty is left out."""
    name = row.get("benchmark", row.get("task"))
    if not isinstance(name, str) or "index" not in row:
        raise DataError(f"{where}: needs the keys 'benchmark' (or 'task') and 'index'; run sailctl bench again")
    answer = _text(row.get("answer"))
    short = {
        "b": name,
        "i": _text(row["index"]),
        "c": _text(row.get("category", row.get("kind"))),
        "q": _text(row.get("question")),
        "a": answer,
        "p": _text(row.get("prediction")),
        "o": _options(row.get("options"), where),
        "r": [text for text in map(_text, _listed(row.get("references"))) if text != answer],
        "l": row.get("level"),
        "m": pictures.of(row),
        "f": _text(row.get("failed")),
        "u": row.get("parsed") is False,
        "t": row.get("cut") is True,
    }
    return name, {"s": round(float(row["score"]), 4)} | {key: value for key, value in short.items() if value}


def _options(options: object, where: str) -> list[tuple[str, str]]:
    """Options as pairs of letter and text; the letter is empty where the bench gives none."""
    if not options:
        return []
    if isinstance(options, Mapping):
        return [(str(letter), _text(text)) for letter, text in options.items()]
    if isinstance(options, list):
        return [("", _text(text)) for text in options]
    raise DataError(f"{where}: key 'options' holds {type(options).__name__}; should be an object, a list or null")


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class _Pictures:
    """Which pictures a bench has kept, and how many were asked for in vain."""

    def __init__(self, folder: Path) -> None:
        images = folder / "images"
        there = os.scandir(images) if images.is_dir() else ()
        self.there = {file.name for file in there if file.is_file(follow_symlinks=False)}  # a link could lead anywhere
        self.missing = self.refused = 0

    def of(self, row: Mapping[str, Any]) -> list[str | None]:
        """The names within `images/` of a row's pictures in their order, None for one that cannot be shown."""
        first = [row["image"]] if row.get("image") else []
        return [self._name(path) for path in _listed(row.get("images")) or first]

    def _name(self, path: object) -> str | None:
        match = _PICTURE.fullmatch(path) if isinstance(path, str) else None
        if match is None:
            self.refused += 1
        elif match[1] in self.there:
            return match[1]
        else:
            self.missing += 1
        return None


def _fitting(made: Mapping[str, Sequence[str]], max_bytes: int) -> dict[str, list[str]]:
    """The rows that are kept, by benchmark: all, or as many as fit into equal shares of the room."""
    sizes = {name: [len(_bytes(line)) + 2 for line in lines] for name, lines in made.items()}
    room, share = max_bytes, 0
    waiting = sorted((sum(of_one), name) for name, of_one in sizes.items())
    for place, (size, _) in enumerate(waiting):
        share = room // (len(waiting) - place)
        if size > share:
            break
        room -= size
    else:
        return {name: list(lines) for name, lines in made.items()}
    kept: dict[str, list[str]] = {}
    for name, lines in made.items():
        left, kept[name] = share, []
        for line, size in zip(lines, sizes[name], strict=True):
            if size <= left:
                kept[name].append(line)
                left -= size
    return kept


def _json(value: object) -> str:
    """JSON that may stand in a script element: no tag can begin or end in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _bytes(text: str) -> bytes:
    """UTF-8; half of a surrogate pair, which JSON can hold and UTF-8 cannot, as its escape."""
    return text.encode("utf-8", "backslashreplace")
