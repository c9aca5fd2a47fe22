"""What a job has come to, added up from its manifests: samples, lengths, rejects, tokens, money, the next command."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sailctl.core.caption.display import percent
from sailctl.core.caption.job import LOCK, QUARANTINE, REJECTS, Job
from sailctl.core.caption.sidecar import all_manifests
from sailctl.core.caption.spend import spent, tokens
from sailctl.core.engines.choice import EngineChoice
from sailctl.core.files import atomic_write, storage_errors, write_json
from sailctl.core.journal import by_turns

REPORT = "report.json"
CUT_SHARE = 0.1  # of the answers, from which on --max-tokens is worth a word


def write_report(job: Job, engine: EngineChoice, session: dict[str, Any], error: str = "") -> dict[str, Any]:
    """Add up the manifests, gather the reject logs, write `report.json`; returns what is in it.

    Several commands of a job may end at once: they do this one after the other, so the last has it all.
    """
    with storage_errors(job.out):
        job.out.mkdir(parents=True, exist_ok=True)
        with by_turns(job.out / LOCK):
            report = add_up(job, engine)
            report |= {"session": session, "warnings": list(_warnings(job, report, session))}
            report["next"] = next_command(job, report) if report["complete"] and not error else None
            if error:
                report["error"] = error
            _gather(job.out)
            write_json(job.out / REPORT, report)
    return report


def add_up(job: Job, engine: EngineChoice) -> dict[str, Any]:
    """The facts of all sealed units of the job's data together, and what all of its runs have spent."""
    samples = rejected = 0
    sealed: Counter[str] = Counter()
    parts: dict[str, int] = {}
    mine = {shard.name for shard in job.shards}
    reasons = {"rejected": Counter[str](), "quarantined": Counter[str]()}
    outcomes = {task: Counter[str]() for task in job.tasks}
    lengths = {task: Counter[int]() for task in job.tasks}
    for manifest in all_manifests(job.out):
        if (name := manifest["name"]) not in mine:
            continue
        sealed[name] += 1
        parts[name] = manifest["parts"]
        samples += manifest["rows"][1] - manifest["rows"][0]
        rejected += manifest["rejected"]
        for kind, counts in reasons.items():
            counts.update(manifest["reasons"][kind])
        for task in job.tasks:
            outcomes[task].update(manifest["outcomes"][task])
            lengths[task].update({int(length): count for length, count in manifest["lengths"][task].items()})
    whole = sum(count // parts[name] for name, count in sealed.items())
    used = spent(job.out)
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
        "tokens": {"prompt": used["prompt"], "completion": used["completion"]},
        "tokens_unreported": {
            "prompt": used["unreported_prompt"],
            "completion": used["unreported_completion"],
            "answers": used["uncounted"],
        },
        "requests": used["requests"],
        "cost": round(engine.cost(*tokens(used)), 6),
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


def next_command(job: Job, report: dict[str, Any]) -> str | None:
    """Training on the captions of the first task that has any, each source with its own; None without captions."""
    task = next((task for task in job.tasks if report["tasks"][task]["captioned"]), None)
    if task is None:
        return None
    words = ["sailctl", "pretrain", "--stage", "alignment"]
    more = []
    sources = dict.fromkeys((shard.data, shard.folder, shard.image_root) for shard in job.shards)
    for number, (data, folder, image_root) in enumerate(sources):
        words += ["--data", data]
        more += ["--set", f"data.sources.{number}.captions={job.out / job.folder(task) / folder}"]
        if image_root is not None:
            more += ["--set", f"data.sources.{number}.image_root={image_root}"]
    return shlex.join([*words, *more])


def _warnings(job: Job, report: dict[str, Any], session: dict[str, Any]) -> Iterator[str]:
    """What the user should know although nothing failed."""
    for task, told in report["tasks"].items():
        if told["quarantined"] and not told["captioned"]:
            yield f"{task}: none of {told['quarantined']:,} questions got an answer of use; see {job.out / QUARANTINE}"
    asked = sum(told["captioned"] + told["quarantined"] for told in report["tasks"].values())
    if (cut := report["quarantined"].get("cut", 0)) >= max(1, CUT_SHARE * asked):
        yield (
            f"{cut:,} of {asked:,} answers were not at their end after --max-tokens {job.parameters.max_tokens}; "
            "give more, with another --out"
        )
    if uncounted := report["tokens_unreported"]["answers"]:
        cost = ", and with them the cost" if report["cost"] else ""
        yield f"{uncounted:,} answers came without a count of their tokens (usage); these are estimated{cost}"
    for name, endpoint in _endpoints(session).items():
        if not endpoint["ok"] and endpoint["errors"]:
            yield f"{name} gave no answer of use ({_counts(endpoint['errors'])})"


def _endpoints(session: dict[str, Any]) -> dict[str, Any]:
    return dict(session.get("engine", {}).get("endpoints") or {})


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda one: -one[1]))


def _gather(out: Path) -> None:
    """The units' reject logs as one file."""
    with atomic_write(out / f"{REJECTS}.jsonl") as target:
        for path in sorted((out / REJECTS).rglob("*.jsonl")):
            target.write(path.read_bytes())


def describe(report: dict[str, Any]) -> Iterator[str]:
    """The report in lines for people."""
    shards, used, session = report["shards"], report["tokens"], report["session"]
    yield f"{report['samples']:,} samples of {shards['sealed']:,}/{shards['all']:,} data shards, by {report['model']}"
    for task, told in report["tasks"].items():
        size = told["lengths"]
        line = f"{task}: {told['captioned']:,} captioned, {told['quarantined']:,} quarantined"
        if size["mean"] is not None:
            line += f"; {size['unit']}: mean {size['mean']:g}, median {size['median']}, p95 {size['p95']}"
        yield f"{line}; {told['sidecars']}"
    for name, counts in (("rejected", report["rejected"]["reasons"]), ("quarantined", report["quarantined"])):
        if counts:
            yield f"{name}: {_counts(counts)}"
    cost = f", cost {report['cost']:,.4f}" if report["cost"] else ""
    unreported = report["tokens_unreported"]["prompt"] + report["tokens_unreported"]["completion"]
    more = f", about {unreported:,} more that no server reported" if unreported else ""
    yield (
        f"{used['prompt']:,} prompt and {used['completion']:,} completion tokens{more}, {report['requests']:,} "
        f"requests{cost}, over all runs"
    )
    endpoints = _endpoints(session)
    if len(endpoints) > 1 or any(endpoint["errors"] for endpoint in endpoints.values()):
        for name, told in endpoints.items():
            failed = sum(told["errors"].values())
            wrong = f", {failed:,} errors ({percent(failed / (failed + told['ok']))})" if failed else ""
            yield f"{name}: {told['ok']:,} answers{wrong}"
    if not session.get("samples") and not session.get("requests"):
        yield "this run: nothing was left to do"
    elif session.get("seconds"):
        limit = _limit(session)
        by = f"; the limit was {limit}" if limit else ""
        yield f"this run: {session['samples']:,} samples in {session['seconds']:,.1f} s, {session['per_s']:,.1f}/s{by}"
    if report["quarantined"]:
        yield f"given up: {report['out']}/{QUARANTINE}/; to ask these once more: {session.get('retry', '')}"
    for line in report["warnings"]:
        yield f"warning: {line}"


def _limit(session: dict[str, Any]) -> str:
    limit = str(session.get("limit_by", "unknown"))
    options = session.get("options", {})
    if limit in options:
        return f"{limit} {options[limit]:g}"
    return "" if limit == "unknown" else f"the {limit}"


def describe_plan(plan: dict[str, Any]) -> Iterator[str]:
    """The plan in lines for people, the prompts as they are below."""
    told = {name: value for name, value in plan.items() if name != "prompts"}
    for name, value in told.items():
        words = ", ".join(map(str, value)) if isinstance(value, list) else f"{value:,}" if type(value) is int else value
        yield f"{name:<{max(map(len, told))}}  {words}".rstrip()
    for task, text in plan["prompts"].items():
        yield f"\n{task}:\n{text}"
