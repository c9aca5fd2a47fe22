"""Seeded parts of a source: exact size, nested, no sample twice, a source of its own in every other way."""

from __future__ import annotations

import json
import pickle

import pytest

from sailctl.core.data.sources import open_source
from sailctl.core.errors import UsageError
from sailctl.core.schema.data import SourceConfig


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = [
        {"id": str(i), "conversations": [{"from": "human", "value": f"q{i}"}, {"from": "gpt", "value": f"a{i}"}]}
        for i in range(50)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def part(path, samples, seed=0):
    return open_source(SourceConfig(name="texts", path=str(path), samples=samples, subset_seed=seed))


def keys(source):
    return [source.read(number).key for number in range(len(source))]


def test_exact_size_no_sample_twice_and_smaller_within_larger(lines):
    small, large = keys(part(lines, 10)), keys(part(lines, 40))
    assert len(small) == 10 and len(set(large)) == 40
    assert large[:10] == small


def test_the_seed_decides_and_the_fingerprint_tells(lines):
    first, again, other = part(lines, 10), part(lines, 10), part(lines, 10, seed=1)
    assert keys(first) == keys(again) != keys(other)
    whole = open_source(SourceConfig(name="texts", path=str(lines)))
    prints = {first.fingerprint(), other.fingerprint(), part(lines, 11).fingerprint(), whole.fingerprint()}
    assert first.fingerprint() == again.fingerprint() and len(prints) == 4


def test_all_of_it_is_a_permutation(lines):
    assert sorted(keys(part(lines, 50)), key=int) == [str(number) for number in range(50)]


def test_it_travels_to_workers_and_locates(lines):
    source = pickle.loads(pickle.dumps(part(lines, 5)))
    shard, row = source.locate(3)
    assert source.read(3).key == source.inner.read_row(shard, row).key
    with pytest.raises(IndexError, match="5 of 5"):
        source.read(5)


def test_too_few_are_named(lines):
    with pytest.raises(UsageError, match="'texts': samples = 51, but it holds 50"):
        part(lines, 51)
