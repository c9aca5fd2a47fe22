"""Training through verdicts: a source without what was dropped, and nothing of another sample in its place."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sailctl.core.data.sources import open_source
from sailctl.core.data.verdicts import read_rows, tables
from sailctl.core.errors import DataError, SampleError, UsageError
from sailctl.core.schema.data import SourceConfig
from tests.helpers_data import picture, write_tar


def tar(path: Path, first: int, texts: list[str]) -> Path:
    members: list[tuple[str, bytes]] = []
    for number, text in enumerate(texts, first):
        members += [(f"{number}.png", picture(number % 2)), (f"{number}.txt", text.encode())]
    return write_tar(path, members)


def judge(folder: Path, config: SourceConfig, keep: dict[str, bool], name: str = "a", **changes: Any) -> Path:
    """Verdicts on every sample of a source by key."""
    source = open_source(config)
    rows = []
    for ordinal in range(len(source)):
        sample = source.read(ordinal)
        shard, row = source.locate(ordinal)
        place = {"id": sample.id, "source": name, "shard": Path(source.shards[shard]).name, "row": row}
        rows.append({**place, "key": sample.key, "keep": keep[sample.key], "reason": "", "detail": "", **changes})
    folder.mkdir(parents=True)
    for number in range(0, len(rows), 2):
        pq.write_table(pa.Table.from_pylist(rows[number : number + 2]), folder / f"{number}.parquet")
    return folder


@pytest.fixture
def config(tmp_path: Path) -> SourceConfig:
    (tmp_path / "shards").mkdir()
    tar(tmp_path / "shards/0.tar", 0, ["one", "two", "one"])  # 0 and 2 are copies: one id
    tar(tmp_path / "shards/1.tar", 3, ["four", "five"])
    return SourceConfig(name="a", path=str(tmp_path / "shards"))


def keys(config: SourceConfig, *verdicts: Path) -> list[str]:
    source = open_source(config.model_copy(update={"verdicts": [str(path) for path in verdicts]}))
    return [source.read(number).key for number in range(len(source))]


def test_what_is_dropped_is_no_sample_and_copies_are_told_apart(config: SourceConfig, tmp_path: Path) -> None:
    one = judge(tmp_path / "v", config, {"0": True, "1": True, "2": False, "3": False, "4": True})
    assert keys(config, one) == ["0", "1", "4"]


def test_all_verdicts_must_keep_it(config: SourceConfig, tmp_path: Path) -> None:
    one = judge(tmp_path / "v/verdicts/x", config, {"0": True, "1": True, "2": False, "3": False, "4": True})
    two = judge(tmp_path / "w", config, {"0": False, "1": True, "2": True, "3": True, "4": True}, name="other")
    assert keys(config, tmp_path / "v", two) == ["1", "4"]
    assert tables(tmp_path / "v") == tables(one)
    assert [row["key"] for row in read_rows(tmp_path / "v")] == ["0", "1", "2", "3", "4"]


def test_parts_travel_and_have_prints_of_their_own(config: SourceConfig, tmp_path: Path) -> None:
    all_but_one = {"0": True, "1": True, "2": False, "3": True, "4": True}
    one = judge(tmp_path / "v", config, all_but_one)
    two = judge(tmp_path / "w", config, {**all_but_one, "1": False, "2": True})
    judged = [open_source(config.model_copy(update={"verdicts": [str(path)]})) for path in (one, two)]
    assert len({source.fingerprint() for source in [*judged, open_source(config)]}) == 3
    assert pickle.loads(pickle.dumps(judged[0])).read(3).key == "4"
    half = open_source(config.model_copy(update={"verdicts": [str(one)], "samples": 2}))
    assert len(half) == 2 and {half.read(0).key, half.read(1).key} <= {"0", "1", "3", "4"}


def test_another_sample_in_its_place_is_refused(config: SourceConfig, tmp_path: Path) -> None:
    one = judge(tmp_path / "v", config, dict.fromkeys("01234", True))
    tar(tmp_path / "shards/0.tar", 0, ["one", "else", "one"])
    source = open_source(config.model_copy(update={"verdicts": [str(one)]}))
    assert source.read(0).key == "0"
    with pytest.raises(SampleError, match=r"verdict_mismatch: [0-9a-f]{32} was judged, but") as caught:
        source.read(1)
    assert caught.value.key == "1"


def test_verdicts_that_do_not_fit_are_refused(config: SourceConfig, tmp_path: Path) -> None:
    one = judge(tmp_path / "v", config, dict.fromkeys("01234", True))
    (one / "4.parquet").unlink()
    with pytest.raises(UsageError, match=r"say nothing of 1 of its 5 samples \(1.tar#1 for one\)"):
        keys(config, one)
    with pytest.raises(UsageError, match="drop all of it, 5 samples"):
        keys(config, judge(tmp_path / "none", config, dict.fromkeys("01234", False)))
    with pytest.raises(UsageError, match="no verdicts"):
        keys(config, tmp_path / "nowhere")
    (tmp_path / "bad").mkdir()
    pq.write_table(pa.table({"id": ["x"]}), tmp_path / "bad/x.parquet")
    with pytest.raises(DataError, match="is no table of verdicts: column source, shard, row, keep is missing"):
        keys(config, tmp_path / "bad")
    tar(tmp_path / "shards/0.tar", 0, ["one"])
    with pytest.raises(DataError, match="rows that its shards do not have"):
        keys(config, judge(tmp_path / "more", config, dict.fromkeys("034", True), row=7))


@pytest.fixture
def captioned(config: SourceConfig, tmp_path: Path) -> SourceConfig:
    """The source through sidecars of other names and another order, that say nothing of the fourth sample."""
    source = open_source(config)
    (tmp_path / "captions").mkdir()
    for number, ordinals in enumerate([[4], [0, 2, 1]]):
        rows = []
        for ordinal in ordinals:
            sample, (shard, row) = source.read(ordinal), source.locate(ordinal)
            name = Path(source.shards[shard]).name
            rows.append({"id": sample.id, "shard": name, "row": row, "key": sample.key, "text": "new", "turns": None})
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"captions/part-{number}.parquet")
    return config.model_copy(update={"captions": str(tmp_path / "captions")})


def test_verdicts_on_the_data_hold_for_captions_of_them_by_id(
    config: SourceConfig, captioned: SourceConfig, tmp_path: Path
) -> None:
    one = judge(tmp_path / "v", config, {"0": True, "1": False, "2": False, "3": True, "4": True})
    assert keys(captioned, one) == ["4", "0", "2"], "0 and 2 are copies: one of them is kept, so both are"
    two = judge(tmp_path / "w", config, {"0": False, "1": True, "2": False, "3": False, "4": True})
    assert keys(captioned, two) == ["4", "1"]
    assert keys(captioned, one, two) == ["4"]
    prints = {open_source(captioned.model_copy(update={"verdicts": [str(path)]})).fingerprint() for path in (one, two)}
    assert len(prints) == 2
    travelled = pickle.loads(pickle.dumps(open_source(captioned.model_copy(update={"verdicts": [str(two)]}))))
    assert travelled.read(1).turns[0].text == "new"


def test_verdicts_by_id_are_those_of_the_source_where_it_is_named(
    config: SourceConfig, captioned: SourceConfig, tmp_path: Path
) -> None:
    drops = judge(tmp_path / "v", config, {**dict.fromkeys("1234", True), "0": False, "2": False})
    table = pq.read_table(drops / "0.parquet").to_pylist()
    pq.write_table(pa.Table.from_pylist([*table, {**table[0], "source": "b", "keep": True}]), drops / "0.parquet")
    assert keys(captioned, drops) == ["4", "1"], "what is said of the copy in source b is not of a"


def test_captions_that_no_verdict_knows_are_refused(
    config: SourceConfig, captioned: SourceConfig, tmp_path: Path
) -> None:
    one = judge(tmp_path / "v", config, dict.fromkeys("01234", True))
    (one / "4.parquet").unlink()
    with pytest.raises(UsageError, match=r"say nothing of 1 of its 4 samples \(part-0.parquet#0 for one\)"):
        keys(captioned, one)


def test_a_sidecar_called_as_a_shard_of_the_data_is_not_taken_for_it(
    config: SourceConfig, captioned: SourceConfig, tmp_path: Path
) -> None:
    (tmp_path / "captions/part-1.parquet").rename(tmp_path / "captions/1.tar.parquet")
    one = judge(tmp_path / "v", config, {"0": True, "1": False, "2": False, "3": True, "4": True})
    for name in ("0", "2", "4"):  # as if the data were Parquet files of the sidecars' names
        rows = pq.read_table(one / f"{name}.parquet").to_pylist()
        called = {"0.tar": "1.tar.parquet", "1.tar": "part-0.parquet"}
        pq.write_table(
            pa.Table.from_pylist([{**row, "shard": called[row["shard"]]} for row in rows]), one / f"{name}.parquet"
        )
    assert keys(captioned, one) == ["0", "2", "4"]


def test_verdicts_on_the_captions_themselves_go_by_place(captioned: SourceConfig, tmp_path: Path) -> None:
    one = judge(tmp_path / "v", captioned, {"0": True, "1": True, "2": False, "4": False})
    assert keys(captioned, one) == ["0", "1"], "copies are told apart"


def test_a_pass_over_what_another_kept_needs_not_judge_the_rest(config: SourceConfig, tmp_path: Path) -> None:
    one = judge(tmp_path / "v", config, {"0": True, "1": True, "2": True, "3": True, "4": False})
    rest = config.model_copy(update={"verdicts": [str(one)]})
    two = judge(tmp_path / "w", rest, {"0": True, "1": False, "2": True, "3": True})
    assert keys(config, one, two) == keys(config, two, one) == ["0", "2", "3"]
    with pytest.raises(UsageError, match=r"w say nothing of 1 of its 5 samples \(1.tar#1 for one\)"):
        keys(config, two)
