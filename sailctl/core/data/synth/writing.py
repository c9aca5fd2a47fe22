"""Pictures of writing: single words and lines of running text on textured backgrounds."""

from __future__ import annotations

from sailctl.core.data.synth import chinese, lexicon, words
from sailctl.core.data.synth.canvas import CELL, Canvas, Color, ink, shade
from sailctl.core.data.synth.item import NATIVE_SIZE, Brief, Draw, SynthItem

COLUMNS = NATIVE_SIZE // CELL
_LETTERS = ((3, 4), (5, 6), (7, 8))  # of a word, by level
_LINES = ((1, 1), (2, 2), (4, 5))  # of a text, by level
_CODE_CHARACTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"  # no I and no O: nobody can tell them from 1 and 0
_CHINESE_CELL = 2 * CELL  # a character of many strokes needs four patches


def _page(brief: Brief, draw: Draw) -> tuple[Canvas, Color]:
    """A background and an ink; at level 3 a quarter is light on dark."""
    if brief.level == 3 and draw.chance(0.25):
        return Canvas(brief, draw, 30, 70), shade(
            draw, draw.choice(((245, 245, 245), (250, 230, 120), (150, 220, 250)))
        )
    return Canvas(brief, draw, 190, 240), ink(draw)


def _corner(brief: Brief, draw: Draw, x: int, y: int, width: int, height: int) -> tuple[int, int]:
    """Where writing of this extent starts: at (x, y), at level 3 up to two pixels off, never over the edge."""
    if brief.level == 3:
        x, y = x + draw.integer(-2, 2), y + draw.integer(-2, 2)
    return min(max(x, 0), NATIVE_SIZE - width), min(max(y, 0), NATIVE_SIZE - height)


def ocr_word(brief: Brief, draw: Draw) -> SynthItem:
    """One word in capitals. Only the task `ocr_word_unseen` shows held-out words."""
    heldout = brief.task == "ocr_word_unseen"
    if brief.lang == "zh":
        count = 2 if brief.level == 3 else 1
        word = "".join(draw.sample(chinese.words_of(heldout), count))
        return _one_row(brief, draw, word, draw.choice(chinese.WORD_PROMPTS), "word", _CHINESE_CELL)
    word = draw.choice(lexicon.words_by_length(heldout, *_LETTERS[brief.level - 1])).upper()
    return _one_row(brief, draw, word, draw.choice(words.WORD_PROMPTS), "word", _cell(brief))


def ocr_code(brief: Brief, draw: Draw) -> SynthItem:
    """Letters and digits in no order that a language has: nothing but the picture tells the next one.

    A code never is a held-out word, however unlikely that is.
    """
    length = draw.integer(*_LETTERS[brief.level - 1])
    code = "".join(draw.choice(_CODE_CHARACTERS) for _ in range(length))
    while code.lower() in lexicon.heldout_words():
        code = "".join(draw.choice(_CODE_CHARACTERS) for _ in range(length))
    return _one_row(brief, draw, code, draw.choice(words.CODE_PROMPTS), "code", _cell(brief))


def _cell(brief: Brief) -> int:
    """Large type at level 1, one cell of the patch grid a letter above it."""
    return 2 * CELL if brief.level == 1 else CELL


def _one_row(brief: Brief, draw: Draw, text: str, question: str, kind: str, cell: int) -> SynthItem:
    """Writing on one row of cells: at level 2 it starts at the left edge, otherwise anywhere."""
    canvas, color = _page(brief, draw)
    column, row = draw.below(NATIVE_SIZE // cell - len(text) + 1), draw.below(NATIVE_SIZE // cell)
    column = 0 if brief.level == 2 else column
    x, y = _corner(brief, draw, column * cell, row * cell, len(text) * cell, cell)
    canvas.text(text, x, y, color, cell)
    return SynthItem(canvas.image, question, text, (text,), (), (), brief.task, brief.level, kind)


def ocr_text(brief: Brief, draw: Draw) -> SynthItem:
    """Lines of real text in cells; at level 3 a quarter is in lower case. New lines part the lines of the answer."""
    fewest, most = _LINES[brief.level - 1]
    lines = draw.choice(lexicon.passages(brief.split, fewest, most, COLUMNS))
    if not (brief.level == 3 and draw.chance(0.25)):
        lines = tuple(line.upper() for line in lines)
    canvas, color = _page(brief, draw)
    first = draw.below(COLUMNS - len(lines) + 1)
    width = max(map(len, lines)) * CELL
    x, y = _corner(brief, draw, 0, first * CELL, width, len(lines) * CELL)
    for number, line in enumerate(lines):
        canvas.text(line, x, y + number * CELL, color)
    answer = "\n".join(lines)
    references = (answer,) if len(lines) == 1 else (answer, " ".join(lines))
    question = draw.choice(words.TEXT_PROMPTS)
    return SynthItem(canvas.image, question, answer, references, (), (), brief.task, brief.level, "text")
