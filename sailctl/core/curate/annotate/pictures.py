"""Pictures as the page gets them: decoded and encoded anew, whatever format they have; the last few are kept."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from sailctl.core.errors import DataError, SampleError
from sailctl.core.images import decode
from sailctl.core.schema.data import DataConfig

LONGEST_SIDE = 4096  # pixels; what is larger is made smaller
KEPT = 24
_JPEG = b"\xff\xd8\xff"
_LOSSLESS_PIXELS = 4_000_000  # of anything that is no JPEG: text on a scan stays crisp


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture of so many pixels, or the problem with it."""

    data: bytes = b""
    kind: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


class Pictures:
    """The pictures of items by number; `read(number)` gives their bytes. Threads may ask at once."""

    def __init__(self, read: Callable[[int], tuple[bytes, ...]]) -> None:
        self._read = read
        self._kept: OrderedDict[int, tuple[Picture, ...]] = OrderedDict()
        self._turn = threading.Lock()  # sources are read, and large pictures decoded, one at a time

    def of(self, number: int) -> tuple[Picture, ...]:
        """The pictures of an item, or one that says why there are none."""
        with self._turn:
            if number not in self._kept:
                try:
                    self._kept[number] = tuple(map(shown, self._read(number)))
                except SampleError as error:
                    return (Picture(problem=str(error)),)
                except DataError as error:
                    return (Picture(problem=str(error)),)
            self._kept.move_to_end(number)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return self._kept[number]


def shown(data: bytes) -> Picture:
    """A picture as a browser can show it: the pixels that training sees, without what else the file holds."""
    from PIL import Image

    limit = DataConfig().max_image_pixels
    try:
        image = decode(data, max_pixels=limit)
    except SampleError as error:
        return Picture(problem=str(error))
    if max(image.size) > LONGEST_SIDE:
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    width, height = image.size
    buffer = io.BytesIO()
    if data.startswith(_JPEG) or width * height > _LOSSLESS_PIXELS:
        image.save(buffer, "JPEG", quality=95, subsampling=0)
        return Picture(buffer.getvalue(), "image/jpeg", width, height)
    image.save(buffer, "PNG", compress_level=1)
    return Picture(buffer.getvalue(), "image/png", width, height)
