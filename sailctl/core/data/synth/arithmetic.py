"""Mathematics in the picture: sums in large digits, and counting."""

from __future__ import annotations

from sailctl.core.data.synth import words
from sailctl.core.data.synth.canvas import CELL, Canvas, ink, shade
from sailctl.core.data.synth.item import Brief, Draw, SynthItem
from sailctl.core.data.synth.scenes import COLOR_NAMES, shapes

_LARGEST = (9, 9, 18)  # result of a sum, by level
_MOST_SHAPES = (5, 8, 9)


def math_question(brief: Brief, draw: Draw) -> SynthItem:
    """A sum to work out or shapes to count, half and half."""
    return _sum(brief, draw) if draw.chance(0.5) else _counting(brief, draw)


def _sum(brief: Brief, draw: Draw) -> SynthItem:
    """`a+b=` and the like in cells of two by two patches. The result is drawn first: every result is equally likely."""
    result = draw.integer(0, _LARGEST[brief.level - 1])
    products = [(a, result // a) for a in range(2, 10) if result % a == 0 and 2 <= result // a <= 9]
    signs = (
        ["+"]
        if brief.level == 1
        else ["+", *(["-"] if result <= 9 else []), *(["x"] if brief.level == 3 and products else [])]
    )
    sign = draw.choice(signs)
    if sign == "+":
        a = draw.integer(max(0, result - 9), min(9, result))
        b = result - a
    elif sign == "-":
        a = draw.integer(result, 9)
        b = a - result
    else:
        a, b = draw.choice(products)
    text = f"{a}{sign}{b}="
    canvas = Canvas(brief, draw, 200, 240)
    y = draw.below(4) * 2 * CELL
    wobble = 3 if brief.level == 3 else 0
    canvas.text(text, 0, y + draw.integer(-wobble, wobble), ink(draw), 2 * CELL)
    answer = str(result)
    preface = (draw.choice(words.TEXT_PROMPTS), text)
    question = draw.choice(words.MATH_PROMPTS)
    return SynthItem(canvas.image, question, answer, (answer,), (), (), brief.task, brief.level, "sum", preface)


def _counting(brief: Brief, draw: Draw) -> SynthItem:
    """Count all shapes; at level 3 those of one colour among others."""
    answer = draw.integer(1, _MOST_SHAPES[brief.level - 1] if brief.level < 3 else 6)
    shape, (color, other) = draw.choice(shapes(brief.level)), draw.sample(COLOR_NAMES, 2)
    extra = draw.integer(1, 9 - answer) if brief.level == 3 else 0
    cells = draw.sample(range(9), answer + extra)
    canvas = Canvas(brief, draw, 150, 195)
    for number, cell in enumerate(cells):
        x, y = 19 + 37 * (cell % 3), 19 + 37 * (cell // 3)
        form = draw.choice(shapes(3)) if brief.level == 3 else shape
        fill = shade(draw, words.COLORS[color if number < answer else other])
        canvas.shape(form, x + draw.integer(-3, 3), y + draw.integer(-3, 3), draw.integer(11, 14), fill)
    question = words.COUNT_COLOR.format(color=color) if brief.level == 3 else words.COUNT_SHAPES
    return SynthItem(canvas.image, question, str(answer), (str(answer),), (), (), brief.task, brief.level, "count")
