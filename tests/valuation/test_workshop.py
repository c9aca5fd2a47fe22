"""The workshop: what people write, where trials run, what a death costs, what the first trial foretells."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sailctl.core.errors import Interrupted, SailctlError, TrainingError, UsageError
from sailctl.core.reporter import Quiet
from sailctl.core.schema.data import SourceConfig
from sailctl.core.schema.load import load_recipe
from sailctl.core.valuation import workshop as module
from sailctl.core.valuation.ledger import Ledger, workspace
from sailctl.core.valuation.mixture import Part
from sailctl.core.valuation.seam import Outcome, Trial
from sailctl.core.valuation.suite import SuiteSpec
from sailctl.core.valuation.trainer import Spec, read_outcome, run_lane, write_outcome
from sailctl.core.valuation.workshop import Workshop, parse_budget, parse_samples, workers_and_devices

LETHAL, POISON, BROKEN = 13, 66, 99  # seeds


class Silent(Quiet):
    """Keeps the lines; its like among the helpers of training would bring torch into every worker."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, line: str) -> None:
        self.lines.append(line)


@dataclass(frozen=True)
class FakeSpec(Spec):
    """Trials without training: a score made of seed and samples, a line in `ran` for each, and three bad seeds.

    LETHAL kills its process once, POISON every time; BROKEN fails as a training does.
    """

    def train(self, trial: Trial) -> tuple[Trial, Path, float]:
        with open(self.root / "ran", "a", encoding="utf-8") as file:
            file.write(f"{trial.seed}\n")
        if trial.seed == BROKEN:
            raise TrainingError("the loss is not a number at step 3")
        mark = self.root / "died-once"
        if trial.seed == POISON or (trial.seed == LETHAL and not mark.exists()):
            mark.touch()
            os._exit(9)
        return trial, self.root, 0.5 * trial.samples

    def bench(self, trained: tuple[Trial, Path, float]) -> Outcome:
        trial, _, _ = trained
        return Outcome(trial.seed + trial.samples / 1000, 10)


def make_spec(root: Path, cls: type[Spec] = FakeSpec, seed: int = 1) -> Spec:
    recipe, folder = load_recipe("tiny", "alignment")
    groups = {
        name: [Part(SourceConfig(name=name, path=f"{name}.jsonl"), 1000, f"content of {name}")] for name in ("a", "b")
    }
    suite = SuiteSpec("synth", "overall", 1, seed, None, None, f"version {seed}")
    return cls(recipe, folder, None, None, groups, suite, root, ("cpu",))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with workspace(tmp_path) as opened:
        yield opened


def shop_of(ledger: Ledger, workers: int = 1, spec: Spec | None = None) -> Workshop:
    return Workshop(spec or make_spec(ledger.path.parent), ledger, Silent(), workers)


def ran(ledger: Ledger) -> list[int]:
    path = ledger.path.parent / "ran"
    return sorted(int(line) for line in path.read_text().split()) if path.exists() else []


def trials_of(*seeds: int, samples: int = 8) -> list[Trial]:
    return [Trial({"a": samples}, seed) for seed in seeds]


# --- what people write -----------------------------------------------------------------------------------------------


def test_budgets_as_people_write_them() -> None:
    samples = {"2e6": 2e6, "2M": 2e6, "50k": 5e4, "1.5B": 1.5e9, "12": 12.0}
    times = {"30s": 30.0, "90m": 5400.0, "12h": 43200.0, "3d": 259200.0, "0.5h": 1800.0}
    assert {text: parse_budget(text) for text in samples} == {
        text: (pytest.approx(value), "samples") for text, value in samples.items()
    }
    assert {text: parse_budget(text) for text in times} == {
        text: (pytest.approx(value), "device seconds") for text, value in times.items()
    }


@pytest.mark.parametrize("text", ["", "M", "h", "-1", "0", "0h", "inf", "nan", "1e999", "two", "12x", "12 hours"])
def test_what_is_no_budget_is_said(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_budget(text)
    assert str(refused.value) == f"--budget {text}: give samples (2e6, 2M) or device time (90m, 12h, 3d)"


def test_samples_as_people_write_them() -> None:
    assert [parse_samples(text) for text in ("2M", "50k", "2e6", " 64", "2.5k", "1.001k")] == [
        2_000_000,
        50_000,
        2_000_000,
        64,
        2500,
        1001,
    ]
    for text in ("12h", "1.5", "0", "-3", "", "many"):
        with pytest.raises(UsageError, match="is no number of samples; give 50000, 50k or 2M"):
            parse_samples(text)


def test_workers_of_a_cpu_are_its_cores() -> None:
    workers, devices = workers_and_devices("cpu", None)
    assert 1 <= workers <= 8 and devices == ("cpu",)
    assert workers_and_devices("cpu", 3) == (3, ("cpu",))


def test_a_worker_has_its_own_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(tmp_path)
    several = FakeSpec(spec.recipe, spec.recipe_dir, None, None, spec.groups, spec.suite, tmp_path, ("x:0", "x:1"))
    for worker, device in (("0", "x:0"), ("1", "x:1"), ("2", "x:0")):
        monkeypatch.setenv("SAILCTL_WORKER", worker)
        assert several.device() == device


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_stands_for_all_that_a_score_may_depend_on(tmp_path: Path) -> None:
    spec, trial = make_spec(tmp_path), Trial({"a": 8, "b": 4}, 1)
    known = spec.key(trial)
    assert spec.key(Trial({"b": 4, "a": 8}, 1, rung=2)) == known
    others = [Trial({"a": 8, "b": 5}, 1), Trial({"a": 4, "b": 8}, 1), Trial({"a": 8, "b": 4}, 2)]
    keys = [spec.key(other) for other in others]
    keys.append(make_spec(tmp_path, seed=2).key(trial))
    raw = spec.recipe.model_dump(mode="json")
    raw["train"]["lr"] *= 2
    changed: list[dict[str, Any]] = [
        {"recipe": type(spec.recipe).model_validate(raw)},
        {"parent_id": "other weights"},
        {"threads": 2},
        {"groups": {**spec.groups, "a": [Part(spec.groups["a"][0].config, 1000, "other content")]}},
    ]
    for values in changed:
        fields = {name: getattr(spec, name) for name in spec.__dataclass_fields__}
        keys.append(FakeSpec(**{**fields, **values}).key(trial))
    assert len({known, *keys}) == 1 + len(keys)
    # what a score does not depend on: where, how many at once, names
    raw = spec.recipe.model_dump(mode="json")
    raw["name"], raw["train"]["save_every"] = "other", 7
    fields = {name: getattr(spec, name) for name in spec.__dataclass_fields__}
    fields |= {"recipe": type(spec.recipe).model_validate(raw), "root": tmp_path / "b", "devices": ("x:0", "x:1")}
    renamed = {"first": spec.groups["a"], "second": spec.groups["b"]}
    assert FakeSpec(**{**fields, "groups": renamed}).key(Trial({"first": 8, "second": 4}, 1)) == known


# --- where it is done ------------------------------------------------------------------------------------------------


def test_one_worker_runs_here_in_order_and_a_failure_is_recorded(ledger: Ledger) -> None:
    shop = shop_of(ledger)
    outcomes = shop.trials(None).run(trials_of(3, BROKEN, 1, 3))
    assert [(one.score, one.error) for one in (outcomes[0], outcomes[2], outcomes[3])] == [
        (3.008, ""),
        (1.008, ""),
        (3.008, ""),
    ]
    assert outcomes[1].error == "the loss is not a number at step 3"
    assert [(row["seed"], row["score"]) for row in ledger.rows()] == [(3, 3.008), (BROKEN, None), (1, 1.008)]
    assert ran(ledger) == [1, 3, BROKEN]
    again = shop_of(ledger)
    assert [one.score for one in again.trials(None).run(trials_of(1, 3))] == [1.008, 3.008]
    assert ran(ledger) == [1, 3, BROKEN] and len(again.asked) == 2


def test_failed_trials_are_tried_anew_when_asked(ledger: Ledger) -> None:
    shop = shop_of(ledger)
    shop.trials(None).run(trials_of(1, BROKEN))
    left = shop.spec.folder(trials_of(BROKEN)[0])
    assert left.is_dir()
    assert shop.forget_failures() == 1 and not left.exists() and len(ledger.rows()) == 1
    shop_of(ledger).trials(None).run(trials_of(1, BROKEN))
    assert ran(ledger) == [1, BROKEN, BROKEN]


def test_a_worker_that_dies_takes_only_its_trial(ledger: Ledger) -> None:
    """Two workers; one trial kills its process once, another every time: the first is made up for, others go on."""
    shop = shop_of(ledger, workers=2)
    seeds = (1, LETHAL, 2, POISON, 3)
    outcomes = dict(zip(seeds, shop.trials(None).run(trials_of(*seeds)), strict=True))
    assert [outcomes[seed].score for seed in (1, 2, 3, LETHAL)] == [1.008, 2.008, 3.008, 13.008]
    assert "ended with exit code 9" in outcomes[POISON].error
    assert [row["seed"] for row in ledger.rows()] == list(seeds)  # in the order asked for
    counts = {seed: ran(ledger).count(seed) for seed in seeds}
    assert counts[LETHAL] == 2 and counts[1] == counts[2] == counts[3] == 1 and 1 <= counts[POISON] <= 2
    assert isinstance(shop.reporter, Silent)
    assert any("2 trials are tried once more, one at a time" in line for line in shop.reporter.lines)


def test_an_outcome_in_a_folder_is_booked_and_not_made_again(ledger: Ledger) -> None:
    """A kill after a trial and before its batch is booked: the folder has what the ledger lacks."""
    spec, (trial, other) = make_spec(ledger.path.parent), trials_of(1, 2)
    run_lane((spec, 0, [trial]))
    assert ledger.rows() == [] and ran(ledger) == [1]
    trials = shop_of(ledger).trials(None)
    assert [one.score for one in trials.run([trial, other])] == [1.008, 2.008]
    assert ran(ledger) == [1, 2] and trials.counts["trained"] == 1
    assert [row["seed"] for row in ledger.rows()] == [1, 2]
    row = ledger.rows()[0]
    assert row["folder"] == f"trials/{spec.key(trial)}" and row["key"] == spec.key(trial)
    assert (ledger.path.parent / row["folder"] / "outcome.json").is_file()


def test_weights_are_kept_where_a_kill_came_between_outcome_and_their_move(ledger: Ledger) -> None:
    spec, (trial,) = make_spec(ledger.path.parent), trials_of(1)
    run_lane((spec, 0, [trial]))
    left = spec.folder(trial) / "run" / "checkpoints" / "step-00000004" / "weights"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"weights")
    shop_of(ledger).trials(None).run([trial])
    assert (spec.folder(trial) / "weights" / "model.safetensors").read_bytes() == b"weights"
    assert not (spec.folder(trial) / "run" / "checkpoints").exists()


def test_a_torn_outcome_is_said_with_the_remedy(ledger: Ledger) -> None:
    spec, (trial,) = make_spec(ledger.path.parent), trials_of(1)
    run_lane((spec, 0, [trial]))
    path = spec.folder(trial) / "outcome.json"
    path.write_text(path.read_text()[:20])
    with pytest.raises(SailctlError, match=r"outcome\.json: is damaged .*; delete it"):
        shop_of(ledger).trials(None).run([trial])
    path.unlink()
    assert shop_of(ledger).trials(None).run([trial])[0].score == 1.008


def test_a_wish_to_stop_keeps_what_is_finished(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def stops(lane: tuple[Spec, int, list[Trial]]) -> int:
        run_lane((lane[0], lane[1], lane[2][:1]))
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
        return 0

    monkeypatch.setattr(module, "run_lane", stops)
    with pytest.raises(Interrupted, match="finished trials are kept; the same command goes on"):
        shop_of(ledger).trials(None).run(trials_of(1, 2))
    monkeypatch.undo()
    shop_of(ledger).trials(None).run(trials_of(1, 2))
    assert ran(ledger) == [1, 2] and len(ledger.rows()) == 2


# --- what it takes ---------------------------------------------------------------------------------------------------


def test_a_budget_in_device_time_is_converted_by_the_first_trial(ledger: Ledger) -> None:
    shop, (first, second) = shop_of(ledger), trials_of(1, 2)
    shop.gauge(first)
    found = read_outcome(shop.spec.folder(first))
    assert found is not None and ran(ledger) == [1]
    # FakeSpec says that 8 samples took 4 seconds
    assert found[1] == pytest.approx(4.0, abs=0.1)
    cost = found[1] + found[2]
    assert shop.seconds_for(second) == pytest.approx(cost)
    assert shop.seconds_for(Trial({"a": 80}, 1)) == pytest.approx(10 * found[1] + found[2])
    trials = shop.trials((2.5 * cost, "device seconds"))
    assert trials.affords([first, second]) and not trials.affords(trials_of(1, 2, 3))
    trials.run([first, second])
    assert trials.spent == pytest.approx(2 * cost) and ran(ledger) == [1, 2]
    with pytest.raises(UsageError, match=r"device seconds: .* would be needed"):
        trials.run(trials_of(3))


def test_the_rate_is_found_out_once_for_good(ledger: Ledger) -> None:
    """Were it measured anew a second call would stop elsewhere than the first."""
    shop, (first,) = shop_of(ledger), trials_of(1)
    shop.gauge(first)
    rate = shop.seconds_for(first)
    outcome = read_outcome(shop.spec.folder(first))
    assert outcome is not None
    write_outcome(shop.spec.folder(first), outcome[0], {"train_s": 999.0, "bench_s": 0.0})
    again = shop_of(ledger)
    again.gauge(first)
    assert again.seconds_for(first) == rate and ran(ledger) == [1]


def test_a_first_trial_that_fails_foretells_nothing(ledger: Ledger) -> None:
    with pytest.raises(SailctlError, match="the first trial failed, so that nothing can be foretold: the loss is not"):
        shop_of(ledger).gauge(trials_of(BROKEN)[0])
