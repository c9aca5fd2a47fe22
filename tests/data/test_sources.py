"""The four layouts, read as they are; what is broken, missing or hostile."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import tarfile

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sailctl.core.data.layouts import safe_join
from sailctl.core.data.sources import open_source
from sailctl.core.errors import DataError, SampleError, UsageError
from sailctl.core.records import Turn
from sailctl.core.schema.data import SourceConfig
from tests.helpers_data import conversation, picture, write_jsonl, write_tar


def source(path, **options):
    return open_source(SourceConfig(name="s", path=str(path), **options))


def reason(found, ordinal):
    with pytest.raises(SampleError) as caught:
        found.read(ordinal)
    return caught.value.reason


PNG, OTHER = picture(0), picture(1)


def test_img2dataset_tar(tmp_path):
    stats = {"url": "http://a.b/c", "caption": "in the json", "width": 40, "alt_text": "alt"}
    path = write_tar(
        tmp_path / "00000.tar",
        [
            ("000.jpg", PNG),
            ("000.json", json.dumps(stats).encode()),
            ("000.txt", b" a caption\r\nof two lines \n"),
            ("001.jpg", OTHER),
            ("001.json", json.dumps(stats).encode()),
            ("002.JPG", OTHER),
            ("002.txt", b"\xef\xbb\xbfwith a mark"),
        ],
    )
    (tmp_path / "00000_stats.json").write_text("{}")  # img2dataset leaves these beside the tar
    (tmp_path / "00000.parquet").write_bytes(b"")
    found = source(tmp_path)
    assert len(found) == 3 and found.shards == [str(path)]
    first = found.read(0)
    assert first.images == (PNG,) and first.turns == (Turn("assistant", "a caption\nof two lines"),)
    assert first.is_bare_caption and first.key == "000" and first.source == "s" and first.alt_text == "alt"
    assert first.meta == {"url": "http://a.b/c", "width": 40}
    assert found.read(1).turns == (Turn("assistant", "in the json"),)
    assert found.read(2).turns == (Turn("assistant", "with a mark"),)
    assert len({found.read(number).id for number in range(3)}) == 3


def test_llava_tar_with_several_pictures_and_text_alone(tmp_path):
    turns = conversation("<image>\n<image>\nwhich?", "the first", "sure?", "yes")
    path = write_tar(
        tmp_path / "a.tar",
        [
            ("0.0.png", PNG),
            ("0.1.png", OTHER),
            ("0.json", json.dumps({"conversations": turns, "task": "t"}).encode()),
            ("1.json", json.dumps({"conversations": conversation("why?", "because")}).encode()),
            ("2.json", json.dumps({"image": "2.jpg", "conversations": conversation("<image>?", "x")}).encode()),
        ],
    )
    found = source(path)
    assert found.read(0).images == (PNG, OTHER) and found.read(0).meta == {"task": "t"}
    assert [turn.role for turn in found.read(0).turns] == ["user", "assistant"] * 2
    assert found.read(1).images == () and found.read(1).turns[0] == Turn("user", "why?")
    assert reason(found, 2) == "no_image"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    (tmp_path / "images" / "a.png").write_bytes(PNG)
    (tmp_path / "images" / "sub" / "b.png").write_bytes(OTHER)
    return tmp_path


def test_json_lines_as_published_with_pictures_beside_them(folder):
    # the shape of a real file: extra captions, an alt text, pictures named without a folder
    row = {
        "id": "astronaut",
        "image": "a.png",
        "alt_text": "portrait of an astronaut",
        "caption_en": "A smiling woman.",
        "caption_zh": "一位女宇航员。",
        "conversations": conversation("<image>\nDescribe this picture in detail.", "A smiling woman."),
    }
    path = write_jsonl(folder / "images" / "samples.jsonl", [row, {**row, "image": ["a.png", "./sub/../sub/b.png"]}])
    found = source(path)
    first = found.read(0)
    assert (first.key, first.alt_text, first.images) == ("astronaut", "portrait of an astronaut", (PNG,))
    assert first.turns == (
        Turn("user", "<image>\nDescribe this picture in detail."),
        Turn("assistant", "A smiling woman."),
    )
    assert first.meta == {"id": "astronaut", "caption_en": "A smiling woman.", "caption_zh": "一位女宇航员。"}
    assert found.read(1).images == (PNG, OTHER)


def test_json_array_image_root_roles_and_folders(folder):
    rows = [
        {
            "image": "a.png",
            "messages": [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "!"}],
        },
        {"images": ["sub/b.png"], "caption": "noise"},
        {"id": 7, "text": "noise again", "image": str(folder / "images" / "a.png")},
        {"conversations": [{"from": "system", "value": "be kind"}, *conversation("q", "a")]},
    ]
    path = folder / "data.json"
    path.write_text(json.dumps(rows, indent=1))
    found = source(path, image_root=str(folder / "images"))
    assert [found.read(number).images for number in range(4)] == [(PNG,), (OTHER,), (PNG,), ()]
    assert found.read(0).turns[0].role == "user" and found.read(2).key == "7" and found.read(1).key == "data.json#1"
    assert [turn.role for turn in found.read(3).turns] == ["system", "user", "assistant"]
    assert len(source(folder, image_root=str(folder / "images"))) == 4  # the folder holds one kind of shard
    with pytest.raises(UsageError, match="image_root"):
        source(path, image_root=str(folder / "nowhere"))


def test_parquet_in_every_shape(folder):
    turns = pa.array([conversation("<image>?", "a"), conversation("<image>?", "b")] * 3)
    struct = [{"bytes": PNG, "path": "x.png"}, {"bytes": None, "path": "images/sub/b.png"}] * 3
    shapes = {
        "struct": struct,
        "list": [[entry] for entry in struct],
        "binary": [PNG, OTHER] * 3,
    }
    for name, images in shapes.items():
        column = "images" if name == "list" else "image"
        table = pa.table({column: images, "conversations": turns, "id": [f"k{i}" for i in range(6)], "n": range(6)})
        path = folder / f"{name}.parquet"
        pq.write_table(table, path, row_group_size=2)
        found = source(path)
        assert len(found) == 6
        assert [found.read(number).images for number in (5, 0, 3)] == [(OTHER,), (PNG,), (OTHER,)]
        assert found.read(4).key == "k4" and found.read(4).meta["n"] == 4
        assert [turn.text for turn in found.read(1).turns] == ["<image>?", "b"]
        assert len({found.read(number).id for number in range(6)}) == 2
        found.close()
        assert pickle.loads(pickle.dumps(found)).read(5).id == found.read(5).id
    pq.write_table(pa.table({"image": [PNG], "caption": ["noise"]}), folder / "bare.parquet")
    assert source(folder / "bare.parquet").read(0).is_bare_caption


def test_a_parquet_row_python_cannot_hold_is_one_broken_sample(tmp_path):
    text = pa.StringArray.from_buffers(2, pa.array([0, 1, 2], pa.int32()).buffers()[1], pa.py_buffer(b"a\xff"))
    pq.write_table(pa.table({"image": [PNG, PNG], "caption": text}), tmp_path / "a.parquet")
    found = source(tmp_path / "a.parquet")
    assert found.read(0).turns[0].text == "a"
    with pytest.raises(SampleError, match=r"unreadable: row 1: .*utf-8") as caught:
        found.read(1)
    assert caught.value.key == "a.parquet#1"


def test_equal_samples_have_equal_ids_in_every_layout(folder):
    asked = conversation("<image>", "noise\n")  # nothing but a placeholder is no question
    write_tar(folder / "bare.tar", [("x.png", PNG), ("x.txt", b"noise")])
    write_tar(folder / "llava.tar", [("y.png", PNG), ("y.json", json.dumps({"conversations": asked}).encode())])
    write_jsonl(folder / "l.jsonl", [{"image": "images/a.png", "caption": " noise "}])
    (folder / "j.json").write_text(json.dumps([{"image": "images/a.png", "conversations": asked}]))
    pq.write_table(pa.table({"image": [{"bytes": PNG, "path": None}], "text": ["noise"]}), folder / "p.parquet")
    found = [source(folder / name).read(0) for name in ("bare.tar", "llava.tar", "l.jsonl", "j.json", "p.parquet")]
    assert len({(sample.id, sample.turns, sample.images) for sample in found}) == 1


TEXT = conversation("q", "a")
BROKEN = [
    ("bad_json", b'{"conversations": ['),
    ("bad_json", b"[1]"),
    ("bad_json", b"[" * 5000),
    ("bad_json", b'{"text": "\xff"}'),
    ("no_turns", {"image": "images/a.png"}),
    ("no_turns", {"conversations": []}),
    ("bad_turns", {"conversations": "text"}),
    ("bad_turns", {"conversations": ["text"]}),
    ("bad_turns", {"conversations": [{"from": "robot", "value": "x"}, TEXT[1]]}),
    ("bad_turns", {"conversations": [{"from": "human"}, TEXT[1]]}),
    ("bad_turns", {"conversations": [{"from": "human", "value": 3}, TEXT[1]]}),
    ("bad_turns", {"conversations": [TEXT[0], TEXT[0], TEXT[1]]}),
    ("bad_turns", {"conversations": [TEXT[1], TEXT[0]]}),
    ("bad_turns", {"conversations": [TEXT[0], TEXT[1], {"from": "system", "value": "late"}]}),
    ("bad_turns", {"text": 3}),
    ("bad_turns", {"text": "lone \ud800"}),
    ("no_answer", {"conversations": [TEXT[0]]}),
    ("no_answer", {"conversations": [TEXT[0], {"from": "gpt", "value": " \n"}]}),
    ("no_answer", {"caption": "  "}),
    ("placeholder_mismatch", {"conversations": conversation("<image><image>", "x"), "image": "images/a.png"}),
    ("no_image", {"image": "missing.png", "text": "x"}),
    ("no_image", {"image": "images/a.png/deeper", "text": "x"}),
    ("no_image", {"image": 3, "text": "x"}),
    ("no_image", {"image": [""], "text": "x"}),
    ("unreadable", {"image": "images", "text": "x"}),
    ("unsafe_path", {"image": "../../etc/passwd", "text": "x"}),
    ("unsafe_path", {"image": "images/../../secret.png", "text": "x"}),
    ("unsafe_path", {"image": "/etc/passwd", "text": "x"}),
    ("unsafe_path", {"image": ["images/a.png", "file:///etc/passwd"], "text": "x"}),
    ("unsafe_path", {"image": "images/a.png\0.txt", "text": "x"}),
    ("unsafe_path", {"image": "..\\..\\x.png", "text": "x"}),
]


def test_every_broken_record_has_its_reason(folder):
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for _, row in BROKEN]
    (folder / "broken.jsonl").write_bytes(b"\n".join(lines) + b"\n" + json.dumps({"text": "fine"}).encode())
    found = source(folder / "broken.jsonl")
    assert [reason(found, number) for number in range(len(BROKEN))] == [expected for expected, _ in BROKEN]
    assert found.read(len(BROKEN)).turns == (Turn("assistant", "fine"),)
    with pytest.raises(SampleError) as caught:
        found.read(0)
    assert caught.value.key == "broken.jsonl#0"


def test_an_absolute_path_outside_is_refused_though_it_exists(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in-side").mkdir()
    for name in ("secret.png", "in-side/secret.png"):
        (tmp_path / name).write_bytes(PNG)
        write_jsonl(tmp_path / "in" / "x.jsonl", [{"image": str(tmp_path / name), "text": "x"}])
        assert reason(source(tmp_path / "in" / "x.jsonl"), 0) == "unsafe_path"
    assert safe_join("memory://a", "b/c.png") == "memory://a/b/c.png"
    assert safe_join("memory://a", "memory://a/c.png") == "memory://a/c.png"
    for path in ("memory://other/c.png", "../c.png", "/c.png", "s3://a/c.png"):
        with pytest.raises(SampleError, match="unsafe_path"):
            safe_join("memory://a", path)


def test_hostile_tar_members(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind in [
            ("../../etc/0.jpg", tarfile.REGTYPE),
            ("/etc/1.jpg", tarfile.REGTYPE),
            ("a/../../2.jpg", tarfile.REGTYPE),
            ("3.jpg", tarfile.SYMTYPE),
            ("4.jpg", tarfile.LNKTYPE),
            ("5.jpg", tarfile.CHRTYPE),
            ("6.txt", tarfile.REGTYPE),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd" if kind != tarfile.REGTYPE else ""
            info.size = 4 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"text"))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    found = source(tmp_path / "a.tar")
    assert [reason(found, number) for number in range(6)] == ["unsafe_path"] * 6
    assert found.read(6).turns == (Turn("assistant", "text"),)


def test_a_truncated_tar_keeps_its_readable_samples(tmp_path):
    path = write_tar(tmp_path / "a.tar", [m for i in range(5) for m in ((f"{i}.png", PNG), (f"{i}.txt", b"noise"))])
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"3.txt") - 700])  # inside 3.png
    found = source(path)
    assert len(found) == 4 and [found.read(number).key for number in range(3)] == ["0", "1", "2"]
    with pytest.raises(SampleError, match=r"unreadable: .*a\.tar: truncated .*3\.png") as caught:
        found.read(3)
    assert caught.value.key == "a.tar#3"


def test_nothing_there_is_a_usage_error_naming_the_path(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.jsonl").write_text("\n \n")
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "notes.md").write_text("x")
    write_tar(tmp_path / "none.tar", [])
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    for name in [
        "missing.tar",
        "empty",
        "*.webp",
        "empty.jsonl",
        "empty.json",
        "none.tar",
        "empty.parquet",
    ]:
        with pytest.raises(UsageError, match=name.replace("*", ".")) as caught:
            source(tmp_path / name)
        assert "\n" not in str(caught.value) and "'s'" in str(caught.value)
    with pytest.raises(UsageError, match="layout"):
        source(tmp_path / "notes.md")
    with pytest.raises(UsageError, match="different layouts"):
        source(tmp_path / "*e*.*t*")
    assert len(source(write_jsonl(tmp_path / "rows.md", [{"text": "x"}]), format="jsonl")) == 1


def test_garbage_shards_are_data_errors_naming_them(tmp_path):
    for name, data in (
        ("a.tar", b"no tar" * 1000),
        ("b.parquet", b"no parquet"),
        ("c.tar", b"\x1f\x8b" + b"x" * 900),
        ("d.tar", b""),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=name) as caught:
            source(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_shard_that_vanishes_or_shrinks_while_in_use(tmp_path):
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / name, [("0.txt", b"x" * 2000)])
    found = source(tmp_path)
    (tmp_path / "a.tar").unlink()
    (tmp_path / "b.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.tar cannot be opened"):
        found.read(0)
    with pytest.raises(DataError, match=r"b\.tar has changed"):
        found.read(1)
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "p.parquet")
    found = source(tmp_path / "p.parquet")
    (tmp_path / "p.parquet").unlink()
    with pytest.raises(DataError, match=r"p\.parquet cannot be opened"):
        found.read(0)


def test_a_zero_byte_tar_among_good_ones_is_one_counted_reject(tmp_path):
    write_tar(tmp_path / "a.tar", [("0.txt", b"x"), ("1.txt", b"y")])
    (tmp_path / "b.tar").write_bytes(b"")
    write_tar(tmp_path / "c.tar", [("2.txt", b"z")])
    found = source(tmp_path)
    assert len(found) == 4 and [found.read(n).key for n in (0, 1, 3)] == ["0", "1", "2"]
    with pytest.raises(SampleError, match=r"unreadable: .*b\.tar: zero bytes") as caught:
        found.read(2)
    assert caught.value.key == "b.tar#0"


@pytest.mark.parametrize("name", ["a.tar", "a.jsonl"])
def test_a_shard_that_is_touched_goes_on_and_one_that_is_edited_ends_the_run(tmp_path, name):
    def write(text: str) -> None:
        if name.endswith(".tar"):
            write_tar(tmp_path / name, [("0.txt", text.encode()), ("1.txt", b"y")])
        else:
            write_jsonl(tmp_path / name, [{"text": text}, {"text": "y"}])

    write("first")
    found, restored = source(tmp_path / name), source(tmp_path / name)
    ids = [found.read(n).id for n in range(2)]
    os.utime(tmp_path / name, (1, 1))
    assert [found.read(n).id for n in range(2)] == ids
    write("longer by far" * 100)  # in place, under an open handle
    with pytest.raises(DataError, match=rf"{name} has changed since this run began \(\d+ bytes then, \d+ now\)"):
        found.read(1)
    with pytest.raises(DataError, match="has changed"):
        restored.read(1)
    write("first")
    assert [found.read(n).id for n in range(2)] == ids  # put back: nothing is lost


def test_many_shards_many_handles_and_fingerprints(tmp_path):
    for number in range(70):
        write_tar(tmp_path / f"{number:03d}.tar", [(f"{number}-{i}.txt", b"text") for i in range(number % 3)])
    found = source(tmp_path)
    keys = [found.read(number).key for number in range(len(found))]
    assert keys == [f"{number}-{i}" for number in range(70) for i in range(number % 3)]
    assert len(os.listdir("/proc/self/fd")) < 400 if os.path.exists("/proc/self/fd") else True
    with pytest.raises(IndexError):
        found.read(len(found))
    same = found.fingerprint()
    assert source(tmp_path).fingerprint() == same
    write_tar(tmp_path / "002.tar", [("2-0.txt", b"text"), ("2-x.txt", b"text")])
    assert source(tmp_path).fingerprint() != same


def test_urls(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe(
        "/test_sources/a.tar", write_tar(tmp_path / "a.tar", [("0.png", PNG), ("0.txt", b"x")]).read_bytes()
    )
    filesystem.pipe("/test_sources/rows.jsonl", json.dumps({"image": "images/a.png", "text": "x"}).encode())
    filesystem.pipe("/test_sources/images/a.png", PNG)
    pq.write_table(pa.table({"image": [PNG], "text": ["x"]}), tmp_path / "p.parquet")
    filesystem.pipe("/test_sources/p.parquet", (tmp_path / "p.parquet").read_bytes())
    try:
        ids = {
            source(f"memory://test_sources/{name}").read(0).id
            for name in ("a.tar", "rows.jsonl", "p.parquet", "*.tar", "")
        }
        assert len(ids) == 1
        assert (tmp_path / "sailctl" / "index").is_dir()
        gone = source("memory://test_sources/a.tar")
        filesystem.rm("/test_sources/a.tar")
        with pytest.raises(DataError, match="cannot be opened"):
            gone.read(0)
    finally:
        filesystem.rm("/test_sources", recursive=True)
    with pytest.raises(UsageError, match="memory://nowhere"):
        source("memory://nowhere")


def test_handles_are_not_shared_over_a_fork(tmp_path):
    pq.write_table(pa.table({"text": [f"text {i}" for i in range(20)]}), tmp_path / "p.parquet", row_group_size=1)
    found = source(tmp_path / "p.parquet")
    found.read(0)
    if "fork" in multiprocessing.get_all_start_methods():
        inherited = dict(found._handles)
        child = os.fork()
        if child == 0:
            found.read(7)
            os._exit(0 if found._process == os.getpid() and inherited[0] is not found._handles[0] else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert found.read(9).turns[0].text == "text 9"
