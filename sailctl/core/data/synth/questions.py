"""Closed and open questions about composed scenes.

A question's words are drawn before its answer, and the answer before the picture: so no answer is more likely than
another given the question.
"""

from __future__ import annotations

from sailctl.core.data.synth import words
from sailctl.core.data.synth.item import Brief, Draw, SynthItem
from sailctl.core.data.synth.scenes import COLOR_NAMES, Thing, describe, paint, random_things, shapes


def _item(
    brief: Brief, draw: Draw, things: list[Thing], question: str, answer: str, kind: str, options: tuple[str, ...] = ()
) -> SynthItem:
    elements = tuple(thing.element for thing in things)
    preface = (draw.choice(words.CAPTION_PROMPTS), describe(brief.level, things))
    image = paint(brief, draw, things).image
    return SynthItem(image, question, answer, (answer,), options, elements, brief.task, brief.level, kind, preface)


def _put_beside(draw: Draw, a: Thing, b: Thing, side: str) -> None:
    """Place two things of a scene of two so that `a` is `side` `b`."""
    first, second = {
        "left of": (("top left", "top right"), ("bottom left", "bottom right")),
        "above": (("top left", "bottom left"), ("top right", "bottom right")),
    }[side if side in ("left of", "above") else words.OPPOSITE[side]]
    places = draw.choice((first, second))
    a.place, b.place = places if side in ("left of", "above") else places[::-1]


def _things(draw: Draw, level: int, kind: str) -> list[Thing]:
    """One thing at level 1, one or two at level 2, two at level 3; three where the question is which are more."""
    count = draw.integer(*((1, 1), (1, 2), (2, 2))[level - 1])
    return random_things(draw, level, max(count, {"side": 2, "yes_side": 2, "yes_same": 2, "more": 3}.get(kind, 1)))


def closed_vqa(brief: Brief, draw: Draw) -> SynthItem:
    """A question that names its own answers: two or three options, or yes and no."""
    level = brief.level
    asked_sides = ("side", "yes_side") if level > 1 else ()
    kind = draw.choice(
        ("color", "shape", "size", "place", "yes_color", "yes_there", "yes_there", "yes_color", *asked_sides)
    )
    if kind == "place" and level > 1:
        kind = "more" if level == 3 else "yes_same"
    things = _things(draw, level, kind)
    return _CLOSED[kind](brief, draw, things, things[0], kind)


def _closed_color(brief: Brief, draw: Draw, things: list[Thing], thing: Thing, kind: str) -> SynthItem:
    taken = [other.color for other in things[1:]]
    options = tuple(draw.sample([c for c in COLOR_NAMES if c not in taken], 3 if brief.level == 3 else 2))
    thing.color = draw.choice(options)
    template = words.CLOSED_COLOR_3 if brief.level == 3 else words.CLOSED_COLOR
    question = template.format(shape=thing.shape, **dict(zip("abc", options, strict=False)))
    return _item(brief, draw, things, question, thing.color, kind, options)


def _closed_shape(brief: Brief, draw: Draw, things: list[Thing], thing: Thing, kind: str) -> SynthItem:
    taken = [other.shape for other in things[1:]]
    options = tuple(draw.sample([s for s in shapes(brief.level) if s not in taken], 2))
    thing.shape = draw.choice(options)
    question = words.CLOSED_SHAPE.format(color=thing.color, a=options[0], b=options[1])
    return _item(brief, draw, things, question, thing.shape, kind, options)


def _closed_size(brief: Brief, draw: Draw, things: list[Thing], thing: Thing, kind: str) -> SynthItem:
    options = tuple(draw.sample(words.SIZES, 2))
    question = words.CLOSED_SIZE.format(shape=thing.shape, a=options[0], b=options[1])
    return _item(brief, draw, things, question, thing.size, kind, options)


def _closed_place(brief: Brief, draw: Draw, things: list[Thing], thing: Thing, kind: str) -> SynthItem:
    options = tuple(draw.sample(words.PLACES, 2))
    thing.place = draw.choice(options)
    question = words.CLOSED_PLACE.format(shape=thing.shape, a=options[0], b=options[1])
    return _item(brief, draw, things, question, thing.place, kind, options)


def _closed_side(brief: Brief, draw: Draw, things: list[Thing], thing: Thing, kind: str) -> SynthItem:
    del things[2:]  # with a third thing the two might have to share a quadrant with it
    side, options = _asked_side(draw)
    _put_beside(draw, thing, things[1], side)
    question = words.CLOSED_SIDE.format(shape=thing.shape, a=options[0], b=options[1], other=things[1].shape)
    return _item(brief, draw, things, question, side, kind, options)


def _asked_side(draw: Draw) -> tuple[str, tuple[str, ...]]:
    pair = draw.choice((("left of", "right of"), ("above", "below")))
    options = tuple(draw.sample(pair, 2))
    return draw.choice(options), options


def _closed_more(brief: Brief, draw: Draw, things: list[Thing], thing: Thing, kind: str) -> SynthItem:
    options = tuple(draw.sample(COLOR_NAMES, 2))
    answer = draw.choice(options)
    rest = options[0] if answer == options[1] else options[1]
    colors = [answer] * (len(things) - 1) + [rest]
    for other, color in zip(things, colors, strict=True):
        other.color = color
    return _item(brief, draw, things, words.CLOSED_MORE.format(a=options[0], b=options[1]), answer, kind, options)


def _yes_color(brief: Brief, draw: Draw, things: list[Thing], thing: Thing, kind: str) -> SynthItem:
    answer, asked = draw.choice(words.YES_NO), thing.color
    if answer == "no":
        taken = [other.color for other in things]
        thing.color = draw.choice([c for c in COLOR_NAMES if c not in taken])
    return _item(
        brief, draw, things, words.YES_COLOR.format(shape=thing.shape, color=asked), answer, kind, words.YES_NO
    )


def _yes_there(brief: Brief, draw: Draw, things: list[Thing], thing: Thing, kind: str) -> SynthItem:
    answer = draw.choice(words.YES_NO)
    question = words.YES_THERE.format(article=words.article(thing.color), color=thing.color, shape=thing.shape)
    if answer == "no":
        # A near miss: the asked colour or the asked shape is still there, not both.
        if draw.chance(0.5):
            thing.color = draw.choice([c for c in COLOR_NAMES if c not in [other.color for other in things]])
        else:
            thing.shape = draw.choice([s for s in shapes(brief.level) if s not in [other.shape for other in things]])
    return _item(brief, draw, things, question, answer, kind, words.YES_NO)


def _yes_side(brief: Brief, draw: Draw, things: list[Thing], thing: Thing, kind: str) -> SynthItem:
    del things[2:]
    asked, _ = _asked_side(draw)
    answer = draw.choice(words.YES_NO)
    _put_beside(draw, thing, things[1], asked if answer == "yes" else words.OPPOSITE[asked])
    question = words.YES_SIDE.format(shape=thing.shape, side=asked, other=things[1].shape)
    return _item(brief, draw, things, question, answer, kind, words.YES_NO)


def _yes_same(brief: Brief, draw: Draw, things: list[Thing], thing: Thing, kind: str) -> SynthItem:
    answer = draw.choice(words.YES_NO)
    if answer == "yes":
        thing.color = things[1].color
    return _item(brief, draw, things, words.YES_SAME, answer, kind, words.YES_NO)


_CLOSED = {
    "color": _closed_color,
    "shape": _closed_shape,
    "size": _closed_size,
    "place": _closed_place,
    "side": _closed_side,
    "more": _closed_more,
    "yes_color": _yes_color,
    "yes_there": _yes_there,
    "yes_side": _yes_side,
    "yes_same": _yes_same,
}


def open_vqa(brief: Brief, draw: Draw) -> SynthItem:
    """A question about a scene with a one or two word answer."""
    level = brief.level
    if level == 1:
        kind = draw.choice(("color", "shape", "place", "color_of"))
    elif level == 2:
        kind = draw.choice(("color_of", "shape_of", "place_of", "at"))
    else:
        kind = draw.choice(("color_of", "shape_of", "place_of", "at", "side"))
    things = _things(draw, level, kind)
    thing = things[0]
    if kind == "side":
        side = draw.choice(words.SIDES)
        _put_beside(draw, thing, things[1], side)
        free = draw.sample([place for place in words.QUADRANTS if place not in (thing.place, things[1].place)], 2)
        for other, place in zip(things[2:], free, strict=False):
            other.place = place
        question, answer = words.OPEN_SIDE.format(side=side, shape=things[1].shape), thing.element
    else:
        question, answer = {
            "color": (words.OPEN_COLOR_ONE, thing.color),
            "color_of": (words.OPEN_COLOR.format(shape=thing.shape), thing.color),
            "shape": (words.OPEN_SHAPE_ONE, thing.shape),
            "shape_of": (words.OPEN_SHAPE.format(color=thing.color), thing.shape),
            "place": (words.OPEN_PLACE.format(shape=thing.shape), thing.place),
            "place_of": (words.OPEN_PLACE_COLOR.format(color=thing.color), thing.place),
            "at": (words.OPEN_AT.format(place=thing.place), thing.element),
        }[kind]
    return _item(brief, draw, things, question, answer, kind)
