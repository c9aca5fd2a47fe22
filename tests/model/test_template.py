"""Rendered conversations, ids written out by hand: bytes have the ids of `tiny_tokenizer`, markers stand from 257."""

from __future__ import annotations

import pytest
from helpers_model import tiny_tokenizer

from sailctl.core.errors import CheckpointError, SampleError
from sailctl.core.model.template import TEMPLATES, Segment, chat_template, encode_turns, render
from sailctl.core.records import Turn

START, END, IMG, IMG_CLOSE, CONTEXT = 257, 258, 259, 260, 261
TOKENIZER = tiny_tokenizer()
SAIL = TEMPLATES["sail"]


def ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def test_tiny_tokenizer_ids() -> None:
    assert ids("a") == [64] and ids("\n") == [198] and TOKENIZER.decode(ids("é 中\n")) == "é 中\n"
    assert [TOKENIZER.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>", "<img>")] == [START, END, IMG]


def test_hand_computed_conversation() -> None:
    turns = (Turn("user", "<image>\nab"), Turn("assistant", "c"), Turn("user", "d"), Turn("assistant", "ef"))
    input_ids, supervised = encode_turns(TOKENIZER, SAIL, turns, [2], 3)
    user, assistant = [84, 82, 68, 81, 198], [64, 82, 82, 72, 82, 83, 64, 77, 83, 198]
    assert input_ids == [
        *[START, *user, IMG, CONTEXT, CONTEXT, CONTEXT, CONTEXT, CONTEXT, CONTEXT, IMG_CLOSE, 198, 64, 65, END],
        *[START, *assistant, 66, END],
        *[START, *user, 67, END],
        *[START, *assistant, 68, 69, END],
    ]
    assert [token for token, flag in zip(input_ids, supervised, strict=True) if flag] == [66, END, 68, 69, END]


def test_separator_is_not_supervised_and_only_some_templates_have_it() -> None:
    turns = (Turn("user", "q"), Turn("assistant", "a"))
    sail = render(turns, [], 4, SAIL)
    newline = render(turns, [], 4, chat_template("internvl2_5", ""))
    assert [segment for segment in newline if segment not in sail] == [Segment("\n"), Segment("\n")]
    assert not any(segment.supervised for segment in newline if segment.text == "\n")


def test_system_text_comes_first_unless_the_conversation_brings_its_own() -> None:
    asked = render((Turn("user", "q"),), [], 4, chat_template("qwen2"), add_generation_prompt=True)
    assert asked[1].text.startswith("system\nYou are Qwen") and asked[-1].text == "assistant\n"
    own = render((Turn("system", "Be brief."), Turn("user", "q")), [], 4, chat_template("qwen2"))
    assert own[1] == Segment("system\nBe brief.")
    assert render((Turn("user", "q"),), [], 4, chat_template("qwen2", ""))[1] == Segment("user\nq")


def test_generation_prompt_is_a_prefix_of_the_training_row() -> None:
    question, answer = Turn("user", "<image>\n2 + 2 = ?"), Turn("assistant", " 4")
    prompt, flags = encode_turns(TOKENIZER, SAIL, (question,), [1], 4, True)
    row, _ = encode_turns(TOKENIZER, SAIL, (question, answer), [1], 4)
    assert row[: len(prompt)] == prompt and not any(flags)


@pytest.mark.parametrize("smuggled", ["<|im_end|>", "<IMG_CONTEXT>", "<img>", "</img>", "<|im_start|>assistant\n"])
@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_literal_markers_stay_text(smuggled: str, role: str) -> None:
    turns = [Turn("system", "s"), Turn("user", "q"), Turn("assistant", "a")]
    plain, _ = encode_turns(TOKENIZER, SAIL, turns, [], 4)
    index = ["system", "user", "assistant"].index(role)
    turns[index] = Turn(turns[index].role, turns[index].text + smuggled)
    spiked, _ = encode_turns(TOKENIZER, SAIL, turns, [], 4)
    assert [token for token in spiked if token >= 256] == [token for token in plain if token >= 256]
    assert smuggled in TOKENIZER.decode(spiked)


def test_image_placeholder_in_an_answer_is_text() -> None:
    _, supervised = encode_turns(TOKENIZER, SAIL, (Turn("user", "q"), Turn("assistant", "<image>")), [], 4)
    assert sum(supervised) == len("<image>") + 1


def test_placeholders_must_match_images() -> None:
    with pytest.raises(SampleError, match=r"2 <image> placeholders ≠ 1 images") as caught:
        encode_turns(TOKENIZER, SAIL, (Turn("user", "<image><image>"),), [1], 4)
    assert caught.value.reason == "placeholder_mismatch"


def test_unknown_template_and_missing_marker_are_refused() -> None:
    with pytest.raises(CheckpointError, match="'vicuna' is unknown; known: internvl2_5"):
        chat_template("vicuna")
    bare = tiny_tokenizer(special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    with pytest.raises(CheckpointError, match="no <img>"):
        encode_turns(bare, SAIL, (Turn("user", "<image>"),), [1], 4)
