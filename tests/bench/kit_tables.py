"""Tables in the schema of sail18's 18 benchmarks, hard cases first, with what each answer is worth by its rule.

What an answer is worth stands beside it, written by reasoning about the rule; the raw scores are computed in
`test_scorer.py`, by other code than the product's.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from sailctl.core.bench.suites import Benchmark, load_suite

BENCHMARKS = {one.name: one for one in load_suite("sail18").benchmarks}


@dataclass
class Made:
    """A table, the answers to it, and by index what each is worth (0 to 1) and which of them nobody can read."""

    benchmark: Benchmark
    rows: list[dict[str, str]] = field(default_factory=list)
    predictions: dict[str, str] = field(default_factory=dict)
    worth: dict[str, float] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)

    def add(self, index: object, prediction: str | None, worth: float, *, read: bool = True, **cells: object) -> None:
        """Another row; one without a prediction is not asked."""
        name = str(index)
        shown = picture() if not self.rows else self.rows[0]["index"]
        row = {"index": name, "image": shown, "question": f"What about {name}?"}
        self.rows.append(row | {column: str(cell) for column, cell in cells.items()})
        if prediction is not None:
            self.predictions[name] = prediction
            self.worth[name] = worth
            if not read:
                self.unread.add(name)

    def write(self, folder: Path) -> Path:
        """The table as a file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.benchmark.dataset}.tsv"
        write_tsv(path, self.rows)
        return path


def write_tsv(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Rows as pandas writes them."""
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns, delimiter="\t", lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)


def picture() -> str:
    """A small picture as base64, longer than any index."""
    made = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(made, "PNG")
    return base64.b64encode(made.getvalue()).decode()


# --- options ---------------------------------------------------------------------------------------------------------

# An answer, what it is worth, and whether an option can be read in it without a judge. R is the right letter, W a wrong
# one; `right` and `wrong` are their words, no letter of which stands alone.
CHOICE_ANSWERS: list[tuple[str, float, bool]] = [
    ("R", 1, True),
    ("R.", 1, True),
    ("(R)", 1, True),
    ("**R**", 1, True),
    ("The answer is R.", 1, True),
    ("Answer: R: right", 1, True),
    ("right", 1, True),  # the option's words alone
    ("It is right.", 1, True),
    ("W", 0, True),
    ("(W) wrong", 0, True),
    ("The answer is W, surely.", 0, True),
    ("It is wrong", 0, True),
    ("r", 0, False),  # a small letter is no option
    ("W or R", 0, False),  # two letters
    ("right or wrong", 0, False),  # two options' words
    ("R is what anybody would choose after one look at it", 0, False),  # a letter that far from the end may be a word
    ("", 0, False),
    ("Z", 0, True),  # reads as "none of them"
    ("Cannot determine the answer", 0, True),  # a refusal, read as such
    ("No idea at all", 0, False),
    ("W right", 0, True),  # the letter counts, not the words
]
WORDS = ("cherry", "lemon", "plum", "walnut")


def choice(
    name: str, *, options: int = 4, extra: dict[str, str] | None = None, split: str | None = None, first: int = 0
) -> Made:
    """Two rounds of the answers, the right option moving on from question to question."""
    made = Made(BENCHMARKS[name])
    for number in range(2 * len(CHOICE_ANSWERS)):
        told, worth, read = CHOICE_ANSWERS[number % len(CHOICE_ANSWERS)]
        right = (number + number // len(CHOICE_ANSWERS)) % options
        wrong = (right + 1) % options
        words = [WORDS[(place + number) % len(WORDS)] for place in range(options)]
        cells = {letter: word for letter, word in zip("ABCD", [*words, "", "", ""][:4], strict=False)}
        cells |= {"answer": "ABCD"[right], "category": f"kind {number % 3}", **(extra or {})}
        if split is not None:
            cells["split"] = split
        made.add(number + first, _told(told, right, wrong, words), worth, read=read, **cells)
    return made


def _told(text: str, right: int, wrong: int, words: list[str]) -> str:
    text = text.replace("right", words[right]).replace("wrong", words[wrong])
    letters = {"R": "ABCD"[right], "W": "ABCD"[wrong], "r": "abcd"[right]}
    return " ".join(_letter(word, letters) for word in text.split(" "))


def _letter(word: str, letters: dict[str, str]) -> str:
    bare = word.strip("().,:*")
    return word.replace(bare, letters[bare]) if bare in letters else word


def mmmu() -> Made:
    """Options, open questions (their answer becomes option A), and rows of the dev split, which nobody is asked."""
    made = choice("MMMU_VAL", split="validation", extra={"l2-category": "Physics"})
    for number, (answer, told, worth, read) in enumerate(
        [
            ("12", "The result is 12", 1, True),
            ("12", "12", 1, True),
            ("12", "It is 7", 0, False),
            ("3.5", "3.5 metres", 1, True),
            ("3.5", "B", 0, True),  # "Other Answers"
            ("oak", "an oak", 1, True),
        ]
    ):
        cells = {"A": "", "B": "", "C": "", "D": "", "answer": answer, "category": "open", "l2-category": "Music"}
        made.add(100 + number, told, worth, read=read, split="validation", **cells)
    for number in range(6):
        cells = {"A": "x", "B": "y", "C": "", "D": "", "answer": "A", "category": "open", "l2-category": "Music"}
        made.add(200 + number, None, 0, split="dev", **cells)
    return made


# Of each question the answers to its rotations: R right, W wrong, A always the first letter, t the words of the right
# option, ? unreadable; and the worth of all of them together.
CIRCULAR = [
    ("RRRR", 1), ("RRRW", 0), ("WRRR", 0), ("tRtR", 1), ("RR?R", 0), ("????", 0), ("AAAA", 0), ("WWWW", 0), ("RtRt", 1),
    ("RR", 1), ("RW", 0), ("AA", 0), ("RRR", 1), ("R?R", 0),
]  # fmt: skip


def mmbench() -> Made:
    """Circular: the options move on by one in each rotation, a million further in the index."""
    made = Made(BENCHMARKS["MMBench_DEV"])
    for base, (told, _) in enumerate(CIRCULAR, start=5):
        for turn, kind in enumerate(told):
            words = [WORDS[(place + turn) % len(told)] for place in range(len(told))]
            right = (base - turn) % len(told)
            wrong = (right + 1) % len(told)
            answer = {"R": "ABCD"[right] + ".", "W": f"({'ABCD'[wrong]})", "A": "A", "t": f"It is {words[right]}."}
            worth = {"R": 1, "t": 1, "A": float(right == 0)}.get(kind, 0)
            cells = dict(zip("ABCD", [*words, "", "", ""][:4], strict=False))
            cells |= {"answer": "ABCD"[right], "hint": "", "category": "object_localization", "source": "made"}
            cells |= {"l2-category": "finegrained_perception (instance-level)", "split": "dev", "comment": ""}
            index = base + turn * 10**6
            made.add(index, answer.get(kind, "hard to say"), worth, read=kind != "?", **cells)
    return made


# --- yes and no ------------------------------------------------------------------------------------------------------

# An answer and what it says.
YES_NO_ANSWERS = [
    ("Yes", "Yes"), ("yes.", "Yes"), ("YES!", "Yes"), ("Yes, it is.", "Yes"), ("The answer is yes", "Yes"),
    ("No", "No"), ("no.", "No"), ("No, there is not.", "No"), ("no-one is there", "No"), ("I would say: no", "No"),
    ("Yes and no", ""), ("Nope", ""), ("", ""), ("I do not know", ""), ("Yesterday", ""),
]  # fmt: skip


def yes_no(made: Made, index: object, number: int, answer: str, **cells: object) -> None:
    told, says = YES_NO_ANSWERS[number % len(YES_NO_ANSWERS)]
    made.add(index, told, float(says == answer), read=bool(says), answer=answer, **cells)


MME_KINDS = [
    "OCR", "artwork", "celebrity", "color", "count", "existence", "landmark", "position", "posters", "scene",
    "code_reasoning", "commonsense_reasoning", "numerical_calculation", "text_translation",
]  # fmt: skip


def mme() -> Made:
    """Fourteen tasks, two pictures each, two questions about each: one to be answered yes and one no."""
    made = Made(BENCHMARKS["MME"])
    number = 0
    for task in MME_KINDS:
        for shown in range(2):
            for answer in ("Yes", "No"):
                if number % 5 < 3:  # right in whatever words, so that pairs are right together now and then
                    told = (
                        ["Yes.", "yes", "Yes, it is"][number % 3]
                        if answer == "Yes"
                        else ["No", "no.", "No!"][number % 3]
                    )
                    made.add(number, told, 1.0, answer=answer, category=task, image_path=f"{task}/{shown}.jpg")
                else:
                    yes_no(made, number, number // 5, answer, category=task, image_path=f"{task}/{shown}.jpg")
                number += 1
    return made


def hallusion() -> Made:
    """Sets of figures and questions; figure 0 is asked without a picture in the original, here it has one."""
    made = Made(BENCHMARKS["HallusionBench"])
    number = 0
    for category, kind in (("VD", "illusion"), ("VD", "math"), ("VS", "chart"), ("VS", "table")):
        for group in range(2):
            for figure in range(3):
                for question in range(2):
                    index = f"{category}_{kind}_1_{group}_{figure}_{question}"
                    answer = "Yes" if (figure + question) % 2 else "No"
                    cells = {"category": category, "l2-category": kind, "image_path": f"{category}/{figure}.png"}
                    if group == 0 and kind != "chart":
                        made.add(index, f"{answer}.", 1.0, answer=answer, **cells)
                    else:
                        yes_no(made, index, number, answer, **cells)
                        number += 1
    return made


def pope() -> Made:
    """Rows of one or several categories."""
    made = Made(BENCHMARKS["POPE"])
    for number in range(45):
        category = ("adversarial", "popular,random", "adversarial,popular,random")[number % 3]
        yes_no(made, number, number, "Yes" if number % 2 else "No", category=category, image_source=f"COCO_{number}")
    return made


# --- words and phrases -----------------------------------------------------------------------------------------------

# References, answer, ANLS: 1 - edits / longer length, 0 below one half.
ANLS_ANSWERS: list[tuple[str, str, float]] = [
    ("['hello']", "hello", 1),
    ("['hello']", "HELLO", 1),
    ("['hello']", "hallo", 1 - 1 / 5),
    ("['abcd']", "abxy", 0.5),  # the threshold itself counts
    ("['abcde']", "abxyz", 0),
    ("['12.5%']", "12.5", 1 - 1 / 5),
    ("['$1,000']", "1,000", 1 - 1 / 6),
    ("['yes']", "Yes.", 1 - 1 / 4),
    ("['first', 'second']", "second", 1),
    ("['first', 'seconds']", "second", 1 - 1 / 7),
    ("['a b']", "a  b", 1),  # runs of blanks are one
    ("['1998']", "1998", 1),
    ("['07']", "7", 0.5),
    ("['hello']", "", 0),
    ("plain", "plain", 1),  # no list
    ("1998", "1988", 0.75),
    ("None", "None", 1),  # text, not an absent cell
    ("['University of Leeds']", "the University of Leeds", 1 - 4 / 23),
    ("['Müller']", "Muller", 1 - 1 / 6),
    ("['\"quoted\"']", "quoted", 1 - 2 / 8),
    ("['line']", "li\nne", 1 - 1 / 5),
]

# Reference, answer, whether they agree within 5 percent.
CHART_ANSWERS: list[tuple[str, str, float]] = [
    ("100", "105", 1),
    ("100", "105.1", 0),
    ("100", "95", 1),
    ("100", "94.9", 0),
    ("0.5", "50%", 1),  # a percentage is a hundredth …
    ("50", "50%", 0),  # … also where the reference has none
    ("50%", "50%", 1),
    ("50%", "0.49", 1),
    ("14", "14.", 1),
    ("0", "0", 1),  # nought has no percentage: compared as text
    ("0", "0.0", 0),
    ("Yes", "yes", 1),
    ("Yes", "Yes.", 0),
    ("1000", "1,000", 0),
    ("-5", "-5.2", 1),
    ("5", "-5", 0),
    ("light blue", "Light Blue", 1),
    ("2015", "2016", 1),  # years are numbers, too
    ("['2', '3']", "3", 1),
    ("12", " 12 ", 1),
    ("12", "", 0),
]

# How often the answer is among ten references, as the answer is written, and the score of that many.
VQA_ANSWERS: list[tuple[str, str, int, float]] = [
    ("nokia", "nokia", 10, 1),
    ("nokia", "Nokia", 4, 1),
    ("nokia", "nokia.", 3, (3 * 2 / 3 + 7 * 1) / 10),
    ("nokia", "the nokia", 2, (2 * 1 / 3 + 8 * 2 / 3) / 10),
    ("nokia", "nokia", 1, (0 + 9 * 1 / 3) / 10),
    ("nokia", "nokia phone", 10, 0),
    ("2", "two", 5, 1),
    ("2", "Two.", 5, 1),
    ("12:30", "12:30", 5, 1),
    ("50%", "50%", 10, 1),
    ("50%", "50", 10, 0),
    ("coca-cola", "coca cola", 5, 1),
    ("don't", "dont", 5, 1),
    ("stop", "", 10, 0),
    ("stop", "stop!", 5, 1),
    ("7.5", "7.5", 5, 1),
    ("1,000", "1000", 5, 1),
    ("stop", "sign", 10, 0),
    ("a", "a", 10, 1),  # an article: nothing is left of either
    ("stop", "STOP\n", 3, (3 * 2 / 3 + 7 * 1) / 10),
]

EXACT_ANSWERS: list[tuple[str, str, float]] = [
    ("Jane Austen", "Jane Austen", 1),
    ("Jane Austen", "jane austen", 1),
    ("Jane Austen", " Jane Austen ", 1),
    ("Jane Austen", "Jane Austen.", 0),
    ("Jane Austen", "by Jane Austen", 0),
    ("Yes", "yes", 1),
    ("Yes", "Yes.", 0),
    ("No", "Yes", 0),
    ("1984", "1984", 1),
    ("1984", "1984.0", 0),
    ("50%", "50%", 1),
    ("50%", "50", 0),
    ("['Cookbooks', 'Food']", "food", 1),
    ("['Cookbooks', 'Food']", "Wine", 0),
    ("Art & Photography", "Art & Photography", 1),
    ("Art & Photography", "Art and Photography", 0),
    ("A", "a", 1),
    ("No", "", 0),
    ("Travel", "Travel\n", 1),
    ("Law", "law", 1),
]

OCR_ANSWERS: list[tuple[str, str, float]] = [
    ("['CENTRE']", "CENTRE", 1),
    ("['CENTRE']", "The word is centre.", 1),
    ("['CENTRE']", "CENTER", 0),
    ("['12']", "312", 1),  # anywhere in the answer
    ("['12']", "1 2", 0),
    ("['$4.50', '4.50']", "4.50 dollars", 1),
    ("['two lines']", "two\nlines", 1),
    ("['two\\nlines']", "two lines", 1),
    ("['CENTRE']", "", 0),
    ("['50%']", "50", 0),
    ("['50']", "50%", 1),
    ("['No. 7']", "no. 7", 1),
    ("['a b']", "ab", 0),
]
MATH_ANSWERS: list[tuple[str, str, float]] = [
    ("['x ^ 2 + y']", "x^2+y", 1),
    ("['x^{2}']", "the formula is x ^ { 2 }", 1),
    ("['X + 1']", "x+1", 0),  # here case counts
    ("['\\\\frac{a}{b}']", "\\frac{a}{b}", 1),
    ("['a+b']", "a-b", 0),
]
OCR_KINDS = [
    "Regular Text Recognition", "Irregular Text Recognition", "Artistic Text Recognition", "Handwriting Recognition",
    "Digit String Recognition", "Non-Semantic Text Recognition", "Scene Text-centric VQA", "Doc-oriented VQA",
    "Key Information Extraction",
]  # fmt: skip


def answered(name: str, cases: list[tuple[str, str, float]], rounds: int = 2, **cells: str) -> Made:
    """Rounds of cases, the second from the other end."""
    made = Made(BENCHMARKS[name])
    for number in range(rounds * len(cases)):
        answer, told, worth = cases[number % len(cases)] if number < len(cases) else cases[-1 - number % len(cases)]
        made.add(number, told, worth, answer=answer, **cells)
    return made


def chartqa() -> Made:
    made = answered("ChartQA_TEST", CHART_ANSWERS)
    for number, row in enumerate(made.rows):
        row["split"] = ("test_human", "test_augmented")[number % 2]
    return made


def textvqa() -> Made:
    made = Made(BENCHMARKS["TextVQA_VAL"])
    for number in range(2 * len(VQA_ANSWERS)):
        reference, told, times, worth = VQA_ANSWERS[number % len(VQA_ANSWERS)]
        references = [reference] * times + [f"other {place}" for place in range(10 - times)]
        made.add(number, told, worth, answer=repr(references))
    return made


def ocrbench() -> Made:
    """A thousand rows, as many as the benchmark's full marks."""
    made = Made(BENCHMARKS["OCRBench"])
    for number in range(1000):
        kind = OCR_KINDS[number % 10] if number % 10 < 9 else "Handwritten Mathematical Expression Recognition"
        cases = OCR_ANSWERS if number % 10 < 9 else MATH_ANSWERS
        answer, told, worth = cases[number // 10 % len(cases)]
        made.add(number, told, worth, answer=answer, category=kind)
    return made


# --- with a judge ----------------------------------------------------------------------------------------------------

# `judge=TEXT` at the end of an answer tells the stub judge of the tests what to say. With a judge, and without one.
MMVET_ANSWERS: list[tuple[str, str, float | None, float]] = [
    ("a red car", "It is a red car. judge=1.0", 1.0, 1),
    ("a red car", "A car. judge=0.4", 0.4, 0),
    ("-1 <AND> -5", "x = -1 judge=0.5", 0.5, 0.5),
    ("-1 <AND> -5", "x = -1 or x = -5 judge=1", 1, 1),
    ("oak <OR> an oak tree", "An oak tree judge=1.0", 1, 1),
    ("7 <AND> ten <OR> 10", "7 and 10 judge=0.9", 0.9, 1),
    ("7", "17 judge=0.0", 0, 0),  # whole words
    ("7", "It is 7. judge=0", 0, 1),
    ("50%", "50% judge=1.0", 1, 1),
    ("a long description", "nothing of it judge=0.3", 0.3, 0),
    ("a red car", "car judge=banana", None, 0),  # no number, ever
    ("a red car", "car judge=1.5", None, 0),  # no score
    ("a red car", "car judge=warm/0.2", 0.2, 0),  # readable only when asked again, warmer
    ("a red car", "", 0.0, 0),  # the stub's word for what it is told nothing about
]
MMVET_SKILLS = ["rec", "ocr", "rec,know", "ocr,spat", "math", "gen,rec"]


def mmvet(*, judged: bool) -> Made:
    made = Made(BENCHMARKS["MMVet"])
    for number in range(42):
        answer, told, worth, without = MMVET_ANSWERS[number % len(MMVET_ANSWERS)]
        told = told.replace(" judge=", f" [{number}] judge=")
        if judged:
            value, read = worth or 0.0, worth is not None
        else:
            value, read = without, bool(told)
        made.add(f"v1_{number}", told, value, read=read, answer=answer, category=MMVET_SKILLS[number % 6])
    return made


# Question type, answer type, answer, right option, choices, answer of the model; with a judge= worth and whether it can
# be read; without one: the same.
_FOUR = "['10', '20', '30', '40']"
_WORDS = "['cherry', 'lemon', 'plum']"
MATHVISTA_ANSWERS: list[tuple[str, str, str, str, str, str, tuple[float, bool], tuple[float, bool]]] = [
    ("multi_choice", "text", "lemon", "B", _WORDS, "B", (1, True), (1, True)),
    ("multi_choice", "text", "lemon", "B", _WORDS, "The answer is (B) lemon", (1, True), (1, True)),
    ("multi_choice", "text", "lemon", "B", _WORDS, "lemon", (1, True), (1, True)),
    ("multi_choice", "text", "lemon", "B", _WORDS, "(C)", (0, True), (0, True)),
    ("multi_choice", "text", "lemon", "B", _WORDS, "lemon or plum judge=B", (1, True), (0, False)),
    ("multi_choice", "text", "lemon", "B", _WORDS, "who knows judge=unclear", (0, False), (0, False)),
    ("multi_choice", "integer", "20", "B", _FOUR, "B.", (1, True), (1, True)),
    ("free_form", "integer", "14", "", "", "14", (1, True), (1, True)),
    ("free_form", "integer", "14", "", "", "The answer is 14. judge=14", (1, True), (1, True)),
    ("free_form", "integer", "14", "", "", "I count 14 judge=14", (1, True), (1, True)),
    ("free_form", "integer", "14", "", "", "3 + 11 = 14 judge=14", (1, True), (1, True)),
    ("free_form", "integer", "14", "", "", "between 3 and 14 judge=14", (1, True), (0, False)),
    ("free_form", "integer", "14", "", "", "The answer is 13 judge=13", (0, True), (0, True)),
    ("free_form", "integer", "14", "", "", "14.0 judge=14.0", (0, False), (0, False)),  # no whole number as written
    ("free_form", "float", "1.2", "", "", "1.2", (1, True), (1, True)),
    ("free_form", "float", "1.2", "", "", "about 1.20 judge=1.20", (1, True), (1, True)),
    ("free_form", "float", "1.2", "", "", "1.3 judge=1.3", (0, True), (0, True)),
    ("free_form", "float", "0.5", "", "", "a half judge=0.5", (1, True), (0, False)),
    ("free_form", "integer", "14", "", "", "", (0, False), (0, False)),
    ("free_form", "integer", "3", "", "", "three judge=I see 3", (0, False), (0, False)),
    ("free_form", "list", "[2007, 2008]", "", "", "From 2007 judge=[2007, 2008]", (0, True), (0, False)),  # see below
]  # VLMEvalKit's rule compares no lists: the last is wrong whatever is said


def mathvista(*, judged: bool) -> Made:
    made = Made(BENCHMARKS["MathVista_MINI"])
    for number in range(2 * len(MATHVISTA_ANSWERS)):
        kind, sort, answer, option, choices, told, with_judge, without = MATHVISTA_ANSWERS[
            number % len(MATHVISTA_ANSWERS)
        ]
        told = told if judged else told.partition(" judge=")[0]
        worth, read = with_judge if judged else without
        cells = {"question_type": kind, "answer_type": sort, "answer": answer, "answer_option": option}
        cells |= {"choices": choices, "task": "geometry" if number % 2 else "figure question answering"}
        made.add(number + 1, told, worth, read=read, skills="['arithmetic', 'algebra']", **cells)
    return made


def without_judge() -> list[Made]:
    """All 18, in the suite's order."""
    made = [
        choice("MMStar", extra={"l2_category": "coarse"}),
        mmbench(),
        mmmu(),
        mme(),
        choice("SEEDBench_IMG"),
        choice("RealWorldQA", options=3),
        mmvet(judged=False),
        choice("AI2D_TEST", first=300),
        answered("DocVQA_VAL", ANLS_ANSWERS),
        answered("InfoVQA_VAL", list(reversed(ANLS_ANSWERS))),
        chartqa(),
        textvqa(),
        answered("OCRVQA_TEST", EXACT_ANSWERS),
        ocrbench(),
        mathvista(judged=False),
        choice("ScienceQA_VAL", extra={"hint": "Fruit grows on trees."}),
        hallusion(),
        pope(),
    ]
    assert [one.benchmark.name for one in made] == list(BENCHMARKS)
    assert all(len(one.predictions) >= 40 for one in made)
    return made


# Answers no option can be read in, what the judge says of them, what they are then worth, and whether that can be read.
JUDGED_CHOICES: list[tuple[str, float, bool]] = [
    ("hard to say, judge=R", 1, True),
    ("hard to say, judge=W", 0, True),
    ("hard to say, judge=The answer is R.", 1, True),
    ("hard to say, judge=Z", 0, True),
    ("hard to say, judge=unclear", 0, False),  # VLMEvalKit draws an option by lot
    ("hard to say, judge=(W,R)", 0, False),
]


def judged_choice() -> Made:
    """Answers that only a judge can read, and some that need none."""
    made = Made(BENCHMARKS["MMStar"])
    for number in range(24):
        told, worth, read = [*JUDGED_CHOICES, *CHOICE_ANSWERS[:2]][number % 8]
        right, wrong = number % 4, (number + 1) % 4
        told = told.replace("R", "ABCD"[right]).replace("W", "ABCD"[wrong])
        cells = dict(zip("ABCD", WORDS, strict=True)) | {"answer": "ABCD"[right], "category": "all"}
        made.add(number, f"[{number}] {told}" if "judge" in told else told, worth, read=read, **cells)
    return made


# Rotations as in CIRCULAR: r the judge reads the right option, w a wrong one, u none. Past a wrong one nobody asks, and
# a rotation that was not asked for is not one that cannot be read.
JUDGED_CIRCULAR = ["Rrrr", "rrrr", "RRwr", "wrrr", "RRRu", "uRRR", "rrur", "WuuR", "RrRr", "RRRW", "wu"]


def judged_circular() -> Made:
    made = Made(BENCHMARKS["MMBench_DEV"])
    for base, told in enumerate(JUDGED_CIRCULAR, start=1):
        missed = "W" in told  # settled before the judge is asked
        for turn, kind in enumerate(told):
            right = (base - turn) % len(told)
            wrong = (right + 1) % len(told)
            letter = {"R": right, "r": right, "W": wrong, "w": wrong}.get(kind)
            said = "unclear" if letter is None else "ABCD"[letter]
            text = said if kind in "RW" else f"[{base}.{turn}] hard to say, judge={said}"
            asked = kind in "RW" or not missed
            worth = float(kind == "R" or (kind == "r" and asked))
            missed = missed or kind in "wu"
            cells = dict(zip("ABCD", [*WORDS[: len(told)], "", ""][:4], strict=False)) | {"answer": "ABCD"[right]}
            cells |= {"category": "ocr", "l2-category": "ocr", "split": "dev"}
            made.add(base + turn * 10**6, text, worth, read=not (kind == "u" and asked), **cells)
    return made


def judged_yes_no() -> Made:
    made = Made(BENCHMARKS["POPE"])
    answers = [("Yes", "Yes"), ("No", "No"), ("Hm judge=Yes", "Yes"), ("Hm judge=No.", "No"), ("Hm judge=perhaps", "")]
    for number in range(20):
        told, says = answers[number % 5]
        answer = "Yes" if number // 5 % 2 else "No"
        told = told.replace("Hm", f"Hm [{number}]")
        made.add(number, told, float(says == answer), read=bool(says), answer=answer, category="random")
    return made


def with_judge() -> list[Made]:
    """What a judge is asked about."""
    return [mmvet(judged=True), mathvista(judged=True), judged_choice(), judged_circular(), judged_yes_no()]
