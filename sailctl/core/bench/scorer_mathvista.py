"""MathVista's verdicts for each question, by VLMEvalKit's own rule; loaded by `scorer_script.py` in its process."""

from __future__ import annotations

import ast
import re
from typing import Any


def add_hits(rows: dict[str, dict[str, Any]], storage: str) -> None:
    """The kit keeps no verdict for each question: ask its rule for it, and whether the extracted answer can be read."""
    from vlmeval.dataset.utils.mathvista import post_check
    from vlmeval.smp import load

    frame = load(storage)
    for position in range(len(frame)):
        line = frame.iloc[position]
        row = rows[str(line["index"])]
        row["hit"] = "1" if post_check(line, prefetch=False) else "0"
        row["readable"] = _is_readable(line, line["res"])


def without_judge(frame: Any) -> dict[str, dict[str, Any]]:
    """MathVista graded by the kit's rule on what can be extracted from answers without a judge, nothing guessed.

    First the kit's own prefetch; then, for a number, what stands after the last "answer is" or "=", or the only number
    there is. Two numbers and no such words are no answer.
    """
    from vlmeval.dataset.utils.mathvista import post_check

    rows: dict[str, dict[str, Any]] = {}
    for position in range(len(frame)):
        line = frame.iloc[position].copy()
        found = post_check(line, prefetch=True) or _number_in(line["prediction"], line["answer_type"])
        line["res"] = found
        readable = bool(found) and _is_readable(line, found)
        hit = readable and post_check(line, prefetch=False)
        rows[str(line["index"])] = {"res": str(found), "log": "", "hit": "1" if hit else "0", "readable": readable}
    return rows


def _number_in(text: str, kind: str) -> str:
    if kind not in ("integer", "float"):
        return ""
    number = r"-?\d[\d,]*(?:\.\d+)?"
    told = re.findall(rf"(?:answer is|answer:|=)\W{{0,4}}?({number})", text, re.IGNORECASE)
    numbers = told[-1:] or re.findall(number, text)
    return numbers[0].replace(",", "") if len(numbers) == 1 else ""


def _is_readable(line: Any, found: Any) -> bool:
    """Whether an extracted answer is of the kind the question asks for."""
    from vlmeval.utils import can_infer

    if line["question_type"] == "multi_choice":
        choices = {chr(65 + place): text for place, text in enumerate(ast.literal_eval(line["choices"]))}
        return bool(can_infer(found, choices))
    if line["answer_type"] in ("integer", "float"):
        try:
            return (int if line["answer_type"] == "integer" else float)(found) is not None and found == found
        except (ValueError, TypeError, OverflowError):
            return False
    return bool(str(found).strip()) and str(found) != "nan"
