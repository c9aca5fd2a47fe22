"""Scoring a trial: any suite of `sailctl bench`, one of its numbers, and the items behind that number."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sailctl.core.bench.request import SYNTH, BenchRequest
from sailctl.core.bench.suites import Suite, load_suite
from sailctl.core.errors import DataError, UsageError
from sailctl.core.files import read_jsonl
from sailctl.core.reporter import Quiet
from sailctl.core.valuation.ledger import digest
from sailctl.core.valuation.seam import Outcome

OVERALL = "overall"
SAME = 1e-6  # points; a score and the weighted sum of its items must not differ by more


@dataclass(frozen=True)
class SuiteSpec:
    """Which suite, which of its numbers (a benchmark or an average), how many questions of each benchmark.

    `version` hashes the questions: scores of different versions are never compared.
    """

    name: str
    number: str
    questions: int | None
    seed: int
    tables: Path | None
    scorer_python: Path | None
    version: str

    def describe(self) -> dict[str, Any]:
        """For records."""
        about = {"name": self.name, "score": self.number, "questions": self.questions}
        return about | {"seed": self.seed, "version": self.version}


def find_suite(
    name: str,
    number: str | None,
    questions: int | None,
    seed: int,
    tables: Path | None,
    scorer_python: Path | None,
) -> SuiteSpec:
    """A suite with its version. Raises UsageError for a number it does not have and tables that are missing."""
    suite = load_suite(name)
    known = _numbers(suite)
    chosen = number or (OVERALL if name == SYNTH else next(iter(suite.aggregates), known[0]))
    if chosen not in known:
        raise UsageError(f"--score {chosen}: suite {name} has {', '.join(known)}")
    if name == SYNTH:
        version = _synth_version(questions or 100, seed)
    else:
        version = _tables_version(name, tables, questions, seed)
    return SuiteSpec(name, chosen, questions, seed, tables, scorer_python, digest([name, chosen, version]))


def measure(spec: SuiteSpec, checkpoint: Path, out: Path, device: str) -> Outcome:
    """Bench a checkpoint in `out` (answers that are there are not asked again) and return its number with items."""
    request = BenchRequest(
        suite=spec.name,
        checkpoint=str(checkpoint),
        data=spec.tables,
        out=out,
        samples=spec.questions,
        seed=spec.seed,
        baselines=spec.name != SYNTH,  # nobody looks at them
        scorer_python=spec.scorer_python,
        device=device,
    )
    shown = request.perform(Quiet())
    if shown.failure is not None:
        raise shown.failure
    score, n = _number(spec, shown.json)
    items, weights, ids = _items(spec, read_jsonl(out / "samples.jsonl"))
    if items is None or weights is None or abs(float(items @ weights) - score) > SAME:
        return Outcome(score, n)  # a headline that is no mean over its questions
    return Outcome(score, n, items, (ids,), weights)


def _numbers(suite: Suite) -> list[str]:
    return [*suite.aggregates, *(one.name for one in suite.benchmarks)]


def _number(spec: SuiteSpec, results: Mapping[str, Any]) -> tuple[float, int]:
    if spec.name == SYNTH:
        entry = results["overall"] if spec.number == OVERALL else results["tasks"][spec.number]
    else:
        entry = results["averages"].get(spec.number) or results["benchmarks"].get(spec.number)
    if entry is None or entry["score"] is None:
        raise DataError(f"{spec.name}: {spec.number} has no score: a benchmark of it could not be scored")
    return 100 * float(entry["score"]), int(entry["n"] or 0)


def _items(spec: SuiteSpec, rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray | None, np.ndarray | None, str]:
    """Points of every question, their weights in the number, and a hash of which questions they are."""
    shares = _shares(load_suite(spec.name), spec.number)
    by_name: dict[str, list[Mapping[str, Any]]] = {name: [] for name in shares}
    for row in rows:
        name = row["benchmark"] if "benchmark" in row else row["task"]
        if name in by_name:
            by_name[name].append(row)
    if not all(by_name.values()):
        return None, None, ""
    items, weights, ids = [], [], hashlib.blake2b(digest_size=16)
    for name, members in by_name.items():
        for row in sorted(members, key=lambda row: str(row["index"])):
            items.append(100 * float(row["score"]))
            weights.append(shares[name] / len(members))
            ids.update(f"{name} {row['index']}\n".encode())
    return np.array(items), np.array(weights), ids.hexdigest()


def _shares(suite: Suite, number: str) -> dict[str, float]:
    """Weights, summing to 1, of the benchmarks in a number."""
    if number not in suite.aggregates:
        return {number: 1.0}
    definition = suite.aggregates[number]
    total, shares = sum(definition.weights), dict[str, float]()
    for member, weight in zip(definition.members, definition.weights, strict=True):
        for name, share in _shares(suite, member).items():
            shares[name] = shares.get(name, 0.0) + share * weight / total
    return shares


def _synth_version(questions: int, seed: int) -> str:
    from sailctl.core.bench.suite_synth import TASKS, load_items

    found = hashlib.blake2b(digest_size=16)
    for task in TASKS:
        for item in load_items(task, questions, seed):
            found.update(repr((task, item.prompt, item.references, item.options, item.elements)).encode())
            found.update(item.image or b"")
    return found.hexdigest()


def _tables_version(name: str, tables: Path | None, questions: int | None, seed: int) -> str:
    planned = BenchRequest(suite=name, checkpoint=".", data=tables, samples=questions, seed=seed).perform(
        Quiet(), dry_run=True
    )
    found = hashlib.blake2b(repr((questions, seed)).encode(), digest_size=16)
    for row in planned.json["benchmarks"]:
        path = Path(row["table"])
        if not row["there"]:
            raise UsageError(f"{row['benchmark']}: its table {path} is not there; see sailctl bench --suite {name}")
        found.update(repr((row["benchmark"], row["metric"], row["prompt"], row["max_new_tokens"])).encode())
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                with open(file, "rb") as handle:
                    found.update(hashlib.file_digest(handle, "blake2b").digest())
    return found.hexdigest()
