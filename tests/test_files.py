"""Paths, shard listing, and writes that are complete or absent."""

from __future__ import annotations

import errno
import os
import re

import fsspec
import pytest
from safetensors import SafetensorError

from sailctl.core import files, stores
from sailctl.core.errors import DataError, StorageError, UsageError


def test_atomic_write_replaces_whole(tmp_path):
    target = tmp_path / "deep" / "file.bin"
    with files.atomic_write(target) as handle:
        handle.write(b"one")
    with files.atomic_write(target) as handle:
        handle.write(b"two")
        assert target.read_bytes() == b"one"
    assert target.read_bytes() == b"two" and os.listdir(target.parent) == ["file.bin"]


def test_atomic_write_leaves_nothing_after_an_error(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(ValueError), files.atomic_write(target, "w") as handle:
        handle.write("new")
        raise ValueError
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_names_path_and_free_bytes(tmp_path, monkeypatch, call):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError) as caught:
        files.write_json(tmp_path / "x.json", {"a": 1})
    assert str(tmp_path / "x.json") in str(caught.value) and "bytes free" in str(caught.value)
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == []


def test_a_real_full_device():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    with pytest.raises(StorageError, match="bytes free"):
        files.append_jsonl("/dev/full", [{"a": 1}])


@pytest.mark.parametrize("kind", [SafetensorError, Exception])
def test_a_full_disk_met_by_a_writer_without_an_error_class_of_its_own(tmp_path, kind):
    named = pytest.raises(StorageError, match=r"weights: No space left on device .* bytes free")
    with named, files.storage_errors(tmp_path / "weights"):
        raise kind("I/O error: No space left on device (os error 28)")
    with pytest.raises(DataError, match="os error 28"), files.storage_errors(tmp_path):
        raise DataError("a shard could not be read (os error 28)")


@pytest.mark.parametrize("below", ["", "x", "x/y"])
def test_a_file_where_a_folder_should_go_is_named(tmp_path, below):
    taken = tmp_path / "taken"
    taken.write_text("kept")
    told = f"{taken} is a file, not a folder; give another --out"
    with pytest.raises(StorageError, match=re.escape(told)) as caught:
        files.make_folder(taken / below)
    assert "permissions" not in str(caught.value)
    with pytest.raises(StorageError, match=re.escape(told)):
        files.write_json(taken / below / "pass.json", {})
    assert taken.read_text() == "kept"


def test_what_cannot_be_made_is_not_a_matter_of_permissions(tmp_path):
    (tmp_path / "astray").symlink_to(tmp_path / "nowhere" / "x")
    for path in (tmp_path / "astray", tmp_path / "astray" / "file"):
        with pytest.raises(StorageError, match=r"cannot write .*astray.*give another --out") as caught:
            files.write_json(path / "pass.json", {})
        assert "permissions" not in str(caught.value), str(caught.value)


def test_a_folder_where_a_file_should_go_is_a_storage_error(tmp_path):
    (tmp_path / "sheet.png").mkdir()
    with pytest.raises(StorageError, match="cannot write"), files.atomic_write(tmp_path / "sheet.png"):
        pass


@pytest.mark.parametrize("url", ["nowhere://bucket/x.tar", "nowhere://bucket/*.tar"])
def test_a_store_nobody_knows_is_a_usage_error(url):
    with pytest.raises(UsageError, match=f"{re.escape(url)}: cannot be opened: .*nowhere"):
        files.list_shards(url)


def test_writing_below_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"), files.atomic_write(tmp_path / "file" / "x"):
        pass


def test_jsonl_appends_after_a_torn_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    files.append_jsonl(path, [{"a": 1}, {"a": "ü"}])
    with open(path, "ab") as handle:
        handle.write(b'{"a": 3')
    assert files.read_jsonl(path) == [{"a": 1}, {"a": "ü"}]
    files.append_jsonl(path, [{"a": 4}], sync=True)
    assert files.read_jsonl(path) == [{"a": 1}, {"a": "ü"}, {"a": 4}]
    files.append_jsonl(path, [])
    path.write_bytes(b'{"a": 1}\nbroken\n{"a": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        files.read_jsonl(path)
    path.write_bytes(b"torn" * 50000)
    files.append_jsonl(path, [{"a": 5}])
    assert files.read_jsonl(path) == [{"a": 5}]


def test_append_takes_back_a_half_written_row(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    files.append_jsonl(path, [{"a": 1}])
    before = path.read_bytes()

    def half(handle, data):
        handle.write(data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_write_all", half)
    with pytest.raises(StorageError):
        files.append_jsonl(path, [{"a": 2}])
    assert path.read_bytes() == before


def test_list_shards(tmp_path):
    for name in ["b.tar", "a.tar", ".a.tar.sailctl-index", "a.parquet", "a_stats.json", "notes.md"]:
        (tmp_path / name).write_text("")
    tars = [str(tmp_path / "a.tar"), str(tmp_path / "b.tar")]
    assert files.list_shards(tmp_path) == tars
    assert files.list_shards(str(tmp_path / "*.tar")) == tars
    assert files.list_shards(tmp_path / "a.parquet") == [str(tmp_path / "a.parquet")]
    assert files.list_shards(tmp_path, [".json"]) == [str(tmp_path / "a_stats.json")]
    assert files.list_shards(tmp_path / "missing") == []
    assert files.list_shards(tmp_path / "no*.tar") == []


def test_urls():
    filesystem = fsspec.filesystem("memory")
    for name in ["b.tar", "a.tar", "notes.md"]:
        with filesystem.open(f"/test_files/{name}", "wb") as handle:
            handle.write(b"0123456789")
    tars = ["memory:///test_files/a.tar", "memory:///test_files/b.tar"]
    assert [
        name.replace("memory:///", "memory://").replace("memory://", "memory:///")
        for name in files.list_shards("memory://test_files")
    ] == tars
    assert len(files.list_shards("memory://test_files/*.tar")) == 2
    assert files.list_shards("memory://test_files/a.tar") == ["memory://test_files/a.tar"]
    assert files.list_shards("memory://nowhere") == []
    assert stores.read_range("memory://test_files/a.tar", 3, 4) == b"3456"
    assert files.file_stamp("memory://test_files/a.tar")[0] == 10
    with files.open_read("memory://test_files/a.tar") as handle:
        assert handle.read() == b"0123456789"
    filesystem.rm("/test_files", recursive=True)
