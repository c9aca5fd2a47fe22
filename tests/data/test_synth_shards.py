"""Synth data sets on disk: same bytes whatever the workers, resumed after a kill, the same samples in every layout."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.data.sources import open_source
from sailctl.core.data.synth import TASKS, generate, item_to_record, shards, write_shards
from sailctl.core.data.synth.layouts import write_part
from sailctl.core.errors import StorageError, UsageError
from sailctl.core.schema.data import SourceConfig, SynthConfig

TRAIN_TASKS = [task for task in TASKS if task != "ocr_word_unseen"]


def spec(samples: int = 120, split: str = "train", **changes: Any) -> SynthConfig:
    values = {"tasks": {task: 1.0 for task in TRAIN_TASKS}, "samples": samples, "seed": 3, "split": split} | changes
    return SynthConfig(**values)


def tree(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def records(folder: Path) -> list[dict[str, Any]]:
    found = []
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for name in sorted(members):
            if name.endswith(".json"):
                found.append({**json.loads(members[name]), "jpg": members.get(name.replace(".json", ".jpg"))})
    return found


def test_the_bytes_depend_on_the_specification_alone(tmp_path: Path) -> None:
    done: list[int] = []
    alone = write_shards(spec(), tmp_path / "a", shard_size=50, progress=done.append)
    write_shards(spec(), tmp_path / "b", shard_size=50, workers=2)
    write_shards(spec(seed=4), tmp_path / "c", shard_size=50)
    assert sorted(tree(tmp_path / "a")) == ["00000.tar", "00001.tar", "00002.tar", "manifest.json"]
    assert tree(tmp_path / "a") == tree(tmp_path / "b") != tree(tmp_path / "c")
    assert done == [50, 100, 120] and alone.parts == 3 and not alone.complete_before
    assert sum(alone.counts.values()) == 120 and all(9 <= count <= 13 for count in alone.counts.values())


def test_a_tar_holds_llava_conversations(tmp_path: Path) -> None:
    write_shards(spec(), tmp_path / "train")
    write_shards(spec(split="heldout"), tmp_path / "heldout")
    trained, heldout = records(tmp_path / "train"), records(tmp_path / "heldout")
    assert len(trained) == len(heldout) == 120
    for record in trained + heldout:
        turns = record["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
        assert turns[-1]["value"] == record["references"][0]
        placeholders = sum(turn["value"].count("<image>") for turn in turns)
        assert placeholders == (0 if record["task"] == "text_qa" else 1) == (record["jpg"] is not None)
        if record["jpg"] is not None:
            assert turns[0]["value"].startswith("<image>\n")
            assert Image.open(io.BytesIO(record["jpg"])).size == (112, 112)
    described = {record["task"] for record in trained if len(record["conversations"]) == 4}
    assert {"closed_vqa", "open_vqa", "chart"} <= described and "caption" not in described
    assert {len(record["conversations"]) for record in heldout} == {2}
    assert {(record["task"], record["level"]) for record in trained} >= {(task, 2) for task in TRAIN_TASKS}


def test_a_description_comes_before_the_question() -> None:
    item = generate("open_vqa", 1, 0, 0, "train")
    turns = item_to_record(item, "x", document=True)["conversations"]
    assert turns[0]["value"] == f"<image>\n{item.preface[0]}" and turns[1]["value"] == item.preface[1]
    assert turns[2] == {"from": "human", "value": item.question} and turns[3]["value"] == item.answer


def test_weights_and_levels_are_kept(tmp_path: Path) -> None:
    weights = {"caption": 3.0, "math": 1.0}
    written = write_shards(spec(400, tasks=weights, levels=[1, 3]), tmp_path / "a")
    assert abs(written.counts["caption"] - 300) <= 4
    assert {record["level"] for record in records(tmp_path / "a")} == {1, 3}


@pytest.mark.parametrize("layout", ["tar", "llava-json", "parquet"])
def test_an_interrupted_run_goes_on(tmp_path: Path, layout: Any) -> None:
    class Stop(Exception):
        pass

    def stop(done: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        write_shards(spec(), tmp_path / "a", shard_size=50, layout=layout, progress=stop)
    assert not json.loads((tmp_path / "a" / "manifest.json").read_text())["complete"]
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    (tmp_path / "a" / f".00001.tar.{process.pid}.tmp").write_bytes(b"half")
    resumed = write_shards(spec(), tmp_path / "a", shard_size=50, layout=layout)
    write_shards(spec(), tmp_path / "b", shard_size=50, layout=layout)
    assert tree(tmp_path / "a") == tree(tmp_path / "b") and not resumed.complete_before
    assert write_shards(spec(), tmp_path / "a", shard_size=50, layout=layout).complete_before


def test_a_killed_run_goes_on_and_keeps_what_it_had(tmp_path: Path) -> None:
    script = (
        "from sailctl.core.data.synth import write_shards; from sailctl.core.schema.data import SynthConfig\n"
        f"write_shards(SynthConfig(**{spec(1200).model_dump()!r}), {str(tmp_path / 'a')!r}, shard_size=100)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment)
    second = tmp_path / "a" / "00001.tar"
    while not second.exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    assert not manifest["complete"], "the run ended before it was killed: the case did not occur"
    stamp = second.stat().st_mtime_ns
    write_shards(spec(1200), tmp_path / "a", shard_size=100)
    assert second.stat().st_mtime_ns == stamp
    write_shards(spec(1200), tmp_path / "b", shard_size=100)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_all_layouts_hold_the_same_samples(tmp_path: Path) -> None:
    import pyarrow.parquet

    write_shards(spec(40), tmp_path / "tar")
    llava = write_shards(spec(40), tmp_path / "llava", shard_size=15, layout="llava-json")
    write_shards(spec(40), tmp_path / "parquet", shard_size=15, layout="parquet")
    expected = records(tmp_path / "tar")
    lines = [json.loads(line) for line in llava.source.read_text(encoding="utf-8").splitlines()]
    rows = [
        row
        for path in sorted((tmp_path / "parquet").glob("*.parquet"))
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]
    assert len(expected) == len(lines) == len(rows) == 40
    for wanted, line, row in zip(expected, lines, rows, strict=True):
        assert wanted["id"] == line["id"] == row["id"]
        assert wanted["conversations"] == line["conversations"] == row["conversations"]
        picture = (tmp_path / "llava" / line["image"]).read_bytes() if "image" in line else None
        assert wanted["jpg"] == picture == (row["image"] and row["image"]["bytes"])


def test_img2dataset_holds_bare_captions(tmp_path: Path) -> None:
    write_shards(spec(20, tasks={"caption": 1.0}), tmp_path / "a", layout="img2dataset")
    with tarfile.open(tmp_path / "a" / "00000.tar") as tar:
        names = tar.getnames()
        text = tar.extractfile("00000000.txt").read().decode()  # type: ignore[union-attr]
        about = json.load(tar.extractfile("00000000.json"))  # type: ignore[arg-type]
    assert names[:3] == ["00000000.jpg", "00000000.json", "00000000.txt"] and len(names) == 60
    assert about["caption"] == text and text.endswith(".")
    with pytest.raises(UsageError, match="no room for the questions of 'chart'"):
        write_shards(spec(20, tasks={"chart": 1.0}), tmp_path / "b", layout="img2dataset")


def test_other_data_is_never_overwritten(tmp_path: Path) -> None:
    write_shards(spec(), tmp_path / "a")
    before = tree(tmp_path / "a")
    with pytest.raises(UsageError, match=r"manifest\.json: samples is 120, asked for 121; choose another --out"):
        write_shards(spec(121), tmp_path / "a")
    assert tree(tmp_path / "a") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not an empty folder"):
        write_shards(spec(), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(StorageError, match="cannot write"):
        write_shards(spec(), tmp_path / "mine" / "thesis.txt" / "deeper")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": {}}, "tasks are empty"),
        ({"tasks": {"caption": 0.0}}, "weight 0.0"),
        ({"levels": []}, "levels are empty"),
        ({"levels": [4]}, "level 4"),
        ({"tasks": {"ocr_word_unseen": 1.0}}, "heldout split only"),
    ],
)
def test_wrong_specifications_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write_shards(spec(**changes), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def interrupted_after(parts: int) -> Callable[[Any], int]:
    """`write_part` with Ctrl-C pressed after so many parts."""
    done = []

    def write(part: Any) -> int:
        if len(done) == parts:
            raise KeyboardInterrupt
        done.append(part)
        return write_part(part)

    return write


class TestCommand:
    """`sailctl synth` as its user sees it."""

    def run(self, *arguments: object, code: int = 0) -> Any:
        result = CliRunner().invoke(app, ["synth", *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result

    def test_json_says_what_was_made(self, tmp_path: Path) -> None:
        sheet = tmp_path / "sheet.png"
        options = ("--tasks", "caption=3,math", "--levels", "1,2", "--samples", 40, "--seed", 9, "--preview", sheet)
        summary = json.loads(self.run("--out", tmp_path / "a", *options, "--json").stdout)
        assert summary["samples"] == 40 and abs(summary["counts"]["caption"] - 30) <= 2
        assert summary["spec"]["levels"] == [1, 2] and summary["spec"]["seed"] == 9
        assert summary["source"] == str(tmp_path / "a") and not summary["complete_before"]
        assert len(records(tmp_path / "a")) == 40
        assert Image.open(sheet).format == "PNG"

    def test_dry_run_writes_nothing(self, tmp_path: Path) -> None:
        result = self.run("--out", tmp_path / "a", "--preview", tmp_path / "p.png", "--dry-run")
        assert "nothing was written" in result.stdout and not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--tasks", "captoin"), "unknown task 'captoin'"),
            (("--tasks", "caption=x"), "'x' of 'caption' is no number"),
            (("--tasks", "math,math"), "named twice"),
            (("--levels", "1;2"), "whole numbers"),
            (("--split", "test"), "use train or heldout"),
            (("--format", "zip"), "unknown synth format 'zip'"),
            (("--lang", "zh", "--tasks", "ocr_word"), "--font"),
            (("--font", "/absent.ttf"), "/absent.ttf"),
            (("--preview", "p.txt"), "the contact sheet is a PNG; call it p.png"),
        ],
    )
    def test_wrong_options_end_with_one_line_and_code_2(
        self, tmp_path: Path, arguments: tuple[str, ...], message: str
    ) -> None:
        result = self.run("--out", tmp_path / "a", "--samples", 5, *arguments, code=2)
        assert message in result.stderr and result.stderr.count("error:") == 1 and not result.stdout
        assert not list(tmp_path.iterdir())

    def test_a_refused_folder_leaves_no_preview(self, tmp_path: Path) -> None:
        (tmp_path / "e").mkdir()
        (tmp_path / "e/mine.txt").write_text("mine")
        result = self.run("--out", tmp_path / "e", "--samples", 5, "--preview", tmp_path / "p.png", code=2)
        assert "not a synth data set" in result.stderr and not (tmp_path / "p.png").exists()

    def test_ctrl_c_says_what_is_kept_and_a_rerun_completes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = ("--out", tmp_path / "a", "--samples", 1002, "--tasks", "math", "--levels", 1, "--size", 112)
        with monkeypatch.context() as patch:
            patch.setattr(shards, "write_part", interrupted_after(1))
            result = self.run(*options, code=130)
        assert (
            result.stderr.startswith("interrupted: complete shards are kept in") and "1,000 of 1,002" in result.stderr
        )
        assert "makes the rest" in result.stderr
        assert "1,002 samples written" in self.run(*options).stdout

    def test_nothing_to_write_is_said(self) -> None:
        assert "--out" in self.run("--samples", 5, code=2).stderr


@pytest.mark.parametrize("layout", ["tar", "parquet", "llava-json"])
def test_the_folder_it_names_is_a_source(tmp_path: Path, layout: str) -> None:
    """The manifest beside the shards is not taken for data; shards deleted after reading do not block a new set."""
    spec = SynthConfig(tasks={"caption": 1}, samples=5)
    written = write_shards(spec, tmp_path / "set", layout=layout)
    assert len(open_source(SourceConfig(name="s", path=str(written.source)))) == 5
    if layout == "tar":
        for path in (tmp_path / "set").glob("[!.]*"):
            path.unlink()
        assert list((tmp_path / "set").glob(".*.sailctl-index"))
        again = write_shards(spec, tmp_path / "set")
        assert len(open_source(SourceConfig(name="s", path=str(again.source)))) == 5
