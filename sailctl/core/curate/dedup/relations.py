"""What makes two samples duplicates: the same picture with the same text, the same picture, or the same text.

A relation proposes by keys, and decides by looking at what is remembered of both samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sailctl.core.curate.dedup import pictures, wording
from sailctl.core.curate.dedup.signatures import Signatures, u32, u64
from sailctl.core.errors import UsageError

BY = ("sample", "image", "text")
COLUMNS = ("id", "pictures", "pixel_hash", "text_hash", "coarse", "bits", "asked", "answered", "sizes")
FAR = float("inf")
NEAR_TEXT = 0.2  # share of words


@dataclass(frozen=True, slots=True)
class Rules:
    """By what samples are compared, and how far apart they may be: grey levels of pictures, share of words of texts."""

    by: tuple[str, ...] = ("sample",)
    image: float = pictures.NEAR
    text: float = NEAR_TEXT

    def __post_init__(self) -> None:
        if not self.by or any(one not in BY for one in self.by):
            raise UsageError(f"--by {','.join(self.by) or '(nothing)'}: give {', '.join(BY)}, several with commas")
        if not 0 <= self.image <= 64:
            raise UsageError(f"--image-distance {self.image:g}: give grey levels from 0 to 64")
        if not 0 <= self.text <= 0.5:
            raise UsageError(f"--text-distance {self.text:g}: give a share of words from 0 to 0.5")


class Remembered:
    """Samples' signatures in memory, by their numbers, which rise."""

    def __init__(self, signatures: Signatures, numbers: np.ndarray) -> None:
        self.numbers = numbers
        self.columns = signatures.take(numbers, COLUMNS)
        self.sources = signatures.source_of(numbers)
        self.pictures = np.array(self.columns["pictures"], dtype=np.int64)
        glances = [data or bytes(pictures.COARSE_BYTES) for data in self.columns.pop("coarse")]
        self.coarse = np.frombuffer(b"".join(glances), np.uint8).reshape(-1, pictures.COARSE_BYTES)
        self.copies: dict[int, bytes] = {}  # by place; read when they are first needed
        self.signatures = signatures
        self.bits = np.array(self.columns["bits"], dtype=np.uint64)
        texts = zip(self.columns["asked"], self.columns["answered"], strict=True)
        self.words = np.array([(len(asked) + len(answered)) // 4 for asked, answered in texts], dtype=np.int64)

    def places(self, numbers: np.ndarray) -> np.ndarray:
        """Where samples are among these."""
        return np.searchsorted(self.numbers, numbers)

    def distances(self, left: np.ndarray, right: np.ndarray, rules: Rules) -> tuple[np.ndarray, np.ndarray]:
        """Of pairs of places how far pictures and texts are apart; infinity for more than the rules allow, and where
        it does not matter any more."""
        image, text = np.full(len(left), FAR), np.full(len(left), FAR)
        wanted = np.ones(len(left), dtype=bool)
        if rules.by == ("sample",):  # words are looked at before pixels, and only where pixels may be near
            wanted = self._may_look_alike(left, right, rules.image)
        if set(rules.by) & {"sample", "text"}:
            for pair in np.flatnonzero(wanted):
                text[pair] = self._text_distance(int(left[pair]), int(right[pair]), rules.text)
        if rules.by == ("sample",):
            wanted = np.isfinite(text)
        if set(rules.by) & {"sample", "image"}:
            image[wanted] = self._image_distances(left[wanted], right[wanted], rules.image)
        return image, text

    def related(self, left: np.ndarray, right: np.ndarray, rules: Rules) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which pairs of places are duplicates, and the distances of their pictures and texts."""
        image, text = self.distances(left, right, rules)
        near_image, near_text = np.isfinite(image), np.isfinite(text)
        joined = np.zeros(len(left), dtype=bool)
        if "sample" in rules.by:
            joined |= near_image & near_text
        if "image" in rules.by:
            joined |= near_image & (self.pictures[left] > 0)
        if "text" in rules.by:
            enough = np.minimum(self.words[left], self.words[right]) >= wording.FEWEST
            joined |= near_text & enough & self._numbers_agree(left, right, near_text & enough)
        return joined, image, text

    def _numbers_agree(self, left: np.ndarray, right: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        found = np.zeros(len(left), dtype=bool)
        for pair in np.flatnonzero(wanted):
            found[pair] = wording.same_numbers(self._words(int(left[pair])), self._words(int(right[pair])))
        return found

    def _words(self, place: int) -> np.ndarray:
        return u32(self.columns["asked"][place] + self.columns["answered"][place])

    def _same_pixels(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        hashes = self.columns["pixel_hash"]
        return np.array([hashes[a] == hashes[b] for a, b in zip(left, right, strict=True)], dtype=bool)

    def _may_look_alike(self, left: np.ndarray, right: np.ndarray, at_most: float) -> np.ndarray:
        """Whether pairs have equal pixels, or may have nearly equal ones; blank pictures never do."""
        found = self._same_pixels(left, right)
        alike = ~found & (self.pictures[left] == self.pictures[right])
        alike &= (self.bits[left] != 0) & (self.bits[right] != 0)
        alike &= np.bitwise_count(self.bits[left] ^ self.bits[right]) <= pictures.FAR
        for some in _chunks(np.flatnonzero(alike), 4096):
            found[some] = pictures.may_be_near(self.coarse[left[some]], self.coarse[right[some]], at_most)
        return found

    def _image_distances(self, left: np.ndarray, right: np.ndarray, at_most: float) -> np.ndarray:
        """Of pictures in their order the largest difference; 0 of equal pixels, and for pairs without pictures."""
        same = self._same_pixels(left, right)
        found = np.where(same, 0.0, FAR)
        unsure = ~same & self._may_look_alike(left, right, at_most)
        self.read_copies(np.concatenate([left[unsure], right[unsure]]))
        for some in _chunks(np.flatnonzero(unsure), 512):
            found[some] = self._copies_apart(left[some], right[some], self.pictures[left[some]])
        found[found > at_most] = FAR
        return found

    def read_copies(self, places: np.ndarray) -> None:
        """Have the small copies of these places in memory."""
        new = np.array(sorted(set(places.tolist()) - self.copies.keys()), dtype=np.int64)
        if len(new):
            found = self.signatures.take(self.numbers[new], ("copies",))["copies"]
            self.copies |= dict(zip(new.tolist(), found, strict=True))

    def _copies_apart(self, left: np.ndarray, right: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The largest difference over the pictures of each pair, taken in their order; infinity for other shapes."""
        stacked = [
            np.frombuffer(b"".join(self.copies[int(place)] for place in side), np.uint8).reshape(
                -1, pictures.COPY_BYTES
            )
            for side in (left, right)
        ]
        apart = np.empty(len(stacked[0]))
        for some in _chunks(np.arange(len(apart)), 512):
            apart[some] = pictures.difference(stacked[0][some], stacked[1][some])
        shapes = [u32(b"".join(self.columns["sizes"][int(place)] for place in side)) for side in (left, right)]
        apart[~pictures.same_aspect(*(shape.reshape(-1, 2) for shape in shapes))] = FAR
        return np.maximum.reduceat(apart, np.concatenate([[0], np.cumsum(counts)[:-1]]))

    def _text_distance(self, left: int, right: int, at_most: float) -> float:
        columns = self.columns
        if columns["text_hash"][left] == columns["text_hash"][right]:
            return 0.0
        if (
            columns["answered"][left] != columns["answered"][right]
            and columns["asked"][left] != columns["asked"][right]
        ):
            lengths = [len(columns["answered"][place]) // 4 for place in (left, right)]
            if min(lengths) <= wording.SHORT_ANSWER:
                return FAR
        both = self._words(left), self._words(right)
        if not columns["pictures"][left] and not wording.same_numbers(*both):
            return FAR
        return wording.text_difference(*both, at_most)


def _chunks(places: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(places), size):
        yield places[start : start + size]


def proposals(table: Any, by: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Of the samples of a signature table the keys they are looked up by, and a uint64 of what makes equal ones equal.

    `table` has the columns that `proposal_columns` names.
    """
    rows = table.to_pydict()
    keys: list[np.ndarray] = []
    content = np.zeros(len(table), dtype=np.uint64)
    for place in range(len(table)):
        of_picture, of_text = rows["pixel_hash"][place], np.uint64(rows["text_hash"][place])
        pixels = u64(of_picture[:8] or bytes(8))
        is_mute = not of_text and (by == "text" or not of_picture)
        is_short = by == "text" and rows["words"][place] < wording.FEWEST
        if rows["reason"][place] or is_mute or is_short or (by == "image" and not of_picture):
            keys.append(np.empty(0, dtype=np.uint64))
            continue
        if by == "text" or not of_picture:
            keys.append(np.append(u64(rows["text_keys"][place]), of_text))
        else:
            keys.append(u64(rows["picture_keys"][place]))
        content[place] = {"text": of_text, "image": pixels[0]}.get(by, pictures.mix(pixels + np.uint64(1))[0] ^ of_text)
    return keys, content


PROPOSAL_COLUMNS = ("reason", "words", "pixel_hash", "text_hash", "picture_keys", "text_keys", "bits")


def as_rules(by: str, image: float | None, text: float | None) -> Rules:
    """Rules as a user writes them. Raises UsageError, for a distance of what is not compared, too."""
    names = tuple(dict.fromkeys(part.strip() for part in by.split(",") if part.strip()))
    rules = Rules(names, pictures.NEAR if image is None else image, NEAR_TEXT if text is None else text)
    for option, given, other in (("--image-distance", image, "text"), ("--text-distance", text, "image")):
        if given is not None and names == (other,):
            raise UsageError(f"{option} {given:g}: --by {other} compares nothing of that kind; leave it out")
    return rules


def kinds(columns: Mapping[str, Sequence[Any]], one: int, other: int, image: float, text: float) -> str:
    """In what two duplicates agree: bytes, pixels (and words if these count), nearly in the image, the text or both."""
    if columns["id"][one] == columns["id"][other]:
        return "bytes"
    same_pixels = columns["pixel_hash"][one] == columns["pixel_hash"][other]
    same_text = columns["text_hash"][one] == columns["text_hash"][other]
    if same_pixels and (same_text or not np.isfinite(text)):
        return "pixels"
    if not np.isfinite(text):
        return "image"
    if not np.isfinite(image) or same_pixels:
        return "text"
    return "image" if same_text else "both"
