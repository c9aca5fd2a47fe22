"""Mixtures: what is written is what training opens, with counts; mistakes are told before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.curate.filter.request import FilterRequest
from sailctl.core.curate.mix import MixRequest, describe
from sailctl.core.data.sources import open_source
from sailctl.core.errors import UsageError
from sailctl.core.reporter import Quiet
from sailctl.core.schema.data import SourceConfig
from sailctl.core.schema.load import load_recipe
from tests.curate.helpers_curate import captions_tar


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a.tar of 8 captions, b.tar of 4, and verdicts on both that keep the longer ones: 6 and 2."""
    monkeypatch.chdir(tmp_path)
    for name, count in (("a", 8), ("b", 4)):
        captions_tar(tmp_path / f"{name}.tar", ["dog " * number for number in range(1, count + 1)])
    Path("rules.yaml").write_text("rules:\n- words: {min: 3}\n")
    FilterRequest(["a.tar", "b.tar"], Path("v"), "rules.yaml", processes=1).run(Quiet())
    return tmp_path


def mix(**options: Any) -> dict[str, Any]:
    return MixRequest(["a.tar", "b.tar"], Path("m.yaml"), **options).run(Quiet())


def test_what_is_written_is_what_training_opens(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = mix(verdicts=["v"], weight=["a=3", "b=1"], group=["b=vqa"], samples=["a=5"], seed=7)
    counts = [(one["name"], one["samples"], one["total"], one["share"], one["group"]) for one in told["sources"]]
    assert counts == [("a", 5, 8, 0.75, None), ("b", 2, 4, 0.25, "vqa")]
    assert (told["samples"], told["total"]) == (7, 12)
    entries = yaml.safe_load(Path("m.yaml").read_text())["sources"]
    assert entries == [
        {"name": "a", "path": str(made / "a.tar"), "weight": 3.0, "verdicts": [str(made / "v")], "samples": 5,
         "subset_seed": 7},
        {"name": "b", "path": str(made / "b.tar"), "weight": 1.0, "verdicts": [str(made / "v")], "group": "vqa"},
    ]  # fmt: skip
    (made / "elsewhere").mkdir()
    monkeypatch.chdir(made / "elsewhere")  # paths are absolute
    recipe, _ = load_recipe("tiny", "alignment", data=[str(made / "m.yaml")])
    assert [len(open_source(source)) for source in recipe.data.sources] == [5, 2]
    assert recipe.data.sources[1] == SourceConfig.model_validate(entries[1])


def test_a_verdict_of_one_source_and_mixtures_of_mixtures(made: Path) -> None:
    assert [one["samples"] for one in mix(verdicts=["b=v"], repeats=["b=2.5"])["sources"]] == [8, 2]
    captions_tar(made / "c.tar", ["one"])
    more = MixRequest(["m.yaml", "c.tar"], Path("more.yaml"), group=["c=new"]).run(Quiet())
    assert [(one["name"], one["samples"], one["repeats"]) for one in more["sources"]] == [
        ("a", 8, None), ("b", 2, 2.5), ("c", 1, None)
    ]  # fmt: skip
    assert [one["share"] for one in more["sources"]] == pytest.approx([8 / 14, 5 / 14, 1 / 14], abs=1e-6)


def test_the_same_mixture_is_written_again_another_is_refused(made: Path) -> None:
    mix(verdicts=["v"])
    before = Path("m.yaml").read_bytes()
    mix(verdicts=["v"])
    with pytest.raises(UsageError, match=r"m.yaml: holds another mixture; remove it or give another name"):
        mix()
    assert Path("m.yaml").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": ["aa=2"]}, r"--weight aa=2: no source is called aa; did you mean a\? there are: a, b"),
        ({"group": ["nosuch=2"]}, r"--group nosuch=2: no source is called nosuch; there are: a, b"),
        ({"weight": ["2"]}, r"--weight 2: of which source\? give NAME=2, one of: a, b"),
        ({"weight": ["a=x"]}, r"--weight x: should be a number above 0"),
        ({"weight": ["a=0", "b=1"]}, r"--weight 0: should be a number above 0"),
        ({"repeats": ["a=nan"]}, r"--repeats nan: should be a number above 0"),
        ({"weight": ["a=2"]}, "give every source a weight or none; without one: b"),
        ({"weight": ["a=2", "b=1"], "repeats": ["a=2"]}, "weights and repeats do not mix"),
        ({"samples": ["a=9k"]}, r"samples = 9000, but it holds 8"),
        ({"samples": ["a=-1"]}, r"--samples -1: should be a whole number"),
        ({"verdicts": ["nowhere"]}, "nowhere: no verdicts"),
        ({"verdicts": ["nosuch=v"]}, r"--verdicts nosuch=v: no source is called nosuch; there are: a, b"),
        ({"verdicts": ["c/nosuch=v"]}, r"c/nosuch=v: no verdicts"),
        ({"captions": ["a=nowhere"]}, "no sidecars"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(made: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mix(**options)
    assert not Path("m.yaml").exists()


def test_names_of_files_and_sources(made: Path) -> None:
    with pytest.raises(UsageError, match=r"a mixture is known by its name; call it m.yaml"):
        MixRequest(["a.tar"], Path("m")).run(Quiet())
    with pytest.raises(UsageError, match="--out is missing"):
        MixRequest(["a.tar"], None).run(Quiet())
    with pytest.raises(UsageError, match="did you mean shards-a"):
        (made / "a.tar").rename(made / "shards-a.tar")
        MixRequest(["shards-a.tar", "b.tar"], Path("m.yaml"), weight=["shard-a=2"]).run(Quiet())


def test_the_command(made: Path) -> None:
    runner = CliRunner()
    base = ["curate", "mix", "--data", "a.tar", "--verdicts", "v", "--out", "m.yaml"]
    planned = runner.invoke(app, [*base, "--dry-run"])
    assert planned.exit_code == 0 and "would be written: m.yaml" in planned.stdout and not Path("m.yaml").exists()
    done = runner.invoke(app, [*base, "--repeats", "2", "--json"])
    assert json.loads(done.stdout)["sources"][0]["repeats"] == 2.0
    shown = describe(json.loads(done.stdout))
    assert shown[0][0][2] == [["a", "6", "8", "75.0%", "100.0%", "-"]]
    assert shown[1] == ["6 of 8 samples; written: m.yaml"]
