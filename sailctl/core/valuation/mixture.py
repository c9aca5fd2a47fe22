"""Mixtures by group: what is judged, read from a mixture file, a recipe or paths; and the file a decision writes.

A mixture file is YAML with `sources`, entries as in a recipe's `data.sources`, each with its `group` (without one it is
a group of its own). Training commands take it too: --data MIXTURE.yaml.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from sailctl.core.data.sources import Source, open_source
from sailctl.core.errors import SampleError, UsageError
from sailctl.core.files import atomic_write
from sailctl.core.schema.data import SourceConfig
from sailctl.core.schema.load import named_sources
from sailctl.core.valuation.seam import allot

PROBED = 256  # samples of a source whose content goes into its fingerprint
LOOKED_AT = 20_000  # samples of a side that are compared for overlap


@dataclass(frozen=True)
class Part:
    """One source of a group: its config, how many samples it holds, and the fingerprint of its content."""

    config: SourceConfig
    size: int
    fingerprint: str


Groups = Mapping[str, Sequence[Part]]


def open_parts(sources: Sequence[SourceConfig]) -> list[Part]:
    """Index sources (cached) and say what is in them."""
    parts = []
    for config in sources:
        source = open_source(config)
        parts.append(Part(config, len(source), _content(source)))
        source.close()
    return parts


def _content(source: Source) -> str:
    """The source's fingerprint, and what is in samples spread over it: of tars and Parquet it knows headers alone."""
    found = hashlib.blake2b(source.fingerprint().encode(), digest_size=16)
    count = min(len(source), PROBED)
    for number in range(count):
        try:
            found.update(source.read(number * len(source) // count).id.encode())
        except SampleError as error:
            found.update(str(error).encode())
    return found.hexdigest()


def open_candidates(
    paths: Sequence[str], taken: Mapping[str, object], say: Callable[[str], None]
) -> dict[str, list[Part]]:
    """Datasets by name: a file's own, with its folder's before it where another one, or a group, is called the same.

    What each is called, and how much it holds, is said.
    """
    opened = [open_parts(read_sources([path])) for path in paths]
    names = [
        Path(path).stem if len(parts) > 1 else parts[0].config.name for path, parts in zip(paths, opened, strict=True)
    ]
    found: dict[str, list[Part]] = {}
    for path, parts, name in zip(paths, opened, names, strict=True):
        folder = Path(path).parent.name
        plain = name if (names.count(name) == 1 and name not in taken) or not folder else f"{folder}-{name}"
        found[_unlike(plain, {*found, *taken})] = parts
    for (name, parts), path in zip(found.items(), paths, strict=True):
        say(f"dataset {name}: {path}, {sum(part.size for part in parts):,} samples")
    return found


def by_group(parts: Sequence[Part], rules: Sequence[str] = ()) -> dict[str, list[Part]]:
    """Parts by group: by the rules `NAME=PATTERN,PATTERN` over names and tags of sources (globs), else by their tag.

    The first rule that matches takes a source. Raises UsageError for a rule that matches nothing.
    """
    groups: dict[str, list[Part]] = {}
    parsed = [_rule(text) for text in rules]
    used: set[str] = set()
    for part in parts:
        config = part.config
        known = (config.name, config.group or config.name)
        taken = next((name for name, globs in parsed if any(fnmatchcase(k, g) for k in known for g in globs)), None)
        used |= {taken} if taken else set()
        groups.setdefault(taken or config.group or config.name, []).append(part)
    for (name, globs), text in zip(parsed, rules, strict=True):
        if name not in used:
            there = ", ".join(part.config.name for part in parts)
            raise UsageError(f"--group {text}: {', '.join(globs)} matches no source; sources: {there}")
    return groups


def by_weight(sources: Sequence[SourceConfig]) -> list[SourceConfig]:
    """Sources; where they have weights, as large a part of each as keeps the weights' proportions."""
    if any(source.weight is None for source in sources):
        return list(sources)
    sizes = [part.size for part in open_parts(sources)]
    scale = min(size / (source.weight or 1.0) for size, source in zip(sizes, sources, strict=True))
    return [
        source.model_copy(update={"samples": max(1, round(scale * (source.weight or 1.0))), "weight": None})
        for source in sources
    ]


def sizes_of(groups: Groups) -> dict[str, int]:
    """Samples of each group."""
    return {name: sum(part.size for part in parts) for name, parts in groups.items()}


def draw(groups: Groups, counts: Mapping[str, int], seed: int) -> list[SourceConfig]:
    """The sources of a training on `counts` samples of each group: seeded parts, in proportion within a group.

    In the order of their content, not of their names: equal content trains equally, whatever it is called.
    """
    chosen: list[tuple[str, SourceConfig]] = []
    for group, count in counts.items():
        parts = {str(number): part for number, part in enumerate(groups[group])}
        for number, share in allot({key: part.size for key, part in parts.items()}, count).items():
            part = parts[number]
            config = part.config
            if config.samples is None:
                config = config.model_copy(update={"samples": share, "subset_seed": seed})
            else:  # a part of a part: drawn by another seed it would not stay within it
                config = config.model_copy(update={"samples": share})
            clean = {"name": f"{group}-{number}", "weight": None, "repeats": None, "group": group}
            chosen.append((f"{part.fingerprint} {share}", config.model_copy(update=clean)))
    return [config for _, config in sorted(chosen, key=lambda one: one[0])]


def manifest(groups: Groups, counts: Mapping[str, int]) -> list[list[str | int]]:
    """What a training's data are: content and count of every source, without names; the seed stands beside it."""
    rows: list[list[str | int]] = []
    for group, count in counts.items():
        parts = {str(number): part for number, part in enumerate(groups[group])}
        shares = allot({key: part.size for key, part in parts.items()}, count)
        rows += [[parts[number].fingerprint, share] for number, share in shares.items()]
    return sorted(rows, key=str)


def write_mixture(path: Path, groups: Groups, sizes: Mapping[str, int], remarks: Sequence[str]) -> None:
    """Write the mixture of these sizes as a file, with the reasons as comments above. Sources with none left go."""
    sources: list[dict[str, Any]] = []
    for group, size in sizes.items():
        parts = {str(number): part for number, part in enumerate(groups[group])}
        shares = allot({key: part.size for key, part in parts.items()}, size) if size else {}
        for number, share in shares.items():
            config = parts[number].config
            entry = config.model_dump(mode="json", exclude_defaults=True, exclude={"synth", "weight", "repeats"})
            entry["group"] = group
            entry["name"] = _unlike(entry["name"], {source["name"] for source in sources})
            if share < parts[number].size or config.samples is not None:
                entry["samples"] = share
            sources.append(entry)
    with atomic_write(path, "w") as file:
        file.writelines(f"# {remark}\n" for remark in remarks)
        yaml.safe_dump({"sources": sources}, file, sort_keys=False, allow_unicode=True, width=120)


def read_sources(paths: Sequence[str]) -> list[SourceConfig]:
    """Sources of paths as --data takes them: data, or mixture files. Raises UsageError for a name given twice."""
    sources = [SourceConfig.model_validate(raw) for raw in named_sources(paths)]
    names = [source.name for source in sources]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{', '.join(paths)}: two sources are called {twice[0]}; rename one, or tag both with a group")
    return sources


def overlap(one: Sequence[Part], other: Sequence[Part]) -> tuple[float, bool]:
    """The share of `one`'s samples that are in `other` too, by sample id, and whether that is exact.

    Beyond LOOKED_AT samples a side is drawn from, and the share is estimated from how many of the drawn ones meet.
    """
    first, _, first_size = _ids(one)
    second, seen, second_size = _ids(other)
    share = len(first & second) / max(len(first), 1) * second_size / max(seen, 1)
    exact = first_size <= LOOKED_AT and second_size <= LOOKED_AT
    return min(1.0, share), exact


def _ids(parts: Sequence[Part]) -> tuple[set[str], int, int]:
    """Ids of the samples looked at, how many samples these are (repeats count), and how many there are."""
    size, seen = sum(part.size for part in parts), 0
    ids: set[str] = set()
    for part in parts:
        source = open_source(part.config)
        looked_at = min(part.size, -(-LOOKED_AT * part.size // size))
        if looked_at < part.size and part.config.samples is None:
            source.close()
            source = open_source(part.config.model_copy(update={"samples": looked_at}))
        ids.update(_read_ids(source, looked_at))
        seen += looked_at
        source.close()
    return ids, seen, size


def _read_ids(source: Source, count: int) -> set[str]:
    ids = set()
    for ordinal in range(count):
        try:
            ids.add(source.read(ordinal).id)
        except SampleError:  # a broken sample is the training's to count
            continue
    return ids


def _unlike(name: str, taken: set[str]) -> str:
    """A name that is not taken: sources are told apart by it."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found


def _rule(text: str) -> tuple[str, list[str]]:
    name, equals, patterns = text.partition("=")
    globs = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    if not (name.strip() and equals and globs):
        raise UsageError(f"--group {text}: should be NAME=PATTERN or NAME=PATTERN,PATTERN; patterns match source names")
    return name.strip(), globs
