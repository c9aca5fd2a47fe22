"""Planted defects found by training on them: the three evaluation commands on the embedded tiny recipe, on a CPU.

python benchmarks/valuation_real.py [--part quick|compose|incremental] [--seed N]

Makes a parent (tiny's alignment, advance and knowledge stages), plants groups of samples with known defects
(planted.py), runs the commands as a user would, prints what they print, and says whether they found what was planted.
Everything is in --workspace; a second call trains nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from planted import Group, Kind, make_group

TASKS = {
    "closed_vqa": 2.0, "open_vqa": 3.0, "document_vqa": 1.0, "math": 1.0, "chart": 1.0, "caption": 1.0,
    "ocr_word": 1.0, "ocr_text": 1.0,
}  # fmt: skip
STAGES = (("pretrain", "alignment"), ("pretrain", "advance"), ("sft", "knowledge"))
# 600 samples are 19 steps; with 200 a group's defect does not show yet. The small size tells how much runs differ, too.
FULL, SMALL, SEEDS, WORTH, QUESTIONS = 600, 400, 2, 4, 40
LADDER = ("--rungs", f"{SMALL},{FULL}", "--seeds", str(SEEDS))


def main() -> None:
    """Run the parts that are asked for; exit code 1 where one did not find what was planted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["quick", "compose", "incremental"], action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workspace", type=Path, default=Path("runs/valuation-real"))
    options = parser.parse_args()
    parts = options.part or ["quick", "compose", "incremental"]
    work = options.workspace
    for command, stage in STAGES:
        sailctl(command, "--stage", stage, "--out", str(work / "parent" / stage), "--resume", quiet=True)
    wrong = []
    for part in parts:
        began = time.perf_counter()
        found = PARTS[part](work, options.seed)
        right = "found" if found else "NOT FOUND"
        print(f"{part}: what was planted was {right}, in {time.perf_counter() - began:.0f} s\n", flush=True)
        wrong += [] if found else [part]
    sys.exit(1 if wrong else 0)


def quick(work: Path, seed: int) -> bool:
    """clean > half-shuffled > shuffled."""
    kinds: list[Kind] = ["shuffled", "clean", "half-shuffled"]
    data = [plant(work / "quick", kind, kind, 1200, 61 + number) for number, kind in enumerate(kinds)]
    ladder = ("--rungs", f"200,{FULL}", "--seeds", str(SEEDS), "--finalists", "3")
    found = evaluate(work, "quick-eval", seed, *with_data(data), *ladder)
    order = [one["dataset"] for one in found["ranking"]]
    return order == ["clean", "half-shuffled", "shuffled"] and all(one["verdict"] != "open" for one in found["pairs"])


def compose(work: Path, seed: int) -> bool:
    """Of five groups the one with shuffled answers is halved, and no other."""
    groups: list[tuple[str, Kind, int, dict[str, float] | None]] = [
        ("good", "clean", 500, TASKS),
        ("small", "clean", 150, {"chart": 1, "document_vqa": 1}),
        ("shuffled", "shuffled", 800, TASKS),
        ("duplicated", "duplicated", 150, TASKS),
        ("off-domain", "off-domain", 150, None),
    ]
    paths = [
        plant(work / "compose", name, kind, size, 41 + at, tasks) for at, (name, kind, size, tasks) in enumerate(groups)
    ]
    mixture = write_mixture(work / "mixture.yaml", paths)
    found = evaluate(work, "compose-eval", seed, "--mixture", mixture, *LADDER)
    return {one["name"] for one in found["decisions"] if one["choice"] == "halve"} == {"shuffled"}


def incremental(work: Path, seed: int) -> bool:
    """To a mixture half of whose answers are wrong: shuffled answers are rejected, good ones accepted."""
    paths = [plant(work / "incremental", "noisy", "half-shuffled", 600, 51, TASKS)]
    mixture = write_mixture(work / "noisy.yaml", paths)
    data = [
        plant(work / "incremental", "more-shuffled", "shuffled", 600, 53, TASKS),
        plant(work / "incremental", "more-good", "clean", 600, 54, TASKS),
    ]
    found = evaluate(work, "incremental-eval", seed, "--mixture", mixture, *with_data(data), *LADDER)
    choices = {one["name"]: one["choice"] for one in found["decisions"]}
    return choices == {"more-shuffled": "reject", "more-good": "accept"}


PARTS: dict[str, Callable[[Path, int], bool]] = {"quick": quick, "compose": compose, "incremental": incremental}


def plant(place: Path, name: str, kind: Kind, samples: int, seed: int, tasks: dict[str, float] | None = None) -> Path:
    """A planted group as a folder of this name; without tasks the kind's own, broad ones for those of quick."""
    broad = tasks if tasks is not None or kind == "off-domain" else TASKS
    folder = place / name
    make_group(Group(kind, samples, seed, broad, (1, 2)), folder)
    return folder


def with_data(folders: Sequence[Path]) -> list[str]:
    """Folders as --data options."""
    return [word for folder in folders for word in ("--data", str(folder))]


def write_mixture(path: Path, folders: Sequence[Path]) -> str:
    """A mixture file of these folders, each a group."""
    lines = [f"  - {{name: {folder.name}, path: {folder}}}\n" for folder in folders]
    path.write_text("sources:\n" + "".join(lines), encoding="utf-8")
    return str(path)


def evaluate(work: Path, command: str, seed: int, *words: str) -> dict[str, list[dict[str, str]]]:
    """Run an evaluation command, its screen shown, and return its record."""
    out = work / f"{command}-{seed}"
    sailctl(
        command, *words, "--checkpoint", str(work / "parent/knowledge"), "--worth", str(WORTH),
        "--questions", str(QUESTIONS), "--seed", str(seed), "--workspace", str(work), "--out", str(out),
    )  # fmt: skip
    record: dict[str, list[dict[str, str]]] = json.loads((out / "decision.json").read_text(encoding="utf-8"))
    return record


def sailctl(*words: str, quiet: bool = False) -> None:
    """One command line; ends the script where it fails."""
    print("$ sailctl " + " ".join(words), flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "sailctl", *words], stdout=subprocess.DEVNULL if quiet else None, check=False
    )
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
