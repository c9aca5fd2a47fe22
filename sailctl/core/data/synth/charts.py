"""Bar charts of one to four bars with whole values from 1 to 9, read by height, by grid lines or by labels."""

from __future__ import annotations

from sailctl.core.data.synth import words
from sailctl.core.data.synth.canvas import CELL, Canvas, Color, shade
from sailctl.core.data.synth.item import NATIVE_SIZE, Brief, Draw, SynthItem

_UNIT = 9  # px a value step
_SLOT = 28  # px a bar and its gaps: the width of one visual token
_BAR = 20
_BASE = NATIVE_SIZE - CELL  # below it stand the names
_LABELLED = (0.5, 0.25, 0.0)  # share of charts, by level, whose bars carry their value
_NAMES = tuple(color for color in words.COLORS if color != "white")  # white does not show on the panel
_LETTERS = "ABCDEFGHKLMNPRSTUVWXYZ"
_GRID, _GRID_5, _AXIS = (205, 205, 205), (150, 150, 150), (40, 40, 40)


def chart(brief: Brief, draw: Draw) -> SynthItem:
    """A chart and a question for a value, for the extreme bar, or for the bar that has a value."""
    level = brief.level
    count = draw.integer(1, 2) if level == 1 else draw.integer(level, level + 1)
    lettered = level == 3 and draw.chance(0.5)
    names = draw.sample(_LETTERS if lettered else _NAMES, count)
    values = draw.sample(range(1, 10), count)
    colors = draw.sample(_NAMES, count) if lettered else names
    kinds = ("value", "color") if count == 1 else ("value", "value", "highest", "lowest", "which")
    kind = draw.choice(kinds)
    asked = draw.below(count)
    if kind == "value":
        template = words.CHART_VALUE_LETTER if lettered else words.CHART_VALUE
        question, answer = template.format(name=names[asked]), str(values[asked])
    elif kind == "color":
        question, answer = words.CHART_COLOR, names[0]
    elif kind == "which":
        question, answer = words.CHART_WHICH.format(value=values[asked]), names[asked]
    else:
        question = words.CHART_HIGHEST if kind == "highest" else words.CHART_LOWEST
        answer = names[values.index(max(values) if kind == "highest" else min(values))]
    canvas = Canvas(brief, draw, 200, 235)
    fills = [shade(draw, words.COLORS[color]) for color in colors]
    labelled = draw.chance(_LABELLED[level - 1])
    lying = level == 3 and draw.chance(0.3)
    slots = sorted(draw.sample(range(4), count))
    (_lying_bars if lying else _standing_bars)(canvas, slots, values, fills, names if lettered else None, labelled)
    first = words.CHART_CAPTION_ONE if count == 1 else words.CHART_CAPTION.format(count=words.NUMBERS[count])
    bars = [words.CHART_BAR.format(name=name, value=value) for name, value in zip(names, values, strict=True)]
    kind_of_answer = "letter" if lettered and kind != "value" else ("value" if kind == "value" else "name")
    return SynthItem(
        canvas.image,
        question,
        answer,
        (answer,),
        (),
        tuple(f"{name} bar" for name in names),
        brief.task,
        level,
        kind_of_answer,
        (words.CHART_PROMPT, " ".join([first, *bars])),
    )


def _standing_bars(
    canvas: Canvas, slots: list[int], values: list[int], fills: list[Color], letters: list[str] | None, labelled: bool
) -> None:
    for step in range(1, 10):
        canvas.line(0, _BASE - step * _UNIT, NATIVE_SIZE, _BASE - step * _UNIT, _GRID_5 if step == 5 else _GRID)
    for position, (slot, value, fill) in enumerate(zip(slots, values, fills, strict=True)):
        left, top = slot * _SLOT + (_SLOT - _BAR) // 2, _BASE - value * _UNIT
        canvas.rectangle(left, top, left + _BAR, _BASE, fill, _AXIS)
        cell_left = slot * _SLOT + (_SLOT - CELL) // 2
        if labelled:
            canvas.text(str(value), cell_left, top - CELL, _AXIS)
        if letters:
            canvas.text(letters[position], cell_left, _BASE, _AXIS)
    canvas.line(0, _BASE, NATIVE_SIZE, _BASE, _AXIS)


def _lying_bars(
    canvas: Canvas, slots: list[int], values: list[int], fills: list[Color], letters: list[str] | None, labelled: bool
) -> None:
    for step in range(1, 10):
        canvas.line(CELL + step * _UNIT, 0, CELL + step * _UNIT, NATIVE_SIZE, _GRID_5 if step == 5 else _GRID)
    for position, (slot, value, fill) in enumerate(zip(slots, values, fills, strict=True)):
        top, right = slot * _SLOT + (_SLOT - _BAR) // 2, CELL + value * _UNIT
        canvas.rectangle(CELL, top, right, top + _BAR, fill, _AXIS)
        cell_top = slot * _SLOT + (_SLOT - CELL) // 2
        if labelled:
            canvas.text(str(value), right, cell_top, _AXIS)
        if letters:
            canvas.text(letters[position], 0, cell_top, _AXIS)
    canvas.line(CELL, 0, CELL, NATIVE_SIZE, _AXIS)
