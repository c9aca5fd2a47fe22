"""One question to one checkpoint: what `sailctl chat` does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from sailctl.core import images
from sailctl.core.device import pick
from sailctl.core.engines.local import MAX_IMAGE_PIXELS, Completion, LocalEngine, Request
from sailctl.core.errors import DataError, SampleError, UsageError
from sailctl.core.model.lookup import newest_stage
from sailctl.core.model.weights import load_model
from sailctl.core.records import IMAGE_PLACEHOLDER, Turn

DESCRIBE = "Describe the image in detail."


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
    if not (math.isfinite(temperature) and temperature >= 0):
        raise UsageError(f"--temperature {temperature}: must be 0 (greedy) or a finite number above")
    if (shown := (prompt or "").count(IMAGE_PLACEHOLDER)) not in (0, len(image_files)):
        raise UsageError(
            f"--prompt shows {shown} {IMAGE_PLACEHOLDER}, --image was given {len(image_files)} times; give one --image "
            f"for each {IMAGE_PLACEHOLDER}"
        )
    pictures = tuple(_read(path) for path in image_files)
    if checkpoint is None:
        found = newest_stage()
        say(f"--checkpoint not given; using {found}")
        checkpoint = str(found)
    place = pick(device)
    loaded = load_model(checkpoint, device=place, dtype=place.dtype())
    engine = LocalEngine(loaded.model, loaded.tokenizer, place)
    turns = (Turn("user", DESCRIBE if prompt is None else prompt),)
    return engine.generate([Request(turns, pictures, max_new_tokens, temperature)])[0]


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
