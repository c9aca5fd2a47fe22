"""Columns of other passes' verdicts: by place where data are the same, by id elsewhere, null where nothing is said."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sailctl.core.curate import join
from sailctl.core.curate.join import Columns, Lookup, column_names, content, packed_ids, places
from sailctl.core.curate.passes import verdict_table, write_table
from sailctl.core.errors import DataError, UsageError


def name_of(number: int) -> str:
    """An id as a hash would be; equal numbers are copies, 0 is none."""
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}{number:016x}"


def row(number: int, source: str = "a", shard: str = "a.tar", identity: str | None = None) -> dict[str, Any]:
    return {"id": name_of(number) if identity is None else identity, "source": source, "shard": shard, "row": number,
            "key": f"k{number}"}  # fmt: skip


def verdicts(path: Path, rows: Sequence[dict[str, Any]], **columns: tuple[str, Sequence[Any]]) -> str:
    """A verdict table with columns of its own: name to Arrow type and values."""
    records = [
        {**one, "keep": True, "reason": "", "detail": "", **{name: of[1][at] for name, of in columns.items()}}
        for at, one in enumerate(rows)
    ]
    write_table(path, verdict_table(records, {name: of[0] for name, of in columns.items()}))
    return str(path.parent)


def quality(columns: Columns | Lookup, rows: Sequence[dict[str, Any]]) -> list[Any]:
    return columns.of(places(rows))["quality"].to_pylist()


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Rows 0-4 of a.tar and 0-2 of b.tar in two parts that do not end where the shards do."""
    first = [row(number) for number in range(4)]
    second = [row(4), *(row(number, shard="b.tar", identity=name_of(10 + number)) for number in range(3))]
    verdicts(tmp_path / "judge/verdicts/000-a/0.parquet", first, quality=("double", [0.0, 1.0, None, 3.0]))
    verdicts(tmp_path / "judge/verdicts/000-a/4.parquet", second, quality=("double", [4.0, 10.0, 11.0, 12.0]))
    return str(tmp_path / "judge")


def test_by_place(folder: str) -> None:
    columns = Columns.open([folder], ["quality"])
    asked = [row(3), row(4), row(1, shard="b.tar", identity=name_of(11)), row(2), row(0)]
    assert quality(columns, asked) == [3.0, 4.0, 11.0, None, 0.0]


def test_places_need_no_reading_of_all_ids(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = Columns.open([folder], ["quality"])
    monkeypatch.setattr(Lookup, "_by_id", lambda *_: pytest.fail("all ids were read"))
    assert quality(columns, [row(number) for number in range(5)]) == [0.0, 1.0, None, 3.0, 4.0]


def test_copies_are_told_apart_by_place(tmp_path: Path) -> None:
    copies = [row(0, identity=name_of(7)), row(1, identity=name_of(7))]
    folder = verdicts(tmp_path / "v/0.parquet", copies, quality=("double", [1.0, 2.0]))
    assert quality(Columns.open([folder], ["quality"]), copies[::-1]) == [2.0, 1.0]


def test_by_id_where_the_data_are_others(folder: str) -> None:
    columns = Columns.open([folder], ["quality"])
    elsewhere = [row(0, "z", "z.tar", name_of(12)), row(1, "z", "z.tar", name_of(99)), row(2, "z", "z.tar", name_of(1))]
    assert quality(columns, elsewhere) == [12.0, None, 1.0]


def test_another_sample_in_the_place_is_not_the_one_judged(folder: str) -> None:
    changed = [row(0, identity=name_of(3)), row(1, identity=name_of(98))]
    assert quality(Columns.open([folder], ["quality"]), changed) == [3.0, None]


def test_a_table_without_places_speaks_for_all_copies_and_its_first_row_counts(tmp_path: Path) -> None:
    ids = [name_of(5), name_of(6), name_of(5)]
    write_table(tmp_path / "opinions.parquet", pa.table({"id": ids, "quality": [8, 9, 3]}))
    columns = Columns.open([str(tmp_path / "opinions.parquet")], ["quality"])
    asked = [row(0, identity=name_of(5)), row(1, identity=name_of(5)), row(2, identity=name_of(6)), row(3)]
    assert quality(columns, asked) == [8, 8, 9, None]


def test_broken_samples_are_known_by_place_alone(tmp_path: Path) -> None:
    folder = verdicts(tmp_path / "v/0.parquet", [row(0, identity=""), row(1)], quality=("double", [0.5, 1.0]))
    columns = Columns.open([folder], ["quality"])
    assert quality(columns, [row(0, identity=""), row(9, identity="")]) == [0.5, None]
    assert quality(columns, [row(9, identity="")]) == [None]


def test_columns_of_several_passes(folder: str, tmp_path: Path) -> None:
    rows = [row(number) for number in range(4)]
    other = verdicts(tmp_path / "stats/0.parquet", rows, lang=("string", ["en", "zh", "en", "en"]))
    found = Columns.open([folder, other], ["lang", "quality"]).of(places(rows))
    assert found.to_pydict() == {"lang": ["en", "zh", "en", "en"], "quality": [0.0, 1.0, None, 3.0]}


def test_no_rows(folder: str) -> None:
    assert quality(Columns.open([folder], ["quality"]), []) == []


def test_it_travels_and_leaves_what_it_read_behind(folder: str) -> None:
    columns = Columns.open([folder], ["quality"])
    before = len(pickle.dumps(columns))
    assert quality(columns, [row(1), row(3, "z")]) == [1.0, 3.0]
    assert len(pickle.dumps(columns)) == before
    assert quality(pickle.loads(pickle.dumps(columns)), [row(1), row(3, "z")]) == [1.0, 3.0]


def test_few_blocks_are_kept_at_once(tmp_path: Path) -> None:
    rows = [row(number) for number in range(12)]
    for number in range(12):
        folder = verdicts(tmp_path / f"v/{number:02}.parquet", rows[number : number + 1], quality=("int64", [number]))
    lookup = Lookup.open(folder, ["quality"])
    assert quality(lookup, rows[::-1]) == list(range(11, -1, -1))
    assert len(lookup._recent) == join._BLOCKS_AT_HAND


def test_equal_halves_of_ids_are_no_equal_ids(tmp_path: Path) -> None:
    ids = ["ff" * 8 + f"{number:016x}" for number in (3, 1, 2, 1)]
    write_table(tmp_path / "o.parquet", pa.table({"id": ids, "quality": [3, 1, 2, 0]}))
    columns = Columns.open([str(tmp_path / "o.parquet")], ["quality"])
    asked = [row(0, identity="ff" * 8 + f"{number:016x}") for number in (2, 1, 3, 4, 0)]
    assert quality(columns, asked) == [2, 1, 3, None, None]


def test_many_rows_against_a_dictionary(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(5000)
    rows = [row(int(number)) for number in order]  # a shuffled table: every place is a run of its own
    folder = verdicts(tmp_path / "v/0.parquet", rows, quality=("int64", [int(number) for number in order]))
    asked = [row(number) for number in range(0, 6000, 7)]
    assert quality(Columns.open([folder], ["quality"]), asked) == [n if n < 5000 else None for n in range(0, 6000, 7)]


def test_columns_that_are_not_there(folder: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no column 'qualty'; they have quality$"):
        Columns.open([folder], ["qualty"])
    with pytest.raises(UsageError, match=r"no verdicts: no column 'quality'"):
        Columns.open([], ["quality"])
    other = verdicts(tmp_path / "again/0.parquet", [row(0)], quality=("double", [1.0]))
    with pytest.raises(UsageError, match=r"column 'quality' is in both .*judge and .*again; give one"):
        Columns.open([folder, other], ["quality"])
    with pytest.raises(UsageError, match="no verdicts"):
        Columns.open([str(tmp_path / "nothing")], ["quality"])


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "v" / "0.parquet"
    path.parent.mkdir()
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match=r"0\.parquet cannot be read"):
        column_names(str(path))
    write_table(path, pa.table({"name": ["a"]}))
    with pytest.raises(DataError, match="column id is missing"):
        column_names(str(path))
    write_table(path, pa.table({"id": ["not hex"], "quality": [1]}))
    with pytest.raises(DataError, match=r"0\.parquet: its column id should hold 32 hex digits"):
        quality(Columns.open([str(path)], ["quality"]), [row(0)])


def test_content_changes_with_any_value(folder: str, tmp_path: Path) -> None:
    before = content(folder)
    assert content(folder) == before
    verdicts(tmp_path / "judge/verdicts/000-a/0.parquet", [row(0)], quality=("double", [0.5]))
    assert content(folder) != before


def test_packed_ids() -> None:
    packed = packed_ids(pa.chunked_array([["00000000000000010000000000000002", ""], ["f" * 32]]))
    assert packed.tolist() == [[1, 2], [0, 0], [2**64 - 1, 2**64 - 1]]
