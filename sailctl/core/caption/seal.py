"""The end of a unit: its journal becomes sidecars, rejects, quarantine and a manifest, and is removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sailctl.core.caption import sidecar
from sailctl.core.caption.job import QUARANTINE, REJECTS
from sailctl.core.caption.ledger import Ledger, now
from sailctl.core.files import base_name, fsync_dir, storage_errors
from sailctl.core.records import CaptionRow, Turn


@dataclass
class _Survey:
    """What a unit came to, but for the captions: small, whatever the captions hold."""

    rejects: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    spent: Counter[str] = field(default_factory=Counter)  # each question once, however many rows share it


def seal(ledger: Ledger) -> dict[str, Any]:
    """Seal a complete unit; returns the manifest's facts. Killed anywhere in it, the next run does it again.

    Raises StorageError; the journal then still holds everything.
    """
    ledger.sync()
    job, unit, out = ledger.job, ledger.unit, ledger.job.out
    survey = _survey(ledger)
    outcomes = {task: Counter[str]() for task in job.tasks}
    lengths = {task: Counter[int]() for task in job.tasks}
    sealed = [ledger.sidecar(task) for task in job.tasks]
    lists = [out / kind / f"{unit.name}.jsonl" for kind in (REJECTS, QUARANTINE)]
    if ledger.resumed:
        sidecar.clear_leftovers([*sealed, *lists, sidecar.manifest_path(out, unit.name)])
    about = {"sailctl.shard": base_name(unit.shard.path), "sailctl.model": job.model}
    for task, path in zip(job.tasks, sealed, strict=True):
        captions = _captions(ledger, task, lengths[task])
        outcomes[task]["captioned"] = sidecar.write_sidecar(path, captions, about)
    for path, rows in zip(lists, (survey.rejects, survey.failures), strict=True):
        with storage_errors(path):
            if sidecar.write_lines(path, rows):
                sealed.append(path)
    for row in survey.failures:
        outcomes[row["task"]]["quarantined"] += 1
    facts = {
        "name": unit.shard.name,
        "shard": base_name(unit.shard.path),
        "source": unit.shard.source,
        "shard_bytes": unit.shard.num_bytes,
        "digest": ledger.digest,
        "part": unit.part,
        "parts": unit.parts,
        "rows": [unit.start, unit.stop],
        **{key: value for key, value in job.pinned().items() if key in ("model", "lang", "prompts", "parameters")},
        "outcomes": {task: dict(counts) for task, counts in outcomes.items()},
        "rejected": len({row["row"] for row in survey.rejects if not row["task"]}),
        "reasons": {
            "rejected": dict(Counter(row["reason"] for row in survey.rejects)),
            "quarantined": dict(Counter(row["reason"] for row in survey.failures)),
        },
        "lengths": {task: dict(sorted(counts.items())) for task, counts in lengths.items()},
        "tokens": {"prompt": survey.spent["prompt"], "completion": survey.spent["completion"]},
        "requests": survey.spent["requests"],
        "created": now(),
    }
    with storage_errors(out):
        sidecar.write_manifest(out, unit.name, sealed, facts)
        ledger.journal.remove()
        fsync_dir(ledger.journal.path.parent)
        _drop_pictures(ledger, {name for row in survey.failures for name in row["images"]})
    return facts


def _survey(ledger: Ledger) -> _Survey:
    shard, found, counted = ledger.unit.shard, _Survey(), set[str]()
    for row in range(ledger.unit.start, ledger.unit.stop):
        read = ledger.journal.read(f"r{row}")
        where = {"source": shard.source, "key": read["key"], "shard": base_name(shard.path), "row": row}
        found.rejects += [{**where, **refused} for refused in read["refused"]]
        for name in read["asks"].values():
            said = ledger.journal.read(name)
            if "reason" in said:
                replay = f"{ledger.job.replay} --only {read['id']}"
                found.failures.append({**where, "id": read["id"], **said, "question": name, "replay": replay})
            if name not in counted:
                counted.add(name)
                tokens = {"prompt": said.get("prompt_tokens", 0), "completion": said.get("completion_tokens", 0)}
                found.spent.update(tokens, requests=said["attempts"])
    return found


def _captions(ledger: Ledger, task: str, lengths: Counter[int]) -> Iterator[tuple[CaptionRow, str]]:
    """The rows of a task in the order of the data shard, each with its question's name; counts their lengths."""
    job, unit = ledger.job, ledger.unit
    for row in range(unit.start, unit.stop):
        read = ledger.journal.read(f"r{row}")
        name = read["asks"].get(task)
        if name is None or "reason" in (said := ledger.journal.read(name)):
            continue
        turns = said["turns"]
        lengths[length(said["text"], job.lang)] += 1
        caption = CaptionRow(
            id=read["id"],
            shard=base_name(unit.shard.path),
            row=row,
            key=read["key"],
            task=task,
            lang=job.lang,
            text=said["text"],
            turns=None if turns is None else tuple(Turn(turn["role"], turn["content"]) for turn in turns),
            model=job.model,
            prompt_id=said["prompt_id"],
            finish=said["finish"],
            prompt_tokens=said["prompt_tokens"],
            completion_tokens=said["completion_tokens"],
            created=said["created"],
        )
        yield caption, name


def _drop_pictures(ledger: Ledger, kept: set[str]) -> None:
    """Remove the pictures of questions that were answered after all."""
    if ledger.pictures.is_dir():
        for path in ledger.pictures.iterdir():
            if str(path.relative_to(ledger.job.out)) not in kept:
                path.unlink(missing_ok=True)
        if not kept:
            ledger.pictures.rmdir()


def length(text: str, lang: str) -> int:
    """Words of an English text, characters of a Chinese one."""
    return len(text.split()) if lang == "en" else len("".join(text.split()))
