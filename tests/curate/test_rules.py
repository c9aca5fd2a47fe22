"""Rules: what each asks, by samples worked out by hand; how a file of them is read; patterns that never end."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image, ImageFilter

from sailctl.core.curate.filter import patterns as rules_patterns
from sailctl.core.curate.filter.image import look_at, sharpness
from sailctl.core.curate.filter.measure import judge
from sailctl.core.curate.filter.patterns import find, nested_repeat
from sailctl.core.curate.filter.rules import KINDS, Check, Rule, default_text, load_rules
from sailctl.core.curate.filter.text import refusal, repetition, words_of
from sailctl.core.errors import UsageError
from sailctl.core.records import Sample, Turn
from tests.helpers_data import picture


def rules(tmp_path: Path, text: str) -> tuple[Check, ...]:
    path = tmp_path / "rules.yaml"
    path.write_text("rules:\n" + text, encoding="utf-8")
    return load_rules(str(path))


def sample(*texts: str, images: tuple[bytes, ...] = (picture(0),)) -> Sample:
    """One text is a caption, several are question and answer in turn."""
    if len(texts) == 1:
        turns = (Turn("assistant", texts[0]),)
    else:
        turns = tuple(Turn(("user", "assistant")[number % 2], text) for number, text in enumerate(texts))  # type: ignore[arg-type]
    return Sample("0" * 32, "k", "s", images, turns)


def hits(checks: tuple[Check, ...], one: Sample, scores: dict[str, Any] | None = None) -> list[str]:
    return list(judge(one, checks, scores or {}, whole=True).hits)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_words_are_counted_in_both_languages() -> None:
    assert words_of("It's a red-brown dog.") == ["it's", "a", "red-brown", "dog"]
    assert words_of("一只 iPhone 14。") == ["一", "只", "iphone", "14"]


def test_repetition_is_the_share_of_runs_said_before() -> None:
    assert repetition(list("abcabcab"), 3) == pytest.approx(1 - 3 / 6)  # abc bca cab abc bca cab
    assert repetition(["a", "b"], 3) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "Sorry, I cannot describe people.",
        "As an AI language model, I have no eyes.",
        "Sure! I’m unable to view the image you mention.",
        "No image was provided.",
        "很抱歉，我无法识别图片中的人物。",
        "作为一个人工智能助手，我没有视觉。",
        "请上传一张图片。",
    ],
)
def test_answers_that_decline(text: str) -> None:
    assert refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "A sign reads: I'm sorry, we are closed.",
        "Sorry, we are closed",
        "I cannot determine the colour from here.",
        "The man is unable to help the dog.",
        "图中的牌子写着“抱歉”。",
        "A book about artificial intelligence.",
    ],
)
def test_answers_that_only_sound_so(text: str) -> None:
    assert refusal(text) is None


def test_text_rules(tmp_path: Path) -> None:
    checks = rules(
        tmp_path,
        "- words: {min: 3, max: 6}\n- characters: {max: 40}\n- loops\n- repetition: {max: 0.4}\n"
        "- refusal: {phrases: [lorem ipsum]}\n"
        "- {name: link, pattern: {forbid: 'https?://'}}\n- {name: ends, pattern: {require: '[.。]$'}}\n"
        "- {name: short, words: {min: 2, of: captions}}\n- {name: asks, pattern: {require: '\\?$', of: questions}}\n",
    )
    assert hits(checks, sample("Which?", "A red kite flies.")) == []
    assert hits(checks, sample("Which", "Red.")) == ["words", "asks"], "an answer is no caption"
    assert hits(checks, sample("Red.")) == ["words", "short", "asks"]
    assert hits(checks, sample("Q?", "See https://a.b")) == ["link", "ends"]
    assert hits(checks, sample("Q?", "a b a b a b a b a b.")) == ["words", "repetition"]
    assert hits(checks, sample("Q?", "Some LOREM ipsum text.")) == ["refusal"]
    assert hits(checks, sample("Q?", "spam " * 60 + ".")) == ["words", "characters", "loops", "repetition"]


def test_the_first_rule_is_the_reason_and_costly_ones_come_last(tmp_path: Path) -> None:
    checks = rules(tmp_path, "- blank\n- words: {min: 3}\n- decodes\n- {name: long, characters: {min: 10}}\n")
    assert [check.name for check in checks] == ["words", "long", "blank", "bad_image"]
    grey = encoded(Image.new("RGB", (40, 30), (90, 90, 90)))
    found = judge(sample("Red.", images=(grey,)), checks, {})
    assert (found.verdict.keep, found.verdict.reason, found.verdict.detail) == (False, "words", "words 1 < 3")
    assert found.hits == ("words", "long") and "deviation" not in found.measured, "nothing was decoded for it"
    whole = judge(sample("Red.", images=(grey,)), checks, {}, whole=True)
    assert whole.hits == ("words", "long", "blank") and whole.verdict == found.verdict
    assert whole.measured == {"words": 1, "characters": 4, "deviation": 0.0}


def test_image_rules(tmp_path: Path) -> None:
    checks = rules(
        tmp_path,
        "- images: {min: 1, max: 2}\n- sides: {min: 20, max: 100}\n- pixels: {min: 900}\n"
        "- aspect: {max: 3}\n- blank\n- blur: {min: 5}\n",
    )
    assert [check.name for check in checks] == ["images", "sides", "pixels", "aspect", "bad_image", "blank", "blur"]
    good = picture(0)
    assert hits(checks, sample("x", images=(good,))) == []
    assert hits(checks, sample("x", images=())) == ["images"]
    assert hits(checks, sample("x", images=(good, picture(1, 101, 30), good))) == ["images", "sides", "aspect"]
    assert hits(checks, sample("x", images=(good, picture(1, 19, 47)))) == ["sides", "pixels"]
    assert hits(checks, sample("x", images=(good, good[:200]))) == ["bad_image"]
    assert hits(checks, sample("x", images=(b"nothing",))) == ["bad_image"]
    assert hits(checks, sample("x", images=(good, encoded(Image.new("RGB", (40, 30), "red"))))) == ["blank", "blur"]
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 40, dtype=np.uint8), (30, 1))).convert("RGB")
    assert hits(checks, sample("x", images=(encoded(ramp),))) == ["blur"], "it varies, and has no edge"


def test_a_header_is_enough_where_no_rule_needs_pixels(tmp_path: Path) -> None:
    checks = rules(tmp_path, "- sides: {min: 20}\n")
    assert [(check.name, check.kind) for check in checks] == [("bad_image", "header"), ("sides", "sides")]
    assert hits(checks, sample("x", images=(picture(0)[:200],))) == [], "cut, but the header is there"
    assert hits(checks, sample("x", images=(b"nothing",))) == ["bad_image"]


def test_sharpness_by_hand_and_under_blur() -> None:
    point = np.zeros((5, 5, 3), dtype=np.uint8)
    point[2, 2, 1] = 10  # Laplacian of the inner 3 x 3: -40 in the middle, 10 at its four neighbours, 0 at the corners
    assert sharpness(point) == pytest.approx((40**2 + 4 * 10**2) / 9 - (0 / 9) ** 2)
    assert sharpness(np.zeros((2, 9, 3), dtype=np.uint8)) == 0.0
    noise = Image.open(io.BytesIO(picture(3, 600, 400))).convert("RGB")
    looks = [look_at(noise.filter(ImageFilter.GaussianBlur(radius))).sharpness for radius in (0, 1, 3, 9)]
    assert looks == sorted(looks, reverse=True) and looks[0] > 50 * looks[2]
    edge = Image.new("RGB", (64, 64), (150, 150, 150))
    edge.paste((210, 133, 60), (20, 20, 40, 40))  # of the same lightness: no edge in grey
    assert look_at(edge).sharpness > 100


def test_pair_rules(tmp_path: Path) -> None:
    checks = rules(tmp_path, "- answer\n- placeholders\n")
    one = picture(0)
    assert hits(checks, sample("<image>\nWhat?", "A cat.")) == []
    assert hits(checks, sample("What?", "A cat.")) == [], "a lone picture finds its place"
    assert hits(checks, sample("<image><image> What?", "A cat.")) == ["placeholders"]
    assert hits(checks, sample("What?", "A cat.", images=(one, one))) == ["placeholders"]
    assert hits(checks, sample("What?", "A cat.", "And?", "  ")) == ["answer"]
    assert hits(checks, sample("A caption without a picture.", images=())) == ["placeholders"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("english", "'english' is no code of a language; did you mean 'en'?"),
        ("EN", "'EN' is no code of a language; did you mean 'en'?"),
        ("zh-cn", "'zh-cn' is no code of a language; did you mean 'zh'?"),
        ("chinese", "'chinese' is no code of a language; did you mean 'zh'?"),
        ("Enlgish", "'Enlgish' is no code of a language; did you mean 'en'?"),
        ("xx", "'xx' is no code of a language; known: ar, "),
        ("und", "'und': text in no language that can be told is always kept"),
        ("no", "false is no code of a language; for Norwegian write 'no'"),
    ],
)
def test_a_language_is_a_code(tmp_path: Path, given: str, told: str) -> None:
    """Any other name is told of no text: the rule would drop all of them."""
    with pytest.raises(UsageError, match=rf"rules\.yaml.*keep.*{re.escape(told)}"):
        rules(tmp_path, f"- language: {{keep: [en, {given}]}}\n")
    (check,) = rules(tmp_path, "- language: {keep: [en, 'no', zh, ja]}\n")
    assert check.bounds.keep == ["en", "no", "zh", "ja"]


def test_language_and_score_rules(tmp_path: Path) -> None:
    checks = rules(
        tmp_path,
        "- language: {keep: [en, zh]}\n- score: {column: quality, min: 60}\n"
        "- {name: hard, score: {column: difficulty, max: 4, missing: keep}}\n",
    )
    good = {"quality": 60.0, "difficulty": 4}
    assert hits(checks, sample("The dog that sleeps on the sofa."), good) == []
    assert hits(checks, sample("一只猫坐在沙发上。"), good) == []
    assert hits(checks, sample("猫がソファーに座っています。"), good) == ["language"]
    assert hits(checks, sample("1984"), good) == [], "nothing to tell a language by"
    text = sample("The dog with the ball.")
    assert hits(checks, text, {"quality": 59.9, "difficulty": 5}) == ["score", "hard"]
    assert hits(checks, text, {"quality": None, "difficulty": None}) == ["score"]
    with pytest.raises(UsageError, match="column quality holds 'good'; a score is a number"):
        hits(checks, text, {"quality": "good"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- wordz: {min: 3}", r"unknown key 'rules.0.wordz'; did you mean 'rules.0.words'"),
        ("- words: {mim: 3}", r"unknown key 'rules.0.words.mim'; did you mean 'rules.0.words.min'"),
        ("- answers", r"did you mean 'rules.0.answer'"),
        ("- {words: {min: 1}, answer: {}}", r"a rule is of one kind, this one has words and answer"),
        ("- {name: x}", "this one names no kind; kinds: words, characters"),
        ("- words: {min: 3, max: 2}", "rules.0.words: min 3 > max 2"),
        ("- words", "give min, max or both"),
        ("- words: {min: many}", r"rules.0.words.min = 'many': input should be a valid integer"),
        ("- answer\n- answer", "two rules are called answer; give one of them a name: of its own"),
        ("- {name: 'a,b', answer: }", "letters, digits"),
        ("- pattern: {forbid: '(a+)+$'}", "a repeat within a repeat"),
        ("- pattern: {forbid: '(a'}", "is no regular expression"),
        ("- pattern: {}", "either forbid or require"),
        ("[]", "is not valid YAML|should have at least 1 item"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        rules(tmp_path, text + "\n")
    assert str(caught.value).startswith(str(tmp_path / "rules.yaml")) and "\n" not in str(caught.value)


def test_the_default_set_prints_and_loads(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(default_text(), encoding="utf-8")
    assert load_rules(str(tmp_path / "mine.yaml")) == load_rules(None)
    assert hits(load_rules(None), sample("A dog on a sofa.")) == []


@pytest.mark.parametrize("pattern", ["(a+)+", r"(\w+\s*)*x", "((ab)+c)*", "(x{2,})+", "(?:a|b+)*"])
def test_repeats_within_repeats_are_seen(pattern: str) -> None:
    assert nested_repeat(pattern) is not None


@pytest.mark.parametrize(
    "pattern", ["a+b+", "(a+)?", "(a|b)*", r"\(a+\)+", "[(a+)]+", "(a{1,9})+", "[]+]+(a)*", "(a++)+"]
)
def test_others_pass(pattern: str) -> None:
    assert nested_repeat(pattern) is None


def test_a_pattern_that_takes_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules_patterns, "TIMEOUT_S", 0.05)
    slow = "(x|xx|xxx|x?x)*y|" + "x?" * 30 + "x" * 30 + "z"
    with pytest.raises(UsageError, match=r"takes longer than 0\.05 s on a text of 60 characters"):
        find(slow, "x" * 60)


def test_the_page_lists_every_kind_with_its_bounds_and_its_example_loads(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/curate-filter.md").read_text(encoding="utf-8")
    example = page.partition("```yaml file=rules.yaml\n")[2].partition("```")[0]
    assert len(rules(tmp_path, example.removeprefix("rules:\n"))) == 12
    told = {}
    for line in page.partition("| kind | bounds |")[2].partition("\n\n")[0].splitlines()[2:]:
        kinds, bounds = line.split("|")[1:3]
        told |= {kind: set(re.findall(r"`(\w+)`", bounds)) for kind in re.findall(r"`(\w+)`", kinds)}
    known = {kind: set(unwrapped(Rule.model_fields[kind].annotation).model_fields) for kind in KINDS}
    assert told == known


def unwrapped(annotation: Any) -> Any:
    return next(one for one in get_args(annotation) if one is not type(None))
