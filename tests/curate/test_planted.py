"""Planted defects are found by the real commands: the benchmark's own planter and judge, at a size for every day."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import curate_planted as planted
from sailctl.core.curate.decontaminate.request import DecontaminateRequest
from sailctl.core.curate.dedup.request import DedupRequest
from sailctl.core.reporter import Quiet


def found(folder: Path, samples: int) -> dict[str, dict[str, Any]]:
    items = planted.plant(samples, 3, folder / "tables")
    planted.write(items, folder / "data")
    paths, processes = [str(folder / "data")], {"processes": 1}
    DedupRequest(paths, folder / "dedup", **processes).perform(Quiet())
    against = [str(folder / "tables")]
    DecontaminateRequest(paths, against, folder / "decontaminate", **processes).perform(Quiet())
    hidden = planted.judge_decontaminate(items, folder / "decontaminate")
    return {**planted.judge_dedup(items, folder / "dedup"), "hidden": hidden}


@pytest.mark.parametrize("samples", [600, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
def test_planted_duplicates_and_hidden_benchmarks_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    if samples < 1000:
        monkeypatch.setattr(planted, "HIDDEN", 12)
        monkeypatch.setattr(planted, "ROWS", 40)
        monkeypatch.setattr(planted, "SHARES", {name: 3 * share for name, share in planted.SHARES.items()})
    result = found(tmp_path, samples)
    assert result["exact"]["planted"] == round(planted.SHARES["exact"] * samples)
    assert result["exact"]["recall"] >= 0.99
    assert result["near"]["recall"] >= 0.95 and result["text"]["recall"] >= 0.95
    assert result["dropped as anything"]["precision"] >= 0.99
    assert result["hidden"]["recall"] >= 0.96
