"""Small receipts and forms: two to four rows of a key and a value in cells, and questions about a field."""

from __future__ import annotations

from sailctl.core.data.synth import words
from sailctl.core.data.synth.canvas import CELL, Canvas, ink
from sailctl.core.data.synth.item import NATIVE_SIZE, Brief, Draw, SynthItem

_COLUMNS = NATIVE_SIZE // CELL
_LIMITS = (9, 99, 999)  # largest number, by level


def document_vqa(brief: Brief, draw: Draw) -> SynthItem:
    """A receipt or a form with `level` + 1 rows."""
    build = _receipt if draw.chance(0.5) else _form
    rows, question, answer, references, kind = build(brief.level, draw)
    canvas = Canvas(brief, draw, 215, 242)
    color = ink(draw)
    first = draw.below(_COLUMNS - 2 * len(rows) + 2)  # rows stand two cells apart
    for number, (key, value) in enumerate(rows):
        y = (first + 2 * number) * CELL
        if key == words.TOTAL_KEY and number:
            canvas.line(0, y - CELL / 2, NATIVE_SIZE, y - CELL / 2, color)
        canvas.text(key, 0, y, color)
        canvas.text(value, (_COLUMNS - len(value)) * CELL, y, color)
    reading = "\n".join(f"{key} {value}" for key, value in rows)
    preface = (draw.choice(words.TEXT_PROMPTS), reading)
    return SynthItem(canvas.image, question, answer, references, (), (), brief.task, brief.level, kind, preface)


_Rows = list[tuple[str, str]]


def _receipt(level: int, draw: Draw) -> tuple[_Rows, str, str, tuple[str, ...], str]:
    """Items with prices; from level 2 on the last row is their sum."""
    limit = _LIMITS[level - 1]
    items = draw.sample(words.ITEMS, max(2, level))
    if level == 1:
        prices = draw.sample(range(1, limit + 1), 2)
        rows = [(item.upper(), str(price)) for item, price in zip(items, prices, strict=True)]
    else:
        # The sum is drawn first, so that no total is more likely than another.
        total = draw.integer(limit // 10 + 1, limit)
        cuts = sorted(draw.sample(range(1, total), len(items) - 1))
        prices = [high - low for low, high in zip([0, *cuts], [*cuts, total], strict=True)]
        rows = [(item.upper(), str(price)) for item, price in zip(items, prices, strict=True)]
        rows.append((words.TOTAL_KEY, str(total)))
    kind = draw.choice(("price", "item") if level == 1 else ("price", "price", "total", "item"))
    asked = draw.below(len(items))
    if kind == "total":
        return rows, words.TOTAL, rows[-1][1], (rows[-1][1],), "number"
    if kind == "item" and prices.count(prices[asked]) == 1:
        question = words.COSTS.format(value=prices[asked])
        return rows, question, items[asked], (items[asked], items[asked].upper()), "item"
    question = words.PRICE.format(item=items[asked])
    return rows, question, str(prices[asked]), (str(prices[asked]),), "number"


def _form(level: int, draw: Draw) -> tuple[_Rows, str, str, tuple[str, ...], str]:
    """Fields of a person: name, age, room, day, number."""
    keys = draw.sample(words.FORM_KEYS, level + 1)
    limit = _LIMITS[level - 1]
    values = {key: str(draw.integer(1 if level == 1 else limit // 10 + 1, limit)) for key in keys}
    if "name" in values:
        values["name"] = draw.choice(words.FORM_NAMES).upper()
    if "day" in values:
        values["day"] = draw.choice(words.DAYS).upper()
    if "age" in values:
        values["age"] = str(draw.integer(1, 9) if level == 1 else draw.integer(10, 99))
    asked = draw.choice(keys)
    kind = asked if asked in ("name", "day") else "number"
    rows = [(key.upper(), values[key]) for key in keys]
    return rows, words.FIELD.format(key=asked), values[asked], (values[asked],), kind
