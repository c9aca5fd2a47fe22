"""From the tables of all parts to figures: tallies in constant memory, the drawn captions, the file of lengths."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sailctl.core.curate.passes import Pass, file_of, run_tasks
from sailctl.core.curate.stats.figures import Captions
from sailctl.core.curate.stats.histogram import Histogram
from sailctl.core.curate.stats.rows import MORE, WORDS, CountMissed, Drawing, Missed
from sailctl.core.curate.stats.tagging import TAGGED
from sailctl.core.files import atomic_write

LENGTHS = "lengths.csv"
_HEAD = ("tokens", "tiles", "targets")
_COLUMNS = ("keep", "reason", "lang", "words", "characters", "images", "width", "height", *_HEAD, "draw")
_LENGTH_OF = {"en": "words", "zh": "characters"}
_SIZES = ("images", "width", "height", *_HEAD)


@dataclass
class Tally:
    """What is counted of a source, or of all of them."""

    samples: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    spread: dict[str, Histogram] = field(default_factory=lambda: defaultdict(Histogram))

    def add(self, columns: dict[str, np.ndarray]) -> None:
        """Count the rows of a part."""
        keep, language = columns["keep"], columns["lang"]
        self.samples += len(keep)
        self.broken.update(columns["reason"][~keep].tolist())
        self.languages.update(language[keep].tolist())
        for code, name in _LENGTH_OF.items():
            self.spread[f"length_{code}"].add(_known(columns[name][keep & (language == code)]))
        for name in _SIZES:
            self.spread[name].add(_known(columns[name][keep]))

    def described(self) -> dict[str, Any]:
        """The counts as JSON has them, the most frequent first."""
        spread = {name: told for name, one in self.spread.items() if (told := one.described()) is not None}
        return {
            "samples": self.samples,
            "broken": dict(sorted(self.broken.items(), key=lambda item: (-item[1], item[0]))),
            "languages": dict(sorted(self.languages.items(), key=lambda item: (-item[1], item[0]))),
            "distributions": spread,
        }


class Drawn:
    """The captions with the smallest draws of a language of a source: their parts, and places in them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._found = np.empty((3, 0), dtype=np.int64)  # draw, part, place

    def add(self, draws: np.ndarray, part: int, places: np.ndarray) -> None:
        """Consider captions of a part."""
        new = np.stack([draws, np.full_like(draws, part), places])
        self._found = np.concatenate([self._found, new], axis=1)
        if self._found.shape[1] > 4 * self._size:
            self._found = self.chosen()

    def chosen(self) -> np.ndarray:
        """Draws, numbers of parts and places (3 × at most `size`) of those chosen, by part and place."""
        order = np.lexsort((self._found[2], self._found[1], self._found[0]))[: self._size]
        found = self._found[:, order]
        return found[:, np.lexsort((found[2], found[1]))]


Row = tuple[str, str]  # source, language


def tally(made: Pass, drawing: Drawing, lengths: bool) -> tuple[dict[str | None, Tally], dict[Row, np.ndarray]]:
    """Count all rows by source and (None) over all, and draw the samples; with `lengths` write their file."""
    tallies: dict[str | None, Tally] = {None: Tally()}
    drawn: dict[Row, Drawn] = {}
    with atomic_write(made.out / LENGTHS, "w") if lengths else nullcontext() as handle:
        if handle is not None:
            handle.write(",".join(_HEAD) + "\n")
        for number, (part, path) in enumerate(made.tables()):
            columns = _read(path)
            source = made.data.sources[part.source].name
            for one in (tallies[None], tallies.setdefault(source, Tally())):
                one.add(columns)
            for language in TAGGED:
                places = np.flatnonzero(columns["keep"] & (columns["lang"] == language))
                if len(places):
                    draws = columns["draw"][places]
                    drawn.setdefault((source, language), Drawn(drawing.size)).add(draws, number, places)
            if handle is not None:
                kept = (columns[name][columns["keep"]].tolist() for name in _HEAD)
                handle.writelines(f"{tokens},{tiles},{targets}\n" for tokens, tiles, targets in zip(*kept, strict=True))
    return tallies, {row: one.chosen() for row, one in drawn.items()}


def drawn_captions(
    made: Pass, drawing: Drawing, drawn: dict[Row, np.ndarray], english: str
) -> dict[tuple[str | None, str], Captions]:
    """Words of the drawn captions of each language of each source, and (None) of all sources together.

    Those that were not kept when their parts were read are read again first.
    """
    parts = made.data.parts
    missed = list(_missed(made, drawing, drawn))
    run_tasks(CountMissed(made.data, english), missed, made.out / MORE, made.workers, made.reporter, "words")
    tables: dict[Row, list[tuple[Path, np.ndarray]]] = defaultdict(list)
    again = {task.name for task in missed}
    for row, (_, numbers, places) in drawn.items():
        for number in np.unique(numbers):
            wanted = places[numbers == number]
            for folder in (WORDS, MORE) if parts[number].name in again else (WORDS,):
                tables[row].append((file_of(made.out / folder, parts[number]), wanted))
    vocabulary: dict[str, int] = {}
    found: dict[tuple[str | None, str], Captions] = {}
    for language in TAGGED:
        draws, captions = [], []
        for row in drawn:
            if row[1] == language:
                some, of_row = _gather(tables[row], language, vocabulary)
                found[row] = of_row
                draws.append(some)
                captions.append(of_row)
        if captions:
            smallest = np.sort(np.argsort(np.concatenate(draws), kind="stable")[: drawing.size])
            found[(None, language)] = _joined(captions).take(smallest)
    return found


def _missed(made: Pass, drawing: Drawing, drawn: dict[Row, np.ndarray]) -> Iterator[Missed]:
    parts = made.data.parts
    of_part: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for (_, language), (draws, numbers, places) in drawn.items():
        for draw, number, place in zip(draws.tolist(), numbers.tolist(), places.tolist(), strict=True):
            if draw >= drawing.likely_below(len(made.data.sources[parts[number].source])):
                of_part[number].append((place, draw, language))
    for number in sorted(of_part):
        places, draws, languages = zip(*sorted(of_part[number]), strict=True)
        yield Missed(parts[number].name, parts[number], places, draws, languages)


def _gather(
    tables: Sequence[tuple[Path, np.ndarray]], language: str, vocabulary: dict[str, int]
) -> tuple[np.ndarray, Captions]:
    """Draws and words of the captions at places of tables; `vocabulary` grows by their words."""
    import pyarrow.parquet as pq

    draws, captions = [], []
    for path, places in tables:
        table = pq.read_table(path)
        where = np.flatnonzero(
            np.isin(table["place"].to_numpy(), places) & (np.array(table["lang"].to_pylist(), dtype=object) == language)
        )
        if not len(where):
            continue
        table = table.take(where)
        lists = table["words"].combine_chunks()
        words = lists.flatten()
        if not hasattr(words, "dictionary"):  # as older versions of pyarrow read it
            words = words.dictionary_encode()
        numbers = np.array([vocabulary.setdefault(word, len(vocabulary)) for word in words.dictionary.to_pylist()])
        kinds = np.frombuffer(b"".join(table["kinds"].to_pylist()), dtype=np.uint8)
        starts = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())])
        ids = numbers[words.indices.to_numpy()] if len(words) else np.zeros(0, dtype=np.int64)
        captions.append(Captions(ids, kinds, starts, table["length"].to_numpy().astype(np.int64)))
        draws.append(table["draw"].to_numpy())
    return np.concatenate(draws), _joined(captions)


def _joined(captions: Sequence[Captions]) -> Captions:
    sizes = np.concatenate([np.diff(some.starts) for some in captions])
    return Captions(
        np.concatenate([some.ids for some in captions]),
        np.concatenate([some.kinds for some in captions]),
        np.concatenate([[0], np.cumsum(sizes)]),
        np.concatenate([some.lengths for some in captions]),
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    """Columns of a part's table; a number that is not known is -1, a text None."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=list(_COLUMNS))
    columns: dict[str, np.ndarray] = {}
    for name in _COLUMNS:
        column = table[name].combine_chunks()
        if name in ("reason", "lang"):
            columns[name] = np.array(column.to_pylist(), dtype=object)
        elif name == "keep":
            columns[name] = column.to_numpy(zero_copy_only=False).astype(bool)
        else:
            columns[name] = column.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return columns


def _known(values: np.ndarray) -> np.ndarray:
    return values[values >= 0]
