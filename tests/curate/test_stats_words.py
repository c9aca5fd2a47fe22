"""Words, tags and languages are those of the libraries, counts those of sets; intervals hold what they should."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sailctl.core.curate.language import language_of
from sailctl.core.curate.stats.figures import FIGURES, Captions, figures
from sailctl.core.curate.stats.histogram import Histogram
from sailctl.core.curate.stats.tagging import (
    ADJECTIVE,
    KINDS,
    NOUN,
    OTHER,
    VERB,
    is_word,
    kind_of_penn,
    sentences,
    tagger_of,
    tools,
)
from sailctl.core.errors import UsageError

LANGUAGES = {
    "en": ["Blue car", "a red bus", "Two men", "iPhone 12 Pro Max case black", "Stop sign", "SALE 50% OFF",
           "Two cats sleeping on a couch", "portrait of a young woman smiling", "Red Dress", "Two men"],
    "de": ["Ein Mann reitet auf einem Pferd", "Zwei Hunde im Schnee"],
    "fr": ["Un chat noir sur un canapé", "L'image montre une rue animée avec des passants"],
    "es": ["Un perro corre por la playa"], "pt": ["Um gato dorme na cama"], "it": ["Una donna con un cappello rosso"],
    "nl": ["een man op een fiets"], "pl": ["kobieta w czerwonej sukience"], "tr": ["Bir kadın parkta yürüyor"],
    "vi": ["Người phụ nữ mặc áo dài"], "id": ["Seorang wanita duduk di taman"],
    "zh": ["一只猫", "这张图片展示了 iPhone 15 Pro Max 手机壳", "画面中有一个写着OPEN的招牌"],
    "ja": ["猫がソファで寝ている", "東京タワーの夜景です"], "ko": ["고양이가 소파에서 자고 있다"],
    "ru": ["Мужчина катается на лошади"], "uk": ["Жінка їде на велосипеді"], "ar": ["رجل يركب حصانا"],
    "hi": ["एक आदमी घोड़े पर सवार है"], "th": ["แมวนอนบนโซฟา"], "el": ["Μια γάτα στον καναπέ"],
    "und": ["12 345", "", "😀 !!"],
}  # fmt: skip
PIECES = [
    "the", "a", "man", "dog", "red", "Street", "it's", "don't", "can't", "cannot", "vendors'", "Mr.", "U.S.", "e.g.",
    "gonna", "wanna", "well-known", "3.50", "$3", "a.m.", "é", "naïve", "Über", "walking", "quickly", "Zyxwv", "1990s",
    *"\"'`.,:;!?()[]{}<>-*&%$#@“”‘’»«", "''", "``", "...", "--", '."', ".)", "'s", "n't", "'tis", "“hi”", "(it",
    "\n", "\n\n", "\t", "unhappied", "C++", 'said,"',
]  # fmt: skip


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages_of_short_captions(language: str) -> None:
    assert {text: language_of(text) for text in LANGUAGES[language]} == dict.fromkeys(LANGUAGES[language], language)


def plain_english(text: str) -> list[tuple[str, int]]:
    """Every sentence asked of the libraries as a whole."""
    from nltk.tokenize import NLTKWordTokenizer
    from textblob.en import parser

    return [
        (token.lower(), kind_of_penn(tag))
        for sentence in sentences(text)
        for token, tag in parser.find_tags(NLTKWordTokenizer().tokenize(sentence))
        if is_word(token)
    ]


@given(st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(["", " ", " ", " "])), max_size=24))
@settings(max_examples=400, deadline=None)
def test_english_words_and_tags_are_the_libraries(pieces: list[tuple[str, str]]) -> None:
    text = "".join(piece + blank for piece, blank in pieces)
    words, kinds = tagger_of("en").words(text)
    assert list(zip(words, kinds, strict=True)) == plain_english(text)
    assert tagger_of("en").count(text) == len(words)


def test_what_is_remembered_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from sailctl.core.curate.stats import tagging

    monkeypatch.setattr(tagging, "_KNOWN", 5)
    tagger = tagging.TextBlobEnglish()
    text = "The old man and a big dog walk along the river, while two cats sleep on the warm roof of a house."
    for _ in range(3):
        assert list(zip(*tagger.words(text), strict=True)) == plain_english(text)
    assert len(tagger._tokens._known) <= 20


def test_sentences_end_where_they_end() -> None:
    text = 'Mr. Smith of the U.S. waves. "He left." Then 3.5 km, e.g. A. Bee.\n\nA sign?! Yes'
    assert list(sentences(text)) == [
        "Mr. Smith of the U.S. waves.", '"He left."', "Then 3.5 km, e.g. A. Bee.", "A sign?!", "Yes"
    ]  # fmt: skip
    tags = ("NNPS", "VBG", "JJR", "MD", "CD", ".")
    assert [kind_of_penn(tag) for tag in tags] == [NOUN, VERB, ADJECTIVE, OTHER, OTHER, OTHER]


def chinese_texts(count: int) -> list[str]:
    """Words by frequency, rare characters, Latin letters, numbers and signs, in any order."""
    import jieba

    rng = random.Random(2)
    words = [line.split(" ") for line in jieba.dt.get_dict_file().read().decode().splitlines()]
    weights = [int(frequency) for _, frequency, _ in words]
    between = ["", "", "", "，", "。", " ", "\r\n", "“", "3.5", "OPEN", "iPhone15", "C++", "é", "ア", "_", "&", "."]
    texts = []
    for _ in range(count):
        some = rng.choices(words, weights, k=40)
        texts.append("".join(word[0] + (rng.choice(between) if rng.random() < 0.3 else "") for word in some))
    common = [ord(character) for character in "的一是在不了人这3.a+#&_ ，"]
    rare = [chr(rng.choice([rng.randrange(0x4E00, 0x9FA0), rng.choice(common)])) for _ in range(count * 10)]
    return texts + ["".join(rare[first : first + 20]) for first in range(0, len(rare), 20)] + ["", "。", "。\n ", "  "]


@pytest.mark.parametrize("count", [20, pytest.param(400, marks=pytest.mark.slow)])
def test_chinese_words_and_tags_are_jiebas(count: int) -> None:
    tagger: Any = tagger_of("zh")
    import jieba.posseg

    jieba.setLogLevel("ERROR")
    lcut = jieba.posseg.POSTokenizer(plain_jieba()).lcut
    for text in chinese_texts(count):
        assert tagger.tagged(text) == [(pair.word, pair.flag) for pair in lcut(text)], text
    words, kinds = tagger.words("老人提着C++和3.5个OPEN招牌！")
    assert (words[:2], list(kinds[:2]), words[-2]) == (["老人", "提"], [NOUN, VERB], "open")


def plain_jieba() -> Any:
    """A tokenizer of jieba with its dictionary read anew: not from the cache of who knows whom."""
    import jieba

    plain = jieba.Tokenizer()
    plain.FREQ, plain.total = plain.gen_pfdict(plain.get_dict_file())
    plain.initialized = True
    return plain


def test_nltk_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    tagger_of.cache_clear()
    with pytest.raises(UsageError, match="averaged_perceptron_tagger_eng are not there; get them with: python -m nltk"):
        tagger_of("en", "nltk")


def test_nltk_tags_where_its_data_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import nltk
    from nltk.tag import PerceptronTagger

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    trained = PerceptronTagger(load=False)
    lines = [[("The", "DT"), ("dog", "NN"), ("runs", "VBZ"), (".", ".")], [("A", "DT"), ("red", "JJ"), ("cat", "NN")]]
    trained.train(lines * 10, nr_iter=5)
    trained.save_to_json("eng", str(tmp_path / "taggers/averaged_perceptron_tagger_eng"))
    tagger_of.cache_clear()
    tagger = tagger_of("en", "nltk")
    text = "The dog runs. A red cat!"
    assert list(zip(*tagger.words(text), strict=True)) == [
        ("the", OTHER), ("dog", NOUN), ("runs", VERB), ("a", OTHER), ("red", ADJECTIVE), ("cat", NOUN)
    ]  # fmt: skip
    assert tagger.count(text) == 6
    assert tools("nltk")["en"]["tagger"].endswith("averaged_perceptron_tagger_eng")
    tagger_of.cache_clear()


def captions_of(texts: list[list[int]]) -> Captions:
    """Captions whose words are numbers; a word's kind is its number modulo 4."""
    ids = np.array([word for text in texts for word in text], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    return Captions(ids, (ids % 4).astype(np.uint8), starts, np.diff(starts))


@given(st.lists(st.lists(st.integers(0, 12), max_size=9), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_distinct_things_are_those_of_sets(texts: list[list[int]]) -> None:
    found = figures(captions_of(texts), 0)
    pairs = {pair for text in texts for pair in pairwise(text)}
    triples = {triple for text in texts for triple in zip(text, text[1:], text[2:], strict=False)}
    of_kind = [{word for text in texts for word in text if word % 4 == kind} for kind in KINDS.values()]
    expected = [sum(map(len, texts)), len(pairs), len(triples), *map(len, of_kind)]
    assert [found[name]["value"] * len(texts) for name in FIGURES] == pytest.approx(expected)
    taken = captions_of(texts).take(np.arange(0, len(texts), 2))
    assert taken.ids.tolist() == [word for text in texts[::2] for word in text]


def test_copies_of_captions_add_nothing_and_have_no_spread() -> None:
    found = figures(captions_of([[0, 1, 2, 3]] * 50), 0)
    assert found["2-gram"] == {"value": 3 / 50, "ci95": [3 / 50, 3 / 50]}
    alone = figures(captions_of([[4 * place + 1] * (1 + place % 2) for place in range(50)]), 0)["noun"]
    assert alone["value"] == 1 and alone["ci95"] == [1, 1], "each brings one: nothing is left to chance"


def test_intervals_hold_what_they_should() -> None:
    """The mean over samples is within the interval of 95% of them, give or take; a plain bootstrap's would never be."""
    rng = np.random.default_rng(1)
    chances = 1 / np.arange(1, 5001)
    chances /= chances.sum()
    trials, values, ends = 80, [], []
    for trial in range(trials):
        words = rng.choice(5000, (150, 12), p=chances)
        found = figures(captions_of(words.tolist()), trial)
        values.append([found[name]["value"] for name in FIGURES[1:]])
        ends.append([found[name]["ci95"] for name in FIGURES[1:]])
    truth, at = np.mean(values, axis=0), np.array(ends)
    held = ((at[:, :, 0] <= truth) & (truth <= at[:, :, 1])).mean(axis=0)
    assert (held >= 0.875).all(), held  # 95% less three standard errors of 80 trials
    assert (np.diff(at, axis=2).mean(axis=0)[:, 0] < 6 * np.std(values, axis=0)).all(), "not by being wide"


@given(st.lists(st.integers(0, 5_000_000), min_size=1, max_size=200), st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_histograms_know_quantiles(values: list[int], cut: int) -> None:
    histogram = Histogram()
    for some in (values[:cut], values[cut:]):
        histogram.add(np.array(some, dtype=np.int64))
    told = histogram.described()
    assert told is not None
    assert (told["n"], told["min"], told["max"]) == (len(values), min(values), max(values))
    assert told["mean"] == pytest.approx(sum(values) / len(values))
    for name, share in (("p5", 0.05), ("p50", 0.5), ("p95", 0.95)):
        exact = int(np.quantile(values, share, method="inverted_cdf"))
        assert told[name] == pytest.approx(exact, rel=0.002), "exact below 1,024, else within a bin"
        assert exact >= 1024 or told[name] == exact


def test_a_word_or_two_are_claimed_for_no_other_language() -> None:
    """What is read off signs and screens is short; a rule on languages must not drop it."""
    for text in (
        "ZOE",
        "kite",
        "jam",
        "TO PARSE\nCONTENT",
        "blue diamond",
        "XC XE YC",
        "A SETUP",
        "AGE 73\nCODE 66\nNAME ZOE",
        "BY TYPE",
    ):
        assert language_of(text) in ("en", "und")
    assert language_of("Ein Hund am Strand") == "de" and language_of("un perro en la playa") == "es"
