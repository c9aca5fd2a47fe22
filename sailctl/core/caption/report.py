"""What a job has come to, added up from its manifests: samples, lengths, rejects, tokens, money, the next command."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sailctl.core.caption.engine import EngineChoice
from sailctl.core.caption.job import LOCK, QUARANTINE, REJECTS, Job
from sailctl.core.caption.sidecar import all_manifests
from sailctl.core.files import atomic_write, storage_errors, write_json
from sailctl.core.journal import by_turns

REPORT = "report.json"


def write_report(job: Job, engine: EngineChoice, session: dict[str, Any], data: str) -> dict[str, Any]:
    """Add up the manifests, gather the reject logs, write `report.json`; returns what is in it.

    Several commands of a job may end at once: they do this one after the other, so the last has it all.
    """
    with storage_errors(job.out):
        job.out.mkdir(parents=True, exist_ok=True)
        with by_turns(job.out / LOCK):
            report = add_up(job, engine)
            report |= {"session": session, "next": next_command(job, report, data)}
            _gather(job.out)
            write_json(job.out / REPORT, report)
    return report


def add_up(job: Job, engine: EngineChoice) -> dict[str, Any]:
    """The facts of all sealed units together."""
    samples = rejected = requests = 0
    sealed: Counter[str] = Counter()
    parts: dict[str, int] = {}
    reasons = {"rejected": Counter[str](), "quarantined": Counter[str]()}
    outcomes = {task: Counter[str]() for task in job.tasks}
    lengths = {task: Counter[int]() for task in job.tasks}
    tokens: Counter[str] = Counter(prompt=0, completion=0)
    for manifest in all_manifests(job.out):
        name = f"{manifest['source']}/{manifest['shard']}/{manifest['shard_bytes']}/{manifest['digest']}"
        sealed[name] += 1
        parts[name] = manifest["parts"]
        samples += manifest["rows"][1] - manifest["rows"][0]
        rejected += manifest["rejected"]
        requests += manifest["requests"]
        tokens.update(manifest["tokens"])
        for kind, counts in reasons.items():
            counts.update(manifest["reasons"][kind])
        for task in job.tasks:
            outcomes[task].update(manifest["outcomes"][task])
            lengths[task].update({int(length): count for length, count in manifest["lengths"][task].items()})
    whole = sum(count // parts[name] for name, count in sealed.items())
    return {
        "out": str(job.out),
        "complete": whole >= len(job.shards),
        "shards": {"sealed": whole, "all": len(job.shards)},
        "samples": samples,
        "model": job.model,
        "tasks": {
            task: {
                "sidecars": str(job.out / job.folder(task)),
                "captioned": outcomes[task]["captioned"],
                "quarantined": outcomes[task]["quarantined"],
                "lengths": {"unit": "words" if job.lang == "en" else "characters", **quantiles(lengths[task])},
            }
            for task in job.tasks
        },
        "rejected": {"samples": rejected, "reasons": dict(reasons["rejected"].most_common())},
        "quarantined": dict(reasons["quarantined"].most_common()),
        "tokens": dict(tokens),
        "requests": requests,
        "cost": round(engine.cost(tokens["prompt"], tokens["completion"]), 6),
    }


def quantiles(lengths: Counter[int]) -> dict[str, float | int | None]:
    """Mean, median and 95th percentile (the least length that so many are not above) of counted lengths."""
    total = lengths.total()
    if not total:
        return {"mean": None, "median": None, "p95": None}
    found: dict[str, float | int | None] = {}
    found["mean"] = round(sum(length * count for length, count in lengths.items()) / total, 2)
    for name, share in (("median", 0.5), ("p95", 0.95)):
        below = 0
        for length, count in sorted(lengths.items()):
            below += count
            if below >= share * total:
                found[name] = length
                break
    return found


def next_command(job: Job, report: dict[str, Any], data: str) -> str:
    """Training on the captions of the first task that has any."""
    task = next((task for task in job.tasks if report["tasks"][task]["captioned"]), job.tasks[0])
    captions = f"data.sources.0.captions={job.out / job.folder(task)}"
    return shlex.join(["sailctl", "pretrain", "--stage", "alignment", "--data", data, "--set", captions])


def _gather(out: Path) -> None:
    """The units' reject logs as one file."""
    with atomic_write(out / f"{REJECTS}.jsonl") as target:
        for path in sorted((out / REJECTS).glob("*.jsonl")):
            target.write(path.read_bytes())


def describe(report: dict[str, Any]) -> Iterator[str]:
    """The report in lines for people."""
    shards, tokens = report["shards"], report["tokens"]
    yield f"{report['samples']:,} samples of {shards['sealed']:,}/{shards['all']:,} data shards, by {report['model']}"
    for task, told in report["tasks"].items():
        size = told["lengths"]
        line = f"{task}: {told['captioned']:,} captioned, {told['quarantined']:,} quarantined"
        if size["mean"] is not None:
            line += f"; {size['unit']}: mean {size['mean']:g}, median {size['median']}, p95 {size['p95']}"
        yield f"{line}; {told['sidecars']}"
    for name, counts in (("rejected", report["rejected"]["reasons"]), ("quarantined", report["quarantined"])):
        if counts:
            yield f"{name}: {', '.join(f'{reason} {count:,}' for reason, count in counts.items())}"
    used = f"{tokens['prompt']:,} prompt and {tokens['completion']:,} completion tokens"
    cost = f", cost {report['cost']:,.4f}" if report["cost"] else ""
    yield f"{used}, {report['requests']:,} requests{cost}"
    session = report["session"]
    if session.get("seconds"):
        limit = session.get("limit_by")
        by = f"; the limit was the {limit}" if limit and limit != "unknown" else ""
        yield f"this run: {session['samples']:,} samples in {session['seconds']:,.1f} s, {session['per_s']:,.1f}/s{by}"
    if report["quarantined"]:
        yield f"given up: {report['out']}/{QUARANTINE}/; to ask these once more: {session.get('retry', '')}"
