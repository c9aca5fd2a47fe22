"""The whole bench on a random model: shapes of the results, resuming, baselines, lineage, and the command."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.bench import predict as predicting
from sailctl.core.bench.lineage import bench_config, default_out, report_folder, root_run
from sailctl.core.bench.run import bench
from sailctl.core.bench.suite_synth import TASKS
from sailctl.core.bench.untrained import untrained_model
from sailctl.core.device import pick
from sailctl.core.engines.local import Completion, LocalEngine, Request
from sailctl.core.errors import Interrupted, UsageError
from sailctl.core.model.fingerprint import fingerprint
from sailctl.core.model.weights import init_model, load_model
from sailctl.core.schema.bench import BenchConfig
from sailctl.core.schema.model import ModelSection
from tests.helpers_bench import b64, png, write_tsv
from tests.helpers_model import tiny_checkpoint, tiny_config, tiny_tokenizer

KEYS = {"score", "n", "ci95", "untrained", "chance", "blind"}
CONFIG = BenchConfig(samples=3, batch_size=8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "weights"
    tiny_checkpoint(folder)
    return folder


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model never stops by itself; four tokens are enough to see that answers travel."""
    tasks = tuple(type(task)(task.name, task.metric, 4) for task in TASKS)
    monkeypatch.setattr(predicting, "TASKS", tasks)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Every request that reaches the model."""
    requests: list[Request] = []
    generate = LocalEngine.generate

    def counted(self: LocalEngine, batch: Sequence[Request]) -> list[Completion]:
        requests.extend(batch)
        return generate(self, batch)

    monkeypatch.setattr(LocalEngine, "generate", counted)
    return requests


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def without_clock(results: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in results.items() if key != "perf"}


def make_run(folder: Path, about: dict[str, Any], recipe: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(about))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture
def family(tmp_path: Path, checkpoint: Path) -> Path:
    """Two runs, the second one begun from the first, whose checkpoint is gone; the second has one."""
    tiny_tokenizer(tmp_path / "tokenizer")
    section = {"config": tiny_config().model_dump(mode="json"), "tokenizer": str(tmp_path / "tokenizer")}
    recipe = {"name": "small", "model": section, "train": {"seed": 11}, "bench": {"samples": 2, "seed": 5}}
    make_run(tmp_path / "runs/alignment", {"parent": None}, recipe | {"stage": "alignment"})
    parent = {"parent": {"checkpoint": "../alignment/checkpoints/step-00000010"}}
    run = make_run(tmp_path / "runs/advance", parent, recipe | {"stage": "advance"})
    (run / "checkpoints/step-00000020").mkdir(parents=True)
    (run / "checkpoints/step-00000020/weights").symlink_to(checkpoint)
    (run / "latest").write_text("step-00000020")
    return run


def test_results_and_samples_have_the_documented_shape(checkpoint: Path, tmp_path: Path, asked: list[Request]) -> None:
    out, cache = tmp_path / "bench", tmp_path / "cache"
    results = bench(checkpoint, CONFIG, out, "cpu", cache=cache)
    assert json.loads((out / "results.json").read_text()) == results
    assert results.keys() >= {"overall", "tasks", "checkpoint", "suite", "seed", "weights", "baselines", "perf"}
    assert list(results["tasks"]) == [task.name for task in TASKS]
    for entry in (results["overall"], *results["tasks"].values()):
        assert entry.keys() >= KEYS
        assert 0 <= entry["ci95"][0] <= entry["score"] <= entry["ci95"][1] <= 1
        low, high = entry["over_blind"]["ci95"]
        assert low <= entry["over_blind"]["score"] <= high
        assert entry["over_blind"]["score"] == pytest.approx(entry["score"] - entry["blind"])
    mean = sum(entry["score"] for entry in results["tasks"].values()) / len(TASKS)
    assert results["overall"]["score"] == pytest.approx(mean)
    assert results["overall"]["n"] == 3 * len(TASKS)
    assert results["tasks"]["closed_vqa"]["chance"] > 0.2
    assert results["tasks"]["math"]["levels"].keys() == {"1", "2", "3"}
    assert results["baselines"]["untrained"]["model"].startswith("random weights of the same shapes")

    samples = rows(out / "samples.jsonl")
    assert len(samples) == 3 * len(TASKS)
    for row in samples:
        assert row.keys() >= {"task", "index", "level", "question", "answer", "references", "prediction", "score"}
        assert isinstance(row["blind"], str) and isinstance(row["untrained"], str)
        assert row["image"] is None if row["task"] == "text_qa" else (out / row["image"]).is_file()
    assert all(row["blind"] == row["prediction"] for row in samples if row["task"] == "text_qa")
    # its own and the untrained answers, and blind ones: the same question over the same grey is asked once, and
    # text_qa, which shows nothing to anybody, not again
    own = 3 * len(TASKS)
    assert 2 * own < len(asked) <= 3 * own - 3


def test_a_rerun_asks_nothing_and_more_samples_only_the_new_ones(
    checkpoint: Path, tmp_path: Path, asked: list[Request]
) -> None:
    out, cache = tmp_path / "bench", tmp_path / "cache"
    first = bench(checkpoint, CONFIG, out, "cpu", baselines=False, cache=cache)
    before = (out / "samples.jsonl").read_bytes()
    assert first["overall"]["blind"] is None and first["overall"]["untrained"] is None
    assert first["overall"]["chance"] > 0
    asked.clear()
    assert without_clock(bench(checkpoint, CONFIG, out, "cpu", baselines=False, cache=cache)) == without_clock(first)
    assert not asked
    assert (out / "samples.jsonl").read_bytes() == before
    bench(checkpoint, CONFIG.model_copy(update={"samples": 4}), out, "cpu", baselines=False, cache=cache)
    assert len(asked) == len(TASKS)


def test_a_killed_bench_goes_on_with_what_it_had(checkpoint: Path, tmp_path: Path, asked: list[Request]) -> None:
    out, cache = tmp_path / "bench", tmp_path / "cache"
    whole = bench(checkpoint, CONFIG, out, "cpu", baselines=False, cache=cache)
    predictions = out / "predictions.jsonl"
    lines = predictions.read_text().splitlines(keepends=True)
    predictions.write_text("".join(lines[:10]) + lines[10][:9])  # killed in the middle of a line
    asked.clear()
    assert without_clock(bench(checkpoint, CONFIG, out, "cpu", baselines=False, cache=cache)) == without_clock(whole)
    assert len(asked) == len(lines) - 10
    assert sorted(predictions.read_text().splitlines(keepends=True)) == sorted(lines)


def test_another_models_results_are_not_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    out, cache, other = tmp_path / "bench", tmp_path / "cache", tmp_path / "other"
    tiny_checkpoint(other, seed=1)
    config = CONFIG.model_copy(update={"samples": 1})
    bench(checkpoint, config, out, "cpu", baselines=False, cache=cache)
    before = (out / "results.json").read_bytes(), (out / "predictions.jsonl").read_bytes()
    with pytest.raises(UsageError, match=rf"holds the results of {checkpoint} .*, not of {other} .*another --out"):
        bench(other, config, out, "cpu", baselines=False, cache=cache)
    assert before == ((out / "results.json").read_bytes(), (out / "predictions.jsonl").read_bytes())
    (tmp_path / "moved").symlink_to(checkpoint)
    bench(tmp_path / "moved", config, out, "cpu", baselines=False, cache=cache)  # the same weights under another name


def test_a_run_that_went_on_is_scored_again(family: Path, tmp_path: Path) -> None:
    config = bench_config(family, samples=1)
    first = bench(family, config, family / "bench", "cpu", baselines=False, cache=tmp_path / "cache")
    tiny_checkpoint(family / "checkpoints/step-00000030/weights", seed=1)
    (family / "latest").write_text("step-00000030")
    second = bench(family, config, family / "bench", "cpu", baselines=False, cache=tmp_path / "cache")
    assert first["weights"] != second["weights"]


def test_ctrl_c_says_what_is_kept(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalEngine, "generate", stop)
    with pytest.raises(Interrupted, match=r"kept in .*; the same command asks only the others"):
        bench(checkpoint, CONFIG, tmp_path / "bench", "cpu", cache=tmp_path / "cache")


def test_stages_of_one_lineage_share_the_untrained_answers(family: Path, tmp_path: Path, asked: list[Request]) -> None:
    cache = tmp_path / "cache"
    config = bench_config(family)
    assert (config.samples, config.seed) == (2, 5)
    results = bench(family, config, tmp_path / "one", "cpu", cache=cache)
    assert results["baselines"]["untrained"]["model"] == (
        "what the lineage began with (small alignment): fresh weights throughout"
    )
    asked.clear()
    bench(family, config, tmp_path / "two", "cpu", cache=cache)
    questions = {(request.turns, request.images) for request in asked}
    assert len(questions) == len(asked) < 2 * (2 * len(TASKS))  # own and blind answers; the untrained ones are there


def test_the_untrained_model_is_what_the_first_run_drew(family: Path) -> None:
    device = pick("cpu")
    loaded = load_model(family, device=device, dtype=torch.float32)
    untrained, _ = untrained_model(family, loaded, device=device, dtype=torch.float32)
    device.seed(11)
    section = ModelSection(config=tiny_config(), tokenizer=str(family.parents[1] / "tokenizer"))
    expected = init_model(section, family).model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in untrained.model.state_dict().items())
    assert fingerprint(untrained) != fingerprint(loaded)


def test_where_a_checkpoint_comes_from(family: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = family / "checkpoints/step-00000020"
    assert root_run(family) == root_run(step) == family.parent / "alignment"
    assert root_run(checkpoint) is None
    assert default_out(family) == family / "bench"
    assert default_out(step) == family / "bench-step-00000020"
    assert re.fullmatch(rf"runs/bench/{checkpoint.parent.name}-[0-9a-f]{{6}}", str(default_out(checkpoint)))
    assert (
        default_out(checkpoint) == default_out(checkpoint.parent) != default_out(Path("other", *checkpoint.parts[1:]))
    )
    assert bench_config(family, samples=7).samples == 7
    assert bench_config(checkpoint) == BenchConfig()
    monkeypatch.chdir(family.parents[1])
    assert report_folder(Path("runs/advance/bench")) == report_folder(Path("runs/bench")) == Path("runs")
    assert report_folder(Path("runs/advance/bench-step-00000020")) is report_folder(Path("b/a")) is None


def test_the_fingerprint_follows_the_weights(checkpoint: Path, tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "other", seed=1)
    device = pick("cpu")
    same, again, other = (
        fingerprint(load_model(path, device=device, dtype=torch.float32))
        for path in (checkpoint, checkpoint, tmp_path / "other")
    )
    assert same == again != other


class TestCommand:
    def test_json_is_one_object_and_nothing_else(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        words = ["bench", "--suite", "synth", "--checkpoint", str(checkpoint), "--out", "b", "--samples", "2"]
        done = CliRunner().invoke(app, [*words, "--no-baselines", "--device", "cpu", "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout) == json.loads(Path("b/results.json").read_text())
        done = CliRunner().invoke(app, [*words, "--no-baselines", "--device", "cpu"])
        assert done.exit_code == 0 and "overall" in done.stdout and "next:" not in done.stderr  # no report shows it
        compared = json.loads(CliRunner().invoke(app, ["bench", "--compare", "b", "--compare", "b", "--json"]).stdout)
        own = json.loads(Path("b/results.json").read_text())
        for name, one in [*own["tasks"].items(), ("overall", own["overall"])]:
            shown = {**{k: v["scores"] for k, v in compared["benchmarks"].items()}, **compared["averages"]}[name][0]
            assert shown["ci95"] == [100 * bound for bound in one["ci95"]], name

    def test_every_checkpoint_of_a_run(self, family: Path, checkpoint: Path) -> None:
        other = family / "checkpoints/step-00000030"
        other.mkdir()
        (other / "weights").symlink_to(checkpoint)
        for step in ("20", "30"):
            (family / f"checkpoints/step-000000{step}/manifest.json").write_text('{"files": {}}')
        (family / "checkpoints/step-00000040").mkdir()  # not complete: it has no manifest
        words = ["bench", "--run", str(family), "--no-baselines", "--device", "cpu"]
        done = CliRunner().invoke(app, [*words, "--json"])
        assert done.exit_code == 0, done.output
        first, second = json.loads(done.stdout)
        assert first["overall"] == second["overall"] and first["checkpoint"].endswith("step-00000020")
        for name in ("bench-step-00000020", "bench-step-00000030"):
            assert (family / name / "wrong_answers.html").is_file()
        done = CliRunner().invoke(app, words)
        assert "step-00000020" in done.stdout and "overall" in done.stdout
        done = CliRunner().invoke(app, [*words, "--out", "x"])
        assert done.exit_code == 2 and "a folder of its own" in done.output

    def test_another_suites_results_follow_their_run(self, family: Path, tmp_path: Path) -> None:
        write_tsv(tmp_path / "Reading.tsv", [{"index": 1, "image": b64(png()), "references": '["a"]'}])
        suite = tmp_path / "reading.yaml"
        entry = "{name: Reading, dataset: Reading, metric: ocr, prompt: ocr, max_new_tokens: 2}"
        suite.write_text(f"name: reading\nbenchmarks: [{entry}]\n")
        words = [
            "bench",
            "--checkpoint",
            str(family),
            "--suite",
            str(suite),
            "--data",
            str(tmp_path),
            "--device",
            "cpu",
        ]
        for seed in (0, 1):
            tiny_checkpoint(tmp_path / f"weights-{seed}", seed=seed)
            place = family / "checkpoints/step-00000020/weights"
            place.unlink()
            place.symlink_to(tmp_path / f"weights-{seed}")
            done = CliRunner().invoke(app, words)
            assert done.exit_code == 0, done.output
        assert (family / "bench-reading/results.json").is_file()
        done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "apart")])
        assert done.exit_code == 0, done.output
        place.unlink()
        place.symlink_to(tmp_path / "weights-0")
        done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "apart")])
        assert done.exit_code == 2 and "holds the results of weights" in done.output

    def test_a_plan_asks_nothing(self, family: Path, asked: list[Request]) -> None:
        done = CliRunner().invoke(app, ["bench", "--checkpoint", str(family), "--dry-run", "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["questions"] == 2 * len(TASKS)
        assert not asked and not (family / "bench").exists()

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            (["--suite", "mmstar"], "suite 'mmstar' does not exist; did you mean 'MMStar'? suites: card14"),
            (["--checkpoint", "nowhere"], "nowhere: no such folder"),
            ([], "no completed stage under runs/tiny"),
        ],
    )
    def test_what_is_wrong_is_said_in_one_line(
        self, words: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        done = CliRunner().invoke(app, ["bench", *words])
        assert done.exit_code == 2
        assert line in done.stderr
        assert not list(tmp_path.iterdir())
