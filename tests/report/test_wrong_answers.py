"""The page of wrong answers as a file: which rows it holds, what it leaves out, and that nothing in them is markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from sailctl.core.errors import DataError, UsageError
from sailctl.core.report.wrong_answers import write_wrong_answers
from tests.report.wrong_bench import ATTACK, row, write_bench


def embedded(page: Path) -> dict[str, Any]:
    """The data of a page as a browser would find it: up to the first end of a script element."""
    html = page.read_text(encoding="utf-8")
    start = html.index('<script type="application/json" id="data">')
    return dict(json.loads(html[html.index(">", start) + 1 : html.index("</script", start)]))


def test_wrong_is_what_scores_below_one_in_the_tables_order(tmp_path: Path) -> None:
    rows = [
        row("AI2D", "7", score=0.0),
        row("AI2D", "3", score=1.0),
        row("DocVQA", "9", score=0.875),
        row("AI2D", "1", score=0.0),
    ]
    write_bench(tmp_path, rows)
    found = write_wrong_answers(tmp_path)
    assert found.path == tmp_path / "wrong_answers.html"
    assert (found.answers, found.wrong, found.shown, found.left_out) == (4, 3, 3, {})
    data = embedded(found.path)
    assert [(r["b"], r["i"], r["s"]) for r in data["rows"]] == [
        ("AI2D", "7", 0),
        ("AI2D", "1", 0),
        ("DocVQA", "9", 0.875),
    ]
    assert data["suites"] == {"AI2D": "General VQA", "DocVQA": "OCR VQA"}
    assert not list(tmp_path.glob(".*"))  # no temporary file is left


def test_a_row_carries_what_the_page_shows(tmp_path: Path) -> None:
    full = row("AI2D", "1", category="physical", answer="B", prediction="A\nB", options={"A": "one", "B": "two"})
    failed = row("AI2D", "2", prediction="", failed="refused: too long", parsed=False, cut=True)
    write_bench(tmp_path, [full, failed])
    first, second = embedded(write_wrong_answers(tmp_path).path)["rows"]
    assert first == {
        "s": 0,
        "b": "AI2D",
        "i": "1",
        "c": "physical",
        "q": "What is\nthis?",
        "a": "B",
        "p": "A\nB",
        "o": [["A", "one"], ["B", "two"]],
    }
    assert (second["f"], second["u"], second["t"]) == ("refused: too long", True, True)
    assert "p" not in second


def test_a_synth_bench_is_shown_too(runs: Path) -> None:
    folder = runs / "preference/bench"
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    wrong = [one for one in rows if one["score"] < 1]
    found = write_wrong_answers(folder)
    assert (found.answers, found.wrong, found.shown) == (len(rows), len(wrong), len(wrong))
    assert found.missing == found.refused == 0
    shown = embedded(found.path)["rows"]
    assert [(one["b"], one["i"]) for one in shown] == [(one["task"], str(one["index"])) for one in wrong]
    assert [one["m"] for one in shown if "m" in one] == [
        [one["image"].removeprefix("images/")] for one in wrong if one["image"]
    ]


def test_a_bench_without_wrong_answers_says_so(tmp_path: Path) -> None:
    write_bench(tmp_path, [row("AI2D", "1", score=1.0), row("AI2D", "2", score=1.0)])
    found = write_wrong_answers(tmp_path)
    assert (found.answers, found.wrong, found.shown) == (2, 0, 0)
    html = found.path.read_text(encoding="utf-8")
    assert "There is no wrong answer." in html
    assert "0 of 2 answers" in html
    assert "<script" not in html


@pytest.mark.parametrize(
    "text", [ATTACK, "<!-- <script>", "a\u2028b\u2029c", "</SCRIPT >", "&lt;b&gt; & <b>", '"\\', "x\x00y", "\r\n"]
)
def test_no_text_of_a_row_is_markup(tmp_path: Path, text: str) -> None:
    hostile = row("AI2D", text, prediction=text, question=text, category=text, failed=text, answer=text)
    write_bench(tmp_path, [hostile | {"options": {"A": text}}], checkpoint=text)
    page = write_wrong_answers(tmp_path).path
    html = page.read_bytes().decode("utf-8")
    (found,) = embedded(page)["rows"]
    assert [found[key] for key in "ipqcfa"] == [text] * 6
    assert found["o"] == [["A", text]]
    assert html.lower().count("<script") == html.lower().count("</script") == 2  # the data and the page's own
    assert not re.search("[\u2028\u2029]", html[html.index('id="data"') :])
    assert "<img src=x" not in html and "<b>" not in html


def test_half_a_surrogate_pair_is_kept(tmp_path: Path) -> None:
    write_bench(tmp_path, [row("AI2D", "1", prediction="\ud83d half")])
    assert embedded(write_wrong_answers(tmp_path).path)["rows"][0]["p"] == "\ud83d half"


def test_only_the_pages_own_script_may_run(tmp_path: Path) -> None:
    write_bench(tmp_path, [row("AI2D", "1")])
    html = write_wrong_answers(tmp_path).path.read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    script = html[html.rindex("<script>") + len("<script>") : html.rindex("</script>")]
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{allowed}'"
    assert rules["img-src"] == "'self' file:"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser", script)


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png",
        "images/../../secret.png",
        "images/..",
        "images/.hidden.png",
        "/etc/passwd",
        "file:///etc/passwd",
        "https://example.org/a.png",
        "images/a.png?x",
        "images//a.png",
        "images/a b.png",
        "images\\a.png",
        "images/a.png\n",
        7,
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(tmp_path: Path, path: Any) -> None:
    folder = tmp_path / "bench"
    write_bench(folder, [row("AI2D", "1", images=[path, "images/a.png"])], pictures=("a.png", ".hidden.png"))
    (tmp_path / "secret.png").write_bytes(b"secret")
    found = write_wrong_answers(folder)
    assert (found.refused, found.missing) == (1, 0)
    assert embedded(found.path)["rows"][0]["m"] == [None, "a.png"]


def test_pictures_that_were_not_kept_and_links_keep_their_place(tmp_path: Path) -> None:
    images = ["images/gone.png", "images/b.png", "images/link.png", "images/a.png"]
    write_bench(tmp_path, [row("AI2D", "1", images=images)], pictures=("a.png", "b.png"))
    (tmp_path / "images/link.png").symlink_to("/etc/passwd")
    found = write_wrong_answers(tmp_path)
    assert embedded(found.path)["rows"][0]["m"] == [None, "b.png", None, "a.png"]
    assert (found.missing, found.refused) == (2, 0)
    assert "2 pictures were not kept" in found.path.read_text(encoding="utf-8")


def test_a_page_that_would_be_too_large_keeps_the_first_of_each_benchmark(tmp_path: Path) -> None:
    rows = [row("Big", str(n), prediction="x" * 500) for n in range(100)]
    rows += [row("Huge", str(n), prediction="y" * 500) for n in range(300)]
    rows += [row("Small", str(n)) for n in range(5)]
    write_bench(tmp_path, rows)
    found = write_wrong_answers(tmp_path, max_bytes=40_000)
    data = embedded(found.path)["rows"]
    shown = {name: [one["i"] for one in data if one["b"] == name] for name in ("Big", "Huge", "Small")}
    assert len(shown["Small"]) == 5  # what needs less than its share loses nothing
    assert 20 < len(shown["Big"]) < 40 and abs(len(shown["Big"]) - len(shown["Huge"])) <= 1
    for indices in shown.values():
        assert indices == [str(n) for n in range(len(indices))]
    assert found.left_out == {"Big": 100 - len(shown["Big"]), "Huge": 300 - len(shown["Huge"])}
    assert (found.wrong, found.shown) == (405, len(data))
    html = found.path.read_text(encoding="utf-8")
    text = " ".join(re.sub(r"<[^>]*>", " ", html[html.index('id="left-out"') : html.index("</header>")]).split())
    assert f"{found.left_out['Big']} of Big, {found.left_out['Huge']} of Huge." in text
    json_bytes = len(html[html.index('"rows": [') : html.index("</script", html.index('"rows": ['))].encode())
    assert json_bytes <= 40_100


def test_all_rows_are_kept_where_they_just_fit(tmp_path: Path) -> None:
    write_bench(tmp_path, [row(name, str(n)) for name in ("A", "B") for n in range(10)])
    page = write_wrong_answers(tmp_path).path.read_text(encoding="utf-8")
    start = page.index('"rows": [\n') + len('"rows": [\n')
    size = len(page[start : page.index("\n]}", start)]) + 2
    assert write_wrong_answers(tmp_path, max_bytes=size).left_out == {}
    assert write_wrong_answers(tmp_path, max_bytes=size - 1).left_out != {}


def test_what_is_no_finished_bench_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"results\.json does not exist"):
        write_wrong_answers(tmp_path)
    write_bench(tmp_path, [row("AI2D", "1")])
    (tmp_path / "samples.jsonl").unlink()
    with pytest.raises(UsageError, match=r"samples\.jsonl does not exist"):
        write_wrong_answers(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"score": "1"}, "row 2: key 'score'"),
        ({"benchmark": None}, "row 2: needs the keys 'benchmark'"),
        ({"options": "A"}, "row 2: key 'options' holds str"),
    ],
)
def test_a_damaged_row_is_named_and_an_earlier_page_stays(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    write_bench(tmp_path, [row("AI2D", "1")])
    before = write_wrong_answers(tmp_path).path.read_bytes()
    write_bench(tmp_path, [row("AI2D", "1"), row("AI2D", "2") | change])
    with pytest.raises(DataError, match=words):
        write_wrong_answers(tmp_path)
    assert (tmp_path / "wrong_answers.html").read_bytes() == before
