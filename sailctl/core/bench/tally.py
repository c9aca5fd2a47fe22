"""What each metric adds up over the questions of a benchmark: from rows of samples.jsonl to a `Tally`.

A row has `index`, `score` (0 to 1, one question's worth), `group` (the unit that is judged together, as `ItemScore` has
it: the rotations of a question, the pair of an MME picture, a HallusionBench figure), and where the metric wants them
`category` (of MME and POPE), `answer` (POPE's truth) and `parsed`. Rows of one `cluster` share a picture; without that
key a group is a cluster. The sums are those of `headline.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from sailctl.core.bench.clusters import Tally, ratio
from sailctl.core.bench.headline import MME_TASKS

Row = Mapping[str, Any]
Part = tuple[Hashable, list[float]]  # the cluster of something, and what it adds to the cluster's sums
_Key = TypeVar("_Key", bound=Hashable)

ITEMS = "mean of items"


def tally(metric: str, rows: Sequence[Row], full_marks: float = 100.0) -> tuple[Tally, str]:
    """The sums behind a benchmark's score, and what they make: the metric, or "mean of items" where rows lack a field.

    `full_marks` scales MME, which is a sum over as many tasks as there are.
    """
    if not rows:
        return Tally(np.zeros((0, 2)), 0), metric
    if metric == "circular_accuracy":
        questions = _circular(rows)
        return _added(questions, len(questions)), metric
    if metric == "f1" and all("answer" in row for row in rows):
        return _added([(_cluster(row), _confusion(row)) for row in rows], len(rows), _f1), metric
    if metric == "mme" and all("category" in row for row in rows):
        return _mme(rows, full_marks), metric
    if metric == "hallusion" and all(str(row.get("group")).count("_") >= 2 for row in rows):
        return _hallusion(rows), metric
    means = _added([(_cluster(row), [float(row["score"]), 1.0]) for row in rows], len(rows))
    return means, ITEMS if metric in ("f1", "mme", "hallusion") else metric


def _cluster(row: Row) -> Hashable:
    return row.get("cluster") or row.get("group") or row["index"]


def _added(parts: Sequence[Part], n: int, of: Any = ratio) -> Tally:
    """Sums by cluster, in the order in which clusters first occur."""
    places: dict[Hashable, int] = {}
    at_P = [places.setdefault(cluster, len(places)) for cluster, _ in parts]
    sums_GK = np.zeros((len(places), len(parts[0][1])))
    np.add.at(sums_GK, at_P, np.array([sums for _, sums in parts], dtype=np.float64))
    return Tally(sums_GK, n, of)


def _units(rows: Sequence[Row], keys: Sequence[_Key]) -> dict[_Key, list[Row]]:
    units: dict[_Key, list[Row]] = defaultdict(list)
    for row, key in zip(rows, keys, strict=True):
        units[key].append(row)
    return units


def _all_right(rows: Sequence[Row]) -> float:
    return float(all(row["score"] >= 1 for row in rows))


def _circular(rows: Sequence[Row]) -> list[Part]:
    """A question counts when it is answered right under every rotation of its options (MMBench, Liu et al. 2023)."""
    units = _units(rows, [row.get("group") or row["index"] for row in rows])
    return [(unit[0].get("cluster") or key, [_all_right(unit), 1.0]) for key, unit in units.items()]


def _confusion(row: Row) -> list[float]:
    """True positives, false positives, false negatives; what cannot be read is no "yes" (VLMEvalKit's POPE_rating).

    A question of several categories ("random,popular") counts as often.
    """
    truth, right = str(row["answer"]).strip().lower() == "yes", row["score"] >= 1
    says_yes = right if truth else not right and bool(row.get("parsed", True))
    weight = len(str(row.get("category") or "").split(","))
    return [weight * float(one) for one in (truth and says_yes, says_yes and not truth, truth and not says_yes)]


def _f1(sums: np.ndarray) -> np.ndarray:
    """F1 of "yes" (POPE, Li et al. 2023): 2 TP / (2 TP + FP + FN)."""
    return ratio(np.stack([2 * sums[..., 0], 2 * sums[..., 0] + sums[..., 1] + sums[..., 2]], axis=-1))


def _mme(rows: Sequence[Row], full_marks: float) -> Tally:
    """Sum over tasks of 100 (acc + acc+), acc+ being the share of pictures with all answers right (Fu et al. 2023).

    Pictures are drawn within their task: how many it has is fixed.
    """
    rows = [row for row in rows if row["category"] in MME_TASKS]
    units = _units(rows, [(row["category"], row.get("group") or row["index"]) for row in rows])
    names = sorted({str(row["category"]) for row in rows})
    sums_GCK = np.zeros((len(units), len(names), 4))
    for place, unit in enumerate(units.values()):
        hits = sum(row["score"] >= 1 for row in unit)
        sums_GCK[place, names.index(str(unit[0]["category"]))] = hits, len(unit), _all_right(unit), 1.0

    def of(sums: np.ndarray) -> np.ndarray:
        by_task = sums.reshape(*sums.shape[:-1], len(names), 4)
        return 100 * (ratio(by_task[..., :2]) + ratio(by_task[..., 2:])).sum(axis=-1) / full_marks

    strata_G = np.array([names.index(str(unit[0]["category"])) for unit in units.values()])
    return Tally(sums_GCK.reshape(len(units), -1), len(rows), of, strata_G)


def _hallusion(rows: Sequence[Row]) -> Tally:
    """Mean of aAcc, fAcc and qAcc: questions, figures and question groups with all answers right (Guan et al. 2024).

    The group is `category_set_figure`, and the index ends in the question's number; a set is a cluster.
    """
    figures = [str(row["group"]) for row in rows]
    questions = [str(row["index"]).rpartition("_")[2] for row in rows]
    sets = [figure.rpartition("_")[0] for figure in figures]
    parts: list[Part] = [
        (of_set, [float(row["score"] >= 1), 1.0, 0.0, 0.0, 0.0, 0.0]) for of_set, row in zip(sets, rows, strict=True)
    ]
    for names, column in ((figures, 2), (questions, 4)):
        units = _units(rows, list(zip(sets, names, strict=True)))
        for key, unit in units.items():
            sums = [0.0] * 6
            sums[column : column + 2] = _all_right(unit), 1.0
            parts.append((key[0], sums))

    def of(sums: np.ndarray) -> np.ndarray:
        return (ratio(sums[..., :2]) + ratio(sums[..., 2:4]) + ratio(sums[..., 4:])) / 3

    return _added(parts, len(rows), of)
