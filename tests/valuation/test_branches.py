"""Branches off a trunk: the trunk stays as it is, rows are written once, kills and later options cost no work twice."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from sailctl.cli import app
from sailctl.core.errors import Interrupted, UsageError
from sailctl.core.schema.load import load_recipe
from sailctl.core.train.checkpoint import Checkpoint
from sailctl.core.valuation import branches
from sailctl.core.valuation.branches import BranchRequest
from sailctl.core.valuation.curve import Curve, Place
from sailctl.core.valuation.trunk import Then, choose, count_of
from tests.helpers_train import Silent, train, write_recipe

EVERY = 12  # samples: two steps of about 6


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("toy") / "recipe", max_steps=6, keep_checkpoints=3)


@pytest.fixture
def trunk(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "trunk"
    train(recipe, run, "alignment")
    return run


def files_of(run: Path) -> dict[str, str]:
    """Hashes of what a trunk consists of, without what branches add beside it."""
    own = [path for path in sorted(run.rglob("*")) if path.is_file()]
    own = [
        path for path in own if path.relative_to(run).parts[0] not in ("anneal", "sft-recipe-knowledge", "curve.jsonl")
    ]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in own}


def request(run: Path, **options: Any) -> BranchRequest:
    torch.set_num_threads(1)
    values: dict[str, Any] = {"every": EVERY, "samples": 6, "questions": 1, "device": "cpu", **options}
    return BranchRequest(run, **values)


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]


def test_every_checkpoint_becomes_a_row_and_the_trunk_stays_as_it_is(trunk: Path, recipe: Path) -> None:
    before = files_of(trunk)
    then = f"sft:{recipe}:knowledge"
    shown = request(trunk, then=then, bench_trunk=True).perform(Silent())
    assert files_of(trunk) == before
    rows = rows_of(trunk)
    assert shown is not None and shown.json["rows"] == rows and shown.json["missing"] is None
    assert [(row["step"], row["stage"]) for row in rows] == [
        (step, stage) for step in (2, 4, 6) for stage in ("alignment", "anneal", "knowledge")
    ]
    metrics = [json.loads(line) for line in (trunk / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        seen = metrics[row["step"] - 1]
        assert (row["samples"], row["tokens"]) == (seen["samples"], seen["tokens"])
        assert 0 <= row["ci95"][0] <= row["score"] <= row["ci95"][1] <= 1 and row["n"] == 10 and row["suite"] == "synth"
        assert row["then"] == (then if row["stage"] == "knowledge" else None)
        assert (trunk / row["checkpoint"] / "manifest.json").is_file()
    annealed = json.loads((trunk / "anneal/step-00000004/run.json").read_text())
    assert annealed["parent"]["step"] == 4 and annealed["stage"] == "anneal"
    steps = [json.loads(line) for line in (trunk / "anneal/step-00000004/metrics.jsonl").read_text().splitlines()]
    assert steps[-1]["lr"] < 3e-3 or len(steps) == 1
    # a rerun does nothing and writes nothing
    stamps = {path: path.stat().st_mtime_ns for path in trunk.rglob("*") if path.is_file() and path.name != ".lock"}
    silent = Silent()
    request(trunk, then=then, bench_trunk=True).perform(silent)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps and rows_of(trunk) == rows
    assert silent.lines == []


def test_a_killed_campaign_goes_on_where_it_was(trunk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = branches.train_stage, []

    def dies(*words: Any, **options: Any) -> Any:
        calls.append(options["out"].name)
        if len(calls) == 2:
            raise Interrupted(f"go on with: {options['resume_command']}")
        return real(*words, **options)

    monkeypatch.setattr(branches, "train_stage", dies)
    with pytest.raises(Interrupted) as stopped:
        request(trunk).perform(Silent())
    assert f"sailctl anneal --run {trunk} --every 12 --samples 6 --questions 1 --device cpu" in str(stopped.value)
    first = rows_of(trunk)
    assert [row["step"] for row in first] == [2]
    request(trunk).perform(Silent())
    assert calls == ["step-00000002", "step-00000004", "step-00000004", "step-00000006"]  # none twice that was done
    rows = rows_of(trunk)
    assert rows[0] == first[0] and [row["step"] for row in rows] == [2, 4, 6]


def test_a_branch_killed_in_its_middle_ends_as_if_nothing_had_happened(trunk: Path, tmp_path: Path) -> None:
    """A real process gets SIGKILL while it anneals; the rerun's branch has the weights of one never disturbed."""
    words = ["--run", str(trunk), "--every", "36", "--samples", "300", "--questions", "1", "--device", "cpu"]
    words += ["--set", "train.save_every=5"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "sailctl", "anneal", *words]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = trunk / "anneal/step-00000006/metrics.jsonl"
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline and (not metrics.is_file() or lines(metrics) < 6):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert 0 < lines(metrics) < 45 and not (trunk / "curve.jsonl").exists()
    options: dict[str, Any] = {"every": 36, "samples": 300, "overrides": ["train.save_every=5"]}
    request(trunk, **options).perform(Silent())
    request(trunk, out=tmp_path / "calm", **options).perform(Silent())
    (killed,), (calm,) = rows_of(trunk), rows_of(tmp_path / "calm")
    assert killed == calm and killed["trained_samples"] >= 300
    found = [Checkpoint(home / row["checkpoint"]) for home, row in ((trunk, killed), (tmp_path / "calm", calm))]
    assert found[0].weights_sha256() == found[1].weights_sha256()


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def test_what_a_trunk_no_longer_has_is_said_with_the_settings_that_keep_it(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "short"
    train(recipe, run, "alignment", "train.keep_checkpoints=1", "train.save_every=4")
    chosen, said = choose(run, EVERY, [])
    assert list(chosen) == [6] and said is not None
    assert "no checkpoint is kept near 12, 24 samples (2 of 3 sizes)" in said
    assert "saves every 4 steps (train.save_every; about 24 samples) and keeps 1 (train.keep_checkpoints)" in said
    assert "--set train.save_every=2 --set train.keep_checkpoints=3" in said
    assert choose(run, EVERY, [12, 24])[1] is None  # the curve has them from when they were there
    plan = request(run).perform(Silent(), dry_run=True)
    assert plan is not None and plan.json["missing"] == said and not (run / "anneal").exists()


def test_wrong_use(trunk: Path, recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no run of sailctl"):
        request(tmp_path / "nowhere").perform(Silent())
    with pytest.raises(UsageError, match=r"--every 1,000,000: the trunk has seen 36 samples only"):
        request(trunk, every=1_000_000).perform(Silent())
    request(trunk, every=36).perform(Silent())
    with pytest.raises(UsageError, match="anneals on 6 samples, --samples is 12"):
        request(trunk, every=36, samples=12).perform(Silent())
    rows = rows_of(trunk)
    (trunk / "curve.jsonl").write_text(json.dumps({**rows[0], "trunk_sha256": "another"}) + "\n")
    with pytest.raises(UsageError, match="the trunk was trained anew"):
        request(trunk, every=36).perform(Silent())
    assert load_recipe(str(recipe), "anneal")[0].train.schedule == "linear_to_zero"
    request(trunk, every=36, recipe=str(recipe), out=tmp_path / "elsewhere").perform(Silent())
    assert [row["step"] for row in rows_of(tmp_path / "elsewhere")] == [6]


def test_options_as_people_write_them() -> None:
    assert [count_of(text, "--every") for text in ("2M", "500k", "2e6", "1,000", "12")] == [2e6, 5e5, 2e6, 1000, 12]
    for text in ("", "M", "-1", "0", "1.5", "inf", "two"):
        with pytest.raises(UsageError, match="--every"):
            count_of(text, "--every")
    assert Then.parse("sft:tiny") == Then("tiny", "instruction")
    assert Then.parse("sft:tiny:knowledge") == Then("tiny", "knowledge")
    assert Then.parse("sft:a/b:preference").folder == "sft-b-preference"
    short = Then.parse("sft:tiny,train.max_samples=1600")
    assert short == Then("tiny", "instruction", ("train.max_samples=1600",))
    assert short.name == "sft:tiny:instruction,train.max_samples=1600"
    assert short.folder == "sft-tiny-instruction-train.max_samples-1600"
    with pytest.raises(UsageError, match="recipe tiny has no stage instuction; give knowledge or instruction"):
        Then.parse("sft:tiny:instuction")
    for text in ("tiny", "sft:", "pretrain:tiny", "sft:tiny:advance"):
        with pytest.raises(UsageError, match="--then"):
            Then.parse(text)


def test_rows_are_told_apart_by_everything_measured(tmp_path: Path) -> None:
    place = Place("anneal", None, 6, "synth", 1)
    curve = Curve.read(tmp_path / "curve.jsonl")
    row = {"step": 2, "samples": 12, "tokens": 99, "trunk_sha256": "x", "score": 0.5, "n": 17, "ci95": [0.4, 0.6]}
    curve.append({**row, "stage": "anneal", "then": None, "branch_samples": 6, "suite": "synth", "questions": 1})
    again = Curve.read(curve.path)
    assert again.has(2, place) and not again.has(4, place)
    assert not again.has(2, Place("anneal", None, 6, "synth", 2)) and not again.has(
        2, Place("anneal", None, 7, "synth", 1)
    )


def sailctl(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_command(trunk: Path) -> None:
    words = ("anneal", "--run", trunk, "--every", "36", "--samples", "6", "--questions", "1", "--device", "cpu")
    plan = json.loads(sailctl(*words, "--dry-run", "--json").stdout)
    assert [branch["state"] for branch in plan["branches"]] == ["to do"]
    result = sailctl(*words)
    assert result.exit_code == 0, result.stderr
    assert "step 6" in result.stdout and f"next: sailctl scaling --run {trunk}" in result.stderr
    assert json.loads(sailctl(*words, "--json").stdout)["rows"] == rows_of(trunk)
    for options, message in (
        (("--every", "2M"), "--every goes with --run RUN"),
        (("--run", trunk), "--every N is missing"),
        (("--run", trunk, "--every", "x"), "--every x: should be a whole number"),
        (("--run", trunk, "--every", "2M", "--checkpoint", "a"), "--run and --checkpoint"),
    ):
        refused = sailctl("anneal", *options)
        assert refused.exit_code == 2 and message in refused.stderr


def test_data_that_a_later_training_lacks_are_told_before_anything_is_trained(trunk: Path, tmp_path: Path) -> None:
    other = write_recipe(tmp_path / "other", max_steps=6)
    (other / "data/samples.jsonl").unlink()
    with pytest.raises(UsageError, match=r"nothing at .*other/data/samples.jsonl; mend the recipe of --then"):
        request(trunk, then=f"sft:{other}:knowledge").perform(Silent())
    assert not list(trunk.glob("anneal/step-*"))
