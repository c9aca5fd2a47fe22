"""The cells of a benchmark's table: pictures in them, and which rows belong together."""

from __future__ import annotations

import ast
from collections.abc import Mapping

import pybase64

from sailctl.core.errors import SampleError

LONGEST_REFERENCE = 64  # characters of an `image` cell that may be another row's index; the smallest picture has more
YES_NO = ("mme", "hallusion", "f1")


def unit_of(metric: str, index: str, cells: Mapping[str, str]) -> str:
    """A question's unit: the rotations of a circular one, the pair about a picture of MME, a set of HallusionBench."""
    if metric == "mme":
        return f"{cell(cells, 'category')}|{cell(cells, 'image_path')}"
    if metric == "circular_accuracy" and index.isdecimal():
        return cell(cells, "g_index") or str(int(index) % 10**6)
    if metric == "hallusion" and index.count("_") >= 5:
        return f"{cell(cells, 'l2-category')}_{index.split('_')[3]}"
    return index


def wrong_row(metric: str, index: str, cells: Mapping[str, str]) -> str | None:
    """What makes a row's score meaningless whatever is answered, in words; None where nothing does."""
    answer = cells.get("answer", "").strip()
    if metric in YES_NO and answer not in ("Yes", "No"):
        return f"answer is {answer[:40]!r}, should be Yes or No"
    if metric == "hallusion" and index.count("_") < 5:
        return f"index is {index[:40]!r}, should be VD_category_n_set_figure_question"
    return None


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
