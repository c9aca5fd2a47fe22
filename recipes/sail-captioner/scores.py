"""Prints what `sailctl curate judge` found of captioners on the same pictures: scores.py NAME=DIR NAME=DIR …

The last line is the mean difference of the last captioner to the first over pictures that both were judged on, with the
95% interval of a mean.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sailctl.core.data.verdicts import read_rows


def judged(folder: Path) -> dict[str, Any]:
    """Quality (0 to 100), precision and recall (1 to 10) of a folder, each with its number and interval."""
    scores: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["scores"]
    return scores


def line(name: str, scores: dict[str, Any]) -> str:
    """One captioner's scores."""
    quality, (low, high) = scores["quality"], scores["quality"]["ci95"]
    grades = f"precision {scores['precision']['value']:.2f}  recall {scores['recall']['value']:.2f}"
    return f"{name:<12} quality {quality['value']:.1f} [{low:.1f}, {high:.1f}]  {grades}  n = {quality['n']}"


def difference(first: Path, last: Path) -> tuple[float, float, int]:
    """Mean difference in quality, half its 95% interval, and over how many pictures."""
    before, after = ({row["key"]: row["quality"] for row in read_rows(folder)} for folder in (first, last))
    both = [key for key in before if before[key] is not None and after.get(key) is not None]
    found = np.array([after[key] - before[key] for key in both])
    return float(found.mean()), 1.96 * float(found.std(ddof=1)) / len(found) ** 0.5, len(found)


def main() -> None:
    """Print a line a captioner, and the difference."""
    named = [(name, Path(folder)) for name, _, folder in (argument.partition("=") for argument in sys.argv[1:])]
    print("judged against the API's captions of held-out pictures:")
    for name, folder in named:
        print(line(name, judged(folder)))
    mean, half, count = difference(named[0][1], named[-1][1])
    told = f"quality {mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]  n = {count}"
    print(f"{named[-1][0]} - {named[0][0]}: {told}, picture by picture")


if __name__ == "__main__":
    main()
