"""Which column or member of a public dataset holds the texts that answers are compared with, and the question.

Names as the datasets have them: DetailCaps-4870 on the hub (`GT_Caption_*`, with its picture in `binary`), SynthDog
(`ground_truth`, JSON with `gt_parse.text_sequence`), IDL-WDS (`pages`, each with its lines), DocStruct4M (`messages`),
img2dataset (`txt`). What is none of these names its texts in `references`. Where the bytes lie is `layouts.py`'s
business.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sailctl.core.errors import SampleError

OWN_METRICS = ("caption", "element_f1", "ocr")  # what sailctl scores itself, and reads from other layouts than tables
PICTURES = ("image", "binary", "images", "picture", "img", "jpg", "jpeg", "png", "webp", "tif", "tiff")
INDEXES = ("index", "id", "__key__")
GIVEN, CAPTIONS = "references", "gt_caption"
DETAILCAPS = ("gt_caption_gpt4o", "gt_caption_gpt4v", "gt_caption_gemini15pro")
DIALOGUES = ("messages", "conversations")
TEXTS = ("answer", "txt", "caption", "text", "label", "ocr")
FIELDS = (GIVEN, "ground_truth", *DIALOGUES, "pages", "question", "split", *TEXTS)
LOOKED_FOR = "references, GT_Caption_…, ground_truth, messages, conversations, pages, " + ", ".join(TEXTS)
_MARKER = re.compile(r"<\|?image\|?(?:\s*\d+)?>")


def is_field(name: str) -> bool:
    """Whether a column or key is one that is read."""
    return name in FIELDS or name.casefold().startswith(CAPTIONS)


def references_of(record: Mapping[str, Any], metric: str) -> list[str]:
    """The references of a row: of the fields in the order of `LOOKED_FOR` the first that is there.

    An empty one is a reference of `ocr` (an empty page), none of a caption. Raises SampleError "no_answer" for none.
    """
    for found in _candidates(record):
        texts = found if metric == "ocr" else [text for text in found if text.strip()]
        if texts:
            return texts
    raise SampleError("no_answer", f"no reference; looked for {LOOKED_FOR}")


def question_of(record: Mapping[str, Any]) -> str:
    """What the dataset itself asks: `question`, or the first user turn without its picture markers; else empty."""
    if isinstance(question := record.get("question"), str) and question.strip():
        return question
    return _MARKER.sub("", next(_said(record, "user", "human"), "")).strip()


def cells_of(record: Mapping[str, Any], index: str, metric: str) -> dict[str, str]:
    """A record as a table would hold it: index, question where it asks one, answer (the first reference), references.

    Raises SampleError "no_answer".
    """
    references = [_encodable(text) for text in references_of(record, metric)]
    question = _encodable(question_of(record))
    cells = {"index": index, **({"question": question} if question else {}), "answer": references[0]}
    return {**cells, "references": json.dumps(references, ensure_ascii=False)}


def _encodable(text: str) -> str:
    """A text without half surrogate pairs, which JSON may hold and no file or server takes."""
    return text.encode("utf-8", "replace").decode()


def listed(text: str) -> list[str] | None:
    """The texts of a JSON or Python list, None for what is no such list."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return found if isinstance(found, list) and all(isinstance(one, str) for one in found) else None


def _candidates(record: Mapping[str, Any]) -> Iterator[list[str]]:
    given = record.get(GIVEN)
    if isinstance(given, str):
        given = (listed(given) or [given]) if given.strip() else []
    yield _texts(given)
    captions = {name.casefold(): name for name in record if name.casefold().startswith(CAPTIONS)}
    order = [*(one for one in DETAILCAPS if one in captions), *sorted(captions.keys() - set(DETAILCAPS))]
    yield [text for one in order for text in _texts(record[captions[one]]) if text.strip()]
    yield _ground_truth(record.get("ground_truth"))
    yield list(_said(record, "assistant", "gpt"))[:1]
    yield _first_page(_parsed(record.get("pages")))
    for name in TEXTS:
        yield _texts(record.get(name))


def _texts(value: Any) -> list[str]:
    """A text or number as one text, a list as its texts; anything else as none."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [str(value)]
    return [one for one in value if isinstance(one, str)] if isinstance(value, Sequence) else []


def _parsed(value: Any) -> Any:
    """JSON where a text holds an object or a list, else the value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _ground_truth(value: Any) -> list[str]:
    value = _parsed(value)
    if not isinstance(value, Mapping):
        return _texts(value)
    parses = value.get("gt_parses") or [value.get("gt_parse")]
    return [text for one in parses if isinstance(one, Mapping) for text in _texts(one.get("text_sequence"))]


def _said(record: Mapping[str, Any], *roles: str) -> Iterator[str]:
    """The texts of one side of a dialogue."""
    for name in DIALOGUES:
        turns = _parsed(record.get(name))
        for turn in turns if isinstance(turns, Sequence) and not isinstance(turns, str) else ():
            if isinstance(turn, Mapping) and (turn.get("role") or turn.get("from")) in roles:
                text = turn.get("content") if turn.get("content") is not None else turn.get("value")
                if isinstance(text, str):
                    yield text


def _first_page(pages: Any) -> list[str]:
    """The lines of the first page, which is the one a multi-page TIFF shows."""
    if not isinstance(pages, Sequence) or isinstance(pages, str) or not pages or not isinstance(pages[0], Mapping):
        return []
    page = pages[0]
    for name in ("lines", "text", "words"):
        found = page.get(name)
        found = found.get("text") if isinstance(found, Mapping) else found
        if isinstance(found, str):
            return [found]
        if isinstance(found, Sequence):
            return ["\n".join(one for one in found if isinstance(one, str))]
    return []
