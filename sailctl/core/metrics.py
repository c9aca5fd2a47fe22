"""How an answer is scored: pure functions on strings, 0 (wrong) to 1 (right), each citing its definition.

Intervals and means over many answers live in `core/bench/statistics.py`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence

_NUMBER_WORDS = {
    **{"zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7"},
    **{"eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14"},
    **{"fifteen": "15", "sixteen": "16", "seventeen": "17", "eighteen": "18", "nineteen": "19", "twenty": "20"},
}
_OUTER = r"\s\"'`“”‘’()\[\]{}*_,;:!?。，；：！？"
_LEADING = re.compile(rf"^(?:[{_OUTER}]|\.(?!\d))+")
_TRAILING = re.compile(rf"[{_OUTER}.]+$")
_ARTICLES = re.compile(r"^(?:(?:a|an|the)\s+)+(?=\S)")
_GROUPED = re.compile(r"^[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?$")
_DECIMAL = re.compile(r"^[+-]?[0-9]+\.[0-9]+$")
_SIGNED = re.compile(r"^\+[0-9]")


def edit_distance(left: str, right: str) -> int:
    """Levenshtein distance: the fewest insertions, deletions and substitutions of characters.

    Bit-parallel (Myers 1999 in Hyyrö's 2003 form, one Python integer a column), so that a paragraph costs well under a
    millisecond; the tests hold it to the textbook recurrence.
    """
    if left == right:
        return 0
    if not left or not right:
        return max(len(left), len(right))
    if len(left) < len(right):
        left, right = right, left  # a wide integer costs less than another round
    size = len(left)
    full, last = (1 << size) - 1, 1 << (size - 1)
    positions: dict[str, int] = {}
    for index, character in enumerate(left):
        positions[character] = positions.get(character, 0) | (1 << index)
    plus, minus, distance = full, 0, size
    for character in right:
        match = positions.get(character, 0)
        diagonal = (((match & plus) + plus) ^ plus) | match | minus
        rise = minus | (full & ~(diagonal | plus))
        fall = diagonal & plus
        if rise & last:
            distance += 1
        elif fall & last:
            distance -= 1
        rise = ((rise << 1) | 1) & full
        fall = (fall << 1) & full
        plus = fall | (full & ~(diagonal | rise))
        minus = rise & diagonal
    return distance


def similarity(prediction: str, references: Sequence[str]) -> float:
    """1 - NL against the nearest reference, without a threshold; NL = edit distance / longer length.

    Case and runs of white space do not count, as in the ST-VQA evaluation. Two empty strings are equal (1.0).
    """
    if not references:
        raise ValueError("similarity needs at least one reference")
    said = _folded(prediction)
    return max(_one_similarity(said, _folded(reference)) for reference in references)


def anls(prediction: str, references: Sequence[str], threshold: float = 0.5) -> float:
    """Average Normalised Levenshtein Similarity, one case: 1 - NL of the nearest reference if NL < `threshold`, else 0.

    Source: Biten et al., "Scene Text Visual Question Answering", ICCV 2019, equation 1 (threshold 0.5). The mean over
    cases is the caller's.
    """
    return thresholded(similarity(prediction, references), threshold)


def thresholded(near: float, threshold: float = 0.5) -> float:
    """A similarity as `anls` counts it: itself if 1 - it is below `threshold`, else 0."""
    return near if 1.0 - near < threshold else 0.0


def normalise(text: str) -> str:
    """Bring equal short answers to one form.

    Unicode NFKC and case folding; white space collapsed; quotes, brackets and punctuation around the answer removed;
    leading English articles removed (a lone "a" stays: it may be an option); number forms unified ("three", "3.0" and
    "1,000" become "3", "3" and "1000"; the minus sign stays). Idempotent.
    """
    while True:
        changed = _normalise_once(text)
        if changed == text:
            return text
        text = changed


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the prediction equals a reference after `normalise`, else 0.0.

    Source: the exact match of SQuAD (Rajpurkar et al., EMNLP 2016, section 6.1), with the number forms of the VQA v2
    evaluation (Antol et al., ICCV 2015) added.
    """
    said = normalise(prediction)
    return float(any(said == normalise(reference) for reference in references))


def element_f1(caption: str, elements: Collection[str], universe: Collection[str] = ()) -> float:
    """F1 between the elements a caption mentions and those its picture shows, e.g. "red circle".

    An element is mentioned when its words stand adjacent and in order in the caption (case apart). Recall is over
    `elements`; precision over everything mentioned of `universe` (all that the template could have shown): naming
    what is not there costs, and naming all there is does not pay. A part of a rightly mentioned element ("circle" in
    "red circle") is no claim of its own. With nothing to mention, silence scores 1.
    Source: the object-level F1 of detailed-caption evaluation (DetailCaps, Dong et al. 2024, section 3), on closed
    vocabularies, where string matching is exact.
    """
    said = " ".join(_words(caption))
    shown = {" ".join(_words(element)) for element in elements}
    possible = {" ".join(_words(element)) for element in universe} | shown
    mentioned = {element for element in possible if _contains(said, element)}
    hits = mentioned & shown
    wrong = {e for e in mentioned - shown if not any(_contains(hit, e) for hit in hits)}
    if not shown:
        return float(not wrong)
    if not hits:
        return 0.0
    precision, recall = len(hits) / (len(hits) + len(wrong)), len(hits) / len(shown)
    return 2 * precision * recall / (precision + recall)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _one_similarity(left: str, right: str) -> float:
    longer = max(len(left), len(right))
    return 1.0 - edit_distance(left, right) / longer if longer else 1.0


def _normalise_once(text: str) -> str:
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().replace("−", "-").split())
    text = _TRAILING.sub("", _LEADING.sub("", text))
    text = _ARTICLES.sub("", text)
    return " ".join(_number(token) for token in text.split())


def _number(token: str) -> str:
    if token in _NUMBER_WORDS:
        return _NUMBER_WORDS[token]
    if _GROUPED.match(token):
        token = token.replace(",", "")
    if _DECIMAL.match(token):
        token = token.rstrip("0").rstrip(".")
    if _SIGNED.match(token):
        token = token[1:]
    return "0" if token == "-0" else token


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _contains(text: str, phrase: str) -> bool:
    return bool(phrase) and f" {phrase} " in f" {text} "
