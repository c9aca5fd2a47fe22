"""What is remembered of a picture to know it again: a hash of its pixels, a small copy of it, keys it is looked up by.

A picture that was resized or encoded anew keeps its small copy but for a few grey levels; another picture that looks
alike differs somewhere. So keys only propose, and small copies laid upon one another decide.

Shapes: N pictures, S = 64 pixels along a small copy's side, C = 16 along that of its colours, B bits of a hash.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

SIDE, CHROMA = 64, 16
COPY_BYTES = SIDE * SIDE + 2 * CHROMA * CHROMA  # luma, then both chromas
COARSE_BYTES = 3 * CHROMA * CHROMA
BANDS, BAND_BITS = 4, 24
DOUBTFUL = 3  # bits of a band, the least certain ones, that a picture is also looked up without
THRESHOLD = 8.0  # of a cosine coefficient: where nothing varies, noise must not decide a bit
BLANK = 3.0  # grey levels by which all of a small copy keeps to its mean: nothing there to be known by
FAR = 12  # of the first 64 bits: farther apart, two pictures are not compared
NEAR = 7.0  # grey levels: closer, they are the same; by measurement, see docs/curate-dedup.md
TINTS = 1.6, 2.0  # grey levels in the large, of light and of colours: closer, they are the same
EVEN, GRAIN, ALIKE = 10.0, 0.5, 0.1  # contrast of an even part; its grain, in grey levels; least correlation of it
ASPECT, ROUNDED = 0.05, 1.5  # logarithm of what aspect ratios may differ by; pixels that resizing may round a side by
SLACK = 0.5  # of the contrast around a pixel: what a shift by half a pixel may change there


def small_copy(image: Image.Image) -> bytes:
    """64 x 64 grey and twice 16 x 16 colour values (BT.601, as JPEG has them) of an RGB picture, whatever its shape."""
    from PIL import Image as Pillow

    filters = Pillow.Resampling
    small = image.resize((SIDE, SIDE), filters.BILINEAR, reducing_gap=None).convert("YCbCr")
    luma, blue, red = small.split()
    shrunk = [plane.resize((CHROMA, CHROMA), filters.BOX).tobytes() for plane in (blue, red)]
    return luma.tobytes() + b"".join(shrunk)


def pixel_hash(image: Image.Image) -> bytes:
    """blake2b-128 of a decoded RGB picture: width, height and every pixel."""
    digest = hashlib.blake2b(f"{image.width} {image.height} ".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.digest()


def lumas(copies: np.ndarray) -> np.ndarray:
    """luma_NSS float32 of small copies, uint8 (N, COPY_BYTES)."""
    return copies[:, : SIDE * SIDE].reshape(-1, SIDE, SIDE).astype(np.float32)


def chromas(copies: np.ndarray) -> np.ndarray:
    """chroma_N2CC float32 of small copies, uint8 (N, COPY_BYTES)."""
    return copies[:, SIDE * SIDE :].reshape(-1, 2, CHROMA, CHROMA).astype(np.float32)


def is_blank(copies: np.ndarray) -> np.ndarray:
    """Which of small copies are of one colour but for noise: any two such look alike, so only equal pixels count."""
    flat = copies.astype(np.float32)
    luma, rest = flat[:, : SIDE * SIDE], flat[:, SIDE * SIDE :].reshape(len(flat), 2, -1)
    return (np.ptp(pooled(luma.reshape(-1, SIDE, SIDE)), axis=(1, 2)) <= 2 * BLANK) & (
        np.ptp(rest, axis=2).max(axis=1) <= 2 * BLANK
    )


def pooled(luma: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels."""
    return luma.reshape(len(luma), luma.shape[1] // 2, 2, -1, 2).mean(axis=(2, 4))


@lru_cache(maxsize=1)
def _cosines() -> np.ndarray:
    """The first 14 rows of the orthonormal DCT-II of 64 points."""
    k, x = np.arange(14)[:, None], np.arange(SIDE)[None, :]
    rows = np.sqrt(2 / SIDE) * np.cos(np.pi * (2 * x + 1) * k / (2 * SIDE))
    rows[0] /= np.sqrt(2)
    return rows.astype(np.float32)


@lru_cache(maxsize=1)
def _order() -> np.ndarray:
    """The 96 lowest of 14 x 14 frequencies without the mean, dealt to the bands in turn."""
    vertical, horizontal = np.divmod(np.arange(14 * 14), 14)
    lowest = np.lexsort((horizontal, vertical + horizontal))[1 : BANDS * BAND_BITS + 1]
    return lowest.reshape(BAND_BITS, BANDS).T.ravel()


def coefficients(luma: np.ndarray) -> np.ndarray:
    """float32 (N, 96) cosine coefficients of luma_NSS, band after band."""
    rows = _cosines()
    return (rows @ luma @ rows.T).reshape(len(luma), -1)[:, _order()]


def band_keys(copies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Perceptual hashes of small copies: bits uint8 (N, 96 / 8), and the keys uint64 (N, 4 * 8) they are found by.

    A bit says whether a coefficient is above `THRESHOLD`. A band is also a key with every choice of its least certain
    bits turned round, so that two pictures meet although such bits differ.
    """
    values = coefficients(lumas(copies)) - THRESHOLD
    bits = values > 0
    keys = np.empty((len(bits), BANDS, 1 << DOUBTFUL), dtype=np.uint64)
    weights = np.uint64(1) << np.arange(BAND_BITS, dtype=np.uint64)
    for band in range(BANDS):
        part = slice(band * BAND_BITS, (band + 1) * BAND_BITS)
        plain = (bits[:, part] * weights).sum(axis=1, dtype=np.uint64)
        doubtful = np.argsort(np.abs(values[:, part]), axis=1, kind="stable")[:, :DOUBTFUL]
        flips = weights[doubtful]
        for choice in range(1 << DOUBTFUL):
            turned = plain.copy()
            for place in range(DOUBTFUL):
                if choice >> place & 1:
                    turned ^= flips[:, place]
            keys[:, band, choice] = mix(turned | np.uint64(band << BAND_BITS))
    return np.packbits(bits, axis=1), keys.reshape(len(bits), -1)


def mix(values: np.ndarray) -> np.ndarray:
    """Spread uint64 over all 64 bits, one to one (the finaliser of SplitMix64)."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def coarse(copies: np.ndarray) -> np.ndarray:
    """uint8 (N, COARSE_BYTES): 16 x 16 means of grey, then the colours; for a first glance at many pairs."""
    luma = copies[:, : SIDE * SIDE].reshape(-1, CHROMA, SIDE // CHROMA, CHROMA, SIDE // CHROMA)
    means = luma.mean(axis=(2, 4), dtype=np.float32).reshape(len(copies), -1)
    return np.concatenate([means.astype(np.uint8), copies[:, SIDE * SIDE :]], axis=1)


def may_be_near(left: np.ndarray, right: np.ndarray, at_most: float) -> np.ndarray:
    """Whether `difference` can be worth its time, from `coarse` values of both, row by row."""
    apart = np.abs(left.astype(np.int16) - right)
    return (apart.mean(axis=1) <= at_most) & (apart.max(axis=1) <= 6 * at_most)


def difference(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How far small copies are apart where they are farthest, in grey levels, float32 (N,); row by row.

    A pixel counts less what a little shift may change there, and in the mean of its neighbourhood, so that a missing
    stroke is seen and the blur of a coarser encoding is not.
    """
    return farthest((lumas(left), lumas(right)), (chromas(left), chromas(right)), NEAR)


def farthest(
    greys: tuple[np.ndarray, np.ndarray],
    colours: tuple[np.ndarray, np.ndarray],
    near: float,
    tints: tuple[float, float] = TINTS,
) -> np.ndarray:
    """The larger of how far planes are apart where they are farthest, and in the large; float32 (N,).

    `near` of the one is as much as `tints` (of light, of colours) of the other.
    """
    flat = [planes.reshape(-1, CHROMA, CHROMA) for planes in colours]
    of_colour = [values.reshape(-1, 2).max(axis=1) for values in (worst(*flat), tint(*flat))]
    large = np.maximum(tint(*greys) / tints[0], of_colour[1] / tints[1]) * near
    return np.maximum(np.maximum(worst(*greys), of_colour[0]), large)


def other_texture(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Whether the grain of the even parts of luma_NSS is another one, bool (N,), row by row.

    Pictures that show the same few things on grounds of one tint are told apart by it alone: what is left of a ground
    without its slow changes is uncorrelated then. False where nothing is even, or without grain.
    """
    even = np.maximum(_contrast(blurred(left)), _contrast(blurred(right))) < EVEN
    grains = [(planes - blurred(blurred(planes))) * even for planes in (left, right)]
    size = even.sum(axis=(1, 2))
    powers = [(grain**2).sum(axis=(1, 2)) for grain in grains]
    alike = (grains[0] * grains[1]).sum(axis=(1, 2)) / np.maximum(np.sqrt(powers[0] * powers[1]), 1e-6)
    there = np.minimum(*powers) > GRAIN**2 * size
    return there & (size > even[0].size / 5) & (alike < ALIKE)


def same_aspect(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Whether pictures of these sizes, (N, 2) of width and height, may be resized versions of one another, bool (N,).

    A copy holds a picture squeezed into a square, so it does not tell. Ratios agree within 5%, or within what whole
    pixels make of the shortest side: a thumbnail of 20 x 15 has no exact ratio.
    """
    sides = np.concatenate([left, right], axis=1).astype(np.float64)
    apart = np.log(sides[:, 0] / sides[:, 1]) - np.log(sides[:, 2] / sides[:, 3])
    return np.abs(apart) <= np.maximum(ASPECT, ROUNDED / sides.min(axis=1))


def worst(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Where planes (N, side, side) are farthest apart, float32 (N,); see `difference`."""
    left, right = blurred(left), blurred(right)
    apart = np.abs(left - right) - SLACK * np.minimum(_contrast(left), _contrast(right))
    return blurred(np.maximum(apart, 0)).reshape(len(left), -1).max(axis=1)


def _shifted(planes: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Planes with their neighbours along an axis; at the edge a pixel is its own."""
    before = np.concatenate([planes.take([0], axis), planes.take(range(planes.shape[axis] - 1), axis)], axis)
    after = np.concatenate([planes.take(range(1, planes.shape[axis]), axis), planes.take([-1], axis)], axis)
    return before, planes, after


def _contrast(planes: np.ndarray) -> np.ndarray:
    """Lightest minus darkest of the 3 x 3 pixels around each."""
    high = low = planes
    for axis in (1, 2):
        a, b, c = _shifted(high, axis)
        high = np.maximum(np.maximum(a, b), c)
        a, b, c = _shifted(low, axis)
        low = np.minimum(np.minimum(a, b), c)
    return high - low


def blurred(planes: np.ndarray) -> np.ndarray:
    """Means of the 3 x 3 pixels around each."""
    for axis in (1, 2):
        a, b, c = _shifted(planes, axis)
        planes = (a + b + c) / 3
    return planes


def tint(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """How far planes (N, side, side) are apart on the whole, float32 (N,): the mean of what means of 1/64 are apart.

    Encoding a picture anew changes strokes and edges, but hardly what is light or dark in the large.
    """
    size = left.shape[1] // 8
    apart = (left - right).reshape(len(left), 8, size, 8, size).mean(axis=(2, 4))
    return np.abs(apart).mean(axis=(1, 2))
