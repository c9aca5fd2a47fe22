"""What the DeepSpeed backend refuses, each with one line. What it computes is in `test_distributed.py`."""

import sys
from pathlib import Path

import pytest

from sailctl.core.errors import MissingExtra, UsageError
from tests.helpers_train import train, write_recipe


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("train.optimizer=muon",),
            "optimizer muon needs whole matrices and so backend plain; with deepspeed use adamw",
        ),
        (("train.zero_stage=0", "train.offload=cpu"), "offload cpu needs backend deepspeed and zero_stage 1, 2 or 3"),
        (("train.backend=plain", "train.offload=cpu"), "offload cpu needs backend deepspeed .* not plain and 1"),
        (("train.zero_stage=4",), r"train\.zero_stage"),
    ],
)
def test_what_does_not_go_together(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe")
    with pytest.raises(UsageError, match=message):
        train(recipe, tmp_path / "out", "alignment", "train.backend=deepspeed", *options)


def test_without_deepspeed_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    recipe = write_recipe(tmp_path / "recipe")
    with pytest.raises(MissingExtra, match=r"deepspeed is not installed; install it with: pip install .*\[deepspeed\]"):
        train(recipe, tmp_path / "out", "alignment", "train.backend=deepspeed")
    assert not (tmp_path / "out").exists()
