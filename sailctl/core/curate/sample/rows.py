"""The first and the last step of sampling, each a map over parts: who may be drawn and in which group; who was drawn.

In between (`sample.py`) lies the drawing, for which a sample is a few numbers in arrays.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sailctl.core.curate.join import Columns, Lookup
from sailctl.core.curate.parts import Data, Part, answers_of
from sailctl.core.curate.passes import PASS_FILE, file_of
from sailctl.core.curate.sample.concepts import Concepts
from sailctl.core.curate.sample.ngrams import gram_hashes
from sailctl.core.data.verdicts import COLUMNS, VERDICTS
from sailctl.core.errors import UsageError

NO_GROUP = "(none)"
NO_VERDICT, NOT_DRAWN, NO_CONCEPT = "no_verdict", "not_drawn", "no_concept"  # reasons; the first is an error
PLACES = ("id", "source", "shard", "row", "key")
OF_SAMPLES = ("source", "shard", "lang", "concepts")  # what --by means without any column


@dataclass(frozen=True)
class Grouping:
    """What samples are balanced over: `by` is one of OF_SAMPLES, "cluster", the name of a column, or None."""

    by: str | None
    columns: Columns | None = None
    concepts: Concepts | None = None

    @property
    def reads_text(self) -> bool:
        """Whether groups are known by what samples say, not by tables."""
        return self.by in ("lang", "concepts") and self.columns is None

    def labels(self, rows: Any, texts: Sequence[str]) -> list[str]:
        """The group of every row, unless it is concepts. Raises UsageError for numbers as groups."""
        if self.columns is not None:
            assert self.by is not None
            return [self._label(value) for value in self.columns.of(rows)[self.by].to_pylist()]
        if self.by == "lang":
            from sailctl.core.curate.language import language_of

            return [language_of(text) for text in texts]
        sources = rows["source"].to_pylist()
        if self.by == "shard":
            return [f"{source}/{shard}" for source, shard in zip(sources, rows["shard"].to_pylist(), strict=True)]
        return list(sources) if self.by == "source" else [""] * len(sources)

    def _label(self, value: Any) -> str:
        if isinstance(value, float | list | dict):
            raise UsageError(f"--by {self.by}: holds {value!r:.60}, which names no group; give a column of categories")
        if self.by == "cluster" and value is not None:
            return f"cluster-{value:05d}" if isinstance(value, int) else str(value)
        return str(value) if value is not None and str(value).strip() else NO_GROUP


@dataclass(frozen=True)
class Candidates:
    """A part as a table: places, why a row may not be drawn, its group, numbers of its concepts, hashes of its n-grams.

    `known` are verdicts on the very same data, whose parts tell places and ids: no sample is read where no text is
    needed.
    """

    data: Data
    verdicts: tuple[Lookup, ...]
    grouping: Grouping
    grams: int | None
    known: str | None

    def __call__(self, part: Part) -> Any:
        """The table of a part."""
        import pyarrow as pa

        rows, reasons, details, texts = self._rows(part)
        for verdicts in self.verdicts:
            found = verdicts.of(rows).to_pydict()
            for at, keep in enumerate(found["keep"]):
                if keep is None and not reasons[at]:
                    reasons[at], details[at] = NO_VERDICT, verdicts.path
                elif keep is False and reasons[at] in ("", NO_VERDICT):  # a pass over what this one kept knows it not
                    reasons[at], details[at] = found["reason"][at] or "dropped", found["detail"][at] or ""
        table = rows.append_column("reason", pa.array(reasons, pa.string()))
        table = table.append_column("detail", pa.array(details, pa.string()))
        if (concepts := self.grouping.concepts) is not None:
            members = [concepts.found(text) for text in texts]
            table = table.append_column("concepts", pa.array(members, pa.list_(pa.int32())))
            names = ["|".join(concepts.names[one] for one in found) for found in members]
            table = table.append_column("group", pa.array(names, pa.string()))
        else:
            table = table.append_column("group", pa.array(self.grouping.labels(rows, texts), pa.string()))
        if self.grams is not None:
            hashed = [gram_hashes(text, self.grams) for text in texts]
            table = table.append_column("grams", pa.array(hashed, pa.list_(pa.uint32())))
        return table

    def _rows(self, part: Part) -> tuple[Any, list[str], list[str], list[str]]:
        import pyarrow as pa

        if self.known is not None and not self.grouping.reads_text and self.grams is None:
            rows = _known_rows(self.known, part)
            return rows, [""] * len(rows), [""] * len(rows), [""] * len(rows)
        records, reasons, details, texts = [], [], [], []
        for row in self.data.rows(part):
            records.append(row.place())
            reasons.append("" if row.error is None else row.error.reason)
            details.append("" if row.error is None else row.error.detail)
            texts.append("" if row.sample is None else answers_of(row.sample))
        schema = pa.schema([(name, pa.type_for_alias(COLUMNS[name])) for name in PLACES])
        return pa.Table.from_pylist(records, schema=schema), reasons, details, texts


@dataclass(frozen=True)
class Told:
    """The verdicts of a part: kept is who was drawn. `drawn` is a bit a sample, over all parts in their order."""

    candidates: Path
    drawn: np.ndarray
    grouped: bool
    by_concept: bool

    def __call__(self, task: Drawn) -> Any:
        """The table of a part."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(file_of(self.candidates, task))
        bits = np.unpackbits(self.drawn[task.first // 8 : (task.first + len(table) + 7) // 8])
        keep = bits[task.first % 8 :][: len(table)].astype(bool)
        earlier, group = table["reason"].to_pylist(), table["group"].to_pylist()
        reason = [
            "" if kept else why or (NO_CONCEPT if self.by_concept and not names else NOT_DRAWN)
            for kept, why, names in zip(keep, earlier, group, strict=True)
        ]
        told = table.select(list(PLACES)).append_column("keep", pa.array(keep))
        told = told.append_column("reason", pa.array(reason, pa.string())).append_column("detail", table["detail"])
        return told.append_column("group", table["group"]) if self.grouped else told


@dataclass(frozen=True, slots=True)
class Drawn:
    """A part, and how many samples lie before it."""

    name: str
    first: int


def same_data(verdicts: str, data: Data) -> bool:
    """Whether a pass went over the very same data in the same parts, so that its rows name places and ids of ours."""
    import pyarrow.parquet as pq

    path = Path(verdicts) / PASS_FILE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))["data"]
        lengths = [pq.read_metadata(file_of(Path(verdicts) / VERDICTS, part)).num_rows for part in data.parts]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    ours = [(one["name"], one["fingerprint"]) for one in data.described()]
    aligned = lengths == [part.stop - part.first for part in data.parts]
    return aligned and [(one.get("name"), one.get("fingerprint")) for one in told] == ours


def _known_rows(verdicts: str, part: Part) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(file_of(Path(verdicts) / VERDICTS, part), columns=list(PLACES))
