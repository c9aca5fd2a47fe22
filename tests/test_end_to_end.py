"""The embedded recipe from an empty directory to a report, at a fraction of its size: every joint of the house once."""

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.schema.load import STAGES, recipe_root

SAMPLES = 64
TASKS = {
    "closed_vqa",
    "open_vqa",
    "document_vqa",
    "math",
    "text_qa",
    "ocr_word",
    "ocr_word_unseen",
    "ocr_text",
    "caption",
    "chart",
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty directory but for a copy of the tiny recipe whose stages and data are two steps long."""
    folder = tmp_path_factory.mktemp("workspace")
    shutil.copytree(recipe_root() / "tiny", folder / "recipe")
    for stage in STAGES:
        path = folder / "recipe" / f"{stage}.yaml"
        path.write_text(re.sub(r"\b(samples|max_samples): \d+", rf"\1: {SAMPLES}", path.read_text()))
    return folder


def sailctl(*words: str) -> dict:
    """Run a command with --json and return its one object."""
    result = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_from_an_empty_directory_to_a_report(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    advance = sailctl("pretrain", "--stage", "advance", "--recipe", "recipe", "--device", "cpu")
    assert advance["steps"] == 2 and advance["samples"] >= SAMPLES
    assert Path("runs/tiny/alignment/latest").is_file()  # the missing parent was made on the way

    Image.new("RGB", (300, 200), "red").save("picture.png")
    answer = sailctl("chat", "--image", "picture.png", "--max-new-tokens", "8", "--device", "cpu")
    assert set(answer) == {"answer", "token_ids", "prompt_ids", "num_tiles"}
    assert answer["num_tiles"] == 7  # three columns by two rows, and the thumbnail

    sailctl("anneal", "--recipe", "recipe", "--device", "cpu")
    for stage in ("knowledge", "instruction", "preference"):
        result = sailctl("sft", "--stage", stage, "--recipe", "recipe", "--device", "cpu")
        assert result["run_dir"] == f"runs/tiny/{stage}"
    results = sailctl("bench", "--checkpoint", "runs/tiny/preference", "--samples", "3", "--device", "cpu")
    assert set(results["tasks"]) == TASKS
    for entry in (results["overall"], *results["tasks"].values()):
        assert {"score", "n", "ci95", "untrained", "chance", "blind"} <= set(entry)
        assert entry["ci95"][0] <= entry["score"] <= entry["ci95"][1]
    sailctl("report", "--runs", "runs/tiny", "--seconds", "12")
    summary = json.loads(Path("runs/tiny/summary.json").read_text())
    assert [stage["name"] for stage in summary["stages"]] == list(STAGES)
    assert summary["seconds"] == 12 and set(summary["bench"]["tasks"]) == TASKS
    page = Path("runs/tiny/report.html").read_text()
    assert "data:image/" in page and not re.search(r"""(src|href)=["']https?:""", page)
