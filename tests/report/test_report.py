"""The summary and the page from result files alone: right numbers, nothing from outside, hostile text stays text."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.errors import DataError, UsageError
from sailctl.core.report.figures import short_count
from sailctl.core.report.page import choose, duration, write_report
from sailctl.core.report.plots import running_mean
from sailctl.core.report.read import read_runs
from sailctl.core.report.summary import write_summary

STAGES = ["alignment", "advance", "anneal", "knowledge", "instruction", "preference"]


class Page(HTMLParser):
    """Collects tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._inside[-1:]):
            self.texts.append(data)


@pytest.fixture
def html(runs: Path, tmp_path: Path) -> str:
    return write_report(runs, tmp_path / "report.html").read_text(encoding="utf-8")


def test_summary_has_the_documented_shape(runs: Path) -> None:
    summary = write_summary(runs)
    assert json.loads((runs / "summary.json").read_text()) == summary
    assert [stage["name"] for stage in summary["stages"]] == STAGES  # training order, not the alphabet's
    first = summary["stages"][0]
    rows = [json.loads(line) for line in (runs / "alignment/metrics.jsonl").read_text().splitlines()]
    assert (first["samples"], first["tokens"]) == (24 * 30, 1344 * 30)
    assert (first["loss_first"], first["loss_last"]) == (rows[0]["loss"], rows[-1]["loss"])
    assert first["score"] == json.loads((runs / "alignment/bench/results.json").read_text())["overall"]["score"]
    assert first["perf"]["seconds"] == pytest.approx(30 * 0.24)
    assert first["perf"]["samples_per_s"] == pytest.approx(100.0)
    assert summary["seconds"] == pytest.approx(6 * (30 * 0.24 + 12.5))
    assert {"score", "n", "ci95", "untrained", "chance", "blind"} <= summary["bench"]["overall"].keys()
    assert {"closed_vqa", "open_vqa", "caption", "chart", "ocr_word_unseen"} <= summary["bench"]["tasks"].keys()
    last = json.loads((runs / "preference/bench/results.json").read_text())
    assert summary["bench"]["overall"] == last["overall"]


def test_summary_takes_the_time_the_caller_measured(runs: Path) -> None:
    assert write_summary(runs, seconds=401.25)["seconds"] == 401.25


def test_a_bench_beside_the_stages_speaks_for_the_whole(runs: Path) -> None:
    shutil.copytree(runs / "advance/bench", runs / "bench")
    assert read_runs(runs).bench_folder == runs / "bench"


def test_the_page_asks_the_network_for_nothing(html: str) -> None:
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        for name in ("src", "href", "xlink:href", "srcset", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#")), (tag, name, value)
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'")
    assert sum(tag == "script" for tag, _ in page.tags) == 1


def test_hostile_answers_stay_text(html: str) -> None:
    page = Page(html)
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert "<script>document.title" not in html
    assert sum('<script>document.title="owned"</script>' in text for text in page.texts) >= 2  # question and answer


def test_the_page_shows_every_task_stage_and_curve(html: str, runs: Path) -> None:
    page = Page(html)
    overall = json.loads((runs / "preference/bench/results.json").read_text())["overall"]
    text = " ".join(page.texts)
    assert f"{overall['score']:.3f}" in text
    assert f"{overall['ci95'][0]:.3f} to {overall['ci95'][1]:.3f}" in text
    assert all(stage in text for stage in STAGES)
    assert "bad_image 1, no_turns 1" in text
    assert sum(tag == "svg" for tag, _ in page.tags) == 2
    cards = [attributes for tag, attributes in page.tags if tag == "article"]
    assert {card["data-task"] for card in cards} >= {"caption", "closed_vqa", "text_qa"}
    assert {card["data-verdict"] for card in cards} == {"right", "wrong"}
    assert sum(tag == "img" for tag, _ in page.tags) > 50  # text_qa has none
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_same_files_give_the_same_page(runs: Path, tmp_path: Path) -> None:
    first, second = (write_report(runs, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def test_an_image_outside_the_bench_folder_is_not_read(runs: Path, tmp_path: Path) -> None:
    samples = runs / "preference/bench/samples.jsonl"
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    (tmp_path / "secret.png").write_bytes(b"\x89PNG secret")
    for row in rows:
        row["image"] = "../../../secret.png"
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = Page(write_report(runs, tmp_path / "r.html").read_text())
    assert not any(tag == "img" for tag, _ in page.tags)


def test_runs_without_a_bench_and_a_bench_without_runs(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "preference/bench", tmp_path / "only/bench")
    assert "0 to 1" in write_report(tmp_path / "only", tmp_path / "b.html").read_text()
    for folder in runs.glob("*/bench"):
        shutil.rmtree(folder)
    assert write_summary(runs)["bench"] is None
    html = write_report(runs, tmp_path / "a.html").read_text()
    assert "Training stages" in html and "Sample answers" not in html
    single = Page(write_report(runs / "advance", tmp_path / "c.html").read_text())
    assert sum(tag == "svg" for tag, _ in single.tags) == 1


def test_a_quick_bench_has_no_baselines(runs: Path, tmp_path: Path) -> None:
    for path in runs.glob("*/bench/results.json"):
        results = json.loads(path.read_text())
        for entry in (results["overall"], *results["tasks"].values()):
            for tier in ("blind", "untrained"):
                entry[tier] = None
                del entry[f"{tier}_ci95"], entry[f"over_{tier}"]
        path.write_text(json.dumps(results))
    assert "this model" in write_report(runs, tmp_path / "r.html").read_text()


def test_what_is_missing_or_broken_is_named(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"runs/tiny: is no folder; .*--runs, or train .*--stage alignment$"):
        read_runs(tmp_path / "runs/tiny")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no run"):
        read_runs(tmp_path / "empty")
    results = runs / "advance/bench/results.json"
    results.write_text("{")
    with pytest.raises(DataError, match=re.escape(str(results))):
        read_runs(runs)
    results.write_text("{}")
    with pytest.raises(DataError, match="key 'overall' is missing"):
        read_runs(runs)
    good = json.loads((runs / "preference/bench/results.json").read_text())
    for place, key, value in (
        ("overall", "ci95", 0.5),
        ("overall", "score", "high"),
        ("overall", "n", None),
        ("chart", "blind", []),
        ("chart", "ci95", [0.1]),
    ):
        broken = json.loads(json.dumps(good))
        (broken["overall"] if place == "overall" else broken["tasks"][place])[key] = value
        results.write_text(json.dumps(broken))
        with pytest.raises(DataError, match=rf"{place}: key '{key}' is missing or malformed; run sailctl bench"):
            read_runs(runs)
    (runs / "advance/metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(DataError, match="key 'loss' is missing"):
        read_runs(runs)


def test_a_folder_gets_the_page_in_it(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    assert write_report(runs, tmp_path / "there") == tmp_path / "there/report.html"
    assert write_report(runs, tmp_path / "new") == tmp_path / "new/report.html"
    assert write_report(runs, tmp_path / "mine.html") == tmp_path / "mine.html"


def test_a_torn_last_line_of_metrics_is_left_out(runs: Path) -> None:
    path = runs / "advance/metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 31, "loss"')
    assert len(read_runs(runs).stages[1].rows) == 30


def test_choose_shows_both_sides_where_there_are_both() -> None:
    rows = [{"score": float(i < 3), "level": 1, "index": i} for i in range(20)]
    chosen = choose(rows, 8)
    assert sum(row["score"] for row in chosen) == 3 and len(chosen) == 8
    assert len(choose(rows[:3], 8)) == 3
    assert [row["score"] for row in choose(rows, 4)] == [1.0, 1.0, 0.0, 0.0]


def test_small_numbers_and_large_ones_read_well() -> None:
    assert [short_count(v) for v in (7, 950, 2880, 17_300, 4_000_000, 2.5e9)] == [
        "7",
        "950",
        "2.88k",
        "17.3k",
        "4M",
        "2.5B",
    ]
    assert [duration(v) for v in (2.34, 59, 75, 4020)] == ["2.3s", "59s", "1m 15s", "1h 07m"]
    assert running_mean([2.0, 4.0, 6.0]) == [3.0, 4.0, 5.0]


class TestCommand:
    def test_it_writes_the_page_and_the_summary(self, runs: Path, tmp_path: Path) -> None:
        words = [
            "report",
            "--runs",
            str(runs),
            "--out",
            str(tmp_path / "deep/page.html"),
            "--seconds",
            "12.5",
            "--json",
        ]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        answer = json.loads(done.stdout)
        assert Path(answer["report"]).is_file()
        summary = json.loads(Path(answer["summary"]).read_text())
        assert summary["seconds"] == 12.5 and answer["stages"] == summary["stages"]
        assert CliRunner().invoke(app, ["report", "--runs", str(runs)]).exit_code == 0
        assert (runs / "report.html").is_file()

    def test_nothing_to_report_is_a_usage_error(self, tmp_path: Path) -> None:
        done = CliRunner().invoke(app, ["report", "--runs", str(tmp_path)])
        assert done.exit_code == 2 and "holds no run" in done.stderr
        assert not list(tmp_path.iterdir())
