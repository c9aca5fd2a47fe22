"""The three evaluations as commands: wrong use, plans, and real campaigns on recipes small enough for a test.

The toy recipe of the training tests takes a second a trial and learns nothing: its weights tell whether two ways of
running are the same. The tiny recipe that comes with sailctl has scores.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sailctl.cli import app
from sailctl.core.errors import TrainingError
from sailctl.core.schema.data import SourceConfig
from sailctl.core.valuation import request as module
from sailctl.core.valuation.ladder import plan_for
from sailctl.core.valuation.ledger import FILE, workspace
from sailctl.core.valuation.mixture import open_parts
from sailctl.core.valuation.request import EvalRequest
from sailctl.core.valuation.seam import Outcome
from sailctl.core.valuation.trainer import Spec
from tests.helpers_train import Silent, write_recipe, write_samples

ROOT = Path(__file__).resolve().parents[2]


def sailctl(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def write_texts(path: Path, begin: int, count: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(begin, begin + count):
        turns = [{"from": "human", "value": f"Say {number}."}, {"from": "gpt", "value": str(number)}]
        rows.append(json.dumps({"id": str(number), "conversations": turns}) + "\n")
    path.write_text("".join(rows))
    return path


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy recipe, two datasets of 40 samples with pictures, and a mixture of three groups."""
    folder = tmp_path_factory.mktemp("toy")
    write_recipe(folder / "recipe")
    lines = write_samples(folder / "data", 60).read_text().splitlines(keepends=True)
    (folder / "data" / "first.jsonl").write_text("".join(lines[:40]))
    (folder / "data" / "second.jsonl").write_text("".join(lines[30:]) + "".join(lines[:10]))
    for number, name in enumerate(("documents", "open", "text")):
        write_texts(folder / f"{name}.jsonl", 100 * number, 40)
    sources = "".join(f"- {{name: {name}, path: {name}.jsonl}}\n" for name in ("documents", "open", "text"))
    (folder / "mixture.yaml").write_text(f"sources:\n{sources}")
    return folder


@pytest.fixture
def here(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(toy)
    return toy


SMALL = ("--recipe", "recipe", "--stage", "alignment", "--questions", 1, "--device", "cpu")
TWO = ("--data", "data/first.jsonl", "--data", "data/second.jsonl")
MIXED = ("--mixture", "mixture.yaml")
FOUR_TRIALS = {"rungs": "6", "budget": "24", "worth": 30.0}  # two seeds of two datasets, and the budget is out


def perform(workspace: Path, reporter: Silent | None = None, **options: Any) -> dict[str, Any]:
    """The toy campaign of four trials; paths are relative to the toy's folder."""
    values: dict[str, Any] = {
        "recipe": "recipe",
        "data": (TWO[1], TWO[3]),
        "questions": 1,
        "device": "cpu",
        "workers": 1,
    }
    values |= FOUR_TRIALS | {"workspace": workspace} | options
    return EvalRequest("quick-eval", "alignment", **values).perform(reporter or Silent()).json


def ledger_rows(workspace: Path) -> list[dict[str, Any]]:
    """All columns of all trials that do not tell of time."""
    with sqlite3.connect(workspace / FILE) as rows:
        rows.row_factory = sqlite3.Row
        found = [dict(row) for row in rows.execute("SELECT * FROM trials ORDER BY rowid")]
    rows.close()
    return [{k: v for k, v in row.items() if not k.endswith("_s") and k != "made"} for row in found]


def weights_of(workspace: Path) -> dict[str, str]:
    """A hash of the weights of every trial."""
    found = {}
    for row in ledger_rows(workspace):
        total = hashlib.sha256()
        for path in sorted((workspace / row["folder"] / "weights").glob("*.safetensors")):
            total.update(path.read_bytes())
        found[row["key"]] = total.hexdigest()
    return found


def decision(result: dict[str, Any]) -> dict[str, Any]:
    """What was decided, without what it took in time."""
    cost = {key: value for key, value in result["cost"].items() if not key.endswith("_s")}
    return {**result, "cost": cost}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seeds of the trials that are trained in this process."""
    seeds: list[int] = []
    real: Callable[..., Any] = Spec.train

    def counting(self: Spec, trial: Any) -> Any:
        seeds.append(trial.seed)
        return real(self, trial)

    monkeypatch.setattr(Spec, "train", counting)
    return seeds


# --- wrong use -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("quick-eval", *SMALL), "quick-eval ranks datasets: give --data twice or more"),
        (("quick-eval", *SMALL, *TWO[:2]), "quick-eval ranks datasets: give --data twice or more"),
        (("quick-eval", *SMALL, *TWO, "--rungs", "6,x"), "--rungs x: is no number of samples"),
        (("quick-eval", *SMALL, *TWO, "--rungs", "12,6"), "--rungs 12,6: should be rising"),
        (("quick-eval", *SMALL, *TWO, "--rungs", "6,12", "--seeds", "1,2"), "--seeds 1,2: should hold one number"),
        (("quick-eval", *SMALL, *TWO, "--rungs", "6,12", "--seeds", "x"), "--seeds x: give a number for each rung"),
        (("quick-eval", *SMALL, *TWO, "--rungs", "6,12", "--seeds", "0"), "--seeds 0: every size but the last"),
        (("quick-eval", *SMALL, *TWO, "--rungs", "6,12", "--samples", "24"), "--samples 24: the last of --rungs 6,12"),
        (("quick-eval", *SMALL, *TWO, "--rungs", "6", "--alpha", "2"), "--alpha 2: should be above 0 and below 0.5"),
        (("quick-eval", *SMALL, *TWO, "--rungs", "6", "--worth", "0"), "--worth 0: should be a number of points"),
        (("quick-eval", *SMALL, *TWO, "--finalists", "99"), "--finalists 99: 2 datasets are given; ask for no more"),
        (("compose-eval", *SMALL, *MIXED, "--rungs", "6,12", "--seeds", "-1"), "--seeds -1: every size but the last"),
        (("compose-eval", *SMALL, *MIXED, "--rungs", "6,9,12,15"), "--rungs 6,9,12,15: so many want --seeds, too"),
        (("compose-eval", *SMALL, *MIXED, "--strategy", "paper", "--seeds", "1"), "--seeds 1: --strategy paper"),
        (("compose-eval", *SMALL, *MIXED, "--strategy", "joint", "--rungs", "6,12"), "--rungs 6,12: --strategy joint"),
        (("compose-eval", *SMALL, *MIXED, "--samples", "110"), "the other groups hold 80 samples"),
        (("compose-eval", *SMALL, *MIXED, "--samples", "9999", "--dry-run"), "the mixture holds "),
        (("quick-eval", *SMALL, *TWO, "--samples", "1h"), "--samples 1h: is no number of samples"),
        (("quick-eval", *SMALL, *TWO, "--samples", "41"), "holds 40 samples, 41 are asked for; ask for fewer"),
        (("quick-eval", *SMALL, *TWO, "--budget", "much"), "--budget much: give samples (2e6, 2M) or device time"),
        (("quick-eval", *SMALL, *TWO, "--rungs", "6", "--budget", "23"), "too small for one decision, which takes 24"),
        (("quick-eval", *SMALL, *TWO, "--score", "cheese"), "--score cheese: suite synth has overall, "),
        (("quick-eval", *SMALL, *TWO, "--suite", "cheese"), "cheese"),
        (("quick-eval", *SMALL, *TWO[:2], "--data", "nowhere.jsonl"), "nowhere.jsonl"),
        (("quick-eval", *SMALL, *TWO, "--checkpoint", "nowhere"), "--checkpoint nowhere does not exist"),
        (("quick-eval", "--recipe", "recipe", "--stage", "advance", *TWO, "--questions", 1), "run/alignment"),
        (("incremental-eval", *SMALL, *MIXED), "incremental-eval judges candidates: give --data CANDIDATE"),
        (("incremental-eval", *SMALL, *MIXED, *TWO, "--strategy", "joint"), "--strategy joint: should be sequential"),
        (("incremental-eval", *SMALL, *MIXED, *TWO, "--fdr", "1.5"), "--fdr 1.5: should be above 0 and below 1"),
        (("compose-eval", *SMALL, *MIXED, "--strategy", "best"), "--strategy best: should be sequential or paper or"),
        (("compose-eval", *SMALL, *MIXED, "--group", "documents"), "--group documents: should be NAME=PATTERN"),
        (("compose-eval", *SMALL, *MIXED, "--group", "a=pdf*"), "--group a=pdf*: pdf* matches no source; sources: doc"),
        (("compose-eval", *SMALL, *MIXED, "--alpha", "0.7"), "--alpha 0.7: should be above 0"),
        (("compose-eval", *SMALL, "--mixture", "recipe/alignment.yaml"), "is not a mixture; it should begin with"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(map(str, (value[0], *value[-2:]))),
)  # fmt: skip
def test_wrong_use_is_one_line_before_anything_is_trained(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], message: str
) -> None:
    def never(self: Spec, trial: Any) -> Any:
        raise AssertionError("nothing should be trained")

    monkeypatch.setattr(Spec, "train", never)
    message = message.replace("run/alignment", "starts from stage alignment, but runs/toy/alignment has no checkpoint")
    refused = sailctl(*words, "--workspace", tmp_path / "workspace")
    assert refused.exit_code == 2, refused.output
    assert message in refused.stderr and "Traceback" not in refused.stderr


# --- plans -----------------------------------------------------------------------------------------------------------


def test_dry_runs_train_nothing_and_say_what_would_be_done(here: Path, tmp_path: Path, trained: list[int]) -> None:
    options = (*SMALL, "--workspace", tmp_path, "--workers", 2, "--dry-run", "--json")
    quick = json.loads(sailctl("quick-eval", *TWO, "--rungs", "6,12", "--seeds", 2, *options).stdout)
    assert quick["command"] == "quick-eval" and quick["datasets"] == {"first": 40, "second": 40}
    assert quick["rungs"] == [6, 12] and quick["trials to begin with"] == 4  # 2 datasets, 2 seeds of 6
    assert quick["least samples"] == 4 * 6 + 4 * 12  # and 2 seeds of 2 finalists at the full size
    assert quick["workers"] == "2 on cpu" and quick["stage"] == "toy alignment from the recipe"
    compose = json.loads(sailctl("compose-eval", *MIXED, "--group", "rest=o*,t*", *options).stdout)
    assert compose["groups"] == {"documents": 40, "rest": 80}
    assert compose["rungs"] == [60]  # half, so that what is halved can be made up for
    words = ("incremental-eval", *MIXED, *TWO, "--rungs", "6,12", "--seeds", 1, *options)
    assert json.loads(sailctl(*words).stdout)["trials to begin with"] >= 2  # a candidate and the baseline
    shown = sailctl(*words[:-1])
    assert shown.exit_code == 0 and "plan: incremental-eval" in shown.stdout
    assert trained == [] and list(tmp_path.iterdir()) == []
    with workspace(tmp_path):  # another evaluation is at work there
        assert sailctl(*words[:-1]).exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("quick-eval", *TWO, "--rungs", "12,6"), "--rungs 12,6: should be rising"),
        (("quick-eval", *TWO, "--worth", "nan"), "--worth nan: should be a number of points above 0"),
        (("compose-eval", *MIXED, "--alpha", "nan"), "--alpha nan: should be above 0"),
        (("incremental-eval", *MIXED, *TWO, "--margin", "inf"), "--margin inf: should be a number of points"),
        (("incremental-eval", *MIXED, *TWO, "--fdr", "5"), "--fdr 5: should be above 0 and below 1"),
        (("quick-eval", *TWO, "--rungs", "6", "--budget", "23"), "too small for one decision, which takes 24"),
        (("compose-eval", *MIXED, "--samples", "110"), "the other groups hold 80 samples"),
        (("compose-eval", *MIXED, "--group", "all=*"), "one group is no mixture"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(map(str, value)),
)
def test_a_dry_run_refuses_what_the_run_would(
    here: Path, tmp_path: Path, words: tuple[object, ...], message: str
) -> None:
    refused = sailctl(words[0], *SMALL, *words[1:], "--workspace", tmp_path, "--dry-run")
    assert refused.exit_code == 2 and message in refused.stderr, refused.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {name: a, path: open.jsonl, grup: x}", "bad.yaml, sources.0: unknown key 'grup'; did you mean 'group'?"),
        ("- {name: a, path: open.jsonl, samples: lots}", "bad.yaml, sources.0: samples = 'lots'"),
        ("- {name: a, path: open.jsonl}\n- {name: b}", "bad.yaml, sources.1: key 'path' is missing"),
        ("- mixed", "bad.yaml: sources should be a list of sections, such as - {name: a, path: data/a}"),
        ("- {name: a, path: open.jsonl}\n- {name: a, path: text.jsonl}", "two sources are called a"),
    ],
)
def test_a_bad_mixture_file_is_one_line_naming_the_entry(here: Path, tmp_path: Path, text: str, message: str) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(f"sources:\n{text}\n")
    for words in (("compose-eval", *SMALL, "--mixture", bad), ("quick-eval", *SMALL, *TWO, "--data", bad)):
        refused = sailctl(*words, "--workspace", tmp_path / "workspace")
        assert refused.exit_code == 2 and message in refused.stderr, refused.output
    if "two sources" not in message:  # training tells sources apart by their places
        trains = sailctl("pretrain", *SMALL[:4], "--data", bad, "--dry-run", "--device", "cpu")
        assert trains.exit_code == 2 and message in trains.stderr, trains.output


def test_datasets_of_one_file_name_are_told_apart_by_their_folders(here: Path, tmp_path: Path) -> None:
    for name in ("b", "c"):
        write_texts(tmp_path / name / "samples.jsonl", 0, 10)
    paths = ("--data", tmp_path / "b/samples.jsonl", "--data", tmp_path / "c/samples.jsonl")
    words = ("quick-eval", *SMALL, *paths, "--rungs", 6, "--workspace", tmp_path / "w", "--dry-run")
    shown = sailctl(*words)
    assert f"dataset b-samples: {tmp_path}/b/samples.jsonl, 10 samples" in shown.stderr, shown.output
    assert "b-samples 10, c-samples 10" in shown.stdout


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_trained(
    here: Path, tmp_path: Path, trained: list[int]
) -> None:
    (tmp_path / "file").write_text("")
    words = ("quick-eval", *SMALL, *TWO, "--rungs", 6, "--workspace", tmp_path / "w", "--out", tmp_path / "file/out")
    refused = sailctl(*words)
    assert refused.exit_code == 1 and "cannot write" in refused.stderr and "Traceback" not in refused.output
    assert trained == []


def test_rungs_are_shares_of_the_full_size_worth_the_name(here: Path) -> None:
    """The toy's steps are of 6 samples: a rung has 48 of them or more."""

    def plan(command: Any, **options: Any) -> Any:
        recipe, _ = module.load_recipe("recipe", "alignment", [])
        request = EvalRequest(command, "alignment", **options)
        return plan_for(request, recipe, {"a": 10_000}, {"b": 4000, "c": 9000})

    assert plan("quick-eval").rungs == (100, 400, 1000, 4000) and plan("quick-eval").seeds == (3, 2, 1)
    assert plan("quick-eval", samples="1k").rungs == (100, 250, 1000)
    assert plan("quick-eval", samples="1k").seeds == (2, 1)
    assert plan("compose-eval").rungs == (125, 500, 5000) and plan("compose-eval").screen == (6, 2)
    assert plan("incremental-eval", samples="100").rungs == (100,)
    assert plan("compose-eval", strategy="paper").rungs == (5000,)
    assert plan("quick-eval", rungs="1k,2k,4k", seeds="5,4").seeds == (5, 4)


# --- real campaigns --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_after_another(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The toy's campaign, undisturbed, one trial after another: its workspace and what it decided."""
    workspace = tmp_path_factory.mktemp("one") / "workspace"
    before = Path.cwd()
    os.chdir(toy)
    try:
        yield workspace, perform(workspace)
    finally:
        os.chdir(before)


def same_as(reference: tuple[Path, dict[str, Any]], workspace: Path, result: dict[str, Any]) -> None:
    """The same decision, the same rows with equal scores and items, and bit for bit the same models."""
    other, expected = reference
    assert decision(result) == decision(expected)
    assert ledger_rows(workspace) == ledger_rows(other)
    assert weights_of(workspace) == weights_of(other) and len(set(weights_of(other).values())) == 4


def test_two_processes_give_the_same(
    here: Path, one_after_another: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    same_as(one_after_another, tmp_path, perform(tmp_path, workers=2))


if importlib.util.find_spec("ray") is not None:

    @pytest.mark.slow
    def test_two_workers_on_a_local_ray_give_the_same(
        here: Path, one_after_another: tuple[Path, dict[str, Any]], tmp_path: Path
    ) -> None:
        same_as(one_after_another, tmp_path, perform(tmp_path, workers=2, ray="local"))


def test_a_campaign_killed_in_its_middle_goes_on_with_what_is_missing(
    here: Path, one_after_another: tuple[Path, dict[str, Any]], tmp_path: Path, trained: list[int]
) -> None:
    words = ["quick-eval", *SMALL, *TWO, "--rungs", 6, "--budget", 24, "--worth", 30, "--workers", 1]
    command = [sys.executable, "-m", "sailctl", *map(str, words), "--workspace", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with open(tmp_path / "output", "w") as output:
        killed = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("trials/*/outcome.json")) and time.monotonic() < deadline and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, (tmp_path / "output").read_text()
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("trials/*/outcome.json")}
    assert 1 <= len(finished) < 4 and ledger_rows(tmp_path) == []  # booked when their batch is over
    result = perform(tmp_path)
    assert len(trained) == 4 - len(finished)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    # rows are booked as they are found: those of before the kill first
    assert {row["key"] for row in ledger_rows(tmp_path)} == {row["key"] for row in ledger_rows(one_after_another[0])}
    assert sorted(ledger_rows(tmp_path), key=str) == sorted(ledger_rows(one_after_another[0]), key=str)
    assert weights_of(tmp_path) == weights_of(one_after_another[0])
    assert decision(result) == decision(one_after_another[1])


def failing(monkeypatch: pytest.MonkeyPatch, fails: Callable[[Any], bool]) -> None:
    """Let trials fail that would be trained, or come out without training, with a score of their samples of `open`."""

    def train(self: Spec, trial: Any) -> Any:
        if fails(trial):
            raise TrainingError("the loss is not a number at step 3")
        return trial, self.root, 1.0

    def bench(self: Spec, trained: tuple[Any, Path, float]) -> Outcome:
        return Outcome(10.0 + trained[0].mixture.get("open", 0), 10)

    monkeypatch.setattr(Spec, "train", train)
    monkeypatch.setattr(Spec, "bench", bench)


def test_where_all_trials_fail_nothing_is_decided_and_the_reason_is_said(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, lambda trial: True)
    words = ("quick-eval", *SMALL, *TWO, "--rungs", 6, "--workers", 1, "--workspace", tmp_path)
    for _ in range(2):
        failed = sailctl(*words)
        assert failed.exit_code == 1 and "next:" not in failed.stderr
        assert "error: all 8 trials failed: the loss is not a number at step 3; mend that and" in failed.stderr
    failing(monkeypatch, lambda trial: False)
    assert sailctl(*words).exit_code == 1  # they are not tried again unasked
    again = sailctl(*words, "--retry-failed")
    assert again.exit_code == 0 and "8 failed trials are tried again" in again.stderr


def test_where_one_trial_fails_others_go_on_and_the_reason_is_said(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = itertools.count()
    failing(monkeypatch, lambda trial: next(numbers) == 0)
    silent = Silent()
    result = perform(tmp_path, silent, budget=None)
    assert [row["error"] for row in ledger_rows(tmp_path)].count("the loss is not a number at step 3") == 1
    count = len(result["trials"])
    assert f"1 of {count} trials failed, the first: the loss is not a number at step 3; --retry-failed" in "".join(
        silent.lines
    )
    assert all(one["seeds"] >= 2 for one in result["ranking"])


def test_where_all_score_the_same_nobody_is_recommended(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, lambda trial: False)
    monkeypatch.setattr(Spec, "bench", lambda self, trained: Outcome(0.0, 10))
    options = (*SMALL, "--rungs", 24, "--workers", 1, "--workspace", tmp_path)
    ranked = sailctl("quick-eval", *TWO, *options)
    assert ranked.exit_code == 0 and "next:" not in ranked.stderr, ranked.output
    assert "nobody is ahead: first, second score the same; train longer" in ranked.stdout
    assert "0.00 to 0.00" not in ranked.stdout
    composed = sailctl("compose-eval", *MIXED, *options)
    assert composed.exit_code == 0 and "next:" not in composed.stderr, composed.output
    assert "undecided" in composed.stdout and "keep" not in composed.stdout
    monkeypatch.setattr(Spec, "bench", lambda self, trained: Outcome(10.0 * ("second" in trained[0].mixture), 10))
    ranked = sailctl("quick-eval", *TWO, *options, "--workspace", tmp_path / "other")
    assert "next: sailctl pretrain --stage alignment --recipe recipe --data data/second.jsonl" in ranked.stderr


def test_a_mixture_is_composed_and_grown_by_the_papers_rule(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are the samples of `open`: half as many is worse, half of another is better, another beside it worse."""
    failing(monkeypatch, lambda trial: False)
    options = (*SMALL, *MIXED, "--strategy", "paper", "--rungs", 24, "--workers", 1, "--workspace", tmp_path)
    shown = sailctl("compose-eval", *options)
    assert shown.exit_code == 0, shown.stderr
    record = json.loads((tmp_path / "compose-eval-paper" / "decision.json").read_text())
    # 8 of each; 4 of one leave 10 of each other
    assert {one["name"]: (one["choice"], one["points"]) for one in record["decisions"]} == {
        "documents": ("halve", 2.0),
        "open": ("keep", -4.0),
        "text": ("halve", 2.0),
    }
    assert record["mixture"] == {"documents": 20, "open": 40, "text": 20}
    path = tmp_path / "compose-eval-paper" / "mixture.yaml"
    assert f"next: sailctl pretrain --stage alignment --recipe recipe --data {path}" in shown.stderr
    assert "# halve text: +2.00 points; 20.00 against 18.00, one run each" in path.read_text()
    trains = sailctl("pretrain", *SMALL[:4], "--data", path, "--dry-run", "--device", "cpu")
    assert trains.exit_code == 0, trains.stderr

    more = ("--data", "data/first.jsonl", "--fdr", 0.3)
    grown = sailctl("incremental-eval", *options[:-1], tmp_path, *more)
    assert grown.exit_code == 0, grown.stderr
    record = json.loads((tmp_path / "incremental-eval-paper" / "decision.json").read_text())
    assert [(one["name"], one["choice"], one["points"]) for one in record["decisions"]] == [("first", "reject", -2.0)]
    assert record["mixture"] == {"documents": 40, "open": 40, "text": 40}


def test_joint_takes_no_trials_of_other_data_under_the_same_names(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, lambda trial: False)
    for name, count in (("documents", 400), ("open", 40), ("text", 40)):
        write_texts(tmp_path / "large" / f"{name}.jsonl", 1000, count)
    monkeypatch.chdir(tmp_path / "large")
    (tmp_path / "large" / "mixture.yaml").write_text((here / "mixture.yaml").read_text())
    options = ("--strategy", "joint", "--rungs", 60, "--workers", 1, "--workspace", tmp_path / "workspace", "--json")
    words: tuple[object, ...] = ("compose-eval", "--recipe", here / "recipe", *SMALL[2:], *MIXED, *options)
    larger = json.loads(sailctl(*words).stdout)
    assert all(one["seeds"] == 4 for one in larger["decisions"])
    monkeypatch.chdir(here)
    result = sailctl(*words)
    assert result.exit_code == 0, result.stderr
    proposed = json.loads(result.stdout)
    assert all(one["seeds"] == 4 for one in proposed["decisions"]) and "gain" in proposed
    points = {one["name"]: one["points"] for one in proposed["decisions"]}
    assert points["documents"] < 0 < points["open"]  # of doubling its share
    assert "next: sailctl compose-eval --mixture" in sailctl(*words[:-1]).stderr  # a guess is to be tried


@pytest.mark.slow
def test_scores_of_the_tiny_recipe_do_not_depend_on_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models that have learnt something score the same, bit for bit, one after another and side by side."""
    monkeypatch.chdir(tmp_path)
    for number, tasks in enumerate(("closed_vqa", "math=1,text_qa=1")):
        made = sailctl("synth", "--out", f"data-{number}", "--samples", 320, "--tasks", tasks, "--seed", number)
        assert made.exit_code == 0, made.stderr
    options: dict[str, Any] = {"data": ("data-0", "data-1"), "rungs": "320", "budget": "1280", "recipe": None}
    results = {count: perform(tmp_path / str(count), workers=count, questions=4, **options) for count in (1, 2)}
    rows = ledger_rows(tmp_path / "1")
    assert len(rows) == 4 and any(row["score"] > 0 for row in rows)
    assert ledger_rows(tmp_path / "2") == rows and decision(results[1]) == decision(results[2])
    assert weights_of(tmp_path / "1") == weights_of(tmp_path / "2")


def test_the_tiny_recipe_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[int]) -> None:
    """Two synthetic datasets ranked: a decision, its record, a ledger that leads back to data and weights."""
    monkeypatch.chdir(tmp_path)
    for number, tasks in enumerate(("caption", "ocr_word=1,text_qa=1")):
        made = sailctl("synth", "--out", f"data-{number}", "--samples", 64, "--tasks", tasks, "--seed", number)
        assert made.exit_code == 0, made.stderr
    words: tuple[object, ...] = (
        "quick-eval",
        "--stage",
        "alignment",
        "--data",
        "data-0",
        "--data",
        "data-1",
        "--rungs",
        64,
    )
    words += ("--budget", 256, "--worth", 30, "--questions", 1, "--device", "cpu", "--workers", 1)
    first = sailctl(*words)
    assert first.exit_code == 0, first.stderr
    assert len(trained) == 4
    record = json.loads(Path("runs/valuation/quick-eval/decision.json").read_text())
    assert record["stopped"] == "the budget is out" and record["cost"]["samples"] == 256
    assert {one["dataset"] for one in record["ranking"]} == {"data-0", "data-1"}
    assert "cost: 4 trials, 256 samples" in first.stdout
    ahead = [one["dataset"] for one in record["ranking"] if one["place"] == 1]
    named = f"next: sailctl pretrain --stage alignment --data {ahead[0]}" in first.stderr
    assert named == (len(ahead) == 1)  # so little training may leave both at 0

    began = time.perf_counter()
    second = json.loads(sailctl(*words, "--json").stdout)
    assert time.perf_counter() - began < 10
    assert second == record and len(trained) == 4  # answered from the ledger

    content = {}
    for name, parts in record["about"]["groups"].items():
        (part,) = parts
        (read,) = open_parts([SourceConfig(name=name, path=part["path"])])
        assert read.size == part["samples"] == 64
        content[name] = read.fingerprint
    rows = ledger_rows(Path("runs/valuation"))
    assert sorted(row["key"] for row in rows) == record["trials"]
    for row in rows:
        ((name, samples),) = json.loads(row["mixture"]).items()
        assert json.loads(row["manifest"]) == [[content[name], samples]] and samples == row["samples"] == 64
        folder = Path("runs/valuation") / row["folder"]
        assert list((folder / "weights").glob("*.safetensors")) and not (folder / "run" / "checkpoints").exists()
        trained_on = json.loads((folder / "run" / "run.json").read_text())
        assert [Path(one["path"]).name for one in trained_on["data"].values()] == [name]
        assert 0 <= row["score"] <= 100 and row["n"] == 10 and row["error"] == ""
        assert len((folder / "bench" / "samples.jsonl").read_text().splitlines()) == 10
