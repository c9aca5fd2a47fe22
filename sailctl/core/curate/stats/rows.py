"""What `curate stats` makes of each part: a row a sample with its language, lengths and sizes, and words of the sample.

A caption is what the assistant says in a sample, all of its turns. Which captions are counted word by word is decided
by `draw`, a number from a hash of the seed and of what and where a sample is: the smallest of a language are its
sample. Most of those are known beforehand, by how many samples there are; their words are kept while they are at hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from sailctl.core import images
from sailctl.core.curate.language import language_of
from sailctl.core.curate.parts import Data, Part, Row, answers_of
from sailctl.core.curate.passes import file_of, verdict_table, write_table
from sailctl.core.curate.stats.lengths import RecipeChoice
from sailctl.core.curate.stats.tagging import TAGGED, is_word, tagger_of
from sailctl.core.errors import SampleError
from sailctl.core.records import Sample
from sailctl.core.schema.data import DataConfig

# Of a sample: the language, the words of its caption (of languages that put blanks between them), its characters
# (white space aside), the size of its first picture; under a recipe its tokens, tiles and supervised tokens.
EXTRA = {"lang": "string", "words": "int32", "characters": "int32", "images": "int32", "width": "int32",
         "height": "int32", "tiles": "int32", "tokens": "int32", "targets": "int32", "draw": "int64"}  # fmt: skip
WORDS, MORE = "work/words", "work/more"  # folders of the words of drawn captions: at once, and those missed then
_DRAWS = 1 << 63
_NO_BLANKS = {"zh", "ja", "th"}


def length_of(text: str) -> int:
    """Characters of a text that are no white space."""
    return len("".join(text.split()))


@dataclass(frozen=True)
class Drawing:
    """Which captions are counted word by word: so many of each language, by hashes with a seed."""

    size: int
    seed: int

    def draw(self, row: Row) -> int:
        """The number of a sample: the same wherever it is read, another one for each copy of it."""
        assert row.sample is not None
        told = f"{self.seed}\n{row.sample.id}\n{row.source}\n{row.shard}\n{row.row}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "big") >> 1

    def likely_below(self, samples: int) -> int:
        """Numbers below this are kept at once: so many that of a source in one language hardly any is missed."""
        return min(int((1.25 * self.size + 4 * sqrt(self.size)) / samples * _DRAWS), _DRAWS)


@dataclass(frozen=True)
class Measure:
    """Makes the rows of a part, and beside them the words of captions that are likely to be drawn."""

    data: Data
    out: Path
    drawing: Drawing
    english: str
    recipe: RecipeChoice | None

    def __call__(self, part: Part) -> Any:
        """The table of a part."""
        likely = self.drawing.likely_below(len(self.data.sources[part.source]))
        words = WordTable(self.english)
        measured = _measurer(self.recipe)
        records = []
        for place, row in enumerate(self.data.rows(part)):
            record = {**row.place(), "keep": row.error is None, "reason": "", "detail": ""}
            error = row.error
            if row.sample is not None:
                try:
                    record |= measured(row.sample)
                except SampleError as found:
                    error = found
            if error is not None:
                records.append({**record, "keep": False, "reason": error.reason, "detail": error.detail})
                continue
            assert row.sample is not None
            text = answers_of(row.sample)
            language, draw = language_of(text), self.drawing.draw(row)
            if language in TAGGED and draw < likely:
                counted: int | None = words.add(place, draw, language, text)
            else:
                counted = self._count(language, text)
            record["words"] = None if language in _NO_BLANKS else counted
            records.append({**record, "lang": language, "characters": length_of(text), "draw": draw})
        write_table(file_of(self.out / WORDS, part), words.table())
        return verdict_table(records, EXTRA)

    def _count(self, language: str, text: str) -> int | None:
        if language in _NO_BLANKS:
            return None
        if language == "en":
            return tagger_of("en", self.english).count(text)
        return sum(map(is_word, text.split()))


def _measurer(recipe: RecipeChoice | None) -> Callable[[Sample], dict[str, Any]]:
    """A function that gives the columns of a sample's pictures and tokens, and raises SampleError."""
    encoder = None if recipe is None else recipe.encoder()
    most = (DataConfig() if encoder is None else encoder.data).max_image_pixels

    def measure(sample: Sample) -> dict[str, Any]:
        sizes = [images.checked_size(data, max_pixels=most) for data in sample.images]
        record: dict[str, Any] = {"images": len(sizes)}
        if sizes:
            record["width"], record["height"] = sizes[0]
        if encoder is not None:
            record["tokens"], record["tiles"], record["targets"] = encoder.measure(sample)
        return record

    return measure


@dataclass(frozen=True, slots=True)
class Missed:
    """Samples of a part (by their places in it) whose words were not kept at once; `name` is the part's."""

    name: str
    part: Part
    places: tuple[int, ...]
    draws: tuple[int, ...]
    languages: tuple[str, ...]


@dataclass(frozen=True)
class CountMissed:
    """Makes the table of words of samples that were drawn against expectation."""

    data: Data
    english: str

    def __call__(self, missed: Missed) -> Any:
        """The table of those of a part."""
        words = WordTable(self.english)
        source = self.data.sources[missed.part.source]
        for place, draw, language in zip(missed.places, missed.draws, missed.languages, strict=True):
            text = answers_of(source.read(missed.part.first + place))
            words.add(place, draw, language, text)
        return words.table()


class WordTable:
    """Words of captions as they are kept: for each its place in the part, draw, language, length, words and kinds."""

    def __init__(self, english: str) -> None:
        self._english = english
        self._rows: list[tuple[int, int, str, int, bytes]] = []
        self._words: list[str] = []
        self._starts = [0]

    def add(self, place: int, draw: int, language: str, text: str) -> int:
        """Take a caption's words along; how many there are."""
        words, kinds = tagger_of(language, self._english).words(text)
        length = length_of(text) if language == "zh" else len(words)
        self._rows.append((place, draw, language, length, bytes(kinds)))
        self._words += words
        self._starts.append(len(self._words))
        return len(words)

    def table(self) -> Any:
        """All of them as a pyarrow Table; words are those of a dictionary, for they are repeated."""
        import pyarrow as pa

        kinds = (pa.int32(), pa.int64(), pa.string(), pa.int32(), pa.binary())
        columns: Sequence[Any] = [*zip(*self._rows, strict=True)] or [()] * len(kinds)
        arrays = [pa.array(column, type=kind) for column, kind in zip(columns, kinds, strict=True)]
        words = pa.array(self._words, type=pa.string()).dictionary_encode()
        lists = pa.ListArray.from_arrays(pa.array(self._starts, type=pa.int32()), words)
        return pa.table([*arrays, lists], names=["place", "draw", "lang", "length", "kinds", "words"])
