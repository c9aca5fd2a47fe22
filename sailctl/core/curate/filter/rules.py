"""What a rules file says: a list of rules, each one kind of check with its bounds, and the set that counts without one.

Nothing is measured here; what a kind means lies in `rules_text.py` and `rules_image.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from sailctl.core.curate.filter.patterns import check_pattern
from sailctl.core.curate.language import no_code
from sailctl.core.errors import UsageError
from sailctl.core.schema.base import Config
from sailctl.core.schema.load import explain, read_yaml

DEFAULTS = Path(__file__).with_name("rules.yaml")
MAX_PIXELS = 100_000_000  # as of training's data.max_image_pixels
_NAME = re.compile(r"[A-Za-z0-9][\w-]*")

Of = Literal["answers", "questions", "all", "captions"]  # the last: answers of samples that are nothing but a caption


class _Bounded(Config):
    """A measure that has a least or a most."""

    @model_validator(mode="after")
    def _bounded(self) -> _Bounded:
        least, most = getattr(self, "min", None), getattr(self, "max", None)
        if least is None and most is None:
            raise ValueError("give min, max or both")
        if least is not None and most is not None and least > most:
            raise ValueError(f"min {least} > max {most}")
        return self


class TextCount(_Bounded):
    """Words or characters of a text."""

    min: int | None = Field(None, ge=0)
    max: int | None = Field(None, ge=0)
    of: Of = "answers"


class Count(_Bounded):
    """A whole number: images of a sample, pixels along a side or of a picture."""

    min: int | None = Field(None, ge=0)
    max: int | None = Field(None, ge=0)


class Loops(Config):
    """Text that got stuck repeating itself."""

    of: Of = "answers"


class Repetition(Config):
    """The share of runs of `n` words that were said before in the same text, at most `max`."""

    max: float = Field(ge=0, le=1)
    n: int = Field(3, ge=1, le=20)
    of: Of = "answers"


class Language(Config):
    """The languages that are wanted; text too short to tell is kept."""

    keep: list[str] = Field(min_length=1)
    of: Of = "answers"

    @field_validator("keep", mode="before")
    @classmethod
    def _are_codes(cls, value: Any) -> Any:
        """Another name would be found in no text, and all be dropped; YAML reads a bare `no` as false."""
        for code in value if isinstance(value, list) else ():
            if code is False:
                raise ValueError("false is no code of a language; for Norwegian write 'no', with its quotes")
            if isinstance(code, str) and (problem := no_code(code)):
                raise ValueError(problem)
        return value


class Refusal(Config):
    """Answers that decline, in English or Chinese; `phrases` of one's own count wherever they occur."""

    phrases: list[str] = Field(default_factory=list)


class Pattern(Config):
    """A regular expression that must not occur (`forbid`) or must (`require`); whether letters are capital counts."""

    forbid: str | None = None
    require: str | None = None
    of: Of = "answers"

    @model_validator(mode="after")
    def _one_of_both(self) -> Pattern:
        if (self.forbid is None) == (self.require is None):
            raise ValueError("give either forbid or require")
        check_pattern(self.forbid if self.forbid is not None else str(self.require))
        return self


class Decodes(Config):
    """Pictures that decode to their end and have at most `max_pixels`."""

    max_pixels: int = Field(MAX_PIXELS, gt=0)


class Aspect(Config):
    """The longer side over the shorter one, at most."""

    max: float = Field(ge=1)


class Blank(Config):
    """Pictures of one colour: no channel deviates (standard deviation, of 255) by more than `deviation`."""

    deviation: float = Field(2.0, ge=0)


class Blur(Config):
    """Variance of the Laplacian of the picture, shrunk to 512 pixels along its longer side: at least `min`."""

    min: float = Field(ge=0)


class Nothing(Config):
    """A rule without bounds."""


class Score(_Bounded):
    """A column of another pass's table; `missing` says what becomes of samples without a value."""

    column: str
    min: float | None = None
    max: float | None = None
    missing: Literal["keep", "drop"] = "drop"


class Rule(Config):
    """One rule: exactly one kind, and the name under which it is counted."""

    name: str | None = None
    words: TextCount | None = None
    characters: TextCount | None = None
    loops: Loops | None = None
    repetition: Repetition | None = None
    language: Language | None = None
    refusal: Refusal | None = None
    pattern: Pattern | None = None
    answer: Nothing | None = None
    placeholders: Nothing | None = None
    images: Count | None = None
    sides: Count | None = None
    pixels: Count | None = None
    aspect: Aspect | None = None
    decodes: Decodes | None = None
    blank: Blank | None = None
    blur: Blur | None = None
    score: Score | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_bounds(cls, value: Any) -> Any:
        """`- answer` and `- answer:` mean what `- answer: {}` does."""
        if isinstance(value, str):
            return {value: {}}
        if isinstance(value, dict):
            return {key: {} if one is None and key in KINDS else one for key, one in value.items()}
        return value

    @model_validator(mode="after")
    def _exactly_one_kind(self) -> Rule:
        found = self.kinds()
        if len(found) != 1:
            said = f"has {' and '.join(found)}" if found else "names no kind"
            raise ValueError(f"a rule is of one kind, this one {said}; kinds: {', '.join(KINDS)}")
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise ValueError(f"name {self.name!r}: letters, digits, - and _ only, for tables are counted by it")
        return self

    def kinds(self) -> list[str]:
        """The kinds it names."""
        return [kind for kind in KINDS if getattr(self, kind) is not None]


KINDS = tuple(name for name in Rule.model_fields if name != "name")
OF_PICTURES = ("sides", "pixels", "aspect", "decodes", "blank", "blur")
OF_PIXELS = ("decodes", "blank", "blur")  # what a header does not tell


class Rules(Config):
    """A rules file."""

    rules: list[Rule] = Field(min_length=1)


@dataclass(frozen=True)
class Check:
    """A rule as it is applied: the name it is counted by, its kind and its bounds; `costly` ones decode pictures."""

    name: str
    kind: str
    bounds: Any

    @property
    def costly(self) -> bool:
        """Whether it needs the pixels."""
        return self.kind in OF_PIXELS

    def asks(self) -> str:
        """The rule as a rules file has it, without its name."""
        given = self.bounds.model_dump(exclude_defaults=True, mode="json")
        told = yaml.safe_dump(given, default_flow_style=True, allow_unicode=True, sort_keys=False, width=10**6).strip()
        return f"{self.kind}: {told}" if given else self.kind


def load_rules(path: str | None) -> tuple[Check, ...]:
    """The checks of a rules file, of the default set without one, in the order in which they decide.

    Rules that decode pictures come last, else in the order of the file. Where pictures are looked at, a check that they
    are readable at all ("bad_image") is among them even if the file names none. Raises UsageError naming file and key.
    """
    file = DEFAULTS if path is None else Path(path)
    raw = read_yaml(file, "a rules file; it should begin with rules:")
    try:
        rules = Rules.model_validate(raw).rules
    except ValidationError as error:
        raise UsageError(explain(error, Rules, str(file))) from None
    checks = list(_checks(rules))
    names = [check.name for check in checks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{file}: two rules are called {twice[0]}; give one of them a name: of its own")
    return (*(check for check in checks if not check.costly), *(check for check in checks if check.costly))


def _checks(rules: list[Rule]) -> Iterator[Check]:
    kinds = [rule.kinds()[0] for rule in rules]
    implied = "decodes" not in kinds and any(kind in OF_PICTURES for kind in kinds)
    for rule, kind in zip(rules, kinds, strict=True):
        if implied and kind in OF_PICTURES:
            pixels = any(kind in OF_PIXELS for kind in kinds)
            yield Check("bad_image", "decodes" if pixels else "header", Decodes() if pixels else Nothing())
            implied = False
        yield Check(rule.name or ("bad_image" if kind == "decodes" else kind), kind, getattr(rule, kind))


def default_text() -> str:
    """The default set as the file it is, to begin one's own with."""
    return DEFAULTS.read_text(encoding="utf-8")
