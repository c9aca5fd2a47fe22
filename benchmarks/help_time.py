"""Time of `sailctl --help` beside an import of Typer alone: best and median of fresh processes, and their ratio.

python benchmarks/help_time.py
"""

import subprocess
import sys
import time
from statistics import median

RUNS = 9


def seconds(command: list[str]) -> list[float]:
    """Wall-clock seconds of `RUNS` processes after one that warms the file cache."""
    taken = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - start)
    return taken[1:]


def main() -> None:
    """Measure both and print the ratio of the medians."""
    alone = seconds([sys.executable, "-c", "import typer"])
    help_text = seconds([sys.executable, "-m", "sailctl", "--help"])
    for name, taken in (("import typer", alone), ("sailctl --help", help_text)):
        print(f"{name:16s} best {min(taken):.3f} s  median {median(taken):.3f} s")
    print(f"ratio of medians {median(help_text) / median(alone):.2f}")


if __name__ == "__main__":
    main()
