"""A folder of runs as a recipe leaves it, made up from a seed: result files only, nothing trained."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from sailctl.core.bench.run import summarise
from sailctl.core.bench.suite_synth import TASKS, Item

STAGES = ("alignment", "advance", "anneal", "knowledge", "instruction", "preference")
COLOURS = ("red", "blue", "green", "orange", "purple")
PARENTS = {"advance": "alignment", "anneal": "advance", "knowledge": "anneal", "instruction": "knowledge"}
ATTACK = '<script>document.title="owned"</script><img src=x onerror=alert(1)>'


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished recipe with a small bench after each stage; read-only by agreement."""
    return fabricate(tmp_path_factory.mktemp("runs") / "tiny", items=9, steps=30)


@pytest.fixture
def runs(made_once: Path, tmp_path: Path) -> Path:
    """A copy of those runs to change at will."""
    return Path(shutil.copytree(made_once, tmp_path / "tiny"))


def fabricate(folder: Path, *, stages: tuple[str, ...] = STAGES, items: int = 30, steps: int = 120) -> Path:
    """Write runs with metrics, rejects and a bench each; the last bench has samples and images, one of them hostile."""
    rng = random.Random(5)
    for number, stage in enumerate(stages):
        run = folder / stage
        run.mkdir(parents=True)
        rows, loss = [], 3.2 / (1 + 0.5 * number)
        for step in range(1, steps + 1):
            value = loss * (0.35 + 0.65 / (1 + step / 14)) * rng.uniform(0.88, 1.12)
            perf = {"seconds": 0.24, "samples_per_s": 100.0, "tokens_per_s": 5600.0, "data_wait_s": 0.01}
            row: dict[str, Any] = {"step": step, "stage": stage, "loss": value, "lr": 1e-3, "grad_norm": 0.7}
            row |= {"samples": 24 * step, "tokens": 1344 * step, "supervised_tokens": 300 * step, "packs": 2}
            rows.append(row | {"rejected": 0, "perf": perf | {"memory_bytes": 900_000_000}})
        _write_rows(run / "metrics.jsonl", rows)
        parent = PARENTS.get(stage, "instruction" if stage == "preference" else None)
        about = {"stage": stage, "recipe": "tiny", "parent": parent and {"checkpoint": "..", "stage": parent}}
        (run / "run.json").write_text(json.dumps(about))
        if stage == "advance":
            _write_rows(
                run / "rejects.jsonl", [{"key": "a", "reason": "bad_image"}, {"key": "b", "reason": "no_turns"}]
            )
        fabricate_bench(run / "bench", rng, skill=0.22 + 0.08 * number, items=items, samples=stage == stages[-1])
    return folder


def fabricate_bench(folder: Path, rng: random.Random, *, skill: float, items: int, samples: bool) -> None:
    """Write results.json and, if wanted, samples.jsonl with its images."""
    (folder / "images").mkdir(parents=True)
    made: dict[str, list[Item]] = {}
    values: dict[str, dict[str, list[float]]] = {"score": {}, "blind": {}, "untrained": {}}
    rows = []
    for task in TASKS:
        made[task.name] = [_item(task.name, index, rng) for index in range(items)]
        for tier, chance in (("score", skill), ("blind", 0.17), ("untrained", 0.01)):
            right = [float(rng.random() < chance) for _ in range(items)]
            graded = task.metric != "accuracy"
            values[tier][task.name] = [value * rng.uniform(0.6, 1.0) for value in right] if graded else right
        for place, item in enumerate(made[task.name]):
            score = values["score"][task.name][place]
            if item.image is not None and samples:
                (folder / "images" / str(item.image_name)).write_bytes(item.image)
            row: dict[str, Any] = {"task": item.task, "index": place, "level": item.level, "question": item.question}
            row |= {"answer": item.answer, "references": item.references, "score": score}
            row |= {"image": item.image_name and f"images/{item.image_name}", "prediction": "green"}
            row |= {"blind": "blue", "untrained": "", "blind_score": 0.0, "untrained_score": 0.0}
            rows.append(row | ({"prediction": item.answer} if score >= 0.5 else {}))
    rows[0]["prediction"] = rows[0]["question"] = rows[0]["blind"] = ATTACK
    guesses = {task.name: [0.15] * items for task in TASKS}
    results = {"suite": "synth", "seed": 1234, "samples": items, "checkpoint": "runs/tiny/preference"}
    results |= {"weights": hashlib.blake2b(b"w", digest_size=16).hexdigest()}
    results |= {"baselines": {"untrained": {"model": "pretrained parts with a fresh projector"}}}
    results |= summarise(made, values, guesses) | {"perf": {"seconds": 12.5}}
    (folder / "results.json").write_text(json.dumps(results))
    if samples:
        _write_rows(folder / "samples.jsonl", rows)


def _item(task: str, index: int, rng: random.Random) -> Item:
    colour = rng.choice(COLOURS)
    question = f"Which colour is the shape in the middle of picture {index}?"
    picture = None
    if task != "text_qa":
        image = Image.new("RGB", (112, 112), (236, 233, 226))
        left, top = rng.randrange(10, 50), rng.randrange(10, 50)
        ImageDraw.Draw(image).ellipse((left, top, left + 48, top + 48), fill=colour)
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        picture = buffer.getvalue()
    return Item(task, index, 1 + index % 3, "colour", question, colour, (colour,), (), (colour,), picture)


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
