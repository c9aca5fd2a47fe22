"""The folder of one run: its lock, its resolved recipe, its `run.json`, and whether a resume may go on in it."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sailctl import __version__
from sailctl.core.environment import installed_version
from sailctl.core.errors import CheckpointError, UsageError
from sailctl.core.files import atomic_write, storage_errors, write_json
from sailctl.core.journal import try_lock
from sailctl.core.schema.load import dump_recipe
from sailctl.core.schema.recipe import Recipe

LOCK = ".lock"
LOGS = ("metrics.jsonl", "rejects.jsonl")
CHECKOUT = Path(__file__).resolve().parents[3]  # of sailctl, where it is one
PACKAGES = ("torch", "transformers", "numpy", "safetensors", "pillow")

# What a resumed run may change: these move the end of the run or the way there, never what a step is.
RESUMABLE = {
    "train.max_steps",
    "train.max_samples",
    "train.epochs",
    "train.save_every",
    "train.keep_checkpoints",
    "train.backend",
    "train.zero_stage",
    "train.offload",
    "train.trackers",
    "data.workers",
    "bootstrap",
}


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the only right to write into `run_dir` (made if absent); a second holder gets a UsageError, a file system
    without locks a StorageError.

    The kernel drops the lock with the process, however that ends. A folder left without any file of its own
    goes again, and with it the folders above that were made for it.
    """
    with storage_errors(run_dir):
        made = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
        run_dir.mkdir(parents=True, exist_ok=True)
        handle = open(run_dir / LOCK, "a+", encoding="utf-8")  # noqa: SIM115 - closed below
    with handle:
        if not try_lock(handle, run_dir / LOCK):
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            raise UsageError(
                f"{run_dir} is in use by another run (process {holder}); wait for it or give another --out"
            )
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        try:
            yield
        finally:
            if is_empty(run_dir):
                (run_dir / LOCK).unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # as far up as this call made them and nothing else moved in
                    for folder in made or [run_dir]:
                        folder.rmdir()


def is_empty(run_dir: Path) -> bool:
    """True when the folder is absent or holds nothing but the lock."""
    return not run_dir.is_dir() or all(path.name == LOCK for path in run_dir.iterdir())


def is_free(run_dir: Path) -> bool:
    """True when a run may begin here: the folder is empty, or what it holds is of a run that never made a step."""
    metrics = run_dir / "metrics.jsonl"
    if not (metrics.is_file() and not metrics.stat().st_size and (run_dir / "run.json").is_file()):
        return is_empty(run_dir)
    return {path.name for path in run_dir.iterdir()} <= {LOCK, "recipe.yaml", "run.json", *LOGS}


def write_run(run_dir: Path, recipe: Recipe, about: dict[str, Any]) -> None:
    """Write the resolved recipe and `run.json`."""
    with atomic_write(run_dir / "recipe.yaml", "w") as file:
        file.write(dump_recipe(recipe))
    write_json(run_dir / "run.json", about)


def check_free(run_dir: Path, *, resume: bool) -> None:
    """Refuse a folder in which no run may begin, unless `resume` is to go on with what it holds."""
    if resume or is_free(run_dir):
        return
    if {path.name for path in run_dir.iterdir()} & {"run.json", "checkpoints", *LOGS}:
        raise UsageError(f"{run_dir} already holds a run; add --resume to go on with it, or give another --out")
    raise UsageError(f"{run_dir} is not empty, and what it holds is no run; give another --out")


def read_run(run_dir: Path) -> dict[str, Any]:
    """`run.json` of a run, empty when there is none; a CheckpointError where it is damaged."""
    path = run_dir / "run.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if isinstance(about, dict):
            return about
        error = "no JSON object"
    except ValueError as broken:
        error = str(broken)
    raise CheckpointError(
        f"{path}: cannot be read ({error}); put back a copy, or move it away: --resume then goes on without what it "
        "says of the run's beginning"
    )


def check_same_recipe(run_dir: Path, stored: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to resume with another recipe than the run began with, naming the keys that differ and both values."""
    with contextlib.suppress(ValidationError):  # a key that has gone since is named by the comparison
        stored = Recipe.model_validate(stored).model_dump(mode="json")  # one younger than the run had its default
    before, after = _flat(stored), _flat(now)
    differing = sorted(
        key
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key) and key not in RESUMABLE and not key.startswith("bench.")
    )
    if differing:
        shown = ", ".join(f"{key} ({before.get(key)} then, {after.get(key)} now)" for key in differing[:8])
        raise UsageError(
            f"{run_dir} was begun with another recipe: {shown}; resume with the old values, or give another --out"
        )


def check_same_data(run_dir: Path, stored: dict[str, str], now: dict[str, str]) -> None:
    """Refuse to resume on sources whose content has changed: the order of the samples would be another one."""
    changed = sorted(name for name in stored.keys() | now.keys() if stored.get(name) != now.get(name))
    if changed:
        raise UsageError(
            f"{run_dir}: source {', '.join(changed)} has changed since the run began "
            f"(fingerprint {stored.get(changed[0])} then, {now.get(changed[0])} now); restore it, or give another --out"
        )


def environment() -> dict[str, Any]:
    """Versions of Python and packages, and of sailctl's checkout the commit and whether it has uncommitted changes.

    `git` is None where sailctl is installed without one.
    """
    versions = {"python": platform.python_version(), "sailctl": __version__} | {
        name: installed_version(name) for name in PACKAGES
    }
    state = None
    # elsewhere a repository around the package is somebody else's, such as that of a project with its packages in it
    if (CHECKOUT / "pyproject.toml").is_file() and (commit := _git(CHECKOUT, "rev-parse", "HEAD")) is not None:
        state = {"commit": commit, "dirty": bool(_git(CHECKOUT, "status", "--porcelain"))}
    return {"versions": versions, "platform": platform.platform(), "git": state}


def timestamp() -> str:
    """The time now, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # no git on this machine, or a repository too slow to ask
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys of nested dicts and lists."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        items = {str(position): item for position, item in enumerate(value)}.items()
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return flat
