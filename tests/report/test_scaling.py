"""Curves become laws, correlations, pictures and a page: right numbers, bad files in one line, nothing from outside."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sailctl.cli import app
from sailctl.core.errors import DataError, UsageError
from sailctl.core.report.curves import read_curves
from sailctl.core.report.scaling import as_json, find, tables
from sailctl.core.report.scaling_page import render
from tests.browser import Page

SIZES = [16, 32, 48, 64, 96, 128, 192, 256]  # millions of samples, as the paper's pretraining


def curve(folder: Path, **changes: Any) -> Path:
    """A trunk, its annealed branches and what SFT makes of them, along known laws."""
    rng, rows = random.Random(3), []
    for step, size in enumerate(SIZES, 1):
        understanding = 40 + 4 * math.log(size / 16) + rng.gauss(0, 0.3)
        scores = {
            ("advance", None, None, "understanding"): understanding - 3 + rng.gauss(0, 1),
            ("anneal", None, 2_000_000, "understanding"): understanding,
            ("instruction", "sft:sail-vl-2b:instruction", 2_000_000, "sail18"): 52
            + 0.5 * (understanding - 40)
            + rng.gauss(0, 0.2),
        }
        for (stage, then, branch, suite), score in scores.items():
            row = {"step": step, "samples": size * 1_000_000, "tokens": size * 1_300_000_000, "trunk": "advance"}
            row |= {"trunk_sha256": "x", "stage": stage, "then": then, "branch_samples": branch, "suite": suite}
            row |= {"questions": None, "trained_samples": 1, "trained_tokens": 1, "score": score / 100, "n": 3500}
            rows.append({**row, "ci95": [score / 100 - 0.012, score / 100 + 0.012], "checkpoint": "c", **changes})
    folder.mkdir(exist_ok=True)
    (folder / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write(folder: Path, text: str) -> Path:
    path = folder / "scores.csv"
    path.write_text(text)
    return path


def test_laws_and_correlation_of_a_trunk(tmp_path: Path) -> None:
    found = as_json(find([curve(tmp_path / "run")]))
    names = ["understanding · trunk as it is", "understanding · annealed", "sail18 · then sft:sail-vl-2b:instruction"]
    assert [one["name"] for one in found["series"]] == names and found["remarks"] == []
    law = found["series"][1]["laws"]["samples"]
    assert law["slope_ci95"][0] < 4 < law["slope_ci95"][1] and law["n"] == 8 and law["preferred"] == "log"
    assert law["points_a_doubling"] == pytest.approx(law["slope"] * math.log(2))
    assert (
        law["next"]["samples"] == 512e6
        and law["next"]["interval"][0] < 40 + 4 * math.log(32) < law["next"]["interval"][1]
    )
    assert [check["x"] for check in law["held_out"]] == [size * 1e6 for size in SIZES[3:]]
    for check in law["held_out"]:
        assert check["inside"] == (check["low"] <= check["score"] <= check["high"])
    # tokens are the samples times a constant here: the slope is the same, the intercept is not
    tokens = found["series"][1]["laws"]["tokens"]
    assert tokens["slope"] == pytest.approx(law["slope"]) and tokens["next"]["tokens"] == pytest.approx(512e6 * 1300)
    (pair,) = found["correlations"]  # pretraining against SFT, not against the trunk as it is
    assert (pair["first"], pair["second"], pair["n"]) == (names[1], names[2], 8)
    assert pair["rho"] > 0.98 and pair["rho_ci95"][0] < pair["rho"] < pair["rho_ci95"][1]
    assert pair["r_squared"] == pytest.approx(pair["rho"] ** 2)
    assert [table[0] for table in tables(find([tmp_path / "run"]))] == [
        "score against samples",
        "score against real tokens",
        "correlation of scores at equal sizes",
    ]


def test_a_csv_by_hand(tmp_path: Path) -> None:
    text = "Samples,Score,Suite\n1000,50,a\n2000,60,a\n4000,70,a\n1000,20,b\n2000,25,b\n4000,29.5,b\n"
    found = as_json(find([write(tmp_path, text)]))
    law = found["series"][0]["laws"]["samples"]
    assert law["points_a_doubling"] == pytest.approx(10) and law["next"]["expected"] == pytest.approx(80)
    assert law["held_out"] == [] and "tokens" not in found["series"][0]["laws"]
    assert found["correlations"][0]["n"] == 3


def test_shares_are_read_as_points_and_too_little_is_said(tmp_path: Path) -> None:
    found = find([write(tmp_path, "tokens,score,suite\n1e6,0.5,a\n2e6,0.6,a\n1e6,0.2,b\n")])
    assert found.series[0].points[0].score == 50 and [fit.axis for fit in found.fits] == ["tokens"]
    said = "\n".join(found.remarks)
    assert "scores are from 0 to 1 and were read as shares" in said
    assert "a: two points make a line without an interval" in said
    assert "b: no law: 1 different sizes: a law needs 2 or more" in said
    assert "a and b: no correlation: they share 1 sizes in tokens; 3 or more are needed" in said
    assert as_json(found)["series"][0]["laws"]["tokens"]["slope_ci95"] is None


def test_scores_that_are_all_equal_are_no_certainty(tmp_path: Path) -> None:
    found = find([curve(tmp_path / "run", score=0.0)])
    assert "understanding · annealed: all scores are 0.0: intervals without width say nothing then" in found.remarks
    assert any(
        remark.endswith("no correlation: one side is constant: it correlates with nothing") for remark in found.remarks
    )
    assert "<svg" in render(found)


def test_branches_of_several_lengths_and_questions_are_series_of_their_own(tmp_path: Path) -> None:
    run = curve(tmp_path / "run")
    rows = [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]
    more = [{**row, "branch_samples": 500_000} for row in rows if row["stage"] == "anneal"]
    more += [{**row, "questions": 50} for row in rows if row["stage"] == "anneal"]
    (run / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows + more))
    names = {one.name for one in read_curves([run])[0]}
    assert "understanding, all questions · annealed on 2M" in names
    assert "understanding, all questions · annealed on 500k" in names
    assert "understanding, 50 questions · annealed on 2M" in names


def test_of_a_recipes_path_only_its_name_is_shown(tmp_path: Path) -> None:
    run = curve(tmp_path / "run")
    text = (run / "curve.jsonl").read_text().replace("sft:sail-vl-2b:", "sft:/home/me/recipes/mine:")
    (run / "curve.jsonl").write_text(text)
    series = read_curves([run])[0][-1]
    assert series.kind == "then sft:mine:instruction" and series.then == "sft:/home/me/recipes/mine:instruction"


def test_a_suite_may_have_no_interval(tmp_path: Path) -> None:
    found = find([curve(tmp_path / "run", ci95=None, n=None)])
    assert found.series[0].points[0].ci95 is None and "<svg" in render(found)


def test_several_curves_are_told_apart_by_their_runs(tmp_path: Path) -> None:
    series, _ = read_curves([curve(tmp_path / "small"), curve(tmp_path / "large")])
    assert {one.origin for one in series} == {"small", "large"} and len({one.name for one in series}) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("score,suite\n1,a\n", "columns are score, suite; should be samples or tokens"),
        ("", "columns are none"),
        ("samples,score\n1,x\n", "line 2: score = 'x': should be a number"),
        ("samples,score\n1,nan\n", "should be a number"),
        ("samples,score\n,5\n", "line 2: has no size; give samples or tokens"),
        ("samples,score\n1\n", "line 2: score = None: should be a number"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_curves([write(tmp_path, text)])
    assert message in str(caught.value)


def test_bad_curves(tmp_path: Path) -> None:
    for change, message in (
        ({"score": None}, "row 1: score = None: should be a number"),
        ({"ci95": 5}, "row 1: ci95 = 5: should be two numbers or null"),
        ({"ci95": [0, "x"]}, "row 1: ci95 = 'x': should be a number"),
        ({"samples": True}, "row 1: samples = True: should be a number"),
    ):
        with pytest.raises(DataError, match=message.replace("[", r"\[")):
            read_curves([curve(tmp_path / "run", **change)])
    with pytest.raises(UsageError, match="does not exist; make one with: sailctl anneal --run RUN --every N"):
        read_curves([tmp_path])
    (tmp_path / "scores.txt").write_text("")
    with pytest.raises(UsageError, match=r"should be a curve\.jsonl"):
        read_curves([tmp_path / "scores.txt"])


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    hostile = '<script>document.title="owned"</script>'
    html = render(find([curve(tmp_path / "run", suite=hostile)]))
    assert hostile not in html and "&lt;script&gt;" in html
    assert html.count("<script>") == 1 and html.count("<svg ") == 3  # both axes, and a scatter
    assert "Content-Security-Policy" in html and "default-src &#39;none&#39;" not in html
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org/", "")
    assert html == render(find([tmp_path / "run"]))  # the same findings, the same page


def test_the_page_in_a_browser(tab: Page, tmp_path: Path) -> None:
    result = sailctl("scaling", "--run", curve(tmp_path / "run"))
    assert result.exit_code == 0, result.stderr
    tab.open(tmp_path / "run" / "scaling" / "scaling.html")
    assert tab.problems == [] and len(tab.requests) == 1
    shown: Callable[[], Any] = lambda: tab.evaluate("[...document.querySelectorAll('.axis')].map(a => a.hidden)")  # noqa: E731
    assert shown() == [False, True]
    tab.click("button[data-axis=tokens]")
    assert shown() == [True, False]
    for width in (1280, 420):
        tab.resize(width, 900)
        assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def sailctl(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command(tmp_path: Path) -> None:
    run = curve(tmp_path / "run")
    result = sailctl("scaling", "--run", run, "--json")
    found = json.loads(result.stdout)
    folder = run / "scaling"
    assert found["files"] == {
        "json": str(folder / "scaling.json"),
        "png": str(folder / "scaling.png"),
        "png_tokens": str(folder / "scaling-tokens.png"),
        "png_correlation": str(folder / "correlation.png"),
        "html": str(folder / "scaling.html"),
    }
    assert json.loads((folder / "scaling.json").read_text()) == {k: v for k, v in found.items() if k != "files"}
    pictures = [path.read_bytes() for path in sorted(folder.glob("*.png"))]
    assert len(pictures) == 3 and all(data.startswith(b"\x89PNG") for data in pictures)
    shown = sailctl("scaling", "--curve", run / "curve.jsonl", "--out", tmp_path / "elsewhere")
    assert "score against samples" in shown.stdout and "8 " in shown.stdout and "Pearson" in shown.stdout
    assert [path.read_bytes() for path in sorted((tmp_path / "elsewhere").glob("*.png"))] == pictures
    for words, message in (
        ((), "no curve: give --run RUN, --curve FILE, or both"),
        (("--run", run, "--curve", run / "curve.jsonl"), "--out DIR is missing"),
        (("--run", tmp_path), "curve.jsonl: does not exist"),
    ):
        refused = sailctl("scaling", *words)
        assert refused.exit_code == 2 and message in refused.stderr
