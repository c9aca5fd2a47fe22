"""Benchmarks in the data: by picture, by crop, by question; what is no overlap; tables, shares, workers and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.curate import parts
from sailctl.core.curate.decontaminate.request import DecontaminateRequest
from sailctl.core.errors import SailctlError, UsageError
from sailctl.core.reporter import Quiet
from tests.curate.helpers_curate import files_in
from tests.curate.helpers_planted import by_key, encoded, scene, write_samples
from tests.helpers_bench import b64, write_tsv

ROOT = Path(__file__).resolve().parents[2]
WHOLE = "Which of the four sails on this boat is torn?"  # ten words
LONG = (
    "A farmer sells three crates of apples and two crates of pears at the market on Fridays; what does he earn in May?"
)
TEMPLATE = "Please look at the picture very carefully and then answer the question with one word: is there a"


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Two tables: POPE of three pictures (one asked about twice, one blank), MMStar of two."""
    pictures = [b64(encoded(scene(seed))) for seed in range(5)]
    write_tsv(
        tmp_path / "tables/POPE.tsv",
        [
            {"index": 1, "question": f"{TEMPLATE} dog?", "answer": "Yes", "image": pictures[0]},
            {"index": 2, "question": f"{TEMPLATE} cat?", "answer": "No", "image": "1"},
            {"index": 3, "question": "What is shown here?", "answer": "No", "image": pictures[1]},
            {"index": 4, "question": f"{TEMPLATE} cow?", "answer": "No", "image": pictures[2]},
            {"index": 5, "question": "Empty?", "answer": "No", "image": b64(encoded(Image.new("RGB", (80, 80))))},
            {"index": 6, "question": "Broken?", "answer": "No", "image": b64(b"x" * 99)},
        ],
    )
    write_tsv(
        tmp_path / "tables/MMStar.tsv",
        [
            {"index": 0, "question": WHOLE, "answer": "A", "image": pictures[3]},
            {"index": 1, "question": LONG, "answer": "B", "image": pictures[4]},
        ],
    )
    return tmp_path / "tables"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """0 a picture encoded anew, 1 a crop, 2 and 3 a question, 4 a template, 5 blank, 6 part of a short question."""
    crop = scene(1).crop((5, 4, 157, 118))
    other = [encoded(scene(seed)) for seed in range(50, 60)]
    return write_samples(
        tmp_path / "data.tar",
        [
            (encoded(scene(0).resize((120, 90)), "JPEG", 80), "What is it?", "A field."),
            (encoded(crop, "JPEG", 70), "What is it?", "A hill."),
            (other[0], f"Hm. {WHOLE}", "The first."),
            (None, "Tell a story.", f"It goes: {LONG} I do not know."),
            (other[1], f"{TEMPLATE} horse?", "No."),
            (encoded(Image.new("RGB", (80, 80))), "What is shown here?", "Nothing."),
            (other[2], "Which of the four sails on this boat?", "All."),
        ],
    )


def decontaminate(data: Path, tables: Path, out: Path, **options: Any) -> dict[str, dict[str, Any]]:
    DecontaminateRequest([str(data)], [str(tables)], out, processes=1, **options).perform(Quiet())
    return by_key(out)


def test_pictures_crops_and_questions_are_found(data: Path, tables: Path, tmp_path: Path) -> None:
    rows = decontaminate(data, tables, tmp_path / "out")
    assert [key for key, row in rows.items() if not row["keep"]] == ["0000", "0001", "0002", "0003"]
    assert {row["reason"] for row in rows.values() if not row["keep"]} == {"contaminated"}
    assert [(row["benchmark"], row["index"], row["by"]) for row in list(rows.values())[:4]] == [
        ("POPE", "1", "image"), ("POPE", "3", "image"), ("MMStar", "0", "question"), ("MMStar", "1", "question"),
    ]  # fmt: skip
    assert rows["0000"]["rows"] == 2 and rows["0000"]["detail"] == "image of POPE 1 and 1 more"


def test_the_overlaps_are_listed_and_counted(data: Path, tables: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    decontaminate(data, tables, out)
    listed = pq.read_table(out / "overlaps.parquet").to_pylist()
    assert [(one["key"], one["benchmark"], one["index"], one["by"]) for one in listed] == [
        ("0000", "POPE", "1", "image"), ("0000", "POPE", "2", "image"), ("0001", "POPE", "3", "image"),
        ("0002", "MMStar", "0", "question"), ("0003", "MMStar", "1", "question"),
    ]  # fmt: skip
    lines = (out / "overlaps.tsv").read_text().splitlines()
    assert len(lines) == 6 and lines[0].startswith("id\tsource\tshard\trow\tkey\tbenchmark\tindex\tby")
    told = json.loads((out / "overlap.json").read_text())["benchmarks"]
    assert told["POPE"] == {
        "rows": 6, "overlapping": 3, "share": 0.5, "by_image": 3, "by_question": 0, "samples": 2, "unreadable": 1,
        "usable": 5, "usable_by_image": 5, "usable_by_question": 3,
    }  # fmt: skip
    assert told["MMStar"]["by_question"] == 2 and told["MMStar"]["share"] == 1.0


def test_by_one_of_them_alone(data: Path, tables: Path, tmp_path: Path) -> None:
    image = decontaminate(data, tables, tmp_path / "image", by="image")
    assert [key for key, row in image.items() if not row["keep"]] == ["0000", "0001"]
    question = decontaminate(data, tables, tmp_path / "question", by="question")
    assert [key for key, row in question.items() if not row["keep"]] == ["0002", "0003"]


def test_what_many_samples_say_is_a_phrase(tables: Path, tmp_path: Path) -> None:
    samples = [(None, WHOLE, f"Number {number}.") for number in range(5)] + [(None, LONG, "One.")]
    data = write_samples(tmp_path / "data.tar", samples)
    rows = decontaminate(data, tables, tmp_path / "few", common=4)
    assert [key for key, row in rows.items() if not row["keep"]] == ["0005"]
    assert len([1 for row in decontaminate(data, tables, tmp_path / "all").values() if not row["keep"]]) == 6


def test_wrong_use_is_told(data: Path, tables: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=r"no table \(\.tsv\) is there"):
        decontaminate(data, tmp_path / "nothing", out)
    with pytest.raises(UsageError, match="--against is missing"):
        DecontaminateRequest([str(data)], [], out).perform(Quiet())
    with pytest.raises(UsageError, match="--ngram 3: so few words stand anywhere"):
        decontaminate(data, tables, out, ngram=3)
    with pytest.raises(UsageError, match="--by pictures: give image or question"):
        decontaminate(data, tables, out, by="pictures")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/POPE.tsv").write_text("index\tquestion\n1\tHm\n")
    with pytest.raises(UsageError, match="POPE is there twice"):
        DecontaminateRequest([str(data)], [str(tables), str(tmp_path / "more")], out).perform(Quiet())
    assert not out.exists()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("index\tquestion\timage\n", r"--against .*B\.tsv: has a header but no rows"),
        ("index\tquestion\timage\n1\tWhat is it?\tnoBase64=\n2\tAnd this?\t\n",
         r"--against .*B\.tsv: none of its 2 rows has a picture that can be read or a question of 8 words or more"),
    ],
)  # fmt: skip
def test_a_table_of_nothing_is_no_clean_benchmark(data: Path, tmp_path: Path, table: str, message: str) -> None:
    path = tmp_path / "B.tsv"
    path.write_text(table)
    with pytest.raises(SailctlError, match=message):
        decontaminate(data, path, tmp_path / "out")
    path.write_text(f"index\tquestion\timage\n1\t{WHOLE}\t\n")
    assert len(decontaminate(data, path, tmp_path / "out")) == 7, "the folder is free for a table that is whole"


@pytest.mark.parametrize("cut", [0.4, 0.0])
def test_a_table_that_broke_off_is_told(data: Path, tmp_path: Path, cut: float) -> None:
    """Cut in the last row's picture, and before it."""
    rows = [{"index": seed, "question": "What is it?", "image": b64(encoded(scene(seed)))} for seed in range(4)]
    path = write_tsv(tmp_path / "B.tsv", rows)
    whole = path.read_bytes()
    last = whole.rindex(b"\t") + 1
    path.write_bytes(whole[: last + int(cut * (len(whole) - last))] if cut else whole[: last - 4])
    asked = ["--data", str(data), "--against", str(path), "--out", str(tmp_path / "out"), "--processes", "1"]
    result = CliRunner().invoke(app, ["curate", "decontaminate", *asked])
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "warning: B: 1 of 4 rows cannot be read" in said and "≥ 50.00%" in said
    assert "warning: B" in " ".join(CliRunner().invoke(app, ["curate", "decontaminate", *asked]).output.split())
    told = json.loads((tmp_path / "out/overlap.json").read_text())["benchmarks"]["B"]
    assert (told["unreadable"], told["usable"], told["usable_by_question"]) == (1, 3, 0)


def test_another_table_is_another_pass(data: Path, tables: Path, tmp_path: Path) -> None:
    decontaminate(data, tables, tmp_path / "out")
    (tables / "MMStar.tsv").unlink()
    with pytest.raises(UsageError, match="was made with against"):
        decontaminate(data, tables, tmp_path / "out")


def test_the_command_tells_people(data: Path, tables: Path, tmp_path: Path) -> None:
    asked = ["curate", "decontaminate", "--data", str(data), "--against", str(tables), "--out", str(tmp_path / "out")]
    planned = CliRunner().invoke(app, [*asked, "--dry-run"])
    assert "would compare 7 samples by image and question with MMStar, POPE" in planned.output
    assert not (tmp_path / "out").exists()
    result = CliRunner().invoke(app, [*asked, "--processes", "1"])
    assert result.exit_code == 0, result.output
    assert "kept 3 of 7 samples; dropped: 4 contaminated" in result.output
    assert f"--overlap {tmp_path / 'out'}" in result.output


KILLED = """
import sys
from pathlib import Path
from sailctl.core.curate import parts
parts.ROWS = 2
from sailctl.core.curate.decontaminate.request import DecontaminateRequest
from sailctl.core.reporter import Quiet
if __name__ == "__main__":
    DecontaminateRequest([sys.argv[2]], [sys.argv[3]], Path(sys.argv[1]), processes=int(sys.argv[4])).perform(Quiet())
"""


def test_killed_at_any_instant_the_bytes_are_the_same(
    data: Path, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "ROWS", 2)
    decontaminate(data, tables, tmp_path / "whole")
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(tmp_path / "out"), str(data), str(tables), "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for stage in ("benchmarks", "hits"):
        process = subprocess.Popen(command, env=environment)
        while process.poll() is None and not list((tmp_path / "out/work" / stage).rglob("*.parquet")):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command[:-1], "2"], env=environment, check=True)
    left = {name: data for name, data in files_in(tmp_path / "out").items() if not name.endswith(".tmp")}
    assert left == files_in(tmp_path / "whole")
