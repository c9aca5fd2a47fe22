"""Score a checkpoint on a suite: its own answers, those of the same weights blind, and those of the untrained model.

Writes `results.json`, `samples.jsonl` and `images/` (schemas in docs/results.md); `predictions.jsonl` beside them makes
a rerun, or a run that was killed, go on where it stood.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from sailctl.core.bench.lineage import default_out, run_of
from sailctl.core.bench.predict import PredictionStore, Reporter, predict
from sailctl.core.bench.statistics import difference, score_flat_mean, score_graded, score_yes_no
from sailctl.core.bench.suite_synth import TASKS, Item, Task, chance, load_items, scorer
from sailctl.core.bench.untrained import untrained_model
from sailctl.core.errors import Interrupted, UsageError
from sailctl.core.files import atomic_write, write_json
from sailctl.core.records import Score
from sailctl.core.schema.bench import BenchConfig

# Answers of untrained models are shared by all benches of a workspace: every stage has the same root.
CACHE = Path("runs/.cache/bench")
TIERS = ("score", "untrained", "blind")


def bench(
    checkpoint: Path | str,
    config: BenchConfig,
    out: Path,
    device: str = "auto",
    reporter: Reporter | None = None,
    *,
    baselines: bool = True,
    cache: Path = CACHE,
) -> dict[str, Any]:
    """Score `checkpoint` on `config.suite` and write results under `out`; returns what results.json holds.

    `baselines=False` leaves `untrained` and `blind` null: one pass over the questions instead of three. `cache` keeps
    the answers of untrained models by the hash of their weights. Raises CheckpointError for an unusable checkpoint,
    UsageError where `out` holds another model's results, Interrupted at Ctrl-C, which loses a chunk of answers at most.
    """
    try:
        return _bench(checkpoint, config, out, device, reporter, baselines, cache)
    except KeyboardInterrupt:
        raise Interrupted(f"the answers so far are kept in {out}; the same command asks only the others") from None


def _bench(
    checkpoint: Path | str,
    config: BenchConfig,
    out: Path,
    device: str,
    reporter: Reporter | None,
    baselines: bool,
    cache: Path,
) -> dict[str, Any]:
    from sailctl.core.device import pick
    from sailctl.core.engines.local import LocalEngine
    from sailctl.core.model.fingerprint import fingerprint
    from sailctl.core.model.weights import load_model

    began = time.perf_counter()
    place = pick(device)
    dtype = place.dtype("auto")
    if reporter is not None:
        reporter.info(f"making {config.samples} held-out questions for each of {len(TASKS)} tasks")
    items = {task.name: load_items(task, config.samples, config.seed) for task in TASKS}
    limits: dict[str, Any] = {"max_tiles": config.max_tiles, "chunk": 4 * config.batch_size, "reporter": reporter}

    loaded = load_model(checkpoint, device=place, dtype=dtype)
    weights = fingerprint(loaded)
    _refuse_anothers(out, checkpoint, weights)
    store = PredictionStore(out / "predictions.jsonl")
    engine = LocalEngine(loaded.model, loaded.tokenizer, place, batch_size=config.batch_size)
    answers = {"score": predict(engine, items, store, weights=weights, label="bench", **limits)}
    about: dict[str, Any] = {}
    if baselines:
        answers["blind"] = predict(engine, items, store, weights=weights, label="blind", blind=True, **limits)
        root, origin = untrained_model(Path(checkpoint), loaded, device=place, dtype=dtype)
        del engine, loaded
        root_weights = fingerprint(root)
        cached = PredictionStore(cache / f"untrained-{root_weights}.jsonl")
        engine = LocalEngine(root.model, root.tokenizer, place, batch_size=config.batch_size)
        answers["untrained"] = predict(engine, items, cached, weights=root_weights, label="untrained", **limits)
        about = {
            "untrained": {"model": origin, "weights": root_weights},
            "blind": {"model": "the same weights, shown uniform grey images of the same size"},
        }
    about["chance"] = {"model": "another item's answer of the same kind of question; uniform over given options"}

    values = {
        tier: {task.name: _values(task, items[task.name], texts[task.name]) for task in TASKS}
        for tier, texts in answers.items()
    }
    guesses = {task.name: chance(task, items[task.name]) for task in TASKS}
    results = {
        "suite": config.suite,
        "seed": config.seed,
        "samples": config.samples,
        "checkpoint": str(checkpoint),
        "weights": weights,
        "device": place.kind,
        "precision": str(dtype).removeprefix("torch."),
        "baselines": about,
        **summarise(items, values, guesses),
    }
    _write_samples(out, items, answers, values)
    results["perf"] = {"seconds": round(time.perf_counter() - began, 3)}
    write_json(out / "results.json", results)
    return results


def _refuse_anothers(out: Path, checkpoint: Path | str, weights: str) -> None:
    """Raise UsageError where `out` holds results of other weights; a run's own folder follows the run as it goes on."""
    path = out / "results.json"
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        held, held_weights = str(found["checkpoint"]), str(found["weights"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: is no result file of a bench; choose another --out, or remove it") from None
    own = run_of(Path(checkpoint)) is not None and out.resolve() == default_out(Path(checkpoint)).resolve()
    if held_weights != weights and not own:
        raise UsageError(
            f"{path}: holds the results of {held} (weights {held_weights[:8]}), not of {checkpoint} (weights "
            f"{weights[:8]}); choose another --out, or remove {out}"
        )


def plan(checkpoint: Path, config: BenchConfig, out: Path, *, baselines: bool) -> dict[str, Any]:
    """What `bench` would do, after looking that there is a checkpoint."""
    from sailctl.core.model.weights import resolve_weights_dir

    return {
        "checkpoint": str(resolve_weights_dir(checkpoint)),
        "suite": config.suite,
        "seed": config.seed,
        "tasks": ", ".join(task.name for task in TASKS),
        "questions": config.samples * len(TASKS),
        "models": "this one, blind, untrained" if baselines else "this one",
        "out": str(out),
    }


def table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the results for people, the overall score last."""
    rows = []
    for name, entry in [*results["tasks"].items(), ("overall", results["overall"])]:
        low, high = entry["ci95"]
        others = ["–" if entry[tier] is None else f"{entry[tier]:.3f}" for tier in ("blind", "chance", "untrained")]
        rows.append([name, f"{entry['score']:.3f}", f"{low:.3f} to {high:.3f}", *others, str(entry["n"])])
    return ["task", "score", "95% interval", "blind", "chance", "untrained", "n"], rows


def summarise(
    items: Mapping[str, Sequence[Item]],
    values: Mapping[str, Mapping[str, list[float]]],
    guesses: Mapping[str, list[float]],
) -> dict[str, Any]:
    """The `overall` and `tasks` parts of results.json from the scores of every item, by tier and task."""
    tasks: dict[str, Any] = {}
    for task in TASKS:
        tiers = {tier: [values[tier][task.name]] for tier in values}
        entry = _entry(tiers, [guesses[task.name]], task)
        entry["metric"] = task.metric
        by_level: dict[str, list[float]] = {}
        for item, value in zip(items[task.name], values["score"][task.name], strict=True):
            by_level.setdefault(str(item.level), []).append(value)
        entry["levels"] = {level: _score(_mean(task, [of_level])) for level, of_level in by_level.items()}
        tasks[task.name] = entry
    everything = {tier: [values[tier][task.name] for task in TASKS] for tier in values}
    overall = _entry(everything, [guesses[task.name] for task in TASKS], None)
    overall["metric"] = "flat mean of the tasks"
    return {"overall": overall, "tasks": tasks}


def _entry(tiers: Mapping[str, list[list[float]]], guesses: list[list[float]], task: Task | None) -> dict[str, Any]:
    """One number with everything it travels with; a tier that was not run is null."""
    entry: dict[str, Any] = _score(_mean(task, tiers["score"]))
    scores = {tier: _mean(task, tiers[tier]) for tier in TIERS[1:] if tier in tiers}
    for tier in TIERS[1:]:
        entry[tier] = scores[tier].score if tier in scores else None
    entry["chance"] = fmean(fmean(task_guesses) for task_guesses in guesses)
    for tier, score in scores.items():
        entry[f"{tier}_ci95"] = list(score.ci95)
        gain, interval = difference(tiers["score"], tiers[tier])
        entry[f"over_{tier}"] = {"score": gain, "n": entry["n"], "ci95": list(interval)}
    return entry


def _mean(task: Task | None, tasks: Sequence[Sequence[float]]) -> Score:
    if task is None:
        return score_flat_mean(tasks)
    return score_yes_no(tasks[0]) if task.metric == "accuracy" else score_graded(tasks[0])


def _score(score: Score) -> dict[str, Any]:
    return {"score": score.score, "n": score.n, "ci95": list(score.ci95)}


def _values(task: Task, items: Sequence[Item], predictions: Sequence[str]) -> list[float]:
    score = scorer(task, items)
    return [score(prediction, item) for prediction, item in zip(predictions, items, strict=True)]


def _write_samples(
    out: Path,
    items: Mapping[str, Sequence[Item]],
    answers: Mapping[str, Mapping[str, list[str]]],
    values: Mapping[str, Mapping[str, list[float]]],
) -> None:
    """samples.jsonl, one row an item, and the images it names."""
    folder = out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for task in TASKS:
        for place, item in enumerate(items[task.name]):
            name = item.image_name
            if name is not None and item.image is not None and not (folder / name).exists():
                with atomic_write(folder / name) as file:
                    file.write(item.image)
            row: dict[str, Any] = {
                "task": item.task,
                "index": item.index,
                "level": item.level,
                "kind": item.kind,
                "question": item.question,
                "answer": item.answer,
                "references": item.references,
                "options": item.options,
                "elements": item.elements,
                "image": None if name is None else f"images/{name}",
                "prediction": answers["score"][task.name][place],
                "score": values["score"][task.name][place],
            }
            for tier in TIERS[1:]:
                row[tier] = answers[tier][task.name][place] if tier in answers else None
                row[f"{tier}_score"] = values[tier][task.name][place] if tier in values else None
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    with atomic_write(out / "samples.jsonl", "w") as file:
        file.writelines(lines)
