"""Suites as data: which benchmarks, how each is asked and scored, and the averages made of them.

The built-in ones lie in `suites/*.yaml`, what is known of single benchmarks in `catalog.yaml`; a user's suite is a file
of the same form. Nothing here asks or scores.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator

from sailctl.core.errors import UsageError
from sailctl.core.schema.base import Config
from sailctl.core.schema.load import explain, read_yaml

FOLDER = Path(__file__).with_name("suites")
CATALOG = Path(__file__).with_name("catalog.yaml")
DATASET = "dataset:"  # before names that are VLMEvalKit's whatever this release knows of them
AVERAGE = "Average"  # of a suite that names no aggregates

# `kit` is whatever headline VLMEvalKit gives; all others are computed from its detailed results or by us.
Metric = Literal[
    "accuracy",
    "circular_accuracy",
    "mme",
    "hallusion",
    "f1",
    "anls",
    "relaxed_accuracy",
    "vqa_score",
    "exact_match",
    "ocrbench",
    "judged",
    "caption",
    "ocr",
    "element_f1",
    "kit",
]
PromptRule = Literal["mcq", "short", "yes_no", "bare", "mme", "ocrbench", "caption", "ocr"]


_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark of a suite. `name` is what scores are published under, `dataset` VLMEvalKit's name of its table.

    A raw score ÷ `full_marks` × 100 is points. `limit` is the size of a seeded subset, `split` the rows that count.
    """

    name: str
    dataset: str
    category: str
    metric: str
    prompt: str
    max_tiles: int
    max_new_tokens: int
    full_marks: float
    judge: bool
    split: str | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A weighted mean of points; members are benchmarks or aggregates named before this one."""

    members: tuple[str, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Suite:
    """Benchmarks and averages, each in the order of the file."""

    name: str
    title: str
    benchmarks: tuple[Benchmark, ...]
    aggregates: Mapping[str, Aggregate]

    def __getitem__(self, name: str) -> Benchmark:
        return next(benchmark for benchmark in self.benchmarks if benchmark.name == name)


class _Fields(Config):
    """What may be said of a benchmark; what is not said comes from the catalog."""

    dataset: str | None = Field(None, pattern=r"^\w[\w.+-]*$")  # a file is looked for under this name
    category: str | None = None
    metric: Metric | None = None
    prompt: PromptRule | None = None
    max_tiles: int | None = Field(None, ge=1, le=40)
    max_new_tokens: int | None = Field(None, ge=1)
    full_marks: float | None = Field(None, gt=0)
    judge: bool | None = None
    split: str | None = None
    limit: int | None = Field(None, ge=1)

    def said(self) -> dict[str, Any]:
        """The fields that were given."""
        return self.model_dump(exclude_unset=True, exclude={"name"})


class _Entry(_Fields):
    name: str = Field(min_length=1)


class _AggregateEntry(Config):
    name: str = Field(min_length=1)
    members: list[str] | None = Field(None, min_length=1)
    weights: list[float] | None = None


class _SuiteFile(Config):
    name: str = Field(min_length=1)
    title: str = ""
    defaults: _Fields = _Fields()
    benchmarks: list[_Entry] = Field(min_length=1)
    aggregates: list[_AggregateEntry] | None = None

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """A bare name stands for the catalog's entry as it is."""
        return [{"name": item} if isinstance(item, str) else item for item in value] if type(value) is list else value


class _Kind(Config):
    name: str
    entry: _Fields
    datasets: list[str]


class _CatalogFile(Config):
    defaults: _Fields
    benchmarks: list[_Entry]
    kinds: list[_Kind]


def suite_names() -> list[str]:
    """Names of the suites that come with sailctl."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def dataset_names() -> list[str]:
    """Names that `dataset:NAME` knows how to ask and score."""
    return sorted(_known(), key=str.lower)


def load_suite(name_or_path: str | Path) -> Suite:
    """A built-in suite, a user's YAML file, or datasets by name: `dataset:NAME,NAME`, or one known benchmark's name.

    Raises UsageError naming the file, the key, the value and the nearest that exists.
    """
    wanted = str(name_or_path)
    if wanted in suite_names():
        return _read(FOLDER / f"{wanted}.yaml")
    if wanted.startswith(DATASET):
        names = [name.strip() for name in wanted.removeprefix(DATASET).split(",")]
        if not all(names):
            raise UsageError(f"suite '{wanted}': a name is empty; write dataset:NAME or dataset:NAME,NAME")
        return _of_datasets(wanted, names)
    path = Path(wanted).expanduser()
    if path.is_file():
        return _read(path)
    if path.suffix.lower() in (".yaml", ".yml") or len(path.parts) > 1:
        raise UsageError(f"{path}: there is no such suite file; built-in suites: {', '.join(suite_names())}")
    if wanted in _known():
        return _of_datasets(wanted, [wanted])
    raise UsageError(
        f"suite '{wanted}' does not exist; {_nearest(wanted, [*suite_names(), *_known()])}"
        f"suites: {', '.join(suite_names())}, a YAML file, a benchmark's name, or dataset:NAME for any of VLMEvalKit's"
    )


def aggregate(suite: Suite, raw: Mapping[str, float]) -> dict[str, float | None]:
    """The suite's averages in points (0 to 100) from raw scores by benchmark; None where one of the members is missing.

    Definitions: SAIL-VL paper, Table 4, and model card: flat means after MME ÷ 28 and OCRBench ÷ 10.
    """
    points: dict[str, float | None] = {
        one.name: 100 * raw[one.name] / one.full_marks for one in suite.benchmarks if one.name in raw
    }
    for name, definition in suite.aggregates.items():
        values = [points.get(member) for member in definition.members]
        known = [value for value in values if value is not None]
        total = sum(weight * value for weight, value in zip(definition.weights, known, strict=False))
        points[name] = total / sum(definition.weights) if len(known) == len(values) else None
    return {name: points[name] for name in suite.aggregates}


def missing(suite: Suite, raw: Mapping[str, float]) -> dict[str, list[str]]:
    """The benchmarks that each aggregate without a value lacks."""
    lacking: dict[str, list[str]] = {one.name: [one.name] for one in suite.benchmarks if one.name not in raw}
    for name, definition in suite.aggregates.items():
        gaps = list(dict.fromkeys(gap for member in definition.members for gap in lacking.get(member, [])))
        if gaps:
            lacking[name] = gaps
    return {name: lacking[name] for name in suite.aggregates if name in lacking}


def _read(path: Path) -> Suite:
    file = _parse(path, _SuiteFile)
    benchmarks = []
    for entry in file.benchmarks:
        if entry.dataset is None and entry.name not in _known():
            raise UsageError(
                f"{path}: benchmark '{entry.name}' is not known; {_nearest(entry.name, _known())}"
                f"give it a dataset: to use one of your own"
            )
        benchmarks.append(_benchmark(entry.name, file.defaults.said() | entry.said(), str(path)))
    _refuse_twice([one.name for one in benchmarks], f"{path}: benchmark")
    aggregates = _aggregates(file, [one.name for one in benchmarks], path)
    return Suite(file.name, file.title or file.name, tuple(benchmarks), MappingProxyType(aggregates))


def _aggregates(file: _SuiteFile, benchmarks: list[str], path: Path) -> dict[str, Aggregate]:
    found: dict[str, Aggregate] = {}
    for entry in [_AggregateEntry(name=AVERAGE)] if file.aggregates is None else file.aggregates:
        where = f"{path}: aggregate '{entry.name}'"
        if entry.name in found or entry.name in benchmarks:
            raise UsageError(f"{where}: the name is taken; every benchmark and aggregate has its own")
        members = benchmarks if entry.members is None else entry.members
        for member in members:
            if member not in benchmarks and member not in found:
                nearest = _nearest(member, [*benchmarks, *found])
                raise UsageError(f"{where}: member '{member}' is no benchmark of the suite and no earlier aggregate; "
                                 f"{nearest}benchmarks: {', '.join(benchmarks)}")  # fmt: skip
        _refuse_twice(members, f"{where}: member")
        weights = [1.0] * len(members) if entry.weights is None else entry.weights
        if len(weights) != len(members) or min(weights) <= 0:
            raise UsageError(f"{where}: weights = {weights}: should be {len(members)} numbers > 0, one for each member")
        found[entry.name] = Aggregate(tuple(members), tuple(weights))
    return found


def _of_datasets(name: str, names: list[str]) -> Suite:
    benchmarks = tuple(_benchmark(one, {}, name) for one in names)
    _refuse_twice([one.name for one in benchmarks], f"suite '{name}': dataset")
    members = tuple(one.name for one in benchmarks)
    return Suite(name, ", ".join(members), benchmarks, {AVERAGE: Aggregate(members, (1.0,) * len(members))})


def _benchmark(name: str, said: Mapping[str, Any], where: str) -> Benchmark:
    """A benchmark of the catalog, found by its own or its dataset's name, with what a suite says of it."""
    catalog = _catalog()
    dataset = said.get("dataset") or name
    entries = {entry.name: entry for entry in catalog.benchmarks}
    by_dataset = {entry.dataset or entry.name: entry for entry in catalog.benchmarks}
    base = catalog.defaults.said()
    if (entry := entries.get(name) or by_dataset.get(dataset)) is not None:
        base |= {"dataset": entry.name} | entry.said()
        name = name if "dataset" in said else entry.name
    else:
        kind = next((kind for kind in catalog.kinds if dataset in kind.datasets), catalog.kinds[-1])
        base |= {"dataset": dataset} | kind.entry.said()
    try:
        fields = _Fields.model_validate(base | dict(said)).model_dump()
    except ValidationError as error:
        raise UsageError(explain(error, _Fields, f"{where}: '{name}'")) from None
    return Benchmark(name=name, **fields)


@cache
def _catalog() -> _CatalogFile:
    return _parse(CATALOG, _CatalogFile)


@cache
def _known() -> tuple[str, ...]:
    """Names of benchmarks, of their datasets, and of VLMEvalKit's other datasets."""
    catalog = _catalog()
    names = [name for entry in catalog.benchmarks for name in (entry.name, entry.dataset or entry.name)]
    return tuple(dict.fromkeys([*names, *(name for kind in catalog.kinds for name in kind.datasets)]))


def _parse(path: Path, model: type[_Model]) -> _Model:
    try:
        return model.model_validate(read_yaml(path, "a suite; it should begin with name: and benchmarks:"))
    except ValidationError as error:
        raise UsageError(explain(error, model, str(path))) from None


def _refuse_twice(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UsageError(f"{what} '{name}' is there twice; leave one out")
        seen.add(name)


def _nearest(word: str, known: Iterable[str]) -> str:
    """The nearest name in whatever case, as half a sentence."""
    folded = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), folded, n=1)
    return f"did you mean '{folded[close[0]]}'? " if close else ""
