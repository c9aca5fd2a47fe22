"""Recipes: the family's published values, overrides, and what a user reads after a mistake."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from sailctl.core.environment import EXTRAS
from sailctl.core.errors import UsageError
from sailctl.core.model.count import parameter_counts, recipe_sizes
from sailctl.core.model.presets import PRESETS, model_config, preset
from sailctl.core.schema.load import STAGES, dump_recipe, load_recipe, recipe_names, recipe_root, recipe_stages
from sailctl.core.schema.model import ModelSection
from sailctl.core.schema.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["sail-vl-2b", "sail-vl-1.5-2b", "sail-vl2-2b"]
LARGE = ["sail-vl-8b", "sail-vl-1.5-8b", "sail-vl-1.6-8b", "sail-vl2-8b", "sail-vl2-moe"]
ALL = ["projector"], ["vision", "projector"], ["vision", "projector", "llm"]

# Table 3 of the paper: stage -> (trainable, tile limit, global batch, learning rate, samples), for 2B and for 8B.
TABLE_3 = {
    "2B": {
        "alignment": (ALL[0], 8, 1920, 1e-4, 64_000_000),
        "advance": (ALL[1], 8, 2048, 4e-5, 256_000_000),
        "anneal": (ALL[1], 8, 2048, 4e-5, 2_000_000),
        "knowledge": (ALL[2], 10, 512, 2e-5, 21_000_000),
        "instruction": (ALL[2], 10, 512, 2e-5, 12_000_000),
        "preference": (ALL[2], 10, 512, 2e-5, 3_500_000),
    },
    "8B": {
        "alignment": (ALL[0], 8, 512, 1e-3, 10_000_000),
        "advance": (ALL[1], 8, 512, 4e-5, 16_000_000),
        "anneal": (ALL[1], 8, 512, 4e-5, 2_000_000),
        "knowledge": (ALL[2], 10, 512, 1e-5, 21_000_000),
        "instruction": (ALL[2], 10, 512, 1e-5, 12_000_000),
        "preference": (ALL[2], 10, 512, 1e-5, 3_500_000),
    },
}
PARENTS = {
    "alignment": None,
    "advance": "alignment",
    "anneal": "advance",
    "knowledge": "advance",
    "instruction": "knowledge",
    "preference": "instruction",
}
MINIMAL = "name: mine\nstage: alignment\nmodel: {preset: tiny}\ndata: {sources: [{name: a, path: a.tar}]}\n"


def load(name: str | None = "tiny", stage: str = "alignment", *overrides: str, data: tuple[str, ...] = ()) -> Recipe:
    return load_recipe(name, stage, list(overrides), list(data))[0]


def refusal(*arguments: str, **kwargs: object) -> str:
    with pytest.raises(UsageError) as caught:
        load(*arguments, **kwargs)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "alignment.yaml"
    file.write_text(MINIMAL)
    return file


class TestFamily:
    def test_every_preset_has_a_recipe_with_every_stage(self) -> None:
        assert set(recipe_names()) == set(PRESETS) == {"tiny", *SMALL, *LARGE}
        for name in recipe_names():
            assert recipe_stages(name) == list(STAGES)

    @pytest.mark.parametrize("name", ["tiny", *SMALL, *LARGE])
    def test_stages_hang_together(self, name: str) -> None:
        for stage in STAGES:
            recipe, folder = load_recipe(name, stage)
            assert (recipe.name, recipe.stage, recipe.parent) == (name, stage, PARENTS[stage])
            assert recipe.model.preset == name and folder == recipe_root() / name
            assert recipe.data.sources and recipe.data.thumbnail
            assert recipe.bootstrap == (name == "tiny")
            pretraining = stage in ("alignment", "advance")
            schedule = "constant" if pretraining else "linear_to_zero" if stage == "anneal" else "cosine"
            assert recipe.train.schedule == schedule
            assert (recipe.model.llm_weights is not None) == (stage == "alignment"), "later stages come from a parent"

    @pytest.mark.parametrize("name", [*SMALL, *LARGE])
    def test_values_are_those_of_table_3(self, name: str) -> None:
        for stage, row in TABLE_3["2B" if name in SMALL else "8B"].items():
            recipe = load(name, stage)
            train = recipe.train
            found = (train.trainable, recipe.data.max_tiles, train.global_batch_samples, train.lr, train.max_samples)
            assert found == row, stage

    @pytest.mark.parametrize("name", ["tiny", *SMALL, *LARGE])
    def test_anneal_keeps_the_trunks_data(self, name: str) -> None:
        trunk, branch = load(name, "advance"), load(name, "anneal")
        assert branch.data == trunk.data and branch.train.lr == trunk.train.lr

    @pytest.mark.parametrize("name", ["tiny", *SMALL, *LARGE])
    def test_run_script_runs_the_stages_in_order(self, name: str) -> None:
        script = recipe_root() / name / "run.sh"
        text = script.read_text()
        assert "set -euo pipefail" in text and os.access(script, os.X_OK)
        subprocess.run(["bash", "-n", str(script)], check=True)
        lines = [line for line in text.splitlines() if re.match(r"sailctl (pretrain|sft|anneal)", line)]
        order = [re.search(r"--stage (\w+)|sailctl (anneal)", line) for line in lines]
        assert [match[1] or match[2] for match in order if match] == list(STAGES)
        assert all("--resume" in line for line in lines)
        for line, stage in zip(lines, STAGES, strict=True):
            parent = PARENTS[stage]
            assert f'--out "$runs/{stage}"' in line
            assert parent is None or f'--checkpoint "$runs/{parent}"' in line


class TestSizes:
    """Expected numbers are those of the paper and the public model cards."""

    @pytest.mark.parametrize(
        ("name", "module", "millions"),
        [
            ("sail-vl-2b", "vision", 304.0),
            ("sail-vl-1.6-8b", "vision", 682.0),  # AIMv2-Huge
            ("sail-vl-2b", "llm", 1543.7),
            ("sail-vl-8b", "llm", 7615.6),
            ("sail-vl2-2b", "llm", 1720.6),
            ("sail-vl2-8b", "llm", 8190.7),
            ("sail-vl2-moe", "llm", 30532.1),
            ("sail-vl-2b", "total", 1856.4),
            ("sail-vl-8b", "total", 7947.2),
            ("sail-vl2-2b", "total", 2419.4),
            ("sail-vl2-8b", "total", 8914.7),
        ],
    )
    def test_modules(self, name: str, module: str, millions: float) -> None:
        assert round(parameter_counts(preset(name))[module] / 1e6, 1) == millions

    def test_projectors_are_exact(self) -> None:
        assert parameter_counts(preset("sail-vl-2b"))["projector"] == 8_662_016
        assert parameter_counts(preset("sail-vl-8b"))["projector"] == 27_540_480

    def test_trainable_per_stage(self) -> None:
        trainable = recipe_sizes("sail-vl-2b")["trainable"]
        assert list(trainable) == list(STAGES)
        assert trainable["alignment"] == 8_662_016
        assert round(trainable["advance"] / 1e6) == 313 == round(trainable["anneal"] / 1e6)
        assert round(recipe_sizes("sail-vl-8b")["trainable"]["advance"] / 1e6) == 332
        assert trainable["preference"] == 1_856_388_608

    def test_a_single_file_is_a_recipe_of_one_stage(self, mine: Path) -> None:
        assert list(recipe_sizes(str(mine))["trainable"]) == ["alignment"]

    def test_tiles_make_256_tokens(self) -> None:
        assert {name: config.tokens_per_tile for name, config in PRESETS.items() if name != "tiny"} == dict.fromkeys(
            [*SMALL, *LARGE], 256
        )
        assert PRESETS["tiny"].tokens_per_tile == 16


class TestPresets:
    def test_a_preset_is_a_copy(self) -> None:
        preset("tiny").vision.num_layers = 99
        assert preset("tiny").vision.num_layers == 4

    def test_select_layer_is_overridden_by_the_recipe(self) -> None:
        assert model_config(load("sail-vl-2b").model).select_layer == -4
        assert model_config(load("sail-vl-2b", "alignment", "model.select_layer=-1").model).select_layer == -1

    @pytest.mark.parametrize("layer", [-26, -1000])
    def test_a_layer_the_tower_does_not_have_is_refused(self, layer: int) -> None:
        """As a slice it would quietly mean another one."""
        with pytest.raises(UsageError, match=rf"^model\.select_layer: select_layer {layer} is none of .* 24 layers$"):
            model_config(load("sail-vl-2b", "alignment", f"model.select_layer={layer}").model)

    @pytest.mark.parametrize(
        ("part", "change", "message"),
        [
            ("vision", {"num_heads": 5}, "num_heads 5 does not divide hidden_size 128"),
            ("vision", {"image_size": 110}, "patch_size 14 does not divide image_size 110"),
            ("vision", {"image_size": 126}, "the pixel shuffle's factor 2 does not divide patches a side 9"),
            ("llm", {"num_kv_heads": 3}, "num_kv_heads 3 does not divide num_heads 4"),
        ],
    )
    def test_shapes_that_cannot_be_are_refused(self, part: str, change: dict[str, int], message: str) -> None:
        tiny = preset("tiny").model_dump()
        tiny[part] |= change
        refused = refusal("tiny", "alignment", f"model.config={yaml.safe_dump(tiny, default_flow_style=True)}")
        assert refused.endswith(message) and refused.startswith("--set model.config: model.config")

    def test_an_inline_config_wins(self) -> None:
        inline = preset("tiny").model_copy(update={"name": "mine"})
        assert model_config(ModelSection(preset="sail-vl-2b", config=inline)).name == "mine"

    def test_unknown_or_missing(self) -> None:
        with pytest.raises(UsageError, match=r"'tinny' does not exist; presets: tiny, sail-vl-2b"):
            preset("tinny")
        with pytest.raises(UsageError, match=r"model\.preset is missing"):
            model_config(ModelSection())


class TestOverrides:
    def test_values_are_yaml(self) -> None:
        recipe = load("tiny", "alignment", "train.lr=2e-5", "train.trainable=[vision, llm]", "train.max_steps=7")
        assert (recipe.train.lr, recipe.train.trainable, recipe.train.max_steps) == (2e-5, ["vision", "llm"], 7)
        assert load("tiny", "alignment", "train.max_samples=null").train.max_samples is None

    @pytest.mark.parametrize("text", ["2e-5", "2E-5", "2.0e-5", "0.00002", ".00002"])
    def test_every_spelling_of_a_small_number(self, text: str) -> None:
        assert load("tiny", "alignment", f"train.lr={text}").train.lr == 2e-5

    def test_items_by_number_and_free_keys(self) -> None:
        recipe = load("tiny", "alignment", "data.sources.0.weight=2", "train.lr_scale.vision=0.1")
        assert recipe.data.sources[0].weight == 2.0 and recipe.train.lr_scale == {"vision": 0.1}

    def test_the_last_one_wins(self) -> None:
        assert load("tiny", "alignment", "train.seed=1", "train.seed=2").train.seed == 2

    def test_weights_are_for_all_sources_or_none(self) -> None:
        with pytest.raises(UsageError, match=r"give every source a weight or none; without one: a$"):
            load("tiny", "alignment", "data.sources.1.weight=3", data=("x/a.tar", "y/b.jsonl"))

    def test_data_replaces_the_sources(self) -> None:
        weights = [f"data.sources.{number}.weight={weight}" for number, weight in enumerate((1, 3, 1))]
        recipe = load("tiny", "alignment", *weights, data=("x/a.tar", "y/a.jsonl", "s3://b/c-{0..9}.tar"))
        assert [(source.name, source.path) for source in recipe.data.sources] == [
            ("a", "x/a.tar"),
            ("a-2", "y/a.jsonl"),
            ("c-0-9", "s3://b/c-{0..9}.tar"),
        ]
        assert recipe.data.sources[1].weight == 3.0 and recipe.data.sources[0].synth is None

    def test_a_source_is_named_after_the_whole_of_a_folder_or_host_with_dots(self) -> None:
        paths = ("http://host.name/", "data/v1.5", "data/v1.5.TAR", "https://a.b/c.tar?signature=d.e", "x/*.tar")
        named = [source.name for source in load("tiny", "alignment", data=paths).data.sources]
        assert named == ["host-name", "v1-5", "v1-5-2", "c", "data"]


class TestRefusals:
    @pytest.mark.parametrize("path", ["", " "])
    def test_an_empty_data_path_is_not_the_current_folder(self, path: str) -> None:
        with pytest.raises(UsageError, match="--data: the path is empty"):
            load("tiny", "alignment", data=("x/a.tar", path))

    def test_misspelt_key_in_the_file(self, mine: Path) -> None:
        mine.write_text(MINIMAL + "train: {learnrate: 1, global_batch_sample: 3}\n")
        message = refusal(str(mine))
        assert f"{mine}: unknown key 'train.global_batch_sample'; did you mean 'train.global_batch_samples'?" in message

    @pytest.mark.parametrize(
        ("override", "expected"),
        [
            ("train.lrr=1", "--set train.lrr: unknown key 'train.lrr'; did you mean 'train.lr'?"),
            ("lr=1", "--set lr: unknown key 'lr'; did you mean 'train.lr'?"),
            ("data.sources.0.wieght=1", "did you mean 'data.sources.0.weight'?"),
            ("train.quux=1", "known keys here: trainable, global_batch_samples"),
            ("train.lr=fast", "--set train.lr: train.lr = 'fast': input should be a valid number"),
            ("train.max_steps=0", "train.max_steps = 0: input should be greater than 0"),
            ("train.beta2=1", "train.beta2 = 1: input should be less than 1"),
            ("train.eps=0", "train.eps = 0: input should be greater than 0"),
            ("train.weight_decay=-0.1", "train.weight_decay = -0.1: input should be greater than or equal to 0"),
            ("train.lr=.inf", "train.lr = inf: input should be a finite number"),
            ("train.lr_scale.vision=-1", "train.lr_scale.vision = -1: input should be greater than or equal to 0"),
            ("train.seed=-1", "train.seed = -1: input should be greater than or equal to 0"),
            ("bench.seed=-1", "bench.seed = -1: input should be greater than or equal to 0"),
            ("train.schedule=cosin", "input should be 'constant', 'cosine' or 'linear_to_zero'"),
            ("train=1", "--set train: train is a section; set one of its keys: trainable, global_batch_samples"),
            ("data.sources.0=1", "--set data.sources.0: data.sources.0 is a section; set one of its keys: name"),
            ("train.lr.x=1", "--set train.lr.x: 'train.lr' is the value"),
            ("data.sources.7.weight=1", "'7' should be the number of one of 1 items"),
            ("train.lr", "should be KEY=VALUE"),
            ("=1", "should be KEY=VALUE"),
            ("train.trainable=[", "is not valid YAML"),
        ],
    )
    def test_overrides(self, mine: Path, override: str, expected: str) -> None:
        mine.write_text(MINIMAL + "train: {lr: 0.001}\n")
        assert expected in refusal(str(mine), "alignment", override)

    def test_the_override_that_is_wrong_is_named(self, mine: Path) -> None:
        mine.write_text(MINIMAL + "train: {lr: 0.001}\n")
        message = refusal(str(mine), "alignment", "train.max_steps=3", "train=1")
        assert message.startswith("--set train: train is a section")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("- a\n", "holds list, not a recipe"),
            ("name: [\n", "is not valid YAML"),
            (MINIMAL + "name: again\n", ":5: is not valid YAML: key 'name' is written twice"),
            ("stage: alignment\n", "key 'name' is missing"),
            (MINIMAL.replace("alignment", "advance"), "is a recipe of stage advance, not alignment"),
            ("name: !!python/object/apply:os.getcwd []\n", "is not valid YAML"),
        ],
    )
    def test_files(self, mine: Path, text: str, expected: str) -> None:
        mine.write_text(text)
        message = refusal(str(mine))
        assert expected in message and str(mine) in message

    def test_names(self, tmp_path: Path) -> None:
        assert "did you mean 'tiny'? recipes: sail-vl-1.5-2b," in refusal("tinny")
        assert "did you mean 'alignment'?" in refusal("tiny", "align")
        assert "(it should hold files such as alignment.yaml)" in refusal(str(tmp_path))


class TestPaths:
    def test_recipe_prefix_is_the_recipes_folder(self) -> None:
        recipe = load()
        assert recipe.model.vision_weights == str(recipe_root() / "tiny" / "base" / "vision")
        assert recipe.model.llm_weights == str(recipe_root() / "tiny" / "base" / "llm")

    def test_nothing_given_is_tiny(self) -> None:
        assert load(None) == load("tiny")

    def test_folder_and_file_are_the_same_recipe(self, mine: Path) -> None:
        assert load(str(mine)) == load(str(mine.parent))

    def test_dump_reads_back_equal(self, tmp_path: Path) -> None:
        for stage in STAGES:
            recipe = load("tiny", stage, "train.lr=2e-5")
            file = tmp_path / f"{stage}.yaml"
            file.write_text(dump_recipe(recipe))
            assert load(str(tmp_path), stage) == recipe


class TestPackage:
    def test_wheel_holds_recipes_and_data_files(self, tmp_path: Path) -> None:
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
            cwd=ROOT, check=True, capture_output=True,
        )  # fmt: skip
        with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
            names = set(wheel.namelist())
            wheel.extractall(tmp_path / "site")
        for folder, suffixes in (("recipes", None), ("sailctl", {".py", ".txt"})):
            for path in (ROOT / folder).rglob("*"):
                if path.is_file() and "__pycache__" not in path.parts and (suffixes is None or path.suffix in suffixes):
                    inside = path.relative_to(ROOT).as_posix()
                    assert (f"sailctl/{inside}" if folder == "recipes" else inside) in names
        assert all(name.startswith(("sailctl/", "sailctl-")) for name in names), "one import package, nothing beside it"
        code = "from sailctl.core.schema import load; print(*load.recipe_names()); load.load_recipe(None, 'advance')"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.split() == recipe_names()

    def test_extras_are_those_of_the_package(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = {name: re.split(r"[<>=\[]", wanted[0])[0] for name, wanted in project["optional-dependencies"].items()}
        assert {name: package for name, (package, _) in EXTRAS.items()} == {
            name: package for name, package in extras.items() if name != "dev"
        }
