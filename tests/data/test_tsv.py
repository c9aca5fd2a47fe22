"""Benchmark tables: cells split as pandas splits them, and what is no table."""

from __future__ import annotations

import base64
import random
import re
from pathlib import Path

import pytest

from sailctl.core.data.cells import picture_file, pictures
from sailctl.core.data.tsv import Table
from sailctl.core.errors import DataError, SampleError
from tests.helpers_bench import write_tsv


def test_cells_are_split_as_pandas_splits_them(tmp_path: Path) -> None:
    path = tmp_path / "T.tsv"
    path.write_bytes(
        b'\xef\xbb\xbfindex\tquestion\tanswer\r\n1\t"two\nlines, a ""word"" and a\ttab"\tx\r\n\r\n'
        b'2\ta 6" ruler\ty\n3\tshort row\n4\t"quoted" and more\tz'
    )
    table = Table(path)
    rows = list(table)
    assert table.columns == ("index", "question", "answer")
    assert [row.cells for row in rows] == [
        {"index": "1", "question": 'two\nlines, a "word" and a\ttab', "answer": "x"},
        {"index": "2", "question": 'a 6" ruler', "answer": "y"},
        {"index": "3", "question": "short row", "answer": ""},
        {"index": "4", "question": "quoted and more", "answer": "z"},
    ]
    assert [row.line for row in rows] == [3, 5, 6, 7]
    assert [table.row(row.offset) for row in rows] == [row.cells for row in rows]


def test_any_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    drawn = random.Random(0)
    alphabet = ['"', "\n", "\t", "a", "é", "中", " ", "'", "[", "\r\n"]
    rows = [
        {"index": str(index), **{name: "".join(drawn.choices(alphabet, k=drawn.randrange(6))) for name in "abc"}}
        for index in range(300)
    ]
    table = Table(write_tsv(tmp_path / "T.tsv", rows))
    assert [row.cells for row in table] == rows


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'1\t"never closed\n2\tx\n', "the quote opened in line 2 is never closed"),
        (b"1\ta\tb\tc\n", "line 2 has 4 cells, the header 2"),
        (b"1\t\xff\n", "line 2 is not UTF-8"),
        (b'1\t"\xff"\n', "line 2 is not UTF-8"),
        (b"1\ta\rb\n", "line 2 holds a carriage return outside of quotes"),
    ],
)
def test_what_is_no_table_is_refused_by_line(tmp_path: Path, body: bytes, message: str) -> None:
    path = tmp_path / "T.tsv"
    path.write_bytes(b"index\tquestion\n" + body)
    with pytest.raises(DataError, match=re.escape(message)):
        list(Table(path))


def test_pictures_of_a_row_are_base64_lists_repeats_and_files() -> None:
    def file(name: str) -> bytes:
        return name.encode()

    def repeated(index: str) -> dict[str, str] | None:
        return {"7": {"image": base64.b64encode(b"x" * 60).decode()}, "8": {"image": "7"}}.get(index)

    long = base64.b64encode(b"y" * 60).decode()
    assert pictures({"image": long}, repeated, file) == (b"y" * 60,)
    assert pictures({"image": f"['{long}', '{long}']"}, repeated, file) == (b"y" * 60, b"y" * 60)
    assert pictures({"image": "7"}, repeated, file) == (b"x" * 60,)
    assert pictures({"image": "", "image_path": "['a.png', 'b.png']"}, repeated, file) == (b"a.png", b"b.png")
    with pytest.raises(SampleError, match="neither base64 nor another row's index"):
        pictures({"image": "9"}, repeated, file)
    with pytest.raises(SampleError, match="the row whose image it repeats has none"):
        pictures({"image": "8"}, repeated, file)


def test_a_picture_file_stays_below_its_table(tmp_path: Path) -> None:
    (tmp_path / "images/T").mkdir(parents=True)
    (tmp_path / "images/T/a.png").write_bytes(b"a")
    assert picture_file("a.png", tmp_path / "T.tsv", "T") == b"a"
    with pytest.raises(SampleError, match="leaves"):
        picture_file("../../a.png", tmp_path / "T.tsv", "T")
    with pytest.raises(SampleError, match="no such file"):
        picture_file("b.png", tmp_path / "T.tsv", "T")
