"""One question to one checkpoint: what `sailctl chat` does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from sailctl.core import images
from sailctl.core.device import pick
from sailctl.core.engines.local import MAX_IMAGE_PIXELS, Completion, LocalEngine, Request
from sailctl.core.errors import DataError, SampleError, UsageError
from sailctl.core.model.weights import load_model
from sailctl.core.records import Turn

# latest in the curriculum first; the annealed branch only stands in for the trunk
STAGES = ("preference", "instruction", "knowledge", "anneal", "advance", "alignment")
TINY_RUNS = Path("runs/tiny")
DESCRIBE = "Describe this image in detail."


def ask(
    checkpoint: str | None,
    image_files: Sequence[Path],
    prompt: str | None,
    *,
    max_new_tokens: int,
    temperature: float,
    device: str,
    say: Callable[[str], None],
) -> Completion:
    """Answer a prompt about pictures; without a prompt, describe them; without a checkpoint, use `newest_stage`.

    Raises UsageError for a missing picture or checkpoint and where there is neither prompt nor picture, DataError for a
    picture that cannot be read.
    """
    if prompt is None and not image_files:
        raise UsageError("nothing to answer: give --prompt, --image, or both")
    if max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens {max_new_tokens}: must be at least 1")
    if temperature < 0:
        raise UsageError(f"--temperature {temperature}: must be 0 (greedy) or more")
    pictures = tuple(_read(path) for path in image_files)
    if checkpoint is None:
        found = newest_stage(TINY_RUNS)
        say(f"--checkpoint not given; using {found}")
        checkpoint = str(found)
    place = pick(device)
    loaded = load_model(checkpoint, device=place, dtype=place.dtype())
    engine = LocalEngine(loaded.model, loaded.tokenizer, place)
    turns = (Turn("user", DESCRIBE if prompt is None else prompt),)
    return engine.generate([Request(turns, pictures, max_new_tokens, temperature)])[0]


def newest_stage(runs: Path) -> Path:
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


def _read(path: Path) -> Image.Image:
    try:
        return images.decode(path.read_bytes(), max_pixels=MAX_IMAGE_PIXELS)
    except OSError as error:
        raise UsageError(f"--image {path}: {error.strerror}; give a picture file") from error
    except SampleError as error:
        raise DataError(f"--image {path}: {error}; give another picture") from error


def as_json(completion: Completion) -> dict[str, Any]:
    """The answer as machines read it."""
    return {
        "answer": completion.text,
        "token_ids": completion.token_ids,
        "prompt_ids": completion.prompt_ids,
        "num_tiles": completion.num_tiles,
    }
