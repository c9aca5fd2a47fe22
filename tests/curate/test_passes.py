"""A pass: one verdict a sample, equal files at any number of workers, nothing lost by a kill, nothing mixed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sailctl.core.curate import parts
from sailctl.core.curate.parts import Data, open_data
from sailctl.core.curate.passes import Pass, Workers, default_workers
from sailctl.core.data.verdicts import read_rows
from sailctl.core.errors import UsageError
from sailctl.core.reporter import Quiet
from tests.curate.helpers_curate import LongEnough, captions_tar, files_in, verdicts
from tests.helpers_data import picture, write_tar

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    monkeypatch.setattr(parts, "ROWS", 3)
    members = [("a.png", picture(0)), ("a.txt", b"a long caption"), ("b.png", picture(1)), ("b.txt", b"short")]
    broken = [("c.json", b"{"), ("c.png", picture(2)), ("d.png", picture(3)), ("d.txt", b"another long one")]
    write_tar(tmp_path / "one.tar", [*members, *broken])
    captions_tar(tmp_path / "two.tar", ["x" * number for number in range(1, 9)])
    return open_data([str(tmp_path / "one.tar"), str(tmp_path / "two.tar")])


def run(data: Data, out: Path, processes: int = 1, characters: int = 6) -> Pass:
    made = Pass("long", out, {"characters": characters}, data, Workers(processes), Quiet())
    if not made.open():
        made.map(LongEnough(characters))
        made.finish({"done": True})
    return made


def test_every_sample_gets_one_verdict(data: Data, tmp_path: Path) -> None:
    run(data, tmp_path / "out")
    rows = list(read_rows(tmp_path / "out"))
    assert verdicts(rows[:4]) == [("a", True, ""), ("b", False, "short"), ("c", False, "bad_json"), ("d", True, "")]
    assert [row["keep"] for row in rows[4:]] == [False] * 5 + [True] * 3
    assert [(row["source"], row["shard"], row["row"]) for row in rows[2:5]] == [
        ("one", "one.tar", 2), ("one", "one.tar", 3), ("two", "two.tar", 0)
    ]  # fmt: skip
    assert rows[2]["id"] == "" and len(rows[0]["id"]) == 32


def test_workers_decide_nothing(data: Data, tmp_path: Path) -> None:
    run(data, tmp_path / "one")
    run(data, tmp_path / "three", 3)
    assert files_in(tmp_path / "one") == files_in(tmp_path / "three")


def test_a_part_that_stands_is_not_made_again(data: Data, tmp_path: Path) -> None:
    made = run(data, tmp_path / "out")
    whole = files_in(tmp_path / "out")
    (tmp_path / "out/summary.json").unlink()
    paths = [path for _, path in made.tables()]
    paths[1].unlink()
    before = paths[0].stat().st_mtime_ns
    run(data, tmp_path / "out")
    assert files_in(tmp_path / "out") == whole
    assert paths[0].stat().st_mtime_ns == before


def test_a_tar_without_its_end_is_told(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(data, tmp_path / "whole").summary == {"done": True, "warnings": []}
    whole = (tmp_path / "two.tar").read_bytes()
    (tmp_path / "half.tar").write_bytes(whole[: len(whole) // 2])
    heard: list[str] = []
    monkeypatch.setattr(Quiet, "info", lambda _, line: heard.append(line))
    made = run(open_data([str(tmp_path / "half.tar")], reporter=Quiet()), tmp_path / "out")
    told = json.loads((tmp_path / "out/summary.json").read_text())["warnings"]
    assert made.summary is not None and made.summary["warnings"] == told and heard == [f"warning: {told[0]}"]
    assert told[0].startswith(f"shard {tmp_path}/half.tar: its end is missing, the samples there are lost")


def test_captions_of_other_data_are_refused(tmp_path: Path) -> None:
    path = captions_tar(tmp_path / "a.tar", ["one", "two", "three"], [b"", picture(1), picture(2)])
    found = open_data([str(path)])
    ids = [row.place()["id"] for row in found.rows(found.parts[0])]

    def opened(name: str, ids: list[str]) -> Data:
        rows = [{"id": one, "shard": "a.tar", "row": row, "key": "", "text": "A dog.", "turns": None}
                for row, one in enumerate(ids)]  # fmt: skip
        (tmp_path / name).mkdir()
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name / "a.parquet")
        return open_data([str(path)], captions=str(tmp_path / name))

    assert len(opened("one fits", ["0" * 32, "1" * 32, ids[2]])) == 3
    with pytest.raises(
        UsageError, match=r"captions .*/none: belong to other data than .*a\.tar: none of 3 looked at fits"
    ):
        opened("none", ["0" * 32, "1" * 32, "2" * 32])


def test_another_pass_is_refused(data: Data, tmp_path: Path) -> None:
    run(data, tmp_path / "out")
    with pytest.raises(UsageError, match=r"characters = 6, now it is 7; give another --out"):
        run(data, tmp_path / "out", characters=7)
    with pytest.raises(UsageError, match="other data"):
        run(open_data([str(tmp_path / "two.tar")]), tmp_path / "out")
    with pytest.raises(UsageError, match="holds pass long, this is short"):
        Pass("short", tmp_path / "out", {}, data, Workers(), Quiet()).open()
    with pytest.raises(UsageError, match="is not empty"):
        Pass("long", tmp_path, {}, data, Workers(), Quiet()).open()


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ([{"name": "a" * 300, "aspect": {"max": 9}}], "with rules.0.aspect.max = 8, now it is 9"),
        ([{"name": "a" * 300, "aspect": {"max": 8, "of": "all"}}], 'without rules.0.aspect.of, now it is "all"'),
        ([{"name": "a" * 300}], 'with rules.0.aspect = {"max": 8}, now it is not there'),
        ([{"name": "a" * 300, "aspect": {"max": 8}}, "blank"], 'without rules.1, now it is "blank"'),
        ([{"name": "a" * 300, "aspect": {"max": None}}], "with rules.0.aspect.max = 8, now it is null"),
        ([{"name": "a" * 300, "aspect": {"max": ["x", 1]}}], 'with rules.0.aspect.max = 8, now it is ["x", 1]'),
        ("默认", ', now it is "默认"'),
        ([], ", now it is []"),
    ],
)
def test_of_long_parameters_the_difference_is_told(data: Data, tmp_path: Path, now: Any, told: str) -> None:
    was = [{"name": "a" * 300, "aspect": {"max": 8}}]
    Pass("long", tmp_path / "out", {"rules": was}, data, Workers(), Quiet()).open()
    with pytest.raises(UsageError, match=rf"was made .*{re.escape(told)}; give another --out"):
        Pass("long", tmp_path / "out", {"rules": now}, data, Workers(), Quiet()).open()


def test_short_lists_are_shown_whole_and_long_ones_where_they_differ(data: Data, tmp_path: Path) -> None:
    names = [f"person {number}" for number in range(40)]
    for was, now, told in (
        (["ann", "bo"], ["ann"], 'with names = ["ann", "bo"], now it is ["ann"]'),
        (names, names[:-1], 'with names.39 = "person 39", now it is not there'),
    ):
        out = tmp_path / str(len(was))
        Pass("long", out, {"names": was}, data, Workers(), Quiet()).open()
        with pytest.raises(UsageError, match=re.escape(told)):
            Pass("long", out, {"names": now}, data, Workers(), Quiet()).open()


def test_sources_need_names_of_their_own(tmp_path: Path) -> None:
    tar = captions_tar(tmp_path / "a.tar", ["one"])
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text(f"sources:\n- {{name: a, path: {tar}}}\n- {{name: a, path: {tar}}}\n")
    with pytest.raises(UsageError, match="two sources are called a"):
        open_data([str(mixture)])


def test_workers_without_a_number_are_the_cores() -> None:
    assert default_workers(3, None) == Workers(3)
    assert 1 <= default_workers(None, None).processes <= 8


KILLED = """
import sys
from pathlib import Path
from sailctl.core.curate import parts
parts.ROWS = 3
from sailctl.core.curate.parts import open_data
from sailctl.core.curate.passes import Pass, Workers
from sailctl.core.reporter import Quiet
from tests.curate.helpers_curate import LongEnough
if __name__ == "__main__":
    data, workers = open_data(sys.argv[3:]), Workers(int(sys.argv[1]))
    made = Pass("long", Path(sys.argv[2]), {"characters": 6}, data, workers, Quiet())
    if not made.open():
        made.map(LongEnough(6, 0.02))
        made.finish({"done": True})
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_any_instant_it_goes_on(data: Data, tmp_path: Path, processes: int) -> None:
    run(data, tmp_path / "whole")
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    paths = [str(tmp_path / "one.tar"), str(tmp_path / "two.tar")]
    command = [sys.executable, str(script), str(processes), str(tmp_path / "out"), *paths]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment)
    while process.poll() is None and not list((tmp_path / "out").rglob("*.parquet")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out/summary.json").exists(), "killed before its end"
    time.sleep(0.3)  # workers notice that their parent is gone
    subprocess.run(command, env=environment, check=True)
    left = {name: data for name, data in files_in(tmp_path / "out").items() if not name.endswith(".tmp")}
    assert left == files_in(tmp_path / "whole")
