"""Sealed captions: a Parquet sidecar a task, its rejects and quarantine, and the manifest that says all are whole.

Everything appears complete under its name or not at all, the manifest last: where it stands and agrees, the unit is
done. What reads sidecars to train on them is `core/data/captions.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import fields
from glob import escape
from pathlib import Path
from typing import Any

from sailctl.core.files import atomic_write, write_json
from sailctl.core.records import CaptionRow

MANIFESTS = "manifests"
ROW_GROUP = 200  # the least that is decoded for one row: small, for shuffled training jumps between them
SHARD_FORMAT = "sailctl-caption-shard-1"


def write_sidecar(path: Path, rows: Iterable[tuple[CaptionRow, str]], about: dict[str, str]) -> int:
    """Write the rows, each with the journal's name for its question; returns their number. Memory is a row group's.

    `about` goes into the footer, with a hash of all rows: a source's fingerprint is made of footers.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    count, content = 0, hashlib.blake2b(digest_size=16)
    schema = _schema()
    with atomic_write(path) as handle, pq.ParquetWriter(handle, schema, compression="zstd") as writer:
        for batch in _batches(rows, ROW_GROUP):
            records = [_record(row, question) for row, question in batch]
            for record in records:
                content.update(repr(record).encode())
            writer.write_table(pa.Table.from_pylist(records, schema=schema), row_group_size=ROW_GROUP)
            count += len(records)
        writer.add_key_value_metadata({**about, "sailctl.content": content.hexdigest()})
    return count


def read_sidecar(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a sidecar as records. Raises OSError or pyarrow's errors."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group, use_threads=False).to_pylist()


def _schema() -> Any:
    import pyarrow as pa

    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    kinds = {"row": pa.int64(), "prompt_tokens": pa.int64(), "completion_tokens": pa.int64(), "turns": pa.list_(turn)}
    columns = [(field.name, kinds.get(field.name, pa.string())) for field in fields(CaptionRow)]
    return pa.schema([*columns, ("question", pa.string())])


def _record(row: CaptionRow, question: str) -> dict[str, Any]:
    turns = None if row.turns is None else [{"role": turn.role, "content": turn.text} for turn in row.turns]
    return {field.name: getattr(row, field.name) for field in fields(row)} | {"turns": turns, "question": question}


def _batches(rows: Iterable[tuple[CaptionRow, str]], size: int) -> Iterator[list[tuple[CaptionRow, str]]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def clear_leftovers(paths: Iterable[Path]) -> None:
    """Remove temporary files of writers of these paths that were killed; whoever calls holds the unit's lock."""
    for path in paths:
        for leftover in path.parent.glob(f".{escape(path.name)}.*.tmp"):
            leftover.unlink(missing_ok=True)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> bool:
    """Write rows as JSON lines, or remove what an earlier attempt left where there are none; whether there are."""
    if not rows:
        path.unlink(missing_ok=True)
        return False
    with atomic_write(path) as handle:
        for row in rows:
            handle.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
    return True


# --- manifests -------------------------------------------------------------------------------------------------------


def manifest_path(out: Path, unit: str) -> Path:
    """Where the manifest of a unit stands."""
    return out / MANIFESTS / f"{unit}.json"


def write_manifest(out: Path, unit: str, paths: Iterable[Path], about: dict[str, Any]) -> None:
    """Seal a unit: its files' sizes and hashes, and what is told about them."""
    listed = {
        str(path.relative_to(out)): {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in paths
    }  # fmt: skip
    write_json(manifest_path(out, unit), {"format": SHARD_FORMAT, "unit": unit, **about, "files": listed})


def read_manifest(out: Path, unit: str) -> dict[str, Any] | None:
    """The manifest of a unit, None where there is none that can be read."""
    with suppress(OSError, ValueError):
        found = json.loads(manifest_path(out, unit).read_text(encoding="utf-8"))
        if isinstance(found, dict) and found.get("format") == SHARD_FORMAT:
            return found
    return None


def all_manifests(out: Path) -> Iterator[dict[str, Any]]:
    """Every manifest of a job, in the order of their names."""
    for path in sorted((out / MANIFESTS).rglob("*.json")):
        unit = path.relative_to(out / MANIFESTS).as_posix().removesuffix(".json")
        if (found := read_manifest(out, unit)) is not None:
            yield found


def damaged_files(out: Path, manifest: dict[str, Any]) -> dict[str, str]:
    """Sealed files that are gone or not what they were, each with how; all others agree in size and hash."""
    wrong = {}
    for name, sealed in manifest["files"].items():
        path = out / name
        try:
            size = path.stat().st_size
            if size != sealed["bytes"]:
                wrong[name] = f"{size} bytes, {sealed['bytes']} were sealed"
            elif (found := _sha256(path)) != sealed["sha256"]:
                wrong[name] = f"sha256 is {found[:16]}…, {sealed['sha256'][:16]}… was sealed"
        except FileNotFoundError:
            wrong[name] = "it is gone"
        except OSError as error:
            wrong[name] = error.strerror or str(error)
    return wrong


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
