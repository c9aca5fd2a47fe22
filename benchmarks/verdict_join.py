"""Joins and samples over verdict tables of a million rows: time and the most memory of any process, as JSON.

    python benchmarks/verdict_join.py --rows 1000000

Makes a source of so many text samples, then, each step in a process of its own: a pass that gives every sample a score
and a kind; the look-up of these columns by place, by id (as for the same samples in another source), and by a dict of
Python strings; and `sailctl curate sample` over the tables, by shard, by a column, with a cap, and with even n-grams.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from sailctl.core.curate.join import Columns
from sailctl.core.curate.parts import Row, open_data
from sailctl.core.curate.passes import Pass, Workers, verdict_table
from sailctl.core.curate.sample.request import SampleRequest
from sailctl.core.data.verdicts import read_rows, read_table, tables
from sailctl.core.files import atomic_write
from sailctl.core.reporter import Quiet

KINDS = ("chart", "photo", "document", "map", "sketch")


@dataclass(frozen=True)
class Scored:
    """A verdict with a score and a kind for every row; every tenth is dropped."""

    def __call__(self, rows: Iterator[Row]) -> Any:
        """The table of a part."""
        records = []
        for row in rows:
            number = int(row.key)
            keep = number % 10 > 0
            records.append({**row.place(), "keep": keep, "reason": "" if keep else "tenth", "detail": "",
                            "score": number % 1000 / 1000, "kind": KINDS[min(number % 17, 4)]})  # fmt: skip
        return verdict_table(records, {"score": "double", "kind": "string"})


def make(folder: Path, rows: int) -> None:
    """A source of so many samples in ten shards, unless it is there."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for shard in range(10):
        with atomic_write(folder / f"data/{shard}.jsonl", "w") as handle:
            for number in range(shard * rows // 10, (shard + 1) * rows // 10):
                turns = [{"from": "human", "value": f"What is {number}?"},
                         {"from": "gpt", "value": f"A number, {number}."}]  # fmt: skip
                handle.write(json.dumps({"id": str(number), "conversations": turns}) + "\n")


def judge(folder: Path) -> None:
    """Verdicts with a score and a kind on the source."""
    data = open_data([str(folder / "data")])
    made = Pass("scored", folder / "scored", {}, data, Workers(1), Quiet())
    if not made.open():
        made.map(Scored())
        made.finish({})


def parts(folder: Path, source: str | None) -> Iterator[Any]:
    """Ids and places of all samples, a part at a time; as if they lay in another source where one is named."""
    import pyarrow as pa

    for path in tables(folder / "scored"):
        table = read_table(path, ("id", "source", "shard", "row"))
        if source is not None:
            at = table.column_names.index("source")
            table = table.set_column(at, "source", pa.array([source] * len(table), pa.string()))
        yield table


def look_up(folder: Path, source: str | None) -> dict[str, Any]:
    """Score and kind of every sample, part by part."""
    columns = Columns.open([str(folder / "scored")], ["score", "kind"])
    total, found = 0.0, 0
    for table in parts(folder, source):
        scores = columns.of(table)["score"]
        found += len(scores) - scores.null_count
        total += pc.sum(scores).as_py() or 0.0
    return {"found": found, "sum": round(total, 3)}


def by_dict(folder: Path) -> dict[str, Any]:
    """The same by a dict of all rows, which is what one would write first."""
    known = {row["id"]: (row["score"], row["kind"]) for row in read_rows(folder / "scored")}
    scores = [known[one][0] for table in parts(folder, None) for one in table["id"].to_pylist() if one in known]
    return {"found": len(scores), "sum": round(sum(scores), 3)}


def draw(folder: Path, rows: int, options: dict[str, Any]) -> dict[str, Any]:
    """A sample over the verdicts."""
    out = folder / "drawn" / "-".join(f"{name}-{value}" for name, value in options.items())
    request = SampleRequest([str(folder / "data")], [str(folder / "scored")], out=out, processes=1, **options)
    return {"drawn": request.perform(Quiet())["drawn"], "of": rows}


def steps(folder: Path, rows: int) -> dict[str, Callable[[], Any]]:
    """What is measured, by name."""
    half = str(rows // 2)
    return {
        "make": lambda: make(folder, rows),
        "judge": lambda: judge(folder),
        "join by place": lambda: look_up(folder, None),
        "join by id": lambda: look_up(folder, "elsewhere"),
        "join by a dict": lambda: by_dict(folder),
        "sample": lambda: draw(folder, rows, {"samples": half}),
        "sample by shard": lambda: draw(folder, rows, {"samples": half, "by": "shard"}),
        "sample by kind": lambda: draw(folder, rows, {"samples": str(rows // 5), "by": "kind"}),
        "sample capped": lambda: draw(folder, rows, {"by": "kind", "cap": rows // 50}),
        "sample even n-grams": lambda: draw(folder, rows, {"samples": half, "even_ngrams": 2}),
    }


def main() -> None:
    """Every step in a process of its own, for its memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="keep the data here; a temporary folder without")
    options = parser.parse_args()
    if options.step is not None:
        began = time.perf_counter()
        result = steps(options.folder, options.rows)[options.step]() or {}
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        told = {"step": options.step, "seconds": round(time.perf_counter() - began, 2), "peak_mib": most // 2**20}
        print(json.dumps({**told, **result}), flush=True)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for step in steps(folder, options.rows):
            command = [sys.executable, __file__, "--rows", str(options.rows), "--folder", str(folder), "--step", step]
            subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main()
