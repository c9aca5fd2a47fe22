"""Runs side by side: shared questions only, in whatever order; tests paired by question; bad folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.bench.compare import comparison_tables, side_by_side
from sailctl.core.bench.statistics import mcnemar, wilson
from sailctl.core.errors import DataError, UsageError

Rows = list[dict[str, Any]]


def write(folder: Path, rows: Rows, suite: str = "sail18") -> Path:
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"suite": suite, "checkpoint": f"models/{folder.name}"}))
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def kit(benchmark: str, hits: Any, **more: Any) -> Rows:
    return [
        {
            "benchmark": benchmark,
            "index": str(k),
            "group": str(k),
            "prediction": "",
            "score": float(hit),
            "parsed": True,
        }
        | {key: value[k] for key, value in more.items()}
        for k, hit in enumerate(hits)
    ]


def synth(task: str, scores: Any, picture: str = "") -> Rows:
    return [
        {"task": task, "index": k, "question": f"q{k}", "image": f"images/{picture}{k}.png", "score": float(value)}
        for k, value in enumerate(scores)
    ]


def test_yes_no_items_by_hand(tmp_path: Path) -> None:
    first, second = [1] * 60 + [0] * 40, [1] * 40 + [0] * 30 + [1] * 30  # 20 lost, 30 won
    found = side_by_side([write(tmp_path / "a", kit("MMStar", first)), write(tmp_path / "b", kit("MMStar", second))])
    entry = found["benchmarks"]["MMStar"]
    assert found["runs"][1] == {"run": str(tmp_path / "b"), "checkpoint": "models/b", "suite": "sail18"}
    low, high = wilson(60, 100)
    assert entry["scores"][0] == {"points": 60.0, "n": 100, "ci95": [100 * low, 100 * high]}
    assert entry["scores"][1]["points"] == 70.0
    pair = entry["against_first"][1]
    assert entry["against_first"][0] is None
    assert (pair["points"], pair["n"], pair["unshared"]) == (pytest.approx(10.0), 100, 0)
    assert pair["p_value"] == mcnemar(30, 20) == pair["p_holm"] and pair["verdict"] == "no difference shown"
    assert pair["test"] == "McNemar's exact test"


def test_order_does_not_matter_and_only_shared_questions_are_paired(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    ours, theirs = kit("POPE", rng.random(80) < 0.6), kit("POPE", rng.random(80) < 0.6)
    straight = side_by_side([write(tmp_path / "a", ours), write(tmp_path / "b", theirs)])
    shuffled = [theirs[k] for k in rng.permutation(80)]
    other = side_by_side([write(tmp_path / "c", ours), write(tmp_path / "d", shuffled)])
    assert straight["benchmarks"]["POPE"]["against_first"][1] == other["benchmarks"]["POPE"]["against_first"][1]
    partly = side_by_side([write(tmp_path / "e", ours[:50]), write(tmp_path / "f", shuffled[:60])])
    pair = partly["benchmarks"]["POPE"]["against_first"][1]
    assert pair["n"] == sum(int(row["index"]) < 50 for row in shuffled[:60]) and pair["unshared"] == 110 - 2 * pair["n"]


def test_synth_of_another_seed_shares_nothing(tmp_path: Path) -> None:
    runs = [write(tmp_path / name, synth("ocr_text", [0.5] * 9, name), "synth") for name in "ab"]
    found = side_by_side(runs)
    assert found["benchmarks"]["ocr_text"]["against_first"] == [None, None]
    assert comparison_tables(found)[1][2][0][-1] == "nothing shared"


def test_better_worse_and_averages(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    base = rng.random(200)
    runs = []
    for name, gain in (("a", 0.0), ("b", 0.1), ("c", -0.1)):
        rows = [row for task in ("ocr_word", "chart") for row in synth(task, np.clip(base + gain, 0, 1))]
        runs.append(write(tmp_path / name, rows, "synth"))
    found = side_by_side(runs)
    verdicts = [[pair and pair["verdict"] for pair in entry["against_first"]] for entry in found["benchmarks"].values()]
    assert verdicts == [[None, "better", "worse"]] * 2
    assert found["averages"] == {"overall": [None, None, None]}  # eight of the ten tasks are not there
    points, second, third = comparison_tables(found)
    assert points[1] == ["benchmark", "run 1", "run 2", "run 3"]
    assert second[2][0][2:] == ["< .001", "better"] and third[2][0][3] == "worse"
    for _, columns, rows in (points, second, third):
        assert {len(row) for row in rows} == {len(columns)}
        widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
        assert sum(widths) + 2 * len(widths) <= 80  # an ordinary terminal


def test_a_result_has_one_interval_whoever_shows_it(tmp_path: Path) -> None:
    """A bench's own stands as long as its score is that of the rows."""
    run = write(tmp_path / "a", synth("ocr_text", [0.0, 0.5, 1.0]), "synth")
    told = json.loads((run / "results.json").read_text())
    for score, wanted in ((0.5, [1.0, 99.0]), (0.6, None)):
        told["tasks"] = {"ocr_text": {"score": score, "n": 3, "ci95": [0.01, 0.99]}, "math": {"score": 0.0, "n": 0}}
        told["overall"] = None
        (run / "results.json").write_text(json.dumps(told))
        shown = side_by_side([run, run])["benchmarks"]["ocr_text"]["scores"][0]
        assert shown["points"] == 50.0 and (shown["ci95"] == wanted) == (wanted is not None)
    told["tasks"] = {"ocr_text": {"score": "x", "n": 3, "ci95": [0.01, 0.99]}}
    (run / "results.json").write_text(json.dumps(told))
    with pytest.raises(DataError, match=r"results.json: is no result file of a bench"):
        side_by_side([run, run])


def test_averages_of_complete_runs(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text("name: two\nbenchmarks: [MMStar, AI2D_TEST]\n")
    runs = [
        write(tmp_path / name, kit("MMStar", [1] * 30 + [0] * 10) + kit("AI2D_TEST", [1] * 10 + [0] * 30),
              str(tmp_path / "two.yaml"))
        for name in "ab"
    ]  # fmt: skip
    first, second = side_by_side(runs)["averages"]["Average"]
    assert first == second and (first["points"], first["n"]) == (50.0, 80)
    assert 35 < first["ci95"][0] < 45 and 55 < first["ci95"][1] < 65


def test_p_values_are_adjusted_for_the_number_of_benchmarks(tmp_path: Path) -> None:
    names = ["MMStar", "AI2D_TEST", "RealWorldQA", "SEEDBench_IMG"]
    hits = {"a": [0] * 9 + [1] + [0] * 20, "b": [1] * 9 + [0] * 21}  # nine won, one lost
    runs = [
        write(tmp_path / run, [row for name in names for row in kit(name, hits[run] if name == "MMStar" else [0] * 30)])
        for run in "ab"
    ]
    got = side_by_side(runs)["benchmarks"]["MMStar"]["against_first"][1]
    assert got["p_value"] == mcnemar(9, 1) < 0.05 and got["p_holm"] == pytest.approx(4 * mcnemar(9, 1))
    assert got["verdict"] == "no difference shown"


def test_composed_metrics_use_the_rows_of_both(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    truth = ["Yes" if k % 2 else "No" for k in range(200)]
    runs = [write(tmp_path / name, kit("POPE", rng.random(200) < 0.8, answer=truth)) for name in "ab"]
    found = side_by_side(runs)["benchmarks"]["POPE"]
    assert found["metric"] == "f1" and found["against_first"][1]["test"] == "permutation of clusters"
    pair = found["against_first"][1]
    assert pair["points"] == pytest.approx(found["scores"][1]["points"] - found["scores"][0]["points"])
    bare = write(tmp_path / "c", kit("POPE", rng.random(200) < 0.8))  # its rows do not say what was right
    assert side_by_side([runs[0], bare])["benchmarks"]["POPE"]["metric"] == "mean of items"


class TestBadRuns:
    def test_one_is_not_enough(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="needs two bench runs or more"):
            side_by_side([write(tmp_path / "a", [])])

    def test_no_bench(self, tmp_path: Path) -> None:
        good = write(tmp_path / "run" / "bench", kit("POPE", [1]))
        with pytest.raises(UsageError, match=r"results.json does not exist.*did you mean .*run/bench\?"):
            side_by_side([good, tmp_path / "run"])
        (good / "samples.jsonl").unlink()
        with pytest.raises(UsageError, match=r"samples.jsonl does not exist"):
            side_by_side([good, good])

    @pytest.mark.parametrize("results", ["{", "[]", "{}", '{"suite": "sail18"}', '{"suite": 3, "checkpoint": "x"}'])
    def test_damaged_results(self, tmp_path: Path, results: str) -> None:
        run = write(tmp_path / "a", kit("POPE", [1]))
        (run / "results.json").write_text(results)
        with pytest.raises((DataError, UsageError), match=r"results.json: is no result file|suite '3' does not exist"):
            side_by_side([run, run])

    @pytest.mark.parametrize(
        "change", [{"score": 1.5}, {"score": "1"}, {"score": None}, {"score": True}, {"index": ...}]
    )
    def test_damaged_rows(self, tmp_path: Path, change: dict[str, Any]) -> None:
        (row,) = kit("POPE", [1])
        row |= change
        if row["index"] is ...:
            del row["index"]
        run = write(tmp_path / "a", [row])
        with pytest.raises(DataError, match=r"samples.jsonl: holds what is no answer of a bench"):
            side_by_side([run, run])


def test_command(tmp_path: Path) -> None:
    runs = [str(write(tmp_path / name, kit("MMStar", [1] * 5 + [0] * 5))) for name in "ab"]
    done = CliRunner().invoke(app, ["bench", "--compare", runs[0], "--compare", runs[1], "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["benchmarks"]["MMStar"]["scores"][0]["points"] == 50.0
    done = CliRunner().invoke(app, ["bench", "--compare", runs[0], "--compare", runs[1]])
    assert "50.0 (23.7 to 76.3)" in done.stdout and "no difference shown" in done.stdout
    for words, name in (
        (["--samples", "3"], "--samples"),
        (["--suite", "sail18"], "--suite"),
        (["--endpoint", "http://x"], "--endpoint"),
        (["--no-baselines"], "--no-baselines"),
        (["--judge-api-key-env", "X"], "--judge-api-key-env"),
    ):
        done = CliRunner().invoke(app, ["bench", "--compare", runs[0], "--compare", runs[1], *words])
        assert done.exit_code == 2 and f"{name}: means nothing with --compare" in done.stderr, done.output
    done = CliRunner().invoke(app, ["bench", "--compare", runs[0]])
    assert done.exit_code == 2 and "needs two bench runs" in done.stderr
