"""The dry run of a filter: a seeded sample judged by every rule, and a page that shows what each would drop."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sailctl.core.curate import join
from sailctl.core.curate.filter.judge import Judge, Tally
from sailctl.core.curate.filter.measure import measured_columns
from sailctl.core.curate.filter.rules import Check
from sailctl.core.curate.parts import Data, Part, Row
from sailctl.core.curate.passes import Workers
from sailctl.core.errors import Interrupted, SampleError
from sailctl.core.files import atomic_write
from sailctl.core.html import render_page
from sailctl.core.images import decode
from sailctl.core.records import Sample
from sailctl.core.reporter import Reporter
from sailctl.core.workers import map_parts

TEMPLATE = Path(__file__).parent / "templates" / "filter.html.j2"
EXAMPLES = 8  # of a rule on the page
THUMBNAIL = 224  # pixels along a thumbnail's longer side
TEXT = 700  # characters of an example's text
SHARES = (1, 5, 25, 50, 75, 95, 99)  # percentiles of what was measured
_PIECE = 100  # samples of a worker's piece of work


@dataclass(frozen=True)
class Preview:
    """What is judged: `samples` of the data, drawn by `seed`, all where there are no more."""

    data: Data
    checks: tuple[Check, ...]
    scores: join.Columns | None
    samples: int
    seed: int

    def drawn(self) -> list[Part]:
        """The samples drawn, as parts of one each, in order."""
        ends = np.cumsum([len(source) for source in self.data.sources])
        total = int(ends[-1])
        drawn = np.random.default_rng(self.seed).choice(total, min(self.samples, total), replace=False)
        parts = []
        for number in np.sort(drawn):
            source = int(np.searchsorted(ends, number, side="right"))
            first = int(number) - (int(ends[source - 1]) if source else 0)
            parts.append(Part(source, first, first + 1, ""))
        return parts


@dataclass
class Seen:
    """What a worker found out about its samples: a line a sample for the tally, measures, examples of each rule."""

    lines: list[tuple[str, str, str]] = field(default_factory=list)
    measured: dict[str, list[float]] = field(default_factory=dict)
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """The work on pieces of the sample; travels to workers."""

    preview: Preview

    def __call__(self, pieces: Sequence[Sequence[Part]]) -> list[Seen]:
        """What is seen in each piece."""
        return [self._look(piece) for piece in pieces]

    def _look(self, piece: Sequence[Part]) -> Seen:
        asked, seen = self.preview, Seen()
        rows = (row for part in piece for row in asked.data.rows(part))
        columns = [name for name, kind in measured_columns(asked.checks).items() if kind != "string"]
        for row, record in Judge(asked.checks, asked.scores).records(rows, whole=True):
            seen.lines.append((row.source, record["reason"], record["hits"]))
            for name in columns:
                if record.get(name) is not None:
                    seen.measured.setdefault(name, []).append(float(record[name]))
            for rule in (record["hits"] or record["reason"] or "kept").split(","):
                shown = seen.examples.setdefault(rule, [])
                if len(shown) < EXAMPLES:
                    shown.append(_example(row, record))
        return seen


def preview(asked: Preview, page: Path, rules: str | None, workers: Workers, reporter: Reporter) -> dict[str, Any]:
    """Judge the sample and write the page, atomically. The same whatever the number of workers."""
    drawn = asked.drawn()
    pieces = [drawn[first : first + _PIECE] for first in range(0, len(drawn), _PIECE)]
    reporter.start("filter --dry-run", len(drawn))
    try:
        seen = _spread(Look(asked), pieces, workers, reporter)
    except KeyboardInterrupt:
        raise Interrupted("nothing was written") from None
    finally:
        reporter.finish()
    tally = Tally(asked.checks)
    examples: dict[str, list[dict[str, Any]]] = {}
    measured: dict[str, list[float]] = {}
    for one in seen:
        for line in one.lines:
            tally.add(*line)
        for name, values in one.measured.items():
            measured.setdefault(name, []).extend(values)
        for rule, found in one.examples.items():
            examples.setdefault(rule, []).extend(found[: EXAMPLES - len(examples.get(rule, []))])
    shares = {
        name: [round(float(value), 4) for value in np.percentile(values, SHARES)] for name, values in measured.items()
    }
    told = {**tally.told(), "of": len(asked.data), "seed": asked.seed, "measured": shares, "page": str(page)}
    text = render_page(
        TEMPLATE, styles=("filter.css",), images="data:", filters={"count": "{:,}".format, "share": _share},
        told=told, examples=examples, names=[source.name for source in asked.data.sources],
        file=rules or "the default set", percentiles=SHARES,
    )  # fmt: skip
    with atomic_write(page, "w") as handle:
        handle.write(text)
    return told


def _spread(look: Look, pieces: Sequence[Sequence[Part]], workers: Workers, reporter: Reporter) -> list[Seen]:
    """What is seen in all pieces, in their order."""
    count = min(workers.processes, len(pieces))
    if count == 1 and workers.ray is None:
        seen: list[Seen] = []
        for piece in pieces:
            seen += look([piece])
            reporter.update(sum(len(one.lines) for one in seen))
        return seen
    lanes = [pieces[number::count] for number in range(count)]
    found = map_parts(look, lanes, lambda: None, ray=workers.ray)
    return [found[number % count][number // count] for number in range(len(pieces))]


def _example(row: Row, record: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of a sample."""
    sample = row.sample
    return {
        "key": row.key, "source": row.source, "reason": record["reason"], "detail": record["detail"],
        "hits": record["hits"].split(",") if record["hits"] else [],
        "pictures": [] if sample is None else [_thumbnail(image) for image in sample.images[:3]],
        "more": 0 if sample is None else max(len(sample.images) - 3, 0),
        "turns": [] if sample is None else list(_turns(sample)),
    }  # fmt: skip


def _turns(sample: Sample) -> Iterator[tuple[str, str]]:
    room = TEXT
    for turn in sample.turns:
        if room <= 0:
            return
        yield turn.role, turn.text[:room] + ("…" if len(turn.text) > room else "")
        room -= len(turn.text)


def _thumbnail(data: bytes) -> str | None:
    """A small JPEG as a data URI; None for what does not decode."""
    from PIL import Image

    try:
        image = decode(data, max_pixels=1 << 28)
    except SampleError:
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _share(count: int, total: int) -> str:
    share = count / total if total else 0.0
    return "0%" if not count else "< 0.1%" if share < 0.001 else f"{share:.1%}"
