"""The cells of a benchmark's table: which rows belong together, and which make no sense."""

from __future__ import annotations

from collections.abc import Mapping

from sailctl.core.data.cells import cell

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
