"""When a run may be resumed: the recipe it began with, seen through today's schema."""

import subprocess
from pathlib import Path

import pytest

from sailctl.core.errors import UsageError
from sailctl.core.schema.recipe import Recipe
from sailctl.core.train import rundir
from sailctl.core.train.rundir import check_same_recipe


def test_git_is_that_of_the_code_wherever_it_was_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x"]
    for command in (["git", "init", "-q"], made):
        subprocess.run(command, cwd=tmp_path, check=True)
    here = rundir.environment()["git"]
    monkeypatch.chdir(tmp_path)
    assert rundir.environment()["git"] == here
    monkeypatch.setattr(rundir, "CHECKOUT", tmp_path)  # a project of one's own, with its packages in it
    assert rundir.environment()["git"] is None
    (tmp_path / "pyproject.toml").touch()
    assert rundir.environment()["git"]["dirty"]


def test_a_key_younger_than_the_run_had_its_default_then() -> None:
    now = Recipe(name="r", stage="advance").model_dump(mode="json")
    stored = Recipe(name="r", stage="advance").model_dump(mode="json")
    del stored["data"]["overlong"]
    check_same_recipe(Path("run"), stored, now)
    now["data"]["overlong"] = "reject"
    with pytest.raises(UsageError, match=r"run was begun with another recipe: data\.overlong \(truncate then, reject"):
        check_same_recipe(Path("run"), stored, now)


def test_a_key_that_is_gone_is_named() -> None:
    now = Recipe(name="r", stage="advance").model_dump(mode="json")
    stored = Recipe(name="r", stage="advance").model_dump(mode="json")
    stored["train"]["momentum"] = 0.9
    with pytest.raises(UsageError, match=r"train\.momentum \(0\.9 then, None now\)"):
        check_same_recipe(Path("run"), stored, now)
