"""The annotation page in headless Chromium: two people, thirty items, a reload and a restart amid them; every key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sailctl.core.curate.annotate.items import read_items
from sailctl.core.curate.annotate.request import AnnotateRequest
from tests.browser import Browser, Page
from tests.curate.helpers_annotate import serving
from tests.curate.helpers_curate import captions_tar
from tests.helpers_data import conversation, picture, write_tar

ATTACK = "</p><img src=x onerror=alert(1)><script>alert(2)</script><b>bold</b>"
READY = "document.querySelector('#rubric button') || !document.querySelector('#finished').hidden"
CHECKED = "[...document.querySelectorAll('[aria-checked=true]')].map(e => `${e.dataset.field} ${e.textContent.trim()}`)"
CRITERIA = ("hallucination", "inaccuracy", "omission", "fluency")
# What both say of the ten items that are for both, in the order of the items.
ANN = {"hallucination": "1234512345", "inaccuracy": "5555555555", "omission": "1113333555", "fluency": "5555544444"}
BO = {"hallucination": "1234512345", "inaccuracy": "4444444444", "omission": "1133335555", "fluency": "5555444445"}


@pytest.fixture(autouse=True)
def nothing_is_wrong(tab: Page) -> Iterator[None]:
    """Neither an error nor a breach of the policy nor a dialog, and nothing asked for but of this machine."""
    yield
    tab.evaluate("1")  # hears what is still on its way
    assert wrong(tab) == []
    assert all(address.startswith(("http://127.0.0.1:", "data:,")) for address in tab.requests)


def wrong(page: Page) -> list[str]:
    """What went wrong in a page, but for asking a server that is gone."""
    return [problem for problem in page.problems if "ERR_CONNECTION_REFUSED" not in problem]


def enter(page: Page, address: str) -> None:
    page.open(address)
    page.wait_for(READY)


def at(page: Page, item: int) -> None:
    """Wait until an item is there, counted from 1."""
    page.wait_for(f"document.querySelector('#status').textContent.split(' · ')[0] === 'Item {item}'")


def test_two_people_thirty_items(tmp_path: Path, chromium: Browser, tab: Page) -> None:
    tar = captions_tar(tmp_path / "a.tar", [f"This is picture number {n}." for n in range(30)])
    request = AnnotateRequest([str(tar)], tmp_path / "out", samples=30, annotators="ann,bo", double=1 / 3)
    pages = {"ann": tab, "bo": chromium.page()}

    def say(name: str, row: int) -> list[str]:
        """The four digits of a person for a picture."""
        items = read_items(tmp_path / "out/items.jsonl")
        both = [item.row for item in items if len(item.annotators) == 2]
        assert len(both) == 10
        said = ANN if name == "ann" else BO
        return [said[one][both.index(row)] if row in both else "3" for one in CRITERIA]

    def judge(name: str, first: int, last: int) -> None:
        """Judge items `first` to `last`, counted from 1, as fast as the keys can be pressed."""
        page = pages[name]
        for number in range(first, last + 1):
            at(page, number)
            row = int(page.text(".text .prose").rpartition(" ")[2].rstrip("."))
            page.press(*say(name, row), "Enter")
        page.wait_for(f"document.querySelector('#progress').textContent === '{last} of 20 done'")

    with serving(request) as served:
        for name, page in pages.items():
            enter(page, served.address(name))
            assert page.text("#progress") == "0 of 20 done" and page.text("#annotator") == name
            assert page.evaluate("location.search") == "", "the secret does not stay in the address"
        judge("ann", 1, 7)
        judge("bo", 1, 5)
        at(tab, 8)
        tab.press("2", "4")
        tab.wait_for("document.querySelectorAll('[aria-checked=true]').length === 2")
        tab.reload()  # amid an item
        at(tab, 8)
        assert tab.evaluate(CHECKED) == ["1.hallucination 2", "1.inaccuracy 4"]
        assert tab.evaluate("document.querySelector('.scores.current').ariaLabel") == "Completeness"
        tab.press("u", "u", "u")  # both answers, then to the item before
        at(tab, 7)
        tab.press("ArrowRight")
        judge("ann", 8, 12)
    with serving(request) as served:  # again, at another port, with other secrets
        pages["bo"].press("1")
        pages["bo"].wait_for("!document.querySelector('#trouble').hidden")
        assert "the server does not answer" in pages["bo"].text("#trouble")
        assert pages["bo"].evaluate(CHECKED) == [], "what is not saved is not shown as if it were"
        for name, page in pages.items():
            enter(page, served.address(name))
        at(tab, 13)
        judge("ann", 13, 20)
        tab.wait_for("document.querySelector('#agreement').textContent")
        assert "Agreement is shown once" in tab.text("#agreement")
        judge("bo", 6, 20)
        tab.reload()
        tab.wait_for("document.querySelector('#agreement table')")
        rows = tab.evaluate(
            "[...document.querySelectorAll('tbody tr')].map(e => [...e.children].map(c => c.innerText))"
        )
        assert rows == [
            ["No hallucination", "10", "100%", "1.00", "1.00"],
            ["Accuracy", "10", "0%", "–", "–"],  # of people who never vary there is no kappa
            ["Completeness", "10", "80%", "0.70", "0.83"],
            ["Fluency", "10", "80%", "0.60", "0.60"],
        ]
    agreement = served.result["agreement"]
    assert served.result["complete"] and served.result["rows"] == 40 * 4
    # Completeness: 8 of 10 equal; by chance 0.3·0.2 + 0.4·0.4 + 0.3·0.4 = 0.34. Squares: 0.8 of 2.4 + 2.24 + 0.4².
    assert agreement["omission"]["kappa"]["value"] == pytest.approx((0.8 - 0.34) / (1 - 0.34))
    assert agreement["omission"]["weighted"]["value"] == pytest.approx(1 - 0.8 / 4.8)
    assert agreement["fluency"]["kappa"]["value"] == pytest.approx((0.8 - 0.5) / (1 - 0.5))
    opinions = pq.read_table(tmp_path / "out/opinions.parquet").to_pylist()
    for opinion in opinions:
        digits = dict(zip(CRITERIA, say(opinion["judge"].removeprefix("person:"), opinion["row"]), strict=True))
        assert opinion["value"] == float(digits[opinion["criterion"]])
    assert wrong(pages["bo"]) == []
    pages["bo"].close()


@pytest.fixture
def pair(tmp_path: Path) -> AnnotateRequest:
    """Three pictures with two hostile captions each; the last picture is broken."""
    pictures = [picture(0, 400, 300), picture(1, 60, 600, "TIFF"), b"rubbish"]
    captions_tar(tmp_path / "a.tar", [f"first {n} {ATTACK}" for n in range(3)], pictures)
    captions_tar(tmp_path / "b.tar", [f"second {n} {ATTACK}" + " word" * 200 for n in range(3)], pictures)
    return AnnotateRequest(
        [str(tmp_path / "a.tar")], tmp_path / "out", reference=str(tmp_path / "b.tar"), annotators="ann", port=0
    )


def test_every_key_of_a_pair(pair: AnnotateRequest, tab: Page) -> None:
    with serving(pair) as served:
        enter(tab, served.address("ann"))
        assert ATTACK in tab.evaluate("document.querySelector('.prose').textContent")
        assert tab.evaluate("document.querySelectorAll('.prose *, main script').length") == 0
        tab.press("?")
        tab.wait_for("document.querySelector('#help').open")
        tab.press("1", "s", "Escape")
        tab.wait_for("!document.querySelector('#help').open")
        assert tab.evaluate(CHECKED) == [], "keys mean nothing while help is open"
        while tab.evaluate("document.querySelector('.broken') !== null"):
            tab.press("ArrowRight")
            tab.wait_for("!document.querySelector('.broken')")
        tab.press("z")
        tab.wait_for("!document.querySelector('#zoom').hidden")
        tab.wait_for("[400, 60].includes(document.querySelector('#zoom img').naturalWidth)")
        tab.press("z")
        tab.wait_for("document.querySelector('#zoom').hidden")
        tab.press("Enter")
        tab.wait_for("document.querySelector('#status').textContent.startsWith('Not complete')")
        tab.press("4", "3", "5")  # there is no fourth way to compare two; then text 2 is better
        tab.wait_for("document.querySelectorAll('[aria-checked=true]').length === 2")
        assert tab.evaluate(CHECKED) == ["preference 3 B is better", "1.hallucination 5"]
        tab.press("ArrowUp", "1")
        tab.wait_for("document.querySelector('[aria-checked=true]').textContent.includes('5') === false")
        tab.wait_for(f"{CHECKED}[1] === '1.hallucination 1'")
        tab.click("[data-field='2.fluency'][title='small slips']")
        tab.wait_for(f"{CHECKED}.includes('2.fluency 4')")
        tab.press("u")
        tab.wait_for(f"!{CHECKED}.includes('2.fluency 4')")
        tab.press("s")
        tab.wait_for("document.querySelector('#progress').textContent.startsWith('1 of 3')")
        tab.wait_for("document.querySelector('#status').className === ''")
        tab.press("ArrowLeft")
        tab.wait_for("document.querySelector('#status').textContent.includes('Skipped as broken')")
        tab.press("u")
        tab.wait_for("document.querySelector('#progress').textContent.startsWith('0 of 3')")
        assert len(tab.evaluate(CHECKED)) == 2, "what was said before it was skipped is there again"


def test_a_broken_picture_is_told(pair: AnnotateRequest, tab: Page) -> None:
    with serving(pair) as served:
        enter(tab, served.address("ann"))
        for _ in range(3):
            if tab.evaluate("document.querySelector('.broken') !== null"):
                break
            before = tab.text("#status")
            tab.press("ArrowRight")
            tab.wait_for(f"document.querySelector('#status').textContent !== '{before}'")
        assert "This picture cannot be shown" in tab.text(".broken") and "bad_image" in tab.text(".broken")
        tab.press("s")
        tab.wait_for("document.querySelector('#progress').textContent.startsWith('1 of 3')")


@pytest.mark.parametrize("dark", [False, True])
def test_narrow_windows_and_focus(pair: AnnotateRequest, tab: Page, dark: bool) -> None:
    with serving(pair) as served:
        tab.dark(dark)
        tab.resize(390, 800)
        enter(tab, served.address("ann"))
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        reached = set()
        for _ in range(30):
            tab.press("Tab")
            if tab.evaluate("document.activeElement === document.body"):
                break
            style = tab.evaluate("(s => [s.outlineStyle, s.outlineWidth])(getComputedStyle(document.activeElement))")
            assert style == ["solid", "3px"]
            reached.add(tab.evaluate("document.activeElement.dataset.field || document.activeElement.id"))
        assert {"skip", "keys", "preference", "1.fluency", "2.fluency"} <= reached
        colour = tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)")
        assert (int(colour[0]) < 80) is dark


def test_conversations_in_chinese(tmp_path: Path, tab: Page) -> None:
    import json

    turns = conversation("<image>\n图中有几只鸟？", "三只。", "它们是什么颜色？", "黑色。")
    members = [("a.png", picture(0)), ("a.json", json.dumps({"conversations": turns}).encode())]
    tar = write_tar(tmp_path / "a.tar", members)
    request = AnnotateRequest([str(tar)], tmp_path / "out", "sft", annotators="安娜", lang="zh")
    with serving(request) as served:
        enter(tab, served.address("安娜"))
        assert tab.evaluate("document.documentElement.lang") == "zh"
        assert tab.evaluate("[...document.querySelectorAll('.text > *')].map(e => e.textContent)") == [
            "问题", "图中有几只鸟？", "回答", "三只。", "问题", "它们是什么颜色？", "回答", "黑色。"
        ]  # fmt: skip
        names = tab.evaluate("[...document.querySelectorAll('.criterion h3')].map(e => e.textContent)")
        assert names == ["难度", "复杂度", "相关性"]
        tab.press("1", "2", "5", "Enter")
        tab.wait_for("!document.querySelector('#finished').hidden")
        assert tab.text("#done-title") == "全部完成，谢谢！"
    told = replace(request, data=[]).perform(served.heard, report_only=True)
    assert {field: one["value"] for field, one in told["means"].items()} == {
        "candidate.difficulty": 1.0, "candidate.complexity": 2.0, "candidate.relevance": 5.0
    }  # fmt: skip


def test_somebody_elses_page_gets_nothing(pair: AnnotateRequest, chromium: Browser) -> None:
    with serving(pair) as served:
        other = chromium.page()
        enter(other, served.address("ann"))  # the browser has the cookie now
        base = served.address("ann").partition("?")[0]
        other.open("data:text/html,<title>elsewhere</title>")
        tried = f"fetch('{base}answer', {{method: 'POST', credentials: 'include', body: '{{}}'}})"
        assert other.evaluate(f"{tried}.then(() => 'let in', () => 'kept out')") == "kept out"
        other.close()
        assert served.get("ann", "state")["done"] == 0
