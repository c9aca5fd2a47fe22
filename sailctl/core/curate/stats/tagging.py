"""Captions as words with their parts of speech, by a tokenizer and a tagger that say who they are.

What they say is exactly what the libraries say; it is only asked once of each word. A word is a token with a letter or
a digit, in lower case; punctuation is none. `chinese.py` has the same for Chinese.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import metadata
from itertools import chain
from operator import itemgetter
from typing import Any, Protocol

from sailctl.core.curate.stats.chinese import Chinese
from sailctl.core.errors import MissingExtra, UsageError

OTHER, NOUN, VERB, ADJECTIVE = 0, 1, 2, 3
KINDS = {"noun": NOUN, "verb": VERB, "adj": ADJECTIVE}
TAGGERS = ("textblob", "nltk")  # of English
TAGGED = ("en", "zh")  # languages that have a tagger

Words = tuple[list[str], bytearray]  # the words of a text in order, and the kind of each
_NLTK_DATA = "averaged_perceptron_tagger_eng"
_KNOWN = 1 << 18  # white-space-separated strings that are remembered
_NO_CONTEXT = "a"  # a word that changes nothing of what stands beside it
# A sentence ends behind . ! or ?, closing quotes and brackets included, unless a small letter follows or it was an
# abbreviation or an initial.
_ABBREVIATIONS = "".join(
    rf"(?<!\b{re.escape(word)}\.)"
    for word in ("Mr", "Mrs", "Ms", "Dr", "St", "Mt", "Jr", "Sr", "vs", "No", "Inc", "Co", "Ltd", "e.g", "i.e", "etc")
)
_SENTENCE_END = re.compile(rf"([.!?]{_ABBREVIATIONS}(?<!\b[A-Z]\.)[\"'”’)\]]*)\s+(?=[^a-z\s])")
# Strings of which the tokenizer's answer is known: asking costs more than all the rest of a word.
_PLAIN = re.compile(r"([A-Za-z]+(?:-[A-Za-z]+)*)('s)?([.,;:!?])?")
_FUSED = re.compile("cannot|gimme|gonna|gotta|lemme|wanna", re.IGNORECASE)  # words that it parts
_FIRST, _SECOND = itemgetter(0), itemgetter(1)
_ONLY_CLOSERS = re.compile(r"""[\])}>"'»”’\s]+""")


class Tagger(Protocol):
    """Tokenizer and tagger of a language."""

    def words(self, text: str) -> Words:
        """The words of a text, each with its kind."""
        ...

    def count(self, text: str) -> int:
        """How many words a text has."""
        ...


@lru_cache(maxsize=4)
def tagger_of(language: str, english: str = "textblob") -> Tagger:
    """The tagger of a language ("en" or "zh"). Raises MissingExtra or UsageError where it is not there."""
    if language == "zh":
        return Chinese()
    return TextBlobEnglish() if english == "textblob" else NltkEnglish()


def tools(english: str = "textblob") -> dict[str, dict[str, str]]:
    """Tokenizer and tagger of each language with their versions: what makes numbers comparable.

    Raises MissingExtra where a package is not installed, UsageError for a tagger of English that does not exist.
    """
    if english not in TAGGERS:
        raise UsageError(f"--tagger {english}: should be {' or '.join(TAGGERS)}")
    version = {}
    for package in ("textblob", "nltk", "jieba"):
        try:
            version[package] = metadata.version(package)
        except metadata.PackageNotFoundError as error:
            raise MissingExtra(package, "curate") from error
    nltk, jieba = f"nltk {version['nltk']}", f"jieba {version['jieba']}"
    tagger = f"textblob {version['textblob']} PatternTagger" if english == "textblob" else f"{nltk} {_NLTK_DATA}"
    return {
        "en": {"tokenizer": f"{nltk} NLTKWordTokenizer", "tagger": tagger},
        "zh": {"tokenizer": jieba, "tagger": f"{jieba} posseg"},
    }


def sentences(text: str) -> Iterator[str]:
    """Sentences of an English text; white space within them is single blanks."""
    for line in _SENTENCE_END.sub("\\1\n", text).split("\n"):
        if sentence := " ".join(line.split()):
            yield sentence


def kind_of_penn(tag: str) -> int:
    """Noun (NN, NNS, NNP, NNPS), verb (VB, VBD, VBG, VBN, VBP, VBZ), adjective (JJ, JJR, JJS) or other."""
    return {"NN": NOUN, "VB": VERB, "JJ": ADJECTIVE}.get(tag[:2], OTHER)


def is_word(token: str) -> bool:
    """Whether a token has a letter or a digit."""
    return token.isalnum() or any(map(str.isalnum, token))


class _Tokens:
    """NLTK's word tokenizer, asked once of each white-space-separated string.

    What it makes of such a string depends on nothing beyond it but whether a sentence begins or ends there, save where
    the end is closing quotes and brackets alone: that sentence is given to it whole.
    """

    def __init__(self, then: Callable[[list[str], bool], Any]) -> None:
        """`then` makes of the tokens of a string, and of whether it begins a sentence, what is remembered."""
        try:
            from nltk.tokenize import NLTKWordTokenizer
        except ImportError as error:
            raise MissingExtra("textblob", "curate") from error
        self._tokenize = NLTKWordTokenizer().tokenize
        self._then = then
        self._known: dict[str, Any] = {}
        self._edges: dict[tuple[str, bool, bool], Any] = {}

    def of(self, sentence: str) -> list[Any]:
        """What `then` made of each part of a sentence, in order."""
        parts = sentence.split(" ")
        last = len(parts) - 1
        if _ONLY_CLOSERS.fullmatch(parts[last]):
            return [self._then(self._tokenize(sentence), True)]
        first = self._edge(parts[0], True, last == 0)
        if last == 0:
            return [first]
        known = self._known
        found = list(map(known.get, parts[1:last]))
        if None in found:
            if len(known) >= _KNOWN:
                known.clear()
            for place, part in enumerate(parts[1:last]):
                if found[place] is None:
                    found[place] = known[part] = self._then(self._ask(part, False, False), False)
        return [first, *found, self._edge(parts[last], False, True)]

    def _edge(self, part: str, first: bool, last: bool) -> Any:
        key = (part, first, last)
        if (found := self._edges.get(key)) is None:
            if len(self._edges) >= _KNOWN:
                self._edges.clear()
            found = self._edges[key] = self._then(self._ask(part, first, last), first)
        return found

    def _ask(self, part: str, first: bool, last: bool) -> list[str]:
        if (plain := _PLAIN.fullmatch(part)) and not _FUSED.search(part) and (last or plain[3] != "."):
            return [token for token in plain.groups() if token]
        before, after = "" if first else f"{_NO_CONTEXT} ", "" if last else f" {_NO_CONTEXT}"
        tokens = self._tokenize(before + part + after)
        return tokens[0 if first else 1 : len(tokens) if last else -1]


class TextBlobEnglish:
    """The tagger of TextBlob (from pattern): a lexicon, and rules for what is not in it; no data to be downloaded.

    It looks at a word alone and at whether it begins a sentence.
    """

    def __init__(self) -> None:
        try:
            from textblob.en import parser
        except ImportError as error:
            raise MissingExtra("textblob", "curate") from error
        self._find_tags = parser.find_tags
        self._tokens = _Tokens(self._tagged)

    def words(self, text: str) -> Words:
        """The words of a text, each with its kind."""
        words: list[str] = []
        kinds = bytearray()
        for sentence in sentences(text):
            found = self._tokens.of(sentence)
            words += chain.from_iterable(map(_FIRST, found))
            kinds += b"".join(map(_SECOND, found))
        return words, kinds

    def count(self, text: str) -> int:
        """How many words a text has."""
        return sum(len(some) for sentence in sentences(text) for some, _ in self._tokens.of(sentence))

    def _tagged(self, tokens: list[str], first: bool) -> tuple[tuple[str, ...], bytes]:
        tagged = self._find_tags(tokens if first else [_NO_CONTEXT, *tokens])[0 if first else 1 :]
        kept = [(token.lower(), kind_of_penn(tag)) for token, tag in tagged if is_word(token)]
        return tuple(word for word, _ in kept), bytes(kind for _, kind in kept)


class NltkEnglish:
    """NLTK's averaged perceptron tagger, where its data have been downloaded; it looks at the words around a word."""

    def __init__(self) -> None:
        self._tokens = _Tokens(lambda tokens, _: tokens)
        from nltk.tag import PerceptronTagger

        try:
            self._tag = PerceptronTagger().tag
        except LookupError:
            raise UsageError(
                f"--tagger nltk: NLTK's data {_NLTK_DATA} are not there; get them with: python -m nltk.downloader "
                f"{_NLTK_DATA}, set NLTK_DATA to their folder, or leave --tagger out"
            ) from None

    def words(self, text: str) -> Words:
        """The words of a text, each with its kind."""
        words: list[str] = []
        kinds = bytearray()
        for sentence in sentences(text):
            tokens = [token for some in self._tokens.of(sentence) for token in some]
            for token, tag in self._tag(tokens):
                if is_word(token):
                    words.append(token.lower())
                    kinds.append(kind_of_penn(tag))
        return words, kinds

    def count(self, text: str) -> int:
        """How many words a text has; nothing is tagged for it."""
        return sum(
            is_word(token) for sentence in sentences(text) for some in self._tokens.of(sentence) for token in some
        )
