"""What a caption says, taken apart by rule: objects, their attributes, relations; and the F1 between two captions.

An approximation of CAPTURE (Dong et al. 2024, arXiv 2405.19092), which has a parser's model find these elements,
matches them by a word net and embeddings, and weighs their F1 5:5:2. Here closed lists (`elements.yaml`) and endings
tell what a word is, light stemming and few synonyms when two are the same; what is in no list is taken for an object.
Its numbers therefore stand beside no published one; that it ranks captions is what the tests hold it to. English and
Chinese.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from sailctl.core.schema.load import read_yaml

LISTS = Path(__file__).with_name("elements.yaml")
WEIGHTS = {"objects": 5, "attributes": 5, "relations": 2}  # CAPTURE, section 3
_SENTENCES = re.compile(r"(?:[.!?;](?=\s|$)|[。！？；\n])")
_ENGLISH = re.compile(r"[a-z]+(?:['’-][a-z]+)*|\d+|[,:()]")
_PHRASES = re.compile(r"\b(?:next to|in front of|on top of)\b")
_DETERMINERS = ("a", "an", "the", "his", "her", "its", "their", "this", "that", "these", "those", "several", "some")
_MEASURES = "个只名位辆张条件座棵把本朵块片扇台艘架匹头双对群排杯盘瓶碗支根颗栋间层幅盏种些"
_COUNTED = re.compile(rf"([一二两三四五六七八九十几多数]+|\d+|[这那每某])[{_MEASURES}]")
_HAN = re.compile(r"[\u3400-\u9fff]+|[A-Za-z0-9]+|[，、：（）,:()]")

Token = tuple[str, str]  # kind (object, attribute, relation, stop, break) and stem
Elements = Mapping[str, frozenset[tuple[str, ...]]]


@dataclass(slots=True)
class _Sentence:
    """Elements as they are found from left to right."""

    objects: set[tuple[str, ...]]
    attributes: set[tuple[str, ...]]
    relations: set[tuple[str, ...]]
    head: str = ""  # the last object
    is_open: bool = False  # whether the next object belongs to the same run of nouns
    waiting: tuple[str, ...] = ()  # attributes that no object has followed yet
    relation: tuple[str, str] | None = None  # the object before a relation, and the relation

    def take(self, kind: str, stem: str, follows: str) -> None:
        """One token; `follows` is the next one's kind."""
        if kind == "object":
            self.objects.add((stem,))
            if follows == "object":  # the head of a run of nouns comes last
                return
            self.attributes |= {(stem, one) for one in self.waiting}
            if self.relation is not None:
                self.relations.add((self.relation[0], self.relation[1], stem))
            self.head, self.waiting, self.relation = stem, (), None
        elif kind == "attribute":
            self.waiting += (stem,)
        elif kind in ("relation", "break"):
            if kind == "relation" or follows != "attribute":  # "long, curly hair" goes on
                self.settle()
            if kind == "relation" and self.head:
                if self.relation is not None:
                    self.relations.add((*self.relation, ""))
                self.relation = (self.head, stem)

    def settle(self) -> None:
        """Attributes that stand behind their object ("the dog is brown") go to it."""
        if self.head:
            self.attributes |= {(self.head, one) for one in self.waiting}
            self.waiting = ()

    def end(self) -> None:
        """No object follows any more."""
        self.settle()
        if self.relation is not None:
            self.relations.add((*self.relation, ""))


@lru_cache(maxsize=4096)  # references come again with every model that is scored
def elements(caption: str, language: str) -> Elements:
    """Objects (name), attributes (object, attribute) and relations (object, relation, object or "") of a caption."""
    found = _Sentence(set(), set(), set())
    for sentence in _SENTENCES.split(caption):
        part = _Sentence(found.objects, found.attributes, found.relations)
        for (kind, stem), (follows, _) in pairwise([*_tokens(sentence, language), ("break", "")]):
            part.take(kind, stem, follows)
        part.end()
        found = part
    return {
        "objects": frozenset(found.objects),
        "attributes": frozenset(found.attributes),
        "relations": frozenset(found.relations),
    }


def compare(candidate: str, reference: str, language: str) -> dict[str, float]:
    """F1 of each kind of element, 0 to 1; a kind that neither caption has is left out."""
    said, shown = elements(candidate, language), elements(reference, language)
    same = _same_chinese if language == "zh" else str.__eq__
    return {
        kind: 2 * _matches(said[kind], shown[kind], same) / (len(said[kind]) + len(shown[kind]))
        for kind in WEIGHTS
        if said[kind] or shown[kind]
    }


def f1(found: Mapping[str, float]) -> float:
    """The weighted mean of `compare`'s values, 0 for none."""
    weight = sum(WEIGHTS[kind] for kind in found)
    return sum(WEIGHTS[kind] * value for kind, value in found.items()) / weight if weight else 0.0


def _matches(
    said: frozenset[tuple[str, ...]], shown: frozenset[tuple[str, ...]], same: Callable[[str, str], bool]
) -> int:
    """How many elements are in both, each matched once; equal ones first."""
    equal = said & shown
    rest = sorted(shown - equal)
    count = len(equal)
    for one in sorted(said - equal):
        near = next((other for other in rest if all(map(same, one, other))), None)
        if near is not None:
            rest.remove(near)
            count += 1
    return count


def _same_chinese(left: str, right: str) -> bool:
    """Chinese puts the head last: 狗 and 小狗 are one object, as far as this goes."""
    return left == right or bool(left and right and (left.endswith(right) or right.endswith(left)))


def _tokens(sentence: str, language: str) -> Iterator[Token]:
    return _chinese(sentence) if language == "zh" else _english(sentence)


def _english(sentence: str) -> Iterator[Token]:
    lists = _lists()["en"]
    before = ""
    joined = _PHRASES.sub(lambda match: match[0].replace(" ", "-"), sentence.casefold())
    for word in _ENGLISH.findall(joined):
        if not word[0].isalnum():
            yield "break", word
            continue
        word = word.replace("’", "'").removesuffix("'s")
        is_described, before = before in _DETERMINERS, word
        stem = _stem(word)
        stem = lists["synonyms"].get(stem, stem)
        is_listed = word in lists["attribute"] or word in lists["object"]
        if word in lists["stop"] or stem in lists["stop"] or (word.endswith("ly") and not is_listed):
            yield "stop", stem
        elif word in lists["preposition"]:
            yield "relation", word
        elif word.isdigit() or word in lists["attribute"] or stem in lists["attribute"]:
            yield "attribute", stem
        elif word in lists["object"] or stem in lists["object"]:
            yield "object", stem
        elif is_described and word.endswith("ing"):  # "a smiling woman"
            yield "attribute", word
        elif (verb := _verb(word)) in _verbs() or (word.endswith("ing") and len(word) > 5):
            yield "relation", verb
        elif re.search(r"(?:.{3}ed|ful|less|ous|ive|able|ible|ish|-.*ed)$", word):
            yield "attribute", word
        else:
            yield "object", stem


def _stem(word: str) -> str:
    """Singular of a noun."""
    irregular: dict[str, str] = _lists()["en"]["irregular"]
    if word in irregular:
        return irregular[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if re.search(r"(?:s|x|z|ch|sh)es$", word):
        return word[:-2]
    return word[:-1] if len(word) > 3 and re.search(r"[^sui]s$", word) else word


def _verb(word: str) -> str:
    """A verb without its ending, a doubled consonant and a last e: sit, sits, sitting; ride, riding."""
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) > 2:
            word = word.removesuffix(ending)
            break
    word = word[:-1] if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "sl" else word
    return word.removesuffix("e")


def _chinese(sentence: str) -> Iterator[Token]:
    for part in _HAN.findall(_COUNTED.sub(lambda match: _counted(match[1]), sentence)):
        if part[0] in "，、：（）,:()":
            yield "break", part
        elif part[0].isascii():
            yield ("attribute" if part.isdigit() else "object"), part.casefold()
        else:
            yield from _segmented(part)


def _counted(number: str) -> str:
    """One of something, or this one, is no attribute of it; a measure word parts two words either way."""
    return " " if number in "一这那每某" else f" {number} "


def _segmented(text: str) -> Iterator[Token]:
    """Words of the lists, the longest first; what stands between two of them is an object."""
    kinds, longest = _chinese_words()
    unknown, position = "", 0
    while position < len(text):
        width = next((w for w in range(longest, 0, -1) if text[position : position + w] in kinds), 0)
        word = text[position : position + width]
        if width:
            if unknown:
                yield _named(unknown)
                unknown = ""
            yield _named(word) if kinds[word] == "object" else (kinds[word], _plain(word))
            position += width
        else:
            unknown += text[position]
            position += 1
    if unknown:
        yield _named(unknown)


def _named(word: str) -> Token:
    synonyms: dict[str, str] = _lists()["zh"]["synonyms"]
    word = word[:-1] if len(word) > 1 and word[-1] in "子们" else word
    return "object", synonyms.get(word, word)


def _plain(word: str) -> str:
    """白色 and 白, 坐在 and 坐着, are one."""
    return word[:-1] if len(word) > 1 and word[-1] in "色在着的" else word


@cache
def _lists() -> dict[str, dict[str, Any]]:
    """The lists by language and kind: sets of words, or a word's other form."""
    told: dict[str, dict[str, Any]] = read_yaml(LISTS, "word lists")
    return {
        language: {
            kind: words if isinstance(words, dict) else frozenset(str(word) for word in words.split())
            for kind, words in lists.items()
        }
        for language, lists in told.items()
    }


@cache
def _verbs() -> frozenset[str]:
    return frozenset(_verb(word) for word in _lists()["en"]["verb"])


@cache
def _chinese_words() -> tuple[dict[str, str], int]:
    lists = _lists()["zh"]
    kinds = {word: kind for kind in ("stop", "relation", "attribute", "object") for word in lists[kind]}
    return kinds, max(map(len, kinds))
