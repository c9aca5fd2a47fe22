"""Shards that are written: kept samples with their ids, equal bytes however they come about, a true manifest."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.curate.filter.request import FilterRequest
from sailctl.core.curate.write.request import WriteRequest, parse_bytes
from sailctl.core.curate.write.tar import TarShard, members_of
from sailctl.core.data.layouts import tar_sample
from sailctl.core.data.sources import open_source
from sailctl.core.data.verdicts import read_rows
from sailctl.core.errors import DataError, UsageError
from sailctl.core.records import Sample, Turn, sample_id
from sailctl.core.reporter import Quiet
from sailctl.core.schema.data import SourceConfig
from tests.curate.helpers_curate import captions_tar, files_in
from tests.helpers_data import conversation, picture, write_jsonl, write_tar

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """A tar of captions with meta, two equal keys and a sample that is broken; chats in JSON with several pictures."""
    members: list[tuple[str, bytes]] = []
    for number, key in enumerate(["x", "folder/y.a", "x", "z"]):
        meta = {"url": f"http://a.b/{number}", "alt_text": "café", "half": "\ud800"}
        members += [
            (f"{key.split('.')[0]}.jpg", picture(number, kind="JPEG")),
            (f"{key.split('.')[0]}.txt", b"a dog sits"),
        ]
        members += [(f"{key.split('.')[0]}.json", json.dumps(meta).encode())]
    write_tar(
        tmp_path / "captions.tar", [*members, ("w.json", b"{"), ("w.png", picture(9)), ("v.txt", "一只狗".encode())]
    )
    (tmp_path / "p").mkdir()
    for number in range(3):
        (tmp_path / f"p/{number}.png").write_bytes(picture(20 + number))
    two = conversation("<image><image>\nWhich?", "The first.")
    rows = [
        {"id": "c/1.png", "image": ["p/0.png", "p/1.png"], "conversations": two},
        {"id": "c/1.png", "image": "p/2.png", "conversations": conversation("What?", "A dog.", "Sure?", "Yes.")},
        {"id": 3, "conversations": conversation("Two and two?", "Four.\r\n")},
        {"id": 4, "image": "p/0.png", "messages": [{"role": "system", "content": "Be short."},
         {"role": "user", "content": "<image> What?"}, {"role": "assistant", "content": "A cat."}]},
    ]  # fmt: skip
    write_jsonl(tmp_path / "chats.jsonl", rows)
    return [str(tmp_path / "captions.tar"), str(tmp_path / "chats.jsonl")]


def samples(*paths: str | Path) -> Iterator[Sample]:
    for path in paths:
        source = open_source(SourceConfig(name=Path(path).name.split(".")[0].split("-")[0], path=str(path)))
        for ordinal in range(len(source)):
            try:
                yield source.read(ordinal)
            except Exception as error:
                assert getattr(error, "reason", "") == "bad_json"


def write(data: list[str], out: Path, **options: Any) -> dict[str, Any]:
    return WriteRequest(data, out, **{"shard_samples": 2, "processes": 1, **options}).run(Quiet())


def test_every_sample_is_read_back_as_it_was(data: list[str], tmp_path: Path) -> None:
    told = write(data, tmp_path / "out")
    before, after = list(samples(*data)), list(samples(*sorted((tmp_path / "out").glob("*.tar"))))
    assert [one.id for one in after] == [one.id for one in before] and len(after) == 9
    for old, new in zip(before, after, strict=True):
        assert (new.images, new.turns, new.alt_text) == (old.images, old.turns, old.alt_text)
        assert {name: value for name, value in new.meta.items() if name != "source_key"} == old.meta
    assert [one.key for one in after[:3]] == ["x", "folder_y", "x"], "equal keys, but in other shards"
    assert [one.key for one in after[5:7]] == ["c_1_png", "c_1_png-2"]
    assert after[5].meta["source_key"] == "c/1.png"
    assert (told["samples"], told["skipped"], told["shards"]) == (9, {"bad_json": 1}, 5)


def test_samples_without_a_usable_picture_are_skipped(tmp_path: Path) -> None:
    whole = picture(0, 100, 100, kind="JPEG")
    header = bytearray(picture(1, 40, 30))
    header[16:24] = struct.pack(">II", 40_000, 30_000)
    large = bytes(header[:29]) + struct.pack(">I", zlib.crc32(header[12:29])) + bytes(header[33:])
    found = {"whole": whole, "none": b"", "text": b"hello", "torn": whole[: len(whole) // 2], "large": large}
    members = [(f"{key}.{end}", data) for key, one in found.items() for end, data in (("jpg", one), ("txt", b"a dog"))]
    told = write([str(write_tar(tmp_path / "a.tar", members))], tmp_path / "out")
    assert told["skipped"] == {"bad_image": 3} and told["samples"] == 2
    rows = {row["key"]: row for path in (tmp_path / "out/written").glob("*") for row in pq.read_table(path).to_pylist()}
    assert {key for key, row in rows.items() if row["keep"]} == {"whole", "large"}
    assert rows["none"]["detail"].startswith("0 bytes, ") and rows["text"]["detail"].startswith("5 bytes, ")


def test_a_tar_without_its_end_is_told(data: list[str], tmp_path: Path) -> None:
    whole = Path(data[0]).read_bytes()
    (tmp_path / "half.tar").write_bytes(whole[: len(whole) // 2])
    told = write([str(tmp_path / "half.tar")], tmp_path / "out")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert told["skipped"] == {"unreadable": 1} and "half.tar: its end is missing" in told["warnings"][0]
    assert manifest["warnings"] == told["warnings"]


def test_the_layouts_are_those_of_img2dataset_and_llava(data: list[str], tmp_path: Path) -> None:
    write(data, tmp_path / "out", shard_samples=10)
    with tarfile.open(tmp_path / "out/captions-00000.tar") as tar:
        names = tar.getnames()
        assert names[:6] == ["x.jpg", "x.txt", "x.json", "folder_y.jpg", "folder_y.txt", "folder_y.json"]
        assert names[6] == "x-2.jpg" and names[-1] == "v.txt"
        assert {(one.mtime, one.uid, one.gid, one.uname, one.mode) for one in tar} == {(0, 0, 0, "", 0o644)}
    with tarfile.open(tmp_path / "out/chats-00000.tar") as tar:
        assert tar.getnames()[:3] == ["c_1_png.0.png", "c_1_png.1.png", "c_1_png.json"]
        record = json.load(tar.extractfile("c_1_png.json"))  # type: ignore[arg-type]
        assert record["conversations"][0] == {"from": "human", "value": "<image><image>\nWhich?"}
    found = list(webdataset.WebDataset(str(tmp_path / "out/captions-00000.tar"), shardshuffle=False))
    assert [one["__key__"] for one in found] == ["x", "folder_y", "x-2", "z", "v"]


def test_verdicts_and_the_mixture_decide_what_is_written(data: list[str], tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("rules:\n- words: {min: 2}\n")
    FilterRequest(data, tmp_path / "v", str(tmp_path / "rules.yaml"), processes=1).run(Quiet())
    wanted = [row["id"] for row in read_rows(tmp_path / "v") if row["keep"]]
    write(data, tmp_path / "out", verdicts=[str(tmp_path / "v")])
    assert [one.id for one in samples(*sorted((tmp_path / "out").glob("*.tar")))] == wanted
    assert 0 < len(wanted) < 9
    mixture = tmp_path / "m.yaml"
    entries = [{"name": f"s {number}", "path": path, "verdicts": [str(tmp_path / "v")], "weight": number + 1}
               for number, path in enumerate(data)]  # fmt: skip
    mixture.write_text(json.dumps({"sources": entries}))
    told = write([str(mixture)], tmp_path / "mixed")
    assert [one.id for one in samples(*sorted((tmp_path / "mixed").glob("*.tar")))] == wanted
    assert sorted(path.name for path in (tmp_path / "mixed").glob("*.tar"))[0] == "s-0-00000.tar"
    assert "--weight s-0=1.0" in told["next"] and "--weight s-1=2.0" in told["next"]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    lineage = manifest["sources"][0]["verdicts"][0]
    assert lineage["pass"]["pass"] == "filter" and lineage["pass"]["parameters"]["rules"][0]["name"] == "words"


def test_the_manifest_is_true(data: list[str], tmp_path: Path) -> None:
    write(data, tmp_path / "out")
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    for one in manifest["shards"]:
        content = (tmp_path / "out" / one["name"]).read_bytes()
        assert (one["bytes"], one["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert one["samples"] == len(list(samples(tmp_path / "out" / one["name"])))
    assert [(one["name"], one["samples"], one["shards"]) for one in manifest["sources"]] == [
        ("captions", 5, 3), ("chats", 4, 2)
    ]  # fmt: skip
    rows = [
        row for path in sorted((tmp_path / "out/written").glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    assert [(row["shard"], row["row"], row["keep"]) for row in rows][:6] == [
        *(("captions.tar", number, True) for number in range(4)), ("captions.tar", 4, False), ("captions.tar", 5, True)
    ]  # fmt: skip
    assert all(row["written_id"] == row["id"] for row in rows if row["keep"])
    again = write([str(tmp_path / "out/chats-*.tar")], tmp_path / "again")
    assert again["sources"][0]["manifest"]["sha256"] == hashlib.sha256(
        (tmp_path / "out/manifest.json").read_bytes()
    ).hexdigest()  # fmt: skip


def visible(folder: Path) -> dict[str, bytes]:
    """Files but for indexes, which know when a shard was written."""
    return {name: found for name, found in files_in(folder).items() if not Path(name).name.startswith(".")}


def test_workers_decide_nothing_and_a_finished_write_is_verified(data: list[str], tmp_path: Path) -> None:
    write(data, tmp_path / "one")
    write(data, tmp_path / "two", processes=2)
    assert visible(tmp_path / "one") == visible(tmp_path / "two")
    assert (tmp_path / "one/.captions-00000.tar.sailctl-index").is_file()
    whole = visible(tmp_path / "one")
    assert write(data, tmp_path / "one")["verified"] is True
    shard = tmp_path / "one/captions-00001.tar"
    shard.write_bytes(shard.read_bytes().replace(b"a dog sits", b"a cat sits"))
    with pytest.raises(DataError, match=r"captions-00001.tar: is not what was written .* delete it, and the same"):
        write(data, tmp_path / "one")
    shard.unlink()
    assert write(data, tmp_path / "one")["verified"] is False
    assert visible(tmp_path / "one") == whole
    with pytest.raises(UsageError, match=r"was made with shard_samples\.captions = 2, now it is 3; give another --out"):
        write(data, tmp_path / "one", shard_samples=3)


KILLED = """
import sys
from pathlib import Path
from sailctl.core.curate.write.request import WriteRequest
from sailctl.core.reporter import Quiet
WriteRequest(sys.argv[2:], Path(sys.argv[1]), shard_samples=1, processes=1).run(Quiet())
"""


def test_killed_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    data = captions_tar(tmp_path / "a.tar", [f"caption {number}" for number in range(40)])
    write([str(data)], tmp_path / "whole", shard_samples=1)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "out"), str(data)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    while process.poll() is None and len(list((tmp_path / "out").glob("*.tar"))) < 3:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out/manifest.json").exists(), "killed before its end"
    (tmp_path / "out/.a-00009.tar.123.tmp").write_bytes(b"left")
    write([str(data)], tmp_path / "out", shard_samples=1)
    assert visible(tmp_path / "out") == visible(tmp_path / "whole")
    assert not list((tmp_path / "out").glob(".*.tar.*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["filter", "write"])
def test_killed_at_random_instants_by_two_processes(tmp_path: Path, command: str) -> None:
    for number in range(6):
        captions_tar(
            tmp_path / f"{number}.tar", ["dog " * (1 + count % 7) for count in range(1500)], [picture(0)] * 1500
        )
    options = ["--data", str(tmp_path / "*.tar"), "--processes", "2"]
    options += ["--shard-samples", "600"] if command == "write" else []
    line = [sys.executable, "-m", "sailctl", "curate", command, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*line, "--out", str(tmp_path / "whole")], env=environment, check=True)
    instants, kills = random.Random(0), 0
    while True:
        before = len(list((tmp_path / "out").rglob("*.parquet")))
        process = subprocess.Popen([*line, "--out", str(tmp_path / "out")], env=environment)
        while process.poll() is None and len(list((tmp_path / "out").rglob("*.parquet"))) == before:
            time.sleep(0.01)
        try:
            process.wait(instants.uniform(0, 0.3))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
        else:
            break
    assert process.returncode == 0 and kills >= 2
    assert visible(tmp_path / "out") == visible(tmp_path / "whole")


def test_captions_of_a_sidecar_are_applied(data: list[str], tmp_path: Path) -> None:
    raw = next(samples(data[0]))
    row = {"id": raw.id, "shard": "captions.tar", "row": 0, "key": "x", "text": "A brown dog.", "turns": None}
    (tmp_path / "side").mkdir()
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "side/captions.parquet")
    write(data[:1], tmp_path / "out", captions=str(tmp_path / "side"))
    new = next(samples(tmp_path / "out/captions-00000.tar"))
    assert (new.images, new.turns, new.alt_text) == (raw.images, (Turn("assistant", "A brown dog."),), "café")
    told = pq.read_table(tmp_path / "out/written/captions-00000.parquet").to_pylist()[0]
    assert (told["id"], told["written_id"]) == (raw.id, new.id) and new.id != raw.id


@pytest.mark.parametrize("text", ["\ufeffbegins with a mark", "a\nb", "…", "<image>", "{}"])
def test_odd_captions_keep_their_ids(text: str) -> None:
    turns = (Turn("assistant", text),)
    sample = Sample(sample_id([b"x"], turns), "k", "s", (b"x",), turns, None, {"raw": b"\xff", "nan": float("nan")})
    read = tar_sample(members_of(sample, "k"), "k", "s")
    assert read.id == sample.id and read.turns == turns
    assert read.meta == {"raw": "/w==", "nan": None}


def test_keys_are_plain_and_unique() -> None:
    shard = TarShard(io.BytesIO())
    keys = []
    for key in ["a", "A", "a/b.c", "../..", "", "日本", "k" * 300, "a"]:
        keys.append(shard.key_for(key))
        shard.add(keys[-1], {"txt": b"x"})
    assert keys == ["a", "A-2", "a_b_c", "sample", "sample-2", "日本", "k" * 120, "a-3"]


def test_sizes(data: list[str], tmp_path: Path) -> None:
    assert [parse_bytes(text) for text in ("500M", "1.5GB", "2GiB", "12k")] == [
        500_000_000,
        1_500_000_000,
        2 << 30,
        12_000,
    ]
    for wrong in ("x", "0", "-1G", "1T"):
        with pytest.raises(UsageError, match="give a size such as 500M"):
            parse_bytes(wrong)
    tar = captions_tar(tmp_path / "a.tar", ["dog " * 100] * 50)
    one = sum(512 + -(-len(member) // 512) * 512 for member in (picture(0), b"dog " * 100))
    told = write([str(tar)], tmp_path / "out", shard_samples=None, shard_bytes=f"{10 * one + 700}")
    sizes = [path.stat().st_size for path in sorted((tmp_path / "out").glob("*.tar"))]
    assert told["shards"] == 5 and max(sizes) < 1.2 * 10 * one
    with pytest.raises(UsageError, match="--shard-samples 2 and --shard-bytes 1M: give one"):
        write([str(tar)], tmp_path / "out", shard_bytes="1M")


def test_the_command(data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    base = ["curate", "write", "--data", data[1], "--processes", "1"]
    planned = runner.invoke(app, [*base, "--dry-run"])
    assert "would write 4 samples in 1 shards" in planned.stdout
    told = json.loads(runner.invoke(app, [*base, "--out", "o", "--json"]).stdout)
    assert (told["samples"], told["verified"]) == (4, False)
    shown = runner.invoke(app, [*base, "--out", "o"])
    assert "verified 4 samples" in shown.stdout
    missing = runner.invoke(app, base)
    assert missing.exit_code == 2 and "--out is missing" in missing.stderr
    assert replace(next(samples("o/chats-00000.tar")), source="").key == "c_1_png"
