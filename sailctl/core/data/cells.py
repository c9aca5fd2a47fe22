"""Pictures in the cells of a benchmark's table, as VLMEvalKit has them: base64, lists of such, repeats, paths."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from pathlib import Path

import pybase64

from sailctl.core.errors import SampleError

LONGEST_REFERENCE = 64  # characters of an `image` cell that may be another row's index; the smallest picture has more


def cell(cells: Mapping[str, str], column: str) -> str:
    """A cell without outer white space, "" where it is absent."""
    text = cells.get(column, "").strip()
    return "" if text == "nan" else text  # as pandas writes an absent cell in some files


def is_shown(cells: Mapping[str, str]) -> bool:
    """Whether a row has a picture, or the name of one."""
    return any(cell(cells, column) for column in ("image", "image_path"))


def is_reference(cell: str) -> bool:
    """Whether an `image` cell is the index of the row whose picture it repeats."""
    return 0 < len(cell) <= LONGEST_REFERENCE and not cell.startswith("[")


def listed(cell: str) -> list[str]:
    """A cell's entries: those of a list written as Python writes one, else the cell itself. Raises SampleError."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return [cell]
    try:
        found = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(entry, str) for entry in found):
        raise SampleError("bad_image", "a list of images that is not a list of texts")
    return found


def decoded(text: str) -> bytes:
    """A picture's bytes from base64. Raises SampleError "bad_image"."""
    try:
        return pybase64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise SampleError("bad_image", f"{len(text)} characters that are not base64 ({error})") from None


def pictures(
    cells: Mapping[str, str], repeated: Callable[[str], Mapping[str, str] | None], file: Callable[[str], bytes]
) -> tuple[bytes, ...]:
    """The encoded pictures of a row, in the row's order.

    `repeated` gives the cells of the row of an index, None where there is none; `file` reads an `image_path`. Raises
    SampleError.
    """
    shown = cell(cells, "image")
    if not shown:
        return tuple(file(name) for name in listed(cell(cells, "image_path")) if name)
    if is_reference(shown):
        if (other := repeated(shown)) is None:
            raise SampleError("bad_image", f"image {shown!r} is neither base64 nor another row's index")
        shown = cell(other, "image")
        if not shown or is_reference(shown):
            raise SampleError("no_image", "the row whose image it repeats has none of its own")
    return tuple(decoded(text) for text in listed(shown))


def picture_file(name: str, table: Path, dataset: str) -> bytes:
    """A picture named by a path, looked for where VLMEvalKit keeps a dataset's pictures and beside the table.

    Raises SampleError.
    """
    root = table.parent.resolve()
    for folder in (root / "images" / dataset, root / "images", root):
        path = (folder / name).resolve()
        if not path.is_relative_to(root):
            raise SampleError("unsafe_path", f"image_path {name!r} leaves {root}")
        if path.is_file():
            try:
                return path.read_bytes()
            except OSError as error:
                raise SampleError("unreadable", f"{path}: {error.strerror}") from None
    raise SampleError("no_image", f"image_path {name!r}: no such file in {root} or {root / 'images'}")
