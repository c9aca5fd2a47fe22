"""Joins: what other passes found out about the samples at hand, looked up in their verdict tables.

A pass cuts its data into parts and sees a part at a time, so here tables are not joined whole: `Columns.of` answers for
the rows of one part. Two ways lead to a value, tried in this order:

1. by place (source, shard, row), where the id found there is the sample's own. Passes over the same data lie alike, so
   this reads a row group or two, and tells exact copies apart, which share an id;
2. by id, for tables of other data and for tables that name no places. All ids of the tables (16 bytes a row) and the
   columns asked for are then in memory, once in every process that looks up. Of several rows with an id the first
   counts, and it speaks for all copies.

Values are null where the tables say nothing of a sample.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sailctl.core import files
from sailctl.core.data.verdicts import COLUMNS, id_bytes, opened, tables
from sailctl.core.errors import UsageError

PLACE = ("source", "shard", "row")
_BLOCKS_AT_HAND = 4  # row groups a process keeps: neighbouring parts lie in the same one


class Columns:
    """Columns of the verdict tables at some paths; travels to workers, where tables are read as they are needed."""

    def __init__(self, lookups: Sequence[Lookup], owner: Mapping[str, int]) -> None:
        self._lookups, self._owner = tuple(lookups), dict(owner)

    @classmethod
    def open(cls, paths: Sequence[str], names: Sequence[str]) -> Columns:
        """Find `names` in the tables at `paths` (passes, folders or files) and index where their rows lie.

        Raises UsageError where a column is in none of them or in several, DataError where a table is damaged.
        """
        held = {path: column_names(path) for path in paths}
        owners: dict[str, str] = {}
        for name in names:
            found = [path for path in paths if name in held[path]]
            if not found:
                there = sorted({one for columns in held.values() for one in columns} - COLUMNS.keys())
                own = f"they have {', '.join(there)}" if there else "they have no columns of their own"
                raise UsageError(f"{', '.join(paths) or 'no verdicts'}: no column {name!r}; {own}")
            if len(found) > 1:
                raise UsageError(f"column {name!r} is in both {found[0]} and {found[1]}; give one of them")
            owners[name] = found[0]
        used = [path for path in paths if path in owners.values()]
        lookups = [Lookup.open(path, [name for name in names if owners[name] == path]) for path in used]
        return cls(lookups, {name: used.index(path) for name, path in owners.items()})

    def of(self, rows: Any) -> Any:
        """The columns for a pyarrow Table with id, source, shard and row (see `places`): a Table, row by row."""
        import pyarrow as pa

        found = [lookup.of(rows) for lookup in self._lookups]
        return pa.table({name: found[number][name] for name, number in self._owner.items()})


class Runs(NamedTuple):
    """Stretches of rows of one shard that lie one after another in a block, in order of their first row."""

    first: np.ndarray  # of the shard's rows
    stop: np.ndarray
    block: np.ndarray
    offset: np.ndarray  # where the first one stands in its block


class Lookup:
    """Columns of the tables at one path, a block (a row group of a table) at a time."""

    def __init__(
        self, path: str, names: Sequence[str], blocks: Sequence[tuple[str, int]], runs: Mapping[tuple[str, str], Runs]
    ) -> None:
        self.path, self.names = path, tuple(names)
        self._blocks, self._runs = list(blocks), dict(runs)
        self._recent: OrderedDict[int, tuple[np.ndarray, Any]] = OrderedDict()
        self._all: tuple[np.ndarray, np.ndarray, Any] | None = None

    @classmethod
    def open(cls, path: str, names: Sequence[str]) -> Lookup:
        """Index the places of the rows at a path. Raises UsageError where nothing is there, DataError on damage."""
        blocks: list[tuple[str, int]] = []
        found: dict[tuple[str, str], list[Runs]] = {}
        for table in tables(path):
            with opened(table, ("id", *names)) as file:
                placed = set(PLACE) <= set(file.schema_arrow.names)
                for group in range(file.metadata.num_row_groups):
                    blocks.append((table, group))
                    if placed:
                        rows = file.read_row_group(group, columns=list(PLACE))
                        for place, runs in _runs(rows, len(blocks) - 1):
                            found.setdefault(place, []).append(runs)
        return cls(path, names, blocks, {place: _in_order(runs) for place, runs in found.items()})

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recent": OrderedDict(), "_all": None}

    def of(self, rows: Any) -> Any:
        """The columns for rows with id, source, shard and row: a pyarrow Table as long as they are."""
        import pyarrow as pa

        ids = packed_ids(rows["id"])
        block, position = self._located(rows)
        order, pieces, taken = np.full(len(ids), -1, dtype=np.int64), [], 0
        for number in np.unique(block[block >= 0]):
            at = np.flatnonzero(block == number)
            theirs, values = self._block(int(number))
            at = at[(theirs[position[at]] == ids[at]).all(axis=1)]
            pieces.append(values.take(position[at]))
            order[at] = np.arange(taken, taken + len(at))
            taken += len(at)
        if len(left := np.flatnonzero((order < 0) & ids.any(axis=1))):
            found, values = self._by_id(ids[left])
            left, found = left[found >= 0], found[found >= 0]
            pieces.append(values.take(found))
            order[left] = np.arange(taken, taken + len(left))
        if not pieces:  # broken samples alone, of other data: the types still count
            pieces = [self._block(0)[1].slice(0, 0)] if self._blocks else []
        joined = pa.concat_tables(pieces, promote_options="permissive") if pieces else _empty(self.names)
        return joined.take(pa.array(order, mask=order < 0))

    def _located(self, rows: Any) -> tuple[np.ndarray, np.ndarray]:
        """Block and position within it of every row by its place, -1 where no table has it."""
        block, position = np.full(len(rows), -1), np.zeros(len(rows), dtype=np.int64)
        for place, at, numbers in _by_shard(rows):
            if (runs := self._runs.get(place)) is not None:
                run = np.searchsorted(runs.first, numbers, side="right") - 1
                inside = (run >= 0) & (numbers < runs.stop[run])
                run, at, numbers = run[inside], at[inside], numbers[inside]
                block[at] = runs.block[run]
                position[at] = runs.offset[run] + numbers - runs.first[run]
        return block, position

    def _block(self, number: int) -> tuple[np.ndarray, Any]:
        if number not in self._recent:
            table, group = self._blocks[number]
            with opened(table, ("id", *self.names)) as file:
                rows = file.read_row_group(group, columns=list(dict.fromkeys(("id", *self.names))))
            self._recent[number] = (packed_ids(rows["id"], table), rows.select(list(self.names)))
            while len(self._recent) > _BLOCKS_AT_HAND:
                self._recent.popitem(last=False)
        self._recent.move_to_end(number)
        return self._recent[number]

    def _by_id(self, ids: np.ndarray) -> tuple[np.ndarray, Any]:
        """Where each of (N, 2) ids first stands among all rows, -1 if nowhere; and the columns of all rows."""
        import pyarrow as pa

        if self._all is None:
            blocks = [self._block(number) for number in range(len(self._blocks))]
            known = np.concatenate([block[0] for block in blocks]) if blocks else np.zeros((0, 2), dtype=np.uint64)
            values = pa.concat_tables([block[1] for block in blocks], promote_options="permissive") if blocks else None
            order = np.lexsort((known[:, 1], known[:, 0]))  # stable: of equal ids the first row comes first
            self._all = known[order], order, values
        known, order, values = self._all
        if values is None:
            return np.full(len(ids), -1), _empty(self.names)
        return _search(known, order, ids), values


def _search(known: np.ndarray, order: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """For each id, `order` at its first place among the sorted `known`; -1 where it is not among them."""
    at, end = np.searchsorted(known[:, 0], ids[:, 0]), len(known)
    if not end:
        return np.full(len(ids), -1)
    while True:  # ids are hashes: equal first halves are copies, or a chance of one in 10^19 for a pair
        here = np.minimum(at, end - 1)
        same_half = (at < end) & (known[here, 0] == ids[:, 0])
        behind = same_half & (known[here, 1] < ids[:, 1])
        if not behind.any():
            return np.where(same_half & (known[here, 1] == ids[:, 1]), order[here], -1)
        at = at + behind


def places(records: Sequence[Mapping[str, Any]]) -> Any:
    """Records with id, source, shard and row (`Row.place()` gives them) as the Table that `Columns.of` takes."""
    import pyarrow as pa

    kinds = [("id", pa.string()), ("source", pa.string()), ("shard", pa.string()), ("row", pa.int64())]
    return pa.Table.from_pylist([{name: record[name] for name, _ in kinds} for record in records], pa.schema(kinds))


def column_names(path: str) -> list[str]:
    """The columns of the tables at a path, by the first of them. Raises UsageError, DataError."""
    with opened(tables(path)[0], ("id",)) as file:
        return [str(name) for name in file.schema_arrow.names]


def content(path: str) -> str:
    """A hash of all tables at a path: what a pass that reads them notes among its parameters."""
    digest = hashlib.blake2b(digest_size=16)
    for table in tables(path):
        with files.open_read(table) as handle:
            whole = hashlib.blake2b(digest_size=16)
            while chunk := handle.read(1 << 20):
                whole.update(chunk)
        digest.update(whole.digest())
    return digest.hexdigest()


def packed_ids(column: Any, where: str = "a verdict table") -> np.ndarray:
    """Ids of an Arrow column as (N, 2) uint64; zeros stand for none (a broken sample). Raises DataError."""
    return id_bytes(column, where).view(">u8").reshape(-1, 2).astype(np.uint64)


def _empty(names: Sequence[str]) -> Any:
    import pyarrow as pa

    return pa.table({name: pa.nulls(0) for name in names})


def _by_shard(rows: Any) -> Iterator[tuple[tuple[str, str], np.ndarray, np.ndarray]]:
    """Source and shard, which rows are of it, and their numbers within the shard."""
    sources = rows["source"].combine_chunks().dictionary_encode()
    shards = rows["shard"].combine_chunks().dictionary_encode()
    numbers = rows["row"].to_numpy()
    pair = sources.indices.to_numpy().astype(np.int64) * len(shards.dictionary) + shards.indices.to_numpy()
    for code in np.unique(pair):
        source, shard = divmod(int(code), len(shards.dictionary))
        at = np.flatnonzero(pair == code)
        yield (sources.dictionary[source].as_py(), shards.dictionary[shard].as_py()), at, numbers[at]


def _runs(rows: Any, block: int) -> Iterator[tuple[tuple[str, str], Runs]]:
    for place, at, numbers in _by_shard(rows):
        breaks = np.flatnonzero((np.diff(numbers) != 1) | (np.diff(at) != 1)) + 1
        starts = np.concatenate([[0], breaks])
        length = np.diff(np.concatenate([starts, [len(at)]]))
        first = numbers[starts]
        yield place, Runs(first, first + length, np.full(len(first), block), at[starts])


def _in_order(pieces: Sequence[Runs]) -> Runs:
    joined = Runs(*(np.concatenate(column) for column in zip(*pieces, strict=True)))
    order = np.argsort(joined.first, kind="stable")
    return Runs(*(column[order] for column in joined))
