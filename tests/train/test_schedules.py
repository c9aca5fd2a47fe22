"""The three SFT stages by schedule: equal samples of every source, going on where it stood, and every refusal."""

import json
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

from sailctl.cli import app
from sailctl.core.data.loader import Step
from sailctl.core.data.order import Mixture
from sailctl.core.data.sources import open_source
from sailctl.core.schema.data import SourceConfig
from sailctl.core.schema.load import load_recipe
from sailctl.core.schema.recipe import Recipe
from sailctl.core.train import checkpoint, loop, schedules
from sailctl.core.train.schedules import SFT_STAGES, all_in_one, departures, portions
from tests.helpers_train import PRELOADED, contents, rows, train, write_recipe, write_samples

SIZES = {"easy": 30, "hard": 12, "shared": 24}
# Stage → (end, {source: weight or repeats}), and what that comes to by hand.
STAGES = {
    "knowledge": ({"max_samples": 36}, {"easy": {"weight": 2}, "shared": {"weight": 1}}),
    "instruction": ({"max_steps": None, "epochs": 1}, {"hard": {"repeats": 3}, "shared": {"repeats": 0.5}}),
    "preference": ({"max_steps": 4}, {"hard": {}, "easy": {}}),  # 4 steps of 7 samples: 12 : 30
}
TAKEN = {"easy": 24 + 20, "shared": 12 + 12, "hard": 36 + 8}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of three SFT stages on three sources, one of which two stages share, mixed in every way there is."""
    folder = write_recipe(tmp_path_factory.mktemp("toy") / "recipe")
    base = yaml.safe_load((folder / "knowledge.yaml").read_text())
    for name, size in SIZES.items():
        samples = write_samples(folder / name, size)
        samples.write_text(samples.read_text().replace('"gpt", "value": "', f'"gpt", "value": "{name} '))
    for stage, (end, sources) in STAGES.items():
        data = base["data"] | {
            "sources": [{"name": name, "path": f"recipe:{name}/samples.jsonl", **mix} for name, mix in sources.items()]
        }
        own = {"max_steps": None, "global_batch_samples": 7} | end
        stages = {"stage": stage, "parent": "advance", "data": data, "train": base["train"] | own}
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump(base | stages))
    return folder


@pytest.fixture(scope="module")
def start(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both schedules start from."""
    runs = tmp_path_factory.mktemp("runs")
    train(recipe, runs / "alignment", "alignment", "train.max_steps=1")
    return train(recipe, runs / "advance", "advance", "train.max_steps=1").run_dir


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def sft(*words: object) -> Result:
    return CliRunner().invoke(app, ["sft", *(str(word) for word in words), "--device", "cpu"])


def load(folder: object, *overrides: str) -> list[Recipe]:
    return [load_recipe(str(folder), stage, list(overrides))[0] for stage in SFT_STAGES]


def sizes_of(recipes: list[Recipe]) -> list[list[int]]:
    return [[SIZES[source.name] for source in recipe.data.sources] for recipe in recipes]


def weights(run: Path) -> str:
    """The hash of a run's last weights."""
    return checkpoint.latest(run).weights_sha256()


def drawn(recipe: Recipe, sizes: list[int]) -> dict[str, int]:
    """Draws of each source until a stage that ends by `max_samples` does, one by one."""
    mixture = Mixture.of(sizes, recipe.data.sources)
    counts = Counter(mixture.draw(number)[0] for number in range(recipe.train.max_samples or 0))
    return {source.name: counts[number] for number, source in enumerate(recipe.data.sources)}


class TestSamples:
    def test_of_the_tiny_recipe(self) -> None:
        recipes = load("tiny")
        sizes = [[source.synth.samples for source in recipe.data.sources] for recipe in recipes]  # type: ignore[union-attr]
        shares = portions(recipes, sizes)
        assert {portion.source.name: portion.samples for portion in shares} == {
            "synth-knowledge": {"knowledge": 4500},  # 0.75 of 6,000
            "synth-advance": {"knowledge": 1500, "instruction": 1800, "preference": 3600},
            "synth-instruction": {"instruction": 5400},
            "synth-preference": {"preference": 10800},
        }
        one = all_in_one(recipes, shares)
        assert (one.train.max_samples, one.train.max_steps) == (27600, None)
        assert drawn(one, [6000, 4800, 7200, 14400]) == {
            "synth-knowledge": 4500,
            "synth-advance": 6900,
            "synth-instruction": 5400,
            "synth-preference": 10800,
        }
        assert one.train.model_copy(update={"max_samples": 6000}) == recipes[0].train and one.parent == "advance"

    def test_of_weights_repeats_and_steps(self, recipe: Path) -> None:
        recipes = load(recipe)
        shares = portions(recipes, sizes_of(recipes))
        assert {portion.source.name: portion.samples for portion in shares} == {
            "easy": {"knowledge": 24, "preference": 20},
            "shared": {"knowledge": 12, "instruction": 12},
            "hard": {"instruction": 36, "preference": 8},
        }
        one = all_in_one(recipes, shares)
        assert one.train.max_samples == sum(TAKEN.values()) == 112
        assert drawn(one, [SIZES[source.name] for source in one.data.sources]) == TAKEN

    def test_two_sources_of_one_name_stay_two_and_one_that_is_never_drawn_goes(self, recipe: Path) -> None:
        recipes = load(recipe, "data.sources=[{name: a, path: one, weight: 1}, {name: b, path: b, weight: 1.0e-6}]")
        recipes[1].data.sources[0] = SourceConfig(name="a", path="two", weight=1)
        one = all_in_one(recipes, portions(recipes, [[9, 9]] * 3))
        assert [(source.name, source.path) for source in one.data.sources] == [("a", "one"), ("a-instruction", "two")]

    def test_what_only_a_later_stage_says_is_named(self, recipe: Path) -> None:
        recipes = load(recipe)
        recipes[2].train.lr = 0.5
        recipes[2].data.max_tiles = 9
        assert departures(recipes) == [
            "data.max_tiles is 4 throughout; preference has 9",
            "train.lr is 0.003 throughout; preference has 0.5",
        ]


def watch(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts, from now on, how often each sample is trained on."""
    seen: Counter[str] = Counter()
    real = loop.train_step

    def watching(job: loop.Job, own: Step, *rest: float) -> object:
        seen.update(sample for pack in own.packs for sample in pack.sample_ids)
        return real(job, own, *rest)

    monkeypatch.setattr(loop, "train_step", watching)
    return seen


def killed_in_the_second_stage(words: list[str], folder: Path) -> None:
    """Body of a process that SIGKILLs itself after three steps of instruction, of which two are saved."""
    torch.set_num_threads(1)
    os.chdir(folder)
    real = loop.train_step

    def deadly(job: loop.Job, own: Step, *rest: float) -> object:
        log = Path("runs/toy/instruction/metrics.jsonl")
        if log.is_file() and len(log.read_text().splitlines()) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(job, own, *rest)

    loop.train_step = deadly  # type: ignore[assignment]
    sft(*words)


@pytest.fixture(scope="module")
def straight(recipe: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both schedules, trained without a break; `runs` and what each of them printed."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for schedule in schedules.SCHEDULES:
            with pytest.MonkeyPatch.context() as inner:
                seen = watch(inner)
                result = sft("--schedule", schedule, "--recipe", recipe, "--checkpoint", start, "--json")
            assert result.exit_code == 0, result.output
            (folder / f"{schedule}.json").write_text(result.stdout)
            (folder / f"{schedule}.seen").write_text(json.dumps(seen))
    return folder


class TestRuns:
    def test_both_train_on_as_many_samples_of_every_source(self, straight: Path, recipe: Path) -> None:
        source_of: dict[str, str] = {}
        for name, size in SIZES.items():
            source = open_source(SourceConfig(name=name, path=str(recipe / name / "samples.jsonl")))
            source_of |= {source.read(number).id: name for number in range(size)}
        for schedule, runs in (("curriculum", 3), ("aio", 1)):
            summary = json.loads((straight / f"{schedule}.json").read_text())
            counts: Counter[str] = Counter()
            for sample, times in json.loads((straight / f"{schedule}.seen").read_text()).items():
                counts[source_of[sample]] += times
            assert counts.total() == summary["samples"] and len(summary["runs"]) == runs
            # a run ends with a whole step, and a sample may wait for a pack
            assert all(abs(counts[name] - wanted) <= 7 * runs for name, wanted in TAKEN.items()), (schedule, counts)

    def test_aio_is_one_run_with_one_learning_rate_schedule(self, straight: Path, start: Path) -> None:
        out = straight / "runs/toy/aio"
        rates = [row["lr"] for row in rows(out)]
        assert rates == sorted(rates, reverse=True) and rates[0] == 3e-3 and len(rates) > 9
        assert json.loads((out / "run.json").read_text())["parent"]["weights_sha256"] == weights(start)

    def test_a_curriculum_is_the_three_stages_each_from_the_last(
        self, straight: Path, recipe: Path, start: Path, tmp_path: Path
    ) -> None:
        before = start
        for stage in SFT_STAGES:
            own = straight / "runs/toy" / stage
            assert json.loads((own / "run.json").read_text())["parent"]["weights_sha256"] == weights(before)
            apart = train(recipe, tmp_path / stage, stage, checkpoint=str(before)).run_dir
            assert weights(apart) == weights(own)
            before = own

    def test_the_summary_names_the_other_schedule_and_then_the_comparison(
        self, straight: Path, recipe: Path, start: Path
    ) -> None:
        summaries = [json.loads((straight / f"{name}.json").read_text()) for name in schedules.SCHEDULES]
        assert summaries[0]["next"] == f"sailctl sft --schedule aio --recipe {recipe} --checkpoint {start} --device cpu"
        assert summaries[1]["next"] == (
            "sailctl bench --suite synth --checkpoint runs/toy/aio && "
            "sailctl bench --suite synth --checkpoint runs/toy/preference && "
            "sailctl bench --compare runs/toy/aio/bench --compare runs/toy/preference/bench"
        )

    def test_killed_in_the_second_stage_it_goes_on_there(
        self, straight: Path, recipe: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        words = ["--schedule", "curriculum", "--recipe", str(recipe), "--checkpoint", str(start)]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        process = context.Process(target=killed_in_the_second_stage, args=(words, tmp_path))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        runs = tmp_path / "runs/toy"
        assert (runs / "instruction/latest").read_text() == "step-00000002" and not (runs / "preference").exists()
        first = contents(runs / "knowledge" / "checkpoints")
        monkeypatch.chdir(tmp_path)
        refused = sft(*words)
        assert refused.exit_code == 2 and "runs/toy/knowledge already holds a run; add --resume" in refused.stderr
        result = sft(*words, "--resume")
        assert result.exit_code == 0, result.output
        assert "runs/toy/knowledge is done" in result.stderr and "2 steps done" in result.stderr
        assert result.stdout.count("\n") == 3 and result.stdout.startswith("knowledge: ")
        assert contents(runs / "knowledge" / "checkpoints") == first
        for stage in SFT_STAGES:
            assert weights(runs / stage) == weights(straight / "runs/toy" / stage)

    def test_a_stage_begun_from_another_checkpoint_is_refused(
        self, straight: Path, recipe: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(straight / "runs", tmp_path / "runs")
        monkeypatch.chdir(tmp_path)
        result = sft("--schedule", "curriculum", "--recipe", recipe, "--resume", "--set", "train.max_samples=50")
        assert result.exit_code == 2
        assert "runs/toy/instruction began from ../knowledge/checkpoints/step-0" in result.stderr

    def test_a_signal_names_the_command_that_goes_on(
        self, recipe: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = loop.train_step

        def stopping(job: loop.Job, own: Step, *rest: float) -> object:
            os.kill(os.getpid(), signal.SIGTERM)
            return real(job, own, *rest)

        monkeypatch.setattr(loop, "train_step", stopping)
        result = sft("--schedule", "aio", "--recipe", recipe, "--checkpoint", start, "--out", tmp_path / "out")
        assert result.exit_code == 130
        command = f"sailctl sft --schedule aio --recipe {recipe} --checkpoint {start} --out {tmp_path / 'out'}"
        assert f"go on with: {command} --device cpu --resume" in result.stderr
        assert (tmp_path / "out" / "latest").read_text() == "step-00000001"


class TestPlans:
    @pytest.mark.parametrize("schedule", schedules.SCHEDULES)
    def test_samples_of_every_source_and_nothing_written(
        self, schedule: str, recipe: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        words = ("--schedule", schedule, "--recipe", recipe, "--checkpoint", start, "--out", "two", "--dry-run")
        plan = json.loads(sft(*words, "--json").stdout)
        assert {source["name"]: source["total"] for source in plan["sources"]} == TAKEN and plan["samples"] == 112
        text = sft(*words).stdout
        assert "samples:    24 of shared (knowledge 12, instruction 12)" in text
        if schedule == "aio":
            assert plan["runs"]["aio"]["run_dir"] == "two" and plan["runs"]["aio"]["steps"] == 16  # of 7 samples
            assert text.rstrip().splitlines()[-1].startswith("  max_tiles: ")
        else:
            assert [run["run_dir"] for run in plan["runs"].values()] == [f"two/{stage}" for stage in SFT_STAGES]
            assert [run["steps"] for run in plan["runs"].values()] == [6, 7, 4]
            assert plan["runs"]["preference"]["parent"] == {"path": "two/instruction", "state": "to be trained first"}
            assert plan["runs"]["preference"]["recipe"]["parent"] == "advance"  # the recipe's own word
        assert not list(tmp_path.iterdir())

    def test_the_parent_is_the_recipes_own_wherever_the_schedule_goes(
        self, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for schedule in schedules.SCHEDULES:
            words = ("--schedule", schedule, "--recipe", recipe, "--out", "two", "--set", "bootstrap=true")
            plan = json.loads(sft(*words, "--dry-run", "--json").stdout)
            parent = next(iter(plan["runs"].values()))["parent"]
            assert parent == {"path": "runs/toy/advance", "state": "to be made first"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give --stage knowledge|instruction|preference, or --schedule curriculum|aio for all three"),
        (("--stage", "knowledge", "--schedule", "aio"), "--stage knowledge is one stage, --schedule aio all three"),
        (("--schedule", "both"), "--schedule both: should be curriculum or aio"),
        (("--schedule", "aio", "--data", "a.tar"), "--data a.tar: --schedule trains on what the three stages name"),
        (("--schedule", "aio"), "advance has no checkpoint; make it with: sailctl pretrain --stage advance"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    words: tuple[str, ...], message: str, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for extra in ((), ("--dry-run",)):
        result = sft(*words, "--recipe", recipe, *extra)
        assert result.exit_code == 2 and message in result.stderr and result.stdout == ""
        assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_a_recipe_without_one_of_the_stages_names_the_file(tmp_path: Path) -> None:
    folder = write_recipe(tmp_path / "recipe")  # it has knowledge alone
    result = sft("--schedule", "curriculum", "--recipe", folder)
    assert result.exit_code == 2 and f"{folder / 'instruction.yaml'} does not exist" in result.stderr
