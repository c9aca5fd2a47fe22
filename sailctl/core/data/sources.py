"""Sources: numbered samples behind one interface, whatever the layout; local paths and fsspec URLs.

A source opens nothing until a sample is read, keeps its handles to the process that opened them, and travels to worker
processes without them.
"""

from __future__ import annotations

import hashlib
import io
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from sailctl.core import files, stores
from sailctl.core.data.index import BrokenTar, ShardIndex, shard_index, walk_tar
from sailctl.core.data.layouts import parse_json, record_sample, safe_join, tar_sample
from sailctl.core.errors import DataError, SampleError, UsageError
from sailctl.core.records import Sample
from sailctl.core.schema.data import SourceConfig
from sailctl.core.workers import in_threads

# In this order a folder is searched: JSON last, for tars and Parquet files often have some beside them.
_SUFFIX_KINDS = {".tar": "tar", ".parquet": "parquet", ".jsonl": "jsonl", ".json": "json"}
_MAX_OPEN_SHARDS = 64


def open_source(config: SourceConfig, *, textless: bool = False) -> Source:
    """Find the shards of a source and index them (in parallel; cached indexes are reused).

    With `captions:` its samples are those that have one, with `verdicts:` those that are kept, with `samples:` a seeded
    part of them. `textless` as in `make_source`. Raises UsageError naming the path when nothing is there, the layout is
    unknown, no sample or too few are in it; DataError when a shard cannot be read.
    """
    whole = _open_whole(config, textless)
    if config.verdicts:
        from sailctl.core.data.verdicts import Judged

        whole = cast(Source, Judged(whole, config.verdicts))
    if config.samples is None:
        return whole
    from sailctl.core.data.subset import Subset

    return cast(Source, Subset(whole, config.samples, config.subset_seed))


def _open_whole(config: SourceConfig, textless: bool) -> Source:
    if config.captions is not None:
        from sailctl.core.data.captions import CaptionedSource

        return CaptionedSource(config)
    shards, kind = find_shards(config)
    source = make_source(config, shards, kind, textless=textless)
    if broken := source.nothing_readable():
        raise DataError(broken)
    if len(source) == 0:
        raise UsageError(f"data source {config.name!r}: {config.path} holds no samples")
    return source


def find_shards(config: SourceConfig) -> tuple[list[str], str]:
    """The shards of a source, sorted by name, and their layout; nothing of them is read. Raises UsageError."""
    where = f"data source {config.name!r}"
    suffixes = tuple(s for s, kind in _SUFFIX_KINDS.items() if config.format in ("auto", kind))
    shards = files.list_shards(config.path, suffixes)
    if not shards:
        expected = "shards (.tar, .parquet, .jsonl or .json)" if config.format == "auto" else f"{suffixes[0]} shards"
        raise UsageError(f"{where}: no file, and no folder with {expected}, at {config.path}; give --data PATH")
    kinds = {shard: _SUFFIX_KINDS.get(os.path.splitext(shard)[1].lower(), "") for shard in shards}
    kind = config.format if config.format != "auto" else kinds[shards[0]]
    if not kind:
        raise UsageError(
            f"{where}: the layout of {shards[0]} is unknown; set data.sources[].format: tar|jsonl|json|parquet"
        )
    if config.format == "auto" and (odd := [shard for shard in shards if kinds[shard] != kind]):
        raise UsageError(f"{where}: {shards[0]} and {odd[0]} have different layouts; make them two sources")
    if config.image_root is not None and not files.is_url(config.image_root) and not os.path.isdir(config.image_root):
        raise UsageError(f"{where}: image_root {config.image_root} is no folder")
    return shards, kind


def make_source(config: SourceConfig, shards: list[str], kind: str, *, textless: bool = False) -> Source:
    """A source of these shards, indexed; it may turn out empty.

    With `textless` a picture that nothing is said of is a sample, one without turns: something to be captioned.
    """
    from sailctl.core.data.parquet import ParquetSource

    source: Source = {"tar": TarSource, "parquet": ParquetSource}.get(kind, JsonSource)(config, shards, kind)
    source.textless = textless
    return source


class Source(ABC):
    """Samples numbered 0 … len - 1 over the shards of one source, in the order of the shards' names."""

    textless = False  # whether a picture without text is a sample

    def __init__(self, config: SourceConfig, shards: list[str], kind: str) -> None:
        self.name = config.name
        self.shards = shards
        self.image_root = config.image_root
        self._process = -1
        self._handles: OrderedDict[int, Any] = OrderedDict()
        counts, digests = self._index(in_threads(lambda shard: self._index_shard(shard, kind), shards, 8))
        self._ends = np.cumsum(np.array(counts, dtype=np.int64))
        names = [shard.rsplit("/", 1)[-1] for shard in shards]
        described = repr((kind, list(zip(names, counts, digests, strict=True)))).encode("utf-8", "surrogateescape")
        self._fingerprint = hashlib.blake2b(described, digest_size=16).hexdigest()

    @abstractmethod
    def _index_shard(self, shard: str, kind: str) -> Any: ...

    @abstractmethod
    def _index(self, found: list[Any]) -> tuple[list[int], list[str]]:
        """Keep what was found per shard; returns samples and a digest per shard."""

    @abstractmethod
    def _read(self, shard: int, row: int) -> Sample: ...

    @abstractmethod
    def _open(self, shard: int) -> Any: ...

    def nothing_readable(self) -> str:
        """Why nothing of this source can be read although something is there; empty where something can."""
        return ""

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def fingerprint(self) -> str:
        """A hash of the layout, the shards' names, their sample counts and (of tars: by headers) their content."""
        return self._fingerprint

    def locate(self, ordinal: int) -> tuple[int, int]:
        """Shard number and row within it."""
        if not 0 <= ordinal < len(self):
            raise IndexError(f"ordinal {ordinal} of {len(self)} samples in source {self.name!r}")
        shard = int(np.searchsorted(self._ends, ordinal, side="right"))
        return shard, ordinal - (int(self._ends[shard - 1]) if shard else 0)

    def read(self, ordinal: int) -> Sample:
        """The sample of a number. Raises SampleError when it is broken, DataError when its shard is gone."""
        return self.read_row(*self.locate(ordinal))

    def num_rows(self, shard: int) -> int:
        """Samples in a shard."""
        return int(self._ends[shard]) - (int(self._ends[shard - 1]) if shard else 0)

    def read_row(self, shard: int, row: int) -> Sample:
        """The sample of a row of a shard; raises as `read` does."""
        try:
            return self._read(shard, row)
        except SampleError as error:
            error.key = error.key or self.row_key(shard, row)
            raise

    def row_key(self, shard: int, row: int) -> str:
        """The name of a sample that does not say its own: shard and row."""
        return f"{self.shards[shard].rsplit('/', 1)[-1]}#{row}"

    def _sample_of(self, record: Mapping[str, Any], shard: int, row: int) -> Sample:
        key = self.row_key(shard, row)
        return record_sample(record, self._image_reader(shard), key, self.name, textless=self.textless)

    def _handle(self, shard: int) -> Any:
        if self._process != os.getpid():  # handles inherited over a fork would share their position
            self._process, self._handles = os.getpid(), OrderedDict()
        if shard not in self._handles:
            try:
                self._handles[shard] = self._open(shard)
            except stores.Unreachable as error:
                raise DataError(unreachable(f"shard {self.shards[shard]}", error)) from error
            except OSError as error:
                raise DataError(f"shard {self.shards[shard]} cannot be opened: {error.strerror or error}") from error
            while len(self._handles) > _MAX_OPEN_SHARDS:
                self._handles.popitem(last=False)[1].close()
        self._handles.move_to_end(shard)
        return self._handles[shard]

    def close(self) -> None:
        """Close what this process has open."""
        if self._process == os.getpid():
            for handle in self._handles.values():
                handle.close()
        self._handles = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": OrderedDict(), "_process": -1}

    def _image_reader(self, shard: int) -> Any:
        root = self.image_root or os.path.dirname(self.shards[shard])
        if not files.is_url(root):
            root = os.path.abspath(root)

        def read_image(path: str) -> bytes:
            full = safe_join(root, path)
            try:
                return files.read_whole(full)
            except stores.Unreachable as error:
                raise DataError(unreachable(f"image {full}", error)) from error
            except (FileNotFoundError, NotADirectoryError):
                raise SampleError("no_image", f"image {full} does not exist") from None
            except (OSError, ValueError) as error:
                raise SampleError("unreadable", f"image {full}: {error}") from None

        return read_image


def unreachable(what: str, error: stores.Unreachable) -> str:
    """What a run that lost its store says."""
    return f"{what}: {error}; nothing is lost, resume when its store answers again"


class SpanSource(Source):
    """A source whose samples are byte spans of its shards."""

    _indexes: list[ShardIndex]

    def _index_shard(self, shard: str, kind: str) -> ShardIndex:
        self._kind = kind
        return shard_index(shard, kind)

    def _index(self, found: list[ShardIndex]) -> tuple[list[int], list[str]]:
        self._indexes = found
        return [len(index) for index in found], [index.digest for index in found]

    def _open(self, shard: int) -> Any:
        return open(self.shards[shard], "rb", buffering=0)

    def _unchanged(self, shard: int) -> int:
        """Descriptor of a local shard that is still what was indexed; DataError if it is not."""
        descriptor = self._handle(shard).fileno()
        known, stat = self._indexes[shard], os.fstat(descriptor)
        if known.stamp != (stat.st_size, str(stat.st_mtime_ns)):
            now = shard_index(self.shards[shard], self._kind)
            if now.digest != known.digest or not np.array_equal(now.spans, known.spans):
                raise DataError(
                    f"shard {self.shards[shard]} has changed since this run began ({known.stamp[0]} bytes then, "
                    f"{now.stamp[0]} now); put back what it was and resume"
                )
            self._indexes[shard] = now  # touched, or copied anew: nothing else
        return descriptor

    def _span(self, shard: int, row: int) -> bytes:
        offset, length = (int(value) for value in self._indexes[shard].spans[row])
        path = self.shards[shard]
        try:
            if files.is_url(path):
                data = stores.read_range(path, offset, length)
            else:
                descriptor = self._unchanged(shard)
                data = os.pread(descriptor, length, offset)
                while 0 < len(data) < length and (more := os.pread(descriptor, length - len(data), offset + len(data))):
                    data += more
        except FileNotFoundError as error:
            raise DataError(f"shard {path} cannot be opened: {error.strerror or 'it is gone'}") from error
        except stores.Unreachable as error:
            raise DataError(unreachable(f"shard {path}", error)) from error
        except stores.NoRanges as error:
            raise DataError(f"shard {path}: {error}") from error
        except OSError as error:
            raise SampleError("unreadable", f"{path}, bytes {offset} to {offset + length}: {error}") from error
        if len(data) < length:
            raise DataError(
                f"shard {path} has changed: {len(data)} of {length} bytes at {offset}; put back what it was and resume"
            )
        return data


class TarSource(SpanSource):
    """WebDataset tars, in img2dataset (jpg/txt/json) or LLaVA (jpg/json) layout."""

    def nothing_readable(self) -> str:
        broken = [
            (shard, index.broken) for shard, index in zip(self.shards, self._indexes, strict=True) if index.broken
        ]
        if broken and len(self) == len(broken):
            return f"shard {broken[0][0]} holds no readable sample: {broken[0][1]}"
        return ""

    def _read(self, shard: int, row: int) -> Sample:
        index = self._indexes[shard]
        if index.broken and row == len(index) - 1:
            raise SampleError("unreadable", f"{self.shards[shard]}: {index.broken}")
        data = self._span(shard, row)
        members: dict[str, bytes] = {}
        key = ""
        try:
            for member in walk_tar(io.BytesIO(data), len(data), end_mark=False):
                name, suffix = member.key_and_suffix()
                if not name:
                    continue
                key = key or name
                if member.is_unsafe:
                    kind = "link or device" if member.is_link else "name"
                    raise SampleError("unsafe_path", f"tar member {member.name!r}: {kind} leaves its folder")
                members[suffix] = data[member.data : member.data + member.size]
            return tar_sample(members, key, self.name, textless=self.textless)
        except BrokenTar as error:
            raise DataError(
                f"shard {self.shards[shard]} has changed: {error}; put back what it was and resume"
            ) from error
        except SampleError as error:
            error.key = key
            raise


class JsonSource(SpanSource):
    """LLaVA JSON or JSON lines, pictures in a folder: paths relative to `image_root` or to the file's own folder."""

    def _read(self, shard: int, row: int) -> Sample:
        record = parse_json(self._span(shard, row).removeprefix(b"\xef\xbb\xbf"))
        key = record.get("id")
        try:
            return self._sample_of(record, shard, row)
        except SampleError as error:
            error.key = str(key) if isinstance(key, str | int) else ""
            raise
