"""A source through caption sidecars: exactly the captioned samples, known by their ids, in any order, on any worker."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sailctl.core.data.captions import CaptionedSource
from sailctl.core.data.encode import full_turns
from sailctl.core.data.sources import open_source
from sailctl.core.errors import DataError, SampleError, UsageError
from sailctl.core.records import Turn, sample_id
from sailctl.core.schema.data import SourceConfig
from tests.helpers_data import picture, write_tar


def row(shard: str, number: int, images: list[bytes], said: str | None, text: str, **more: Any) -> dict[str, Any]:
    """A sidecar's row for a sample whose raw caption is `said`."""
    turns = () if said is None else (Turn("assistant", said),)
    return {
        "id": sample_id(images, turns),
        "shard": shard,
        "row": number,
        "key": f"k{number}",
        "text": text,
        "turns": None,
        **more,
    }


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    kinds = {"row": pa.int64(), "turns": pa.list_(turn)}
    names = ["id", "shard", "row", "key", "text", "turns"]
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=2)
    return path


def captioned(data: Path, captions: Path) -> CaptionedSource:
    source = open_source(SourceConfig(name="s", path=str(data), captions=str(captions)))
    assert isinstance(source, CaptionedSource)
    return source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a.tar with five pictures, the first two with a caption, the others without any text."""
    members = []
    for number in range(5):
        members.append((f"k{number}.png", picture(number)))
        if number < 2:
            members.append((f"k{number}.txt", f"raw {number}".encode()))
    write_tar(tmp_path / "data" / "a.tar" if (tmp_path / "data").mkdir() is None else tmp_path, members)
    return tmp_path


def test_rows_of_the_sidecar_are_the_samples(folder: Path) -> None:
    pairs = [{"role": "user", "content": "<image>\nWhich?"}, {"role": "assistant", "content": "This."}]
    rows = [
        row("a.tar", 3, [picture(3)], None, "new three"),
        row("a.tar", 0, [picture(0)], "raw 0", "new zero"),
        row("a.tar", 4, [picture(4)], None, "Q: Which?\nA: This.", turns=pairs),
    ]
    source = captioned(folder / "data", write(folder / "captions" / "a.parquet", rows))
    samples = [source.read(ordinal) for ordinal in range(len(source))]
    assert [sample.key for sample in samples] == ["k3", "k0", "k4"]
    assert [sample.id for sample in samples] == [one["id"] for one in rows]
    assert [sample.turns for sample in samples[:2]] == [
        (Turn("assistant", "new three"),),
        (Turn("assistant", "new zero"),),
    ]
    assert [sample.alt_text for sample in samples] == [None, "raw 0", None]
    assert samples[2].turns == (Turn("user", "<image>\nWhich?"), Turn("assistant", "This."))
    assert full_turns(samples[0])[1] == Turn("assistant", "new three") and samples[1].images == (picture(0),)
    again = pickle.loads(pickle.dumps(source))
    assert again.read(1) == samples[1] and again.fingerprint() == source.fingerprint()
    again.close()
    source.close()


def test_a_picture_without_text_is_still_no_sample_for_training(folder: Path) -> None:
    source = open_source(SourceConfig(name="s", path=str(folder / "data")))
    assert source.read(1).turns
    with pytest.raises(SampleError, match="no_turns"):
        source.read(2)
    source.close()


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"id": "0" * 32}, f"row 3 of it is {sample_id([picture(3)], ())}"),
        ({"row": 9}, "it has no row 9"),
        ({"shard": "b.tar"}, "it is not in the source"),
    ],
)
def test_a_sample_that_is_not_there_is_a_reject_that_says_so(change: dict[str, Any], detail: str, folder: Path) -> None:
    rows = [{**row("a.tar", 3, [picture(3)], None, "new"), **change}]
    source = captioned(folder / "data", write(folder / "captions" / "a.parquet", rows))
    with pytest.raises(SampleError) as refused:
        source.read(0)
    assert (refused.value.reason, refused.value.key) == ("caption_mismatch", "k3") and detail in refused.value.detail
    assert "captions/a.parquet has a caption for sample" in refused.value.detail
    source.close()


def test_a_broken_raw_sample_keeps_its_own_reason(folder: Path) -> None:
    write_tar(folder / "data" / "b.tar", [("k0.json", b"{"), ("k1.png", picture(8))])
    rows = [row("b.tar", 0, [picture(0)], None, "new"), row("b.tar", 1, [picture(8)], None, " ")]
    source = captioned(folder / "data", write(folder / "captions" / "b.parquet", rows))
    for ordinal, reason in enumerate(("bad_json", "no_answer")):
        with pytest.raises(SampleError, match=reason):
            source.read(ordinal)
    source.close()


def test_equal_names_in_different_folders_are_told_apart_by_ids(tmp_path: Path) -> None:
    for number, name in enumerate("xy"):
        (tmp_path / name).mkdir()
        write_tar(tmp_path / name / "0.tar", [("k0.png", picture(number)), ("k1.png", picture(number + 2))])
    for number, name in enumerate(("0-1", "0-2")):
        rows = [row("0.tar", at, [picture(number + 2 * at)], None, f"{number} {at}") for at in range(2)]
        write(tmp_path / "captions" / f"{name}.parquet", rows)
    source = captioned(tmp_path / "*" / "0.tar", tmp_path / "captions")
    found = [(source.read(n).turns[0].text, source.read(n).images) for n in (3, 0, 1, 2)]
    assert found == [
        ("1 1", (picture(3),)),
        ("0 0", (picture(0),)),
        ("0 1", (picture(2),)),
        ("1 0", (picture(1),)),
    ]
    source.close()


def test_the_fingerprint_covers_data_and_sidecars(folder: Path) -> None:
    rows = [row("a.tar", 3, [picture(3)], None, "new"), row("a.tar", 4, [picture(4)], None, "newer")]
    prints = set()
    for number, texts in enumerate((("new", "newer"), ("new", "other"))):
        changed = [{**one, "text": text} for one, text in zip(rows, texts, strict=True)]
        source = captioned(folder / "data", write(folder / f"c{number}" / "a.parquet", changed))
        prints.add(source.fingerprint())
        source.close()
    write_tar(folder / "data" / "a.tar", [("k3.png", picture(3))])
    source = captioned(folder / "data", folder / "c0")
    prints.add(source.fingerprint())
    source.close()
    assert len(prints) == 3


def test_what_is_no_folder_of_sidecars_is_refused_in_words(folder: Path) -> None:
    write(folder / "out" / "detailed-en" / "a.parquet", [row("a.tar", 3, [picture(3)], None, "new")])
    with pytest.raises(UsageError, match=r"no sidecars \(.parquet\) at captions: .*; name a task: .*out/detailed-en"):
        captioned(folder / "data", folder / "out")
    with pytest.raises(UsageError, match="make them with: sailctl caption"):
        captioned(folder / "data", folder / "nowhere")
    pq.write_table(pa.table({"image": [b""]}), folder / "other.parquet")
    with pytest.raises(DataError, match=r"other.parquet is no sidecar of sailctl caption: column id, shard"):
        captioned(folder / "data", folder / "other.parquet")
    with pytest.raises(UsageError, match="hold no rows"):
        captioned(folder / "data", write(folder / "empty" / "a.parquet", []))
