"""The page of wrong answers in headless Chromium: leafing, filters, the address, pictures, hostile rows, many rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sailctl.core.report.wrong_answers import write_wrong_answers
from tests.browser import Browser, Page
from tests.report.wrong_bench import ATTACK, row, write_bench

PICTURES = ("a.png", "b.png", "c.png")  # 40, 50 and 60 pixels wide
ONE, TWO = ["images/a.png"], ["images/c.png", "images/b.png"]
OPTIONS = {"A": "one", "B": "two", "C": "three"}
ROWS = [
    row("AI2D", "1", category="physical", images=ONE, options=OPTIONS, answer="C", prediction="(B)"),
    row("AI2D", "2", category="social", images=TWO),
    row("AI2D", "right", category="physical", score=1.0),
    row("AI2D", "3", category="social", prediction="Who knows?", parsed=False),
    row("MMBench", "1", category="physical", images=["images/gone.png"]),
    row("MMBench", "2", prediction="", failed="refused: prompt too long"),
    row("DocVQA", "1", score=0.5, images=ONE, question="Total of the invoice?", prediction="12,50"),
    row("DocVQA", "2", score=0.0, prediction="", cut=True),
    row("DocVQA", "3", score=0.9, prediction="word " * 1000),
]
HEADING = "document.querySelector('#question h2').textContent"


@pytest.fixture
def opened(tmp_path: Path, tab: Page) -> Page:
    """The page of ROWS."""
    write_bench(tmp_path, ROWS, pictures=PICTURES)
    tab.open(write_wrong_answers(tmp_path).path)
    return tab


@pytest.fixture(autouse=True)
def nothing_is_wrong(tab: Page) -> Iterator[None]:
    """Neither an error nor a breach of the policy nor a dialog, and nothing asked for but files."""
    yield
    tab.evaluate("1")  # hears what is still on its way
    assert tab.problems == []
    assert {address.partition(":")[0] for address in tab.requests} <= {"file"}


def choices(page: Page, name: str) -> list[str]:
    return list(page.evaluate(f"[...document.querySelector('#{name}').options].map(o => o.text)"))


def test_filters_change_the_count_and_what_the_others_offer(opened: Page) -> None:
    assert opened.text("#count") == "1 of 8"
    assert choices(opened, "benchmark") == ["all (8)", "AI2D (3)", "MMBench (2)", "DocVQA (3)"]
    assert choices(opened, "suite") == ["all (8)", "General VQA (5)", "OCR VQA (3)"]
    assert choices(opened, "category") == ["all (8)", "(none) (4)", "physical (2)", "social (2)"]
    opened.choose("#benchmark", "=AI2D")
    assert opened.text("#count") == "1 of 3"
    assert choices(opened, "category") == ["all (3)", "physical (1)", "social (2)"]
    opened.choose("#category", "=social")
    assert opened.text("#count") == "1 of 2"
    assert opened.evaluate(HEADING) == "AI2D · 2"
    assert choices(opened, "benchmark") == ["all (2)", "AI2D (2)"]
    opened.click("#reset")
    assert opened.text("#count") == "2 of 8"  # the same question, now among all
    opened.choose("#suite", "=OCR VQA")
    assert opened.text("#count") == "1 of 3"
    opened.evaluate("location.hash = 'suite=OCR VQA&category=physical'")  # a choice that is not offered here
    opened.wait_for("document.querySelector('#count').textContent === 'none'")
    assert "No wrong answer fits" in opened.text("#question")
    assert opened.evaluate("document.querySelector('#category').selectedOptions[0].text") == "physical (0)"


def test_what_went_wrong_can_be_chosen(opened: Page) -> None:
    offered = {"unparsed (1)", "without answer (1)", "empty answer (1)", "cut at the limit (1)", "partly right (2)"}
    assert set(choices(opened, "show")) == {"all (8)"} | offered
    opened.choose("#show", "=unparsed")
    assert (opened.text("#count"), opened.evaluate(HEADING)) == ("1 of 1", "AI2D · 3")
    assert "unparsed" in opened.text(".badges")
    opened.choose("#show", "=failed")
    assert (opened.text("#count"), opened.evaluate(HEADING)) == ("1 of 1", "MMBench · 2")
    assert "without answer: refused: prompt too long" in opened.text(".badges")
    assert "(no answer)" in opened.text(".pair .wrong")
    opened.choose("#show", "=empty")
    assert opened.evaluate(HEADING) == "DocVQA · 2"
    assert "the model said nothing" in opened.text(".pair .wrong")


def test_graded_scores_can_be_bounded_and_sorted(opened: Page) -> None:
    opened.choose("#benchmark", "=DocVQA")
    opened.choose("#below", "0.5")
    assert (opened.text("#count"), opened.evaluate(HEADING)) == ("1 of 1", "DocVQA · 2")
    opened.choose("#below", "0.55")
    assert opened.text("#count") == "2 of 2"
    opened.choose("#below", "1")
    opened.choose("#order", "worst")
    heads = opened.evaluate("[...document.querySelectorAll('.row .head')].map(e => e.textContent)")
    assert heads == ["DocVQA · 20", "DocVQA · 10.5", "DocVQA · 30.9"]


def test_search_looks_at_question_answer_and_index(opened: Page) -> None:
    opened.press("/")
    opened.write("INVOICE")
    opened.wait_for("document.querySelector('#count').textContent === '1 of 1'")
    assert opened.evaluate(HEADING) == "DocVQA · 1"
    opened.choose("#search", "who KNOWS")
    opened.wait_for(f"{HEADING} === 'AI2D · 3'")
    opened.choose("#search", "nowhere to be found")
    opened.wait_for("document.querySelector('#count').textContent === 'none'")


def test_keys_and_buttons_leaf(opened: Page) -> None:
    seen = []
    for key in ("j", "ArrowRight", "j", "k", "ArrowLeft"):
        opened.press(key)
        seen.append(opened.text("#count"))
    assert seen == ["2 of 8", "3 of 8", "4 of 8", "3 of 8", "2 of 8"]
    opened.click("#next")
    assert opened.text("#count") == "3 of 8"
    opened.click("#previous")
    assert opened.text("#count") == "2 of 8"
    opened.press("k", "k", "k")
    assert opened.text("#count") == "1 of 8"
    assert opened.evaluate("document.querySelector('#previous').disabled")
    opened.press(*"j" * 20)
    assert opened.text("#count") == "8 of 8"
    opened.press("Control+k")  # belongs to the browser
    assert opened.text("#count") == "8 of 8"
    opened.press("/", "k", "k", "Enter")  # typed, not leafed
    assert opened.evaluate("document.querySelector('#search').value") == "kk"
    assert opened.text("#count") in ("8 of 8", "none")  # before or after the search
    opened.wait_for("document.querySelector('#count').textContent === 'none'")


def test_the_list_is_a_way_too(opened: Page) -> None:
    opened.click("#row-4")
    assert opened.text("#count") == "5 of 8"
    opened.evaluate("document.querySelector('#list').focus()")
    for key, count in {"ArrowDown": "6 of 8", "ArrowUp": "5 of 8", "End": "8 of 8", "Home": "1 of 8"}.items():
        opened.press(key)
        assert opened.text("#count") == count
    selected = opened.evaluate("[...document.querySelectorAll('[aria-selected=true]')].map(e => e.id)")
    assert selected == [opened.evaluate("document.querySelector('#list').getAttribute('aria-activedescendant')")]


def test_a_reload_and_a_link_lead_to_the_same_place(opened: Page, chromium: Browser) -> None:
    opened.choose("#suite", "=General VQA")
    opened.choose("#category", "=social")
    opened.press("j")
    assert opened.text("#count") == "2 of 2"
    opened.wait_for("location.hash.includes('at=AI2D%2F3')")
    opened.reload()
    assert (opened.text("#count"), opened.evaluate(HEADING)) == ("2 of 2", "AI2D · 3")
    assert opened.evaluate("document.querySelector('#suite').value") == "=General VQA"
    assert opened.evaluate("document.querySelector('#category').value") == "=social"
    link = opened.evaluate("location.href")
    other = chromium.page()
    other.open(link)
    assert (other.text("#count"), other.evaluate(HEADING)) == ("2 of 2", "AI2D · 3")
    other.evaluate("location.hash = 'category=&at=MMBench/2'")  # as one who edits the address
    other.wait_for(f"{HEADING} === 'MMBench · 2'")
    assert other.text("#count") == "1 of 4"
    other.evaluate("location.hash = 'show=toString&order=x&below=7&at=nowhere'")
    other.wait_for("document.querySelector('#count').textContent === '1 of 8'")
    assert other.problems == []
    other.close()


def test_pictures_load_in_their_order_and_enlarge(opened: Page) -> None:
    opened.press("j")
    widths = "[...document.querySelectorAll('.pictures img')].map(i => i.naturalWidth)"
    opened.wait_for(f"{widths}.every(width => width > 0)")
    assert opened.evaluate(widths) == [60, 50]
    alts = opened.evaluate("[...document.querySelectorAll('.pictures img')].map(i => i.alt)")
    assert alts == ["Picture 1 of 2 of question 2 of AI2D", "Picture 2 of 2 of question 2 of AI2D"]
    opened.click(".pictures button")
    opened.wait_for("document.querySelector('#zoomed').naturalWidth === 60")
    assert opened.evaluate("document.querySelector('#zoom').open")
    assert opened.evaluate("document.querySelector('#zoomed').getBoundingClientRect().width") > 1000
    opened.press("j")
    assert opened.text("#count") == "2 of 8"  # not while a picture is enlarged
    opened.press("Escape")
    opened.wait_for("!document.querySelector('#zoom').open")
    opened.choose("#benchmark", "=MMBench")
    assert "not kept by the bench" in opened.text(".pictures")
    assert opened.evaluate("document.querySelector('.pictures img')") is None


def test_a_question_is_shown_whole(opened: Page) -> None:
    assert opened.text("#question .texts section .prose") == "What is\nthis?"
    marks = opened.evaluate(
        "[...document.querySelectorAll('.options li')].map(e => [...e.children].map(c => c.textContent).join('|'))"
    )
    assert marks == ["A|one", "B|two|chosen", "C|three|right"]
    assert "score 0" in opened.text(".badges")
    opened.choose("#show", "=partly")
    opened.press("j")
    length = "document.querySelector('.pair .wrong .prose').textContent.length"
    assert opened.evaluate(length) < 1600
    assert opened.text(".pair .wrong button") == "Show all 5,000 characters"
    opened.click(".pair .wrong button")
    assert opened.evaluate(length) == 5000
    opened.click(".pair .wrong button")
    assert opened.evaluate(length) < 1600


def test_hostile_rows_stay_text(tmp_path: Path, tab: Page) -> None:
    hostile = row(ATTACK, ATTACK, question=ATTACK, prediction=ATTACK, answer=ATTACK, category=ATTACK, failed=ATTACK)
    hostile |= {"options": {"<b>": ATTACK}, "images": ['images/a.png"><script>alert(2)</script>']}
    rows = [hostile, row("__proto__", "constructor", category="__proto__"), row("AI2D", "1")]
    write_bench(tmp_path, rows, checkpoint=ATTACK)
    tab.open(write_wrong_answers(tmp_path).path)
    assert tab.text("#count") == "1 of 3"
    assert tab.evaluate(HEADING) == f"{ATTACK} · {ATTACK}"
    assert tab.evaluate("document.querySelector('.pair .wrong .prose').textContent") == ATTACK
    assert tab.evaluate("document.querySelectorAll('#question b, #rows b, #question img, header b').length") == 0
    assert tab.evaluate("document.scripts.length") == 2
    tab.choose("#benchmark", "=" + ATTACK)
    assert tab.text("#count") == "1 of 1"
    tab.wait_for("location.hash.includes('benchmark')")
    tab.reload()
    assert tab.text("#count") == "1 of 1"
    tab.click("#reset")
    tab.press("j")
    assert tab.evaluate(HEADING) == "__proto__ · constructor"
    assert tab.evaluate("document.querySelector('.meta').textContent") == "__proto__"


def test_an_injected_script_would_not_run_and_would_be_noticed(tmp_path: Path, chromium: Browser) -> None:
    write_bench(tmp_path, ROWS)
    other = chromium.page()
    other.open(write_wrong_answers(tmp_path).path)
    other.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=images/none.png onerror=alert(1)>')")
    other.wait_for("document.querySelector('img[src=\"images/none.png\"]').complete")
    other.evaluate("fetch('http://127.0.0.1:9/').catch(() => 0)")
    assert not [problem for problem in other.problems if problem.startswith("dialog")]
    assert any("inline event handler" in problem for problem in other.problems)
    assert any("127.0.0.1" in problem for problem in other.problems)
    other.close()


def test_twenty_thousand_wrong_answers_are_usable(tmp_path: Path, tab: Page) -> None:
    names = ("AI2D", "DocVQA", "MMBench", "Other")
    rows = [
        row(names[n // 5000], str(n), category=f"kind {n % 50}", question=f"Question {n}?\n" + "word " * 60)
        for n in range(20_000)
    ]
    write_bench(tmp_path, rows)
    found = write_wrong_answers(tmp_path)
    assert (found.shown, found.left_out) == (20_000, {})
    tab.open(found.path)
    assert tab.text("#count") == "1 of 20,000"
    tab.press("j", "j")
    assert tab.text("#count") == "3 of 20,000"
    tab.evaluate("document.querySelector('#list').focus()")
    tab.press("End")
    assert tab.evaluate(HEADING) == "Other · 19999"
    assert "Question 19999?" in tab.text("#row-19999")
    assert tab.evaluate("document.querySelectorAll('*').length") < 1000  # the list holds only what is in sight
    tab.evaluate("document.querySelector('#list').scrollTop = 76 * 10000")
    tab.wait_for("document.querySelector('#row-10000')")
    tab.choose("#category", "=kind 7")
    tab.choose("#benchmark", "=DocVQA")
    assert tab.text("#count") == "1 of 100"
    tab.choose("#search", "question 5107?")
    tab.wait_for("document.querySelector('#count').textContent === '1 of 1'")


@pytest.mark.parametrize("dark", [False, True])
def test_a_narrow_window_needs_no_scrolling_sideways(tmp_path: Path, tab: Page, dark: bool) -> None:
    long = row("A" * 60, "x" * 80, question="y" * 300, images=TWO, options={"A": "z" * 200}, category="c" * 90)
    write_bench(tmp_path, [long, *ROWS], pictures=PICTURES, checkpoint="runs/" + "d" * 120)
    tab.dark(dark)
    tab.resize(400, 800)
    tab.open(write_wrong_answers(tmp_path).path)
    assert not tab.evaluate("document.querySelector('#filters').open")
    tab.click("#list-toggle")
    assert tab.evaluate("document.querySelector('#list').clientHeight") > 100
    tab.click("#filters summary")
    tab.wait_for("document.querySelector('#search').offsetHeight > 0")
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.press("j")
    assert tab.text("#count") == "2 of 9"
    light = json.loads(tab.evaluate("JSON.stringify(getComputedStyle(document.body).backgroundColor.match(/\\d+/g))"))
    assert (int(light[0]) < 80) is dark


def test_focus_can_be_seen(opened: Page) -> None:
    reached = set()
    for _ in range(50):
        opened.press("Tab")
        if opened.evaluate("document.activeElement === document.body"):
            break
        style = opened.evaluate("(s => [s.outlineStyle, s.outlineWidth])(getComputedStyle(document.activeElement))")
        reached.add(opened.evaluate("document.activeElement.id"))
        assert style == ["solid", "3px"]
    assert {"search", "suite", "benchmark", "category", "show", "reset", "next", "list"} <= reached


def test_a_bench_without_wrong_answers_says_so(tmp_path: Path, tab: Page) -> None:
    write_bench(tmp_path, [row("AI2D", "1", score=1.0)])
    tab.open(write_wrong_answers(tmp_path).path)
    assert "There is no wrong answer." in tab.text("main")
