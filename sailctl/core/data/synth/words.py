"""The language of the templates: compact and regular, so that a tiny model can hold every word of it whole.

Everything a question, caption or template answer says stands here; `vocabulary()` is read off these constants.
"""

from __future__ import annotations

import functools
import re

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 35, 35),
    "green": (35, 150, 55),
    "blue": (35, 75, 215),
    "yellow": (245, 220, 40),
    "purple": (145, 45, 175),
    "orange": (245, 130, 20),
    "black": (20, 20, 20),
    "white": (252, 252, 252),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")  # levels 1 and 2: the first six
SIZES = ("small", "large")
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")
PLACES = ("center", *QUADRANTS)
NUMBERS = ("zero", "one", "two", "three", "four")

CAPTION_PROMPTS = (
    "Describe the image.",
    "Describe the image in detail.",
    "What is shown in the image?",
    "Write a caption.",
)
CAPTION_FIRST = "There are {count} shapes."
CAPTION_THING = "A {size} {color} {shape} is in the {place}."
CAPTION_SIDE = "The {a} is {side} the {b}."

REGION_NAMES = ("the {color} shape", "the {shape}", "the shape in the {place}")
REGION_DESCRIBE = "Describe {region}."
REGION_WRITE = "Write a caption of {region}."
REGION_CAPTION = "The {size} {shape} in the {place} is {color}."  # its shape before its colour, unlike CAPTION_THING

WORD_PROMPTS = ("Read the word.", "What word is shown?", "What does the image say?")
CODE_PROMPTS = ("Read the code.", "What code is shown?")
TEXT_PROMPTS = ("Read the text.", "What text is shown?", "Write down the text.")

CHART_PROMPT = "Describe the chart."
CHART_CAPTION = "A chart with {count} bars."
CHART_CAPTION_ONE = "A chart with one bar."
CHART_BAR = "The {name} bar is {value}."
CHART_VALUE = "What is the value of the {name} bar?"
CHART_VALUE_LETTER = "What is the value of bar {name}?"
CHART_COLOR = "What color is the bar?"
CHART_HIGHEST = "Which bar is the highest?"
CHART_LOWEST = "Which bar is the lowest?"
CHART_WHICH = "Which bar has the value {value}?"

CLOSED_COLOR = "Is the {shape} {a} or {b}?"
CLOSED_COLOR_3 = "Is the {shape} {a}, {b} or {c}?"
CLOSED_SHAPE = "Is the {color} shape a {a} or a {b}?"
CLOSED_SIZE = "Is the {shape} {a} or {b}?"
CLOSED_SIDE = "Is the {shape} {a} or {b} the {other}?"
CLOSED_PLACE = "Is the {shape} in the {a} or in the {b}?"
CLOSED_MORE = "Are there more {a} shapes or more {b} shapes?"
YES_COLOR = "Is the {shape} {color}?"
YES_THERE = "Is there {article} {color} {shape}?"
YES_SIDE = "Is the {shape} {side} the {other}?"
YES_SAME = "Do the shapes have the same color?"
YES_NO = ("yes", "no")
ARTICLES = ("a", "an")
SIDES = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}

OPEN_COLOR = "What color is the {shape}?"
OPEN_COLOR_ONE = "What color is the shape?"
OPEN_SHAPE = "What shape is {color}?"
OPEN_SHAPE_ONE = "What shape is shown?"
OPEN_PLACE = "Where is the {shape}?"
OPEN_PLACE_COLOR = "Where is the {color} shape?"
OPEN_SIDE = "What is {side} the {shape}?"
OPEN_AT = "What is in the {place}?"
OPEN_THING = "{color} {shape}"

COUNT_SHAPES = "How many shapes are there?"
COUNT_COLOR = "How many {color} shapes are there?"
MATH_PROMPTS = ("What is the result?", "Solve the problem.")

ITEMS = ("tea", "milk", "rice", "salt", "cake", "soup", "fish", "eggs", "nuts", "corn", "beef", "pie", "ham", "jam")
PRICE = "What is the price of {item}?"
TOTAL = "What is the total?"
TOTAL_KEY = "SUM"
COSTS = "Which item costs {value}?"
FORM_KEYS = ("name", "age", "room", "day", "id", "code")
FIELD = "What is the {key}?"
FORM_NAMES = ("tom", "ann", "ben", "eva", "max", "zoe", "sam", "leo", "kim", "ida", "ray", "joy")
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

PEOPLE = ("Tom", "Ann", "Ben", "Eva", "Max", "Zoe", "Sam", "Leo", "Kim", "Ida", "Ray", "Joy")
OBJECTS = ("ball", "book", "cup", "hat", "box", "lamp", "kite", "bag", "key", "pen", "coin", "car")
ROOMS = ("kitchen", "garden", "garage", "office", "attic", "cellar", "hall", "barn")
HAS = "{person} has {article} {color} {object}."
IS_IN = "{person} is in the {room}."
KEEPS = "The {object} is in the {room}."
ASK_WHO = "Who has the {object}?"
ASK_WHAT = "What does {person} have?"
ASK_COLOR = "What color is the {object}?"
ASK_PERSON_COLOR = "What color is the {object} of {person}?"
ASK_WHERE = "Where is {person}?"
ASK_WHO_IN = "Who is in the {room}?"
ASK_WHERE_OBJECT = "Where is the {object}?"


def article(word: str) -> str:
    """The indefinite article before a word."""
    return ARTICLES[word[0] in "aeiou"]


@functools.cache
def vocabulary() -> list[str]:
    """All whole words that templates use, sorted: lower-case ones and the capitalised forms that occur."""
    texts: list[str] = []
    for name, value in globals().items():
        if name.isupper():
            texts.extend([value] if isinstance(value, str) else list(value))
    words = {word for text in texts for word in re.findall(r"[A-Za-z]+", re.sub(r"\{\w+\}", " ", text))}
    return sorted(words)
