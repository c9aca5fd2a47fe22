"""Averages recomputed from published scores equal the printed ones; verdicts against published rows; bad files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.bench.published import from_scores, published_row, published_rows, verdict, verdict_table, verdicts
from sailctl.core.bench.suites import load_suite
from sailctl.core.errors import UsageError
from sailctl.core.records import Score

# What the paper (Tables 10 and 11) and the model card print: the paper MME of 2800 and OCRBench of 1000, the card MME
# divided by 28 and OCRBench here by 10.
PRINTED: dict[str, Any] = json.loads(Path(__file__).with_name("published_scores.json").read_text(encoding="utf-8"))
CARD_UNITS = {"MME": 28.0, "OCRBench": 10.0}


def raw_of(section: str) -> dict[str, dict[str, float]]:
    units = CARD_UNITS if section == "card" else {}
    return {
        model: {name: value * units.get(name, 1.0) for name, value in row.items()}
        for model, row in PRINTED[section]["scores"].items()
    }


def write(folder: Path, content: Any) -> Path:
    path = folder / "scores.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("section", "suite", "count", "tolerance"), [("paper", "sail18", 65, 0.06), ("card", "card14", 24, 0.01)]
)
def test_every_printed_average(tmp_path: Path, section: str, suite: str, count: int, tolerance: float) -> None:
    answer, remarks = from_scores(write(tmp_path, raw_of(section)), load_suite(suite))
    printed = PRINTED[section]["printed_averages"]
    assert remarks == []
    assert list(answer) == list(printed) and all(answer[model].keys() == row.keys() for model, row in printed.items())
    errors = [abs(answer[model][name] - value) for model, row in printed.items() for name, value in row.items()]
    assert len(errors) == count
    assert max(errors) <= tolerance


def test_opencompass_is_the_mean_of_eight_and_not_of_seven(tmp_path: Path) -> None:
    answer, _ = from_scores(write(tmp_path, raw_of("card")), load_suite("opencompass8"))
    for model, row in PRINTED["card"]["printed_averages"].items():
        assert answer[model]["OpenCompassAvg"] == pytest.approx(row["OpenCompassAvg"], abs=0.01)


def test_the_average_is_of_the_18_and_not_of_the_categories(tmp_path: Path) -> None:
    answer, _ = from_scores(write(tmp_path, raw_of("paper")), load_suite("sail18"))
    row = answer["SAIL-VL-2B"]
    of_categories = sum(value for name, value in row.items() if name != "Opensource Average" and value) / 4
    assert row["Opensource Average"] == pytest.approx(69.1, abs=0.06) and abs(of_categories - 69.1) > 1


def test_missing_and_foreign_benchmarks(tmp_path: Path) -> None:
    row = {"POPE": 80, "HallusionBench": 50.0, "MathVista_MINI": None, "ScienceQA_VAL": 0, "MyBench": "ignored, text"}
    row["MMMU_DEV_VAL"] = 50
    answer, (remark,) = from_scores(write(tmp_path, {"m": row}), load_suite("sail18"))
    assert answer["m"]["Hallucination"] == 65.0
    assert [name for name, value in answer["m"].items() if value is None] == [
        "Opensource Average", "General VQA", "OCR VQA", "Math&Knowledge",
    ]  # fmt: skip
    assert "m: no score for MMStar, MMBench_DEV, MMMU_VAL (did you mean 'MMMU_DEV_VAL'?), MME," in remark
    assert "MathVista_MINI" in remark and "null: Opensource Average, General VQA, OCR VQA, Math&Knowledge" in remark
    assert "ScienceQA_VAL" not in remark


def test_points_where_raw_is_meant_are_remarked_upon(tmp_path: Path) -> None:
    row = raw_of("paper")["SAIL-VL-2B"] | {"MME": 70.3}
    _, (remark,) = from_scores(write(tmp_path, {"m": row}), load_suite("sail18"))
    assert remark == "m: MME = 70.3 was read as 70.3 of 2800; where it is points, multiply it by 28"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "scores.json: is not valid JSON: Expecting property name"),
        ("", "is not valid JSON"),
        ('{"m": {"POPE": NaN}}', "is not valid JSON: NaN is no number; write null"),
        ('{"m": {"POPE": -Infinity}}', "-Infinity is no number"),
        ('{"m": {"POPE": 1e999}}', "m: POPE = Infinity: should be from 0 to 100"),
        ('{"m": {"POPE": 1}, "m": {"POPE": 2}}', "key 'm' is written twice"),
        ('{"m": {"POPE": 1, "POPE": 2}}', "key 'POPE' is written twice"),
        ("[" * 200000, "is not valid JSON"),
        ([1], "should be an object with a key for each model, not a list"),
        ({"m": [1]}, "model 'm': should be an object, not a list"),
        ({"m": 3}, "model 'm': should be an object, not a number"),
        ({"m": {"POPE": "80"}}, 'm: POPE = "80": should be a number from 0 to 100, or null'),
        ({"m": {"POPE": True}}, "m: POPE = true: should be a number"),
        ({"m": {"POPE": [80]}}, "should be a number"),
        ({"m": {"POPE": 100.5}}, "m: POPE = 100.5: should be from 0 to 100, the full marks of POPE"),
        ({"m": {"MME": 2801}}, "m: MME = 2801: should be from 0 to 2800, the full marks of MME"),
        ({"m": {"OCRBench": 10**400}}, "should be from 0 to 1000"),
        ({"m": {"POPE": -0.1}}, "should be from 0 to 100"),
    ],
)
def test_bad_files(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        from_scores(write(tmp_path, content), load_suite("sail18"))
    assert message in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent.json: cannot be read: No such file"):
        from_scores(tmp_path / "absent.json", load_suite("sail18"))
    (tmp_path / "latin.json").write_bytes(b'{"m\xe9": {}}')
    with pytest.raises(UsageError, match="is not valid JSON"):
        from_scores(tmp_path / "latin.json", load_suite("sail18"))


class TestCommand:
    def ask(self, *arguments: str) -> Any:
        return CliRunner().invoke(app, ["bench", *arguments])

    def test_json_is_the_answer_and_nothing_else(self, tmp_path: Path) -> None:
        path = write(tmp_path, {"a": {"POPE": 80, "HallusionBench": 50}, "b": {}})
        done = self.ask("--from-scores", str(path), "--suite", "sail18", "--json")
        assert done.exit_code == 0
        assert json.loads(done.stdout) == {
            "a": {"Opensource Average": None, "General VQA": None, "OCR VQA": None, "Math&Knowledge": None,
                  "Hallucination": 65.0},
            "b": dict.fromkeys(load_suite("sail18").aggregates),
        }  # fmt: skip
        assert "a: no score for MMStar" in done.stderr and "b: no score for MMStar" in done.stderr

    def test_table(self, tmp_path: Path) -> None:
        done = self.ask("--from-scores", str(write(tmp_path, raw_of("card"))), "--suite", "card14")
        lines = done.stdout.splitlines()
        assert lines[1].split("  ")[0] == "model" and "OpenCompassAvg" in lines[1]
        assert lines[-2].split() == ["SAIL-VL-1.6-8B", "74.26", "78.62", "73.56", "88.11"]

    def test_a_suite_must_be_named(self, tmp_path: Path) -> None:
        done = self.ask("--from-scores", str(write(tmp_path, {})))
        assert done.exit_code == 2 and "--from-scores needs a suite: --suite NAME, one of card14" in done.stderr

    def test_a_suite_of_a_user(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text("name: mine\nbenchmarks: [POPE, OCRBench]\n")
        path = write(tmp_path, {"m": {"POPE": 80, "OCRBench": 600}})
        done = self.ask("--from-scores", str(path), "--suite", str(tmp_path / "mine.yaml"), "--json")
        assert json.loads(done.stdout) == {"m": {"Average": 70.0}}

    def test_mistakes_are_one_line(self, tmp_path: Path) -> None:
        done = self.ask("--from-scores", str(write(tmp_path, "{")), "--suite", "sail18", "--json")
        assert (done.exit_code, done.stdout) == (2, "") and len(done.stderr.splitlines()) == 1
        done = self.ask("--from-scores", str(write(tmp_path, {})), "--suite", "sail18", "--out", "x")
        assert done.exit_code == 2 and "--out: means nothing with --from-scores" in done.stderr
        done = self.ask("--from-scores", str(write(tmp_path, {})), "--suite", "sail")
        assert done.exit_code == 2 and "did you mean 'sail18'" in done.stderr


def test_needs_neither_torch_nor_numpy(tmp_path: Path) -> None:
    path = write(tmp_path, {"m": {"POPE": 80}})
    code = (
        "import sys; from typer.testing import CliRunner; from sailctl.cli import app\n"
        f"done = CliRunner().invoke(app, ['bench', '--from-scores', {str(path)!r}, '--suite', 'sail18', '--json'])\n"
        "assert done.exit_code == 0, done.output\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'pyarrow', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class TestVerdicts:
    def test_by_hand(self) -> None:
        ours = Score(0.70, 1000, (0.67, 0.73))
        assert verdict(ours, 70.0).outcome == "equal within noise"
        assert verdict(ours, 73.05).outcome == "equal within noise"  # 73.0 printed with one decimal
        assert verdict(ours, 73.06).outcome == "below"
        assert verdict(ours, 66.9).outcome == "above"
        assert verdict(ours, None).outcome == "not published"
        assert (verdict(ours, 60.0).points, verdict(ours, 60.0).n) == (70.0, 1000)

    def test_against_the_paper_and_the_card(self, tmp_path: Path) -> None:
        rows = published_rows(write(tmp_path, PRINTED), load_suite("sail18"))
        assert rows["SAIL-VL-2B"]["MME"] == pytest.approx(1969 / 28)
        assert rows["SAIL-VL-2B"]["OCRBench"] == pytest.approx(80.6)
        assert rows["SAIL-VL-1.6-8B"]["MME"] == 80.97 and rows["SAIL-VL-1.6-8B"]["OCRBench"] == 91.0
        assert {"InternVL2.5-8B", "InternVL-2.5-8B"} <= rows.keys()
        measured = {
            "MME": Score(0.70, 2374, (0.68, 0.72)),
            "POPE": Score(0.80, 9000, (0.79, 0.81)),
            "MMStar": Score(0.60, 1500, (0.575, 0.625)),
            "MyBench": Score(0.5, 10, (0.2, 0.8)),
        }
        found = verdicts(measured, published_row(rows, "SAIL-VL-2B"))
        assert {name: one.outcome for name, one in found.items()} == {
            "MME": "equal within noise", "POPE": "below", "MMStar": "above", "MyBench": "not published",
        }  # fmt: skip
        assert verdict_table(found)[1][1] == ["POPE", "80.0", "79.0 to 81.0", "86.7", "below", "9000"]

    def test_models_of_two_sections_are_told_apart(self, tmp_path: Path) -> None:
        content = {name: {"scores": {"m": {"POPE": value}}} for name, value in (("one", 80), ("two", 81))}
        rows = published_rows(write(tmp_path, content), load_suite("sail18"))
        assert rows == {"m (one)": {"POPE": 80.0}, "m (two)": {"POPE": 81.0}}

    def test_mistakes(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="section 'paper' has no scores"):
            published_rows(write(tmp_path, {"paper": {"source": "?"}}), load_suite("sail18"))
        with pytest.raises(UsageError, match=r"should be from 0 to 2800"):
            published_rows(write(tmp_path, {"p": {"scores": {"m": {"MME": 2900}}}}), load_suite("sail18"))
        with pytest.raises(
            UsageError, match=r"no scores of 'SAIL-VL2B' are published there \(did you mean 'SAIL-VL-2B'"
        ):
            published_row({"SAIL-VL-2B": {}, "x": {}}, "SAIL-VL2B")
