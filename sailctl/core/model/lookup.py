"""Which checkpoint is meant when the user names none: that of the run last saved."""

from __future__ import annotations

from pathlib import Path

from sailctl.core.errors import UsageError

DEFAULT_RUNS = Path("runs/tiny")


def newest_run(runs: Path = DEFAULT_RUNS) -> Path:
    """The run in a folder of runs that saved a checkpoint last; UsageError naming what to do where there is none."""
    saved = {path.parent: path.stat().st_mtime_ns for path in runs.glob("*/latest")}
    if not saved:
        raise UsageError(
            f"no --checkpoint given and no run in {runs}; make one with: sailctl pretrain --stage alignment"
        )
    return max(saved, key=lambda run: (saved[run], run.name))
