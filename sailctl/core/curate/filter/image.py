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
    """Measure an RGB picture. Sums are of integers, so that every machine finds the same."""
    from PIL import Image as Pillow
    from PIL import ImageStat

    scale = SIDE / max(image.size)
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        # a triangle over all pixels it covers, after a cheap mean where the picture is more than four times as large
        image = image.resize(size, Pillow.Resampling.BILINEAR, reducing_gap=2.0)
    return Look(round(max(ImageStat.Stat(image).stddev), 2), round(sharpness(np.asarray(image)), 2))


def sharpness(pixels_HW3: np.ndarray) -> float:
    """Variance of the Laplacian (4-neighbour kernel) in the sharpest channel; 0 where it is too small for one.

    Source: Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy", there of the grey picture; but
    an orange shape on grey of its own lightness has no edges there.
    """
    height, width = pixels_HW3.shape[:2]
    if min(height, width) < 3:
        return 0.0
    pixels = pixels_HW3.astype(np.int16)
    laplacian = pixels[:-2, 1:-1] + pixels[2:, 1:-1]
    laplacian += pixels[1:-1, :-2]
    laplacian += pixels[1:-1, 2:]
    laplacian -= pixels[1:-1, 1:-1] * np.int16(4)
    count, found = (height - 2) * (width - 2), 0.0
    for channel in range(3):
        values = laplacian[..., channel].astype(np.int32)
        total, squares = int(values.sum(dtype=np.int64)), int((values * values).sum(dtype=np.int64))
        found = max(found, squares / count - (total / count) ** 2)
    return found
