"""What a benchmark's row becomes as a prompt: rules as data, pure functions of the row's cells.

The conventions are those reported for SAIL-VL's evaluation (a choice ends by asking for the option's letter, a short
answer for a single word or phrase, HallusionBench for yes or no; MathVista, MMVet and POPE are asked as they stand);
the wording is ours. A Chinese question is asked in Chinese. Where pictures stand in a text is decided here, too.
"""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass

from sailctl.core.errors import UsageError
from sailctl.core.records import IMAGE_PLACEHOLDER


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text, and the order in which the row's pictures are shown with it."""

    text: str
    order: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """How a row is asked: the columns it cannot do without, and the request the prompt ends with.

    `options` puts hint and options to the question, `without_options` is the request of a row that has none.
    `opening` asks where the row has no question of its own.
    """

    columns: tuple[str, ...] = ("question",)
    closing: str = ""
    options: bool = False
    without_options: str = ""
    opening: str = ""


RULES: dict[str, Rule] = {
    "mcq": Rule(("question", "A", "B"), "letter", options=True, without_options="short"),
    "short": Rule(closing="short"),
    "yes_no": Rule(closing="yes_no"),
    "bare": Rule(),
    "mme": Rule(closing="yes_no"),
    "ocrbench": Rule(closing="short"),
    "caption": Rule((), opening="caption"),
    "ocr": Rule((), opening="ocr"),
}

WORDS: dict[str, dict[str, str]] = {
    "en": {
        "letter": "Reply with nothing but the letter of the correct option.",
        "short": "Reply with a single word or a short phrase.",
        "yes_no": "Please answer yes or no.",
        "caption": "Describe this picture in as much detail as you can see.",
        "ocr": "Read out the text in this picture, and nothing else.",
        "picture": "(image {})",
    },
    "zh": {
        "letter": "请只回答正确选项的字母。",
        "short": "请用一个词或短语回答。",
        "yes_no": "请回答是或否。",
        "caption": "请尽可能详细地描述这张图片。",
        "ocr": "请读出图片中的文字，不要回答其他内容。",
        "picture": "（图{}）",
    },
}

_ASKS_YES_OR_NO = re.compile(r"(yes\s+or\s+no|是或否|是或者否|是还是否)\W*$", re.IGNORECASE)
_CHINESE = re.compile(r"[\u3400-\u9fff]")
_LATIN = re.compile(r"[A-Za-z]")
_MARKER = re.compile(r"<image\s*(\d*)>")  # "<image 1>" in MMMU, a bare "<image>" elsewhere
_MISSING = ("", "nan")  # pandas writes an absent cell as either


def rule_of(name: str) -> Rule:
    """The rule of a name; UsageError with the nearest for one that does not exist."""
    if name in RULES:
        return RULES[name]
    close = difflib.get_close_matches(name, RULES, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    raise UsageError(f"prompt rule '{name}' does not exist; {hint}rules: {', '.join(RULES)}")


def prompt(name: str, dataset: str, cells: Mapping[str, str], num_images: int) -> Prompt:
    """What the model is asked about a row of `dataset` under the rule `name`.

    `<image>` stands in it only where the row says between which words its pictures belong: a marker `<image 1>` is the
    first picture, at its first mention; pictures that are not mentioned come before the text. Otherwise there is no
    placeholder, and whoever asks puts all pictures first.
    """
    rule = rule_of(name)
    question = _cell(cells, "question")
    options = options_of(cells) if rule.options else {}
    language = language_of(dataset, " ".join([question, *options.values()]))
    words = WORDS[language]
    lines = [question or words.get(rule.opening, "")]
    if rule.options:
        lines = [_cell(cells, "hint"), *lines, *(f"{letter}. {text}" for letter, text in options.items())]
    closing = rule.without_options if rule.options and not options else rule.closing
    if closing and not (closing == "yes_no" and _ASKS_YES_OR_NO.search(question)):
        lines.append(words[closing])
    return place_images("\n".join(line for line in lines if line), num_images, words["picture"])


def options_of(cells: Mapping[str, str]) -> dict[str, str]:
    """A row's options by letter; letters without one are left out."""
    return {letter: text for letter in string.ascii_uppercase if (text := _cell(cells, letter))}


def language_of(dataset: str, text: str) -> str:
    """`zh` for a dataset that calls itself Chinese (`MMBench_DEV_CN`) or a text that mostly is, else `en`."""
    if {"CN", "ZH"} & set(re.split("[_-]", dataset.upper())):
        return "zh"
    return "zh" if 2 * len(_CHINESE.findall(text)) > len(_LATIN.findall(text)) else "en"


def place_images(text: str, num_images: int, mention: str = WORDS["en"]["picture"]) -> Prompt:
    """Turn a text's picture markers into `<image>` placeholders, exactly one a picture, or none where it has none.

    A line ends behind every placeholder and no blank stands before it: so the text reads the same to a server, which
    gets words and pictures as parts. Markers beyond the pictures, and later mentions of one, become words.
    """
    markers = list(_MARKER.finditer(text))
    numbers = [int(marker[1] or 0) for marker in markers]
    if len(markers) == num_images and not any(numbers):  # bare markers mean the pictures in order
        numbers = list(range(1, num_images + 1))
    parts, end, order = [""], 0, list[int]()
    for marker, number in zip(markers, numbers, strict=True):
        parts[-1] += text[end : marker.start()]
        end = marker.end()
        if 1 <= number <= num_images and number - 1 not in order:
            order.append(number - 1)
            parts.append("")
        else:
            parts[-1] += mention.format(number) if number else "image"
    parts[-1] += text[end:]
    if not order:
        return Prompt(parts[0], tuple(range(num_images)))
    unmentioned = [image for image in range(num_images) if image not in order]
    first, *others = (part.strip() for part in parts)
    shown = f"{IMAGE_PLACEHOLDER}\n" * len(unmentioned) + first
    return Prompt(shown + "".join(f"{IMAGE_PLACEHOLDER}\n{part}" for part in others), (*unmentioned, *order))


def _cell(cells: Mapping[str, str], column: str) -> str:
    text = cells.get(column, "").strip()
    return "" if text in _MISSING else text
