"""Pairs of samples that may be duplicates: those that share a key, found bucket by bucket, and looked at.

Keys of many parts are sorted into a run; a bucket is a range of keys, read from every run. What is held at once is a
run's keys, or a bucket's and the signatures of some of its pairs, whatever the size of the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sailctl.core.curate.dedup.pictures import FAR
from sailctl.core.curate.dedup.relations import PROPOSAL_COLUMNS, Remembered, Rules, proposals
from sailctl.core.curate.dedup.signatures import Signatures, u64

PARTS_A_RUN = 50
KEYS_A_BUCKET = 2_000_000
NEIGHBOURS = 128  # samples of one key that one of them is compared with at most: those likest by their hash
PAIRS_AT_ONCE = 100_000
COLUMNS = ("key", "sample", "content", "bits")


@dataclass(frozen=True, slots=True)
class Run:
    """Parts `first` up to `stop`, whose keys make a file."""

    first: int
    stop: int
    name: str


@dataclass(frozen=True, slots=True)
class Bucket:
    """Keys from `low` to `high`, both included."""

    low: int
    high: int
    name: str


def runs_of(parts: int) -> list[Run]:
    """All parts, cut in runs."""
    starts = range(0, parts, PARTS_A_RUN)
    return [Run(first, min(first + PARTS_A_RUN, parts), f"{number:06d}") for number, first in enumerate(starts)]


def buckets_of(samples: int, keys_a_sample: int) -> list[Bucket]:
    """All keys, cut in ranges of about `KEYS_A_BUCKET`; by the number of samples alone."""
    count = max(1, -(-samples * keys_a_sample // KEYS_A_BUCKET))
    bounds = [number * (1 << 64) // count for number in range(count + 1)]
    return [Bucket(low, high - 1, f"{number:06d}") for number, (low, high) in enumerate(pairwise(bounds))]


@dataclass(frozen=True)
class SortKeys:
    """The keys of a run's samples by one relation, sorted."""

    signatures: Signatures
    by: str

    def __call__(self, run: Run) -> Any:
        """Columns key, sample, content, bits."""
        starts = self.signatures.starts
        found: list[tuple[np.ndarray, ...]] = []
        for place in range(run.first, run.stop):
            table = self.signatures.table(place, PROPOSAL_COLUMNS)
            keys, content = proposals(table, self.by)
            counts = [len(one) for one in keys]
            bits = np.array(table["bits"].to_pylist(), dtype=np.uint64)
            numbers = starts[place] + np.arange(len(table))
            joined = np.concatenate([np.empty(0, dtype=np.uint64), *keys])
            found.append((joined, *(np.repeat(column, counts) for column in (numbers, content, bits))))
        columns = [np.concatenate(column) for column in zip(*found, strict=True)]
        order = np.lexsort((columns[1], columns[0]))
        return _table(dict(zip(COLUMNS, (column[order] for column in columns), strict=True)))


@dataclass(frozen=True)
class FindPairs:
    """The duplicates among samples that share a key of a bucket, as pairs with distances."""

    signatures: Signatures
    runs: tuple[Path, ...]
    by: str
    rules: Rules

    def __call__(self, bucket: Bucket) -> Any:
        """Columns one, other (numbers of samples), image, text (distances)."""
        found: list[tuple[np.ndarray, ...]] = [_NOTHING]
        for one, other, key in _batches(meetings(self.by, *self._read(bucket))):
            found.append(self._look(one, other, key))
        columns = [np.concatenate(column) for column in zip(*found, strict=True)]
        order = np.lexsort((columns[1], columns[0]))
        return _table(dict(zip(("one", "other"), (column[order] for column in columns), strict=True)))

    def _read(self, bucket: Bucket) -> list[np.ndarray]:
        """The rows of a bucket from all runs, by key, then by sample."""
        import pyarrow.parquet as pq

        found = [[np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.uint64), np.empty(0, np.uint64)]]
        for path in self.runs:
            opened = pq.ParquetFile(path)
            for group in range(opened.num_row_groups):
                told = opened.metadata.row_group(group).column(0).statistics
                if told is not None and told.has_min_max and (told.max < bucket.low or told.min > bucket.high):
                    continue
                table = opened.read_row_group(group)
                keys = table["key"].to_numpy()
                first = np.searchsorted(keys, np.uint64(bucket.low), side="left")
                stop = np.searchsorted(keys, np.uint64(bucket.high), side="right")
                found.append([table[name].to_numpy()[first:stop] for name in COLUMNS])
        columns = [np.concatenate(column) for column in zip(*found, strict=True)]
        order = np.lexsort((columns[1], columns[0]))
        return [column[order] for column in columns]

    def _look(self, one: np.ndarray, other: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those pairs that are duplicates; a pair with several keys in common is looked at under the least of them."""
        numbers = np.unique(np.concatenate([one, other]))
        column = "text_keys" if self.by == "text" else "picture_keys"
        keys = _matrix([u64(data) for data in self.signatures.take(numbers, (column,))[column]])
        left, right = np.searchsorted(numbers, one), np.searchsorted(numbers, other)
        chunks = [slice(start, start + 2000) for start in range(0, len(one), 2000)]
        ours = np.concatenate([_are_first(keys[left[some]], keys[right[some]], key[some]) for some in chunks])
        one, other = one[ours], other[ours]
        if not len(one):
            return _NOTHING
        remembered = Remembered(self.signatures, np.unique(np.concatenate([one, other])))
        joined, _, _ = remembered.related(remembered.places(one), remembered.places(other), self.rules)
        return one[joined], other[joined]


_NOTHING = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


def _matrix(keys: list[np.ndarray]) -> np.ndarray:
    """Keys of samples as rows of one length, the last of each repeated; a row of ones for a sample without any."""
    width = max(1, *map(len, keys))
    found = np.full((len(keys), width), np.iinfo(np.uint64).max, dtype=np.uint64)
    for row, some in zip(found, keys, strict=True):
        if len(some):
            row[: len(some)], row[len(some) :] = some, some[-1]
    return found


def _are_first(left: np.ndarray, right: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Whether two samples (keys, a row each) have no lower key in common than the one they met under."""
    shared = (left[:, :, None] == right[:, None, :]).any(axis=2)
    return ~(shared & (left < keys[:, None])).any(axis=1)


def meetings(
    by: str, keys: np.ndarray, samples: np.ndarray, content: np.ndarray, bits: np.ndarray
) -> Iterator[tuple[np.ndarray, ...]]:
    """Pairs of samples that have a key in common, with the key: the lower number, the higher one, the key.

    Equal ones (by `content`) meet the first of them alone; it meets all others, but of more than `NEIGHBOURS` under one
    key those that come next by their hash. So a key that everything has costs no more than its samples times that.
    """
    order = np.lexsort((samples, content, keys))
    keys, samples, content, bits = (column[order] for column in (keys, samples, content, bits))
    fresh = np.ones(len(keys), dtype=bool)
    fresh[1:] = (keys[1:] != keys[:-1]) | (content[1:] != content[:-1])
    first = np.flatnonzero(fresh)[np.cumsum(fresh) - 1]
    yield samples[first[~fresh]], samples[~fresh], keys[~fresh]
    keys, samples, content, bits = (column[fresh] for column in (keys, samples, content, bits))
    order = np.lexsort((content, bits, keys))
    keys, samples, bits = keys[order], samples[order], bits[order]
    for step in range(1, NEIGHBOURS + 1):
        here = np.flatnonzero(keys[step:] == keys[:-step])
        if not len(here):
            return
        if by != "text":
            here = here[np.bitwise_count(bits[here] ^ bits[here + step]) <= FAR]
        one, other = samples[here], samples[here + step]
        yield np.minimum(one, other), np.maximum(one, other), keys[here]


def _batches(meetings: Iterator[tuple[np.ndarray, ...]]) -> Iterator[tuple[np.ndarray, ...]]:
    """Meetings, gathered and cut to `PAIRS_AT_ONCE`."""
    held: list[tuple[np.ndarray, ...]] = []
    count = 0
    for columns in meetings:
        for start in range(0, len(columns[0]), PAIRS_AT_ONCE):
            held.append(tuple(column[start : start + PAIRS_AT_ONCE] for column in columns))
            count += len(held[-1][0])
            if count >= PAIRS_AT_ONCE:
                yield tuple(np.concatenate(column) for column in zip(*held, strict=True))
                held, count = [], 0
    if count:
        yield tuple(np.concatenate(column) for column in zip(*held, strict=True))


def _table(columns: dict[str, np.ndarray]) -> Any:
    import pyarrow as pa

    return pa.table({name: pa.array(values) for name, values in columns.items()})


def edges(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of tables that `FindPairs` made, each once."""
    import pyarrow.parquet as pq

    tables = [pq.read_table(path, columns=["one", "other"]) for path in paths]
    one, other = (np.concatenate([table[name].to_numpy() for table in tables]) for name in ("one", "other"))
    order = np.lexsort((other, one))
    one, other = one[order], other[order]
    fresh = np.ones(len(one), dtype=bool)
    fresh[1:] = (one[1:] != one[:-1]) | (other[1:] != other[:-1])
    return one[fresh], other[fresh]
