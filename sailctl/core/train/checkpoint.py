"""Checkpoints that are complete or absent: written under a temporary name, fsynced, hashed, renamed.

    RUN/checkpoints/step-00000010/weights/        what `--checkpoint` takes anywhere
                                  state/          optimizer.safetensors, state.json (counters, loader, recipe)
                                  manifest.json   size and sha256 of every file
    RUN/latest                                    the name of the newest complete one

State is safetensors and JSON only, and the same files whatever wrote them: one process or many, plain or DeepSpeed.
There is no generator state: every pack seeds its own (see `loop.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sailctl.core.errors import CheckpointError
from sailctl.core.files import atomic_write, fsync_dir, storage_errors
from sailctl.core.model.shards import MANIFEST, check_files, file_sha256

_TEMPORARY = ".tmp-"  # a checkpoint being written or removed; swept at the next start


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint of a run."""

    path: Path

    @property
    def weights(self) -> Path:
        """The folder of weights, tokenizer and model config."""
        return self.path / "weights"

    def state(self) -> dict[str, Any]:
        """Counters, loader state and recipe, as `save` was given them."""
        return _read_json(self.path / "state" / "state.json")

    def optimizer(self) -> dict[str, Tensor]:
        """Optimiser state as named tensors; CheckpointError where it was removed or is damaged."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.path / "state" / "optimizer.safetensors"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}; take a checkpoint that has its state") from None

    def weights_sha256(self) -> str:
        """One hash over the manifest's hashes of the weights folder: equal weights, equal hash."""
        files = _read_json(self.path / MANIFEST)["files"]
        lines = [f"{name} {entry['sha256']}" for name, entry in sorted(files.items()) if name.startswith("weights/")]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def verify(self) -> None:
        """Compare every file with the manifest; CheckpointError names the first that differs, with both values."""
        check_files(self.path)

    def fault(self) -> str | None:
        """What is wrong with its files, or None."""
        try:
            self.verify()
        except CheckpointError as error:
            return str(error)
        return None


def complete(run_dir: Path) -> list[str]:
    """Names of the complete checkpoints of a run, oldest first."""
    folder = run_dir / "checkpoints"
    return sorted(path.parent.name for path in folder.glob(f"step-*/{MANIFEST}"))


def latest(run_dir: Path) -> Checkpoint | None:
    """The checkpoint that `latest` names, without that file the newest complete one, None before the first; a dangling
    `latest` is a CheckpointError."""
    pointer, present = run_dir / "latest", complete(run_dir)
    if not pointer.is_file():
        return Checkpoint(run_dir / "checkpoints" / present[-1]) if present else None
    name = pointer.read_text(encoding="utf-8", errors="replace").strip()
    if name not in present:
        listed = ", ".join(present) or "none"
        raise CheckpointError(f"{pointer} names {name}, which is no complete checkpoint; complete ones: {listed}")
    return Checkpoint(run_dir / "checkpoints" / name)


def last_good(run_dir: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint whose files are what was written: `latest`, or the first good one before it.

    What is wrong with those passed over, or with `latest`, goes to `say`. None before the first; a run all of whose
    checkpoints are damaged is a CheckpointError.
    """
    pointer, present = run_dir / "latest", complete(run_dir)
    if pointer.is_file():
        named = pointer.read_text(encoding="utf-8", errors="replace").strip()
        faults = [] if named in present else [f"{pointer} names {named!r}, which is no complete checkpoint"]
    elif present:
        named, faults = "", [f"{pointer} is missing"]
    else:
        return None
    candidates = [name for name in reversed(present) if name <= named or named not in present]
    for name in candidates:
        found = Checkpoint(run_dir / "checkpoints" / name)
        fault = found.fault()
        if fault is None:
            for line in faults:
                say(f"{line}; going on from {name}, the last good one")
            return found
        faults.append(fault)
    raise CheckpointError(f"{run_dir} has no good checkpoint left ({faults[0]}); begin anew in another --out")


def save(
    run_dir: Path,
    step: int,
    *,
    write_weights: Callable[[Path], None],
    optimizer: dict[str, Tensor],
    state: dict[str, Any],
    keep: int,
) -> Checkpoint:
    """Write a checkpoint, make it the latest one and remove all but it and the `keep` - 1 before it.

    `write_weights` fills the folder it is given. A full disk raises StorageError and leaves only complete checkpoints.
    """
    from safetensors.torch import save_file

    folder = run_dir / "checkpoints"
    target = folder / f"step-{step:08d}"
    temporary = folder / f"{_TEMPORARY}{target.name}"
    with storage_errors(target):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            (temporary / "weights").mkdir(parents=True)
            (temporary / "state").mkdir()
            write_weights(temporary / "weights")
            save_file(optimizer, temporary / "state" / "optimizer.safetensors")
            (temporary / "state" / "state.json").write_text(json.dumps(state, sort_keys=True), encoding="utf-8")
            _seal(temporary)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if target.exists():  # saved, but killed before `latest` named it: the same step again
            _remove(target)
        os.rename(temporary, target)
        fsync_dir(folder)
        with atomic_write(run_dir / "latest") as file:
            file.write(target.name.encode())
    # later ones are of a future that was given up: whoever wrote an older name into `latest` may still want them
    for name in [name for name in complete(run_dir) if name <= target.name][:-keep]:
        _remove(folder / name)
    return Checkpoint(target)


def sweep(run_dir: Path) -> None:
    """Remove what a killed run left half-written or half-removed; the caller holds the run's lock."""
    for path in (run_dir / "checkpoints").glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _seal(folder: Path) -> None:
    """Fsync and hash every file of a finished folder, and write its manifest."""
    files = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
        files[file.relative_to(folder).as_posix()] = {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
    with open(folder / MANIFEST, "w", encoding="utf-8") as handle:
        json.dump({"files": files}, handle, indent=1, sort_keys=True)
        handle.flush()
        os.fsync(handle.fileno())
    for directory in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
        fsync_dir(directory)


def _remove(path: Path) -> None:
    """Remove a checkpoint; its name goes first, so that a kill in between leaves nothing that looks complete."""
    doomed = path.parent / f"{_TEMPORARY}removed-{path.name}"
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: cannot be read: it holds no JSON object")
    return value
