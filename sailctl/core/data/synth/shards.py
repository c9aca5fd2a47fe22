"""Whole data sets: planned in parts, made by any number of processes, resumed where a killed run stood."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from sailctl.core.data.synth.generate import check, generate
from sailctl.core.data.synth.item import NATIVE_SIZE, TASKS, Language
from sailctl.core.data.synth.layouts import BARE_CAPTION_TASKS, LAYOUTS, Layout, Part, assignment, write_part
from sailctl.core.errors import Interrupted, UsageError
from sailctl.core.files import atomic_write, storage_errors, write_json
from sailctl.core.schema.data import SynthConfig

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Written:
    """What `write_shards` made: the folder, what a data source is to be pointed at, and how many samples per task."""

    folder: Path
    source: Path
    samples: int
    parts: int
    counts: dict[str, int]
    complete_before: bool


def plan_parts(
    spec: SynthConfig,
    out: Path,
    *,
    shard_size: int = 1000,
    size: int = NATIVE_SIZE,
    font: str | Path | None = None,
    lang: Language = "en",
    layout: Layout = "tar",
) -> list[Part]:
    """Check a specification and cut it into parts. Raises UsageError naming the key, its value and the remedy."""
    if not spec.tasks:
        raise UsageError(f"synth tasks are empty; name some of {', '.join(TASKS)}")
    if not spec.levels:
        raise UsageError("synth levels are empty; name some of 1, 2, 3")
    for task, weight in spec.tasks.items():
        for level in spec.levels:
            check(task, level, spec.split, size, lang)
        if not (math.isfinite(weight) and weight > 0):
            raise UsageError(f"synth task {task!r} has weight {weight}; a weight is a number above 0")
        if layout == "img2dataset" and task not in BARE_CAPTION_TASKS:
            raise UsageError(
                f"img2dataset's layout has no room for the questions of {task!r}; use caption, or --format tar"
            )
    if layout not in LAYOUTS:
        raise UsageError(f"unknown synth format {layout!r}; use {', '.join(LAYOUTS)}")
    if shard_size < 1:
        raise UsageError(f"shard size {shard_size} is below 1")
    common = (
        tuple((task, spec.tasks[task]) for task in TASKS if task in spec.tasks),
        tuple(sorted(set(spec.levels))),
        spec.seed,
        spec.split,
        size,
        None if font is None else str(font),
        lang,
        layout,
        spec.documents,
    )
    starts = range(0, spec.samples, shard_size)
    return [Part(out, n, start, min(start + shard_size, spec.samples), *common) for n, start in enumerate(starts)]


def count_samples(parts: list[Part]) -> dict[str, int]:
    """Samples per task of a plan, in the order of TASKS."""
    counts = {task: 0 for task, _ in parts[0].tasks}
    for part in parts:
        for ordinal in range(part.start, part.stop):
            counts[assignment(part, ordinal)[0]] += 1
    return counts


def write_shards(
    spec: SynthConfig,
    out: str | Path,
    *,
    shard_size: int = 1000,
    size: int = NATIVE_SIZE,
    font: str | Path | None = None,
    lang: Language = "en",
    workers: int = 1,
    layout: Layout = "tar",
    progress: Callable[[int], None] | None = None,
) -> Written:
    """Write a data set into the folder `out`: the same specification gives the same bytes, whatever the workers.

    Every part appears complete under its name or not at all, and a manifest says whether all are there; called again,
    only the missing parts are made. `progress` is told how many samples are there. Raises UsageError when `out` holds
    something else, StorageError when the disk is full.
    """
    out = Path(out)
    parts = plan_parts(spec, out, shard_size=shard_size, size=size, font=font, lang=lang, layout=layout)
    counts = count_samples(parts)
    about = _describe(parts, counts, shard_size)
    for task in counts:  # a font that cannot be used is found before anything is written
        generate(task, parts[0].levels[0], spec.seed, 0, spec.split, font=font, size=size, lang=lang)
    source = out / "samples.jsonl" if layout == "llava-json" else out
    if _claim(out, about):
        return Written(out, source, spec.samples, len(parts), counts, True)
    done = 0
    try:
        for samples in _make(parts, workers):
            done += samples
            if progress is not None:
                progress(done)
    except KeyboardInterrupt:
        raise Interrupted(
            f"complete shards are kept in {out} ({done:,} of {spec.samples:,} samples seen to be done); the same "
            "command makes the rest"
        ) from None
    if layout == "llava-json":
        _join_lines(parts, source)
        for part in parts:
            part.path.unlink()
    write_json(out / MANIFEST, {**about, "complete": True})
    return Written(out, source, spec.samples, len(parts), counts, False)


def _make(parts: list[Part], workers: int) -> Iterator[int]:
    """Write all parts, yielding the size of each as it is done."""
    if workers <= 1 or len(parts) == 1:
        yield from map(write_part, parts)
        return
    # Spawned, not forked: the caller may hold threads (torch), and a fork would copy their locks.
    with ProcessPoolExecutor(min(workers, len(parts)), mp_context=get_context("spawn")) as pool:
        try:
            with _ctrl_c_is_ours():
                futures = [pool.submit(write_part, part) for part in parts]
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@contextmanager
def _ctrl_c_is_ours() -> Iterator[None]:
    """Let processes started meanwhile ignore Ctrl-C, which a terminal sends to them as well: they finish their part."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _describe(parts: list[Part], counts: dict[str, int], shard_size: int) -> dict[str, Any]:
    """The manifest without its `complete`: what decides the bytes of the data set, and what it holds."""
    first = parts[0]
    font = None
    if first.font is not None:
        try:
            font = hashlib.blake2b(Path(first.font).read_bytes(), digest_size=16).hexdigest()
        except OSError as error:
            raise UsageError(
                f"--font {first.font}: {error.strerror or error}; give a TrueType or OpenType file"
            ) from None
    return {
        "format": "sailctl-synth-1",
        "layout": first.layout,
        "tasks": dict(first.tasks),
        "levels": list(first.levels),
        "samples": parts[-1].stop,
        "seed": first.seed,
        "split": first.split,
        "documents": first.documents,
        "size": first.size,
        "lang": first.lang,
        "font_blake2b": font,
        "shard_size": shard_size,
        "counts": counts,
    }


def _claim(out: Path, about: dict[str, Any]) -> bool:
    """Make the folder ours for this specification; True when all of it is already there.

    Raises UsageError when the folder holds other data: nothing of another's is overwritten.
    """
    manifest = out / MANIFEST
    if manifest.exists():
        try:
            found = json.loads(manifest.read_text(encoding="utf-8"))
        except ValueError:
            found = {}
        for key, value in about.items():
            if not isinstance(found, dict) or found.get(key) != value:
                had = found.get(key) if isinstance(found, dict) else None
                raise UsageError(
                    f"{manifest}: {key} is {had!r}, asked for {value!r}; choose another --out or remove {out}"
                )
        if found.get("complete"):
            return True
    elif out.exists() and (not out.is_dir() or any(not _is_leftover(path) for path in out.iterdir())):
        raise UsageError(f"{out} is not an empty folder and not a synth data set; choose another --out")
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for path in filter(_is_leftover, list(out.rglob(".*.tmp"))):
            path.unlink(missing_ok=True)
    write_json(manifest, {**about, "complete": False})
    return False


def _is_leftover(path: Path) -> bool:
    """Whether a file is nobody's data: an index, or temporary (`.NAME.PID.tmp`) of a process that is gone."""
    if path.name.endswith(".sailctl-index"):  # what reading the data once left, of shards that are gone
        return True
    pid, suffix = path.name.split(".")[-2:] if path.name.count(".") >= 3 else ("", "")
    if suffix != "tmp" or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return int(pid) == os.getpid()


def _join_lines(parts: list[Part], target: Path) -> None:
    with atomic_write(target) as handle:
        for part in parts:
            handle.write(part.path.read_bytes())
