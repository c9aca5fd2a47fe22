"""`sailctl curate write`: what verdicts keep, as new shards; the one command of curation that copies data.

Which samples a shard holds is decided by the data alone: runs of a source's kept samples, in order. So any number of
workers writes the same bytes, and what a kill interrupts is written anew, the same.

    OUT/
      NAME-00000.tar …    shards of the source NAME, with their indexes beside them
      written/…           a table a shard: every sample's place before, its id, and its key in the shard
      manifest.json       counts, sizes and SHA-256 of the shards, what they were made of
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sailctl import __version__
from sailctl.core.curate import join
from sailctl.core.curate.parts import Data, Part, Row, open_data
from sailctl.core.curate.passes import PASS_FILE, Pass, default_workers, file_of, run_tasks, verdict_table
from sailctl.core.curate.write.tar import TarShard, members_of, sha256_of
from sailctl.core.data.index import shard_index
from sailctl.core.data.layouts import tar_sample
from sailctl.core.errors import DataError, SampleError, UsageError
from sailctl.core.files import atomic_write, is_url, write_json
from sailctl.core.images import checked_size
from sailctl.core.records import Sample
from sailctl.core.reporter import Reporter
from sailctl.core.schema.data import DataConfig

WRITTEN, MANIFEST = "written", "manifest.json"
SHARD_SAMPLES = 10_000
MAX_PIXELS = DataConfig().max_image_pixels  # beyond it nothing is decoded to see whether it is whole
MEASURED = 256  # samples of a source that tell the mean size, for --shard-bytes
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


@dataclass
class WriteRequest:
    """What `sailctl curate write` is asked for; what `run` gives is its JSON answer."""

    data: Sequence[str]
    out: Path | None
    verdicts: Sequence[str] = ()
    image_root: str | None = None
    captions: str | None = None
    shard_samples: int | None = None
    shard_bytes: str | None = None
    processes: int | None = None
    ray: str | None = None

    def run(self, reporter: Reporter, *, dry_run: bool = False) -> dict[str, Any]:
        """Write the shards, or find them written and look whether they still are. Raises UsageError, DataError."""
        if self.out is None and not dry_run:
            raise UsageError("--out is missing: the folder that shards are written to")
        if self.shard_samples is not None and self.shard_bytes is not None:
            raise UsageError(f"--shard-samples {self.shard_samples} and --shard-bytes {self.shard_bytes}: give one")
        data = open_data(
            self.data,
            image_root=self.image_root,
            captions=self.captions,
            verdicts=list(self.verdicts),
            reporter=reporter,
        )
        sizes = self._sizes(data)
        data = replace(data, parts=tuple(_cut(data, sizes)))
        if dry_run or self.out is None:
            return {**_planned(data), "dry_run": True}
        parameters = {"shard_samples": sizes}
        workers = default_workers(self.processes, self.ray)
        done = Pass("write", self.out, parameters, data, workers, reporter)
        if done.open() and _still_there(self.out, data, workers.processes, reporter):
            return {**(done.summary or {}), "out": str(self.out), "verified": True}
        for left in self.out.glob(".*.tar.*.tmp"):  # of a run that was killed: as large as shards are
            left.unlink(missing_ok=True)
        for part in data.parts:
            if not (self.out / f"{part.name}.tar").is_file():
                file_of(self.out / WRITTEN, part).unlink(missing_ok=True)
        lengths = {part.name: part.stop - part.first for part in data.parts}
        run_tasks(_Write(data, self.out), data.parts, self.out / WRITTEN, workers, reporter, "write", lengths)
        manifest = _manifest(data, self.out)
        write_json(self.out / MANIFEST, manifest)
        told = {name: manifest[name] for name in ("samples", "bytes", "skipped")}
        summary = {**told, "shards": len(manifest["shards"]), "sources": manifest["sources"]}
        summary = done.finish(summary)
        return {**summary, "out": str(self.out), "verified": False, "next": self._next(data)}

    def _sizes(self, data: Data) -> dict[str, int]:
        """Samples in a shard of each source."""
        if self.shard_bytes is None:
            return {source.name: self.shard_samples or SHARD_SAMPLES for source in data.sources}
        wanted = parse_bytes(self.shard_bytes)
        return {
            source.name: max(1, int(wanted / _mean_bytes(data, number))) for number, source in enumerate(data.sources)
        }

    def _next(self, data: Data) -> str:
        words = ["sailctl curate mix"]
        for config, folder in zip(data.configs, _folders(data), strict=True):
            words.append(f"--data {shlex.quote(f'{self.out}/{folder}-*.tar')}")
            for option, value in (("weight", config.weight), ("repeats", config.repeats), ("group", config.group)):
                if value is not None:
                    words.append(f"--{option} {shlex.quote(f'{folder}={value}')}")
        return " ".join([*words, "--out mixture.yaml"])


@dataclass(frozen=True)
class _Write:
    """The work on a shard; travels to workers."""

    data: Data
    out: Path

    def __call__(self, part: Part) -> Any:
        """Write the tar, then tell of it: a row for every sample, the file's size and hash with the schema."""
        path = self.out / f"{part.name}.tar"
        records = []
        with atomic_write(path) as handle:
            shard = TarShard(handle)
            for row in self.data.rows(part):
                records.append({**row.place(), **_put(shard, row)})
            digest = shard.close()
        shard_index(str(path), "tar")
        table = verdict_table(records, {"written_key": "string", "written_id": "string"})
        kept = sum(record["keep"] for record in records)
        told = {"samples": kept, "bytes": shard.size, "sha256": digest}
        return table.replace_schema_metadata({"shard": json.dumps(told)})


def _put(shard: TarShard, row: Row) -> dict[str, Any]:
    """Add a row's sample to a shard, read back as training will read it; what that gives goes into the table."""
    if row.sample is None:
        error = row.error or SampleError("unreadable", "")
        return {"keep": False, "reason": error.reason, "detail": error.detail[:300]}
    if problem := _no_picture(row.sample):
        return {"keep": False, "reason": "bad_image", "detail": problem[:300]}
    key = shard.key_for(row.sample.key)
    members = members_of(row.sample, key)
    try:
        written = tar_sample(members, key, row.source)
    except SampleError as error:
        return {"keep": False, "reason": error.reason, "detail": f"as a tar's sample: {error.detail}"[:300]}
    shard.add(key, members)
    return {"keep": True, "reason": "", "detail": "", "written_key": key, "written_id": written.id}


def _no_picture(sample: Sample) -> str:
    """Why one of a sample's pictures is none; empty where all are fine. The trainer decides which are too large."""
    for image in sample.images:
        try:
            checked_size(image, max_pixels=MAX_PIXELS)
        except SampleError as error:
            if error.reason == "bad_image":
                return error.detail
    return ""


def _folders(data: Data) -> list[str]:
    """The sources' names as names of files, no two alike."""
    names: list[str] = []
    for source in data.sources:
        plain = found = re.sub(r"[^\w-]+", "-", source.name).strip("-") or "data"
        number = 1
        while found in names:
            number += 1
            found = f"{plain}-{number}"
        names.append(found)
    return names


def _cut(data: Data, sizes: dict[str, int]) -> Iterator[Part]:
    for number, (source, name) in enumerate(zip(data.sources, _folders(data), strict=True)):
        size = sizes[source.name]
        width = max(5, len(str(len(source) // size)))
        for count, first in enumerate(range(0, len(source), size)):
            yield Part(number, first, min(first + size, len(source)), f"{name}-{count:0{width}d}")


def _mean_bytes(data: Data, number: int) -> float:
    """Mean size of a source's samples as members, by some that lie evenly over it."""
    source = data.sources[number]
    sizes = []
    for ordinal in np.unique(np.linspace(0, len(source) - 1, MEASURED, dtype=np.int64)):
        try:
            sample: Sample = source.read(int(ordinal))
        except SampleError:
            continue
        members = members_of(sample, sample.key)
        sizes.append(sum(512 + -(-len(member) // 512) * 512 for member in members.values()))
    return sum(sizes) / len(sizes) if sizes else 1.0


def parse_bytes(text: str) -> int:
    """`500M`, `1.5GB` or `2GiB` in bytes. Raises UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKmMgG]?i?)[bB]?", text.strip())
    size = float(match[1]) * _UNITS.get(match[2].lower(), 0) if match else 0.0
    if size < 1:
        raise UsageError(f"--shard-bytes {text}: give a size such as 500M, 1GB or 2GiB")
    return int(size)


def _planned(data: Data) -> dict[str, Any]:
    shards = Counter(part.source for part in data.parts)
    sources = [
        {"name": config.name, "samples": len(source), "shards": shards[number]}
        for number, (config, source) in enumerate(zip(data.configs, data.sources, strict=True))
    ]
    return {"samples": len(data), "shards": len(data.parts), "sources": sources}


def _told(out: Path, part: Part) -> dict[str, Any]:
    """What the table of a shard says of the shard."""
    import pyarrow.parquet as pq

    metadata = pq.read_schema(file_of(out / WRITTEN, part)).metadata
    return dict(json.loads(metadata[b"shard"]))


def _manifest(data: Data, out: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    shards, skipped = [], Counter[str]()
    kept, written = Counter[int](), Counter[int]()
    for part in data.parts:
        told = _told(out, part)
        shards.append({"name": f"{part.name}.tar", "source": data.sources[part.source].name, **told})
        kept[part.source] += told["samples"]
        written[part.source] += 1
        if told["samples"] < part.stop - part.first:
            reasons = pq.read_table(file_of(out / WRITTEN, part), columns=["reason"])["reason"].to_pylist()
            skipped.update(reason for reason in reasons if reason)
    sources = [
        {**about, "samples": kept[number], "shards": written[number], "captions": config.captions,
         "verdicts": [_lineage(path) for path in config.verdicts], **_made_from(config.path)}
        for number, (config, about) in enumerate(zip(data.configs, data.described(), strict=True))
    ]  # fmt: skip
    return {
        "format": "sailctl shards", "version": 1, "sailctl": __version__, "samples": sum(kept.values()),
        "bytes": sum(one["bytes"] for one in shards), "skipped": dict(sorted(skipped.items())),
        "sources": sources, "shards": shards, "warnings": list(data.warnings),
    }  # fmt: skip


def _lineage(path: str) -> dict[str, Any]:
    """A pass whose verdicts were heeded: where it lay, a hash of its tables, and what it said of itself."""
    about: dict[str, Any] = {"path": path, "content": join.content(path)}
    file = Path(path) / PASS_FILE
    if not is_url(path) and file.is_file():
        about["pass"] = json.loads(file.read_text(encoding="utf-8"))
    return about


def _made_from(path: str) -> dict[str, Any]:
    """The manifest of data that were written by this command, too."""
    place = Path(path) if is_url(path) or Path(path).is_dir() else Path(path).parent
    file = place / MANIFEST
    if is_url(path) or not file.is_file():
        return {}
    with file.open("rb") as handle:
        return {"manifest": {"path": str(file), "sha256": sha256_of(handle)}}


def _still_there(out: Path, data: Data, threads: int, reporter: Reporter) -> bool:
    """Whether all shards of a finished write are there, unchanged. Raises DataError naming one that has changed."""
    parts = [part for part in data.parts if (out / f"{part.name}.tar").is_file()]
    if len(parts) < len(data.parts) or not (out / MANIFEST).is_file():
        return False
    reporter.start("verify", len(parts), unit="shards")
    try:
        with ThreadPoolExecutor(threads) as pool:
            for number, _ in enumerate(pool.map(lambda part: _verify(out, part), parts), 1):
                reporter.update(number)
    finally:
        reporter.finish()
    return True


def _verify(out: Path, part: Part) -> None:
    path, told = out / f"{part.name}.tar", _told(out, part)
    with path.open("rb") as handle:
        found = sha256_of(handle)
    if found != told["sha256"]:
        raise DataError(
            f"{path}: is not what was written ({told['bytes']} bytes, sha256 {told['sha256'][:12]} …; now "
            f"{path.stat().st_size} bytes, {found[:12]} …); delete it, and the same command writes it anew"
        )


def describe(result: dict[str, Any]) -> tuple[list[tuple[str, list[str], list[list[str]]]], list[str]]:
    """A result as tables and lines for people."""
    rows = [[one["name"], f"{one['samples']:,}", f"{one['shards']:,}"] for one in result["sources"]]
    table = ("Sources", ["source", "samples", "shards"], rows)
    if result.get("dry_run"):
        return [table], [f"would write {result['samples']:,} samples in {result['shards']:,} shards"]
    verb = "verified" if result["verified"] else "wrote"
    lines = [
        f"{verb} {result['samples']:,} samples, {result['bytes'] / 1e9:,.2f} GB, in {result['shards']:,} shards: "
        f"{result['out']}"
    ]
    if result["skipped"]:
        lines.append("skipped: " + ", ".join(f"{reason} {count:,}" for reason, count in result["skipped"].items()))
    return [table], lines
