"""TensorBoard and Weights & Biases beside metrics.jsonl: the same rows, for those who watch runs there.

Both are optional and imported only where a recipe names them. Nothing reads them back: metrics.jsonl is the record.
"""

from __future__ import annotations

import importlib.util
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from sailctl.core.errors import MissingExtra, UsageError
from sailctl.core.schema.recipe import Recipe

TRACKERS = ("tensorboard", "wandb")  # a tracker, its package and its extra have one name


class Tracker(Protocol):
    """Who is told of every step."""

    def log(self, row: dict[str, Any]) -> None:
        """Take a row of metrics.jsonl."""
        ...

    def close(self) -> None:
        """Write out what is still in memory."""
        ...


def check_trackers(names: Sequence[str]) -> None:
    """Raise MissingExtra for a tracker that is not installed, before any work is done."""
    for name in names:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:  # the latter: a mere folder of that name, such as W&B leaves behind
            raise MissingExtra(name, name)


def open_trackers(recipe: Recipe, run_dir: Path, steps: int) -> list[Tracker]:
    """The recipe's trackers, for a run that has made `steps` steps. Raises UsageError where W&B refuses to start."""
    check_trackers(recipe.train.trackers)
    made: dict[str, Callable[[Recipe, Path, int], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB}
    return [made[name](recipe, run_dir, steps) for name in dict.fromkeys(recipe.train.trackers)]


def scalars(row: dict[str, Any], prefix: str = "train/") -> Iterator[tuple[str, float]]:
    """The numbers of a row by tag: train/loss, perf/mfu, fill/tokens. What is null or text is left out."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from scalars(value, f"{name}/")
        elif isinstance(value, int | float) and name != "step":
            yield prefix + name, value


class TensorBoard:
    """Event files in RUN/tensorboard; a resumed run hides what a killed one wrote beyond its checkpoint."""

    def __init__(self, recipe: Recipe, run_dir: Path, steps: int) -> None:
        # Its event loader looks for TensorFlow, which has a great deal to say where it is installed.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=steps + 1)

    def log(self, row: dict[str, Any]) -> None:
        """See `Tracker.log`."""
        for tag, value in scalars(row):
            self._writer.add_scalar(tag, value, row["step"])

    def close(self) -> None:
        """See `Tracker.close`."""
        self._writer.close()


class WandB:
    """A W&B run that outlives resumes; project, entity, mode and key are W&B's own environment variables.

    Its id is kept in RUN/wandb/id. Only metrics and the recipe are sent: no code, no output, no data.
    """

    def __init__(self, recipe: Recipe, run_dir: Path, steps: int) -> None:
        import wandb

        identity = run_dir / "wandb" / "id"
        identity.parent.mkdir(parents=True, exist_ok=True)
        if not identity.is_file():
            identity.write_text(secrets.token_hex(8), encoding="ascii")
        try:
            self._run = wandb.init(
                dir=str(run_dir),
                id=identity.read_text(encoding="ascii").strip(),
                resume="allow",
                name=f"{recipe.name}/{recipe.stage}",
                config=recipe.model_dump(mode="json"),
                settings=wandb.Settings(console="off", disable_git=True, disable_code=True, silent=True),
            )
        except wandb.Error as error:
            reason = str(error).strip().partition("\n")[0]
            raise UsageError(
                f"train.trackers wandb: cannot start ({reason}); run wandb login, or set WANDB_MODE=offline"
            ) from error

    def log(self, row: dict[str, Any]) -> None:
        """See `Tracker.log`."""
        self._run.log(dict(scalars(row)), step=row["step"])

    def close(self) -> None:
        """See `Tracker.close`."""
        self._run.finish()
