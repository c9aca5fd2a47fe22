"""Which language a text is in: the script decides where it can, common words and a trained model where it cannot.

Codes are those of ISO 639-1; "und" is a text without letters, or too short to tell. The model (py3langid, bundled with
its package) is asked of Latin, Cyrillic, Arabic and Devanagari text only, of English only where no common word tells
it.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from functools import lru_cache
from typing import Any

from sailctl.core.errors import MissingExtra

UNDETERMINED = "und"
# Characters that make about one word: a Chinese caption may name an English brand and stay Chinese.
_PER_WORD = {"han": 1.6, "kana": 2.0, "hangul": 2.5, "thai": 4.0}
_LATIN_PER_WORD = 5.0
# First and last code point of the scripts that captions are met in; what is not listed counts as Latin if Latin.
_RANGES = (
    (0x0041, 0x024F, "latin"), (0x1E00, 0x1EFF, "latin"), (0xFF21, 0xFF5A, "latin"), (0x0370, 0x03FF, "greek"),
    (0x0400, 0x052F, "cyrillic"), (0x0530, 0x058F, "armenian"), (0x0590, 0x05FF, "hebrew"), (0x0600, 0x077F, "arabic"),
    (0x08A0, 0x08FF, "arabic"), (0x0900, 0x097F, "devanagari"), (0x0980, 0x09FF, "bengali"),
    (0x0A80, 0x0AFF, "gujarati"), (0x0B80, 0x0BFF, "tamil"), (0x0C00, 0x0C7F, "telugu"), (0x0E00, 0x0E7F, "thai"),
    (0x10A0, 0x10FF, "georgian"), (0x1100, 0x11FF, "hangul"), (0x3040, 0x30FF, "kana"), (0x3400, 0x9FFF, "han"),
    (0xAC00, 0xD7AF, "hangul"), (0xF900, 0xFAFF, "han"), (0xFF66, 0xFF9F, "kana"), (0x20000, 0x3FFFF, "han"),
)  # fmt: skip
# Scripts of one language each (of those that captions are met in), and of several.
_ONLY = {"han": "zh", "kana": "ja", "hangul": "ko", "greek": "el", "armenian": "hy", "hebrew": "he", "bengali": "bn",
         "gujarati": "gu", "tamil": "ta", "telugu": "te", "thai": "th", "georgian": "ka"}  # fmt: skip
_LANGUAGES = {
    "latin": ("en", "de", "fr", "es", "it", "pt", "nl", "pl", "sv", "da", "no", "fi", "cs", "sk", "sl", "hr", "hu",
              "ro", "tr", "id", "ms", "vi", "ca", "et", "lt", "lv", "sq", "tl"),
    "cyrillic": ("ru", "uk", "bg", "sr", "mk", "be", "kk"),
    "arabic": ("ar", "fa", "ur"),
    "devanagari": ("hi", "mr", "ne"),
}  # fmt: skip
# Words that are frequent in English captions and hardly occur in other languages ("of" and "her" do).
_ENGLISH = frozenset(
    ("the", "with", "and", "this", "that", "these", "those", "from", "which", "while", "his", "their", "there", "they",
     "it's", "through", "between", "against")
)  # fmt: skip
_WORDS_PER_ENGLISH = 16  # one of these in so many words makes a text English
# Most captions are English, and what few words in Latin letters are can hardly be told: another language has to be so
# much likelier than English.
_ENGLISH_PRIOR = 8.0
# Of so few Latin words, and of what is read off signs and tables, no other language is claimed below this probability:
# "DIAMOND 5" can be in many.
_FEW, _SURE = 3, 0.6
_READS = 400  # characters that are looked at; more change nothing but the time
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
CODES = tuple(sorted({*_ONLY.values(), *(code for codes in _LANGUAGES.values() for code in codes)}))
# What people write instead of a code.
_NAMES = {
    "english": "en", "chinese": "zh", "mandarin": "zh", "cn": "zh", "zho": "zh", "japanese": "ja", "jp": "ja",
    "korean": "ko", "kr": "ko", "german": "de", "deutsch": "de", "french": "fr", "spanish": "es", "italian": "it",
    "portuguese": "pt", "dutch": "nl", "polish": "pl", "swedish": "sv", "danish": "da", "norwegian": "no", "nb": "no",
    "finnish": "fi", "czech": "cs", "greek": "el", "hungarian": "hu", "romanian": "ro", "turkish": "tr",
    "indonesian": "id", "malay": "ms", "vietnamese": "vi", "russian": "ru", "ukrainian": "uk", "arabic": "ar",
    "persian": "fa", "urdu": "ur", "hindi": "hi", "hebrew": "he", "thai": "th", "bengali": "bn", "tamil": "ta",
}  # fmt: skip


def language_of(text: str) -> str:
    """The code of the language most of a text's words are in; "und" where it has no letters, or too few to tell.

    Raises MissingExtra where the model is needed and not installed.
    """
    script = _script(text)
    if script is None:
        return UNDETERMINED
    if script in _ONLY:
        return _ONLY[script]
    if script == "latin":
        words = _WORD.findall(text[:_READS].lower())
        if sum(word in _ENGLISH for word in words) * _WORDS_PER_ENGLISH >= max(len(words), 1):
            return "en"
    return _by_model(text[:_READS], script)


def no_code(text: str) -> str | None:
    """Why a text is no code that `language_of` tells of a language, with the near one; None where it is one."""
    if text in CODES:
        return None
    known = f"known: {', '.join(CODES)}"
    if text == UNDETERMINED:
        return f"{text!r}: text in no language that can be told is always kept; leave it out; {known}"
    said = text.strip().lower()
    first = re.split(r"[-_ ]", said)[0]
    exact = next((one for one in (_NAMES.get(said), _NAMES.get(first), first) if one in CODES), None)
    near = [exact] if exact else [_NAMES[one] for one in difflib.get_close_matches(said, _NAMES, 1, 0.75)]
    return f"{text!r} is no code of a language; " + "".join(f"did you mean {one!r}? " for one in near) + known


def _script(text: str) -> str | None:
    """The script of most words; kana make Han Japanese."""
    if text.isascii():
        return "latin" if any(map(str.isalpha, text)) else None
    letters: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if (script := _script_of(character)) is not None:
            letters[script] += count
    if not letters:
        return None
    if letters["kana"] * 10 > letters["han"] and letters["kana"] > 1:
        letters["kana"] += letters["han"]
        letters["han"] = 0
    return max(letters, key=lambda script: (letters[script] / _PER_WORD.get(script, _LATIN_PER_WORD), script))


@lru_cache(maxsize=1 << 16)
def _script_of(character: str) -> str | None:
    if not character.isalpha():
        return None
    point = ord(character)
    return next((script for first, last, script in _RANGES if first <= point <= last), None)


def _by_model(text: str, script: str) -> str:
    candidates = _LANGUAGES[script]
    scores = {language: float(score) for language, score in _model().rank(text) if language in candidates}
    best = max(scores, key=lambda language: (scores[language], language))
    if scores.get("en", 0.0) * _ENGLISH_PRIOR >= scores[best]:
        return "en"
    few = script == "latin" and (text.isupper() or len(_WORD.findall(text)) <= _FEW)
    return UNDETERMINED if few and scores[best] < _SURE else best


@lru_cache(maxsize=1)
def _model() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise MissingExtra("py3langid", "curate") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
