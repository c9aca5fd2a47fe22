"""`sailctl plan` from its options to its JSON, its text and its packs file; every refusal is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.errors import UsageError
from sailctl.core.train.forecast import PlanRequest, describe_plan
from tests.helpers_train import write_recipe

STAGES = ["alignment", "advance", "knowledge", "instruction", "preference"]


@pytest.fixture(scope="module")
def lengths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lengths") / "lengths.csv"
    rows = [f"s,{60 + 256 * (row % 6) + row % 37},{row % 6}" for row in range(600)]
    path.write_text("source,tokens,tiles\n" + "\n".join(rows) + "\n")
    return path


def test_every_stage_and_their_total(lengths: Path) -> None:
    found = PlanRequest("sail-vl-2b", lengths=lengths, ranks=4, mfu=0.5, device_type="h200").run()
    assert [stage["stage"] for stage in found["stages"]] == STAGES
    assert [stage["samples"] for stage in found["stages"]] == [64e6, 256e6, 21e6, 12e6, 3.5e6]
    hours = [stage["device_hours"] for stage in found["stages"]]
    assert found["device_hours"]["pretraining"] == pytest.approx(sum(hours[:2]))
    assert found["device_hours"]["all"] == pytest.approx(sum(hours)) and found["assumed"] == []
    text = describe_plan(found)
    assert f"pretraining: {sum(hours[:2]):,.0f} H200-hours" in text and "at 50.0% MFU\n" in text
    assert PlanRequest("sail-vl-2b", lengths=lengths).run()["assumed"] == ["mfu", "device_type"]


def test_packs_of_one_stage(lengths: Path, tmp_path: Path) -> None:
    out = tmp_path / "packs.jsonl"
    request = PlanRequest("sail-vl-2b", "sft", lengths=lengths, tokens=4096, tiles=12, ranks=3, packs=out)
    found = request.run()
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [sorted(line) for line in lines] == [["flush", "rank", "rows", "step"]] * len(lines)
    assert sorted(row for line in lines for row in line["rows"]) == list(range(600))
    assert all(row % 3 == line["rank"] for line in lines for row in line["rows"])
    assert [stage["stage"] for stage in found["stages"]] == ["knowledge"] and found["stages"][0]["packs"] == len(lines)
    assert found["device_hours"]["all"] is None and found["caps"] == {"tokens": 4096, "tiles": 12}
    module = PlanRequest("sail-vl-2b", "sft", lengths=lengths, tokens=4096, tiles=12, ranks=3, balance="module").run()[
        "stages"
    ][0]
    assert module["balance"] == "module"
    assert module["efficiency"]["module"] >= found["stages"][0]["efficiency"]["module"] - 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranks": 0}, "--ranks 0: should be 1 or more"),
        ({"mfu": 0.0}, "--mfu 0: should be above 0 and at most 1"),
        ({"mfu": 45.0}, "--mfu 45: should be"),
        ({"device_type": "H9000"}, "--device-type H9000: no data sheet; known: H200, H100"),
        (
            {"stage": "anneal"},
            "--stage anneal: should be alignment, advance, knowledge, instruction, preference or sft",
        ),
        ({"balance": "both"}, "--balance both: should be sum or module"),
        ({"tokens": 0}, "data.pack_tokens = 0"),
        ({"tokens": 500}, r"row \d+ \(from 0\) has \d+ tokens and \d tiles, a pack holds 500"),
        ({"packs": Path("p")}, "give --lengths CSV and --stage with it"),
        ({"overrides": ["train.lrr=1"]}, "unknown key 'train.lrr'"),
    ],
)
def test_one_line_for_what_is_wrong(lengths: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PlanRequest(**{"recipe": "sail-vl-2b", "lengths": lengths, **options}).run()


def test_lengths_of_the_recipes_own_data(tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path / "recipe"))
    found = PlanRequest(recipe, "advance", ranks=2).run()
    assert found["lengths"]["samples"] == 24 and not found["lengths"]["targets_estimated"]
    assert found["stages"][0]["samples"] == 4 * 6  # max_steps × the global batch
    given = PlanRequest(recipe, "advance", data=[str(tmp_path / "recipe" / "data" / "samples.jsonl")], ranks=2).run()
    assert given["stages"] == found["stages"]
    with pytest.raises(UsageError, match="a tokenizer is needed"):
        data = [str(tmp_path / "recipe" / "data" / "samples.jsonl")]
        PlanRequest("sail-vl-2b", "advance", ["model.llm_weights=null"], data).run()


def test_command(lengths: Path) -> None:
    words = ["plan", "--recipe", "sail-vl-2b", "--stage", "sft", "--lengths", str(lengths), "--ranks", "2"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and "device-hours" in done.stdout and "assumed" in done.stdout
    assert json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["stages"][0]["ranks"] == 2
    refused = CliRunner().invoke(app, [*words, "--ranks", "0"])
    assert refused.exit_code == 2 and "'--ranks'" in refused.stderr


def test_room_to_recompute_nothing_is_told_where_there_is_room(lengths: Path) -> None:
    roomy = PlanRequest("sail-vl-2b", "sft", lengths=lengths, ranks=16).run()
    figure = roomy["stages"][0]
    assert figure["memory"]["total"] < figure["memory"]["without_recompute"] < 0.9 * figure["memory"]["device"]
    assert "--set train.gradient_checkpointing=false" in describe_plan(roomy)
    off = PlanRequest("sail-vl-2b", "sft", ["train.gradient_checkpointing=false"], lengths=lengths, ranks=16).run()
    assert off["stages"][0]["memory"]["total"] == figure["memory"]["without_recompute"]
    assert "gradient_checkpointing" not in describe_plan(off)
    tight = PlanRequest("sail-vl-8b", "sft", lengths=lengths, ranks=2).run()
    assert "gradient_checkpointing" not in describe_plan(tight)


def test_a_plan_from_lengths_needs_no_torch(lengths: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom sailctl.core.train.forecast import PlanRequest\n"
        f"PlanRequest('sail-vl-2b', 'sft', lengths=Path({str(lengths)!r}), ranks=2).run()\n"
        "print(sorted({'torch', 'transformers', 'PIL', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_data_that_the_recipe_would_make_are_made_small_and_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["plan", "--stage", "alignment"])
    assert done.exit_code == 0 and "2,048 samples of the kind the recipe makes" in done.stdout
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match=r"nothing at data/.*--lengths CSV"):
        PlanRequest("sail-vl-2b", "advance", ["model.tokenizer=x"]).run()


def test_too_few_samples_for_a_step_are_told(lengths: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.csv"
    few.write_text("tokens,tiles\n300,1\n400,1\n")
    found = PlanRequest("sail-vl-2b", "advance", lengths=few, ranks=4).run()
    told = describe_plan(found)
    assert "advance: 2 samples for 4 ranks: not one full step: balance is not known" in told
    assert found["stages"][0]["samples_per_step"] is None and found["stages"][0]["steps"] is None
    rows = "source,tokens,tiles\n" + "a,3000,9\na,400,0\n" * 200  # every other row, so every other rank: long ones
    few.write_text(rows)
    told = describe_plan(PlanRequest("sail-vl-2b", "advance", lengths=few, ranks=4).run())
    assert "advance: 400 samples for 4 ranks: only 1 full step, for most packs were closed" in told
    assert "full step" not in describe_plan(PlanRequest("sail-vl-2b", "advance", lengths=lengths, ranks=2).run())
    with pytest.raises(UsageError, match="--lengths and --data"):
        PlanRequest("sail-vl-2b", "advance", lengths=few, data=["x.tar"]).run()
