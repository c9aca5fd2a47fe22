"""Finding samples in shards: spans, broken tails, caches."""

from __future__ import annotations

import io
import json
import os
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sailctl.core.data import index
from sailctl.core.data.index import BrokenTar, index_json, index_lines, index_tar, shard_index, walk_tar
from sailctl.core.errors import DataError
from tests.helpers_data import write_tar


def of_bytes(indexer, data):
    return indexer(io.BytesIO(data), len(data))


def spans(indexer, data):
    return [data[start : start + length] for start, length in of_bytes(indexer, data).spans.tolist()]


def keys(data):
    """Names per sample, read back from the spans."""
    found = []
    for span in spans(index_tar, data):
        found.append([member.name for member in walk_tar(io.BytesIO(span), len(span), end_mark=False)])
    return found


@pytest.mark.parametrize("style", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_are_those_python_s_own_reader_sees(style):
    long = "" if style == tarfile.USTAR_FORMAT else "deep/" * 60
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=style) as tar:
        for name in ["a/0.jpg", "a/0.json", f"{long}1.jpg", f"{long}1.json", "2.jpg", "bild.größe.jpg"]:
            info = tarfile.TarInfo(name)
            info.size = len(name) * 100
            tar.addfile(info, io.BytesIO(name.encode()[:1] * info.size))
        tar.addfile(tarfile.TarInfo("empty.txt"))
    data = buffer.getvalue()
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as tar:
        expected = [(member.name, member.offset_data, member.size) for member in tar.getmembers()]
    buffer.seek(0)
    assert [(m.name, m.data, m.size) for m in walk_tar(buffer, len(data))] == expected
    assert keys(data)[:2] == [["a/0.jpg", "a/0.json"], [f"{long}1.jpg", f"{long}1.json"]]
    assert len(keys(data)) == 5


def tar_bytes(tmp_path, *names, end=True):
    return write_tar(tmp_path / "t.tar", [(name, name.encode() * 40) for name in names], end=end).read_bytes()


def test_grouping(tmp_path):
    data = tar_bytes(tmp_path, "./0.jpg", "./0.txt", "README", "1.img0.jpg", "1.img1.jpg", "1.json", ".hidden", "2.txt")
    assert keys(data) == [["./0.jpg", "./0.txt"], ["1.img0.jpg", "1.img1.jpg", "1.json"], ["2.txt"]]
    # the same key again is another sample, next to the first or not
    data = tar_bytes(tmp_path, "0.jpg", "0.txt", "0.jpg", "0.txt", "1.txt", "0.txt")
    assert [len(names) for names in keys(data)] == [2, 2, 1, 1]
    data = tar_bytes(tmp_path, "../../etc/passwd", "/abs/0.jpg", "/abs/0.txt", "1.txt")
    assert [len(names) for names in keys(data)] == [1, 2, 1]


def test_truncation_at_every_block_is_noticed_and_earlier_samples_stay(tmp_path):
    data = tar_bytes(tmp_path, "0.jpg", "0.txt", "1.jpg", "1.txt")
    assert of_bytes(index_tar, data).broken == ""
    end = data.rstrip(b"\0")
    lengths = set()
    for cut in range(1, len(end), 200):
        found = of_bytes(index_tar, data[:cut])
        assert found.broken and len(found) >= 1 and found.spans.min() >= 0
        assert (found.spans.sum(axis=1) <= cut).all()
        lengths.add(len(found))
    assert lengths == {1, 2, 3}
    # cut inside a member of sample 1: sample 0 stays, sample 1 is the broken tail
    found = of_bytes(index_tar, data[: len(end) - 10])
    assert found.spans.tolist()[0][0] == 0 and len(found) == 2 and "1.txt" in found.broken


def test_damage_is_no_regular_end(tmp_path):
    data = bytearray(tar_bytes(tmp_path, "0.txt", "1.txt", "2.txt"))
    data[1024 + 148 : 1024 + 156] = b"garbage!"  # the second header's checksum
    found = of_bytes(index_tar, bytes(data))
    assert len(found) == 2 and "bad header at byte 1024" in found.broken
    assert "bad header at byte 0" in of_bytes(index_tar, b"no tar at all " * 100).broken
    assert len(of_bytes(index_tar, b"")) == 1 and "zero bytes" in of_bytes(index_tar, b"").broken
    no_end = tar_bytes(tmp_path, "0.txt", "1.txt", end=False)
    assert len(of_bytes(index_tar, no_end)) == 3 and "end mark" in of_bytes(index_tar, no_end).broken


@given(st.binary(max_size=3000))
@settings(deadline=None)
def test_any_bytes_are_an_index_or_a_broken_tail(data):
    for indexer in (index_tar, index_lines, index_json):
        found = of_bytes(indexer, data)
        assert found.spans.shape == (len(found), 2) and (found.spans.sum(axis=1) <= len(data)).all()


def test_a_member_of_negative_or_absurd_size_is_broken(tmp_path):
    for size in (b"77777777777\0", b"\xff" * 12, b"\x80" + b"\x7f" * 11):
        data = bytearray(tar_bytes(tmp_path, "0.txt"))
        data[124:136] = size
        data[148:156] = b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])
        with pytest.raises(BrokenTar):
            list(walk_tar(io.BytesIO(bytes(data)), len(data)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(json_values, max_size=6), st.sampled_from([None, 1, "\t"]), st.booleans())
@settings(deadline=None)
def test_json_array_elements(values, indent, ascii_only):
    data = b"\xef\xbb\xbf " + json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode(
        "utf-8", "surrogatepass"
    )
    assert [json.loads(span.decode("utf-8", "surrogatepass")) for span in spans(index_json, data)] == values


def test_json_that_is_torn_or_lines():
    assert spans(index_json, b'[{"a": 1}, {"b": 2') == [b'{"a": 1}', b' {"b": 2']
    assert spans(index_json, b'{"a": 1}\n\n{"b": 2}\n') == [b'{"a": 1}\n', b'{"b": 2}\n']
    assert spans(index_json, b"[]") == [] and spans(index_json, b"") == [] and spans(index_json, b"[{},]") == [b"{}"]
    assert spans(index_lines, b'{"a": 1}\r\n  \n{"b"') == [b'{"a": 1}\r\n', b'{"b"']


def test_the_cache_is_used_and_renewed(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", [("0.txt", b"x"), ("1.txt", b"y")])
    first = shard_index(str(path), "tar")
    cache = tmp_path / ".a.tar.sailctl-index"
    assert cache.exists() and sorted(os.listdir(tmp_path)) == [".a.tar.sailctl-index", "a.tar"]
    monkeypatch.setitem(index._INDEXERS, "tar", None)  # must not be called
    again = shard_index(str(path), "tar")
    np.testing.assert_array_equal(first.spans, again.spans)
    assert again.digest == first.digest
    monkeypatch.undo()
    os.utime(path, ns=(1, 1))
    cache.write_bytes(b"torn")
    assert len(shard_index(str(path), "tar")) == 2
    write_tar(path, [("0.txt", b"x")])
    assert len(shard_index(str(path), "tar")) == 1


def test_a_cache_of_impossible_spans_is_made_anew(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("0.txt", b"x")])
    made = shard_index(str(path), "tar")
    cache = tmp_path / ".a.tar.sailctl-index"
    with np.load(cache) as stored:
        about = stored["about"]
    with open(cache, "wb") as handle:
        np.savez(handle, spans=np.array([[0, 10**9]], np.int64), about=about)
    np.testing.assert_array_equal(shard_index(str(path), "tar").spans, made.spans)


@pytest.mark.parametrize("how", ["read-only", "name taken"])
def test_a_folder_that_is_not_ours_uses_the_user_s_cache(tmp_path, monkeypatch, how):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    path = write_tar(folder / "a.tar", [("0.txt", b"x")])
    if how == "read-only":
        folder.chmod(0o555)  # holds for root, too, who could write there
    else:
        (folder / ".a.tar.sailctl-index").mkdir()
    before = sorted(os.listdir(folder))
    try:
        assert len(shard_index(str(path), "tar")) == 1
        assert sorted(os.listdir(folder)) == before
    finally:
        folder.chmod(0o755)
    assert len(list((tmp_path / "cache" / "sailctl" / "index").iterdir())) == 1


def test_a_shard_that_is_gone(tmp_path):
    with pytest.raises(DataError, match=r"gone\.tar cannot be read"):
        shard_index(str(tmp_path / "gone.tar"), "tar")
