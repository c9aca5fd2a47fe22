"""Opinions: what judges, models and people alike, say of a sample; one table for both, so that they can be compared.

A row is one number that one judge gave one thing on one criterion. Higher is better, or more of what the criterion is
called: a caption without any hallucination has hallucination 5. How far judges agree is `agreement.py`'s to say.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from sailctl.core import files
from sailctl.core.curate.passes import ROW_GROUP
from sailctl.core.errors import DataError, UsageError

OPINIONS = "opinions.parquet"  # the file of a pass or of an annotation that holds them
COLUMNS = {"id": "string", "source": "string", "shard": "string", "row": "int64", "key": "string", "item": "string",
           "task": "string", "criterion": "string", "value": "double", "judge": "string", "round": "int64"}  # fmt: skip

# Lowest and highest value of every criterion of every task, as the SAIL-VL paper's appendices D and F have them.
SCALES: dict[str, dict[str, tuple[float, float]]] = {
    "quality": {
        "precision": (1, 10), "recall": (1, 10),  # against a reference caption
        # by the picture; overall is the one mark that appendix D gives a caption, the others say what it is made of
        "overall": (1, 5), "hallucination": (1, 5), "inaccuracy": (1, 5), "omission": (1, 5), "fluency": (1, 5),
    },
    "sft": {"difficulty": (1, 5), "complexity": (1, 5), "relevance": (1, 5)},
    "gsb": {"preference": (-1, 1)},  # +1 the candidate is better (good), 0 same, -1 the reference is (bad)
}  # fmt: skip
MODEL, PERSON = "model:", "person:"  # how the name of a judge begins
ROUNDS = (0, 1)  # the first time it was judged, and the second: two captions swapped, or a person asked again


def item_of(identity: str, *texts: str) -> str:
    """The name of what is judged, the same for whoever judges it: 32 hex digits.

    `identity` is the sample's id; `texts` are what of it is judged: nothing for a conversation (sft), the caption
    (quality), the candidate and then the reference (gsb). Texts are compared without white space around them.
    """
    digest = hashlib.blake2b(digest_size=16)
    for text in (identity, *(one.strip() for one in texts)):
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def opinions_table(records: Iterable[dict[str, Any]], where: str = "opinions", first: int = 0) -> Any:
    """Records as a pyarrow Table of opinions.

    Raises DataError for one that breaks the schema, naming `where` and its row, counted from `first`.
    """
    import pyarrow as pa

    rows = []
    for number, record in enumerate(records, first):
        _check(record, f"{where}, row {number}")
        rows.append({name: record[name] for name in COLUMNS})
    return pa.Table.from_pylist(rows, schema=_schema())


def write_opinions(path: Path, records: Iterable[dict[str, Any]]) -> int:
    """Write opinions, whole or not at all, as JSON lines where the name ends in .jsonl, else as Parquet; their number.

    Memory is a row group's. Raises DataError for one that breaks the schema.
    """
    import pyarrow.parquet as pq

    stream, count = iter(records), 0
    with files.atomic_write(path) as handle, ExitStack() as closed_first:
        writer = None
        if path.suffix != ".jsonl":
            writer = closed_first.enter_context(pq.ParquetWriter(handle, _schema(), compression="zstd"))
        while rows := list(islice(stream, ROW_GROUP)):
            table = opinions_table(rows, str(path), count)
            count += len(table)
            if writer is not None:
                writer.write_table(table)
                continue
            for record in table.to_pylist():
                handle.write((json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass"))
    return count


def find_opinions(path: str | Path) -> list[str]:
    """The files of opinions at a path: a file, or a folder with an `opinions.parquet` or tables of opinions alone.

    Raises UsageError where there are none.
    """
    text = str(path).rstrip("/")
    suffixes = (".parquet", ".jsonl")
    found = files.list_shards(f"{text}/{OPINIONS}", suffixes) or files.list_shards(text, suffixes)
    if not found:
        raise UsageError(f"{path}: no opinions (.parquet or .jsonl) there; sailctl curate judge or annotate makes some")
    return found


def read_opinions(paths: Sequence[str | Path], items: Sequence[str] | None = None) -> Any:
    """All opinions at paths, or those on `items`, as one pyarrow Table, every row of it checked.

    Raises UsageError where nothing is there, DataError naming file and row where something is no opinion.
    """
    import pyarrow as pa

    tables = [_read(name, items) for path in paths for name in find_opinions(path)]
    return pa.concat_tables(tables) if tables else _schema().empty_table()


def _read(name: str, items: Sequence[str] | None) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with files.open_read(name) as handle:
            if name.endswith(".jsonl"):
                lines = handle.read().decode("utf-8").splitlines()
                table = opinions_table([json.loads(line) for line in lines if line.strip()], name)
                return table if items is None else table.filter(pc.field("item").isin(list(items)))
            chosen = None if items is None else pc.field("item").isin(list(items))
            return opinions_table(pq.read_table(handle, filters=chosen).to_pylist(), name)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"opinions {name} cannot be read: {str(error).splitlines()[0]}") from error


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])


def _check(record: Any, where: str) -> None:
    if not isinstance(record, dict):
        raise DataError(f"{where}: is no object of opinion columns")
    if missing := [name for name in COLUMNS if record.get(name) is None]:
        raise DataError(f"{where}: column {', '.join(missing)} is missing; an opinion has {', '.join(COLUMNS)}")
    for name, kind in COLUMNS.items():
        value = record[name]
        right = isinstance(value, str) if kind == "string" else isinstance(value, int | float)
        if not right or isinstance(value, bool):
            raise DataError(f"{where}: {name} is {value!r}, no {kind}")
    scales = SCALES.get(record["task"])
    if scales is None:
        raise DataError(f"{where}: task {record['task']!r}; known: {', '.join(SCALES)}")
    scale = scales.get(record["criterion"])
    if scale is None:
        raise DataError(f"{where}: criterion {record['criterion']!r}; {record['task']} has {', '.join(scales)}")
    if not (math.isfinite(record["value"]) and scale[0] <= record["value"] <= scale[1]):
        wanted = f"{scale[0]:g} to {scale[1]:g}"
        raise DataError(f"{where}: {record['criterion']} is {record['value']:g}; it goes from {wanted}")
    if not any(record["judge"].startswith(kind) and record["judge"] != kind for kind in (MODEL, PERSON)):
        raise DataError(f"{where}: judge {record['judge']!r}; give {MODEL}NAME or {PERSON}NAME")
    if record["round"] not in ROUNDS:
        raise DataError(f"{where}: round {record['round']}; 0 is the first, 1 the second")
