"""What of a benchmark was in the training data stands beside its score, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sailctl.core.bench.overlap import read_overlap, set_beside
from sailctl.core.bench.request import BenchRequest
from sailctl.core.bench.suite_results import table
from sailctl.core.errors import UsageError
from sailctl.core.reporter import Quiet

FOUND = {"rows": 400, "overlapping": 6, "share": 0.015, "by_image": 5, "by_question": 2}


def results() -> dict[str, Any]:
    entry = {"dataset": "POPE", "score": 0.5, "ci95": [0.4, 0.6], "n": 10, "raw": 50, "full_marks": 100, "judge": None,
             "fallback": "", "failed": 0, "unparsed": 0, "cut": 0, "excluded": {}}  # fmt: skip
    return {"benchmarks": {"POPE": entry, "MMMU": {**entry, "dataset": "MMMU_DEV_VAL"}}, "averages": {"Average": None}}


def write(folder: Path, benchmarks: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "overlap.json").write_text(json.dumps({"benchmarks": benchmarks}))
    return folder


def test_the_share_stands_beside_each_score(tmp_path: Path) -> None:
    overlap = read_overlap(write(tmp_path / "out", {"MMMU_DEV_VAL": {**FOUND, "samples": 9}}))
    made = results()
    set_beside(made, overlap)
    assert made["benchmarks"]["MMMU"]["overlap"] == FOUND
    assert made["benchmarks"]["POPE"]["overlap"] is None
    columns, rows = table(made)
    at = columns.index("in the data")
    assert [row[at] for row in rows] == ["not looked for", "1.5% (6 of 400)", "–"]
    assert all(len(row) == len(columns) for row in rows)


def test_rows_nobody_could_read_do_not_count_as_clean(tmp_path: Path) -> None:
    read = {"POPE": {**FOUND, "unreadable": 3, "usable": 397}, "MMMU": {**FOUND, "share": 0.0, "usable": 0}}
    made = results()
    set_beside(made, read_overlap(write(tmp_path / "out", read)))
    assert made["benchmarks"]["POPE"]["overlap"] == {**FOUND, "unreadable": 3, "usable": 397}
    columns, rows = table(made)
    assert [row[columns.index("in the data")] for row in rows] == ["≥ 1.5% (6 of 400)", "–", "–"]


def test_without_it_the_table_is_as_ever() -> None:
    columns, rows = table(results())
    assert columns == ["benchmark", "points", "95% interval", "n", "remarks"]
    assert rows[0][:4] == ["POPE", "50.0", "40.0 to 60.0", "10"]


def test_what_is_no_overlap_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read there"):
        read_overlap(tmp_path)
    with pytest.raises(UsageError, match=r"is no overlap\.json"):
        read_overlap(write(tmp_path / "wrong", {"POPE": {"rows": 3}}))
    with pytest.raises(UsageError, match="--overlap: the suite synth takes none"):
        BenchRequest(overlap=tmp_path).perform(Quiet())
