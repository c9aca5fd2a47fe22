"""`sailctl curate mix`: a mixture file of sources with their verdicts and weights, opened once before it is believed.

It holds no samples and copies nothing: whatever takes `--data` reads it. What its keys mean is `core/schema/data.py`.
"""

from __future__ import annotations

import difflib
import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sailctl.core import files
from sailctl.core.curate.parts import refuse_foreign_captions, torn_shards
from sailctl.core.curate.sample.quota import parse_count
from sailctl.core.data.sources import open_source
from sailctl.core.errors import UsageError
from sailctl.core.reporter import Reporter
from sailctl.core.schema.data import DataConfig, SourceConfig
from sailctl.core.schema.load import explain, named_sources

_WHOLE: dict[str, Any] = {"verdicts": [], "samples": None}


@dataclass
class MixRequest:
    """What `sailctl curate mix` is asked for; options are texts NAME=VALUE, or VALUE for the only source."""

    data: Sequence[str]
    out: Path | None
    verdicts: Sequence[str] = ()
    weight: Sequence[str] = ()
    repeats: Sequence[str] = ()
    samples: Sequence[str] = ()
    captions: Sequence[str] = ()
    image_root: Sequence[str] = ()
    group: Sequence[str] = ()
    seed: int | None = None

    def run(self, reporter: Reporter, *, dry_run: bool = False) -> dict[str, Any]:
        """Write the mixture and say what is in it. Raises UsageError, DataError; then nothing is written."""
        if not self.data:
            raise UsageError("no data: give --data PATH, a file, folder, glob or URL of samples, or a mixture file")
        if self.out is None and not dry_run:
            raise UsageError("--out is missing: the mixture file, such as mixture.yaml")
        if self.out is not None and self.out.suffix not in (".yaml", ".yml"):
            raise UsageError(f"--out {self.out}: a mixture is known by its name; call it {self.out}.yaml")
        mixture = self._mixture()
        sources = _counted(mixture, reporter)
        text = _as_yaml(mixture, sources)
        if self.out is not None and not dry_run:
            if self.out.is_file() and self.out.read_text(encoding="utf-8") != text:
                raise UsageError(f"--out {self.out}: holds another mixture; remove it or give another name")
            with files.atomic_write(self.out, "w") as handle:
                handle.write(text)
        told: dict[str, Any] = {"out": None if self.out is None else str(self.out), "sources": sources}
        told["samples"], told["total"] = (sum(one[name] for one in sources) for name in ("samples", "total"))
        if dry_run or self.out is None:
            return told
        path = shlex.quote(str(self.out))
        return {**told, "next": f"train on it with --data {path}, or sailctl curate write --data {path} --out DIR"}

    def _mixture(self) -> DataConfig:
        raws = [dict(raw) for raw in named_sources(self.data)]
        names = [str(raw.get("name")) for raw in raws]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UsageError(f"--data: two sources are called {twice[0]}; sources are told apart by their names")
        of = {name: raw for name, raw in zip(names, raws, strict=True)}
        for text in self.verdicts:
            name, path = _split(text, of)
            if name is None:
                _no_other_name(text, of, "--verdicts")
            for raw in of.values() if name is None else [of[name]]:
                raw["verdicts"] = [*raw.get("verdicts", []), path]
        single: dict[str, tuple[Sequence[str], Callable[[str, str], Any]]] = {
            "weight": (self.weight, _number), "repeats": (self.repeats, _number),
            "samples": (self.samples, lambda text, option: parse_count(text, option)),
            "captions": (self.captions, _text), "image_root": (self.image_root, _text), "group": (self.group, _text),
        }  # fmt: skip
        for key, (texts, read) in single.items():
            for text in texts:
                _set(of, key, text, read)
        for raw in of.values():
            if self.seed is not None and raw.get("samples") is not None:
                raw["subset_seed"] = self.seed
            for key in ("path", "captions", "image_root"):
                if isinstance(raw.get(key), str):
                    raw[key] = _absolute(raw[key])
            raw["verdicts"] = [_absolute(path) for path in raw.get("verdicts", [])]
        try:
            return DataConfig.model_validate({"sources": raws})
        except ValidationError as error:
            raise UsageError(explain(error, DataConfig, "mixture")) from None


def _split(text: str, of: Mapping[str, Any]) -> tuple[str | None, str]:
    """Name and value of NAME=VALUE where NAME is a source, else the whole text as a value."""
    name, equals, value = text.partition("=")
    return (name, value) if equals and name in of else (None, text)


def _no_other_name(text: str, of: Mapping[str, Any], option: str) -> None:
    """Raises UsageError where a text is NAME=VALUE of no source rather than a path with "=" in it."""
    wrong, equals, _ = text.partition("=")
    if equals and "/" not in wrong and not files.is_url(text) and not os.path.exists(os.path.expanduser(text)):
        close = difflib.get_close_matches(wrong, list(of), n=1)
        meant = f"did you mean {close[0]}? " if close else ""
        raise UsageError(f"{option} {text}: no source is called {wrong}; {meant}there are: {', '.join(of)}")


def _set(of: Mapping[str, dict[str, Any]], key: str, text: str, read: Callable[[str, str], Any]) -> None:
    option = f"--{key.replace('_', '-')}"
    name, value = _split(text, of)
    if name is None:
        _no_other_name(text, of, option)
        if len(of) > 1:
            raise UsageError(f"{option} {text}: of which source? give NAME={text}, one of: {', '.join(of)}")
        name = next(iter(of))
    of[name][key] = read(value, option)


def _number(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"{option} {text}: should be a number above 0, such as 2 or 0.5")
    return value


def _text(text: str, _: str) -> str:
    return text


def _absolute(path: str) -> str:
    """A local path from the root, so that the mixture may be read from any folder; globs and URLs likewise."""
    return path if files.is_url(path) else os.path.abspath(os.path.expanduser(path))


def _counted(mixture: DataConfig, reporter: Reporter) -> list[dict[str, Any]]:
    """Every source opened as training will: samples of it that are in the mixture, all there are, and its share."""
    reporter.start("open", len(mixture.sources), unit="sources")
    found: list[dict[str, Any]] = []
    try:
        for number, config in enumerate(mixture.sources, 1):
            source = open_source(config)
            refuse_foreign_captions(config, source)
            for line in torn_shards(config, source):
                reporter.info(f"warning: {line}")
            total = len(source)
            if config.verdicts or config.samples is not None:
                whole = open_source(config.model_copy(update=_WHOLE))
                total = len(whole)
                whole.close()
            found.append({"name": config.name, "samples": len(source), "total": total, "group": config.group})
            source.close()
            reporter.update(number)
    finally:
        reporter.finish()
    draws = [_draws(config, one["samples"]) for config, one in zip(mixture.sources, found, strict=True)]
    for config, one, drawn in zip(mixture.sources, found, draws, strict=True):
        one |= {"weight": config.weight, "repeats": config.repeats, "share": round(drawn / sum(draws), 6)}
    return found


def _draws(config: SourceConfig, samples: int) -> float:
    """What a source counts for in the mixture: its weight, or its samples as often as they come."""
    return config.weight if config.weight is not None else samples * (config.repeats or 1.0)


def _as_yaml(mixture: DataConfig, counted: Sequence[Mapping[str, Any]]) -> str:
    sources = [source.model_dump(mode="json", exclude_defaults=True) for source in mixture.sources]
    lines = ["# A mixture by sailctl curate mix; give it as --data. Samples in it, of all there were:\n"]
    lines += [f"#   {one['name']}: {one['samples']} of {one['total']}\n" for one in counted]
    return "".join(lines) + yaml.safe_dump({"sources": sources}, sort_keys=False, allow_unicode=True, width=120)


def describe(result: dict[str, Any]) -> tuple[list[tuple[str, list[str], list[list[str]]]], list[str]]:
    """A result as tables and lines for people."""
    rows = [
        [one["name"], f"{one['samples']:,}", f"{one['total']:,}", f"{one['samples'] / one['total']:.1%}",
         f"{one['share']:.1%}", one["group"] or "-"]
        for one in result["sources"]
    ]  # fmt: skip
    table = ("Mixture", ["source", "samples", "of", "kept", "share of training", "group"], rows)
    verb = "written" if result.get("next") else "would be written"
    lines = [f"{result['samples']:,} of {result['total']:,} samples; {verb}: {result['out'] or 'nowhere'}"]
    return [table], lines
