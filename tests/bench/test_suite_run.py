"""A bench of a suite from tables to results, by the command: scores, intervals, files, judges, kills, resumption."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.bench.suites import load_suite
from tests.bench import kit_tables
from tests.bench.kit_tables import Made
from tests.bench.oracle import Oracle, tagged
from tests.bench.stub_judge import KEY, StubJudge
from tests.bench.test_scorer import reckoned
from tests.helpers_bench import b64, png
from tests.helpers_model import tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("MMStar", "POPE", "DocVQA_VAL")


def command(*words: object) -> Any:
    return CliRunner().invoke(app, ["bench", *map(str, words)])


def bench(*words: object) -> dict[str, Any]:
    done = command(*words, "--json")
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def small(folder: Path, names: tuple[str, ...] = SMALL) -> tuple[Path, dict[str, Made], dict[str, str]]:
    """A suite file of a few benchmarks, their tables in `folder`, and what is to be answered."""
    made = [one for one in kit_tables.without_judge() if one.benchmark.name in names]
    answers = tagged(made)
    for one in made:
        one.write(folder)
    suite = folder / "few.yaml"
    suite.write_text(f"name: few\nbenchmarks: [{', '.join(names)}]\n")
    return suite, {one.benchmark.name: one for one in made}, answers


def test_sail18_end_to_end(tmp_path: Path) -> None:
    tables = kit_tables.without_judge()
    answers = tagged(tables)
    for one in tables:
        if one.benchmark.name == "POPE":
            for number, row in enumerate(one.rows):
                row["image"] = b64(png(number))
        one.write(tmp_path / "tables")
    published = tmp_path / "published.json"
    published.write_text(json.dumps({"Table": {"scores": {"Ours": {"MMStar": 50.0, "POPE": 1.0}}}}))
    with Oracle(answers) as oracle:
        words = ("--suite", "sail18", "--data", tmp_path / "tables", "--endpoint", oracle.url, "--model", "oracle")
        words += ("--out", tmp_path / "out", "--published", published, "--published-model", "Ours")
        results = bench(*words)
        asked = sum(oracle.asked.values())
        again = bench(*words)
        assert sum(oracle.asked.values()) == asked, "a rerun asks nothing"
    assert set(oracle.asked.values()) == {1}
    again["perf"] = results["perf"]
    assert again == results
    for one in tables:
        found = results["benchmarks"][one.benchmark.name]
        assert found["raw"] == pytest.approx(reckoned(one)), one.benchmark.name
        assert found["score"] == pytest.approx(found["raw"] / found["full_marks"])
        assert found["ci95"][0] <= found["score"] <= found["ci95"][1]
        assert found["unparsed"] == len(one.unread)
    points = {name: 100 * found["score"] for name, found in results["benchmarks"].items()}
    wanted = sum(points.values()) / 18
    assert 100 * results["averages"]["Opensource Average"]["score"] == pytest.approx(wanted)
    assert results["benchmarks"]["MathVista_MINI"]["fallback"] == "answers extracted without a judge"
    verdicts = {name: one["verdict"] for name, one in results["published"]["scores"].items()}
    assert (verdicts["POPE"], verdicts["DocVQA_VAL"]) == ("above", "not published")
    assert verdicts["MMVet"].startswith("not comparable") and verdicts["Opensource Average"].startswith(
        "not comparable"
    )
    assert verdicts["Hallucination"] == "not published"

    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == sum(found["questions"] for found in results["benchmarks"].values())
    assert sum(row["score"] < 1 for row in rows) == results["wrong"]
    for row in rows:
        assert row["prediction"] == answers[f"{row['benchmark']}/{row['index']}"]
        if row["score"] < 1:
            assert (tmp_path / "out" / row["image"]).is_file()
    compared = bench("--compare", tmp_path / "out", "--compare", tmp_path / "out")
    for name, one in compared["benchmarks"].items():
        first, other = one["scores"]
        assert first == other
        assert first["points"] == pytest.approx(points[name]), name


def test_a_judge_is_asked_once_and_its_key_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [one for one in kit_tables.with_judge() if one.benchmark.name in ("MMVet", "MathVista_MINI")]
    answers = tagged(made)
    for one in made:
        one.write(tmp_path)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    (tmp_path / "judged.yaml").write_text("name: judged\nbenchmarks: [MMVet, MathVista_MINI]\n")
    words = ["--suite", tmp_path / "judged.yaml", "--data", tmp_path, "--model", "oracle", "--out", tmp_path / "out"]
    with Oracle(answers) as oracle, StubJudge() as judge:
        words += ["--endpoint", oracle.url, "--judge-endpoint", judge.url, "--judge-model", "stub"]
        words += ["--judge-api-key-env", "JUDGE_KEY"]
        results = bench(*words)
        asked = sum(judge.asked.values())
        again = bench(*words)
        assert sum(judge.asked.values()) == asked > 0
    assert results["judge"]["asked"] > 0 == again["judge"]["asked"]
    assert again["judge"]["cached"] > 0 and not judge.wrong_keys
    for one in made:
        found = results["benchmarks"][one.benchmark.name]
        assert found["raw"] == pytest.approx(reckoned(one))
        assert (found["judge"], found["fallback"]) == ("stub", None)
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def test_a_local_model_and_every_checkpoint_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite, made, _ = small(tmp_path / "tables")
    checkpoint = tmp_path / "model"
    tiny_checkpoint(checkpoint)
    monkeypatch.chdir(tmp_path)
    text = suite.read_text().replace("name: few", "name: few\ndefaults: {max_new_tokens: 4}")
    suite.write_text(text)
    results = bench("--suite", suite, "--data", tmp_path / "tables", "--checkpoint", checkpoint, "--device", "cpu")
    assert results["answered_by"].startswith("weights ")
    (folder,) = (tmp_path / "runs" / "bench").iterdir()
    assert folder.name.endswith("-few")
    questions = sum(len(one.predictions) for one in made.values())
    assert sum(found["questions"] for found in results["benchmarks"].values()) == questions
    done = command("--suite", suite, "--data", tmp_path / "tables", "--checkpoint", checkpoint, "--dry-run")
    assert done.exit_code == 0 and "MMStar      there" in done.stdout and "missing there" not in done.stdout
    done = command("--suite", suite, "--data", tmp_path, "--checkpoint", checkpoint, "--no-baselines")
    assert done.exit_code == 2 and "--no-baselines: of the suite synth alone" in done.output
    done = command("--run", checkpoint, "--suite", suite)
    assert done.exit_code == 2 and "no run of sailctl" in done.output


def test_a_plan_fits_a_terminal_and_names_no_judge_where_none_is_asked(tmp_path: Path) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text("name: mine\nbenchmarks: [MMVet, {name: Mine, dataset: Mine, metric: exact_match}, BLINK, POPE]\n")
    words = ("--suite", suite, "--data", tmp_path, "--checkpoint", tmp_path, "--dry-run")
    planned = bench(*words)["benchmarks"]
    assert [one["judge"] for one in planned] == ["none: fallback", None, None, None]
    shown = command(*words).stdout
    assert "missing there: MMVet.tsv, Mine.tsv, BLINK.tsv, POPE.tsv" in shown
    shown = command("--suite", "sail18", *words[2:]).stdout
    table = shown.partition("plan: sail18")[2].partition("tables:")[0].splitlines()
    assert len(table) > 18 and max(map(len, table)) <= 80


def test_workers_answer_and_one_scores(tmp_path: Path) -> None:
    suite, made, answers = small(tmp_path)
    with Oracle(answers) as oracle:
        words = ("--suite", suite, "--data", tmp_path, "--endpoint", oracle.url, "--model", "oracle")
        words += ("--out", tmp_path / "out")
        for number in range(3):
            bench(*words, "--shard", f"{number}/3")
            assert not (tmp_path / "out" / "results.json").exists()
        asked = sum(oracle.asked.values())
        results = bench(*words)
        assert sum(oracle.asked.values()) == asked
    assert set(oracle.asked.values()) == {1}
    for name, one in made.items():
        assert results["benchmarks"][name]["raw"] == pytest.approx(reckoned(one))


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_asks_nothing_twice_but_what_was_in_flight(tmp_path: Path, kills: int) -> None:
    suite, made, answers = small(tmp_path)
    lots = random.Random(kills)
    with Oracle(answers, seconds=0.4) as oracle:
        words = ["--suite", suite, "--data", tmp_path, "--endpoint", oracle.url, "--model", "oracle"]
        words += ["--out", tmp_path / "out", "--json"]
        argv = [sys.executable, "-m", "sailctl", "bench", *map(str, words)]
        for _ in range(kills):
            before = sum(oracle.asked.values())
            process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and sum(oracle.asked.values()) == before < len(answers):
                time.sleep(0.02)
            time.sleep(lots.uniform(0.0, 1.2))
            process.send_signal(signal.SIGKILL)
            process.wait()
        done = subprocess.run(argv, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    results = json.loads(done.stdout)
    for name, one in made.items():
        assert results["benchmarks"][name]["raw"] == pytest.approx(reckoned(one))
    again = sum(number - 1 for number in oracle.asked.values())
    assert again <= kills * 64, "only what was in flight is asked again"
    assert len(oracle.asked) == sum(len(one.predictions) for one in made.values())


def test_what_cannot_be(tmp_path: Path) -> None:
    suite, _, answers = small(tmp_path)
    with Oracle(answers) as oracle:
        words = ("--suite", suite, "--data", tmp_path, "--endpoint", oracle.url, "--model", "oracle")
        (tmp_path / "POPE.tsv").unlink()
        done = command(*words, "--out", tmp_path / "a")
        assert done.exit_code == 2 and "POPE.tsv" in done.output and "answer" in done.output
        (tmp_path / "MMStar.tsv").unlink()
        done = command(*words, "--out", tmp_path / "a")
        assert done.exit_code == 2 and "MMStar.tsv, POPE.tsv" in done.output and "--skip-missing" in done.output
        results = bench(*words, "--out", tmp_path / "a", "--skip-missing")
        assert list(results["benchmarks"]) == ["DocVQA_VAL"] and results["averages"]["Average"] is None
        other = [*words]
        other[-1] = "another"
        done = command(*other, "--out", tmp_path / "a", "--skip-missing")
        assert done.exit_code == 2 and "endpoint oracle, not of endpoint another" in done.output
    done = command(*words, "--skip-missing", "--out", "/proc/x")
    assert done.exit_code == 2 and "/proc/x: cannot be made" in done.output
    (tmp_path / "run.json").write_text("{}")
    done = command(*words, "--skip-missing", "--out", tmp_path)
    assert done.exit_code == 2 and "is a training run" in done.output
    for wrong, told in (
        (("--suite", "MMStarr"), "did you mean 'MMStar'"),
        (("--suite", suite, "--endpoint", "http://x", "--checkpoint", "y"), "give one of them"),
        (("--suite", suite, "--endpoint", "http://x"), "--model is missing"),
        (("--suite", suite, "--judge-model", "x"), "--judge-endpoint URL is missing"),
        (("--suite", suite, "--published", suite), "--published-model"),
        (("--endpoint", "http://x", "--model", "y"), "the suite synth takes none"),
        (("--suite", suite, "--shard", "3/3", "--endpoint", "http://x", "--model", "y"), "--shard 3/3"),
    ):
        done = command(*wrong)
        assert done.exit_code == 2 and told in done.output, done.output


def test_keys_are_neither_taken_in_addresses_nor_shown() -> None:
    asking = ["bench", "--suite", "sail18", "--endpoint", "http://h/v1", "--model", "m"]
    judging = [*asking, "--judge-model", "j", "--judge-endpoint"]
    for words, told in (
        ([*asking, "--api-key-env", "sk-secret"], "--api-key-env: give the name of an environment variable"),
        ([*judging, "http://j/v1?key=sk-secret"], "--judge-endpoint http://j/v1: no query but api-version"),
        ([*judging, "http://j/v1", "--judge-api-key-env", "NOPE"], "--judge-api-key-env NOPE: that environment"),
    ):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 2 and told in done.stderr and "sk-secret" not in done.output, done.output


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("POPE", "Yes", "yes", "answer is 'yes', should be Yes or No"),
        ("HallusionBench", "VD_", "VD-", "should be VD_category_n_set_figure_question"),
        ("DocVQA_VAL", "answer", "reply", "lacks the column answer"),
        ("MMStar", None, None, "holds no question that counts"),
    ],
)
def test_a_table_that_cannot_be_scored_is_refused_before_anything_is_asked(
    tmp_path: Path, name: str, old: str | None, new: str | None, told: str
) -> None:
    suite, _, answers = small(tmp_path, (name,))
    path = tmp_path / f"{name}.tsv"
    text = path.read_text()
    path.write_text(text.splitlines()[0] + "\n" if old is None else text.replace(old, str(new)))
    with Oracle(answers) as oracle:
        words = ("--suite", suite, "--data", tmp_path, "--endpoint", oracle.url, "--model", "oracle")
        done = command(*words, "--out", tmp_path / "out")
        assert done.exit_code in (1, 2) and told in done.output and not oracle.asked


def test_mmvet_without_some_capability_is_judged_all_the_same(tmp_path: Path) -> None:
    (made,) = [one for one in kit_tables.with_judge() if one.benchmark.name == "MMVet"]
    for row in made.rows:
        row["category"] = "rec"
    answers = tagged([made])
    made.write(tmp_path)
    with Oracle(answers) as oracle, StubJudge() as judge:
        words = ("--suite", "MMVet", "--data", tmp_path, "--endpoint", oracle.url, "--model", "oracle")
        words += ("--judge-endpoint", judge.url, "--judge-model", "stub", "--out", tmp_path / "out")
        results = bench(*words)
    assert results["benchmarks"]["MMVet"]["raw"] == pytest.approx(reckoned(made))


def test_one_benchmark_that_cannot_be_scored_costs_itself_alone(tmp_path: Path) -> None:
    suite, made, answers = small(tmp_path, ("MMStar", "MME"))
    rows = (tmp_path / "MME.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "MME.tsv").write_text("".join(rows[:-1]))  # a picture with one question
    with Oracle(answers) as oracle:
        words = ("--suite", suite, "--data", tmp_path, "--endpoint", oracle.url, "--model", "oracle")
        done = command(*words, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 1 and "not scored: MME" in done.output
    results = json.loads(done.stdout)
    assert results["benchmarks"]["MMStar"]["raw"] == pytest.approx(reckoned(made["MMStar"]))
    assert "two questions" in results["benchmarks"]["MME"]["error"]
    assert results["averages"]["Average"] is None


def test_a_subset_keeps_together_what_is_judged_together(tmp_path: Path) -> None:
    names = ("MME", "MMBench_DEV", "HallusionBench")
    suite, _, answers = small(tmp_path, names)
    with Oracle(answers) as oracle:
        words = ("--suite", suite, "--data", tmp_path, "--endpoint", oracle.url, "--model", "oracle")
        results = bench(*words, "--out", tmp_path / "out", "--samples", 17)
    for name in names:
        assert 0 < results["benchmarks"][name]["questions"] <= 17
    assert load_suite(suite)["MME"].limit is None
