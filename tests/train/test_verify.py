"""`sailctl verify` passes what is right and catches what is planted: each fault fails its own checks and no other."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core import device as devices
from sailctl.core.data import loader
from sailctl.core.data.packing import Pack, merge
from sailctl.core.errors import UsageError
from sailctl.core.train.optim import Optimizers
from sailctl.core.train.verify import verify
from tests.helpers_train import Silent, train, write_recipe, write_samples

TOKENS, LAYOUT = "supervised tokens in = out (wrong tokens)", "documents as encoded (wrong ones)"
LOSS, GRADIENTS = "packed = separate: loss", "packed = separate: gradients"
LEAKAGE, RESUME = "leakage between documents", "resume equality (files that differ)"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # runs/ of the recipe would be here
    torch.set_num_threads(1)
    return write_recipe(tmp_path / "recipe")


def run(recipe: Path, stage: str = "knowledge", **options: Any) -> dict[str, Any]:
    options = {"checkpoint": None, "samples": 12, "device": "cpu", "reporter": Silent(), **options}
    return verify(str(recipe), stage, options.pop("overrides", []), options.pop("data", []), **options)


def failed(found: dict[str, Any]) -> set[str]:
    assert found["ok"] == all(row["ok"] for row in found["checks"])
    return {row["check"] for row in found["checks"] if not row["ok"]}


def measured(found: dict[str, Any], check: str) -> float:
    return next(row["measured"] for row in found["checks"] if row["check"] == check)


@pytest.mark.parametrize("weighting", ["token", "sqrt"])
def test_a_right_recipe_passes(recipe: Path, weighting: str) -> None:
    before = {path for path in Path(tempfile.gettempdir()).glob("sailctl-verify-*")}
    found = run(recipe, overrides=[f"train.loss_weighting={weighting}"])
    assert failed(found) == set() and found["samples"] >= 12 and found["packs"] < found["samples"]
    assert [row["check"] for row in found["checks"]] == [TOKENS, LAYOUT, LOSS, GRADIENTS, LEAKAGE, RESUME]
    assert measured(found, LEAKAGE) == 0.0 and measured(found, GRADIENTS) < 1e-5
    assert set(Path(tempfile.gettempdir()).glob("sailctl-verify-*")) == before
    assert not Path("runs").exists()


def test_other_architectures_pass_too(recipe: Path) -> None:
    """A sparse model, a tower that drops paths; and a later stage that does not say what its model is built from."""
    llm = {"kind": "qwen3_moe", "num_experts": 4, "experts_per_token": 2, "moe_intermediate_size": 24, "head_dim": 16}
    path = recipe / "knowledge.yaml"
    path.write_text(path.read_text().replace("  tokenizer: recipe:tokenizer\n", ""))
    shapes = [f"model.config.llm.{key}={value}" for key, value in llm.items()]
    found = run(recipe, overrides=[*shapes, "model.config.vision.drop_path=0.3", "train.loss_weighting=sample"])
    assert failed(found) == set() and found["weights"] == "the recipe's first ones"
    assert measured(found, GRADIENTS) < 1e-4  # worst measured 1.2e-6


def whole_pack(q: Any, k: Any, v: Any, cu_seqlens: Any, causal: bool, scale: float) -> torch.Tensor:
    """Attention for which all documents are one."""
    q, k, v = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=True)
    return out.squeeze(0).transpose(0, 1)


def test_attention_across_documents_is_caught(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_sdpa_per_document", whole_pack)
    found = run(recipe)
    assert failed(found) == {LOSS, GRADIENTS, LEAKAGE} and measured(found, LEAKAGE) > 1e-3


def no_restart(pack: Pack) -> Pack:
    return replace(pack, position_ids_T=torch.arange(pack.num_tokens))


def one_target_less(pack: Pack) -> Pack:
    kept = {name: getattr(pack, name)[:-1] for name in ("target_index_N", "targets_N", "weights_N")}
    return replace(pack, **kept)


def other_pictures(pack: Pack) -> Pack:
    return replace(pack, tiles_IPHW=pack.tiles_IPHW.flip(0))


@pytest.mark.parametrize(
    ("fault", "caught"),
    [
        (no_restart, {LAYOUT}),  # rotary positions are relative, so neither loss nor gradients notice
        (one_target_less, {TOKENS, LAYOUT, LOSS, GRADIENTS}),
        (other_pictures, {LAYOUT, LOSS, GRADIENTS}),
    ],
)
def test_a_wrong_pack_is_caught(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[Pack], Pack], caught: set[str]
) -> None:
    monkeypatch.setattr(loader, "merge", lambda *arguments: fault(merge(*arguments)))
    assert failed(run(recipe)) == caught


def test_a_resume_that_forgets_is_caught(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Optimizers, "load_state", lambda self, tensors, where: None)
    found = run(recipe)
    assert failed(found) == {RESUME}
    assert "safetensors" in found["checks"][-1]["detail"]


def test_a_checkpoint_and_own_data_are_taken(recipe: Path, tmp_path: Path) -> None:
    train(recipe, tmp_path / "runs" / "toy" / "alignment", "alignment", "train.max_steps=2")
    own = write_samples(tmp_path / "own", 8)
    assert run(recipe, "advance", data=[str(own)])["weights"].endswith("runs/toy/alignment")
    found = run(recipe, "anneal", checkpoint=str(tmp_path / "runs" / "toy" / "alignment"))
    assert failed(found) == set()
    with pytest.raises(UsageError, match="anneal branches off a run; give --checkpoint RUN"):
        run(recipe, "anneal")


def test_the_command_ends_with_1_when_a_check_fails(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["verify", "--recipe", str(recipe), "--stage", "alignment", "--samples", "6", "--device", "cpu"]
    right = CliRunner().invoke(app, [*words, "--json"])
    assert right.exit_code == 0 and json.loads(right.stdout)["ok"] is True
    monkeypatch.setattr(loader, "merge", lambda *arguments: no_restart(merge(*arguments)))
    wrong = CliRunner().invoke(app, words)
    assert wrong.exit_code == 1 and "FAILED" in wrong.stdout and "wrong: positions of" in wrong.stdout
