"""What the answers add up to: progress, agreement on what two people judged, means, and the file of opinions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sailctl.core.curate.annotate.items import Item
from sailctl.core.curate.annotate.store import CANDIDATE, PREFERENCE, REFERENCE, SKIP, Answers, opinions
from sailctl.core.curate.judge import agreement
from sailctl.core.curate.judge.opinions import write_opinions


def progress(items: Sequence[Item], answers: dict[str, Answers]) -> list[dict[str, Any]]:
    """Of every annotator: items that are theirs, done, and of these skipped."""
    return [
        {
            "name": name,
            "items": len(said.state),
            "done": said.done,
            "skipped": sum(SKIP in values for values in said.state.values()),
        }
        for name, said in answers.items()
    ]


def agreed(items: Sequence[Item], answers: dict[str, Answers]) -> dict[str, dict[str, Any]]:
    """Criterion → share of equal answers, Cohen's κ and its quadratically weighted kin, of items two people completed.

    Where both captions of a pair are scored, both count; intervals draw whole samples, both captions at once.
    """
    left: dict[str, list[float]] = {}
    right: dict[str, list[float]] = {}
    about: dict[str, list[str]] = {}
    for item in items:
        if len(item.annotators) < 2:
            continue
        # By name, whoever had it first: κ of two people is then Cohen's, sides and all, and that of `curate judge`.
        first, second = (answers[name] for name in sorted(answers) if name in item.annotators)
        if first.is_complete(item.number) and second.is_complete(item.number):
            for field in first.fields:
                criterion = field.rpartition(".")[2]
                left.setdefault(criterion, []).append(first.state[item.number][field])
                right.setdefault(criterion, []).append(second.state[item.number][field])
                about.setdefault(criterion, []).append(item.id)
    measures = {
        "percent": agreement.percent_agreement,
        "kappa": agreement.kappa,
        "weighted": agreement.quadratic_kappa,
    }
    return {
        criterion: {
            name: measure(left[criterion], right[criterion], about[criterion]).as_json()
            for name, measure in measures.items()
        }
        for criterion in left
    }


def means(items: Sequence[Item], answers: dict[str, Answers]) -> dict[str, dict[str, Any]]:
    """Field → mean over items with its interval; of an item that two people judged, theirs is averaged first."""
    values: dict[str, list[float]] = {}
    for item in items:
        said = [answers[name].state[item.number] for name in item.annotators if answers[name].is_complete(item.number)]
        for field in answers[item.annotators[0]].fields if said else ():
            values.setdefault(field, []).append(sum(one[field] for one in said) / len(said))
    return {field: agreement.mean(found).as_json() for field, found in values.items()}


def preferences(items: Sequence[Item], answers: dict[str, Answers]) -> dict[str, int] | None:
    """How often the candidate was good, the same or bad beside the reference; None where nothing is compared."""
    counts: Counter[int] = Counter()
    asked = False
    for item in items:
        for name in item.annotators:
            asked |= PREFERENCE in answers[name].fields
            if PREFERENCE in answers[name].fields and answers[name].is_complete(item.number):
                counts[answers[name].state[item.number][PREFERENCE]] += 1
    return {"good": counts[1], "same": counts[0], "bad": counts[-1]} if asked else None


def results(task: str, items: Sequence[Item], answers: dict[str, Answers], path: Path) -> dict[str, Any]:
    """Write the opinions at a path, and tell what they are."""
    rows = write_opinions(path, opinions(task, items, answers))
    people = progress(items, answers)
    return {
        "task": task,
        "items": len(items),
        "doubled": sum(len(item.annotators) > 1 for item in items),
        "annotators": people,
        "complete": all(one["done"] == one["items"] for one in people),
        "agreement": agreed(items, answers),
        "means": means(items, answers),
        "preferences": preferences(items, answers),
        "opinions": str(path),
        "rows": rows,
    }


Tables = list[tuple[str, list[str], list[list[str]]]]


def describe(result: dict[str, Any]) -> tuple[Tables, list[str]]:
    """Tables and lines for people."""
    people = [[one["name"], str(one["items"]), str(one["done"]), str(one["skipped"])] for one in result["annotators"]]
    tables: Tables = [(f"{result['task']}: {result['items']} items", ["annotator", "items", "done", "skipped"], people)]
    if result["means"]:
        rows = [
            [_named(field), f"{one['value']:.2f}", _interval(one["ci95"]), str(one["n"])]
            for field, one in result["means"].items()
        ]
        tables.append(("means", ["criterion", "mean", "95% interval", "items"], rows))
    if result["agreement"]:
        rows = [
            [name, str(one["percent"]["n"]), f"{100 * one['percent']['value']:.1f}%",
             _told(one["kappa"]), _told(one["weighted"])]
            for name, one in result["agreement"].items()
        ]  # fmt: skip
        tables.append(("agreement", ["criterion", "pairs", "equal", "kappa", "weighted kappa"], rows))
    lines = []
    if result["preferences"] and (total := sum(result["preferences"].values())):
        shares = ", ".join(f"{name} {count} ({count / total:.0%})" for name, count in result["preferences"].items())
        lines.append(f"the candidate beside the reference: {shares}")
    if result["doubled"] and not result["agreement"]:
        lines.append(f"agreement: none yet; {result['doubled']} items are for two, none is complete by both")
    lines.append(f"{result['rows']:,} opinions: {result['opinions']}")
    return tables, lines


def _named(field: str) -> str:
    side, _, criterion = field.rpartition(".")
    return f"{criterion} ({side})" if side in (CANDIDATE, REFERENCE) else criterion


def _interval(ci95: list[float] | None) -> str:
    return "-" if ci95 is None else f"{ci95[0]:.2f} to {ci95[1]:.2f}"


def _told(one: dict[str, Any]) -> str:
    if one["value"] is None:
        return "-"
    return f"{one['value']:.2f}" + ("" if one["ci95"] is None else f" ({_interval(one['ci95'])})")
