"""Is a picture a crop of another one: found by coarse descriptors of crops, decided on small copies laid upon another.

Shapes: N pictures, V views of each (the whole, and crops), D numbers of a descriptor, S = 64 pixels along a side.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from sailctl.core.curate.dedup import pictures

DEEPEST = 0.88  # of width and height: a smaller crop is not looked for
VIEWS = ((1.0, 0.0, 0.0), *((0.95, x, y) for x in (0.0, 0.025, 0.05) for y in (0.0, 0.025, 0.05)))  # scale, left, top
FREQUENCIES = 9  # a descriptor has the 9 x 9 lowest cosine coefficients without the mean
LENGTH = FREQUENCIES**2 - 1
ALIKE = 0.8  # cosine between descriptors: below, two pictures are not laid upon one another
MOST = 8  # pictures that one is laid upon, the likeliest
NEAR = 18.0  # grey levels; a crop is coarser by its other grid, so more than between equal views
ROUGH = 40.0  # grey levels at half the size: farther, nothing is refined
SURE = 3.0  # grey levels at half the size after a view: no other one is tried
TINTS = 2.0, 3.2  # grey levels in the large, as in `pictures`; of a crop they change a little more
MEANS = 12.0  # grey levels: if the means of two pictures are farther apart, neither is a crop of the other
STEPS, MOVING = 10, 7  # of Gauss-Newton; the first of them only move a frame: sizes too early end in wrong places
HOPELESS = 90.0  # grey levels at half the size after the first view: no other one is tried
TRIED = 3  # views, the likeliest, that a picture is laid upon to begin with


def descriptors(luma: np.ndarray) -> np.ndarray:
    """float32 (N, 80) of luma_NSS, each of length 1 (0 of a picture without any pattern)."""
    rows = _cosines()
    found = (rows @ luma @ rows.T).reshape(len(luma), -1)[:, 1:]
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1.0)


def view_descriptors(luma: np.ndarray) -> np.ndarray:
    """float32 (N, V, 80) of the whole pictures and of crops of them."""
    found = [descriptors(warped(luma, np.tile((s, s, x, y), (len(luma), 1)))) for s, x, y in VIEWS]
    return np.stack(found, axis=1)


@lru_cache(maxsize=1)
def _cosines() -> np.ndarray:
    k, x = np.arange(FREQUENCIES)[:, None], np.arange(pictures.SIDE)[None, :]
    rows = np.cos(np.pi * (2 * x + 1) * k / (2 * pictures.SIDE))
    return (rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))).astype(np.float32)


def means(copies: np.ndarray) -> np.ndarray:
    """float32 (N, 3) mean light and colours of small copies."""
    return np.concatenate(
        [pictures.lumas(copies).mean(axis=(1, 2))[:, None], pictures.chromas(copies).mean(axis=(2, 3))], axis=1
    )


def warped(planes: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """What frames (N, 4: width, height, left, top; shares of the picture) show of planes_NSS, again S pixels a side."""
    side = planes.shape[1]
    centres = (np.arange(side) + 0.5) / side
    across = frames[:, 2:3] + frames[:, 0:1] * centres
    down = frames[:, 3:4] + frames[:, 1:2] * centres
    found = _resampled(planes, down * side - 0.5)
    return _resampled(found.transpose(0, 2, 1), across * side - 0.5).transpose(0, 2, 1)


def _resampled(planes: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows of planes at places (N, S) between them, linearly."""
    places = np.clip(places, 0, planes.shape[1] - 1)
    below = np.minimum(places.astype(np.int64), planes.shape[1] - 2)
    share = (places - below).astype(np.float32)[:, :, None]
    number = np.arange(len(planes))[:, None]
    return planes[number, below] * (1 - share) + planes[number, below + 1] * share


def frames_of(views: np.ndarray) -> np.ndarray:
    """The frames (N, 4) of numbers of views, to begin with."""
    return np.array([(s, s, x, y) for s, x, y in VIEWS], dtype=np.float64)[views]


def aligned(
    whole: np.ndarray, shown: np.ndarray, frames: np.ndarray, steps: int = STEPS, moving: int = 0
) -> np.ndarray:
    """The frames (N, 4) of `whole` that look most like `shown` (luma_NSS both), from given ones on.

    Gauss-Newton on the squared difference (Lucas and Kanade 1981). Steps stay small, and frames within the picture and
    above `DEEPEST`; the first `moving` steps leave their sizes as they are.
    """
    frames, side = frames.copy(), whole.shape[1]
    centres = ((np.arange(side) + 0.5) / side).astype(np.float32)
    source, target = pictures.blurred(whole), pictures.blurred(shown)
    for step in range(steps):
        seen = warped(source, frames)
        by_y, by_x = np.gradient(seen, axis=(1, 2))
        by_x *= side / frames[:, 0, None, None]  # gradients are taken on the frame's own grid
        by_y *= side / frames[:, 1, None, None]
        slopes = np.stack([by_x * centres, by_y * centres[:, None], by_x, by_y], axis=1)
        flat = slopes.reshape(len(whole), 4, -1).astype(np.float32)
        residual = (target - seen).reshape(len(whole), -1, 1).astype(np.float32)
        normal = (flat @ flat.transpose(0, 2, 1)).astype(np.float64)
        normal += np.eye(4) * (2.5e-4 * np.trace(normal, axis1=1, axis2=2)[:, None, None] + 1e-3)
        if step < moving:
            normal[:, :2, :2] += np.eye(2) * 1e3 * np.trace(normal, axis1=1, axis2=2)[:, None, None]
        change = np.linalg.solve(normal, (flat @ residual).astype(np.float64))[:, :, 0]
        frames += np.clip(change, -0.02, 0.02)
        frames[:, :2] = np.clip(frames[:, :2], DEEPEST, 1.0)
        frames[:, 2:] = np.clip(frames[:, 2:], 0.0, 1.0 - frames[:, :2])
    return frames


def crop_difference(whole: np.ndarray, shown: np.ndarray, views: np.ndarray) -> np.ndarray:
    """How far small copies are, in grey levels, from the part of others that is most like them; row by row.

    `views` (N, K) are numbers of views to begin with, of which the best is followed. Pairs that stay far apart at half
    the size are infinitely far.
    """
    full, part = pictures.lumas(whole), pictures.lumas(shown)
    half, half_part = pictures.pooled(full), pictures.pooled(part)
    frames, rough = frames_of(views[:, 0]), np.full(len(whole), np.inf)
    for attempt, view in enumerate(views.T):
        again = np.flatnonzero((rough > SURE) & ((rough < HOPELESS) | (attempt == 0)))
        if not len(again):
            break
        found_frames = aligned(half[again], half_part[again], frames_of(view[again]), moving=MOVING)
        apart = pictures.worst(warped(half[again], found_frames), half_part[again])
        better = apart < rough[again]
        frames[again[better]], rough[again[better]] = found_frames[better], apart[better]
    found = np.full(len(whole), np.inf)
    if not len(near := np.flatnonzero(rough <= ROUGH)):
        return found
    full, part, whole, shown = full[near], part[near], whole[near], shown[near]
    frames = aligned(full, part, frames[near], STEPS // 2)
    colours = pictures.chromas(whole), pictures.chromas(shown)
    planes = colours[0].reshape(-1, pictures.CHROMA, pictures.CHROMA)
    moved = warped(planes, np.repeat(frames, 2, axis=0)).reshape(colours[0].shape)
    seen = warped(full, frames)
    apart = pictures.farthest((seen, part), (moved, colours[1]), NEAR, TINTS)
    apart[pictures.other_texture(seen, part)] = np.inf
    found[near] = apart
    return found
