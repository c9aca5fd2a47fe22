"""What of a sample stands in a benchmark: its pictures, or a crop of one, and runs of words of a question."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sailctl.core import images
from sailctl.core.curate.decontaminate import alignment
from sailctl.core.curate.decontaminate.benchmarks import Index, load_index
from sailctl.core.curate.dedup import pictures, wording
from sailctl.core.curate.dedup.signatures import MAX_PIXELS
from sailctl.core.curate.parts import Row
from sailctl.core.errors import SampleError
from sailctl.core.records import Sample

AT_ONCE = 64  # samples whose pictures are compared together


@dataclass(frozen=True)
class FindOverlaps:
    """Of each row where it stands in the benchmarks; a function of a pass."""

    folder: Path
    names: tuple[str, ...]
    by: tuple[str, ...]
    ngram: int
    distance: float

    def __call__(self, rows: Iterator[Row]) -> Any:
        """The columns of a verdict's place, `reason` and `detail` of a broken one, and a list of `hits`."""
        import pyarrow as pa

        index = load_index(self.folder, self.names, self.ngram)
        records: list[dict[str, Any]] = []
        waiting: list[tuple[dict[str, Any], np.ndarray, bytes]] = []
        for row in rows:
            record: dict[str, Any] = {**row.place(), "reason": "", "detail": "", "hits": []}
            records.append(record)
            try:
                if row.sample is None:
                    raise row.error or SampleError("unreadable", "")
                waiting += [(record, *one) for one in self._pictures(row.sample)]
                if "question" in self.by:
                    record["hits"] += _question_hits(index, row.sample)
            except SampleError as error:
                record |= {"reason": error.reason, "detail": error.detail}
            if len(waiting) >= AT_ONCE:
                self._look(index, waiting)
                waiting = []
        self._look(index, waiting)
        hit = pa.struct({"by": pa.string(), "benchmark": pa.int32(), "question": pa.int64(), "distance": pa.float64(),
                         "run": pa.uint64()})  # fmt: skip
        text = dict.fromkeys(("id", "source", "shard", "key", "reason", "detail"), pa.string())
        return pa.Table.from_pylist(records, pa.schema({**text, "row": pa.int64(), "hits": pa.list_(hit)}))

    def _pictures(self, sample: Sample) -> Iterator[tuple[np.ndarray, bytes]]:
        if "image" in self.by:
            for data in sample.images:
                picture = images.decode(data, max_pixels=MAX_PIXELS)
                yield np.frombuffer(pictures.small_copy(picture), np.uint8), pictures.pixel_hash(picture)

    def _look(self, index: Index, waiting: list[tuple[dict[str, Any], np.ndarray, bytes]]) -> None:
        """Note the benchmarks' pictures that pictures of the data are, or are crops of, with the samples."""
        if not waiting or not len(index.copies):
            return
        copies = np.stack([copy for _, copy, _ in waiting])
        alike = (alignment.descriptors(pictures.lumas(copies)) @ index.views.T).reshape(
            len(copies), len(index.copies), -1
        )
        best = alike.max(axis=2)
        most = min(alignment.MOST, best.shape[1])
        likely = np.argpartition(-best, most - 1, axis=1)[:, :most]
        shown, place = np.nonzero(np.take_along_axis(best, likely, axis=1) >= alignment.ALIKE)
        whole = likely[shown, place]
        close = (np.abs(alignment.means(copies)[shown] - index.means[whole]) <= alignment.MEANS).all(axis=1)
        shown, whole = shown[close], whole[close]
        views = np.argsort(-alike[shown, whole], axis=1, kind="stable")[:, : alignment.TRIED]
        apart = np.full(len(whole), np.inf)
        for start in range(0, len(whole), 128):
            some = slice(start, start + 128)
            apart[some] = alignment.crop_difference(index.copies[whole[some]], copies[shown[some]], views[some])
        found = {(int(a), int(b)): float(d) for a, b, d in zip(shown, whole, apart, strict=True) if d <= self.distance}
        for number, (_, _, own) in enumerate(waiting):
            if own in index.hashes:
                found[number, index.hashes[own]] = 0.0
        for (number, picture), distance in sorted(found.items()):
            for benchmark, question in index.shown_in[picture]:
                told = {"benchmark": benchmark, "question": question, "distance": round(distance, 3), "run": None}
                waiting[number][0]["hits"].append({"by": "image", **told})


def _question_hits(index: Index, sample: Sample) -> list[dict[str, Any]]:
    """Rows of benchmarks of whose questions a turn of the sample has a run of words; each row once."""
    found: dict[tuple[int, int], int] = {}
    for turn in sample.turns:
        words = wording.numbers_of(wording.words_of(turn.text))
        for length in index.lengths:
            runs = wording.ngram_hashes(words, length)
            if not len(runs):
                break
            at = np.minimum(np.searchsorted(index.runs, runs), max(len(index.runs) - 1, 0))
            for place in at[index.runs[at] == runs] if len(index.runs) else ():
                for row in index.asked_in[place]:
                    found.setdefault(row, int(index.runs[place]))
    return [
        {"by": "question", "benchmark": benchmark, "question": question, "distance": None, "run": run}
        for (benchmark, question), run in sorted(found.items())
    ]
