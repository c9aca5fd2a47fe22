"""The statistics of a pass for people, as in Table 1 of SAIL-VL's paper, and two passes side by side."""

from __future__ import annotations

import json
from math import hypot
from pathlib import Path
from typing import Any

from sailctl.core.curate.passes import PASS_FILE, SUMMARY_FILE
from sailctl.core.curate.stats.figures import FIGURES
from sailctl.core.errors import DataError, UsageError

Table = tuple[str, list[str], list[list[str]]]

_ALL = "all sources"
_TITLES = {"length": "avg len", "2-gram": "uni 2-gram", "3-gram": "uni 3-gram", "noun": "noun", "verb": "verb",
           "adj": "adj"}  # fmt: skip
_SPREADS = {"length_en": "words (en)", "length_zh": "characters (zh)", "images": "pictures", "width": "width",
            "height": "height", "tokens": "tokens", "tiles": "tiles", "targets": "supervised tokens"}  # fmt: skip
_SHOWN = ("mean", "min", "p5", "p50", "p95", "max")
_LANGUAGES_SHOWN = 4


def tables(stats: dict[str, Any]) -> list[Table]:
    """Table 1, the sources, and distributions over all of them."""
    made = [
        (
            "captions",
            ["dataset", "lang", "captions", "sample", *_TITLES.values()],
            [[*_named(row), *(_with_interval(row[name]) for name in FIGURES)] for row in stats["table"]],
        )
    ]
    sources = [(one["source"], one) for one in stats["sources"]]
    if len(sources) > 1:
        sources.append((_ALL, stats["all"]))
    made.append(
        (
            "sources",
            ["source", "samples", "broken", "languages"],
            [
                [name, f"{one['samples']:,}", f"{sum(one['broken'].values()):,}", _shares(one["languages"])]
                for name, one in sources
            ],
        )
    )
    spread = stats["all"]["distributions"]
    rows = [
        [title, *(_short(spread[name][column]) for column in _SHOWN)]
        for name, title in _SPREADS.items()
        if name in spread
    ]
    made.append(("distributions", ["of each sample", *_SHOWN], rows))
    if "comparison" in stats:
        made.append(_comparison(stats["comparison"], stats["against"]))
    return [table for table in made if table[2]]


def lines(stats: dict[str, Any]) -> list[str]:
    """What the tables rest on: reasons of broken samples, tools, sample sizes."""
    said = []
    broken = stats["all"]["broken"]
    if broken:
        said.append("broken: " + ", ".join(f"{reason} {count:,}" for reason, count in broken.items()))
    languages = _languages(stats)
    for language in languages:
        tool = stats["tools"][language]
        said.append(f"{language}: {tool['tokenizer']}, {tool['tagger']}")
    if languages:
        said.append(
            f"avg len: words (en), characters (zh); uni: different ones ÷ captions, of samples of {stats['sample']:,} "
            f"at most (seed {stats['seed']}); ± half of the 95% interval"
        )
    if small := [row for row in stats["table"] if row["sample"] < stats["sample"]]:
        names = ", ".join(f"{row['source'] or _ALL} {row['lang']} ({row['sample']:,})" for row in small)
        said.append(f"smaller samples, not comparable with full ones: {names}")
    if not stats["table"]:
        said.append("no English and no Chinese captions: nothing to count words of")
    said += [f"not compared: {why}" for why in stats.get("not_compared", [])]
    return said


def comparable(tools: dict[str, dict[str, str]], other: Path) -> dict[str, Any]:
    """The statistics of another pass, if its tokenizers and taggers of any language are these.

    Raises UsageError where all differ, naming both of one; DataError where there is no such pass.
    """
    theirs = read_stats(other)
    differ = [_other_tool(tools, theirs["tools"], language) for language in _languages(theirs)]
    if differ and all(differ):
        raise UsageError(f"--against {other}: {differ[0]}: make both with one")
    return theirs


def compare(stats: dict[str, Any], other: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The figures of a pass and of another one: rows of differences with 95% intervals, and why others have none.

    Rows are those of the same source and language; where either has one source, it is compared whatever its name.
    Samples of different sizes and words of different tools are never compared. Raises UsageError where that leaves no
    row, naming what differs, and where `comparable` does.
    """
    theirs = comparable(stats["tools"], other)
    pairs = _pairs(stats["table"], theirs["table"])
    if not pairs:
        raise UsageError(f"--against {other}: has no source and language in common with this")
    compared: list[dict[str, Any]] = []
    told: list[tuple[int, str, str]] = []  # size of the smaller sample, why, remedy
    for mine, one in pairs:
        least = min(mine["sample"], one["sample"])
        if tool := _other_tool(stats["tools"], theirs["tools"], mine["lang"]):
            told.append((least, f"{_label(mine)}: {tool}", "make both with one"))
        elif mine["sample"] != one["sample"]:
            why = (
                f"{_label(one)} is a sample of {one['sample']:,} captions, {_label(mine)} here one of "
                f"{mine['sample']:,}; counts of different things depend on it"
            )
            told.append((least, why, f"make both with --sample {least}"))
        else:
            figures = {name: _difference(mine[name], one[name]) for name in FIGURES}
            head = {"source": mine["source"], "against": one["source"], "lang": mine["lang"], "sample": mine["sample"]}
            compared.append({**head, **figures})
    if not compared:
        _, why, remedy = max(told)
        raise UsageError(f"--against {other}: nothing can be compared: {why}: {remedy}")
    paired = [id(row) for pair in pairs for row in pair]
    alone = [f"{_label(row)} is only here" for row in stats["table"] if id(row) not in paired]
    alone += [f"{_label(row)} is only there" for row in theirs["table"] if id(row) not in paired]
    return compared, [why for _, why, _ in told] + alone


def read_stats(folder: Path) -> dict[str, Any]:
    """What a finished pass of statistics said. Raises DataError where there is none."""
    try:
        if json.loads((folder / PASS_FILE).read_text(encoding="utf-8")).get("pass") == "stats":
            found: dict[str, Any] = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
            return found
    except (OSError, ValueError, AttributeError):
        pass
    raise DataError(f"{folder}: holds no finished sailctl curate stats; give the --out of one")


def _comparison(compared: list[dict[str, Any]], other: str) -> Table:
    rows = []
    for row in compared:
        label = row["source"] or _ALL
        label += "" if row["source"] == row["against"] else f" - {row['against'] or _ALL}"
        cells = [
            f"{row[name]['difference']:+.4g} ±{_half(row[name]['ci95']):.2g}"
            + ("*" if row[name]["ci95"][0] > 0 or row[name]["ci95"][1] < 0 else "")
            for name in FIGURES
        ]
        rows.append([label, row["lang"], f"{row['sample']:,}", *cells])
    title = f"minus {other} (*: 0 is outside the 95% interval)"
    return title, ["dataset", "lang", "sample", *_TITLES.values()], rows


def _pairs(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    pairs = []
    for language in ("en", "zh"):
        mine = [row for row in ours if row["lang"] == language]
        other = [row for row in theirs if row["lang"] == language]
        if len(mine) == len(other) == 1:
            pairs.append((mine[0], other[0]))
            continue
        by_source = {row["source"]: row for row in other}
        pairs += [(row, by_source[row["source"]]) for row in mine if row["source"] in by_source]
    return pairs


def _other_tool(ours: dict[str, Any], theirs: dict[str, Any], language: str) -> str:
    """Which tool of a language differs, and how; empty where none does."""
    for tool, here in ours[language].items():
        if here != (there := theirs[language][tool]):
            return (
                f"its {tool} of {language} is {there}, here it is {here}; figures of different ones are not comparable"
            )
    return ""


def _difference(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    difference = ours["value"] - theirs["value"]
    half = hypot(_half(ours["ci95"]), _half(theirs["ci95"]))  # samples that know nothing of each other
    return {
        "ours": ours["value"],
        "theirs": theirs["value"],
        "difference": difference,
        "ci95": [difference - half, difference + half],
    }


def _languages(stats: dict[str, Any]) -> list[str]:
    return sorted({row["lang"] for row in stats["table"]})


def _label(row: dict[str, Any]) -> str:
    return f"{row['source'] or _ALL} ({row['lang']})"


def _named(row: dict[str, Any]) -> list[str]:
    return [row["source"] or _ALL, row["lang"], f"{row['captions']:,}", f"{row['sample']:,}"]


def _with_interval(figure: dict[str, Any]) -> str:
    return f"{figure['value']:.4g} ±{_half(figure['ci95']):.2g}"


def _half(interval: list[float]) -> float:
    return (interval[1] - interval[0]) / 2


def _shares(languages: dict[str, int]) -> str:
    total = sum(languages.values())
    shown = [f"{code} {count / total:.1%}" for code, count in list(languages.items())[:_LANGUAGES_SHOWN]]
    rest = sum(list(languages.values())[_LANGUAGES_SHOWN:])
    return ", ".join([*shown, *([f"other {rest / total:.1%}"] if rest else [])])


def _short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
