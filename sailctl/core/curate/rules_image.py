"""Measures of a picture that rules bound: is it of one colour, is it sharp.

Shapes: H lines, W pixels a line of the picture shrunk to `SIDE` pixels along its longer side; it is never enlarged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

SIDE = 512  # about what a model sees of it in one tile


class Look(NamedTuple):
    """What rules know of a decoded picture."""

    deviation: float
    sharpness: float


def look_at(image: Image.Image) -> Look:
    """Measure an RGB picture."""
    from PIL import Image as Pillow

    scale = SIDE / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Pillow.Resampling.BILINEAR)  # Pillow's is a triangle over all pixels it covers
    pixels_HW3 = np.asarray(image)
    deviation = float(pixels_HW3.reshape(-1, 3).std(axis=0, dtype=np.float32).max())
    return Look(round(deviation, 2), round(sharpness(pixels_HW3), 2))


def sharpness(pixels_HW3: np.ndarray) -> float:
    """Variance of the Laplacian (4-neighbour kernel) in the sharpest channel; 0 where it is too small for one.

    Source: Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy", there of the grey picture; but
    an orange shape on grey of its own lightness has no edges there.
    """
    if min(pixels_HW3.shape[:2]) < 3:
        return 0.0
    pixels = pixels_HW3.astype(np.int16)
    beside = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:]
    laplacian = (beside - 4 * pixels[1:-1, 1:-1]).astype(np.float32).reshape(-1, 3)
    return float(laplacian.var(axis=0, dtype=np.float64).max())
