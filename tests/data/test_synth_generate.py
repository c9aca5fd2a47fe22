"""The generator: deterministic, balanced, readable, with held-out words that really are held out."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from sailctl.core.data.synth import LEVELS, TASKS, chinese, generate, lexicon, vocabulary
from sailctl.core.data.synth.canvas import CELL, Canvas
from sailctl.core.data.synth.item import Brief, Draw, SynthItem
from sailctl.core.errors import UsageError

TRAIN_TASKS = tuple(task for task in TASKS if task != "ocr_word_unseen")


def items(task: str, level: int, count: int, split: str = "train", seed: int = 11) -> list[SynthItem]:
    return [generate(task, level, seed, index, split) for index in range(count)]


def words_of(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+", text)


@pytest.mark.parametrize("task", TASKS)
def test_an_item_is_a_pure_function_of_its_arguments(task: str) -> None:
    first = generate(task, 2, 5, 17, "heldout")
    generate(task, 3, 5, 18, "heldout")
    again, other = generate(task, 2, 5, 17, "heldout"), generate(task, 2, 6, 17, "heldout")
    assert (again.question, again.answer) == (first.question, first.answer)
    assert (first.image is None) == (task == "text_qa")
    if first.image is not None and again.image is not None and other.image is not None:
        assert first.image.size == (112, 112) and first.image.mode == "RGB"
        assert first.image.tobytes() == again.image.tobytes() != other.image.tobytes()


def test_content_never_changes() -> None:
    """Literal rows: data sets made by earlier versions, and other Python versions, hold these very samples."""
    rows = [(task, generate(task, 3, 0, 0, "heldout")) for task in TASKS]
    assert {task: (item.question, item.answer) for task, item in rows} == GOLDEN


@pytest.mark.parametrize("task", TRAIN_TASKS)
def test_size_changes_the_drawing_and_not_the_content(task: str) -> None:
    small, large = generate(task, 3, 1, 4, "train"), generate(task, 3, 1, 4, "train", size=448)
    assert (small.question, small.answer, small.elements) == (large.question, large.answer, large.elements)
    if small.image is not None and large.image is not None:
        assert large.image.size == (448, 448)
        shrunk = np.asarray(large.image.resize((112, 112)), dtype=np.float32)
        assert np.abs(shrunk - np.asarray(small.image, dtype=np.float32)).mean() < 12


def test_closed_questions_cannot_be_answered_by_their_words() -> None:
    """The best guess from a question's words, learnt on one half, is worth at most chance + 3 points on the other."""
    half = 1000
    right = right_by_words = chance = 0.0
    for level in LEVELS:
        seen: dict[str, Counter[str]] = defaultdict(Counter)
        by_words: dict[str, Counter[str]] = defaultdict(Counter)
        for number, item in enumerate(items("closed_vqa", level, 2 * half)):
            assert item.answer in item.options
            asked = [word for option in item.options for word in words_of(option)]
            assert set(words_of(item.question)).issuperset(asked) or item.options == ("yes", "no")
            pattern = re.sub("|".join(sorted(item.options, key=len, reverse=True)), "_", item.question)
            place = str(item.options.index(item.answer))
            if number < half:
                seen[item.question][item.answer] += 1
                by_words[pattern][place] += 1
                continue
            chance += 1 / len(item.options)
            guess = seen[item.question].most_common(1)
            right += item.answer == guess[0][0] if guess else 1 / len(item.options)
            place_guess = by_words[pattern].most_common(1)
            right_by_words += place == place_guess[0][0] if place_guess else 1 / len(item.options)
    judged = half * len(LEVELS)
    assert right / judged <= chance / judged + 0.03
    assert right_by_words / judged <= chance / judged + 0.03


def test_yes_and_no_are_equally_likely() -> None:
    answers = Counter(item.answer for level in LEVELS for item in items("closed_vqa", level, 1200))
    share = answers["yes"] / (answers["yes"] + answers["no"])
    assert answers["yes"] > 700 and abs(share - 0.5) < 0.03


@pytest.mark.parametrize(
    ("task", "most"),
    [("open_vqa", 0.1), ("chart", 0.12), ("document_vqa", 0.1), ("math", 0.2), ("text_qa", 0.08)],
)
def test_no_open_answer_is_over_represented(task: str, most: float) -> None:
    for level in LEVELS:
        answers = Counter(item.answer for item in items(task, level, 600))
        assert answers.most_common(1)[0][1] / 600 <= most, (level, answers.most_common(3))


def test_the_answer_of_a_text_question_stands_in_its_passage() -> None:
    for level in LEVELS:
        for item in items("text_qa", level, 300):
            passage, question = item.question.split("\n")
            assert re.search(rf"\b{item.answer}\b", passage) and question.endswith("?")


def test_totals_add_up_and_sums_are_right() -> None:
    checked = 0
    for item in items("math", 3, 300):
        if item.kind == "sum":
            a, sign, b = re.fullmatch(r"(\d+)([-+x])(\d+)=", item.preface[1]).groups()  # type: ignore[union-attr]
            assert {"+": int(a) + int(b), "-": int(a) - int(b), "x": int(a) * int(b)}[sign] == int(item.answer)
            checked += 1
    for item in items("document_vqa", 3, 300):
        rows = [line.split() for line in item.preface[1].split("\n")]
        if rows[-1][0] == "SUM":
            assert sum(int(value) for _, value in rows[:-1]) == int(rows[-1][1])
            checked += 1
    assert checked > 200


def test_a_caption_names_every_element() -> None:
    for level in LEVELS:
        for item in items("caption", level, 200):
            assert len(item.elements) in {1: (1,), 2: (2,), 3: (3, 4)}[level]
            assert all(element in item.answer for element in item.elements)


def test_words_are_held_out_for_good() -> None:
    train, heldout = lexicon.train_words(), lexicon.heldout_words()
    assert len(train) > 2000 and len(heldout) > 300 and train.isdisjoint(heldout)
    assert heldout.isdisjoint(word.lower() for word in vocabulary())
    assert {"except", "pax", "manually"} <= heldout, "the split has moved"
    said = Counter(
        word.lower()
        for task in TRAIN_TASKS
        for level in LEVELS
        for item in items(task, level, 120)
        for text in (item.question, item.answer, *item.preface)
        for word in words_of(text)
    )
    assert sum(said.values()) > 5000 and heldout.isdisjoint(said)
    for fewest, most in ((1, 1), (2, 2), (4, 5)):
        pieces = lexicon.passages("train", fewest, most, 8)
        assert len(pieces) > 1000
        assert heldout.isdisjoint(word for lines in pieces for line in lines for word in line.split())
        assert set(pieces).isdisjoint(lexicon.passages("heldout", fewest, most, 8))


@pytest.mark.parametrize(("level", "lengths"), [(1, {3, 4}), (2, {5, 6}), (3, {7, 8})])
def test_single_words_come_from_the_right_part(level: int, lengths: set[int]) -> None:
    trained = {item.answer.lower() for item in items("ocr_word", level, 200, "heldout")}
    unseen = {item.answer.lower() for item in items("ocr_word_unseen", level, 200, "heldout")}
    assert trained <= lexicon.train_words() and unseen <= lexicon.heldout_words()
    assert {len(word) for word in trained | unseen} == lengths


def test_lines_of_text_fit_their_cells() -> None:
    for level, counts in ((1, {1}), (2, {2}), (3, {4, 5})):
        for item in items("ocr_text", level, 200):
            lines = item.answer.split("\n")
            assert len(lines) in counts and all(0 < len(line) <= 8 for line in lines)


def test_every_character_stays_in_its_own_cell() -> None:
    canvas = Canvas(Brief("ocr_word", 1, "train"), Draw(0), 200, 200)
    before = np.asarray(canvas.image).astype(int)
    canvas.text("W MQ", 2 * CELL, 3 * CELL, (0, 0, 0))
    changed = np.abs(np.asarray(canvas.image).astype(int) - before).max(axis=2) > 20
    cells = changed.reshape(8, CELL, 8, CELL).any(axis=(1, 3))
    assert {(int(row), int(column)) for row, column in np.argwhere(cells)} == {(3, 2), (3, 4), (3, 5)}


def test_the_vocabulary_holds_every_word_of_the_templates() -> None:
    known = set(vocabulary())
    assert len(known) <= 600 and {"red", "circle", "Describe", "How", "yes"} <= known
    for task in ("caption", "closed_vqa", "open_vqa", "math", "text_qa", "chart"):
        for level in LEVELS:
            for item in items(task, level, 150):
                said = {word for word in words_of(f"{item.question} {item.answer}") if len(word) > 1}
                assert said <= known, said - known
    for item in items("document_vqa", 3, 200):
        assert set(words_of(item.question)) <= known


def test_other_fonts() -> None:
    import matplotlib

    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    usual, other = generate("ocr_word", 1, 0, 0, "train"), generate("ocr_word", 1, 0, 0, "train", font=font)
    assert usual.image is not None and other.image is not None
    assert usual.answer == other.answer and usual.image.tobytes() != other.image.tobytes()
    with pytest.raises(UsageError, match=r"has no glyph for .* --font"):
        generate("ocr_word", 1, 0, 0, "train", lang="zh", font=font)
    with pytest.raises(UsageError, match="cannot be read as a font"):
        generate("ocr_word", 1, 0, 0, "train", font=__file__)


def test_chinese_captions_and_words() -> None:
    item = generate("caption", 3, 0, 0, "train", lang="zh")
    assert all(element in item.answer for element in item.elements)
    assert re.fullmatch(r"[\u4e00-\u9fff。,?]+", item.question + item.answer)
    assert set(chinese.words_of(True)).isdisjoint(chinese.words_of(False)) and len(chinese.words_of(True)) > 10
    with pytest.raises(UsageError, match="no Chinese templates"):
        generate("chart", 1, 0, 0, "train", lang="zh")


@pytest.mark.parametrize(
    ("task", "level", "split", "size", "message"),
    [
        ("poem", 1, "train", 112, "unknown synth task 'poem'; known: caption"),
        ("chart", 4, "train", 112, "level 4 does not exist"),
        ("chart", 1, "test", 112, "unknown synth split 'test'"),
        ("ocr_word_unseen", 1, "train", 112, "heldout split only"),
        ("chart", 1, "train", 5, "5 px"),
    ],
)
def test_wrong_arguments_are_named(task: str, level: int, split: str, size: int, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        generate(task, level, 0, 0, split, size=size)  # type: ignore[arg-type]


GOLDEN = {
    "caption": (
        "Describe the image.",
        "There are three shapes. A large green triangle is in the top right. "
        "A large blue cross is in the bottom left. A small purple diamond is in the bottom right.",
    ),
    "region": ("Describe the orange shape.", "A small orange circle is in the top left."),
    "ocr_word": ("Read the word.", "MULTIPLY"),
    "ocr_word_unseen": ("What does the image say?", "EDITING"),
    "ocr_code": ("Read the code.", "P06H8DF5"),
    "ocr_text": ("Write down the text.", "THE\nGIVEN\nPYTHON\nFUNCTION"),
    "chart": ("What is the value of bar T?", "4"),
    "closed_vqa": ("Is the purple shape a square or a ring?", "square"),
    "open_vqa": ("What shape is purple?", "triangle"),
    "document_vqa": ("What is the day?", "THU"),
    "math": ("How many green shapes are there?", "3"),
    "text_qa": (
        "The car is in the attic. Eva has an orange bag. Sam has a black hat. Tom is in the hall.\nWhere is Tom?",
        "hall",
    ),
}
