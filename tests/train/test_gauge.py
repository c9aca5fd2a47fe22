"""The gauge of a step against hand-computed figures, and what a run's metrics say of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sailctl.core.data.packing import Pack
from sailctl.core.model.flops import ForwardFlops, ModelFlops
from sailctl.core.train.gauge import Gauge, PackSize
from sailctl.core.train.meter import progress_fields
from tests.helpers_train import train, write_recipe

NOTHING = ForwardFlops(*[0.0] * 7)
COSTS = ModelFlops(per_tile=100.0, per_token=10.0, per_target=5.0, per_square=1.0, forward=NOTHING)
GAUGE = Gauge(needed=COSTS, executed=COSTS, pack_tokens=100, pack_tiles=10, peak=4000.0, ceiling=2000.0, measure=float)
LIGHT, HEAVY = PackSize(50, 2, 20, 1300), PackSize(100, 4, 40, 5000)  # 2,100 and 6,600 FLOPs


def test_size_of_a_pack() -> None:
    pack = Pack(
        input_ids_T=torch.zeros(9, dtype=torch.int64),
        position_ids_T=torch.zeros(9, dtype=torch.int64),
        cu_seqlens=torch.tensor([0, 4, 9], dtype=torch.int32),
        max_seqlen=5,
        tiles_IPHW=torch.zeros(3, 3, 2, 2, dtype=torch.uint8),
        target_index_N=torch.arange(2),
        targets_N=torch.arange(2),
        weights_N=torch.ones(2),
        sample_ids=["a", "b"],
    )
    assert PackSize.of(pack) == (9, 3, 2, 4 * 4 + 5 * 5)


def test_work_is_the_same_however_packs_are_dealt() -> None:
    one, two = GAUGE.work([[LIGHT, HEAVY]]), GAUGE.work([[LIGHT], [HEAVY]])
    assert one == two == {"fill": {"tokens": 150 / 200, "tiles": 6 / 20}, "model_flops": 8700.0}


def test_speed_is_of_one_device() -> None:
    assert GAUGE.speed([[LIGHT, HEAVY]], 8.0) == {
        "flops_per_s": 1087.5,
        "mfu": 1087.5 / 4000,
        "gemm_share": 1087.5 / 2000,
        "rank_balance": 8700 / 2 / 6600,
    }
    assert GAUGE.speed([[LIGHT], [HEAVY]], 4.0)["flops_per_s"] == 2175 / 2
    assert GAUGE.speed([[LIGHT, LIGHT], [HEAVY, LIGHT]], 9.0)["rank_balance"] == (4200 + 8700) / 2 / 8700
    unknown = Gauge(COSTS, COSTS, 100, 10, peak=None, ceiling=9000.0, measure=float)
    assert unknown.speed([[LIGHT]], 1.0)["mfu"] is None


@pytest.mark.parametrize(("measured", "ceiling"), [(9000.0, 9000.0), (1.0, 8700.0)])
def test_a_ceiling_measured_on_a_busy_machine_rises(measured: float, ceiling: float) -> None:
    asked: list[float] = []

    def measure() -> float:
        asked.append(measured)
        return measured

    gauge = Gauge(COSTS, COSTS, 100, 10, peak=None, ceiling=2000.0, measure=measure)
    assert gauge.speed([[LIGHT, HEAVY]], 1.0)["gemm_share"] == 8700 / ceiling
    assert gauge.speed([[LIGHT, HEAVY]], 2.0)["gemm_share"] == 4350 / ceiling
    assert asked == [measured]  # again only when it is beaten


def test_metrics_and_progress_of_a_run(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe", max_steps=2)
    train(recipe, tmp_path / "run", "knowledge", checkpoint=str(train(recipe, tmp_path / "a").run_dir))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        perf = row["perf"]
        assert 0 < row["fill"]["tokens"] <= 1 and 0 <= row["fill"]["tiles"] <= 1
        assert perf["mfu"] is None and 0 < perf["gemm_share"] < 1 and 0 < perf["rank_balance"] <= 1
        assert perf["flops_per_s"] == pytest.approx(row["model_flops"] / perf["seconds"])
        assert perf["data_wait_share"] == pytest.approx(perf["data_wait_s"] / perf["seconds"])
    shown = progress_fields(rows[-1])
    assert list(shown) == ["loss", "tokens/s", "gemm", "wait", "lr"] and str(shown["gemm"]).endswith("%")
    rows[-1]["perf"]["mfu"] = 0.4567
    assert progress_fields(rows[-1])["mfu"] == "45.7%"
