"""How much of each benchmark was in the training data, set beside its score: what `curate decontaminate` found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sailctl.core.errors import UsageError

OVERLAP_FILE = "overlap.json"
KEPT = ("rows", "overlapping", "share", "by_image", "by_question")
READ = ("unreadable", "usable")  # rows of a table that could not be read, and those that could be compared


def read_overlap(path: Path) -> dict[str, dict[str, Any]]:
    """Of each benchmark, by its table's name, rows, overlapping ones and their share; `path` is the file or its folder.

    Raises UsageError where it is not there or holds something else.
    """
    file = path / OVERLAP_FILE if path.is_dir() else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["benchmarks"]
        told = {name: {key: one[key] for key in KEPT} for name, one in found.items()}
        return {
            name: {**kept, **{key: found[name][key] for key in READ if key in found[name]}}
            for name, kept in told.items()
        }
    except OSError as error:
        raise UsageError(
            f"--overlap {path}: {OVERLAP_FILE} cannot be read there ({error.strerror}); give the --out of sailctl "
            "curate decontaminate once it is done"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"--overlap {file}: is no {OVERLAP_FILE} of sailctl curate decontaminate") from None


def set_beside(results: dict[str, Any], overlap: Mapping[str, Mapping[str, Any]]) -> None:
    """Give every benchmark of results its `overlap`, None where the data were not compared with its table."""
    for name, one in results["benchmarks"].items():
        one["overlap"] = overlap.get(one["dataset"], overlap.get(name))


def shown(one: Mapping[str, Any]) -> str:
    """A benchmark's overlap for people: the share of its rows, at least that where some could not be read; the rows."""
    found = one.get("overlap")
    if found is None:
        return "not looked for"
    if not found["rows"] or found.get("usable") == 0:
        return "–"
    least = "≥ " if found.get("unreadable") else ""
    return f"{least}{found['share']:.1%} ({found['overlapping']} of {found['rows']})"
