"""Statistics of captions: by hand on twenty of them, equal to a plain count of all, whatever the workers and kills."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.curate import parts
from sailctl.core.curate.parts import open_data
from sailctl.core.curate.stats.figures import FIGURES
from sailctl.core.curate.stats.report import compare, lines, tables
from sailctl.core.curate.stats.request import StatsRequest
from sailctl.core.curate.stats.rows import Drawing
from sailctl.core.curate.stats.tagging import KINDS, tagger_of
from sailctl.core.data.lengths import read_lengths
from sailctl.core.data.verdicts import read_rows
from sailctl.core.errors import DataError, MissingExtra, UsageError
from sailctl.core.records import Turn, sample_id
from sailctl.core.reporter import Quiet
from tests.curate.helpers_curate import captions_tar, files_in
from tests.helpers_data import conversation, picture, write_jsonl, write_tar

ROOT = Path(__file__).resolve().parents[2]
ENGLISH = (
    "A dog runs.",
    "A dog sleeps.",
    "A big dog runs.",
    "The cat sleeps.",
    "The small cat runs.",
    "A big cat sleeps.",
    "The dog runs.",
    "A dog runs.",
    "It's a dog.",
    "Two cats, one dog!",
)
CHINESE = (
    "一只猫在睡觉。",  # 一只 猫 在 睡觉
    "一只狗在跑步。",
    "白色的猫。",
    "红色的汽车很漂亮。",  # 很漂亮 is one word, a noun, says jieba
    "老人坐在公园里。",
    "猫坐在汽车上。",
    "热闹的公园。",
    "白色的狗在睡觉。",
    "一只猫在睡觉。",
    "老人喜欢猫，孩子喜欢狗。",
)


def stats(path: Path | Sequence[Path], out: Path, **options: Any) -> dict[str, Any]:
    paths = [path] if isinstance(path, Path) else path
    return StatsRequest([str(one) for one in paths], out, **{"processes": 1, **options}).run(Quiet())


def said(texts: Sequence[str], path: Path) -> Path:
    """Conversations without pictures whose answers are captions."""
    rows = [
        {"id": str(place), "conversations": conversation("Describe.", text), "text": text}
        for place, text in enumerate(texts)
    ]
    return write_jsonl(path, rows)


def values(row: dict[str, Any]) -> list[float]:
    return [round(row[name]["value"], 9) for name in FIGURES]


def test_twenty_captions_by_hand(tmp_path: Path) -> None:
    mixed = [text for pair in zip(ENGLISH, CHINESE, strict=True) for text in pair]
    found = stats(captions_tar(tmp_path / "a.tar", mixed), tmp_path / "out")
    english, chinese = found["table"]
    # 35 words ("'s" is one, "." is none); 17 different pairs, 14 triples; dog cat cats, runs sleeps, big small
    assert values(english) == [3.5, 1.7, 1.4, 0.3, 0.2, 0.2]
    # 76 characters, 41 words; 25 pairs, 19 triples; ten nouns: 猫 狗 跑步 白色 红色 汽车 很漂亮 老人 公园 孩子,
    # three verbs: 睡觉 坐在 喜欢, one adjective: 热闹
    assert values(chinese) == [7.6, 2.5, 1.9, 1.0, 0.3, 0.1]
    assert [(row["lang"], row["captions"], row["sample"], row["words"]) for row in found["table"]] == [
        ("en", 10, 10, 3.5), ("zh", 10, 10, 4.1)
    ]  # fmt: skip
    assert found["all"]["languages"] == {"en": 10, "zh": 10}
    spread = found["all"]["distributions"]
    assert (spread["length_en"]["mean"], spread["length_en"]["min"], spread["length_en"]["max"]) == (3.5, 3, 4)
    assert (spread["length_zh"]["p50"], spread["width"]["mean"], spread["height"]["mean"]) == (7, 40, 30)
    assert found["tools"]["en"]["tagger"].startswith("textblob 0.") and "jieba 0." in found["tools"]["zh"]["tokenizer"]
    assert all(row[name]["ci95"][0] <= row[name]["value"] <= row[name]["ci95"][1] for row in (english, chinese)
               for name in FIGURES)  # fmt: skip


def test_rows_tell_what_samples_are(tmp_path: Path) -> None:
    members = [("a.png", picture(0, 50, 20)), ("a.txt", b"The cat sleeps on the mat."), ("b.json", b"{")]
    members += [("b.png", picture(1)), ("c.png", b"no picture"), ("c.txt", b"a dog"), ("d.png", picture(2))]
    members += [("d.txt", "白色的猫 OK".encode()), ("e.png", picture(3)), ("e.txt", b"Ein Hund im Schnee")]
    found = stats(write_tar(tmp_path / "a.tar", members), tmp_path / "out")
    rows = list(read_rows(tmp_path / "out"))
    assert [(row["key"], row["keep"], row["reason"], row["lang"], row["words"], row["characters"]) for row in rows] == [
        ("a", True, "", "en", 6, 21),
        ("b", False, "bad_json", None, None, None),
        ("c", False, "bad_image", None, None, None),
        ("d", True, "", "zh", None, 6),
        ("e", True, "", "de", 4, 15),
    ]
    assert (rows[0]["width"], rows[0]["height"], rows[0]["images"], rows[0]["tokens"]) == (50, 20, 1, None)
    assert found["all"]["broken"] == {"bad_image": 1, "bad_json": 1}
    text = "\n".join(lines(found))
    assert "broken: bad_image 1, bad_json 1" in text and "smaller samples" in text
    assert tables(found)[1][2] == [["a", "5", "2", "de 33.3%, en 33.3%, zh 33.3%"]]


def test_a_conversation_is_what_the_assistant_says(tmp_path: Path) -> None:
    turns = conversation("What is the dog doing?", "The dog runs.", "And the cat?", "The cat sleeps.")
    found = stats(write_jsonl(tmp_path / "a.jsonl", [{"id": "1", "conversations": turns}]), tmp_path / "out")
    assert values(found["table"][0])[0] == 6  # the dog runs the cat sleeps


def lively(count: int, seed: int) -> list[str]:
    """Captions with words of their own, a third of them Chinese, a few in French."""
    rng = random.Random(seed)
    english = [
        f"{first}{second}" for first in ("stone", "light", "wind", "north") for second in ("fall", "ing", "ed", "s")
    ]
    chinese = ["老人", "猫", "热闹", "汽车", "坐在", "公园", "的", "喜欢", "漂亮", "山水画", "提着", "红伞"]

    def one(number: int) -> str:
        if rng.random() < 0.05:
            return "Un chat noir dort dans le jardin."
        if rng.random() < 0.33:
            return "".join(rng.choices(chinese, k=rng.randint(2, 30))) + rng.choice("。！") + str(number % 97)
        words = rng.choices(["the", "a", "with", *english, f"word{number % 301}"], k=rng.randint(2, 40))
        return "The " + " ".join(words) + "."

    return [one(number) for number in range(count)]


def in_memory(path: Path, size: int, seed: int) -> dict[str, Any]:
    """All of it at once: lists, sets, sorted draws."""
    data = open_data([str(path)])
    drawing = Drawing(size, seed)
    captions: dict[str, list[tuple[int, str]]] = {}
    for part in data.parts:
        for row in data.rows(part):
            assert row.sample is not None
            text = row.sample.turns[-1].text
            language = "zh" if text[0] > "z" else "fr" if text.startswith("Un ") else "en"
            captions.setdefault(language, []).append((drawing.draw(row), text))
    table = []
    for language in ("en", "zh"):
        drawn = [text for _, text in sorted(captions[language])[:size]]
        tagged = [list(zip(*tagger_of(language).words(text), strict=True)) for text in drawn]
        words = [[word for word, _ in one] for one in tagged]
        of_each = [len(text) if language == "zh" else len(one) for text, one in zip(drawn, words, strict=True)]
        sets: list[set[Any]] = [
            {gram for one in words for gram in pairwise(one)},
            {gram for one in words for gram in zip(one, one[1:], one[2:], strict=False)},
            *({word for one in tagged for word, of in one if of == kind} for kind in KINDS.values()),
        ]
        table.append([sum(of_each) / len(drawn), *(len(one) / len(drawn) for one in sets)])
    all_lengths = np.array([len(tagger_of("en").words(text)[0]) for _, text in captions["en"]])
    return {
        "table": [[round(value, 9) for value in row] for row in table],
        "languages": Counter({language: len(some) for language, some in captions.items()}),
        "p95": int(np.quantile(all_lengths, 0.95, method="inverted_cdf")),
        "mean": all_lengths.mean(),
    }


@pytest.mark.parametrize("count,size", [(1500, 200), pytest.param(50_000, 10_000, marks=pytest.mark.slow)])
def test_streaming_equals_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, size: int) -> None:
    monkeypatch.setattr(parts, "ROWS", 250 if count < 10_000 else 2000)
    path = said(lively(count, 3), tmp_path / "a.jsonl")
    found = stats(path, tmp_path / "out", sample=size, seed=7)
    expected = in_memory(path, size, 7)
    assert [values(row) for row in found["table"]] == expected["table"]
    assert found["all"]["languages"] == expected["languages"]
    spread = found["all"]["distributions"]["length_en"]
    assert (spread["p95"], spread["mean"]) == (expected["p95"], expected["mean"])
    assert [row["sample"] for row in found["table"]] == [size, size]


def test_captions_drawn_against_expectation_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "ROWS", 100)
    path = said(lively(600, 4), tmp_path / "a.jsonl")
    found = stats(path, tmp_path / "out", sample=40)
    assert list((tmp_path / "out/work/more").rglob("*.parquet")), "every Chinese caption of the sample was expected"
    assert [values(row) for row in found["table"]] == in_memory(path, 40, 0)["table"]


def test_all_sources_together_are_a_sample_of_their_own(tmp_path: Path) -> None:
    texts = lively(600, 5)
    one, two = said(texts[:300], tmp_path / "one.jsonl"), said(texts[300:], tmp_path / "two.jsonl")
    found = stats([one, two], tmp_path / "out", sample=50)
    rows = {(row["source"], row["lang"]): row for row in found["table"]}
    assert rows.keys() == {(source, lang) for source in ("one", "two", None) for lang in ("en", "zh")}
    assert all(row["sample"] == 50 for row in rows.values())
    assert rows[(None, "en")]["captions"] == rows[("one", "en")]["captions"] + rows[("two", "en")]["captions"]
    assert found["all"]["samples"] == 600


def test_workers_decide_nothing_and_the_seed_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    english = [text for text in lively(500, 6) if text.startswith("The ")]  # for workers that start quickly
    path = said(english[:300], tmp_path / "a.jsonl")
    monkeypatch.setattr(parts, "ROWS", 100)
    first = stats(path, tmp_path / "one", sample=50)
    stats(path, tmp_path / "two", sample=50, processes=2)
    assert files_in(tmp_path / "one") == files_in(tmp_path / "two")
    other = stats(path, tmp_path / "other", sample=50, seed=1)
    assert values(other["table"][0]) != values(first["table"][0])
    assert other["all"] == first["all"], "what is counted over everything is no matter of the seed"


def test_a_finished_pass_is_read_and_another_one_refused(tmp_path: Path) -> None:
    path = said(ENGLISH, tmp_path / "a.jsonl")
    first = stats(path, tmp_path / "out")
    before = files_in(tmp_path / "out")
    assert stats(path, tmp_path / "out") == first and files_in(tmp_path / "out") == before
    with pytest.raises(UsageError, match="made with sample = 10000, now it is 5"):
        stats(path, tmp_path / "out", sample=5)


KILLED = """
import sys
from pathlib import Path
from sailctl.core.curate import parts
from sailctl.core.curate.stats import rows as stats_rows
parts.ROWS = 20
whole = stats_rows.answers_of
def slow(sample):
    import time
    time.sleep(0.002)
    return whole(sample)
stats_rows.answers_of = slow
from sailctl.core.curate.stats.request import StatsRequest
from sailctl.core.records import Turn, sample_id
from sailctl.core.reporter import Quiet
if __name__ == "__main__":
    StatsRequest([sys.argv[1]], Path(sys.argv[2]), sample=30, processes=1).run(Quiet())
"""


@pytest.mark.parametrize("after", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_killed_at_any_instant_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    monkeypatch.setattr(parts, "ROWS", 20)
    path = captions_tar(tmp_path / "a.tar", [text for text in ENGLISH for _ in range(12)], [picture(0)] * 120)
    stats(path, tmp_path / "whole", sample=30)
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    out = tmp_path / "out"
    command = [sys.executable, str(script), str(path), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment)
    while process.poll() is None and len(list(out.rglob("*.parquet"))) < after:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "summary.json").exists(), "killed before its end"
    stats(path, out, sample=30)
    left = {name: data for name, data in files_in(out).items() if not name.endswith(".tmp")}
    assert left == files_in(tmp_path / "whole")


def test_lengths_are_those_that_plan_reads(tmp_path: Path) -> None:
    members = [("a.png", picture(0, 60, 20)), ("a.txt", b"The cat sleeps."), ("b.png", b"none"), ("b.txt", b"a dog")]
    members += [("c.png", picture(1)), ("c.txt", b"The small cat runs.")]
    found = stats(write_tar(tmp_path / "a.tar", members), tmp_path / "out", recipe="tiny", stage="advance")
    rows = list(read_rows(tmp_path / "out"))
    read = read_lengths(tmp_path / "out/lengths.csv", found["recipe"]["tokens_per_tile"])
    assert [(row.num_tokens, row.num_tiles, row.num_targets) for row in read.rows] == [
        (row["tokens"], row["tiles"], row["targets"]) for row in rows if row["keep"]
    ]
    assert len(read.rows) == 2 and read.short == 0 and not read.targets_estimated
    assert rows[0]["tiles"] > 1 and rows[0]["tokens"] > rows[0]["tiles"] * found["recipe"]["tokens_per_tile"]
    assert found["all"]["distributions"]["tokens"]["n"] == 2


def test_pictures_that_end_early_are_broken(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture(0, 90, 60))).convert("RGB").save(buffer, "JPEG")
    cut = [
        whole[: len(whole) * share // 100] for whole in (buffer.getvalue(), picture(1, 90, 60)) for share in (60, 95)
    ]
    path = captions_tar(tmp_path / "a.tar", ["The cat sleeps."] * 6, [*cut, buffer.getvalue(), picture(1, 90, 60)])
    found = stats(path, tmp_path / "out", recipe="tiny")
    assert [row["reason"] for row in read_rows(tmp_path / "out")] == ["bad_image"] * 4 + ["", ""]
    assert found["all"]["broken"] == {"bad_image": 4} and len((tmp_path / "out/lengths.csv").read_text().split()) == 3
    limited = stats(path, tmp_path / "limited", recipe="tiny", overrides=["data.max_image_pixels=5000"])
    assert limited["all"]["broken"] == {"image_too_large": 6}, "as training says"


def test_comparing_names_differences_and_refuses_what_cannot_be(tmp_path: Path) -> None:
    poor, rich = said(["The dog runs."] * 200, tmp_path / "poor.jsonl"), said(lively(600, 8), tmp_path / "rich.jsonl")
    ours = stats(rich, tmp_path / "rich", sample=100)
    stats(poor, tmp_path / "poor", sample=100)
    (row,), others = compare(ours, tmp_path / "poor")
    assert others == ["rich (zh) is only here"]
    assert (row["source"], row["against"], row["lang"], row["sample"]) == ("rich", "poor", "en", 100)
    assert row["2-gram"]["difference"] == pytest.approx(row["2-gram"]["ours"] - 0.02)
    assert row["2-gram"]["ci95"][0] > 0
    stats(poor, tmp_path / "few", sample=50)
    with pytest.raises(UsageError, match=r"poor \(en\) is a sample of 50 captions, rich \(en\) here one of 100"):
        compare(ours, tmp_path / "few")
    told = json.loads((tmp_path / "poor/summary.json").read_text())
    told["tools"]["en"]["tagger"] = "nltk 3.9"
    (tmp_path / "poor/summary.json").write_text(json.dumps(told))
    with pytest.raises(UsageError, match=r"its tagger of en is nltk 3\.9, here it is textblob"):
        compare(ours, tmp_path / "poor")
    with pytest.raises(DataError, match="holds no finished sailctl curate stats"):
        compare(ours, tmp_path)


def test_a_row_that_cannot_be_compared_leaves_the_others(tmp_path: Path) -> None:
    one = said([*ENGLISH, CHINESE[0]], tmp_path / "one.jsonl")
    two = said([*ENGLISH, *CHINESE[:9]], tmp_path / "two.jsonl")
    stats(two, tmp_path / "two")
    found = stats(one, tmp_path / "one", against=tmp_path / "two")
    assert [(row["lang"], row["2-gram"]["difference"]) for row in found["comparison"]] == [("en", 0)]
    line = "not compared: two (zh) is a sample of 9 captions, one (zh) here one of 1; counts of different things depend"
    assert f"{line} on it" in lines(found)
    told = json.loads((tmp_path / "two/summary.json").read_text())
    told["tools"]["en"]["tagger"] = "nltk 3.9"
    (tmp_path / "two/summary.json").write_text(json.dumps(told))
    with pytest.raises(UsageError, match=r"nothing can be compared: one \(en\): its tagger of en is nltk .* with one$"):
        compare(found, tmp_path / "two")
    told["table"][1]["sample"] = 1
    (tmp_path / "two/summary.json").write_text(json.dumps(told))
    (row,), (other,) = compare(found, tmp_path / "two")
    assert row["lang"] == "zh" and other.startswith("one (en): its tagger of en is nltk 3.9")


def test_what_makes_no_sense_is_refused_at_once(tmp_path: Path) -> None:
    path = said(ENGLISH, tmp_path / "a.jsonl")
    with pytest.raises(UsageError, match="give --out FOLDER"):
        StatsRequest([str(path)], None).run(Quiet())
    with pytest.raises(UsageError, match="--stage and --set belong to a recipe"):
        stats(path, tmp_path / "out", stage="advance")
    with pytest.raises(UsageError, match="--tagger spacy: should be textblob or nltk"):
        stats(path, tmp_path / "out", tagger="spacy")
    with pytest.raises(UsageError, match="recipe"):
        stats(path, tmp_path / "out", recipe="no-such-recipe")
    assert not (tmp_path / "out").exists()


def test_the_command_shows_tables_or_one_object(tmp_path: Path) -> None:
    path = said([*ENGLISH, *CHINESE], tmp_path / "a.jsonl")
    command = ["curate", "stats", "--data", str(path), "--out", str(tmp_path / "out"), "--processes", "1"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "a        en          10      10" in shown.stdout and "zh: jieba" in shown.stdout
    assert "next: sailctl curate filter" in shown.stderr
    told = CliRunner().invoke(app, [*command, "--json", "--against", str(tmp_path / "out")])
    found = json.loads(told.stdout)
    assert [row["sample"] for row in found["table"]] == [10, 10]
    assert [row["noun"]["difference"] for row in found["comparison"]] == [0, 0]
    refused = CliRunner().invoke(app, [*command, "--against", str(tmp_path)])
    assert refused.exit_code == 1 and "holds no finished sailctl curate stats" in refused.stderr


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = metadata.version

    def version(package: str) -> str:
        if package == "jieba":
            raise metadata.PackageNotFoundError(package)
        return whole(package)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(MissingExtra, match="jieba is not installed; install it with: pip install"):
        stats(said(ENGLISH, tmp_path / "a.jsonl"), tmp_path / "out")


def test_sidecars_are_the_captions(tmp_path: Path) -> None:
    data = captions_tar(tmp_path / "a.tar", ["old words", "old"])
    texts = {"old words": "The small cat runs.", "old": "The dog sleeps."}
    rows = [
        {"id": sample_id([picture(place)], [Turn("assistant", old)]), "shard": "a.tar", "row": place,
         "key": f"{place:06d}", "text": new, "turns": None}
        for place, (old, new) in enumerate(texts.items())
    ]  # fmt: skip
    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    kinds = {"id": pa.string(), "shard": pa.string(), "row": pa.int64(), "key": pa.string(), "text": pa.string()}
    (tmp_path / "captions").mkdir()
    table = pa.Table.from_pylist(rows, schema=pa.schema({**kinds, "turns": turns}))
    pq.write_table(table, tmp_path / "captions/a.parquet")
    found = stats(data, tmp_path / "out", captions=str(tmp_path / "captions"))
    # the small cat runs, the dog sleeps: 7 words, 5 pairs
    assert values(found["table"][0])[:2] == [3.5, 2.5]
