"""Checkpoints are complete or absent: hashed, pruned, verified, and unharmed by a full disk."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from sailctl.core.device import pick
from sailctl.core.errors import CheckpointError, StorageError
from sailctl.core.model.weights import load_model
from sailctl.core.train import checkpoint
from tests.helpers_train import train, write_recipe


def write(folder: Path, numbers: int = 10) -> None:
    safetensors.torch.save_file({"w": torch.arange(numbers)}, folder / "model.safetensors")


def save(run: Path, step: int, keep: int = 2) -> checkpoint.Checkpoint:
    return checkpoint.save(
        run, step, write_weights=write, optimizer={"a:b": torch.ones(3)}, state={"counters": {"steps": step}}, keep=keep
    )


def test_saved_state_comes_back_and_old_ones_go(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    for step in (1, 2, 3):
        save(tmp_path, step)
    newest = checkpoint.latest(tmp_path)
    assert newest.path.name == "step-00000003"
    assert newest.state() == {"counters": {"steps": 3}}
    assert torch.equal(newest.optimizer()["a:b"], torch.ones(3))
    newest.verify()
    assert checkpoint.complete(tmp_path) == ["step-00000002", "step-00000003"]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000002", "step-00000003"]
    listed = json.loads((newest.path / "manifest.json").read_text())["files"]
    assert sorted(listed) == ["state/optimizer.safetensors", "state/state.json", "weights/model.safetensors"]


def test_going_back_to_an_older_checkpoint_never_removes_the_new_one(tmp_path: Path) -> None:
    """A user may name an older one in `latest` to go on from."""
    for step in (10, 20, 30):
        save(tmp_path, step, keep=3)
    (tmp_path / "latest").write_text("step-00000010")
    assert save(tmp_path, 11, keep=1).path.is_dir()
    checkpoint.latest(tmp_path).verify()
    assert checkpoint.complete(tmp_path) == ["step-00000011", "step-00000020", "step-00000030"]


def test_a_branch_without_optimiser_state_is_one_line(tmp_path: Path) -> None:
    saved = save(tmp_path, 1)
    (saved.path / "state" / "optimizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"optimizer\.safetensors: cannot be read"):
        saved.optimizer()


def test_equal_weights_have_equal_hashes(tmp_path: Path) -> None:
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    assert first.weights_sha256() == second.weights_sha256()


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_damage_is_named_with_both_values(tmp_path: Path) -> None:
    newest = save(tmp_path, 2)
    file = newest.path / "state" / "optimizer.safetensors"
    data = file.read_bytes()
    flip(file)
    with pytest.raises(CheckpointError, match=r"optimizer.safetensors has sha256 .*, its manifest says "):
        newest.verify()
    file.write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match=f"has {len(data) - 1} bytes, its manifest says {len(data)}"):
        newest.verify()
    file.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        newest.verify()


def test_a_damaged_checkpoint_gives_way_to_the_last_good_one(tmp_path: Path) -> None:
    said: list[str] = []
    assert checkpoint.last_good(tmp_path, said.append) is None
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep=4)
    assert checkpoint.last_good(tmp_path, said.append).path.name == "step-00000004" and said == []
    flip(tmp_path / "checkpoints" / "step-00000004" / "weights" / "model.safetensors")
    manifest = tmp_path / "checkpoints" / "step-00000003" / "manifest.json"
    for damage in (manifest.read_text()[:-9], "[1]", '{"files": {"weights/model.safetensors": {}}}'):
        manifest.write_text(damage)
        said.clear()
        assert checkpoint.last_good(tmp_path, said.append).path.name == "step-00000002"
        assert "step-00000004" in said[0] and "has sha256" in said[0] and "manifest.json" in said[1]
        assert all(line.endswith("; going on from step-00000002, the last good one") for line in said)
    (tmp_path / "latest").write_text("step-00000001")  # somebody's choice is respected
    said.clear()
    assert checkpoint.last_good(tmp_path, said.append).path.name == "step-00000001" and said == []
    (tmp_path / "latest").write_text("step-00000009")
    assert checkpoint.last_good(tmp_path, said.append).path.name == "step-00000002"
    assert "names 'step-00000009', which is no complete checkpoint" in said[0]
    (tmp_path / "latest").unlink()
    said.clear()
    assert checkpoint.last_good(tmp_path, said.append).path.name == "step-00000002"
    assert said[0] == f"{tmp_path / 'latest'} is missing; going on from step-00000002, the last good one"
    assert checkpoint.latest(tmp_path).path.name == "step-00000004"
    for step in (1, 2):
        flip(tmp_path / "checkpoints" / f"step-0000000{step}" / "state" / "state.json")
    with pytest.raises(CheckpointError, match=r"has no good checkpoint left .* begin anew in another --out"):
        checkpoint.last_good(tmp_path, said.append)


def test_latest_that_points_nowhere_is_named(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / "latest").write_text("step-00000009")
    with pytest.raises(
        CheckpointError, match=r"step-00000009, which is no complete checkpoint; complete ones: step-00000001"
    ):
        checkpoint.latest(tmp_path)


def test_what_a_kill_left_is_swept_and_saved_over(tmp_path: Path) -> None:
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints"
    (folder / ".tmp-step-00000002" / "weights").mkdir(parents=True)
    save(tmp_path, 2)
    (folder / ".tmp-removed-step-00000001").mkdir()
    checkpoint.sweep(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000001", "step-00000002"]
    (tmp_path / "latest").write_text("step-00000001")  # killed between the rename and the new `latest`
    assert save(tmp_path, 2).path == checkpoint.latest(tmp_path).path


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on a disk of 256 KiB: a real one where mounting is allowed, else writes that fail as one would."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if mounted:
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
        return
    real = safetensors.torch.save_file

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if sum(tensor.nbytes for tensor in tensors.values()) > 262144:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        real(tensors, path)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    yield folder


def test_a_full_disk_leaves_the_last_complete_checkpoint(small_disk: Path) -> None:
    save(small_disk, 1)
    before = sorted(path.relative_to(small_disk) for path in small_disk.rglob("*"))
    with pytest.raises(StorageError, match=r"step-00000002: No space left on device \(\d+ bytes free\)"):
        checkpoint.save(
            small_disk,
            2,
            write_weights=lambda f: write(f, 100_000),
            optimizer={},
            state={"counters": {"steps": 2}},
            keep=2,
        )
    assert sorted(path.relative_to(small_disk) for path in small_disk.rglob("*")) == before
    checkpoint.latest(small_disk).verify()
    assert save(small_disk, 2).path.name == "step-00000002"


def test_damaged_weights_are_refused_wherever_they_are_loaded(tmp_path: Path) -> None:
    run = train(write_recipe(tmp_path / "recipe", max_steps=2), tmp_path / "run").run_dir
    found = checkpoint.latest(run)
    assert found is not None
    load_model(run, device=pick("cpu"), dtype=None)
    file = found.weights / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(data)
    for path in (run, found.path, found.weights):
        with pytest.raises(CheckpointError, match=r"model\.safetensors has sha256 .* the checkpoint is damaged"):
            load_model(path, device=pick("cpu"), dtype=None)
    shutil.copytree(found.weights, tmp_path / "weights")  # without its manifest nobody can know
    load_model(tmp_path / "weights", device=pick("cpu"), dtype=None)
