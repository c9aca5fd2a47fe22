"""`sailctl curate sample`: exact sizes by caps, quotas, concepts and clusters; the seed decides, workers do not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.curate import parts
from sailctl.core.curate.parts import Data, open_data
from sailctl.core.curate.passes import Pass, Workers, verdict_table, write_table
from sailctl.core.curate.sample import ngrams as ngram_balance
from sailctl.core.curate.sample.request import SampleRequest
from sailctl.core.curate.sample.rows import Candidates
from sailctl.core.data.sources import open_source
from sailctl.core.data.verdicts import read_rows
from sailctl.core.errors import UsageError
from sailctl.core.reporter import Quiet
from sailctl.core.schema.data import SourceConfig
from tests.curate.helpers_curate import LongEnough, captions_tar, files_in
from tests.helpers_data import picture, write_tar

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["red", "blue", "green", "tall", "small", "round", "old", "new", "wooden", "bright"]


def caption(number: int, source: int) -> str:
    """Of three concepts: every caption names a cat, every fifth a dog too, every twentieth a zebra."""
    rare = " and a dog" * (number % 5 == 0) + " and a zebra" * (number % 20 == 0)
    return f"a {WORDS[number % 10]} cat{rare} number {number} of {source}"


@pytest.fixture(autouse=True)
def _few_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngram_balance, "BUCKETS", 1 << 16)  # few n-grams here, and no worker of theirs


@pytest.fixture
def tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sources of 60, 30 and 10 samples and a broken one, in parts of nineteen."""
    monkeypatch.setattr(parts, "ROWS", 19)
    same = [picture(0, 4, 4)] * 60
    made = [captions_tar(tmp_path / f"{name}.tar", [caption(n, at) for n in range(count)], same[:count])
            for at, (name, count) in enumerate((("large", 60), ("middle", 30)))]  # fmt: skip
    members = [("x.json", b"{"), ("x.png", picture(1, 4, 4))]
    for number in range(10):
        members += [(f"{number}.png", same[0]), (f"{number}.txt", caption(number, 2).encode())]
    return [str(path) for path in (*made, write_tar(tmp_path / "small.tar", members))]


def drawn(out: Path | str) -> list[dict[str, Any]]:
    return [row for row in read_rows(out) if row["keep"]]


def sample(tars: Sequence[str], out: Path, **options: Any) -> dict[str, Any]:
    return SampleRequest(tars, out=out, **{"processes": 1, **options}).perform(Quiet())


def by_source(out: Path) -> Counter[str]:
    return Counter(row["source"] for row in drawn(out))


class TestSizes:
    def test_everybody_gets_one_verdict_and_the_size_is_exact(self, tars: list[str], tmp_path: Path) -> None:
        summary = sample(tars, tmp_path / "out", samples="37")
        rows = list(read_rows(tmp_path / "out"))
        assert len(rows) == 101 and sum(row["keep"] for row in rows) == 37 == summary["drawn"]
        assert Counter(row["reason"] for row in rows) == {"": 37, "not_drawn": 63, "bad_json": 1}
        assert summary["dropped"] == {"bad_json": 1} and "group" not in rows[0]

    @pytest.mark.parametrize("options", [{}, {"by": "source"}, {"by": "shard", "natural": True}, {"even_ngrams": 2}])
    def test_every_size_is_exact(self, tars: list[str], tmp_path: Path, options: dict[str, Any]) -> None:
        for size in (1, 50, 99, 100):
            sample(tars, tmp_path / str(size), samples=str(size), **options)
            assert len(drawn(tmp_path / str(size))) == size

    def test_groups_as_equal_as_they_can_be(self, tars: list[str], tmp_path: Path) -> None:
        summary = sample(tars, tmp_path / "out", samples="50", by="source")
        assert by_source(tmp_path / "out") == {"large": 20, "middle": 20, "small": 10}
        assert summary["groups"][0] == {"group": "large", "samples": 60, "drawn": 20}
        assert {row["group"] for row in read_rows(tmp_path / "out")} == {"large", "middle", "small"}

    def test_caps_quotas_and_natural_shares(self, tars: list[str], tmp_path: Path) -> None:
        sample(tars, tmp_path / "cap", by="source", cap=12)
        assert by_source(tmp_path / "cap") == {"large": 12, "middle": 12, "small": 10}
        sample(tars, tmp_path / "quota", samples="20", by="source", quota=["small=0.5"])
        assert by_source(tmp_path / "quota") == {"small": 10, "large": 5, "middle": 5}
        sample(tars, tmp_path / "natural", samples="20", by="source", natural=True)
        assert by_source(tmp_path / "natural") == {"large": 12, "middle": 6, "small": 2}

    def test_fewer_than_asked_for_and_the_folder_is_free_again(self, tars: list[str], tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"101 samples are asked for, there are 100; .*dropped before: bad_json 1"):
            sample(tars, tmp_path / "out", samples="101")
        assert sample(tars, tmp_path / "out", samples="100")["drawn"] == 100

    def test_a_dry_run_leaves_nothing(self, tars: list[str], tmp_path: Path) -> None:
        request = SampleRequest(tars, samples="9", by="source", out=tmp_path / "out", processes=1)
        planned = request.perform(Quiet(), dry_run=True)
        assert not (tmp_path / "out").exists()
        assert planned == sample(tars, tmp_path / "out", samples="9", by="source")


class TestSeeds:
    def test_the_seed_decides_and_workers_do_not(self, tars: list[str], tmp_path: Path) -> None:
        options = {"samples": "30", "by": "shard"}
        sample(tars, tmp_path / "one", **options)
        sample(tars, tmp_path / "two", processes=2, **options)
        assert files_in(tmp_path / "one") == files_in(tmp_path / "two")
        sample(tars, tmp_path / "other", seed=1, **options)
        assert {row["id"] for row in drawn(tmp_path / "one")} != {row["id"] for row in drawn(tmp_path / "other")}

    def test_the_order_of_the_data_does_not_matter(self, tars: list[str], tmp_path: Path) -> None:
        sample(tars, tmp_path / "one", samples="30", by="source")
        sample(tars[::-1], tmp_path / "two", samples="30", by="source")
        assert {row["id"] for row in drawn(tmp_path / "one")} == {row["id"] for row in drawn(tmp_path / "two")}

    def test_a_smaller_sample_lies_within_a_larger_one(self, tars: list[str], tmp_path: Path) -> None:
        sample(tars, tmp_path / "small", samples="10")
        sample(tars, tmp_path / "large", samples="40")
        assert {row["id"] for row in drawn(tmp_path / "small")} < {row["id"] for row in drawn(tmp_path / "large")}

    def test_done_it_only_tells(self, tars: list[str], tmp_path: Path) -> None:
        first = sample(tars, tmp_path / "out", samples="10")
        before = files_in(tmp_path / "out")
        assert sample(tars, tmp_path / "out", samples="10") == first and files_in(tmp_path / "out") == before
        with pytest.raises(UsageError, match="was made with seed = 0, now it is 1"):
            sample(tars, tmp_path / "out", samples="10", seed=1)


class TestVerdicts:
    def judged(self, tars: list[str], out: Path, characters: int = 20) -> str:
        data = open_data(tars)
        made = Pass("long", out, {"characters": characters}, data, Workers(1), Quiet())
        if not made.open():
            made.map(LongEnough(characters))
            made.finish({})
        return str(out)

    def test_who_was_dropped_stays_out_with_his_reason(self, tars: list[str], tmp_path: Path) -> None:
        judged = self.judged(tars, tmp_path / "long", 24)
        before = {row["key"] + row["source"]: row for row in read_rows(judged)}
        kept = sum(row["keep"] for row in before.values())
        sample(tars, tmp_path / "out", samples=str(kept - 1), verdicts=[judged])
        rows = list(read_rows(tmp_path / "out"))
        assert 0 < kept < 100 and sum(row["keep"] for row in rows) == kept - 1
        for row in rows:
            was = before[row["key"] + row["source"]]
            assert row["keep"] <= was["keep"] and row["reason"] == (
                was["reason"] or ("" if row["keep"] else "not_drawn")
            )

    def test_verdicts_on_the_same_data_are_read_in_place_of_samples(
        self, tars: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        judged = self.judged(tars, tmp_path / "long")
        sample(tars, tmp_path / "read", samples="20", by="shard", verdicts=[judged], even_ngrams=None)
        monkeypatch.setattr(Data, "rows", lambda *_: pytest.fail("a sample was read"))
        sample(tars, tmp_path / "known", samples="20", by="shard", verdicts=[judged])
        assert files_in(tmp_path / "read") == files_in(tmp_path / "known")

    def test_verdicts_made_before_on_data_in_another_order(self, tars: list[str], tmp_path: Path) -> None:
        judged = self.judged(tars, tmp_path / "long")
        sample(tars, tmp_path / "one", samples="20", verdicts=[judged])
        sample(tars[::-1], tmp_path / "two", samples="20", verdicts=[judged])
        assert {row["id"] for row in drawn(tmp_path / "one")} == {row["id"] for row in drawn(tmp_path / "two")}

    def test_verdicts_that_say_nothing_of_a_sample(self, tars: list[str], tmp_path: Path) -> None:
        judged = self.judged(tars[:1], tmp_path / "long")
        with pytest.raises(UsageError, match=r"--verdicts .*long: say nothing of sample 000000; give verdicts on all"):
            sample(tars, tmp_path / "out", samples="5", verdicts=[judged])

    def test_a_column_of_theirs_makes_groups(self, tars: list[str], tmp_path: Path) -> None:
        records = [
            {**row.place(), "keep": True, "reason": "", "detail": "", "kind": "odd" if row.row % 3 else "even",
             "quality": 0.5, "holes": ("", None, " ", "full")[row.row % 4]}
            for part in open_data(tars[:2]).parts for row in open_data(tars[:2]).rows(part)
        ]  # fmt: skip
        extra = {"kind": "string", "quality": "double", "holes": "string"}
        write_table(tmp_path / "kinds/0.parquet", verdict_table(records, extra))
        kinds = str(tmp_path / "kinds")
        sample(tars[:2], tmp_path / "holes", samples="40", verdicts=[kinds], by="holes")
        assert Counter(row["group"] for row in drawn(tmp_path / "holes")) == {"(none)": 20, "full": 20}
        sample(tars[:2], tmp_path / "out", samples="40", verdicts=[kinds], by="kind")
        assert Counter(row["group"] for row in drawn(tmp_path / "out")) == {"even": 20, "odd": 20}
        with pytest.raises(UsageError, match=r"--by quality: holds 0\.5, which names no group"):
            sample(tars[:2], tmp_path / "q", samples="40", verdicts=[kinds], by="quality")
        with pytest.raises(UsageError, match="--by kin: is none of source, shard, lang, concepts, and no column"):
            sample(tars[:2], tmp_path / "q", samples="40", verdicts=[kinds], by="kin")

    def test_training_takes_what_was_drawn(self, tars: list[str], tmp_path: Path) -> None:
        sample(tars[:1], tmp_path / "out", samples="25")
        source = open_source(SourceConfig(name="large", path=tars[0], verdicts=[str(tmp_path / "out")]))
        assert [source.read(n).id for n in range(len(source))] == [row["id"] for row in drawn(tmp_path / "out")]


class TestMeanings:
    def test_languages(self, tmp_path: Path) -> None:
        texts = ["the cat with the hat"] * 30 + ["一只猫在桌子上"] * 6
        path = captions_tar(tmp_path / "two.tar", texts, [bytes(picture(n, 4, 4)) for n in range(36)])
        sample([str(path)], tmp_path / "out", samples="12", by="lang")
        assert Counter(row["group"] for row in drawn(tmp_path / "out")) == {"en": 6, "zh": 6}

    def concepts(self, folder: Path) -> Path:
        (folder / "words.txt").write_text("cat\ndog\nzebra\nunicorn\n")
        return folder / "words.txt"

    def test_rare_concepts_come_more_often(self, tars: list[str], tmp_path: Path) -> None:
        summary = sample(tars, tmp_path / "out", samples="20", concepts=self.concepts(tmp_path))
        groups = {one["group"]: (one["samples"], one["drawn"]) for one in summary["groups"]}
        assert {name: before for name, (before, _) in groups.items()} == {
            "cat": 100,
            "dog": 20,
            "zebra": 6,
            "unicorn": 0,
        }
        assert groups["cat"][1] == 20, "every caption has a cat"
        assert groups["dog"][1] / 20 > 0.4, "by chance a fifth would have a dog"
        assert {row["group"] for row in drawn(tmp_path / "out")} >= {"cat", "cat|dog"}

    def test_captions_of_no_concept_are_none(self, tars: list[str], tmp_path: Path) -> None:
        words = tmp_path / "words.txt"
        words.write_text("dog\n")
        assert sample(tars, tmp_path / "out", samples="20", concepts=words)["dropped"] == {
            "bad_json": 1,
            "no_concept": 80,
        }
        reasons = Counter(row["reason"] for row in read_rows(tmp_path / "out"))
        assert reasons == {"": 20, "no_concept": 80, "bad_json": 1}
        with pytest.raises(UsageError, match=r"--samples: 21 are asked for, 20 samples name a concept"):
            sample(tars, tmp_path / "more", samples="21", concepts=words)
        with pytest.raises(UsageError, match=r"21 are asked for, 10 samples are what --cap 10 leaves"):
            sample(tars, tmp_path / "more", samples="21", concepts=words, cap=10)
        assert sample(tars, tmp_path / "cap", concepts=words, cap=10)["drawn"] == 10

    @pytest.mark.parametrize("options", [{}, {"samples": "12"}, {"even_ngrams": 2}])
    def test_a_cap_holds_for_concepts_that_share_captions(
        self, tars: list[str], tmp_path: Path, options: dict[str, Any]
    ) -> None:
        words = tmp_path / "words.txt"
        words.write_text("\n".join([*WORDS[:4], "dog", "zebra"]))
        told = sample(tars, tmp_path / "out", concepts=words, cap=3, **options)
        of_each = Counter(name for row in drawn(tmp_path / "out") for name in row["group"].split("|"))
        assert {one["group"]: one["drawn"] for one in told["groups"] if one["drawn"]} == of_each
        assert max(of_each.values()) == 3 and told["drawn"] == len(drawn(tmp_path / "out"))
        if "samples" in options:
            assert told["drawn"] == 12
            return
        for row in read_rows(tmp_path / "out"):  # and nobody is left out who would have fitted
            names = row["group"].split("|") if row["group"] else []
            assert row["keep"] or not names or any(of_each[name] == 3 for name in names)

    def test_the_most_that_a_cap_leaves_can_be_had(self, tars: list[str], tmp_path: Path) -> None:
        words = tmp_path / "words.txt"
        words.write_text("\n".join([*WORDS, "dog", "zebra"]))
        most = sample(tars, tmp_path / "all", concepts=words, cap=3)["drawn"]
        assert sample(tars[::-1], tmp_path / "most", concepts=words, cap=3, samples=str(most))["drawn"] == most
        with pytest.raises(UsageError, match=f"{most + 1} are asked for, {most} samples are what --cap 3 leaves"):
            sample(tars, tmp_path / "more", concepts=words, cap=3, samples=str(most + 1))

    def test_even_ngrams_raise_entropy_and_distinct_ngrams(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        ranks = np.minimum(rng.zipf(1.4, (1500, 6)), 3000)
        texts = [" ".join(f"w{rank}" for rank in row) for row in ranks]
        path = captions_tar(tmp_path / "zipf.tar", texts, [picture(0, 4, 4)] * len(texts))
        told = sample([str(path)], tmp_path / "out", samples="300", even_ngrams=2)["ngrams"]
        assert told["drawn"]["captions"] == told["by_chance"]["captions"] == 300
        assert told["drawn"]["entropy_bits"] > told["by_chance"]["entropy_bits"] + 0.5
        assert told["drawn"]["distinct_per_caption"] > 1.1 * told["by_chance"]["distinct_per_caption"]

    def test_clusters_of_embeddings(self, tars: list[str], tmp_path: Path) -> None:
        rows = [row.place()["id"] for part in open_data(tars[:2]).parts for row in open_data(tars[:2]).rows(part)]
        vectors = np.eye(3)[[0] * 70 + [1] * 15 + [2] * 5] + 0.01
        folder = tmp_path / "embeddings"
        write_table(folder / "0.parquet", pa.table({"id": rows, "vector": list(vectors)}))
        summary = sample(tars[:2], tmp_path / "out", samples="30", embeddings=str(folder), clusters=3)
        assert [(one["samples"], one["drawn"]) for one in summary["groups"]] == [(70, 13), (15, 12), (5, 5)]
        (tmp_path / "empty").mkdir()
        with pytest.raises(
            UsageError, match=r"--embeddings .*empty: no embeddings .*column id and a column of vectors"
        ):
            sample(tars, tmp_path / "more", samples="30", embeddings=str(tmp_path / "empty"))
        with pytest.raises(UsageError, match=r"--embeddings .*: hold no vector for sample 0;"):
            sample(tars, tmp_path / "more", samples="30", embeddings=str(folder), clusters=3)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({}, "how many? give --samples N"),
        ({"samples": "5", "cap": 3}, "--cap is about groups; say which with --by"),
        ({"samples": "5", "natural": True}, "--natural is about groups"),
        ({"cap": 5, "by": "source", "quota": ["a=1"]}, "--quota: shares of how many"),
        ({"samples": "5", "by": "concepts"}, "give the list with --concepts FILE"),
        ({"samples": "5", "by": "source", "concepts": Path("x")}, "--concepts means --by concepts, but --by source"),
        (
            {"samples": "5", "concepts": Path("x"), "embeddings": "y"},
            "--embeddings means --by cluster, but --by concepts",
        ),
        ({"samples": "5", "clusters": 3}, "--clusters 3: of what? give --embeddings"),
        ({"samples": "5", "concepts": Path("x"), "quota": ["a=1"]}, "a caption may name several concepts"),
        ({"samples": "5", "out": None}, "--out DIR is missing"),
        ({"samples": "5", "by": "colour"}, "--by colour: is none of source, shard, lang, concepts"),
    ],
)
def test_wrong_use(tars: list[str], tmp_path: Path, options: dict[str, Any], line: str) -> None:
    with pytest.raises(UsageError) as caught:
        sample(tars, **{"out": tmp_path / "out", **options})
    assert line in str(caught.value) and "\n" not in str(caught.value)


KILLED = """
import sys, time
from pathlib import Path
from sailctl.core.curate import parts, passes
parts.ROWS = 19
from sailctl.core.curate.sample.request import SampleRequest
from sailctl.core.reporter import Quiet
write = passes.write_table
def slow(path, table):
    time.sleep(0.02)
    write(path, table)
passes.write_table = slow
if __name__ == "__main__":
    request = SampleRequest(sys.argv[2:], samples="31", by="source", out=Path(sys.argv[1]), processes=1)
    request.perform(Quiet())
"""


@pytest.mark.parametrize("folder", ["work", "verdicts"])
def test_killed_at_any_instant_it_goes_on(tars: list[str], tmp_path: Path, folder: str) -> None:
    sample(tars, tmp_path / "whole", samples="31", by="source")
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(tmp_path / "out"), *tars]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment)
    while process.poll() is None and len(list((tmp_path / "out" / folder).rglob("*.parquet"))) < 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out/summary.json").exists(), "killed before its end"
    sample(tars, tmp_path / "out", samples="31", by="source")
    left = {name: data for name, data in files_in(tmp_path / "out").items() if not name.endswith(".tmp")}
    assert left == files_in(tmp_path / "whole")


class TestCommand:
    def run(self, *words: str) -> Any:
        return CliRunner().invoke(app, ["curate", "sample", "--processes", "1", *words])

    def test_what_people_see(self, tars: list[str], tmp_path: Path) -> None:
        data = [word for path in tars for word in ("--data", path)]
        done = self.run(*data, "--samples", "50", "--by", "source", "--out", str(tmp_path / "out"))
        assert done.exit_code == 0, done.output
        assert "large        60     20  40.0%" in done.stdout and "drew 50 of 101 samples, seed 0" in done.stdout
        assert "100 could be drawn; dropped before: bad_json 1" in done.stdout
        assert f"next: sailctl curate write --data {tars[0]}" in done.stderr

    def test_json(self, tars: list[str], tmp_path: Path) -> None:
        done = self.run("--data", tars[0], "--samples", "5", "--out", str(tmp_path / "out"), "--json")
        assert json.loads(done.stdout)["drawn"] == 5

    def test_a_mixture_and_a_mistake(self, tars: list[str], tmp_path: Path) -> None:
        mixture = tmp_path / "mix.yaml"
        mixture.write_text(
            yaml.safe_dump({"sources": [{"name": "a", "path": tars[0]}, {"name": "b", "path": tars[1]}]})
        )
        done = self.run("--data", str(mixture), "--samples", "91", "--out", str(tmp_path / "out"))
        assert done.exit_code == 2 and "91 samples are asked for, there are 90" in done.stderr


def test_candidates_travel(tars: list[str]) -> None:
    import pickle

    from sailctl.core.curate.sample.rows import Grouping

    data = open_data(tars)
    work = pickle.loads(pickle.dumps(Candidates(data, (), Grouping("source"), None, None)))
    assert work(data.parts[0]).column_names == ["id", "source", "shard", "row", "key", "reason", "detail", "group"]
