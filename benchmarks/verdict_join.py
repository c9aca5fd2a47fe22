"""Joins and samples over verdict tables of a million rows: time and the most memory of any process, as JSON.

    python benchmarks/verdict_join.py --rows 1000000

Makes a source of so many text samples, then, each in a process of its own: a pass that gives every sample a score and
a kind; the look-up of these columns by place and, for the same samples in another source, by id, against a loop over a
dict of Python strings; and `sailctl curate sample` over the tables, by source, by a column and with a cap.
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

from sailctl.core.curate.join import Columns
from sailctl.core.curate.parts import Row, open_data
from sailctl.core.curate.passes import Pass, Workers, verdict_table
from sailctl.core.curate.sample import SampleRequest
from sailctl.core.data.verdicts import read_rows, read_table, tables
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
    """The same samples twice: in one source, and in a second one in other shards."""
    for name, shards in (("one", 10), ("two", 7)):
        (folder / name).mkdir(parents=True)
        for shard in range(shards):
            with open(folder / name / f"{shard}.jsonl", "w", encoding="utf-8") as handle:
                for number in range(shard * rows // shards, (shard + 1) * rows // shards):
                    turns = [{"from": "human", "value": f"What is {number}?"},
                             {"from": "gpt", "value": f"A number, {number}."}]  # fmt: skip
                    handle.write(json.dumps({"id": str(number), "conversations": turns}) + "\n")


def judge(folder: Path, name: str) -> None:
    """The verdicts on a source."""
    data = open_data([str(folder / name)])
    made = Pass("scored", folder / f"scored-{name}", {}, data, Workers(1), Quiet())
    if not made.open():
        made.map(Scored())
        made.finish({})


def look_up(folder: Path, rows_of: str) -> dict[str, Any]:
    """The score and kind that verdicts on `one` have of every sample of a source, part by part."""
    columns = Columns.open([str(folder / "scored-one")], ["score", "kind"])
    total, found = 0.0, 0
    for table in tables(folder / f"scored-{rows_of}"):
        scores = columns.of(read_table(table, ("id", "source", "shard", "row")))["score"]
        found += len(scores) - scores.null_count
        total += sum(score for score in scores.to_pylist() if score is not None)
    return {"found": found, "sum": round(total, 3)}


def plain_loop(folder: Path) -> dict[str, Any]:
    """The same by a dict of all rows of one table, which is what one would write first."""
    known = {row["id"]: (row["score"], row["kind"]) for row in read_rows(folder / "scored-one")}
    scores = [known[row["id"]][0] for row in read_rows(folder / "scored-two") if row["id"] in known]
    return {"found": len(scores), "sum": round(sum(scores), 3)}


def draw(folder: Path, rows: int, options: dict[str, Any]) -> dict[str, Any]:
    """A sample over the verdicts on `one`."""
    out = folder / "drawn" / "-".join(f"{name}-{value}" for name, value in options.items())
    request = SampleRequest([str(folder / "one")], [str(folder / "scored-one")], out=out, processes=1, **options)
    return {"drawn": request.perform(Quiet())["drawn"], "of": rows}


def steps(folder: Path, rows: int) -> dict[str, Callable[[], Any]]:
    """What is measured, by name."""
    half = str(rows // 2)
    return {
        "make": lambda: make(folder, rows),
        "judge one": lambda: judge(folder, "one"),
        "judge two": lambda: judge(folder, "two"),
        "join by place": lambda: look_up(folder, "one"),
        "join by id": lambda: look_up(folder, "two"),
        "join by a dict": lambda: plain_loop(folder),
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
