"""The suite's items, scores and chance levels, by hand where the numbers are small."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from PIL import Image

from sailctl.core.bench.suite_synth import TASKS, Item, Task, chance, grey, load_items, scorer

BY_NAME = {task.name: task for task in TASKS}
ISSUE_TASKS = {"closed_vqa", "open_vqa", "document_vqa", "math", "text_qa", "ocr_word", "ocr_text", "caption", "chart"}


def item(index: int, answer: str, *, kind: str = "colour", level: int = 1, options: tuple[str, ...] = ()) -> Item:
    return Item("open_vqa", index, level, kind, "Which?", answer, (answer,), options, (), None)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_items_are_the_same_whenever_made_and_rise_in_level(task: Task) -> None:
    items = load_items(task, 6, seed=3)
    assert items == load_items(task, 6, seed=3)
    assert items[:4] == load_items(task, 4, seed=3)  # a larger bench extends a smaller one
    assert items != load_items(task, 6, seed=4)
    assert [one.level for one in items] == [1, 2, 3, 1, 2, 3]
    assert all(one.answer in one.references for one in items)
    assert (items[0].image is None) == (task.name == "text_qa")
    assert items[0].prompt.startswith("<image>\n") == (task.name != "text_qa")
    score = scorer(task, items)
    assert all(score(one.answer, one) == 1.0 for one in items)  # the right answer is right under its metric
    assert all(score("xyzzy", one) == 0.0 for one in items)


def test_the_suite_has_the_tasks_of_the_summary() -> None:
    assert set(BY_NAME) >= ISSUE_TASKS


def test_chance_is_the_mean_over_other_answers_of_the_same_kind() -> None:
    items = [item(0, "red"), item(1, "red"), item(2, "blue"), item(3, "left", kind="place")]
    # red: one of its two partners says red; blue: neither; the only "place" is answered with any other item's answer
    assert chance(BY_NAME["open_vqa"], items) == [0.5, 0.5, 0.0, 0.0]


def test_chance_is_uniform_over_the_options() -> None:
    items = [item(0, "yes", options=("yes", "no")), item(1, "a", options=("a", "b", "c", "d"))]
    assert chance(BY_NAME["closed_vqa"], items) == [0.5, 0.25]


def test_chance_prefers_partners_of_the_same_level() -> None:
    items = [item(0, "1"), item(1, "1"), item(2, "20", level=2), item(3, "21", level=2)]
    assert chance(BY_NAME["math"], items) == [1.0, 1.0, 0.0, 0.0]
    assert chance(BY_NAME["math"], items[:1]) == [0.0]


def test_grey_keeps_the_size_and_nothing_else() -> None:
    picture = load_items(BY_NAME["chart"], 1, seed=1)[0]
    assert picture.image is not None
    with Image.open(io.BytesIO(picture.image)) as before, Image.open(io.BytesIO(grey(picture.image))) as after:
        assert before.size == after.size
        assert after.getcolors() == [(after.size[0] * after.size[1], (128, 128, 128))]
    assert picture.image_name != replace(picture, image=grey(picture.image)).image_name
