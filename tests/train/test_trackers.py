"""TensorBoard's own reader against metrics.jsonl, through a kill and a resume; W&B as far as it can be had."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sailctl.core.errors import MissingExtra, UsageError
from sailctl.core.train import trackers
from sailctl.core.train.trackers import check_trackers, scalars
from tests.helpers_train import rows, train, write_recipe


def test_numbers_of_a_row_by_tag() -> None:
    row = {"step": 3, "stage": "advance", "loss": 0.5, "packs": 2, "fill": {"tokens": 0.9}, "perf": {"mfu": None}}
    assert dict(scalars(row)) == {"train/loss": 0.5, "train/packs": 2, "fill/tokens": 0.9}


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_an_absent_tracker_names_its_extra(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(tmp_path / "recipe")
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=rf"^{name} is not installed; install it with: pip install .*\[{name}\]'"):
        train(recipe, tmp_path / "run", "alignment", f"train.trackers=[{name}]")
    assert not (tmp_path / "run").exists(), "refused before anything was made"


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(MissingExtra):
        check_trackers(["wandb"])


def test_tensorboard_shows_what_metrics_say(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = write_recipe(tmp_path / "recipe", max_steps=4, save_every=2)
    plain = train(recipe, tmp_path / "plain").run_dir
    run = train(recipe, tmp_path / "run", "alignment", "train.trackers=[tensorboard]").run_dir
    assert rows(run) == rows(plain), "being watched changes nothing"
    # As if killed after step 4 was logged and before it was saved; the second session need not be watched the same way.
    (run / "latest").write_text("step-00000002")
    train(recipe, run, "alignment", "train.trackers=[tensorboard,tensorboard]", resume=True)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    shown = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert shown["train/loss"] == [(row["step"], pytest.approx(row["loss"])) for row in logged] and len(logged) == 4
    assert {"train/grad_norm", "fill/tokens", "perf/gemm_share", "perf/data_wait_share"} <= shown.keys()
    assert "perf/mfu" not in shown  # null on CPU


WANDB = """
class Error(Exception): pass
class Settings:
    def __init__(self, **options): pass
class Run:
    def __init__(self, options): self.options, self.rows, self.ended = options, [], False
    def log(self, values, step): self.rows.append((step, values["train/loss"]))
    def finish(self): self.ended = True
runs = []
refuse = False
def init(**options):
    if refuse: raise Error("No API key configured.\\nmore")
    runs.append(Run(options))
    return runs[-1]
"""


def test_wandb_run_outlives_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with W&B's own signatures: the package is large and wants an account."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    recipe = write_recipe(tmp_path / "recipe", max_steps=4, save_every=2, trackers=["wandb"])
    run = train(recipe, tmp_path / "run").run_dir
    (run / "latest").write_text("step-00000002")
    train(recipe, run, resume=True)
    wandb = sys.modules.pop("wandb")
    first, second = wandb.runs
    assert [step for step, _ in first.rows] == [1, 2, 3, 4] and second.rows == first.rows[2:]
    assert first.options["id"] == second.options["id"] and first.options["resume"] == "allow"
    assert first.options["name"] == "toy/alignment" and first.ended and second.ended
    wandb.refuse = True
    sys.modules["wandb"] = wandb
    with pytest.raises(
        UsageError, match=r"cannot start \(No API key configured\.\); run wandb login, or set WANDB_MODE"
    ):
        train(recipe, tmp_path / "other")
    del sys.modules["wandb"]
