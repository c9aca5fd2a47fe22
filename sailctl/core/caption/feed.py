"""What one worker has to do, read ahead in a thread: its units one after the other, their samples in batches.

A shard that cannot be read does not stop the others; a unit somebody else holds, and one that is sealed, is passed by.
"""

from __future__ import annotations

import io
from collections.abc import Generator
from dataclasses import dataclass, replace

from PIL import Image

from sailctl.core import images
from sailctl.core.caption import sidecar
from sailctl.core.caption.job import JOURNALS, QUARANTINE, Job, Unit, cut, unit_name
from sailctl.core.caption.ledger import Ledger, is_of
from sailctl.core.caption.shards import DataShard
from sailctl.core.data.sources import Source
from sailctl.core.errors import DataError, SampleError
from sailctl.core.files import read_jsonl
from sailctl.core.journal import Busy
from sailctl.core.records import Sample

BATCH = 16  # samples read at once: enough to keep the loop fed, few enough to keep little in memory
MAX_IMAGE_PIXELS = 100_000_000
MAX_BROKEN = 10  # shards that cannot be read before something else is taken to be wrong


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of a unit, or why they are none, each with its row; the first of a unit comes before any is read."""

    ledger: Ledger
    rows: list[tuple[int, Sample | SampleError]]


class Feed:
    """Batches of one of several workers; `next` is called in one thread, numbers may be looked at from another."""

    def __init__(self, job: Job, worker: int = 0, workers: int = 1, *, retry: bool = False, only: str = "") -> None:
        self.job = job
        self.retry = retry
        self.only = only  # id or key of the one sample whose quarantined questions are asked, and nothing else
        self.busy: list[str] = []  # units that another process holds
        self.broken: list[str] = []  # why shards could not be read
        self.remarks: list[str] = []
        self.sealed_rows = 0  # of units that were done before
        self.known_rows = self.known_bytes = 0  # of the shards opened or done so far
        self._mine = list(job.units(worker, workers))
        self.total_bytes = sum(shard.num_bytes for shard, _ in self._mine)
        self._batches = self._run()

    def next(self) -> Batch | None:
        """The next batch, None at the end. Raises StorageError."""
        return next(self._batches, None)

    def close(self) -> None:
        """Let go of the shard in hand."""
        self._batches.close()

    def total_rows(self) -> float:
        """Samples of all this worker's shards, estimated by bytes as long as some are not opened."""
        if not self.known_bytes:
            return float(self.known_rows)
        return self.known_rows * self.total_bytes / self.known_bytes

    def _run(self) -> Generator[Batch, None, None]:
        for shard, (part, every) in self._mine:
            if self._is_done(shard, part, every):
                continue
            try:
                source = shard.open()
            except DataError as error:
                if not self._is_bearable(str(error)):
                    return
                continue
            self.known_rows += len(source)
            self.known_bytes += shard.num_bytes
            try:
                for unit in cut(shard, len(source))[part::every]:
                    yield from self._unit(unit, source)
            except DataError as error:  # the shard is gone, or not what it was
                if not self._is_bearable(str(error)):
                    return
            finally:
                source.close()

    def _unit(self, unit: Unit, source: Source) -> Generator[Batch, None, None]:
        if self._sealed(unit.name):
            return
        try:
            ledger = Ledger.open(self.job, unit, source.fingerprint(), retry=self.retry, only=self.only)
        except Busy:
            self.busy.append(unit.name)
            return
        if ledger is None:
            self.sealed_rows += unit.stop - unit.start
            return
        if ledger.journal.damaged:
            self._remark(f"{ledger.journal.path}: {ledger.journal.damaged} damaged lines; asked again")
        if ledger.changed:
            self._remark(ledger.changed)
        rows = ledger.rows_to_read()
        yield Batch(ledger, [])
        for start in range(0, len(rows), BATCH):
            yield Batch(ledger, [(row, self._read(source, row)) for row in rows[start : start + BATCH]])

    def _read(self, source: Source, row: int) -> Sample | SampleError:
        try:
            return prepared(source.read_row(0, row), self.job.parameters.max_image_side)
        except SampleError as error:
            error.key = error.key or source.row_key(0, row)
            return error

    def _is_done(self, shard: DataShard, part: int, every: int) -> bool:
        """Whether manifests say that this worker's parts of a shard are sealed; then it is not even opened."""
        out = self.job.out
        first = sidecar.read_manifest(out, unit_name(shard.name, 0, 1))
        first = first or sidecar.read_manifest(out, unit_name(shard.name, part, 2))
        if first is None:
            return bool(self.only)
        names = [unit_name(shard.name, number, first["parts"]) for number in range(part, first["parts"], every)]
        before = self.sealed_rows
        if all(self._sealed(name) for name in names):
            self.known_rows += self.sealed_rows - before
            self.known_bytes += shard.num_bytes
            return True
        self.sealed_rows = before
        return False

    def _sealed(self, name: str) -> bool:
        manifest = sidecar.read_manifest(self.job.out, name)
        if self.only and not (manifest and self._has_quarantined(name)):
            return True
        if manifest is None or (self.retry and manifest["reasons"]["quarantined"]):
            return False
        if damaged := sidecar.damaged_files(self.job.out, manifest):
            found = ", ".join(f"{self.job.out / path}: {how}" for path, how in damaged.items())
            self._remark(f"sealed captions are gone or damaged, and made again ({found})")
            return False
        if (self.job.out / JOURNALS / f"{name}.jsonl").exists():  # a kill came between manifest and journal
            return False
        self.sealed_rows += manifest["rows"][1] - manifest["rows"][0]
        return True

    def _has_quarantined(self, name: str) -> bool:
        path = self.job.out / QUARANTINE / f"{name}.jsonl"
        return path.is_file() and any(is_of(row, self.only) for row in read_jsonl(path))

    def _remark(self, line: str) -> None:
        if line not in self.remarks:
            self.remarks.append(line)

    def _is_bearable(self, message: str) -> bool:
        self.broken.append(message)
        return len(self.broken) < MAX_BROKEN


def prepared(sample: Sample, max_side: int | None) -> Sample:
    """A sample that can be asked about: with pictures of a known format and a sane size, as they are.

    With `max_side` a picture with a longer side is made smaller and encoded anew. Raises SampleError no_image,
    bad_image or image_too_large.
    """
    if not sample.images:
        raise _keyed(SampleError("no_image", "a sample without a picture: nothing to caption"), sample)
    try:
        pictures = tuple(_picture(data, max_side) for data in sample.images)
    except SampleError as error:
        raise _keyed(error, sample) from None
    return sample if pictures == sample.images else replace(sample, images=pictures)


def _picture(data: bytes, max_side: int | None) -> bytes:
    width, height = images.image_size(data)
    if width * height > MAX_IMAGE_PIXELS:
        detail = f"{width}x{height} = {width * height} pixels > {MAX_IMAGE_PIXELS}"
        raise SampleError("image_too_large", detail)
    if max_side is None or max(width, height) <= max_side:
        return data
    scale = max_side / max(width, height)
    picture = images.decode(data, max_pixels=MAX_IMAGE_PIXELS)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = picture.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if data.startswith(b"\xff\xd8\xff"):
        small.save(buffer, "JPEG", quality=92)
    else:
        small.save(buffer, "PNG")
    return buffer.getvalue()


def _keyed(error: SampleError, sample: Sample) -> SampleError:
    error.key = sample.key
    return error
