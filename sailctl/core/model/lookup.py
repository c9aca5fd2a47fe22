"""Which checkpoint is meant when the user names none: that of the latest completed stage."""

from __future__ import annotations

import json
from pathlib import Path

from sailctl.core.errors import UsageError

DEFAULT_RUNS = Path("runs/tiny")
# latest in the curriculum first; the annealed branch only stands in for the trunk
STAGES = ("preference", "instruction", "knowledge", "anneal", "advance", "alignment")


def newest_stage(runs: Path = DEFAULT_RUNS) -> Path:
    """The run directory of the latest completed stage under `runs`; UsageError naming the remedy if there is none."""
    for stage in STAGES:
        if _is_complete(runs / stage):
            return runs / stage
    raise UsageError(
        f"no completed stage under {runs}; give --checkpoint, or first run: sailctl pretrain --stage advance"
    )


def _is_complete(run: Path) -> bool:
    """Whether a run's newest checkpoint is the one its training ended with."""
    try:
        name = (run / "latest").read_text(encoding="utf-8").strip()
        state = json.loads((run / "checkpoints" / name / "state" / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(state.get("finished", False))
