"""From encoded bytes to tiles: safe decoding, the grid rule of the model card, the thumbnail.

Shapes: I tiles, S pixels along a tile's side. All is uint8 here; `core/model/vlm.py` normalises on the device.
"""

from __future__ import annotations

import io
import threading
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sailctl.core.errors import SampleError

if TYPE_CHECKING:
    import torch

# Raster formats whose decoders live in Pillow itself; EPS (which would start Ghostscript) and exotic ones stay out.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
_pillow_limit = threading.Lock()


def decode(data: bytes, *, max_pixels: int) -> Image.Image:
    """Decode one picture to RGB: first frame, pixels as stored (EXIF orientation ignored), alpha composited on white.

    The pixel count in the header is checked before anything is decoded. Raises SampleError "image_too_large" (both
    numbers) or "bad_image" (no known format, or bytes that end early).
    """
    if not data:
        raise SampleError("bad_image", "zero bytes")
    try:
        image = _open_header(data)
    except Exception as error:  # decoders meet hostile bytes with every kind of exception
        raise SampleError("bad_image", f"{len(data)} bytes, {_first_line(error)}") from error
    with image:
        width, height = image.size
        if width * height > max_pixels:
            detail = f"{width}x{height} = {width * height} pixels > data.max_image_pixels {max_pixels}"
            raise SampleError("image_too_large", detail)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image.load()
                if image.format in ("JPEG", "MPO") and _scan_ends_early(data, image):
                    raise ValueError("the compressed data end before the announced size is filled")
                return _to_rgb(image)
        except Exception as error:
            detail = f"{image.format} {width}x{height}, {len(data)} bytes: {_first_line(error)}"
            raise SampleError("bad_image", detail) from error


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height as the header announces them, without decoding. Raises SampleError "bad_image"."""
    try:
        with _open_header(data) as image:
            return image.size
    except Exception as error:
        raise SampleError("bad_image", f"{len(data)} bytes, {_first_line(error)}") from error


def checked_size(data: bytes, *, max_pixels: int) -> tuple[int, int]:
    """Width and height of a picture that `decode` would most likely take: its header and its end are looked at.

    Whole JPEG, PNG, GIF and WebP files end as their formats say and are not decoded; others are, and `decode` decides.
    What is wrong before the end is not seen. Raises SampleError "image_too_large" or "bad_image" as `decode` does.
    """
    width, height = image_size(data)
    if width * height > max_pixels or not _ends_whole(data):
        decode(data, max_pixels=max_pixels)
    return width, height


def _ends_whole(data: bytes) -> bool:
    """Whether a file ends with its format's last marker or, for WebP, holds as many bytes as it announces."""
    if data[:4] == b"RIFF":
        return len(data) >= 8 + int.from_bytes(data[4:8], "little")
    for start, end in ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG", b"IEND\xaeB`\x82"), (b"GIF8", b";")):
        if data.startswith(start):
            return data.endswith(end)
    return False


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)  # AVIF only where this Pillow was built with it


def _open_header(data: bytes) -> Image.Image:
    # Pillow refuses (or merely warns about) sizes by a process-wide limit that is not the recipe's. It is lifted
    # while the header is read: the caller compares the size with its own limit before any pixel is decoded.
    with _pillow_limit, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _scan_ends_early(data: bytes, image: Image.Image) -> bool:
    """Whether a JPEG has too little data for its announced size though its end marker is there.

    libjpeg only warns and fills the rest with mid-grey. So where the last pixel is exactly that, filler is put behind
    the first scan and the picture decoded again: an honest one has all its blocks by then and stays as it was.
    """
    last = image.getpixel((image.width - 1, image.height - 1))
    if last not in (128, (128, 128, 128)):
        return False
    end, restarts = _first_scan_end(data)
    noise = bytes(range(16, 240, 7)) * 4
    filler = noise + b"".join(bytes((0xFF, 0xD0 + (restarts + k) % 8)) + noise for k in range(8))
    with Image.open(io.BytesIO(data[:end] + filler + data[end:]), formats=("JPEG",)) as padded:
        return not np.array_equal(np.asarray(padded), np.asarray(image))


def _first_scan_end(data: bytes) -> tuple[int, int]:
    """Offset of the marker that ends the first scan of a JPEG, and the restart markers met in it."""
    position = 2
    while data[position : position + 2] != b"\xff\xda":  # segments, thumbnails within them and all, are jumped over
        position += 1 if data[position + 1] == 0xFF else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    position += 2
    restarts = 0
    while (position := data.find(b"\xff", position)) >= 0:
        marker = data[position + 1] if position + 1 < len(data) else 0xD9
        if 0xD0 <= marker <= 0xD7:
            restarts += 1
        elif marker not in (0x00, 0xFF):
            return position, restarts
        position += 2 if marker != 0xFF else 1
    return len(data), restarts


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit grey: keep the high byte, as Pillow does for 16-bit RGB
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.mode == "F":  # floats: 0..1 or 0..255, whichever the values say
        values = np.nan_to_num(np.asarray(image))
        scale = 255.0 if values.max(initial=0.0) <= 1.0 else 1.0
        return Image.fromarray(np.clip(values * scale, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].split(" <_io")[0][:200]


@lru_cache(maxsize=64)
def _grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int, float], ...]:
    """All (columns, rows, columns / rows) with min_tiles ≤ columns · rows ≤ max_tiles, smallest first.

    Grids of equal size stay in the order of the set they were collected in: the model card sorts a set by size alone,
    and which of two equally good grids wins depends on it. Order of insertion matters too, so it is the card's.
    """
    found: set[tuple[int, int]] = set()
    for n in range(min_tiles, max_tiles + 1):
        for columns in range(1, n + 1):
            for rows in range(1, n + 1):
                if min_tiles <= columns * rows <= max_tiles:
                    found.add((columns, rows))
    return tuple((c, r, c / r) for c, r in sorted(found, key=lambda grid: grid[0] * grid[1]))


@lru_cache(maxsize=16384)
def choose_grid(width: int, height: int, *, min_tiles: int, max_tiles: int, tile_size: int) -> tuple[int, int]:
    """Columns and rows whose aspect ratio is closest to the picture's: the `dynamic_preprocess` rule of the model card.

    On a tie the later (larger) grid wins only if the picture has more than half of that grid's pixels.
    """
    aspect_ratio = width / height
    area = width * height
    best, best_difference = (1, 1), float("inf")
    for columns, rows, ratio in _grids(min_tiles, max_tiles):
        difference = abs(aspect_ratio - ratio)
        if difference < best_difference:
            best, best_difference = (columns, rows), difference
        elif difference == best_difference and area > 0.5 * tile_size * tile_size * columns * rows:
            best = (columns, rows)
    return best


def num_tiles(width: int, height: int, *, tile_size: int, min_tiles: int, max_tiles: int, thumbnail: bool) -> int:
    """Tiles `tile` would return for a picture of this size, the thumbnail included."""
    columns, rows = choose_grid(width, height, min_tiles=min_tiles, max_tiles=max_tiles, tile_size=tile_size)
    return columns * rows + (1 if thumbnail and columns * rows > 1 else 0)


def tile(image: Image.Image, *, tile_size: int, min_tiles: int, max_tiles: int, thumbnail: bool) -> np.ndarray:
    """Cut an RGB picture into tiles_I3SS uint8, row by row; a thumbnail comes last when there is more than one tile.

    The whole picture is resized (bicubic) to the chosen grid, then cut; the thumbnail is resized from the whole picture
    too: the model card's steps. All but a few values in a million are within 1 of 255 of the card's, none off by
    more than 2.
    """
    width, height = image.size
    columns, rows = choose_grid(width, height, min_tiles=min_tiles, max_tiles=max_tiles, tile_size=tile_size)
    count = columns * rows
    picture = _planes(image)
    resized = _resize(picture, columns * tile_size, rows * tile_size)
    if count == 1:
        return resized
    tiles = np.empty((count + thumbnail, 3, tile_size, tile_size), dtype=np.uint8)
    grid = tiles[:count].reshape(rows, columns, 3, tile_size, tile_size)
    grid[:] = resized.reshape(3, rows, tile_size, columns, tile_size).transpose(1, 3, 0, 2, 4)
    if thumbnail:
        tiles[count] = _resize(picture, tile_size, tile_size)[0]
    return tiles


def _planes(image: Image.Image) -> torch.Tensor:
    """(1, 3, H, W) over the picture's own bytes, channels last in memory: what torch resizes fastest. Read only."""
    import torch  # whoever only looks at headers does without

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of memory it must not write to; it will not
        return torch.from_numpy(np.asarray(image)).permute(2, 0, 1)[None]


def _resize(picture: torch.Tensor, width: int, height: int) -> np.ndarray:
    """(1, 3, height, width) uint8, bicubic and antialiased in integers, in a third of Pillow's time.

    First along the lines, then along the columns, as Pillow did when the published models were trained; from version 13
    on it takes the shorter way first, which moves overshooting pixels of some shapes by up to 25.
    """
    from torch.nn import functional

    resized = functional.interpolate(picture, size=(height, width), mode="bicubic", antialias=True)
    return resized.contiguous().numpy()
