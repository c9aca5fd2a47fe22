"""The captioner's recipe: its files, its steps in order with options that exist, its stand-ins, all of it at work."""

from __future__ import annotations

import base64
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main

from sailctl.cli import GROUPS, app
from sailctl.core.curate.passes import verdict_table, write_table
from sailctl.core.data.encode import PROMPTS_EN
from sailctl.core.engines.rubrics import caption_quality
from sailctl.core.model.presets import model_config
from sailctl.core.schema.load import load_recipe, recipe_names, recipe_root
from tests.helpers_data import picture, write_tar

FOLDER = recipe_root() / "sail-captioner"
SCRIPT = FOLDER / "run.sh"
# Note what is called, and let the stand-in be there at once.
FAKE_SAILCTL = '#!/usr/bin/env bash\nprintf "%s\\t" "$@" >> "$LOG"; echo >> "$LOG"\n'
FAKE_PYTHON = """#!/usr/bin/env bash
[[ "$*" == *--url-file* ]] || exit 0
mkdir -p "$RUNS"
echo http://x/v1 > "${@: -1}"
exec sleep 60  # exec: it ends with the script
"""


def module(name: str) -> ModuleType:
    """A script of the recipe, imported."""
    found = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert found is not None and found.loader is not None
    made = importlib.util.module_from_spec(found)
    found.loader.exec_module(made)
    return made


def calls(folder: Path, *arguments: str, **variables: str) -> tuple[int, list[list[str]]]:
    """Exit code of the script and what it asked of sailctl, with commands that do nothing."""
    (folder / "bin").mkdir(exist_ok=True)
    for name, text in (("sailctl", FAKE_SAILCTL), ("python", FAKE_PYTHON)):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    log = folder / "log"
    log.write_text("")
    environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "LOG": str(log), "RUNS": str(folder / "runs")}
    done = subprocess.run(["bash", str(SCRIPT), *arguments], env={**environment, **variables}, capture_output=True)
    return done.returncode, [line.rstrip("\t").split("\t") for line in log.read_text().splitlines()]


def options_of(words: list[str]) -> tuple[str, set[str]]:
    """The command that is called, and the options of it that do not exist."""
    command: Any = typer.main.get_command(app).commands[words[0]]  # type: ignore[attr-defined]
    name = words[0]
    if name in GROUPS:
        command, name = command.commands[words[1]], f"{name} {words[1]}"
    known = {option for parameter in command.params for option in parameter.opts}
    return name, {word for word in words if word.startswith("--")} - known


class TestFiles:
    def test_it_is_a_script(self) -> None:
        text = SCRIPT.read_text()
        assert "set -euo pipefail" in text and os.access(SCRIPT, os.X_OK)
        subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
        assert "sail-captioner" not in recipe_names(), "its trainings are no model of the family"

    @pytest.mark.parametrize("size", ["tiny", "8b"])
    def test_its_trainings_are_recipes(self, size: str) -> None:
        recipe, _ = load_recipe(str(FOLDER / size), "knowledge")
        assert model_config(recipe.model) and recipe.train.trainable == ["vision", "projector", "llm"]

    def test_it_asks_as_it_was_taught(self) -> None:
        assert (FOLDER / "prompts/detailed.en.txt").read_text().strip() in PROMPTS_EN


class TestSteps:
    def test_without_variables(self, tmp_path: Path) -> None:
        code, made = calls(tmp_path, "--set", "train.max_samples=32")
        assert code == 0
        named = [options_of(words) for words in made]
        assert [name for name, _ in named] == [
            "synth", "synth", "pretrain", "curate sample", "curate write", "caption", "caption", "sft", "caption",
            "caption", "caption", "curate judge", "curate judge", "curate stats",
        ]  # fmt: skip
        assert [unknown for _, unknown in named if unknown] == []
        assert made[7][-2:] == ["--set", "train.max_samples=32"], "further arguments go to the training"
        assert all("http://x/v1" in words for words in (made[5], made[6], made[11], made[12]))

    def test_with_real_ones(self, tmp_path: Path) -> None:
        real = {"SIZE": "8b", "DATA": "web", "HELDOUT": "held", "BASE": "internvl", "API": "http://api/v1",
                "API_MODEL": "strong", "JUDGE": "http://judge/v1", "JUDGE_MODEL": "judge", "BALANCE": "--by source",
                "TASK": "recaption"}  # fmt: skip
        code, made = calls(tmp_path, **real, ENGINE="lmdeploy")
        assert code == 0 and [options_of(words)[0] for words in made][:2] == ["curate sample", "curate write"]
        assert made[0][made[0].index("--by") :][:2] == ["--by", "source"]
        assert [words for words in made if "strong" in words] == made[2:4]
        assert "lmdeploy" in made[5] and f"{tmp_path}/runs/api-reference/recaption-en" in made[4][-4]
        code, made = calls(tmp_path, **real, ENGINE="openai")
        assert code == 2 and options_of(made[-1])[0] == "sft", "it waits for the captioner to be served"
        code, made = calls(tmp_path, **real, ENGINE="openai", CAPTIONER="http://me/v1", CAPTIONER_MODEL="mine")
        assert code == 0 and "http://me/v1" in made[5]

    def test_data_without_an_api_are_refused(self, tmp_path: Path) -> None:
        assert calls(tmp_path, DATA="web") == (2, [])


class TestStandin:
    def test_it_does_not_outlive_who_started_it(self, tmp_path: Path) -> None:
        """A killed script runs no trap."""
        write_tar(tmp_path / "a.tar", [("0.png", picture(0)), ("0.txt", b"A red circle.")])
        words = [sys.executable, str(FOLDER / "standin.py"), "--data", str(tmp_path / "a.tar"), "--url-file"]
        script = "import subprocess, sys\nprint(subprocess.Popen(sys.argv[1:]).pid, flush=True)\nsys.stdin.read()"
        started = subprocess.Popen([sys.executable, "-c", script, *words, str(tmp_path / "url")], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True)  # fmt: skip
        assert started.stdout is not None
        standin = Path("/proc") / started.stdout.readline().strip()
        while not (tmp_path / "url").exists():
            time.sleep(0.05)
        assert standin.exists()
        started.kill()
        started.wait()
        for _ in range(100):
            if not standin.exists():
                return
            time.sleep(0.1)
        pytest.fail("the stand-in is still there")

    def test_it_answers_with_the_known_caption(self, tmp_path: Path) -> None:
        standin = module("standin")
        write_tar(tmp_path / "a.tar", [("0.png", picture(0)), ("0.txt", b"A red circle.")])
        known = standin.known_captions([str(tmp_path / "a.tar")])
        address = "data:image/png;base64," + base64.b64encode(picture(0)).decode()
        shown = {"type": "image_url", "image_url": {"url": address}}
        assert standin.answer([{"type": "text", "text": "Describe it."}, shown], known) == "A red circle."
        assert standin.answer("Describe it.", known) == ""

    @pytest.mark.parametrize(
        ("candidate", "least", "most"),
        [
            ("A small red circle is in the center.", 10, 10),
            ("A small blue circle is in the center.", 4, 8),
            ("It rains.", 1, 1),
        ],
    )
    def test_it_rates_by_rule(self, candidate: str, least: int, most: int) -> None:
        asked = caption_quality("k", candidate, ["A small red circle is in the center."], "en")
        said = asked.parse(module("standin").answer(asked.turns[-1].text, {}))
        assert least <= said["precision"] <= most and least <= said["recall"] <= most


def test_scores_are_compared_picture_by_picture(tmp_path: Path) -> None:
    scores = module("scores")
    for name, values in (("before", [50.0, 60.0, None]), ("after", [60.0, 80.0, 90.0])):
        rows = [
            {"id": "", "source": "a", "shard": "a.tar", "row": n, "key": str(n), "keep": True, "reason": "",
             "detail": "", "quality": value}
            for n, value in enumerate(values)
        ]  # fmt: skip
        write_table(tmp_path / name / "verdicts/0.parquet", verdict_table(rows, {"quality": "double"}))
    mean, half, count = scores.difference(tmp_path / "before", tmp_path / "after")
    assert (mean, count) == (15.0, 2) and half == pytest.approx(1.96 * 50**0.5 / 2**0.5)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_from_pictures_to_a_better_captioner(tmp_path: Path) -> None:
    """Everything at work as a user would run it; what is done is not done again."""
    environment = {**os.environ, "RUNS": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", str(SCRIPT)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    before, after = (module("scores").judged(tmp_path / f"judged-{name}") for name in ("untrained", "distilled"))
    assert before["quality"]["n"] == after["quality"]["n"] == 200
    assert after["quality"]["value"] > before["quality"]["value"] + 5, done.stdout[-3000:]
    again = subprocess.run(["bash", str(SCRIPT)], env=environment, capture_output=True, text=True)
    assert again.returncode == 0 and " step " not in again.stderr
