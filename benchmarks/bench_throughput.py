"""Questions/s of a bench: our batched local engine against VLMEvalKit's one-at-a-time loop, the same model and tables.

python benchmarks/bench_throughput.py                        # VLMEvalKit's own loop where .venv-scorer has it
python benchmarks/bench_throughput.py --scorer-python PYTHON # another interpreter that has it
python benchmarks/bench_throughput.py --plain                # without it: the outline of its loop

The other side is stock transformers' InternVL in a batch of one, greedy, with a KV cache, in float32, as many threads
and as many new tokens; both times include reading the tables, neither includes loading the model. The model is the tiny
recipe's, its tower and language model pretrained; predictions must be identical. Pictures are whole multiples of a
tile: Pillow and torch round a resampled edge differently, and a model this small hears that.
"""

from __future__ import annotations

import argparse
import base64
import csv
import dataclasses
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from PIL import Image

from sailctl.core.bench.answers import Store, answer_all
from sailctl.core.bench.questions import questions
from sailctl.core.bench.suites import Benchmark, load_suite
from sailctl.core.device import Device, pick
from sailctl.core.engines.batched import BatchedLocal
from sailctl.core.engines.local import LocalEngine, Request
from sailctl.core.model.export import export
from sailctl.core.model.weights import init_model, load_model, save_weights
from sailctl.core.records import Turn
from sailctl.core.schema.load import load_recipe

ROOT = Path(__file__).resolve().parents[1]
# A choice, a short answer, an open one, yes or no; and how many questions are asked about a picture there.
DATASETS = {"MMStar": 1, "ChartQA_TEST": 2, "MMVet": 1, "POPE": 6}
SIDES = ((1, 1), (2, 1), (1, 2), (2, 2), (3, 1))  # of a picture, in tiles; `--small` takes the first three


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=200, help="of each of the four tables")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="1024 in the suites")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of both sides")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scorer-python", type=Path, default=ROOT / ".venv-scorer" / "bin" / "python")
    parser.add_argument("--small", action="store_true", help="pictures of one to three tiles instead of five")
    parser.add_argument("--plain", action="store_true", help="do without VLMEvalKit")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    options = parser.parse_args()
    if not options.plain and not options.scorer_python.exists():
        print(f"{options.scorer_python} is not there: the outline of VLMEvalKit's loop instead", file=sys.stderr)
        options.plain = True
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="sailctl-throughput-") as folder:
        result = measure(options, Path(folder))
    print(json.dumps(result) if options.json else describe(result))
    if result["identical"] != result["questions"]:
        sys.exit(f"only {result['identical']} of {result['questions']} predictions are identical")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both sides over the same tables."""
    place = pick(options.device)
    recipe, _ = load_recipe("tiny", "alignment")
    torch.manual_seed(0)
    made = init_model(recipe.model, folder)
    save_weights(made.model, made.tokenizer, folder / "own")
    export(folder / "own", "transformers", folder / "stock")
    suite = load_suite("sail18")
    benchmarks = [dataclasses.replace(suite[name], max_new_tokens=options.max_new_tokens) for name in DATASETS]
    tile, sides = made.config.vision.image_size, SIDES[:3] if options.small else SIDES
    for number, benchmark in enumerate(benchmarks):
        write_table(folder / "tables" / f"{benchmark.dataset}.tsv", benchmark, options.questions, tile, number, sides)

    theirs = one_at_a_time(options, folder, benchmarks, place)
    ours = batched(options, folder, benchmarks, place)
    total = sum(len(answers) for answers in ours["answers"].values())
    identical = sum(
        ours["answers"][name][index] == text
        for name, answers in theirs["answers"].items()
        for index, text in answers.items()
    )
    sides = {"one_at_a_time": theirs, "batched": ours}
    return {
        "loop": "the outline of VLMEvalKit's loop" if options.plain else "VLMEvalKit's infer_data_job",
        "questions": total,
        "identical": identical,
        "pictures": ours["pictures"],
        "parameters": sum(parameter.numel() for parameter in made.model.parameters()),
        "shapes": ours["shapes"],
        "device": place.kind,
        "threads": options.threads,
        "batch_size": options.batch_size,
        "max_new_tokens": options.max_new_tokens,
        "rounds": options.rounds,
        "seconds": {name: {clock: side[clock] for clock in ("wall", "processor")} for name, side in sides.items()},
        "questions_per_s": {name: total / median(side["wall"]) for name, side in sides.items()},
        "ratio": {
            clock: median(theirs[clock]) / median(ours[clock]) for clock in ("wall", "processor")
        },
    }  # fmt: skip


def one_at_a_time(
    options: argparse.Namespace, folder: Path, benchmarks: list[Benchmark], place: Device
) -> dict[str, Any]:
    """Stock transformers in VLMEvalKit's loop, in the interpreter that has it."""
    job = {
        "tables": str(folder / "tables"),
        "model": str(folder / "stock"),
        "device": str(place.torch),
        "threads": options.threads,
        "rounds": options.rounds,
        "plain": options.plain,
        "benchmarks": {benchmark.dataset: dataclasses.asdict(benchmark) for benchmark in benchmarks},
        "result": str(folder / "result.json"),
    }
    (folder / "job.json").write_text(json.dumps(job))
    python = sys.executable if options.plain else str(options.scorer_python)
    paths = os.pathsep.join((str(ROOT), str(ROOT / "benchmarks")))
    done = subprocess.run(
        [python, str(ROOT / "benchmarks" / "kit_loop.py"), str(folder / "job.json")],
        env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"the one-at-a-time side failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def batched(options: argparse.Namespace, folder: Path, benchmarks: list[Benchmark], place: Device) -> dict[str, Any]:
    """Our engine, as `sailctl bench` uses it: tables, journal and all."""
    loaded = load_model(folder / "own", device=place, dtype=torch.float32)
    engine = LocalEngine(loaded.model, loaded.tokenizer, place, batch_size=options.batch_size)
    shapes = look(engine, benchmarks, folder / "tables")  # warms up, too
    wall, processor, answers, pictures = [], [], {}, 0
    for number in range(options.rounds):
        began, used = time.perf_counter(), time.process_time()
        sets = [questions(benchmark, folder / "tables") for benchmark in benchmarks]
        with Store(folder / f"out{number}") as store:
            found = answer_all(BatchedLocal(engine, "tiny", accept_all=True), sets, store)
        wall.append(time.perf_counter() - began)
        processor.append(time.process_time() - used)
        answers = {one.benchmark.dataset: dict(found[one.benchmark.name].texts) for one in sets}
        pictures = len({group for one in sets for group in one.groups})
    return {"wall": wall, "processor": processor, "answers": answers, "shapes": shapes, "pictures": pictures}


def look(engine: LocalEngine, benchmarks: list[Benchmark], tables: Path) -> dict[str, list[float]]:
    """Least, mean and most of what questions and answers measure."""
    requests = [
        Request(
            (Turn("user", question.prompt),),
            question.images,
            benchmark.max_new_tokens,
            max_tiles=benchmark.max_tiles,
        )
        for benchmark in benchmarks
        for question in questions(benchmark, tables)
    ]
    completions = engine.generate(requests)
    measured = {
        "tiles": [one.num_tiles for one in completions],
        "prompt_tokens": [len(one.prompt_ids) for one in completions],
        "answer_tokens": [len(one.token_ids) for one in completions],
    }
    return {name: [min(values), mean(values), max(values)] for name, values in measured.items()}


def write_table(
    path: Path, benchmark: Benchmark, number: int, tile: int, seed: int, sides: tuple[tuple[int, int], ...] = SIDES
) -> None:
    """A table of VLMEvalKit's form: questions of differing length about pictures of differing shape."""
    drawn = np.random.default_rng(seed)
    text = "What is the colour of that small thing to the left of the others in this picture"
    words = text.split()
    rows: list[dict[str, Any]] = []
    buffer = io.BytesIO()
    for index in range(number):
        if index % DATASETS[benchmark.name] == 0:
            columns, lines = sides[drawn.integers(len(sides))]
            squares = drawn.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            picture = Image.fromarray(squares).resize((tile * columns, tile * lines), Image.Resampling.NEAREST)
            picture.save(buffer, format="PNG")
        question = " ".join(words[: drawn.integers(4, len(words) + 1)]) + f", number {index}?"
        row = {"index": index, "image": base64.b64encode(buffer.getvalue()).decode(), "question": question}
        if benchmark.prompt == "mcq":
            row |= dict(zip("ABCD", ("red", "green", "blue", "something else"), strict=True))
        rows.append({**row, "answer": "Yes" if benchmark.metric == "f1" else "A", "category": "any"})
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def describe(result: dict[str, Any]) -> str:
    """The figures for people."""
    shapes = ", ".join(
        f"{name.replace('_', ' ')} {low:g} to {high:g} (mean {middle:.1f})"
        for name, (low, middle, high) in result["shapes"].items()
    )
    rates = result["questions_per_s"]
    return "\n".join(
        (
            f"{result['questions']} questions of {', '.join(DATASETS)} about {result['pictures']} pictures: {shapes}; "
            f"at most {result['max_new_tokens']} new tokens",
            f"model: {result['parameters'] / 1e6:.2f}M parameters, float32, {result['device']}, "
            f"{result['threads']} thread(s), medians of {result['rounds']} rounds",
            f"one at a time ({result['loop']}, stock transformers): {rates['one_at_a_time']:.1f} questions/s",
            f"batched (sailctl, batches of {result['batch_size']}): {rates['batched']:.1f} questions/s",
            f"identical predictions: {result['identical']} of {result['questions']}",
            f"ratio: {result['ratio']['wall']:.1f} (wall), {result['ratio']['processor']:.1f} (processor time)",
        )
    )


if __name__ == "__main__":
    main()
