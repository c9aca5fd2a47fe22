"""What a judge said, as a value: scores, yes or no, a letter, which of two, an object; None where it is not clear.

Pure functions that guess nothing: two verdicts that differ, a range, a score on another scale and a number out of range
are no answer. Full-width forms, emphasis and a reasoning model's thoughts are looked through first.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

_NUMBER = r"(?<![\d.,])(\d{1,4}(?:\.\d{1,4})?)(?![\d]|\.\d)"
_SAYS = r"[\"']?\s*(?:\([^()\n]{0,40}\)\s*)?(?:[:=]|\bis\b|\bof\b|为|是)?\s*[\"']?\s*"
_SCORE_LABEL = r"(?:\bscore|\brating|\bgrade|评分|得分|分数|打分)"
_SCALE = re.compile(  # the scale itself, which is no score
    r"满分\s*(?:为|是|:)?\s*\d+\s*分?"
    r"|(?i:\b(?:max(?:imum)?|min(?:imum)?|full|highest|lowest)(?:\s+possible)?\s+(?:score|rating)\s*(?:is|of|:|=)?\s*\d+)"
    r"|(?i:\b(?:scale|range|score)s?\s*(?:of|from|is|:)?\s*\d+\s*(?:-|–|to)\s*\d+(?=\s*[,:)]))"
)
_RANGE = r"(?:-|–|—|~|\bto\b|\bor\b|至|到|或)"
_UNCLEAR = re.compile(rf"\s*(?:{_RANGE}\s*\d|%|[:)]\s*\d)|,\d")
_UNCLEAR_BEFORE = re.compile(rf"\d\s*{_RANGE}\s*\Z")
_OUT_OF = re.compile(r"\s*(?:/|\bout of\b)\s*(\d+)(?!\d|\.\d)")
_MAX_BRACES = 1000  # looked at in search of an object


def score(text: str, low: float = 1, high: float = 10) -> float | None:
    """One score of a scale: "Score: 7/10", "**8**", {"score": 8}, "评分：8分"."""
    said = _SCALE.sub(" ", _plain(text))
    patterns = (
        f"(?i:{_SCORE_LABEL}){_SAYS}{_NUMBER}",
        rf"(?m:^\W*?{_NUMBER}(?:\s*/\s*\d+)?\s*\.?\W*$)",
        rf"{_NUMBER}(?=\s*(?:/|out of)\s*{re.escape(f'{high:g}')}(?!\d|\.\d))",
        rf"{_NUMBER}(?=\s*分(?!钟|之|米|别|割|布|类|析|辨|数))",
    )
    found = {_rated(said, match, low, high) for pattern in patterns for match in re.finditer(pattern, said)}
    return found.pop() if len(found) == 1 else None


def scores(text: str, names: Mapping[str, Sequence[str]], low: float = 1, high: float = 10) -> dict[str, float] | None:
    """Several scores of one scale by name, as an object or as labelled lines; `names` gives what each may be called."""
    rated: dict[str, float] = {}
    given = json_object(text, list(names))
    said = _SCALE.sub(" ", _plain(text))
    for name, aliases in names.items():
        if given is not None:
            found = {_value(given[name], low, high)}
        else:
            called = "|".join(map(re.escape, sorted({name, *aliases}, key=len, reverse=True)))
            pattern = f"(?i:{called}){_SAYS}{_NUMBER}"
            found = {_rated(said, match, low, high) for match in re.finditer(pattern, said)}
        only = found.pop() if len(found) == 1 else None
        if only is None:
            return None
        rated[name] = only
    return rated


def json_object(text: str, keys: Sequence[str]) -> dict[str, Any] | None:
    """The one object with all of `keys` in a text, fenced or not; None for none, and for two that differ.

    An object that says one key twice, or holds what is no JSON (NaN), does not count.
    """
    said = _spoken(text)
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse)
    found: list[dict[str, Any]] = []
    position = 0
    for _ in range(_MAX_BRACES):
        if (position := said.find("{", position)) < 0:
            break
        try:
            value, position = decoder.raw_decode(said, position)
        except (ValueError, RecursionError):
            position += 1
            continue
        if all(key in value for key in keys) and value not in found:
            found.append(value)
    return found[0] if len(found) == 1 else None


_YES, _NO = r"\byes\b|\btrue\b|是的|是|对|正确|有", r"\bno\b|\bfalse\b|不是|否|不对|不正确|错误|没有|不|无"
_WORD = rf"(?P<yes>{_YES})|(?P<no>{_NO})"
_ENDS = r"(?=$|[\s,.;:!?\"')\]}。、…]|\b[^\u4e00-\u9fff])"  # 是 is a verdict, 是否 a question
_JOINS = r"\s*(?:,|/|&|\||;|、|\band\b|\bor\b|\bbut\b|和|或|但)+\s*"
_VERDICTS = tuple(
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        rf"\A\W*(?:{_WORD}){_ENDS}",
        rf"^\W*(?:{_WORD})\W*$",
        r"(?:\banswer|\bverdict|\bjudge?ment|\bconclusion|\bdecision|答案|回答|判断|结论)[\"']?\s*(?:[:=]|\bis\b|为|是)"
        rf"\s*[\"']?\s*(?:{_WORD}){_ENDS}",
    )
)


def yes_no(text: str) -> bool | None:
    """Yes or no: said first, on a line of its own or as the answer; "yes and no" is neither."""
    said = _plain(text)
    found: set[bool] = set()
    for pattern in _VERDICTS:
        for match in pattern.finditer(said):
            verdict = match["yes"] is not None
            found.add(verdict)
            if re.compile(rf"{_JOINS}(?:{_NO if verdict else _YES}){_ENDS}", re.IGNORECASE).match(
                said, match.end("yes" if verdict else "no")
            ):
                return None
    return found.pop() if len(found) == 1 else None


def letter(text: str, letters: str = "ABCDEF") -> str | None:
    """The letter of one option: alone, at the start ("B) …"), on a line of its own or as the answer."""
    said = _plain(text)
    one = f"([{re.escape(letters)}])"
    patterns = (
        rf"\A\W*{one}(?=\s*[).:、\]])",
        rf"(?m:^\W*{one}\W*$)",
        r"(?i:\banswer|\bcorrect (?:option|choice)|答案|选择|选)[\"']?\s*(?:[:=]|\bis\b|应?为|应?是|选)?\s*[\"'(\[]*\s*"
        rf"{one}(?=\s*(?:$|[).,:;!\]\"'}}/&、。\n]|-\s|\((?!\w)|\b(?:because|since|and|or)\b|[\u4e00-\u9fff]))",
    )
    found: set[str] = set()
    for match in (match for pattern in patterns for match in re.finditer(pattern, said)):
        found.add(match[1])
        if re.compile(rf"[)\]]?\s*(?:,|/|&|\+|、|\band\b|\bor\b|和|或)+\s*\(?[{re.escape(letters)}]\b").match(
            said, match.end(1)
        ):
            return None
    return found.pop() if len(found) == 1 else None


_WHICH = {
    "first": ("1", "first", "former", "caption 1", "caption_1", "first caption", "一", "第一段", "前者", "描述1"),
    "second": ("2", "second", "latter", "caption 2", "caption_2", "second caption", "二", "第二段", "后者", "描述2"),
    "same": ("same", "the same", "tie", "equal", "相当", "一样", "相同", "平局"),
}
_SIGNS = re.compile(r"(?<!\d)([12])\s*([<>=])\s*([12])(?!\d)")
_BETTER = re.compile(
    r"(?i:\bcaption[ _]?([12])\s+is\s+(?:clearly |significantly |slightly |much )?better\b)"
    r"|(?i:\b(?:better|winner|verdict|answer|gsb)[\"']?\s*(?:[:=]|\bis\b)\s*[\"']?\s*(?:caption[ _]?)?"
    r"(1|2|first|second|same|tie)(?![\w.>=<])(?!\s*[<>=]))"
    r"|(?:第([一二])段|描述\s*([12]))\s*(?:明显)?更好"
    r"|(?i:\b(they are the same|it is a tie)\b)|(两者相当|两段相当|不相上下)"
)


def preference(text: str) -> str | None:
    """Which of two is better, "first", "second" or "same": {"better": "1"}, "1 > 2", "Caption 2 is better", "相当"."""
    if "better" in (given := json_object(text, ["better"]) or {}):
        return _which(given["better"])
    said = _plain(text)
    if (whole := _which(said)) is not None:
        return whole
    found: set[str | None] = set()
    for match in _SIGNS.finditer(said):
        left, sign, right = match.groups()
        winner = "same" if sign == "=" else {("1", ">"): "first", ("2", "<"): "first"}.get((left, sign), "second")
        found.add(winner if left != right else None)
    for match in _BETTER.finditer(said):
        word = next(group for group in match.groups() if group)
        same = word.lower() in ("they are the same", "it is a tie") or word in ("两者相当", "两段相当", "不相上下")
        found.add("same" if same else _which(word))
    return found.pop() if len(found) == 1 else None


def _which(given: Any) -> str | None:
    """One of `_WHICH` for a word that is in it."""
    if isinstance(given, bool) or not isinstance(given, str | int):
        return None
    word = str(given).strip(" \t\n.。\"'()[]").lower()
    return next((name for name, words in _WHICH.items() if word in words), None)


def _rated(said: str, match: re.Match[str], low: float, high: float) -> float | None:
    """The number of a match; None where what stands around it makes it something else than a score of the scale."""
    start, end = match.span(1)
    if _UNCLEAR.match(said, end) or _UNCLEAR_BEFORE.search(said[max(0, start - 8) : start]):
        return None
    if (out_of := _OUT_OF.match(said, end)) and float(out_of[1]) != high:
        return None
    value = float(match[1])
    return value if low <= value <= high else None


def _value(given: Any, low: float, high: float) -> float | None:
    """A score as an object holds it: a number, or a text of one."""
    if isinstance(given, str):
        return score(given, low, high)
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    return float(given) if low <= given <= high else None


def _spoken(text: str) -> str:
    """What follows a reasoning model's thoughts; nothing where these do not end."""
    _, ended, rest = text.rpartition("</think>")
    if ended:
        return rest
    return "" if "<think>" in rest else rest


def _plain(text: str) -> str:
    """Without emphasis and boxes, full-width forms as plain ones."""
    said = unicodedata.normalize("NFKC", _spoken(text))
    said = re.sub(r"\\boxed\{(?:\\text\{)?([^{}]*)\}?\}", r"\1", said)
    return re.sub(r"[*`]+|\b__|__\b", "", said)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _refuse(name: str) -> Any:
    raise ValueError(name)
