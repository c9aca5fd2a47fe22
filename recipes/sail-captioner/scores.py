"""Prints what `sailctl curate judge` found in several folders, one below the other: scores.py NAME=DIR NAME=DIR …"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def judged(folder: Path) -> dict[str, Any]:
    """Quality (0 to 100), precision and recall (1 to 10) of a folder, each with its number and interval."""
    scores: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["scores"]
    return scores


def line(name: str, scores: dict[str, Any]) -> str:
    """One captioner's scores."""
    quality, (low, high) = scores["quality"], scores["quality"]["ci95"]
    grades = f"precision {scores['precision']['value']:.2f}  recall {scores['recall']['value']:.2f}"
    return f"{name:<12} quality {quality['value']:.1f} [{low:.1f}, {high:.1f}]  {grades}  n = {quality['n']}"


if __name__ == "__main__":
    print("judged against the API's captions, held-out pictures:")
    for argument in sys.argv[1:]:
        name, _, folder = argument.partition("=")
        print(line(name, judged(Path(folder))))
