"""`sailctl curate decontaminate` as a value: which samples stand in a benchmark, and what of a benchmark in the data.

Beside the verdicts it leaves `overlaps.parquet` and `overlaps.tsv` (a row for each sample and benchmark row) and
`overlap.json`, the share of each benchmark that is in the data, which `sailctl bench --overlap` puts beside its scores.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sailctl.core.curate.decontaminate.alignment import NEAR
from sailctl.core.curate.decontaminate.benchmarks import (
    SHORTEST,
    BenchmarkTable,
    Comparable,
    comparable,
    find_tables,
    read_benchmark,
)
from sailctl.core.curate.decontaminate.overlap import FindOverlaps
from sailctl.core.curate.following import mix_command
from sailctl.core.curate.join import content
from sailctl.core.curate.parts import Part, open_data
from sailctl.core.curate.passes import PASS_FILE, Pass, default_workers, file_of, run_tasks, verdict_table, write_table
from sailctl.core.data.verdicts import VERDICTS
from sailctl.core.errors import DataError, UsageError
from sailctl.core.files import atomic_write, write_json
from sailctl.core.reporter import Reporter

BY = ("image", "question")
OVERLAP_FILE = "overlap.json"
EXTRA = {"benchmark": "string", "index": "string", "by": "string", "distance": "float64", "rows": "int64"}
OVERLAPS = {
    **{"id": "string", "source": "string", "shard": "string", "row": "int64", "key": "string"},
    **{"benchmark": "string", "index": "string", "by": "string", "distance": "float64"},
}


@dataclass(frozen=True, slots=True)
class DecontaminateRequest:
    """The options of `sailctl curate decontaminate`, as given."""

    paths: Sequence[str]
    against: Sequence[str]
    out: Path | None
    image_root: str | None = None
    captions: str | None = None
    verdicts: Sequence[str] = ()
    by: str = "image,question"
    ngram: int = 13
    common: int = 20
    image_distance: float = NEAR
    processes: int | None = None
    ray: str | None = None

    def perform(self, reporter: Reporter, *, dry_run: bool = False) -> dict[str, Any]:
        """Find overlaps and write verdicts; what summary.json holds. Raises UsageError for options that are wrong."""
        by = tuple(dict.fromkeys(part.strip() for part in self.by.split(",") if part.strip()))
        if not by or any(one not in BY for one in by):
            raise UsageError(f"--by {self.by}: give {' or '.join(BY)}, or both with a comma")
        if self.ngram < SHORTEST:
            raise UsageError(f"--ngram {self.ngram}: so few words stand anywhere; give {SHORTEST} or more")
        if not 0 <= self.image_distance <= 64:
            raise UsageError(f"--image-distance {self.image_distance:g}: give grey levels from 0 to 64")
        if self.out is None:
            raise UsageError("--out is missing: the folder the verdicts are written to")
        tables = find_tables(self.against)
        data = open_data(
            self.paths, image_root=self.image_root, captions=self.captions, verdicts=self.verdicts, reporter=reporter
        )
        if dry_run:
            names = [table.name for table in tables]
            return {"out": str(self.out), "samples": len(data), "against": names, "by": list(by)}
        parameters = {
            "against": {table.name: table.content() for table in tables}, "by": list(by), "ngram": self.ngram,
            "common": self.common, "image_distance": self.image_distance,
            "verdicts": [content(path) for path in self.verdicts],
        }  # fmt: skip
        made = Pass("decontaminate", self.out, parameters, data, default_workers(self.processes, self.ray), reporter)
        if not made.open():
            self._find(made, tables, by)
        shutil.rmtree(self.out / "work", ignore_errors=True)
        assert made.summary is not None
        following = mix_command(data, self.paths, self.verdicts, self.out, self.image_root, self.captions)
        return {"out": str(self.out), **made.summary, "next": following}

    def _find(self, made: Pass, tables: Sequence[BenchmarkTable], by: tuple[str, ...]) -> None:
        work, workers, reporter = made.out / "work", made.workers, made.reporter
        names = tuple(table.name for table in tables)
        try:
            run_tasks(read_benchmark, tables, work / "benchmarks", workers, reporter, "benchmarks", unit="tables")
            rows_of = {table.name: _comparable(work / "benchmarks", table, by) for table in tables}
        except DataError:  # the folder is free for tables that are whole
            shutil.rmtree(work, ignore_errors=True)
            (made.out / PASS_FILE).unlink(missing_ok=True)
            raise
        find = FindOverlaps(work / "benchmarks", names, by, self.ngram, self.image_distance)
        made.map(find, "work/hits", "overlaps")
        hits = Hits(work / "hits", names, tuple(rows_of[name].indexes for name in names), self._phrases(made))
        sizes = {part.name: part.stop - part.first for part in made.data.parts}
        run_tasks(hits, made.data.parts, made.out / VERDICTS, workers, reporter, "verdicts", sizes)
        overlap = _overlap(_write_overlaps(made, hits), rows_of)
        write_json(made.out / OVERLAP_FILE, {"data": _nameless(made), **made.parameters, "benchmarks": overlap})
        made.finish(_summary(made, overlap))

    def _phrases(self, made: Pass) -> frozenset[int]:
        """Runs of words that stand in more than `common` samples: phrases of the data, no question of a benchmark."""
        counts: Counter[int] = Counter()
        for _, path in made.tables("work/hits"):
            for hits in _read(path, ("hits",)):
                counts.update({hit["run"] for hit in hits["hits"] if hit["run"] is not None})
        return frozenset(run for run, count in counts.items() if count > self.common)


@dataclass(frozen=True)
class Hits:
    """The verdicts of a part, from what was found in it."""

    folder: Path
    names: tuple[str, ...]
    indexes: tuple[tuple[str, ...], ...]
    phrases: frozenset[int]

    def __call__(self, part: Part) -> Any:
        """A verdict for every row."""
        records = []
        for row, hits in self.rows(part):
            record = {**row, "keep": not row["reason"] and not hits}
            if hits and not row["reason"]:
                first = hits[0]
                more = f" and {len(hits) - 1} more" if len(hits) > 1 else ""
                by = "+".join(dict.fromkeys(hit["by"] for hit in hits))
                detail = f"{first['by']} of {first['benchmark']} {first['index']}{more}"
                record |= {"reason": "contaminated", "detail": detail, "rows": len(hits), "by": by}
                record |= {name: first[name] for name in ("benchmark", "index", "distance")}
            records.append(record)
        return verdict_table(records, EXTRA)

    def rows(self, part: Part) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Place, reason and detail of each row, and the benchmark rows it overlaps: pictures first, the near first."""
        for row in _read(file_of(self.folder, part)):
            hits = [
                {"by": hit["by"], "benchmark": self.names[hit["benchmark"]],
                 "index": self.indexes[hit["benchmark"]][hit["question"]], "distance": hit["distance"]}
                for hit in row.pop("hits")
                if hit["run"] not in self.phrases
            ]  # fmt: skip
            yield row, sorted(hits, key=lambda hit: (hit["by"], hit["distance"] or 0.0))


def _write_overlaps(made: Pass, hits: Hits) -> list[dict[str, Any]]:
    """The two tables of overlaps; their rows."""
    import pyarrow as pa

    told = [
        {name: row[name] for name in ("id", "source", "shard", "row", "key")} | hit
        for part in made.data.parts
        for row, found in hits.rows(part)
        for hit in found
    ]
    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in OVERLAPS.items()])
    write_table(made.out / "overlaps.parquet", pa.Table.from_pylist(told, schema))
    with atomic_write(made.out / "overlaps.tsv", "w") as file:
        file.write("\t".join(OVERLAPS) + "\n")
        for one in told:
            cells = ["" if one[name] is None else str(one[name]) for name in OVERLAPS]
            file.write("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in cells) + "\n")
    return told


def _comparable(folder: Path, table: BenchmarkTable, by: tuple[str, ...]) -> Comparable:
    """What of a table can be compared. Raises DataError where nothing can: a share of 0 would say that it is clean."""
    found = comparable(folder, table.name, by)
    if not found.usable:
        wanted = {"image": "a picture that can be read", "question": f"a question of {SHORTEST} words or more"}
        raise DataError(
            f"--against {table.path}: none of its {len(found.indexes)} rows has "
            f"{' or '.join(wanted[one] for one in by)}, so nothing can be compared; is the file whole? leave it out "
            "otherwise"
        )
    return found


def _overlap(told: Sequence[dict[str, Any]], rows_of: dict[str, Comparable]) -> dict[str, dict[str, Any]]:
    """Of each benchmark how many of its rows, and which share of them, are in the data."""
    found: dict[str, dict[str, Any]] = {}
    for name, table in rows_of.items():
        own = [one for one in told if one["benchmark"] == name]
        rows = {by: {one["index"] for one in own if one["by"] == by} for by in BY}
        overlapping = rows["image"] | rows["question"]
        found[name] = {
            "rows": len(table.indexes),
            "overlapping": len(overlapping),
            "share": round(len(overlapping) / max(len(table.indexes), 1), 6),
            "by_image": len(rows["image"]),
            "by_question": len(rows["question"]),
            "samples": len({(one["source"], one["shard"], one["row"]) for one in own}),
            "unreadable": table.unreadable,
            "usable": table.usable,
            **{f"usable_by_{by}": len(places) for by, places in table.by.items()},
        }
    return found


def _nameless(made: Pass) -> list[dict[str, Any]]:
    return [{key: value for key, value in one.items() if key != "path"} for one in made.data.described()]


def _summary(made: Pass, overlap: dict[str, dict[str, Any]]) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    by: Counter[str] = Counter()
    for _, path in made.tables():
        for row in _read(path, ("keep", "reason", "by")):
            if not row["keep"]:
                reasons[row["reason"]] += 1
                by[row["by"] or "unusable"] += 1
    total = len(made.data)
    return {
        "samples": total, "kept": total - sum(reasons.values()), "dropped": dict(sorted(reasons.items())),
        "dropped_by": dict(sorted(by.items())), "benchmarks": overlap,
    }  # fmt: skip


def _read(path: Path, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path, columns=None if columns is None else list(columns)).to_pylist()
    return rows


def _share(one: dict[str, Any]) -> str:
    return f"{'≥ ' if one['unreadable'] else ''}{one['share']:.2%}"


def describe(result: dict[str, Any]) -> tuple[list[tuple[str, list[str], list[list[str]]]], list[str]]:
    """Tables and lines for people."""
    if "kept" not in result:
        names = ", ".join(result["against"])
        return [], [f"would compare {result['samples']:,} samples by {' and '.join(result['by'])} with {names}"]
    columns = ["benchmark", "rows", "in the data", "share", "by picture", "by question", "samples", "unreadable rows"]
    rows = [
        [name, *(f"{one[key]:,}" for key in ("rows", "overlapping")), _share(one),
         *(f"{one[key]:,}" if one[f"usable_{key}"] else "–" for key in ("by_image", "by_question")),
         *(f"{one[key]:,}" for key in ("samples", "unreadable"))]
        for name, one in result["benchmarks"].items()
    ]  # fmt: skip
    warnings = [
        f"warning: {name}: {one['unreadable']:,} of {one['rows']:,} rows cannot be read (no such picture, or cut off); "
        "what is found is the least there is"
        for name, one in result["benchmarks"].items()
        if one["unreadable"]
    ]
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in result["dropped"].items()) or "none"
    return [("benchmarks in the data", columns, rows)], [
        *warnings,
        f"kept {result['kept']:,} of {result['samples']:,} samples; dropped: {dropped}",
        f"which sample, which row: {result['out']}/overlaps.tsv",
        f"the shares beside scores: sailctl bench --overlap {result['out']}",
        f"verdicts: {result['out']}",
    ]
