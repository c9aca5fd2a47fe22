"""`sailctl curate filter`: every sample before the rules; verdicts with reasons, and what each rule does to data."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sailctl.core.curate import join
from sailctl.core.curate.filter.judge import Judge, Tally
from sailctl.core.curate.filter.preview import Preview, preview
from sailctl.core.curate.filter.rules import Check, load_rules
from sailctl.core.curate.parts import open_data
from sailctl.core.curate.passes import Pass, default_workers
from sailctl.core.errors import UsageError
from sailctl.core.reporter import Reporter

PREVIEW = "preview.html"
PREVIEWED = 2000


@dataclass
class FilterRequest:
    """What `sailctl curate filter` is asked for; what `run` gives is its JSON answer."""

    data: Sequence[str]
    out: Path | None
    rules: str | None = None
    scores: Sequence[str] = ()
    image_root: str | None = None
    captions: str | None = None
    processes: int | None = None
    ray: str | None = None
    samples: int | None = None
    seed: int | None = None
    page: Path | None = None

    def run(self, reporter: Reporter) -> dict[str, Any]:
        """Judge all samples into `out`, or find that done. Raises UsageError, DataError."""
        if self.out is None:
            raise UsageError("--out is missing: the folder that verdicts are written to")
        for option, given in (("--samples", self.samples), ("--seed", self.seed), ("--page", self.page)):
            if given is not None:
                raise UsageError(f"{option} {given}: is for --dry-run; give that with it, or leave it out")
        checks = load_rules(self.rules)
        scores = self._scores(checks)
        data = open_data(self.data, image_root=self.image_root, captions=self.captions, reporter=reporter)
        parameters = {
            "rules": [{"name": one.name, one.kind: one.bounds.model_dump(mode="json")} for one in checks],
            "scores": [join.content(path) for path in self.scores] if scores is not None else [],
        }
        done = Pass("filter", self.out, parameters, data, default_workers(self.processes, self.ray), reporter)
        if not done.open():
            done.map(Judge(checks, scores))
            done.finish(_summary(done, checks))
        following = f"sailctl curate mix {' '.join(f'--data {shlex.quote(path)}' for path in self.data)}"
        following += f" --verdicts {shlex.quote(str(self.out))} --out mixture.yaml"
        return {**(done.summary or {}), "out": str(self.out), "next": following}

    def dry_run(self, reporter: Reporter) -> dict[str, Any]:
        """Judge a seeded sample by every rule and write a page that shows what each would drop."""
        page = self.page or (None if self.out is None else self.out / PREVIEW)
        if page is None:
            raise UsageError("--dry-run writes a page: give --out DIR for DIR/preview.html, or --page FILE")
        samples = PREVIEWED if self.samples is None else self.samples
        if samples < 1:
            raise UsageError(f"--samples {samples}: judge one at least")
        checks = load_rules(self.rules)
        data = open_data(self.data, image_root=self.image_root, captions=self.captions, reporter=reporter)
        workers = default_workers(self.processes, self.ray)
        asked = Preview(data, checks, self._scores(checks), samples, self.seed or 0)
        return preview(asked, page, self.rules, workers, reporter)

    def _scores(self, checks: Sequence[Check]) -> join.Columns | None:
        names = [check.bounds.column for check in checks if check.kind == "score"]
        if names and not self.scores:
            raise UsageError(f"rule score: column {names[0]!r} of what? give --scores DIR, the pass that made it")
        if self.scores and not names:
            raise UsageError(f"--scores {self.scores[0]}: no rule asks for it; add - score: {{column: NAME, min: 60}}")
        return join.Columns.open(list(self.scores), list(dict.fromkeys(names))) if names else None


def _summary(done: Pass, checks: Sequence[Check]) -> dict[str, Any]:
    """Counts over all tables, a batch at a time."""
    import pyarrow.parquet as pq

    tally = Tally(checks)
    for part, path in done.tables():
        name = done.data.sources[part.source].name
        for batch in pq.ParquetFile(path).iter_batches(columns=["reason", "hits"]):
            for reason, hits in zip(*(batch.column(number).to_pylist() for number in range(2)), strict=True):
                tally.add(name, reason, hits)
    return tally.told()


def describe(result: dict[str, Any]) -> tuple[list[tuple[str, list[str], list[list[str]]]], list[str]]:
    """A result as tables and lines for people."""
    rules = [
        [one["rule"], one["asks"], f"{one['dropped']:,}", f"{one['hits']:,}", f"{one['alone']:,}"]
        for one in result["rules"]
    ]
    tables = [("Rules", ["rule", "asks for", "drops", "fails", "alone"], rules)]
    if len(result["sources"]) > 1:
        each = [[name, f"{one['kept']:,}", f"{one['samples']:,}"] for name, one in result["sources"].items()]
        tables.append(("Sources", ["source", "kept", "samples"], each))
    kept, total = result["kept"], result["samples"]
    lines = [f"kept {kept:,} of {total:,} samples ({kept / max(total, 1):.1%})"]
    if any(one["costly"] for one in result["rules"]) and not result.get("page"):
        lines.append("rules that decode pictures were asked only of samples that the others keep; --dry-run asks all")
    if result.get("page"):
        lines.append(f"a seeded sample of {result['of']:,}; every rule with examples: {result['page']}")
    return tables, lines
