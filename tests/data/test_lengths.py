"""Lengths from a CSV and from data: what is read, what is guessed, and one clear line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from sailctl.core.data.encode import Encoder
from sailctl.core.data.lengths import check_caps, measure_lengths, read_lengths
from sailctl.core.data.simulate import Length
from sailctl.core.data.sources import open_source
from sailctl.core.errors import UsageError
from sailctl.core.schema.data import DataConfig, SourceConfig
from tests.helpers_model import tiny_config, tiny_tokenizer
from tests.helpers_train import write_samples


def read(tmp_path: Path, text: str, **options: int):  # type: ignore[no-untyped-def]
    path = tmp_path / "lengths.csv"
    path.write_text(text)
    return read_lengths(path, options.get("tokens_per_tile", 256))


def test_half_of_what_is_no_picture_is_taken_to_be_supervised(tmp_path: Path) -> None:
    found = read(tmp_path, "source,tokens,tiles\na,1322,5\nb,41,0\nc,200,1\n")
    assert found.targets_estimated and found.short == 1
    assert found.rows == [Length(0, 1322, 5, (1322 - 1280) // 2), Length(1, 41, 0, 20), Length(2, 200, 1, 0)]


def test_targets_are_read_where_they_are_known(tmp_path: Path) -> None:
    found = read(tmp_path, "\ufefftargets, tiles,tokens\n7,5,1322\n\n0,0,3\n")
    assert not found.targets_estimated
    assert found.rows == [Length(0, 1322, 5, 7), Length(1, 3, 0, 0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column tokens and tiles; it has: nothing"),
        ("source,tokens\na,3\n", "no column tiles; it has: source, tokens"),
        ("tokens,tiles\n", "holds no samples"),
        ("tokens,tiles\n5,1\n7.5,1\n", r"lengths.csv:3: tokens = '7.5': should be a whole number"),
        ("tokens,tiles\n5,\n", r"lengths.csv:2: tiles = ''"),
        ("tokens,tiles\n5\n", r"lengths.csv:2: tiles = ''"),
        ("tokens,tiles\n0,0\n", "2: 0 tokens and 0 tiles; at least 1 and 0"),
        ("tokens,tiles\n5,-1\n", "2: 5 tokens and -1 tiles"),
        ("tokens,tiles,targets\n5,0,6\n", "2: 6 targets of 5 tokens; give 0 to 5"),
        ("tokens,tiles,targets\n5,0,x\n", "2: targets = 'x'"),
    ],
)
def test_one_line_for_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(tmp_path, text)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.csv: cannot be read: No such file"):
        read_lengths(tmp_path / "none.csv", 256)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00tokens")
    with pytest.raises(UsageError, match="is no CSV in UTF-8"):
        read_lengths(tmp_path / "binary.csv", 256)


def test_rows_over_the_caps_are_named_and_counted(tmp_path: Path) -> None:
    found = read(tmp_path, "tokens,tiles\n100,1\n300,1\n10,9\n")
    check_caps(found, 300, 9)
    with pytest.raises(
        UsageError, match=r"row 1 \(from 0\) has 300 tokens and 1 tiles, a pack holds 200 and 8; 2 rows"
    ):
        check_caps(found, 200, 8)


def test_measured_lengths_are_the_trainers(tmp_path: Path) -> None:
    path = write_samples(tmp_path / "data", 12)
    data = DataConfig(sources=[SourceConfig(name="a", path=str(path))], max_tiles=4, shuffle=False)
    encoder = Encoder(tiny_tokenizer(), tiny_config(), data)
    found = measure_lengths(data, encoder, seed=0)
    source = open_source(data.sources[0])
    encoded = [encoder.encode(source.read(ordinal)) for ordinal in range(12)]
    assert [(row.num_tokens, row.num_tiles) for row in found.rows] == [
        (item.num_tokens, item.num_tiles) for item in encoded
    ]
    assert [row.num_targets for row in found.rows] == [int(item.supervised[1:].sum()) for item in encoded]
    assert not found.targets_estimated and found.rejected == 0
    broken = path.with_name("broken.jsonl")
    broken.write_text('{"image": "none.png", "conversations": [{"from": "human", "value": "<image>"}, '
                      '{"from": "gpt", "value": "x"}]}\n')  # fmt: skip
    data = DataConfig(sources=[SourceConfig(name="a", path=str(broken))])
    with pytest.raises(UsageError, match=r"none of its first 1 can be read, the last one: "):
        measure_lengths(data, encoder, seed=0)
    with pytest.raises(UsageError, match="give --lengths CSV or --data PATH"):
        measure_lengths(DataConfig(), encoder, seed=0)
