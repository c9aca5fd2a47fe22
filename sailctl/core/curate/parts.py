"""What a pass goes over: sources cut into runs of rows, the same whatever the number of workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from sailctl.core.data.index import shard_index
from sailctl.core.data.sources import Source, open_source
from sailctl.core.errors import SampleError, UsageError
from sailctl.core.files import base_name
from sailctl.core.records import Sample
from sailctl.core.reporter import Reporter
from sailctl.core.schema.data import SourceConfig
from sailctl.core.schema.load import named_sources

LOOKED_AT = 1000  # captions, before they are said to be of other data
ROWS = 2000  # of a part: what a kill may cost, and what a worker holds at once


class Row(NamedTuple):
    """One sample of a source as a pass meets it, or why it cannot be read; `row` counts within the shard."""

    source: str
    shard: str
    row: int
    key: str
    sample: Sample | None
    error: SampleError | None

    def problem(self) -> str:
        """Why it cannot be read and where it lies, for people; empty where it can."""
        if self.error is None:
            return ""
        detail = f" ({self.error.detail})" if self.error.detail else ""
        return f"{self.shard}, row {self.row}: {self.error.reason}{detail}"

    def place(self) -> dict[str, Any]:
        """The columns by which a verdict knows its sample; the id of a broken one is empty."""
        identity = "" if self.sample is None else self.sample.id
        return {"id": identity, "source": self.source, "shard": self.shard, "row": self.row, "key": self.key}


def answers_of(sample: Sample) -> str:
    """What the assistant says in a sample, its turns apart by an empty line."""
    text = "\n\n".join(turn.text for turn in sample.turns if turn.role == "assistant")
    return text.encode("utf-8", "replace").decode("utf-8")  # JSON may hold halves of characters, tables may not


@dataclass(frozen=True, slots=True)
class Part:
    """Samples `first` up to `stop` of a source, counted over its shards. `name` is that of its file."""

    source: int
    first: int
    stop: int
    name: str


@dataclass(frozen=True)
class Data:
    """The sources of a pass, open and indexed, their parts in order, and what is wrong with shards of them."""

    configs: tuple[SourceConfig, ...]
    sources: tuple[Source, ...]
    parts: tuple[Part, ...]
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    def rows(self, part: Part) -> Iterator[Row]:
        """The samples of a part, in order. Raises DataError where a shard is gone or has changed."""
        source = self.sources[part.source]
        for ordinal in range(part.first, part.stop):
            shard, row = source.locate(ordinal)
            name = base_name(source.shards[shard])
            try:
                sample = source.read(ordinal)
            except SampleError as error:
                yield Row(source.name, name, row, error.key or f"{name}#{row}", None, error)
            else:
                yield Row(source.name, name, row, sample.key, sample, None)

    def described(self) -> list[dict[str, Any]]:
        """Name, path, size and content of every source: what a pass was made of."""
        return [
            {"name": source.name, "path": config.path, "samples": len(source), "fingerprint": source.fingerprint()}
            for config, source in zip(self.configs, self.sources, strict=True)
        ]


def open_data(
    paths: Sequence[str],
    *,
    image_root: str | None = None,
    captions: str | None = None,
    verdicts: Sequence[str] = (),
    textless: bool = False,
    reporter: Reporter | None = None,
) -> Data:
    """Index the sources at paths as --data takes them: data, or mixture files.

    `image_root` is for data alone; `captions` are sidecars of the only source. `verdicts` drop samples of every source,
    beside those that mixtures name. With `textless` pictures that nothing is said of are samples too. The reporter
    hears of tars that lack their end. Raises UsageError where a path is wrong, nothing is there or two sources have one
    name.
    """
    if not paths:
        raise UsageError("no data: give --data PATH, a file, folder, glob or URL of samples, or a mixture file")
    configs = [SourceConfig.model_validate(raw) for raw in named_sources(paths)]
    if captions is not None and len(configs) != 1:
        raise UsageError(f"--captions {captions}: belongs to one source, but --data gives {len(configs)}")
    changes = {"image_root": image_root, "captions": captions}
    given = {name: value for name, value in changes.items() if value is not None}
    configs = [config.model_copy(update={**given, "verdicts": [*config.verdicts, *verdicts]}) for config in configs]
    names = [config.name for config in configs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"--data: two sources are called {twice[0]}; verdicts tell sources apart by their names")
    sources = tuple(open_source(config, textless=textless) for config in configs)
    for pair in zip(configs, sources, strict=True):
        refuse_foreign_captions(*pair)
    warnings = tuple(line for pair in zip(configs, sources, strict=True) for line in torn_shards(*pair))
    if reporter is not None:
        for line in warnings:
            reporter.info(f"warning: {line}")
    return Data(tuple(configs), sources, tuple(_cut(sources)), warnings)


def refuse_foreign_captions(config: SourceConfig, source: Source) -> None:
    """Raises UsageError where no caption was made for the sample it is put to; the first that fits is enough."""
    if config.captions is None:
        return
    looked_at, problem = min(len(source), LOOKED_AT), ""
    for number in range(looked_at):
        try:
            source.read(number * len(source) // looked_at)
            return
        except SampleError as error:
            problem = error.detail if error.reason == "caption_mismatch" else problem
    if problem:
        raise UsageError(
            f"captions {config.captions}: belong to other data than {config.path}: none of {looked_at:,} looked at "
            f"fits; the last: {problem}"
        )


def torn_shards(config: SourceConfig, source: Source) -> list[str]:
    """A line for every tar of a source whose end is missing or damaged: of its samples nobody knows how many are."""
    shards = getattr(source, "raw", source).shards  # of captions: those the pictures lie in
    tars = [path for path in shards if config.format == "tar" or path.lower().endswith(".tar")]
    with ThreadPoolExecutor(8) as pool:
        indexes = pool.map(lambda path: shard_index(path, "tar"), tars)
    return [
        f"shard {path}: its end is missing, the samples there are lost ({index.broken}); get the whole file again"
        for path, index in zip(tars, indexes, strict=True)
        if index.broken
    ]


def _cut(sources: Sequence[Source]) -> Iterator[Part]:
    for number, source in enumerate(sources):
        folder = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in source.name)
        folder = folder.lstrip(".") or "_"
        for first in range(0, len(source), ROWS):
            stop = min(first + ROWS, len(source))
            yield Part(number, first, stop, f"{number:03d}-{folder}/{first:010d}")
