"""Suites as data: what the built-in ones hold, what a user may write, and what is said of mistakes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.bench.prompts import rule_of
from sailctl.core.bench.suite_synth import TASKS
from sailctl.core.bench.suites import Aggregate, Benchmark, aggregate, load_suite, missing, suite_names
from sailctl.core.errors import UsageError

MINE = """
name: mine
benchmarks:
  - POPE
  - {name: Signs, dataset: Signs_2026, metric: exact_match, prompt: short, full_marks: 10, limit: 50}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_sizes_and_averages() -> None:
    found = {name: (len(load_suite(name).benchmarks), list(load_suite(name).aggregates)) for name in suite_names()}
    assert found == {
        "sail18": (18, ["Opensource Average", "General VQA", "OCR VQA", "Math&Knowledge", "Hallucination"]),
        "card14": (14, ["OpenCompassAvg", "Total Avg", "GeneralQA Avg", "OCR Avg"]),
        "opencompass8": (8, ["OpenCompassAvg"]),
        "understanding": (7, ["Caption", "OCR", "Overall"]),
        "synth": (10, ["overall"]),
    }


def test_sail18_asks_as_sail_does() -> None:
    suite = load_suite("sail18")
    tiles = {one.name: one.max_tiles for one in suite.benchmarks if one.max_tiles != 10}
    assert tiles == {
        "ChartQA_TEST": 12, "MMMU_VAL": 12, "OCRVQA_TEST": 12, "DocVQA_VAL": 18, "InfoVQA_VAL": 24, "OCRBench": 24,
    }  # fmt: skip
    assert {one.max_new_tokens for one in suite.benchmarks} == {1024}
    assert {one.name: one.full_marks for one in suite.benchmarks if one.full_marks != 100} == {
        "MME": 2800,
        "OCRBench": 1000,
    }
    assert [one.name for one in suite.benchmarks if one.judge] == ["MMVet", "MathVista_MINI"]
    assert {one.name: one.dataset for one in suite.benchmarks if one.name != one.dataset} == {
        "MMBench_DEV": "MMBench_DEV_EN",
        "MMMU_VAL": "MMMU_DEV_VAL",
    }
    assert suite["MMMU_VAL"].split == "validation"
    assert [one.name for one in suite.benchmarks if one.prompt == "bare"] == ["MMVet", "MathVista_MINI", "POPE"]
    assert (suite["HallusionBench"].metric, suite["HallusionBench"].prompt) == ("hallusion", "yes_no")
    assert (suite["MMBench_DEV"].metric, suite["DocVQA_VAL"].metric) == ("circular_accuracy", "anls")


def test_categories_are_the_members_of_their_averages() -> None:
    suite = load_suite("sail18")
    for name in list(suite.aggregates)[1:]:
        assert suite.aggregates[name].members == tuple(one.name for one in suite.benchmarks if one.category == name)


def test_prompt_rules_exist() -> None:
    for name in suite_names():
        for one in load_suite(name).benchmarks:
            assert rule_of(one.prompt) is not None, one.name


def test_understanding_takes_500_cases_and_weighs_two_to_five() -> None:
    suite = load_suite("understanding")
    assert {one.limit for one in suite.benchmarks} == {500}
    # Table 5, SAIL-Caption HQ: Overall 54.36, Caption 51.80, OCR 55.38
    raw = {one.name: 51.80 if one.category == "Caption" else 55.38 for one in suite.benchmarks}
    assert aggregate(suite, raw) == pytest.approx({"Caption": 51.80, "OCR": 55.38, "Overall": 54.36}, abs=0.006)


@pytest.mark.parametrize(
    ("caption", "ocr", "overall"),
    [(39.57, 51.97, 48.43), (42.70, 51.63, 49.08), (46.00, 55.89, 53.06), (51.22, 52.50, 52.13), (52.63, 54.62, 54.05)],
)
def test_understanding_reproduces_table_5(caption: float, ocr: float, overall: float) -> None:
    suite = load_suite("understanding")
    raw = {one.name: caption if one.category == "Caption" else ocr for one in suite.benchmarks}
    assert aggregate(suite, raw)["Overall"] == pytest.approx(overall, abs=0.006)


def test_synth_is_the_suite_that_is_asked() -> None:
    suite = load_suite("synth")
    assert [(one.name, one.metric, one.max_new_tokens) for one in suite.benchmarks] == [
        (task.name, task.metric, task.max_new_tokens) for task in TASKS
    ]
    assert aggregate(suite, {task.name: 0.25 for task in TASKS}) == {"overall": 25.0}


def test_a_missing_member_is_told_wherever_it_counts() -> None:
    suite = load_suite("understanding")
    raw = {one.name: 50.0 for one in suite.benchmarks if one.name not in ("IDL-WDS", "SynthText")}
    assert aggregate(suite, raw) == {"Caption": 50.0, "OCR": None, "Overall": None}
    assert missing(suite, raw) == {"OCR": ["IDL-WDS", "SynthText"], "Overall": ["IDL-WDS", "SynthText"]}
    assert missing(suite, raw | {"IDL-WDS": 0.0, "SynthText": 1.0}) == {}


def test_zero_is_a_score() -> None:
    suite = load_suite("sail18")
    assert aggregate(suite, {"POPE": 0.0, "HallusionBench": 50.0})["Hallucination"] == 25.0


class TestDatasetsByName:
    def test_a_known_one_keeps_its_published_name(self) -> None:
        (one,) = load_suite("dataset:MMMU_DEV_VAL").benchmarks
        assert one == load_suite("sail18")["MMMU_VAL"]

    def test_one_of_vlmevalkit_is_asked_by_its_kind(self) -> None:
        suite = load_suite("dataset:BLINK,MMBench_CN,MathVerse_MINI,DUDE")
        assert [(one.name, one.metric, one.prompt) for one in suite.benchmarks] == [
            ("BLINK", "accuracy", "mcq"),
            ("MMBench_CN", "circular_accuracy", "mcq"),
            ("MathVerse_MINI", "kit", "bare"),
            ("DUDE", "kit", "short"),
        ]
        assert aggregate(suite, {one.name: 40.0 for one in suite.benchmarks}) == {"Average": 40.0}

    def test_a_bare_name_must_be_known_a_prefixed_one_need_not(self) -> None:
        assert load_suite("ScienceQA_TEST").benchmarks[0].dataset == "ScienceQA_TEST"
        assert load_suite("dataset:Newer2027").benchmarks[0].metric == "kit"
        with pytest.raises(UsageError, match="'Newer2027' does not exist"):
            load_suite("Newer2027")

    @pytest.mark.parametrize(
        "name", ["dataset:", "dataset:POPE,", "dataset:../../etc/passwd", "dataset:POPE,POPE", "dataset:.."]
    )
    def test_bad_names(self, name: str) -> None:
        with pytest.raises(UsageError, match="dataset"):
            load_suite(name)


class TestSuiteOfAUser:
    def test_catalog_and_own(self, tmp_path: Path) -> None:
        suite = load_suite(write(tmp_path, MINE))
        assert suite["POPE"] == load_suite("sail18")["POPE"]
        own = dataclasses.asdict(suite["Signs"])
        assert (own["dataset"], own["metric"], own["limit"], own["max_tiles"]) == ("Signs_2026", "exact_match", 50, 10)
        assert dict(suite.aggregates) == {"Average": Aggregate(("POPE", "Signs"), (1.0, 1.0))}
        assert aggregate(suite, {"POPE": 80.0, "Signs": 5.0}) == {"Average": 65.0}

    def test_own_names_for_the_same_dataset(self, tmp_path: Path) -> None:
        text = (
            "name: tiles\ndefaults: {max_new_tokens: 32}\nbenchmarks:\n"
            "  - {name: few, dataset: DocVQA_VAL, max_tiles: 4}\n  - {name: many, dataset: DocVQA_VAL, max_tiles: 24}\n"
        )
        few, many = load_suite(write(tmp_path, text)).benchmarks
        assert (few.name, few.metric, few.max_tiles, few.max_new_tokens) == ("few", "anls", 4, 32)
        assert (many.name, many.max_tiles) == ("many", 24)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("limit: 50", "limits: 50", r"mine.yaml: unknown key 'benchmarks.1.limits'; did you mean .*limit'"),
            ("limit: 50", "limit: 0", r"benchmarks.1.limit = 0: input should be greater than or equal to 1"),
            ("exact_match", "exactmatch", r"benchmarks.1.metric = 'exactmatch': .*'exact_match'"),
            ("- POPE", "- Pope", r"benchmark 'Pope' is not known; did you mean 'POPE'\? give it a dataset"),
            ("Signs_2026", "../Signs", r"benchmarks.1.dataset = '../Signs'"),
            ("name: Signs,", "name: POPE,", r"benchmark 'POPE' is there twice"),
            ("name: mine", "title: mine", r"key 'name' is missing"),
            ("name: mine", "- mine", r"is not valid YAML"),
            ("full_marks: 10", "full_marks: .inf", r"benchmarks.1.full_marks"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, old: str, new: str, message: str) -> None:
        assert old in MINE
        with pytest.raises(UsageError, match=message):
            load_suite(write(tmp_path, MINE.replace(old, new)))

    @pytest.mark.parametrize(
        ("aggregates", "message"),
        [
            ("[{name: A, members: [POPE, Sings]}]", "member 'Sings' is no benchmark.*did you mean 'Signs'"),
            (
                "[{name: A, members: [B]}, {name: B}]",
                "member 'B' is no benchmark of the suite and no earlier aggregate",
            ),
            ("[{name: POPE}]", "aggregate 'POPE': the name is taken"),
            ("[{name: A}, {name: A}]", "aggregate 'A': the name is taken"),
            ("[{name: A, weights: [1]}]", "should be 2 numbers > 0"),
            ("[{name: A, weights: [1, 0]}]", "should be 2 numbers > 0"),
            ("[{name: A, members: [POPE, POPE]}]", "member 'POPE' is there twice"),
            ("[{name: A, members: []}]", "aggregates.0.members"),
            ("[{name: A, weigths: [1, 2]}]", "did you mean 'aggregates.0.weights'"),
        ],
    )
    def test_mistaken_averages(self, tmp_path: Path, aggregates: str, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            load_suite(write(tmp_path, MINE + f"aggregates: {aggregates}\n"))

    def test_averages_of_averages(self, tmp_path: Path) -> None:
        text = MINE + "aggregates: [{name: Both}, {name: Top, members: [Both, POPE], weights: [3, 1]}]\n"
        assert aggregate(load_suite(write(tmp_path, text)), {"POPE": 80.0, "Signs": 4.0}) == {"Both": 60.0, "Top": 65.0}

    def test_a_file_that_is_no_suite(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="holds list, not a suite; it should begin with name: and benchmarks:"):
            load_suite(write(tmp_path, "- POPE\n"))
        with pytest.raises(UsageError, match=r"there is no such suite file; built-in suites: card14, .*sail18"):
            load_suite(tmp_path / "absent.yaml")


def test_the_page_tells_every_key_and_its_example_works(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "bench.md").read_text(encoding="utf-8")
    table = page.partition("| key of a benchmark |")[2].partition("\n\n")[0]
    told = [line.split("|")[1].strip().strip("`") for line in table.splitlines()[2:]]
    assert sorted(told) == sorted(field.name for field in dataclasses.fields(Benchmark))
    example = page.partition("```yaml\n")[2].partition("```")[0]
    suite = load_suite(write(tmp_path, example))
    assert (suite["DocVQA_VAL"].max_tiles, suite["DocVQA_VAL"].metric) == (32, "anls")
    raw = {"POPE": 90.0, "DocVQA_VAL": 60.0, "Signs": 30.0}
    assert aggregate(suite, raw) == {"Average": 60.0, "Documents": 50.0, "Overall": 70.0}
    for name in suite_names():
        cells = next(line for line in page.splitlines() if line.startswith(f"| `{name}`")).split("|")
        assert all(average in cells[3] for average in load_suite(name).aggregates)


def test_suites_can_be_listed() -> None:
    done = CliRunner().invoke(app, ["bench", "--suite", "list", "--json"])
    found = json.loads(done.stdout)
    assert list(found["suites"]) == suite_names() and "BLINK" in found["datasets"]
    assert found["suites"]["understanding"]["averages"] == ["Caption", "OCR", "Overall"]
    assert len(found["suites"]["sail18"]["benchmarks"]) == 18
    shown = CliRunner().invoke(app, ["bench", "--suite", "list"]).stdout
    assert "sail18" in shown and "HallusionBench" in shown


@pytest.mark.parametrize(("wrong", "right"), [("sial18", "sail18"), ("Card14", "card14"), ("mmstarr", "MMStar")])
def test_the_nearest_is_named(wrong: str, right: str) -> None:
    with pytest.raises(UsageError, match=f"suite '{wrong}' does not exist; did you mean '{right}'"):
        load_suite(wrong)
