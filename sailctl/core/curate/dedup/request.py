"""`sailctl curate dedup` as a value: what counts as a duplicate, which one is kept, and the stages that find out.

Signatures of all samples, a table a part; their keys, sorted in runs; pairs, bucket by bucket; clusters; verdicts. Each
is files in `OUT/work`, which is gone when the verdicts are there.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sailctl.core.curate.dedup.candidates import FindPairs, SortKeys, buckets_of, edges, runs_of
from sailctl.core.curate.dedup.clusters import KEEP, SCOPES, Choice, Settle
from sailctl.core.curate.dedup.pictures import BANDS, DOUBTFUL
from sailctl.core.curate.dedup.relations import Rules, as_rules
from sailctl.core.curate.dedup.signatures import PLACE, Signatures, Signer
from sailctl.core.curate.dedup.wording import KEYS
from sailctl.core.curate.following import mix_command
from sailctl.core.curate.join import content
from sailctl.core.curate.parts import Data, Part, open_data
from sailctl.core.curate.passes import Pass, Workers, default_workers, file_of, run_tasks, verdict_table
from sailctl.core.data.verdicts import VERDICTS, read_table
from sailctl.core.errors import UsageError
from sailctl.core.reporter import Reporter

EXTRA = {
    **{"cluster": "string", "kind": "string", "kept_id": "string", "kept_source": "string", "kept_shard": "string"},
    **{"kept_row": "int64", "image_distance": "float64", "text_distance": "float64"},
}
WORDS = {
    "bytes": "same pictures and words to the byte",
    "pixels": "same pixels, and same words where they count",
    "image": "pictures nearly the same",
    "text": "words nearly the same",
    "both": "pictures and words nearly the same",
}


class Named(NamedTuple):
    """A task that is known by its name alone."""

    name: str


@dataclass(frozen=True, slots=True)
class DedupRequest:
    """The options of `sailctl curate dedup`, as given."""

    paths: Sequence[str]
    out: Path | None
    image_root: str | None = None
    captions: str | None = None
    verdicts: Sequence[str] = ()
    by: str = "sample"
    scope: str = "all"
    keep: str = "first"
    prefer: Sequence[str] = ()
    image_distance: float | None = None
    text_distance: float | None = None
    processes: int | None = None
    ray: str | None = None

    def perform(self, reporter: Reporter, *, dry_run: bool = False) -> dict[str, Any]:
        """Find duplicates and write verdicts; what summary.json holds. Raises UsageError for options that are wrong."""
        rules = as_rules(self.by, self.image_distance, self.text_distance)
        if self.keep not in KEEP:
            raise UsageError(f"--keep {self.keep}: give {', '.join(KEEP)}")
        if self.scope not in SCOPES:
            raise UsageError(f"--scope {self.scope}: give {', '.join(SCOPES)}")
        if self.out is None:
            raise UsageError("--out is missing: the folder the verdicts are written to")
        data = open_data(
            self.paths, image_root=self.image_root, captions=self.captions, verdicts=self.verdicts, reporter=reporter
        )
        if self.scope == "across" and len(data.sources) == 1:
            raise UsageError("--scope across: looks between sources, but --data gives one; leave it out, or give more")
        parameters = {
            "by": list(rules.by), "scope": self.scope, "keep": self.keep, "prefer": list(self.prefer),
            "image_distance": rules.image, "text_distance": rules.text,
            "verdicts": [content(path) for path in self.verdicts],
        }  # fmt: skip
        choice = Choice(self.keep, self._preferred(data), self.scope)
        if dry_run:
            return {"out": str(self.out), "samples": len(data), "parts": len(data.parts), **parameters}
        made = Pass("dedup", self.out, parameters, data, default_workers(self.processes, self.ray), reporter)
        if not made.open():
            self._find(made, rules, choice)
            made.finish(_summary(made))
        shutil.rmtree(self.out / "work", ignore_errors=True)
        assert made.summary is not None
        following = mix_command(data, self.paths, self.verdicts, self.out, self.image_root, self.captions)
        return {"out": str(self.out), **made.summary, "next": following}

    def _preferred(self, data: Data) -> tuple[int, ...]:
        names = [source.name for source in data.sources]
        if unknown := [name for name in self.prefer if name not in names]:
            raise UsageError(f"--prefer {unknown[0]}: no source is called so; there are {', '.join(names)}")
        return tuple(names.index(name) for name in self.prefer)

    def _find(self, made: Pass, rules: Rules, choice: Choice) -> None:
        work, workers, reporter = made.out / "work", made.workers, made.reporter
        made.map(Signer(), "work/signatures", "signatures")
        signatures = Signatures(work / "signatures", made.data.parts)
        pairs: list[Path] = []
        for by in rules.by:
            runs = runs_of(len(made.data.parts))
            run_tasks(
                SortKeys(signatures, by), runs, work / f"keys-{by}", workers, reporter, f"keys: {by}", unit="runs"
            )
            files = tuple(file_of(work / f"keys-{by}", run) for run in runs)
            buckets = buckets_of(len(made.data), KEYS if by == "text" else BANDS << DOUBTFUL)
            find = FindPairs(signatures, files, by, rules)
            run_tasks(find, buckets, work / f"pairs-{by}", workers, reporter, f"pairs: {by}", unit="buckets")
            pairs += [file_of(work / f"pairs-{by}", bucket) for bucket in buckets]
        clusters = Named("clusters")
        if not file_of(work, clusters).is_file():
            settle = Settle(signatures, rules, choice, edges(pairs))
            run_tasks(settle, [clusters], work, Workers(1), reporter, "clusters", unit="tables")
        tell = Tell(signatures, file_of(work, clusters))
        sizes = {part.name: part.stop - part.first for part in made.data.parts}
        run_tasks(tell, made.data.parts, made.out / VERDICTS, workers, reporter, "verdicts", sizes)


@dataclass(frozen=True)
class Tell:
    """The verdicts of a part, from its signatures and the clusters."""

    signatures: Signatures
    clusters: Path

    def __call__(self, part: Part) -> Any:
        """A verdict for every row."""
        import pyarrow.parquet as pq

        place = self.signatures.place_of(part)
        first = int(self.signatures.starts[place])
        table = self.signatures.table(place, (*PLACE, "reason", "detail"))
        within = [("sample", ">=", first), ("sample", "<", first + len(table))]
        found = {row["sample"] - first: row for row in pq.read_table(self.clusters, filters=within).to_pylist()}
        records = []
        for number, row in enumerate(table.to_pylist()):
            record = {**row, "keep": not row["reason"]}
            if (told := found.get(number)) is not None:
                where = f"{told['kept_source']}/{told['kept_shard']}#{told['kept_row']}"
                record |= {"cluster": where, "kind": told["kind"]}
                record |= {name: told[name] for name in ("kept_id", "kept_source", "kept_shard", "kept_row")}
                record |= {"image_distance": told["image"], "text_distance": told["text"]}
                if told["kind"]:
                    record |= {"keep": False, "reason": f"duplicate_{told['kind']}"}
                    record["detail"] = f"{_in_words(told)} as {told['kept_key']} ({where})"
            records.append(record)
        return verdict_table(records, EXTRA)


def _in_words(told: dict[str, Any]) -> str:
    if told["kind"] == "pixels":
        return "pictures the same" if told["text"] is None else "same pixels, same words"
    return WORDS[told["kind"]]


def _summary(made: Pass) -> dict[str, Any]:
    """Counts over the verdicts, in all and by source."""
    reasons: Counter[str] = Counter()
    sources = {
        source.name: {"samples": 0, "dropped": 0, "duplicates_of_another_source": 0} for source in made.data.sources
    }
    clusters: Counter[str] = Counter()
    for _, path in made.tables():
        for row in read_table(str(path), ("source", "keep", "reason", "cluster", "kept_source")).to_pylist():
            of_source = sources[row["source"]]
            of_source["samples"] += 1
            if row["cluster"] is not None:
                clusters[row["cluster"]] += 1
            if not row["keep"]:
                reasons[row["reason"]] += 1
                of_source["dropped"] += 1
                of_source["duplicates_of_another_source"] += row["kept_source"] not in (None, row["source"])
    total = sum(one["samples"] for one in sources.values())
    return {
        "samples": total,
        "kept": total - sum(reasons.values()),
        "dropped": dict(sorted(reasons.items())),
        "clusters": len(clusters),
        "largest_cluster": max(clusters.values(), default=0),
        "sources": sources,
    }


def describe(result: dict[str, Any]) -> tuple[list[tuple[str, list[str], list[list[str]]]], list[str]]:
    """Tables and lines for people."""
    if "kept" not in result:
        by = " and by ".join(result["by"])
        return [], [
            f"would look through {result['samples']:,} samples in {result['parts']} parts, by {by}; nothing done"
        ]
    rows = [[reason, f"{count:,}", WORDS.get(reason.removeprefix("duplicate_"), "cannot be used at all")]
            for reason, count in result["dropped"].items()]  # fmt: skip
    sources = [[name, *(f"{number:,}" for number in one.values())] for name, one in result["sources"].items()]
    tables = [("dropped", ["reason", "samples", "what it means"], rows)] if rows else []
    if len(sources) > 1:
        tables.append(("by source", ["source", "samples", "dropped", "for another source's"], sources))
    share = result["kept"] / max(result["samples"], 1)
    lines = [f"kept {result['kept']:,} of {result['samples']:,} samples ({share:.1%})"]
    if result["clusters"]:
        lines.append(
            f"clusters of duplicates: {result['clusters']:,}, the largest of {result['largest_cluster']:,} samples"
        )
    return tables, [*lines, f"verdicts: {result['out']}"]
