"""The command with a model of its own process, and with servers that it starts and ends itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sailctl.cli import app
from sailctl.core.caption.prompts import load_prompts
from sailctl.core.engines import lmdeploy
from tests import stub_engine
from tests.caption.helpers_caption import all_lines, picture_tar, sidecar_rows
from tests.helpers_data import picture
from tests.helpers_train import train, write_recipe
from tests.stub_engine import told


def sailctl(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_checkpoint_of_ours_answers_in_this_process(tmp_path: Path) -> None:
    """A model that has learnt nothing says something of every picture, or is given up with a reason."""
    train(write_recipe(tmp_path / "recipe", max_steps=1), tmp_path / "run")
    data = picture_tar(tmp_path / "a.tar", range(5), captions=False)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "detailed.en.txt").write_text("What?")
    words = ("caption", "--data", data, "--engine", "local", "--checkpoint", tmp_path / "run", "--device", "cpu")
    words += ("--max-tokens", 6, "--prompts", tmp_path / "prompts", "--out", tmp_path / "out", "--json")
    result = sailctl(*words)
    assert result.exit_code == 0, result.stderr
    rows, given_up = sidecar_rows(tmp_path / "out"), all_lines(tmp_path / "out", "quarantine")
    assert sorted(row["row"] for row in [*rows, *given_up]) == list(range(5))
    report = json.loads(result.stdout)
    assert report["complete"] and report["model"].startswith("run@")
    assert all(row["model"] == report["model"] for row in rows)
    again = sailctl(*words)
    assert json.loads(again.stdout)["session"]["answered"] == 0
    train(write_recipe(tmp_path / "recipe", max_steps=2), tmp_path / "other" / "run")
    other = sailctl(*(tmp_path / "other" / "run" if word == tmp_path / "run" else word for word in words))
    assert other.exit_code == 2 and "caption.json: model is 'run@" in other.stderr


def test_servers_are_started_asked_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stub in LMDeploy's place; it takes the model's name as it is served, and no key."""
    started: list[tuple[str, str]] = []

    def stand_in(path: str, model: str, place: object) -> lmdeploy.Argv:
        started.append((path, model))
        return lambda path, port: [sys.executable, stub_engine.__file__, "--port", str(port)]

    monkeypatch.setattr(lmdeploy, "_lmdeploy", stand_in)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-for-them")
    data = picture_tar(tmp_path / "a.tar", range(5), captions=False)
    words = ("caption", "--data", data, "--engine", "lmdeploy", "--checkpoint", "models/captioner", "--device", "cpu")
    result = sailctl(*words, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    prompt = load_prompts(("detailed",), "en", None)[0].without
    rows = sidecar_rows(tmp_path / "out")
    assert [row["text"] for row in rows] == [told([picture(number, 12, 10)], prompt) for number in range(5)]
    assert rows[0]["model"] == "models/captioner" and started == [("models/captioner", "captioner")]
    assert "serving models/captioner at http://127.0.0.1:" in result.stderr


def test_without_lmdeploy_the_extra_is_named_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lmdeploy.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(lmdeploy.shutil, "which", lambda name: None)
    data = picture_tar(tmp_path / "a.tar", [0])
    words = ("caption", "--data", data, "--engine", "lmdeploy", "--checkpoint", "m", "--device", "cpu")
    result = sailctl(*words, "--out", tmp_path / "o")
    assert result.exit_code == 2 and "lmdeploy is not installed" in result.stderr and not (tmp_path / "o").exists()
