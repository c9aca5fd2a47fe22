"""Lengths without samples: read from a CSV, or measured on the first draws of a mixture. What `sailctl plan` counts."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sailctl.core.data.simulate import Length
from sailctl.core.errors import SampleError, UsageError
from sailctl.core.reporter import counted

if TYPE_CHECKING:
    from sailctl.core.data.encode import Encoder
    from sailctl.core.schema.data import DataConfig

COLUMNS = ("tokens", "tiles")
MEASURED = 2048  # draws of a mixture that stand for the whole of it


@dataclass(frozen=True, slots=True)
class Lengths:
    """Rows in the order of the stream, where they are from, and whether their supervised tokens are a guess."""

    rows: list[Length]
    where: str
    targets_estimated: bool = False
    rejected: int = 0
    short: int = 0  # rows with fewer tokens than their tiles stand for, which no sample of this model has


def read_lengths(path: Path, tokens_per_tile: int) -> Lengths:
    """Rows of a CSV with the columns tokens, tiles and, where it is known, targets (supervised tokens).

    Tokens include the visual ones. Without targets, half of the tokens that are no picture are taken to be supervised.
    Raises UsageError naming file, line, column and value.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return _parse(path, csv.reader(file), tokens_per_tile)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: is no CSV in UTF-8: {error}") from None


def _parse(path: Path, lines: Iterator[list[str]], tokens_per_tile: int) -> Lengths:
    head = [name.strip() for name in next(lines, [])]
    if missing := [name for name in COLUMNS if name not in head]:
        raise UsageError(f"{path}: no column {' and '.join(missing)}; it has: {', '.join(head) or 'nothing'}")
    columns = [head.index(name) for name in COLUMNS]
    targets = head.index("targets") if "targets" in head else None
    if targets is not None:
        columns.append(targets)
    rows: list[Length] = []
    short = 0
    for number, line in enumerate(lines, start=2):
        if not line:
            continue
        try:
            values = [int(line[column]) for column in columns]
        except (ValueError, IndexError):
            raise _no_number(path, number, head, columns, line) from None
        tokens, tiles = values[0], values[1]
        if tokens < 1 or tiles < 0:
            raise UsageError(f"{path}:{number}: {tokens} tokens and {tiles} tiles; at least 1 and 0 are needed")
        short += tokens < tokens_per_tile * tiles
        supervised = values[2] if targets is not None else max(tokens - tokens_per_tile * tiles, 0) // 2
        if not 0 <= supervised <= tokens:
            raise UsageError(f"{path}:{number}: {supervised} targets of {tokens} tokens; give 0 to {tokens}")
        rows.append(Length(len(rows), tokens, tiles, supervised))
    if not rows:
        raise UsageError(f"{path}: holds no samples, only its head")
    return Lengths(rows, str(path), targets_estimated=targets is None, short=short)


def _no_number(path: Path, number: int, head: list[str], columns: list[int], line: list[str]) -> UsageError:
    for column in columns:
        value = line[column] if column < len(line) else ""
        if not value.strip().lstrip("+-").isdigit():
            return UsageError(f"{path}:{number}: {head[column]} = {value!r}: should be a whole number")
    return UsageError(f"{path}:{number}: {line!r}: should hold whole numbers")


def check_caps(lengths: Lengths, tokens: int, tiles: int) -> None:
    """Refuse lengths that no pack can hold, naming the first of them and how many there are."""
    over = [row for row in lengths.rows if row.num_tokens > tokens or row.num_tiles > tiles]
    if over:
        first = over[0]
        raise UsageError(
            f"{lengths.where}: row {first.row} (from 0) has {first.num_tokens} tokens and {first.num_tiles} tiles, a "
            f"pack holds {tokens} and {tiles}; {counted(len(over), 'row')} in all: raise --tokens or --tiles, or "
            "leave them out"
        )


def measure_lengths(data: DataConfig, encoder: Encoder, seed: int) -> Lengths:
    """Lengths of the first draws of a mixture, as the trainer would see them; broken samples are counted and left out.

    Raises UsageError where a source is not there or empty, and where every sample is broken.
    """
    from sailctl.core.data.order import Mixture, Order
    from sailctl.core.data.sources import open_source

    if not data.sources:
        raise UsageError("no lengths: give --lengths CSV or --data PATH, or list sources in the recipe")
    sources = [open_source(source) for source in data.sources]
    order = Order(Mixture.of([len(source) for source in sources], data.sources), seed, 1, data.shuffle)
    rows: list[Length] = []
    draws, reason = min(MEASURED, sum(len(source) for source in sources)), ""
    for number in range(draws):
        ref = order.ref(0, number)
        try:
            rows.append(Length(len(rows), *encoder.measure(sources[ref.source].read(ref.ordinal))))
        except SampleError as error:  # the trainer would log and skip it
            reason = str(error)
    names = ", ".join(source.path for source in data.sources)
    if not rows:
        raise UsageError(f"{names}: none of its first {draws} can be read, the last one: {reason}")
    return Lengths(rows, f"{names} (first {draws:,} draws)", rejected=draws - len(rows))
