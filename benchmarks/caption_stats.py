"""Statistics of captions: how much faster than a plain loop, how much more with two processes, whether intervals hold.

    python benchmarks/caption_stats.py                  # captions of its own making, English and Chinese
    python benchmarks/caption_stats.py --text FILE      # other ones, a line each
    python benchmarks/caption_stats.py --coverage       # how often 95% intervals hold the truth

The plain loop is the one that anybody writes first, with the same tokenizer and tagger: for each caption its tokens,
their tags, sets of n-grams and of nouns, verbs and adjectives. Its figures must be the same. Both read the same file
from disk; the pass writes its tables as well, and reckons intervals.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sailctl.core.curate.language import language_of
from sailctl.core.curate.parts import answers_of, open_data
from sailctl.core.curate.stats.figures import FIGURES, Captions, figures
from sailctl.core.curate.stats.rows import length_of
from sailctl.core.curate.stats.tagging import KINDS, is_word, kind_of_penn, sentences

ENGLISH = (
    "The {JJ} {NN} {VBZ} {IN} the {NN}, while a {JJ} {NN} {VBZ} {IN} {JJ} {NNS}.",
    "In the background, {NNS} and {NNS} {VBP} {IN} the {JJ} {NN}.",
    "A {NN} in a {JJ} {NN} is {VBG} a {NN}; the {NN}'s {NN} looks {JJ}.",
    "There are {CD} {NNS} on the {JJ}, {JJ} {NN}, and one of them is {VBG} the {NN}.",
    "The image captures a {JJ} {NN} of {NNS} {VBG} {IN} a {NN}.",
    'A sign reads "{NN}", and the {NN} below it seems to be {VBN} by {JJ} {NNS}.',
    "The overall atmosphere is {JJ} and {JJ}, with a hint of {NN}.",
)
CHINESE = (
    "画面中，一名{n}正在{v}{a}的{n}，旁边摆放着{n}和{n}。",
    "背景是{a}的{n}，{n}在{n}上{d}{v}，显得十分{a}。",
    "图片展示了{n}的{n}，左侧有{m}{n}，右侧则是{a}的{n}。",
    "{n}{d}{v}着{n}，其{n}与周围的{n}形成对比。",
    "整体氛围{a}而{a}，充满了{n}的气息，让人想起{n}。",
    "招牌上写着“{n}”，下方的{n}{v}{n}，光线{a}。",
)


def english(count: int, seed: int) -> list[str]:
    """Captions of about 88 words that hardly repeat one another: words of the tagger's lexicon, few frequent."""
    from textblob.en import lexicon

    lexicon.get("the")  # loads it
    words: dict[str, list[str]] = {}
    rng = random.Random(seed)
    for word, tag in sorted(lexicon.items()):
        if word.isascii() and word.isalpha() and word.islower():
            words.setdefault(tag, []).append(word)
    words["CD"] = ["two", "three", "four", "five", "several", "12"]
    return _filled(ENGLISH, words, count, rng, 6, " ")


def chinese(count: int, seed: int) -> list[str]:
    """Captions of about 157 characters: words of jieba's dictionary, few of them frequent."""
    import jieba

    ranked: dict[str, list[tuple[int, str]]] = {}
    for line in jieba.dt.get_dict_file().read().decode().splitlines():
        word, frequency, tag = line.split(" ")
        ranked.setdefault(tag, []).append((-int(frequency), word))
    words = {tag: [word for _, word in sorted(some)] for tag, some in ranked.items()}
    words["m"] = ["两只", "三个", "几位", "12台"]
    return _filled(CHINESE, words, count, random.Random(seed), 6, "")


def _filled(
    templates: Sequence[str], words: dict[str, list[str]], count: int, rng: random.Random, parts: int, between: str
) -> list[str]:
    def pick(tag: str) -> str:
        some = words[tag]
        return some[min(int(rng.paretovariate(0.35)) - 1, rng.randrange(len(some)))]  # Zipf, over a few thousand words

    def fill(template: str) -> str:
        head, *rest = template.split("{")
        return head + "".join(pick(piece.partition("}")[0]) + piece.partition("}")[2] for piece in rest)

    return [between.join(fill(rng.choice(templates)) for _ in range(parts)) for _ in range(count)]


class Plain:
    """Tokenizer and tagger of each language, as the libraries offer them."""

    def __init__(self) -> None:
        import jieba.posseg
        from nltk.tokenize import NLTKWordTokenizer
        from textblob.en import parser

        self.tokenize, self.find_tags, self.lcut = NLTKWordTokenizer().tokenize, parser.find_tags, jieba.posseg.lcut
        self.find_tags(["warm"])
        self.lcut("热身")

    def tagged(self, text: str, language: str) -> list[tuple[str, int]]:
        """Words in lower case with their kinds."""
        if language == "zh":
            kinds = {"n": 1, "v": 2, "a": 3}
            return [(pair.word.lower(), kinds.get(pair.flag[0], 0)) for pair in self.lcut(text) if is_word(pair.word)]
        return [
            (token.lower(), kind_of_penn(tag))
            for sentence in sentences(text)
            for token, tag in self.find_tags(self.tokenize(sentence))
            if is_word(token)
        ]

    def figures(self, path: Path) -> dict[str, dict[str, float]]:
        """The figures of Table 1 for each language in a file of samples."""
        found: dict[str, dict[str, set[Any]]] = {}
        lengths: dict[str, list[int]] = {}
        data = open_data([str(path)])
        for part in data.parts:
            for row in data.rows(part):
                assert row.sample is not None
                text = answers_of(row.sample)
                language = language_of(text)
                if language not in ("en", "zh"):
                    continue
                tagged = self.tagged(text, language)
                words = [word for word, _ in tagged]
                lengths.setdefault(language, []).append(length_of(text) if language == "zh" else len(words))
                sets = found.setdefault(language, {name: set() for name in FIGURES[1:]})
                sets["2-gram"].update(pairwise(words))
                sets["3-gram"].update(zip(words, words[1:], words[2:], strict=False))
                for name, kind in KINDS.items():
                    sets[name].update(word for word, of in tagged if of == kind)
        return {
            language: {
                "length": sum(lengths[language]) / len(lengths[language]),
                **{name: len(some) / len(lengths[language]) for name, some in sets.items()},
            }
            for language, sets in found.items()
        }


def compare(captions: Sequence[str], tagged: int, turns: int, label: str) -> dict[str, Any]:
    """The plain loop and the pass on the first `tagged` captions, all of them counted word by word, with equal figures;
    then the pass with one process and two on all captions, of which it draws as many.

    Seconds are of the processor for loop and pass, and of the clock for one process and two, in turn. What starts
    before the first caption (Python, the taggers' lexicons) is taken off.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        some, whole = (_written(captions[:size], folder / f"{size}.jsonl") for size in (tagged, len(captions)))
        few = [_written(captions[:2], folder / f"few{number}.jsonl") for number in (1, 2)]  # one for each process
        plain = Plain()
        began = time.process_time()
        expected = plain.figures(some)
        loop_s = time.process_time() - began
        _, start_s, _ = _pass(few, folder / "start", 1, tagged)
        _, pass_s, stats = _pass([some], folder / "pass", 1, tagged)
        for row in stats["table"]:
            for name in FIGURES:
                assert abs(row[name]["value"] - expected[row["lang"]][name]) < 1e-9, (row["lang"], name)
        clock: dict[int, list[float]] = {1: [], 2: []}
        for turn in range(turns):
            for processes, taken in clock.items():
                start, *_ = _pass(few, folder / f"few{processes}-{turn}", processes, tagged)
                took, *_ = _pass([whole], folder / f"out{processes}-{turn}", processes, tagged)
                taken.append(took - start)
    one, two = (statistics.median(taken) for taken in clock.values())
    return {
        "captions": label,
        "n": tagged,
        "loop_cpu_s": round(loop_s, 2),
        "pass_cpu_s": round(pass_s - start_s, 2),
        "faster_than_loop": round(loop_s / (pass_s - start_s), 2),
        "all": len(captions),
        "one_process_s": round(one, 2),
        "two_processes_s": round(two, 2),
        "two_over_one": round(one / two, 2),
    }


def _written(captions: Sequence[str], path: Path) -> Path:
    with open(path, "w", encoding="utf-8") as file:
        for number, text in enumerate(captions):
            turns = [{"from": "human", "value": "Describe."}, {"from": "gpt", "value": text}]
            file.write(json.dumps({"id": str(number), "conversations": turns}, ensure_ascii=False) + "\n")
    return path


def _pass(paths: Sequence[Path], out: Path, processes: int, sample: int) -> tuple[float, float, dict[str, Any]]:
    """Seconds of the clock and of the processor that the command takes, and what it says."""
    data = [word for path in paths for word in ("--data", str(path))]
    command = [sys.executable, "-m", "sailctl", "curate", "stats", *data, "--out", str(out)]
    options = ["--processes", str(processes), "--sample", str(sample), "--json"]
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*command, *options], check=True, capture_output=True)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took, spent, json.loads(done.stdout)


def coverage(trials: int, size: int) -> dict[str, Any]:
    """How often the 95% interval of a sample holds the mean of the figure over samples of its size.

    Captions are of Zipf's words (exponent 1.05 of 30,000), 40% of them told by one of 40 topics.
    """
    rng = np.random.default_rng(5)
    chances = 1 / np.arange(1, 30_001) ** 1.05
    steps = np.cumsum(chances / chances.sum())
    values, ends = [], []
    for trial in range(trials):
        sizes = rng.poisson(30, size) + 5
        starts = np.concatenate([[0], np.cumsum(sizes)])
        words = np.minimum(np.searchsorted(steps, rng.random(starts[-1])), 29_999)
        topics = np.repeat(rng.integers(0, 40, size), sizes)
        ids = np.where(rng.random(starts[-1]) < 0.4, (words * 7 + topics * 613) % 30_000, words)
        kinds = np.where(ids % 5 < 4, ids % 5, 0).astype(np.uint8)
        found = figures(Captions(ids, kinds, starts, sizes), trial)
        values.append([found[name]["value"] for name in FIGURES])
        ends.append([found[name]["ci95"] for name in FIGURES])
    truth, at = np.mean(values, axis=0), np.array(ends)
    held = ((at[:, :, 0] <= truth) & (truth <= at[:, :, 1])).mean(axis=0)
    return {"trials": trials, "sample": size, "held": dict(zip(FIGURES, held.round(3).tolist(), strict=True))}


def main() -> None:
    """Measure, and print a JSON line for each language."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, action="append", help="captions, one a line; repeatable")
    parser.add_argument("--captions", type=int, default=50_000, help="of its own making")
    parser.add_argument("--tagged", type=int, default=10_000, help="of them for the loop, and drawn by the pass")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--lang", choices=("en", "zh"), action="append")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--coverage", action="store_true")
    arguments = parser.parse_args()
    if arguments.coverage:
        for size in (200, 1000):
            print(json.dumps(coverage(500, size)))
        return
    if arguments.text:
        given = [(path.name, path.read_text(encoding="utf-8").splitlines()) for path in arguments.text]
    else:
        make = {"en": english, "zh": chinese}
        given = [(lang, make[lang](arguments.captions, arguments.seed)) for lang in arguments.lang or make]
    for label, captions in given:
        some = [text for text in captions if text.strip()]
        print(json.dumps(compare(some, arguments.tagged, arguments.turns, label)), flush=True)


if __name__ == "__main__":
    main()
