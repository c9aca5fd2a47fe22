"""Composed scenes of one to four things and their detailed captions."""

from __future__ import annotations

from dataclasses import dataclass

from sailctl.core.data.synth import chinese, words
from sailctl.core.data.synth.canvas import Canvas, shade
from sailctl.core.data.synth.item import Brief, Draw, SynthItem

_CENTERS = {
    "center": (56, 56),
    "top left": (28, 28),
    "top right": (84, 28),
    "bottom left": (28, 84),
    "bottom right": (84, 84),
}
COLOR_NAMES = tuple(words.COLORS)


@dataclass(slots=True)
class Thing:
    """A shape in a scene."""

    shape: str
    color: str
    size: str
    place: str

    @property
    def element(self) -> str:
        """How captions and questions name it."""
        return f"{self.color} {self.shape}"


def shapes(level: int) -> tuple[str, ...]:
    """The shapes of a level."""
    return words.SHAPES if level == 3 else words.SHAPES[:6]


def paint(brief: Brief, draw: Draw, things: list[Thing]) -> Canvas:
    """Draw the things at their places, a few pixels off."""
    canvas = Canvas(brief, draw, 150, 195)
    for thing in things:
        x, y = _CENTERS[thing.place]
        radius = draw.integer(11, 13) if thing.size == "small" else draw.integer(20, 23)
        wobble = 3 if thing.size == "large" else 5
        color = shade(draw, words.COLORS[thing.color])
        canvas.shape(thing.shape, x + draw.integer(-wobble, wobble), y + draw.integer(-wobble, wobble), radius, color)
    return canvas


def describe(level: int, things: list[Thing]) -> str:
    """The detailed caption: how many things, each with size, colour and place in reading order, and how two lie."""
    ordered = sorted(things, key=lambda thing: words.PLACES.index(thing.place))
    parts = [words.CAPTION_FIRST.format(count=words.NUMBERS[len(things)])] if level == 3 and len(things) > 1 else []
    parts += [
        words.CAPTION_THING.format(size=thing.size, color=thing.color, shape=thing.shape, place=thing.place)
        for thing in ordered
    ]
    if level == 2 and len(ordered) == 2:
        a, b = ordered
        parts.append(words.CAPTION_SIDE.format(a=a.element, side=side_of(a, b), b=b.element))
    return " ".join(parts)


def side_of(a: Thing, b: Thing) -> str:
    """Where `a` lies, seen from `b`: beside it when they share a row, else above or below."""
    (ax, ay), (bx, by) = _CENTERS[a.place], _CENTERS[b.place]
    if ay == by:
        return "left of" if ax < bx else "right of"
    return "above" if ay < by else "below"


def random_things(draw: Draw, level: int, count: int) -> list[Thing]:
    """`count` things of different shapes and different colours at different places."""
    forms = draw.sample(shapes(level), count)
    colors = draw.sample(COLOR_NAMES, count)
    places = [draw.choice(words.PLACES)] if count == 1 else draw.sample(words.QUADRANTS, count)
    return [
        Thing(form, color, draw.choice(words.SIZES), place)
        for form, color, place in zip(forms, colors, places, strict=True)
    ]


def count_for(draw: Draw, level: int) -> int:
    """How many things a scene of this level holds."""
    return level if level < 3 else draw.integer(3, 4)


def caption(brief: Brief, draw: Draw) -> SynthItem:
    """A composed scene and its detailed caption."""
    things = random_things(draw, brief.level, count_for(draw, brief.level))
    question, answer = draw.choice(words.CAPTION_PROMPTS), describe(brief.level, things)
    elements = tuple(thing.element for thing in things)
    if brief.lang == "zh":
        question, answer = draw.choice(chinese.CAPTION_PROMPTS), chinese.describe(brief.level, things)
        elements = tuple(chinese.element(thing) for thing in things)
    image = paint(brief, draw, things).image
    return SynthItem(image, question, answer, (answer,), (), elements, "caption", brief.level, "caption")


def region(brief: Brief, draw: Draw) -> SynthItem:
    """One thing of a scene of two to four, singled out by its colour, its shape or its place, and described.

    The prompt decides which comes first in the answer, the colour or the shape: who only ever heard the colour first
    learns to read the shape from the colour's place in the sentence, and cannot name it alone.
    """
    things = random_things(draw, brief.level, brief.level + 1)
    thing = things[0]
    names = {"size": thing.size, "color": thing.color, "shape": thing.shape, "place": thing.place}
    prompt, wording = draw.choice(_REGION_WORDINGS)
    question = prompt.format(region=draw.choice(words.REGION_NAMES).format(**names))
    answer = wording.format(**names)
    image = paint(brief, draw, things).image
    return SynthItem(image, question, answer, (answer,), (), (thing.element,), "region", brief.level, "region")


_REGION_WORDINGS = (
    (words.REGION_DESCRIBE, words.CAPTION_THING),
    (words.REGION_WRITE, words.REGION_CAPTION),
)
