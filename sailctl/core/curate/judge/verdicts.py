"""From answers to verdicts and opinions, a part of the data at a time, and what they add up to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sailctl.core.curate.judge.agreement import Agreement, Mean, mean, percent_agreement, ratio
from sailctl.core.curate.judge.ask import COLUMNS, FAILED, JUDGED, NOT_ASKED, UNPARSED, Drawn
from sailctl.core.curate.judge.opinions import MODEL
from sailctl.core.curate.judge.tasks import JudgeTask
from sailctl.core.curate.parts import Data, Part
from sailctl.core.curate.passes import file_of, verdict_table
from sailctl.core.data.verdicts import read_table
from sailctl.core.errors import DataError

LOW, UNJUDGED = "low_score", "unjudged"  # reasons of verdicts
NOT_DRAWN, BROKEN = "not_drawn", "broken"
STATES = (JUDGED, UNPARSED, FAILED, NOT_ASKED, NOT_DRAWN, BROKEN)


@dataclass(frozen=True)
class Verdicts:
    """The verdicts on a part, from the tables of answers in `answers`; travels to workers.

    Without `minimums` all is kept but what cannot be read; with them a sample needs scores, all of them high enough.
    """

    data: Data
    drawn: Drawn
    task: JudgeTask
    answers: Path
    minimums: tuple[tuple[str, float], ...] = ()

    def __call__(self, part: Part) -> Any:
        """The table of a part. Raises DataError where another sample stands in the place of one that was judged."""
        found = self._answers(part)
        records = []
        for ordinal, row in enumerate(self.data.rows(part), part.first):
            if row.sample is None:
                assert row.error is not None
                told = {"keep": False, "reason": row.error.reason, "detail": row.error.detail, "judged": BROKEN}
            else:
                rounds = found.get(ordinal, [])
                if rounds and rounds[0]["id"] != row.sample.id:
                    raise DataError(f"{row.shard}, row {row.row}: is another sample than was judged; put back what it "
                                    "was, or give another --out")  # fmt: skip
                told = self._verdict(rounds)
            records.append({**row.place(), **told})
        return verdict_table(records, {"judged": "string", **dict.fromkeys(self.task.columns, "double")})

    def _verdict(self, rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
        told: dict[str, Any] = {"keep": True, "reason": "", "detail": ""}
        if not rounds:
            return {**told, "judged": NOT_DRAWN}
        state = next((one["state"] for one in rounds if one["state"] != JUDGED), JUDGED)
        scores = self.task.scores([{name: one[name] for name in self.task.criteria} for one in rounds])
        if state != JUDGED or scores is None:
            detail = next((one["detail"] for one in rounds if one["state"] != JUDGED), "")
            unsure = {"keep": False, "reason": UNJUDGED} if self.minimums else {}
            return {**told, **unsure, "detail": detail, "judged": state}
        for name, least in self.minimums:
            if (score := scores.get(name)) is None or score < least:
                detail = f"no {name}" if score is None else f"{name} {score:g} < {least:g}"
                return {**told, "keep": False, "reason": LOW, "detail": detail, "judged": state, **scores}
        return {**told, "judged": state, **scores}

    def _answers(self, part: Part) -> dict[int, list[dict[str, Any]]]:
        """Answers by ordinal, in the order of rounds."""
        import pyarrow.parquet as pq

        found: dict[int, list[dict[str, Any]]] = {}
        for chunk in self.drawn.chunks_of(part):
            path = file_of(self.answers, chunk)
            inside = [("ordinal", ">=", part.first), ("ordinal", "<", part.stop)]
            columns = ["id", "ordinal", "round", "state", "detail", *self.task.criteria]
            for record in pq.read_table(path, columns=columns, filters=inside, partitioning=None).to_pylist():
                found.setdefault(record["ordinal"], []).append(record)
        return found


def opinions_of(tables: Sequence[Path], task: JudgeTask, model: str) -> Iterator[dict[str, Any]]:
    """All that could be read of the answers as opinions of the model."""
    import pyarrow.parquet as pq

    for path in tables:
        for batch in pq.ParquetFile(path).iter_batches(columns=[*COLUMNS, *task.criteria]):
            for record in batch.to_pylist():
                if record["state"] == JUDGED:
                    place = {name: record[name] for name in ("id", "source", "shard", "row", "key", "item", "round")}
                    for name in task.criteria:
                        if record[name] is not None:
                            told = {"task": task.name, "criterion": name, "value": record[name]}
                            yield {**place, **told, "judge": f"{MODEL}{model}"}


@dataclass
class Asked:
    """What the tables of answers hold: samples asked about, those without a readable answer with a few examples, and
    why the others were not asked about."""

    samples: int = 0
    unread: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)
    not_asked: dict[str, int] = field(default_factory=dict)

    def add(self, path: Path) -> None:
        """Count a table."""
        import pyarrow.parquet as pq

        table = pq.read_table(path, columns=["ordinal", "state", "key", "detail"], partitioning=None)
        states = np.array(table["state"].to_pylist(), dtype=object)
        ordinals = table["ordinal"].to_numpy()
        wrong, unasked = (states == UNPARSED) | (states == FAILED), states == NOT_ASKED
        self.samples += len(np.unique(ordinals[~unasked]))
        self.unread += len(np.unique(ordinals[wrong]))
        self.examples += table.take(np.flatnonzero(wrong)[: max(0, 2 - len(self.examples))]).to_pylist()
        for why in table["detail"].take(np.flatnonzero(unasked)).to_pylist():
            self.not_asked[why] = self.not_asked.get(why, 0) + 1


def has_failed(path: Path) -> bool:
    """Whether the engine gave up on a question of a table."""
    import pyarrow.parquet as pq

    return FAILED in pq.read_table(path, columns=["state"], partitioning=None)["state"].unique().to_pylist()


def summarise(tables: Sequence[tuple[Part, Path]], data: Data, task: JudgeTask) -> dict[str, Any]:
    """Counts, means and intervals of every source and of all: what the verdicts in the tables say."""
    texts = ("keep", "reason", "judged", "detail")
    columns = (*texts, *task.columns)
    parts: dict[int, list[dict[str, np.ndarray]]] = {}
    for part, path in tables:
        table = read_table(str(path), columns)
        held: dict[str, np.ndarray] = {name: np.array(table[name].to_pylist(), dtype=object) for name in texts}
        held |= {name: table[name].to_numpy().astype(np.float64) for name in task.columns}
        parts.setdefault(part.source, []).append(held)
    joined = {
        data.sources[number].name: {name: np.concatenate([one[name] for one in found]) for name in columns}
        for number, found in parts.items()
    }
    whole = {name: np.concatenate([one[name] for one in joined.values()]) for name in columns}
    return {**_summary(whole, task), "sources": {name: _summary(one, task) for name, one in joined.items()}}


def _summary(held: Mapping[str, np.ndarray], task: JudgeTask) -> dict[str, Any]:
    states, counts = np.unique(held["judged"].astype(str), return_counts=True)
    reasons, dropped = np.unique(held["reason"][~held["keep"].astype(bool)].astype(str), return_counts=True)
    why, unasked = np.unique(held["detail"][held["judged"] == NOT_ASKED].astype(str), return_counts=True)
    judged = held["judged"] == JUDGED
    told: dict[str, Any] = {
        "samples": len(judged),
        "kept": int(held["keep"].astype(bool).sum()),
        "dropped": dict(zip(reasons.tolist(), dropped.tolist(), strict=True)),
        "states": {name: int(counts[states == name].sum()) for name in STATES if name in states},
        "not_asked": dict(zip(why.tolist(), unasked.tolist(), strict=True)),
        "scores": {name: _mean(held[name][judged]).as_json() for name in task.columns},
    }
    return told if task.name != "gsb" else {**told, "gsb": _gsb({name: held[name][judged] for name in task.columns})}


def _mean(values: np.ndarray) -> Mean:
    return mean(values[np.isfinite(values)])


def _gsb(held: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Verdicts counted, the share of the first place among choices, and how often both orders agree."""
    value, forth, back = held["preference"], held["candidate_first"], held["reference_first"]
    chose_first = (forth == 1).astype(np.float64) + (back == -1)
    chose = (forth != 0).astype(np.float64) + (back != 0)
    good, same, bad = (int((value == one).sum()) for one in (1, 0, -1))
    bias: Agreement = ratio(chose_first, chose)
    return {
        "good": good,
        "same": same,
        "bad": bad,
        "score": mean(value).as_json(),
        "good_or_same": mean((value >= 0).astype(np.float64)).as_json(),
        "chose_first": bias.as_json(),
        "orders_agree": percent_agreement(forth, back).as_json(),
        "one_order": {"candidate_first": mean(forth).as_json(), "reference_first": mean(back).as_json()},
    }
