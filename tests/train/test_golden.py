"""The golden curve: ten deterministic steps of a tiny model on the CPU against the losses checked in.

Tolerance 2e-3 relative: Muon orthogonalises in bf16, and another BLAS or number of threads sums in another order.
Worst measured: 0 on the machine that wrote it, 1.8e-4 with two threads or without oneDNN.
After a deliberate change: `python -m tests.train.test_golden` writes the file anew; say why in the changelog.
"""

import json
import tempfile
from pathlib import Path

import pytest

from tests.helpers_train import rows, train, write_recipe

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "tiny_cpu_10_steps.json"
KEYS = ("loss", "lr", "grad_norm", "samples", "tokens", "supervised_tokens")
TOLERANCE = 2e-3


def curve(folder: Path) -> list[dict[str, float]]:
    """Ten steps: everything trained, Muon and AdamW, warm-up and cosine, packs of a few samples, two a step."""
    recipe = write_recipe(
        folder / "recipe",
        max_steps=10,
        lr=1e-2,
        optimizer="muon",
        warmup_ratio=0.2,
        weight_decay=2.0,
        loss_weighting="sqrt",
        lr_scale={"vision": 0.5},
        global_batch_samples=12,
    )
    train(recipe, folder / "out", "knowledge", "parent=null")
    return [{key: row[key] for key in KEYS} for row in rows(folder / "out")]


def test_ten_steps_follow_the_golden_curve(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    found = curve(tmp_path)
    assert len(found) == len(golden["steps"]) == 10
    assert golden["steps"][9]["loss"] < 0.8 * golden["steps"][0]["loss"], "the model should be learning"
    for step, wanted in zip(found, golden["steps"], strict=True):
        for key in ("samples", "tokens", "supervised_tokens"):
            assert step[key] == wanted[key], key
        for key in ("loss", "lr", "grad_norm"):
            assert step[key] == pytest.approx(wanted[key], rel=golden["relative_tolerance"]), key


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        value = {"relative_tolerance": TOLERANCE, "steps": curve(Path(scratch))}
    GOLDEN.write_text(json.dumps(value, indent=1) + "\n")
