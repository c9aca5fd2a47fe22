"""`sailctl chat` and `sailctl export`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers_model import tiny_checkpoint
from PIL import Image
from typer.testing import CliRunner, Result

from sailctl.cli import app
from sailctl.core.errors import UsageError
from sailctl.core.model.lookup import newest_stage


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny_checkpoint(tmp_path / "model")
    Image.effect_noise((120, 60), 50).convert("RGB").save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_run(folder: Path, stage: str, *, finished: bool = True) -> Path:
    step = folder / stage / "checkpoints" / "step-00000002"
    tiny_checkpoint(step / "weights", seed=len(stage))
    (step / "state").mkdir()
    (step / "state" / "state.json").write_text(json.dumps({"finished": finished}), encoding="utf-8")
    (folder / stage / "latest").write_text("step-00000002", encoding="utf-8")
    return folder / stage


def test_json_answer(folder: Path) -> None:
    options = ("--max-new-tokens", 5, "--temperature", 0, "--device", "cpu", "--json")
    result = run("chat", "--checkpoint", "model", "--image", "a.png", "--prompt", "What?", *options)
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer.keys() == {"answer", "token_ids", "prompt_ids", "num_tiles"}
    assert answer["num_tiles"] == 3 and answer["prompt_ids"].count(261) == 12 and 0 < len(answer["token_ids"]) <= 5
    twice = run("chat", "--checkpoint", "model", "--image", "a.png", "--image", "a.png", *options)
    assert json.loads(twice.stdout)["num_tiles"] == 6
    absent = run("chat", "--checkpoint", "model", "--prompt", "Hello", *options)
    assert json.loads(absent.stdout)["num_tiles"] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--checkpoint", "model"), 2, "give --prompt, --image, or both"),
        (("--checkpoint", "model", "--image", "none.png"), 2, "--image none.png: No such file or directory"),
        (("--checkpoint", "none", "--prompt", "q"), 2, "--checkpoint none: no such folder"),
        (
            ("--checkpoint", "model", "--prompt", "q", "--max-new-tokens", "0"),
            2,
            "--max-new-tokens 0: must be at least 1",
        ),
        (("--checkpoint", "model", "--prompt", "q", "--temperature", "-1"), 2, "--temperature -1.0: must be 0"),
        (("--checkpoint", "model", "--prompt", "q", "--temperature", "nan"), 2, "--temperature nan: must be 0"),
        (("--checkpoint", "model", "--prompt", "q", "--temperature", "inf"), 2, "--temperature inf: must be 0"),
        (("--checkpoint", "model", "--prompt", "Hello <image>"), 2, "give one --image for each <image>"),
        (("--checkpoint", "model", "--image", "model/config.json"), 1, "--image model/config.json: bad_image"),
        (("--prompt", "q"), 2, "no completed stage under runs/tiny"),
    ],
)
def test_bad_calls_get_one_line(folder: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = run("chat", *arguments, "--json")
    assert result.exit_code == code and result.stdout == "" and message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_newest_completed_stage_is_taken_and_named(folder: Path) -> None:
    runs = folder / "runs" / "tiny"
    make_run(runs, "alignment")
    make_run(runs, "anneal")
    make_run(runs, "knowledge", finished=False)
    assert newest_stage(runs) == runs / "anneal"
    result = run("chat", "--prompt", "q", "--max-new-tokens", 2, "--device", "cpu")
    assert result.exit_code == 0 and "--checkpoint not given; using runs/tiny/anneal" in result.stderr
    make_run(runs, "preference")
    assert newest_stage(runs) == runs / "preference"
    with pytest.raises(UsageError, match="first run: sailctl pretrain --stage advance"):
        newest_stage(folder / "elsewhere")


@pytest.mark.parametrize("layout", ["transformers", "internvl", "sailctl"])
def test_an_exported_model_gives_the_same_answer(folder: Path, layout: str) -> None:
    result = run("export", "--checkpoint", "model", "--format", layout, "--out", "out", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout) == {"out": "out", "format": layout}
    asked = ("--image", "a.png", "--prompt", "What?", "--max-new-tokens", 6, "--device", "cpu", "--json")
    answers = [json.loads(run("chat", "--checkpoint", name, *asked).stdout) for name in ("model", "out")]
    assert answers[0] == answers[1]


def test_export_refuses_what_it_cannot_do(folder: Path) -> None:
    tiny_checkpoint(folder / "aimv2", vision="aimv2")
    before = sorted(path.name for path in folder.iterdir())
    calls = [
        (("aimv2", "transformers", "out"), "stock transformers has no such architecture"),
        (("model", "gguf", "out"), "--format gguf: unknown; use one of transformers, internvl, sailctl"),
        (("model", "sailctl", "aimv2"), "--out aimv2: already there and not empty"),
    ]
    for (checkpoint, layout, out), message in calls:
        result = run("export", "--checkpoint", checkpoint, "--format", layout, "--out", out)
        assert result.exit_code == 2 and message in result.stderr
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_full_disk_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sailctl.core.model.export.write_tensors", full)
    result = run("export", "--checkpoint", "model", "--format", "internvl", "--out", "out")
    assert result.exit_code == 1 and "No space left on device" in result.stderr and "bytes free" in result.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["a.png", "model"]
