"""Opinions: one table for models and people, written and read, refused where it breaks the schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sailctl.core.curate.judge.opinions import COLUMNS, find_opinions, item_of, read_opinions, write_opinions
from sailctl.core.errors import DataError, UsageError


def opinion(**changes: Any) -> dict[str, Any]:
    return {
        "id": "0" * 32, "source": "one", "shard": "one.tar", "row": 3, "key": "a", "item": item_of("0" * 32, "A dog."),
        "task": "quality", "criterion": "precision", "value": 7.0, "judge": "model:gpt", "round": 0, **changes,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["opinions.parquet", "opinions.jsonl"])
def test_written_is_read(tmp_path: Path, name: str) -> None:
    rows = [opinion(), opinion(judge="person:Änne", value=4, criterion="fluency", round=1)]
    assert write_opinions(tmp_path / name, rows) == 2
    found = read_opinions([tmp_path / name]).to_pylist()
    assert found == [{**row, "value": float(row["value"])} for row in rows]
    assert list(found[0]) == list(COLUMNS)
    whole = (tmp_path / name).read_bytes()
    write_opinions(tmp_path / name, rows)
    assert (tmp_path / name).read_bytes() == whole


def test_found_in_the_folder_of_a_pass_and_in_a_folder_of_tables(tmp_path: Path) -> None:
    write_opinions(tmp_path / "pass/opinions.parquet", [opinion()])
    (tmp_path / "pass/other.jsonl").write_text("{}")
    write_opinions(tmp_path / "people/anna.jsonl", [opinion(judge="person:anna")])
    write_opinions(tmp_path / "people/bo.jsonl", [opinion(judge="person:bo")])
    assert find_opinions(tmp_path / "pass") == [str(tmp_path / "pass/opinions.parquet")]
    table = read_opinions([tmp_path / "pass", tmp_path / "people"])
    assert table["judge"].to_pylist() == ["model:gpt", "person:anna", "person:bo"]
    with pytest.raises(UsageError, match=r"no opinions .* there"):
        read_opinions([tmp_path / "nothing"])


def test_items_are_told_apart_by_what_is_judged() -> None:
    assert item_of("a", "x ", "\ny") == item_of("a", "x", "y")
    names = {item_of("a"), item_of("a", ""), item_of("a", "x"), item_of("b", "x"), item_of("a", "x", "y"),
             item_of("a", "y", "x"), item_of("a", "xy")}  # fmt: skip
    assert len(names) == 7 and all(len(name) == 32 for name in names)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"item": None}, "column item is missing"),
        ({"row": "3"}, "row is '3', no int64"),
        ({"value": True}, "value is True, no double"),
        ({"task": "taste"}, "task 'taste'; known: quality, sft, gsb"),
        ({"criterion": "difficulty"}, "criterion 'difficulty'; quality has precision"),
        ({"value": 11}, "precision is 11; it goes from 1 to 10"),
        ({"value": float("nan")}, "precision is nan"),
        ({"judge": "anna"}, "judge 'anna'; give model:NAME or person:NAME"),
        ({"judge": "person:"}, "judge 'person:'"),
        ({"round": 2}, "round 2; 0 is the first"),
    ],
)
def test_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=rf"o\.parquet, row 1: {words}"):
        write_opinions(tmp_path / "o.parquet", [opinion(), opinion(**changes)])
    assert not list(tmp_path.iterdir())


def test_damage_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(opinion()) + "\n{")
    with pytest.raises(DataError, match=r"opinions .*a\.jsonl cannot be read"):
        read_opinions([tmp_path / "a.jsonl"])
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"opinions .*b\.parquet cannot be read"):
        read_opinions([tmp_path / "b.parquet"])
    (tmp_path / "c.jsonl").write_text("[1]\n")
    with pytest.raises(DataError, match=r"c\.jsonl, row 0: is no object"):
        read_opinions([tmp_path / "c.jsonl"])
