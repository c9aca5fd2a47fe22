"""Prompts, placeholders, tiles and the rule for what is too long."""

from __future__ import annotations

import numpy as np
import pytest

from sailctl.core.data.encode import PROMPTS_EN, PROMPTS_ZH, caption_prompt, full_turns, is_mostly_chinese
from sailctl.core.errors import SampleError, UsageError
from sailctl.core.records import Sample, Turn, sample_id
from tests.helpers_data import data_config, encoder, picture

IMG, CONTEXT, IMG_END, START, END = 259, 261, 260, 257, 258  # ids of the tiny tokenizer's markers


def sample(turns, images=()):
    turns = tuple(Turn(*turn) for turn in turns)
    return Sample(sample_id(images, turns), "key", "source", tuple(images), turns)


def text_of(coder, ids):
    return coder.tokenizer.decode(ids, skip_special_tokens=False)


def test_a_conversation_is_encoded_with_its_answers_supervised():
    coder = encoder(data_config())
    found = coder.encode(sample([("user", "<image>\nhow many?"), ("assistant", "two")], [picture(0, 28, 28)]))
    ids = found.input_ids.tolist()
    assert found.input_ids.dtype == np.int32 and found.supervised.dtype == bool
    assert text_of(coder, ids) == (
        "<|im_start|>user\n<img><IMG_CONTEXT></img>\nhow many?<|im_end|><|im_start|>assistant\ntwo<|im_end|>"
    )
    assert text_of(coder, found.input_ids[found.supervised]) == "two<|im_end|>"
    assert found.tiles.shape == (1, 3, 28, 28) and found.tiles.dtype == np.uint8 and not found.truncated


def test_visual_tokens_follow_the_tiles():
    coder = encoder(data_config(max_tiles=4))
    images = [picture(0, 90, 28), picture(1, 28, 28)]  # 3 tiles and a thumbnail; 1 tile
    found = coder.encode(sample([("user", "<image> or <image>?"), ("assistant", "one")], images))
    assert found.num_tiles == 5 and (found.input_ids == CONTEXT).sum() == 5
    assert coder.measure(sample([("user", "<image> or <image>?"), ("assistant", "one")], images)) == (
        found.num_tokens,
        found.num_tiles,
        found.num_targets,
    )


def test_a_bare_caption_gets_a_question_chosen_by_its_id():
    coder = encoder(data_config())
    english = sample([("assistant", "a grey noise")], [picture(3)])
    turns = full_turns(english)
    assert turns[1] == english.turns[0] and turns[0].text.removeprefix("<image>\n") in PROMPTS_EN
    assert full_turns(english) == turns
    assert coder.encode(english).supervised.sum() == len("a grey noise") + 1
    chinese = sample([("assistant", "一张灰色的图片 with noise")], [picture(3)])
    assert full_turns(chinese)[0].text.removeprefix("<image>\n") in PROMPTS_EN  # mostly Latin letters
    chinese = sample([("assistant", "一张灰色的噪声图片,没有内容。")], [picture(3)])
    assert full_turns(chinese)[0].text.removeprefix("<image>\n") in PROMPTS_ZH
    assert len({caption_prompt(sample_id([bytes([i])], ()), "words") for i in range(200)}) == len(PROMPTS_EN)
    one = sample_id([b"a"], ())
    asked = [caption_prompt(one, "words", epoch) for epoch in range(16)]
    assert set(asked[:8]) == set(PROMPTS_EN) and asked[:8] == asked[8:]
    assert not is_mostly_chinese("") and not is_mostly_chinese("123 !?")


def test_a_lone_picture_without_a_placeholder_goes_before_the_first_question():
    turns = [("system", "be kind"), ("user", "what?"), ("assistant", "noise"), ("user", "sure?"), ("assistant", "yes")]
    assert [turn.text for turn in full_turns(sample(turns, [picture(0)]))][:3] == ["be kind", "<image>\nwhat?", "noise"]


@pytest.mark.parametrize(("text", "count"), [("<image>", 0), ("<image><image>", 1), ("two", 2), ("<image>", 3)])
def test_a_placeholder_mismatch_names_both_numbers(text, count):
    with pytest.raises(SampleError) as caught:
        encoder(data_config()).encode(sample([("user", text), ("assistant", "x")], [picture(i) for i in range(count)]))
    assert caught.value.reason == "placeholder_mismatch"
    assert str(text.count("<image>")) in caught.value.detail and str(count) in caught.value.detail


def test_an_answer_may_speak_of_images_and_markers():
    coder = encoder(data_config())
    found = coder.encode(sample([("user", "?"), ("assistant", "<image> <IMG_CONTEXT> <|im_end|>")]))
    assert CONTEXT not in found.input_ids and found.num_tiles == 0 and (found.input_ids == END).sum() == 2


LONG = "0123456789" * 10


def cut(turns, images=(), **options):
    coder = encoder(data_config(**options))
    return coder, coder.encode(sample(turns, images))


def test_what_is_too_long_is_cut_at_its_end():
    coder, found = cut([("user", "q"), ("assistant", LONG)], pack_tokens=60)
    assert found.truncated and found.num_tokens == 60
    assert text_of(coder, found.input_ids) == "<|im_start|>user\nq<|im_end|><|im_start|>assistant\n" + LONG[:41]
    assert found.supervised.sum() == 41
    coder, found = cut([("user", "q"), ("assistant", "a" * 40)], pack_tokens=60)
    assert not found.truncated and found.num_tokens == 60  # 19 before it, 40, <|im_end|>: exactly fits


def test_a_cut_never_splits_a_picture():
    turns = [("user", "a"), ("assistant", "b"), ("user", "<image>" + LONG), ("assistant", "c")]
    image = [picture(0, 90, 28)]  # <img> + 4 + </img>
    for limit in range(20, 60):
        try:
            coder, found = cut(turns, image, pack_tokens=limit)
        except SampleError as error:
            assert error.reason == "too_long" and limit < 20
            continue
        visual = (found.input_ids == CONTEXT).sum()
        assert visual == found.num_tiles and visual in (0, 4) and found.truncated
        assert (found.input_ids == IMG).sum() == (found.input_ids == IMG_END).sum() == visual / 4
        assert found.supervised[1:].any() and found.num_tokens <= limit
        assert found.num_tokens == limit or visual == 0
        assert found.tiles.shape[1:] == (3, 28, 28)
        assert coder.measure(sample(turns, image)) == (found.num_tokens, found.num_tiles, found.num_targets)


def test_without_anything_supervised_left_it_is_refused_with_both_numbers():
    for options, turns in (
        ({"pack_tokens": 60}, [("user", LONG), ("assistant", "a")]),
        ({"pack_tokens": 60, "overlong": "reject"}, [("user", "q"), ("assistant", LONG)]),
    ):
        with pytest.raises(SampleError) as caught:
            cut(turns, **options)
        assert caught.value.reason == "too_long" and "120" in caught.value.detail and "60" in caught.value.detail


def test_too_many_tiles_are_refused_with_both_numbers():
    turns = [("user", "<image><image><image>"), ("assistant", "x")]
    with pytest.raises(SampleError) as caught:
        cut(turns, [picture(i, 90, 28) for i in range(3)], pack_tiles=11)
    assert caught.value.reason == "too_long" and "12" in caught.value.detail and "11" in caught.value.detail


def test_bad_images_and_impossible_settings():
    with pytest.raises(SampleError, match="bad_image"):
        cut([("user", "<image>"), ("assistant", "x")], [b"no picture"])
    with pytest.raises(SampleError, match="image_too_large"):
        cut([("user", "<image>"), ("assistant", "x")], [picture(0, 40, 30)], max_image_pixels=1199)
    with pytest.raises(UsageError, match=r"min_tiles 5 > data.max_tiles 4"):
        encoder(data_config(min_tiles=5, max_tiles=4))
