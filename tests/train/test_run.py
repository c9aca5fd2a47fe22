"""A stage from recipe to finished run: resume equals continuation, parents, branches, and every refusal."""

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import SafetensorError

from sailctl.core.errors import CheckpointError, DataError, Interrupted, StorageError, TrainingError, UsageError
from sailctl.core.schema.load import load_recipe
from sailctl.core.schema.model import ModelConfig
from sailctl.core.train import backend, checkpoint, parents, run
from tests.helpers_train import Silent, contents, rows, train, write_recipe, write_samples

STATE = ("run.json", ".lock")  # what says when and by whom, and so differs


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("toy") / "recipe")


@pytest.fixture(scope="module")
def trunk(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An advance run of four steps with its alignment parent beside it."""
    runs = tmp_path_factory.mktemp("runs")
    train(recipe, runs / "alignment", "alignment")
    return train(recipe, runs / "advance", "advance").run_dir


def final(out: Path) -> dict[str, bytes]:
    """Weights and state of the last checkpoint."""
    return contents(checkpoint.latest(out).path)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stage", ["alignment", "knowledge"])
def test_stopped_and_resumed_equals_uninterrupted(stage: str, optimizer: str, trunk: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe", optimizer=optimizer, max_steps=7, save_every=3)
    parent = {} if stage == "alignment" else {"checkpoint": str(trunk)}
    straight = train(recipe, tmp_path / "straight", stage, **parent)
    train(recipe, tmp_path / "broken", stage, "train.max_steps=7", **parent)
    # Back to the checkpoint of step 3, as if the run had been killed after step 7 was logged.
    (tmp_path / "broken" / "latest").write_text("step-00000006")
    again = train(recipe, tmp_path / "broken", stage, resume=True, **parent)
    assert (again.steps, again.samples, again.tokens) == (straight.steps, straight.samples, straight.tokens)
    assert (again.loss_first, again.loss_last) == (straight.loss_first, straight.loss_last)
    assert rows(tmp_path / "broken") == rows(tmp_path / "straight")
    assert final(tmp_path / "broken") == final(tmp_path / "straight")
    assert [row["step"] for row in rows(tmp_path / "broken")] == list(range(1, 8))


def test_a_run_can_be_extended_and_then_equals_a_longer_one(recipe: Path, tmp_path: Path) -> None:
    train(recipe, tmp_path / "a", "alignment", "train.max_steps=3")
    train(recipe, tmp_path / "a", "alignment", "train.max_steps=5", "train.save_every=4", resume=True)
    train(recipe, tmp_path / "b", "alignment", "train.max_steps=5")
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    weights = [checkpoint.latest(tmp_path / name).weights_sha256() for name in "ab"]
    assert weights[0] == weights[1]


def test_the_run_directory_says_what_it_is(trunk: Path) -> None:
    about = json.loads((trunk / "run.json").read_text())
    parent = trunk.parent / "alignment"
    assert (trunk / about["parent"]["checkpoint"]).resolve() == checkpoint.latest(parent).path.resolve()
    assert about["parent"]["weights_sha256"] == checkpoint.latest(parent).weights_sha256()
    assert (about["parent"]["stage"], about["parent"]["step"]) == ("alignment", 4)
    assert about["data"]["colours"]["samples"] == 24
    assert about["versions"]["torch"] == torch.__version__.split("+")[0] or about["versions"]["torch"]
    assert about["sessions"][0]["threads"] == torch.get_num_threads()
    assert (trunk / "latest").read_text() == "step-00000004"
    row = json.loads((trunk / "metrics.jsonl").read_text().splitlines()[0])
    assert {"seconds", "samples_per_s", "tokens_per_s", "data_wait_s", "memory_bytes"} <= row["perf"].keys()
    assert all(path.suffix in (".json", ".safetensors") for path in checkpoint.latest(trunk).path.rglob("*.*"))


def test_the_checkpoint_tiles_as_the_stage_did(trunk: Path) -> None:
    data = yaml.safe_load((trunk / "recipe.yaml").read_text())["data"]
    model = json.loads((checkpoint.latest(trunk).weights / "sailctl_config.json").read_text())["model"]
    limits = ("min_tiles", "max_tiles", "thumbnail")
    assert [model[key] for key in limits] == [data[key] for key in limits]
    assert data["max_tiles"] != ModelConfig.model_fields["max_tiles"].default  # else this shows nothing


def test_a_finished_run_is_recognised(trunk: Path, recipe: Path) -> None:
    before = contents(trunk)
    reporter = Silent()
    result = train(recipe, trunk, "advance", resume=True, reporter=reporter)
    assert result.steps == 4
    assert reporter.lines == [f"{trunk} is done: 4 steps, {result.samples} samples; nothing left to do"]
    assert contents(trunk).keys() == before.keys()
    assert all(contents(trunk)[name] == data for name, data in before.items() if name not in STATE)


def test_an_occupied_directory_is_refused_naming_both_remedies(trunk: Path, recipe: Path) -> None:
    with pytest.raises(UsageError, match=r"advance already holds a run; add --resume .* or give another --out"):
        train(recipe, trunk, "advance")


def test_a_folder_of_other_files_is_not_called_a_run(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=rf"{tmp_path} is not empty, and what it holds is no run; give another --out$"):
        train(recipe, tmp_path, "alignment")


def test_a_finished_run_keeps_the_limit_that_ended_it(recipe: Path, tmp_path: Path) -> None:
    train(recipe, tmp_path / "out", "alignment")
    for limit in ("train.max_steps=3", "train.max_samples=5"):
        assert train(recipe, tmp_path / "out", "alignment", limit, resume=True).ended_by == "train.max_steps 4"


def test_a_damaged_run_json_is_told_with_what_to_do(recipe: Path, tmp_path: Path, monkeypatch) -> None:
    train(recipe, tmp_path / "out", "alignment")
    monkeypatch.chdir(tmp_path)
    for damage in ('{"recipe', "[]"):
        (tmp_path / "out" / "run.json").write_text(damage)
        with pytest.raises(CheckpointError, match=r"^out/run\.json: cannot be read \(.*; put back a copy, or move it"):
            train(recipe, Path("out"), "alignment", "train.max_steps=6", resume=True)
    (tmp_path / "out" / "run.json").unlink()
    assert train(recipe, Path("out"), "alignment", "train.max_steps=6", resume=True).steps == 6


def test_another_recipe_is_refused_on_resume_naming_the_keys(trunk: Path, recipe: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.lanes \(1 then, 2 now\), train\.lr \(0\.003 then, 0\.1 now\)"):
        train(recipe, trunk, "advance", "train.lr=0.1", "data.lanes=2", "train.max_steps=9", resume=True)


def test_changed_data_is_refused_on_resume(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe")
    train(recipe, tmp_path / "out", "alignment")
    samples = recipe / "data" / "samples.jsonl"
    samples.write_text("".join(samples.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UsageError, match="source colours has changed since the run began"):
        train(recipe, tmp_path / "out", "alignment", "train.max_steps=9", resume=True)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(recipe: Path, tmp_path: Path) -> None:
    out, reporter = tmp_path / "out", Silent()
    straight = train(recipe, tmp_path / "straight", "alignment")
    train(recipe, out, "alignment")
    file = checkpoint.latest(out).path / "weights" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    assert train(recipe, out, "alignment", resume=True, reporter=reporter).steps == 4
    assert "model.safetensors has sha256" in reporter.lines[0]
    assert reporter.lines[0].endswith("going on from step-00000002, the last good one")
    assert final(out) == final(straight.run_dir)
    assert rows(out) == rows(straight.run_dir)


def test_two_runs_in_one_directory_are_refused(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = run.run_loop

    def second_run(job: object) -> None:
        with pytest.raises(UsageError, match=rf"out is in use by another run \(process {os.getpid()}\)"):
            train(recipe, tmp_path / "out", "alignment", resume=True)
        real(job)

    monkeypatch.setattr(run, "run_loop", second_run)
    assert train(recipe, tmp_path / "out", "alignment").steps == 4


def test_a_missing_parent_names_the_command_that_makes_it(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "advance"
    command = f"sailctl pretrain --stage alignment --recipe {recipe}"
    with pytest.raises(UsageError, match=f"alignment has no checkpoint; make it with: {command}, or give --checkpoint"):
        train(recipe, out, "advance")
    assert not out.exists()
    with pytest.raises(UsageError, match="nowhere does not exist"):
        train(recipe, out, "advance", checkpoint=str(tmp_path / "nowhere"))


def test_a_neighbour_s_broken_recipe_does_not_fail_a_run_that_is_over(tmp_path: Path) -> None:
    (tmp_path / "alignment.yaml").write_text("name: toy\nstage: alignment\n")
    (tmp_path / "advance.yaml").write_text("name: toy\nstage: advance\nparnet: alignment\n")
    own, folder = load_recipe(str(tmp_path), "alignment")
    assert parents.next_command(own, folder, tmp_path) == f"sailctl bench --suite synth --checkpoint {tmp_path}"


def test_a_foreign_parent_is_known_by_its_weights_wherever_they_stand(trunk: Path, tmp_path: Path) -> None:
    """A checkpoint folder that lost its manifest: weights/ is one floor down, and still what the hash is of."""
    weights = checkpoint.latest(trunk).weights
    shutil.copytree(weights, tmp_path / "copy" / "weights")
    about = [parents.open_parent(path).about(tmp_path) for path in (tmp_path / "copy", tmp_path / "copy" / "weights")]
    assert about[0]["weights_sha256"] == about[1]["weights_sha256"] != hashlib.sha256().hexdigest()


def test_bootstrap_makes_the_chain_of_parents_and_finishes_one_it_had_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path / "recipe", bootstrap=True)
    reporter, out = Silent(), tmp_path / "runs" / "knowledge"
    real, calls = run.run_loop, []

    def stop_once(job: run.Job) -> None:
        calls.append(job)
        if len(calls) == 1:
            job.report = lambda row: os.kill(os.getpid(), signal.SIGTERM)
        real(job)

    monkeypatch.setattr(run, "run_loop", stop_once)
    with pytest.raises(Interrupted, match=r"stopped after step 1, saved in .*alignment.*; go on with: again$"):
        train(recipe, out, "knowledge", reporter=reporter, resume_command="again")
    assert not out.exists()
    assert train(recipe, out, "knowledge", reporter=reporter, resume=True).steps == 4
    assert [line for line in reporter.lines if "starts from" in line][-2:] == [
        f"knowledge starts from advance, which is not there yet: making {tmp_path / 'runs' / 'advance'}",
        f"advance starts from alignment, which is not there yet: making {tmp_path / 'runs' / 'alignment'}",
    ]
    assert len(rows(tmp_path / "runs" / "alignment")) == 4
    about = json.loads((tmp_path / "runs" / "advance" / "run.json").read_text())
    assert about["bootstrapped"] and about["parent"]["step"] == 4


def test_bootstrap_makes_missing_synth_data_and_text_alone_teaches_a_projector_nothing(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe", bootstrap=True)
    synth = f"{{name: made, path: {tmp_path / 'made'}, synth: {{tasks: {{text_qa: 1}}, samples: 12, levels: [1]}}}}"
    options = (f"data.sources=[{synth}]", "train.max_steps=1", "data.pack_tokens=2048")
    result = train(recipe, tmp_path / "out", "alignment", *options)
    assert result.steps == 1 and list((tmp_path / "made").glob("*.tar"))
    assert rows(tmp_path / "out")[0]["grad_norm"] == 0.0
    assert train(recipe, tmp_path / "out", "alignment", *options, "train.max_steps=2", resume=True).steps == 2
    shutil.copytree(recipe / "data", tmp_path / "mine")  # data of one's own is used, never claimed or completed
    mine = (options[0].replace(str(tmp_path / "made"), str(tmp_path / "mine" / "samples.jsonl")), *options[1:])
    assert train(recipe, tmp_path / "own", "alignment", *mine).steps == 1
    with pytest.raises(UsageError, match="nothing at memory://nowhere; give --data PATH, or make it with"):
        url = options[0].replace(str(tmp_path / "made"), "memory://nowhere")
        train(recipe, tmp_path / "url", "alignment", url)
    with pytest.raises(UsageError, match=r"nothing at .*gone; give --data PATH, or make it with: sailctl synth --out"):
        gone = (
            f"data.sources=[{synth.replace('made}', 'gone}').replace(str(tmp_path / 'made'), str(tmp_path / 'gone'))}]"
        )
        train(recipe, tmp_path / "other", "alignment", gone, "bootstrap=false")


def test_empty_or_missing_data_leaves_nothing_behind(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    for source, message in (("empty.jsonl", "holds no samples"), ("gone.jsonl", "nothing at")):
        override = f"data.sources=[{{name: a, path: {tmp_path / source}}}]"
        with pytest.raises(UsageError, match=message):
            train(recipe, tmp_path / "out" / "deeper" / "still", "alignment", override)
        assert not (tmp_path / "out").exists() and tmp_path.is_dir()
    with pytest.raises(UsageError, match=r"data\.sources is empty"):
        train(recipe, tmp_path / "out", "alignment", "data.sources=[]")


def test_anneal_branches_with_the_trunks_state_and_never_touches_it(recipe: Path, trunk: Path, tmp_path: Path) -> None:
    before = contents(trunk)
    # The recipe says otherwise; the branch follows its trunk.
    overrides = ("train.trainable=[llm]", "train.lr=0.5", "train.optimizer=muon")
    train(recipe, tmp_path / "anneal", "anneal", *overrides, checkpoint=str(trunk))
    assert contents(trunk) == before
    state = checkpoint.latest(tmp_path / "anneal").state()
    assert state["recipe"]["train"]["trainable"] == ["vision", "projector"]
    assert [row["lr"] for row in rows(tmp_path / "anneal")] == pytest.approx([3e-3, 2.25e-3, 1.5e-3, 0.75e-3])
    # The optimiser went on (4 + 4 steps) and so did the stream of samples.
    steps = {k: v.item() for k, v in checkpoint.latest(tmp_path / "anneal").optimizer().items() if k[:5] == "step:"}
    assert set(steps.values()) == {8.0}
    longer = train(
        recipe, tmp_path / "advance", "advance", "train.max_steps=5", checkpoint=str(trunk.parent / "alignment")
    )
    assert rows(longer.run_dir)[4]["loss"] == rows(tmp_path / "anneal")[0]["loss"]
    # A branch is resumed by what it took over, though the recipe still says otherwise.
    longer = train(recipe, tmp_path / "anneal", "anneal", *overrides, "train.max_steps=6", resume=True)
    assert longer.steps == 6


def test_anneal_needs_optimiser_state_and_a_falling_schedule(recipe: Path, trunk: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    for name, data in contents(checkpoint.latest(trunk).weights).items():
        (weights / name).write_bytes(data)
    with pytest.raises(UsageError, match="weights has no optimiser state; anneal branches off a run"):
        train(recipe, tmp_path / "out", "anneal", checkpoint=str(weights))
    with pytest.raises(UsageError, match=r"train\.schedule constant does not decay"):
        train(recipe, tmp_path / "out", "anneal", "train.schedule=constant", checkpoint=str(trunk))
    with pytest.raises(UsageError, match="anneal branches off a run; give --checkpoint RUN"):
        train(recipe, tmp_path / "out", "anneal", "parent=null")


@pytest.mark.parametrize("value", [float("nan"), 1e9])
def test_a_poisoned_step_is_named_and_not_saved(
    value: float, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = backend.pack_loss, []

    def poisoned(model: object, pack: object) -> torch.Tensor:
        calls.append(pack)
        return real(model, pack) * (value if len(calls) == 4 else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(backend, "pack_loss", poisoned)
        with pytest.raises(TrainingError) as caught:
            train(recipe, tmp_path / "out", "alignment", "train.max_steps=6")
    assert "step 4: loss" in str(caught.value) and caught.value.exit_code == 1
    ids = list(dict.fromkeys(calls[3].sample_ids))  # each once: a sample met twice in the pack is one to look at
    assert str(caught.value).endswith(f"look at its {len(ids)} samples or lower train.lr; sample ids: {' '.join(ids)}")
    assert (tmp_path / "out" / "latest").read_text() == "step-00000002"
    assert [row["step"] for row in rows(tmp_path / "out")] == [1, 2, 3]
    train(recipe, tmp_path / "out", "alignment", "train.max_steps=6", resume=True)
    train(recipe, tmp_path / "straight", "alignment", "train.max_steps=6")
    assert final(tmp_path / "out") == final(tmp_path / "straight")


def test_a_poisoned_first_step_says_that_there_is_no_checkpoint(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = backend.pack_loss
    monkeypatch.setattr(backend, "pack_loss", lambda model, pack: real(model, pack) * float("nan"))
    with pytest.raises(TrainingError, match="not saved, and there is no checkpoint yet to go on from; look at its"):
        train(recipe, tmp_path / "out", "alignment")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_and_says_how_to_go_on(
    number: int, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = backend.pack_loss, []

    def interrupting(model: object, pack: object) -> torch.Tensor:
        calls.append(pack)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return real(model, pack)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(backend, "pack_loss", interrupting)
        message = r"stopped after step 3, saved in .*step-00000003; go on with: sailctl x --resume$"
        with pytest.raises(Interrupted, match=message) as caught:
            train(recipe, tmp_path / "out", "alignment", resume_command="sailctl x --resume")
    assert caught.value.exit_code == 130
    assert signal.getsignal(number) is before
    assert train(recipe, tmp_path / "out", "alignment", resume=True).steps == 4
    train(recipe, tmp_path / "straight", "alignment")
    assert rows(tmp_path / "out") == rows(tmp_path / "straight")
    assert final(tmp_path / "out") == final(tmp_path / "straight")


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        Exception("No space left on device (os error 28)"),  # as tokenizers raises it
    ],
    ids=["python", "safetensors", "tokenizers"],
)
def test_a_full_disk_stops_the_run_which_then_goes_on(
    error: Exception, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoint.save

    def full(*args: object, write_weights: object, **options: object) -> object:
        def fails(folder: Path) -> None:
            write_weights(folder)
            raise error

        return real(*args, write_weights=fails if args[1] == 4 else write_weights, **options)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        with pytest.raises(StorageError, match=r"step-00000004: No space left on device \(\d+ bytes free\)"):
            train(recipe, tmp_path / "out", "alignment")
    assert [path.name for path in (tmp_path / "out" / "checkpoints").iterdir()] == ["step-00000002"]
    train(recipe, tmp_path / "out", "alignment", resume=True)
    train(recipe, tmp_path / "straight", "alignment")
    assert final(tmp_path / "out") == final(tmp_path / "straight")


def test_a_full_disk_under_the_log_is_one_line(recipe: Path, tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"metrics\.jsonl: No space left on device"):
        train(recipe, tmp_path / "out", "alignment", resume=True)


def test_a_damaged_log_is_one_line(recipe: Path, tmp_path: Path) -> None:
    train(recipe, tmp_path / "out", "alignment")
    log = tmp_path / "out" / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([lines[0], "\0\0\n", *lines[2:]]))
    for overrides in ((), ("train.max_steps=6",)):
        with pytest.raises(DataError, match=r"metrics\.jsonl: line 2 is not JSON; restore the file"):
            train(recipe, tmp_path / "out", "alignment", *overrides, resume=True)
    log.unlink()
    with pytest.raises(DataError, match=r"metrics\.jsonl is missing or empty"):
        train(recipe, tmp_path / "out", "alignment", resume=True)


def test_rejects_are_logged_with_their_step_and_counted(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe")
    samples = recipe / "data" / "samples.jsonl"
    broken = json.dumps(
        {
            "id": "b",
            "conversations": [{"from": "human", "value": "<image><image>"}, {"from": "gpt", "value": "x"}],
            "image": "red0.png",
        }
    )
    samples.write_text(samples.read_text() + f"{broken}\n")
    reporter = Silent()
    result = train(recipe, tmp_path / "out", "alignment", "train.max_steps=null", "train.epochs=2", reporter=reporter)
    assert result.rejected == {"placeholder_mismatch": 2}
    assert f"2 samples rejected (placeholder_mismatch 2): {tmp_path / 'out' / 'rejects.jsonl'}" in reporter.lines
    rejects = rows(tmp_path / "out", "rejects.jsonl")
    assert [(row["key"], row["epoch"], row["reason"]) for row in rejects] == [
        ("b", 0, "placeholder_mismatch"),
        ("b", 1, "placeholder_mismatch"),
    ]
    assert sum(row["rejected"] for row in rows(tmp_path / "out")) == 2
    assert 48 <= result.samples < 48 + 6
    by_step = {row["step"]: row["rejected"] for row in rows(tmp_path / "out")}
    assert all(by_step[row["step"]] for row in rejects)


def test_only_broken_samples_end_the_run(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe")
    (recipe / "data" / "samples.jsonl").write_text('{"conversations": []}\n' * 60)
    with pytest.raises(DataError, match=r"50 of 50 samples rejected.*no_turns 50.*listed in the run's rejects.jsonl"):
        train(recipe, tmp_path / "out", "alignment")
    assert [row["step"] for row in rows(tmp_path / "out", "rejects.jsonl")] == [1] * 50
    assert (tmp_path / "out" / ".lock").is_file()  # it still guards what is left there
    (recipe / "data" / "samples.jsonl").unlink()
    write_samples(recipe / "data")
    train(recipe, tmp_path / "out", "alignment")  # no step was made: nothing to resume, nothing to lose
    assert rows(tmp_path / "out", "rejects.jsonl") == []


def test_progress_counts_what_ends_the_run(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe", max_steps=2, max_samples=600)
    steps, samples = Silent(), Silent()
    train(recipe, tmp_path / "steps", "alignment", reporter=steps)
    train(recipe, tmp_path / "samples", "alignment", "train.max_steps=900", "train.max_samples=6", reporter=samples)
    assert steps.lines[2].endswith("0 of 2 steps") and samples.lines[2].endswith("0 of 6 samples")
    where = tmp_path / "steps"
    assert steps.lines[0].startswith(f"toy alignment in {where}: 1 rank on ") and steps.lines[0].endswith(", plain")
    assert steps.lines[1] == "toy alignment: samples: 24 in colours; 2 steps, about 6 samples a step"
