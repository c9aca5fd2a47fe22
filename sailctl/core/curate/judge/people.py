"""How far a model agrees with people, people with one another, and a person with themselves: criterion by criterion.

Opinions meet where task, criterion and item are equal. Beside the criteria stands "quality" of captions: where two
judges were asked on different criteria their marks can still be ranked, so it has a Spearman's rho and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from sailctl.core.curate.judge import agreement
from sailctl.core.curate.judge.opinions import MODEL, PERSON, SCALES
from sailctl.core.curate.judge.tasks import both_orders

QUALITY = "quality"
WITH_PEOPLE, AMONG_PEOPLE, WITH_SELF = "model and people", "people among themselves", "a person again"
Values = dict[str, dict[str, float]]  # item → judge → value


def compare(opinions: Any, people: Any) -> list[dict[str, Any]]:
    """Agreement for every pair of kinds of judges and every criterion both were asked on, as JSON.

    `opinions` are the model's, `people` those of persons, tables as `read_opinions` gives them. Of several pairs of
    opinions on a sample each counts, as of its two captions, and samples are drawn whole for the intervals: what people
    were shown at once is one piece of evidence. So does `annotate/results.py`.
    """
    rows = [*opinions.to_pylist(), *people.to_pylist()]
    samples = {row["item"]: row["id"] for row in rows}
    found = []
    for task in SCALES:
        mine = [row for row in rows if row["task"] == task]
        first, again = _values(mine)
        for criterion in [*SCALES[task], *([QUALITY] if task == "quality" else [])]:
            values = first.get(criterion, {})
            pairs = {
                WITH_PEOPLE: list(_model_and_people(values)),
                AMONG_PEOPLE: list(_among_people(values)),
                WITH_SELF: list(_again(values, again.get(criterion, {}))),
            }
            for between, paired in pairs.items():
                if paired:
                    found.append(
                        {"task": task, "criterion": criterion, "between": between, **_told(criterion, paired, samples)}
                    )
    return found


def shared_items(opinions: Any, people: Any) -> int:
    """Things that both the model and a person judged."""
    return len(set(opinions["item"].to_pylist()) & set(people["item"].to_pylist()))


def _values(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Values], dict[str, Values]]:
    """By criterion what was said first, and what persons said the second time; a model's two orders are one verdict."""
    first: dict[str, Values] = {}
    again: dict[str, Values] = {}
    orders: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        item, judge, criterion = row["item"], row["judge"], row["criterion"]
        if row["task"] == "gsb" and judge.startswith(MODEL):
            orders.setdefault((item, judge), {})[row["round"]] = row["value"]
        else:
            kind = again if row["round"] else first
            kind.setdefault(criterion, {}).setdefault(item, {}).setdefault(judge, row["value"])
    for (item, judge), said in orders.items():
        if len(said) == 2:
            verdict = both_orders(said[0], said[1])
            first.setdefault("preference", {}).setdefault(item, {})[judge] = verdict
    if quality := _qualities(first):
        first[QUALITY] = quality
    return first, again


def _qualities(values: Mapping[str, Values]) -> Values:
    """One number, 0 to 1, of each judge's marks on a caption: the overall one, else the mean of those given."""
    marks: dict[tuple[str, str], dict[str, float]] = {}
    for criterion, (low, high) in SCALES["quality"].items():
        for item, judges in values.get(criterion, {}).items():
            for judge, value in judges.items():
                marks.setdefault((item, judge), {})[criterion] = (value - low) / (high - low)
    found: Values = {}
    for (item, judge), one in marks.items():
        found.setdefault(item, {})[judge] = one.get("overall", fmean(one.values()))
    return found


def _model_and_people(values: Values) -> Iterator[tuple[str, float, float]]:
    for item, judges in sorted(values.items()):
        models = [value for judge, value in sorted(judges.items()) if judge.startswith(MODEL)]
        persons = [value for judge, value in sorted(judges.items()) if judge.startswith(PERSON)]
        yield from ((item, one, other) for one in models for other in persons)


def _among_people(values: Values) -> Iterator[tuple[str, float, float]]:
    for item, judges in sorted(values.items()):
        persons = [value for judge, value in sorted(judges.items()) if judge.startswith(PERSON)]
        yield from ((item, one, other) for place, one in enumerate(persons) for other in persons[place + 1 :])


def _again(values: Values, again: Values) -> Iterator[tuple[str, float, float]]:
    for item, judges in sorted(again.items()):
        for judge, value in sorted(judges.items()):
            if judge.startswith(PERSON) and judge in values.get(item, {}):
                yield item, values[item][judge], value


def _told(criterion: str, pairs: Sequence[tuple[str, float, float]], samples: Mapping[str, str]) -> dict[str, Any]:
    names = [samples[item] for item, _, _ in pairs]
    left, right = [one for _, one, _ in pairs], [one for _, _, one in pairs]
    statistics = {"spearman": agreement.spearman}
    if criterion != QUALITY:
        statistics |= {
            "kappa": agreement.kappa,
            "quadratic_kappa": agreement.quadratic_kappa,
            "equal": agreement.percent_agreement,
        }
    found = {name: function(left, right, names) for name, function in statistics.items()}
    one = found["spearman"]
    told = {name: {"value": each.value, "ci95": each.as_json()["ci95"]} for name, each in found.items()}
    return {"n": one.n, "items": one.items, **told}
