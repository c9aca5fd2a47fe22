"""Rows before the rules, as records of a verdict table; and the tally of what each rule does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sailctl.core.curate import join
from sailctl.core.curate.filter.measure import judge, measured_columns
from sailctl.core.curate.filter.rules import Check
from sailctl.core.curate.parts import Row
from sailctl.core.curate.passes import verdict_table

JOINED = 64  # rows looked up at once, and held with their pictures meanwhile


@dataclass(frozen=True)
class Judge:
    """The work on a part: a verdict a row, what was measured for it, and `hits`, all rules that fail, by commas."""

    checks: tuple[Check, ...]
    scores: join.Columns | None

    def __call__(self, rows: Iterator[Row]) -> Any:
        """The table of some rows."""
        records = [record for _, record in self.records(rows)]
        return verdict_table(records, {"hits": "string", **measured_columns(self.checks)})

    def records(self, rows: Iterator[Row], *, whole: bool = False) -> Iterator[tuple[Row, dict[str, Any]]]:
        """Rows with their records; with `whole` every rule is asked of every sample."""
        for row, scores in self._with_scores(rows):
            if row.sample is None:
                reason, detail = ("", "") if row.error is None else (row.error.reason, row.error.detail)
                yield row, {**row.place(), "keep": False, "reason": reason, "detail": detail[:300], "hits": ""}
                continue
            found = judge(row.sample, self.checks, scores, whole=whole)
            verdict = {"keep": found.verdict.keep, "reason": found.verdict.reason, "detail": found.verdict.detail}
            yield row, {**row.place(), **verdict, "hits": ",".join(found.hits), **found.measured}

    def _with_scores(self, rows: Iterator[Row]) -> Iterator[tuple[Row, dict[str, Any]]]:
        if self.scores is None:
            for row in rows:
                yield row, {}
            return
        while some := list(islice(rows, JOINED)):
            yield from zip(some, self.scores.of(join.places([row.place() for row in some])).to_pylist(), strict=True)


class Tally:
    """How many samples each rule drops (as the first that fails), how many fail it, and how many it alone."""

    def __init__(self, checks: Sequence[Check]) -> None:
        self.checks = checks
        self.dropped: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        self.alone: Counter[str] = Counter()
        self.samples: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()

    def add(self, source: str, reason: str, hits: str) -> None:
        """Count a verdict by its reason ("" where it keeps) and by the rules that fail."""
        self.samples[source] += 1
        if not reason:
            self.kept[source] += 1
            return
        self.dropped[reason] += 1
        failed = hits.split(",") if hits else [reason]  # a sample that cannot be read never met a rule
        self.hits.update(failed)
        if len(failed) == 1:
            self.alone[failed[0]] += 1

    def told(self) -> dict[str, Any]:
        """All counts as JSON has them; reasons that are no rules are those of samples that cannot be read."""
        rules = [
            {"rule": check.name, "asks": check.asks(), "costly": check.costly, **self._counts(check.name)}
            for check in self.checks
        ]
        names = {check.name for check in self.checks}
        for reason in sorted(self.dropped.keys() - names):
            rules.append({"rule": reason, "asks": "(cannot be read)", "costly": False, **self._counts(reason)})
        return {
            "samples": self.samples.total(),
            "kept": self.kept.total(),
            "rules": rules,
            "sources": {
                name: {"samples": count, "kept": self.kept[name]} for name, count in sorted(self.samples.items())
            },
        }

    def _counts(self, name: str) -> dict[str, int]:
        return {"dropped": self.dropped[name], "hits": self.hits[name], "alone": self.alone[name]}
