"""Pictures of writing: single words and lines of running text on textured backgrounds."""

from __future__ import annotations

from sailctl.core.data.synth import chinese, lexicon, words
from sailctl.core.data.synth.canvas import CELL, Canvas, Color, ink, shade
from sailctl.core.data.synth.item import NATIVE_SIZE, Brief, Draw, SynthItem

COLUMNS = NATIVE_SIZE // CELL
_LETTERS = ((3, 4), (5, 6), (7, 8))  # of a word, by level
_LINES = ((1, 1), (2, 2), (4, 5))  # of a text, by level
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
    """One word in capitals on one row of cells. Only the task `ocr_word_unseen` shows held-out words."""
    heldout = brief.task == "ocr_word_unseen"
    if brief.lang == "zh":
        count = 2 if brief.level == 3 else 1
        word = "".join(draw.sample(chinese.words_of(heldout), count))
        question, cell = draw.choice(chinese.WORD_PROMPTS), _CHINESE_CELL
    else:
        word = draw.choice(lexicon.words_by_length(heldout, *_LETTERS[brief.level - 1])).upper()
        question, cell = draw.choice(words.WORD_PROMPTS), CELL
    canvas, color = _page(brief, draw)
    column, row = draw.below(NATIVE_SIZE // cell - len(word) + 1), draw.below(NATIVE_SIZE // cell)
    x, y = _corner(brief, draw, column * cell, row * cell, len(word) * cell, cell)
    canvas.text(word, x, y, color, cell)
    return SynthItem(canvas.image, question, word, (word,), (), (), brief.task, brief.level, "word")


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
