"""A sample before the rules: what each of them asks is measured once, and pictures are decoded at most once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from sailctl.core.curate.filter import image as rules_image
from sailctl.core.curate.filter import text as rules_text
from sailctl.core.curate.filter.patterns import find
from sailctl.core.curate.filter.rules import MAX_PIXELS, Check
from sailctl.core.curate.language import UNDETERMINED, language_of
from sailctl.core.engines.quality import is_looping
from sailctl.core.errors import SampleError, UsageError
from sailctl.core.images import decode, image_size
from sailctl.core.records import IMAGE_PLACEHOLDER, Sample, Verdict

# What is measured for a kind of rule, and of which Arrow type the column is; a text's is of its answers unless a rule
# says otherwise, and then the column is called after what it is of.
MEASURES = {
    "words": {"words": "int32"}, "characters": {"characters": "int32"}, "repetition": {"repetition": "float"},
    "language": {"language": "string"}, "images": {"images": "int32"},
    "sides": {"min_side": "int32", "max_side": "int32"}, "pixels": {"min_pixels": "int64", "max_pixels": "int64"},
    "aspect": {"aspect": "float"}, "blank": {"deviation": "float"}, "blur": {"blur": "float"},
}  # fmt: skip


_ROLES = {"questions": ("user",), "all": ("system", "user", "assistant")}


def measured_columns(checks: Sequence[Check]) -> dict[str, str]:
    """The columns that checks fill beside a verdict's own, with their Arrow types."""
    columns = {}
    for check in checks:
        of = getattr(check.bounds, "of", "answers")
        for name, kind in MEASURES.get(check.kind, {}).items():
            columns[_column(name, of)] = kind
    return columns


def _column(name: str, of: str) -> str:
    return name if of == "answers" else f"{name}_{of}"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the rules say of a sample: the verdict by the first that fails, all that fail, and what was measured."""

    verdict: Verdict
    hits: tuple[str, ...]
    measured: Mapping[str, Any]


def judge(sample: Sample, checks: Sequence[Check], scores: Mapping[str, Any], *, whole: bool = False) -> Judgement:
    """Ask the checks, which are in the order of `load_rules`.

    Those that decode pictures are asked only where the others keep the sample; with `whole` all are asked of all.
    `scores` are values of other passes by the names of their columns.
    """
    facts = Facts(sample, scores, next((one.bounds.max_pixels for one in checks if one.kind == "decodes"), MAX_PIXELS))
    hits: list[str] = []
    detail = ""
    for check in checks:
        if check.costly and hits and not whole:
            break
        if getattr(check.bounds, "of", "") == "captions" and not sample.is_bare_caption:
            continue
        failed = _CHECKS[check.kind](check.bounds, facts)
        if failed is not None:
            detail = detail if hits else failed
            hits.append(check.name)
    verdict = Verdict(False, hits[0], detail[:300]) if hits else Verdict(True)
    return Judgement(verdict, tuple(hits), facts.measured)


@dataclass
class Facts:
    """What is known of a sample; measures of use for thresholds are kept in `measured` by their columns."""

    sample: Sample
    scores: Mapping[str, Any]
    max_pixels: int
    measured: dict[str, Any] = field(default_factory=dict)
    _texts: dict[str, str] = field(default_factory=dict)
    _words: dict[str, list[str]] = field(default_factory=dict)

    def text(self, of: str) -> str:
        """What was answered, asked or all that was said, a turn a line; placeholders of images are no text."""
        if of not in self._texts:
            roles = _ROLES.get(of, ("assistant",))
            said = "\n".join(turn.text for turn in self.sample.turns if turn.role in roles)
            self._texts[of] = said.replace(IMAGE_PLACEHOLDER, "").strip()
        return self._texts[of]

    def words(self, of: str) -> list[str]:
        """Its words."""
        if of not in self._words:
            self._words[of] = rules_text.words_of(self.text(of))
        return self._words[of]

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Width and height of every picture whose header can be read."""
        found = []
        for image in self.sample.images:
            try:
                found.append(image_size(image))
            except SampleError:
                continue
        return found

    @cached_property
    def looks(self) -> tuple[list[rules_image.Look], str | None]:
        """What every picture looks like, and why the first one that does not decode does not."""
        looks: list[rules_image.Look] = []
        failed: str | None = None
        for number, image in enumerate(self.sample.images, 1):
            try:
                looks.append(rules_image.look_at(decode(image, max_pixels=self.max_pixels)))
            except SampleError as error:
                failed = failed or f"{self.which(number)}{error.reason}: {error.detail}"
        return looks, failed

    def which(self, number: int) -> str:
        """Names a picture where there are several."""
        return f"image {number}: " if len(self.sample.images) > 1 else ""

    def note(self, name: str, value: Any, of: str = "answers") -> Any:
        """Keep a measured value for the table."""
        self.measured[_column(name, of)] = value
        return value


def _outside(value: float, bounds: Any, unit: str) -> str | None:
    if bounds.min is not None and value < bounds.min:
        return f"{unit} {_short(value)} < {_short(bounds.min)}"
    if bounds.max is not None and value > bounds.max:
        return f"{unit} {_short(value)} > {_short(bounds.max)}"
    return None


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _words(bounds: Any, facts: Facts) -> str | None:
    return _outside(facts.note("words", len(facts.words(bounds.of)), bounds.of), bounds, "words")


def _characters(bounds: Any, facts: Facts) -> str | None:
    return _outside(facts.note("characters", len(facts.text(bounds.of)), bounds.of), bounds, "characters")


def _loops(bounds: Any, facts: Facts) -> str | None:
    text = facts.text(bounds.of)
    return f"{len(text)} characters that end in a loop or repeat themselves" if is_looping(text) else None


def _repetition(bounds: Any, facts: Facts) -> str | None:
    share = facts.note("repetition", round(rules_text.repetition(facts.words(bounds.of), bounds.n), 4), bounds.of)
    return (
        f"{share:.0%} of its runs of {bounds.n} words are repeats, > {bounds.max:.0%}" if share > bounds.max else None
    )


def _language(bounds: Any, facts: Facts) -> str | None:
    found = facts.note("language", language_of(facts.text(bounds.of)), bounds.of)
    wanted = found == UNDETERMINED or found in bounds.keep
    return None if wanted else f"{found}, not {' or '.join(bounds.keep)}"


def _refusal(bounds: Any, facts: Facts) -> str | None:
    for turn in facts.sample.turns:
        if turn.role == "assistant" and (phrase := rules_text.refusal(turn.text, bounds.phrases)) is not None:
            return f"“{phrase}”"
    return None


def _pattern(bounds: Any, facts: Facts) -> str | None:
    text = facts.text(bounds.of)
    if bounds.forbid is not None:
        found = find(bounds.forbid, text)
        return None if found is None else f"“{found[:80]}” matches {bounds.forbid}"
    return f"nothing matches {bounds.require}" if find(bounds.require, text) is None else None


def _answer(_: Any, facts: Facts) -> str | None:
    answers = [turn.text for turn in facts.sample.turns if turn.role == "assistant"]
    empty = sum(not text.strip() for text in answers)
    if not answers:
        return "nobody answers"
    return f"{empty} of {len(answers)} answers are empty" if empty else None


def _placeholders(_: Any, facts: Facts) -> str | None:
    count = len(facts.sample.images)
    if facts.sample.is_bare_caption:
        return None if count else "a caption without a picture, and without a question"
    found = sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in facts.sample.turns if turn.role == "user")
    fits = found == count or (found == 0 and count == 1)
    return None if fits else f"{found} {IMAGE_PLACEHOLDER} placeholders ≠ {count} images"


def _images(bounds: Any, facts: Facts) -> str | None:
    return _outside(facts.note("images", len(facts.sample.images)), bounds, "images")


def _sides(bounds: Any, facts: Facts) -> str | None:
    if not facts.sizes:
        return None
    shortest = facts.note("min_side", min(map(min, facts.sizes)))
    longest = facts.note("max_side", max(map(max, facts.sizes)))
    if bounds.min is not None and shortest < bounds.min:
        return f"a side of {shortest} pixels < {bounds.min}"
    return f"a side of {longest} pixels > {bounds.max}" if bounds.max is not None and longest > bounds.max else None


def _pixels(bounds: Any, facts: Facts) -> str | None:
    if not facts.sizes:
        return None
    areas = [width * height for width, height in facts.sizes]
    fewest, most = facts.note("min_pixels", min(areas)), facts.note("max_pixels", max(areas))
    return _outside(fewest if bounds.min is not None and fewest < bounds.min else most, bounds, "pixels")


def _aspect(bounds: Any, facts: Facts) -> str | None:
    if not facts.sizes:
        return None
    aspect = facts.note("aspect", round(max(max(size) / min(size) for size in facts.sizes), 3))
    return f"{aspect:g} times as long as wide, > {bounds.max:g}" if aspect > bounds.max else None


def _header(_: Any, facts: Facts) -> str | None:
    missing = len(facts.sample.images) - len(facts.sizes)
    return f"{missing} of {len(facts.sample.images)} images have no header that can be read" if missing else None


def _decodes(_: Any, facts: Facts) -> str | None:
    return facts.looks[1]


def _blank(bounds: Any, facts: Facts) -> str | None:
    if not facts.looks[0]:
        return None
    deviation = facts.note("deviation", min(look.deviation for look in facts.looks[0]))
    return f"one colour, deviation {deviation:g} ≤ {bounds.deviation:g}" if deviation <= bounds.deviation else None


def _blur(bounds: Any, facts: Facts) -> str | None:
    if not facts.looks[0]:
        return None
    sharpness = facts.note("blur", min(look.sharpness for look in facts.looks[0]))
    return f"Laplacian variance {sharpness:g} < {bounds.min:g}" if sharpness < bounds.min else None


def _score(bounds: Any, facts: Facts) -> str | None:
    value = facts.scores.get(bounds.column)
    if value is None:
        return f"no {bounds.column}" if bounds.missing == "drop" else None
    if not isinstance(value, int | float):
        raise UsageError(f"rule score: column {bounds.column} holds {value!r:.60}; a score is a number")
    return _outside(value, bounds, bounds.column)


_CHECKS: dict[str, Callable[[Any, Facts], str | None]] = {
    "words": _words, "characters": _characters, "loops": _loops, "repetition": _repetition, "language": _language,
    "refusal": _refusal, "pattern": _pattern, "answer": _answer, "placeholders": _placeholders, "images": _images,
    "sides": _sides, "pixels": _pixels, "aspect": _aspect, "header": _header, "decodes": _decodes, "blank": _blank,
    "blur": _blur, "score": _score,
}  # fmt: skip
