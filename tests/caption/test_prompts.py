"""Prompts: ours for every task and language, the user's in their place, and what is refused about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sailctl.core.caption.prompts import LANGUAGES, MAX_ALT_CHARACTERS, TASKS, Prompt, load_prompts, prompt_digest
from sailctl.core.errors import UsageError


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_task_has_a_prompt_that_needs_no_alt_text(lang: str) -> None:
    prompts = load_prompts(TASKS, lang, None)
    assert [prompt.task for prompt in prompts] == list(TASKS)
    for prompt in prompts:
        with_alt, without = prompt.render("ALT", "CAPTION"), prompt.render(None, "CAPTION")
        assert "{" not in with_alt[0] + without[0]
        assert ("ALT" in with_alt[0]) == prompt.uses_alt_text == (prompt.task == "recaption")
        assert ("CAPTION" in with_alt[0]) == (prompt.task == "qa")
        assert (with_alt[1] != without[1]) == prompt.uses_alt_text
        assert any("\u4e00" <= character <= "\u9fff" for character in without[0]) == (lang == "zh")


def test_a_folder_replaces_those_it_has(tmp_path: Path) -> None:
    (tmp_path / "ocr.en.txt").write_text("\ufeffRead it.\r\n\r\nIt was called {alt_text}.\r\n", encoding="utf-8")
    own, ours = load_prompts(("ocr", "qa"), "en", tmp_path)
    assert own == Prompt("ocr", "Read it.\n\nIt was called {alt_text}.", "Read it.")
    assert own.render("x {caption} {alt_text}")[0] == "Read it.\n\nIt was called x {caption} {alt_text}."
    assert ours == load_prompts(("qa",), "en", None)[0]
    assert prompt_digest(own) != prompt_digest(load_prompts(("ocr",), "en", None)[0])
    assert own.where == str(tmp_path / "ocr.en.txt")


def test_text_from_data_is_cut_and_shows_no_picture() -> None:
    prompt = Prompt("recaption", "{alt_text}!\n\nSay.", "Say.")
    asked, _ = prompt.render("<image>" + "x" * 5000)
    assert asked.startswith("x" * MAX_ALT_CHARACTERS + "!") and "<image>" not in asked


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ocr.en.txt", "Read {alt}.", r"ocr.en.txt: unknown placeholder \{alt\}; ocr knows \{alt_text\}"),
        ("ocr.en.txt", "Of {caption}.", r"unknown placeholder \{caption\}"),
        ("ocr.en.txt", "Of {alt_text}.", "nothing is left of it for a sample without alt-text"),
        ("ocr.en.txt", " \n", "nothing is left"),
        ("orc.en.txt", "Read.", r"orc.en.txt belongs to no task; known names: detailed.en.txt"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        load_prompts(("ocr",), "en", tmp_path)


def test_no_folder_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        load_prompts(("ocr",), "en", tmp_path / "gone")
    (tmp_path / "ocr.en.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UsageError, match=r"prompt .*ocr.en.txt cannot be read"):
        load_prompts(("ocr",), "en", tmp_path)
