"""The visual-understanding suite's scores: by hand, by a judge over real HTTP, by elements in two languages."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sailctl.cli import app
from sailctl.core.bench.elements import compare, elements, f1
from sailctl.core.bench.judge_proxy import JUDGE_OPTIONS
from sailctl.core.bench.questions import Questions, questions
from sailctl.core.bench.scorer import Scored
from sailctl.core.bench.suites import aggregate, load_suite
from sailctl.core.bench.understanding import score_understanding
from sailctl.core.engines.pool import HttpPool
from sailctl.core.engines.secret import Secret
from sailctl.core.errors import DataError, UsageError
from tests.bench.oracle import Oracle
from tests.bench.stub_judge import KEY, StubJudge
from tests.helpers_bench import b64, benchmark, png, write_tsv
from tests.helpers_data import write_tar

EN = (
    "A small brown dog is sitting on a wooden bench beside two children. The man in a blue striped shirt holds a red "
    "umbrella. A bicycle leans against the old brick wall. The sky above the houses is clear and blue."
)
ZH = (
    "一只棕色的小狗坐在木质长椅上，旁边站着两个孩子。穿着蓝色条纹衬衫的男人手持一把红色雨伞。"
    "一辆自行车靠在古老的砖墙上。房屋上方的天空是蓝色的，很晴朗。"
)
EN_SAID_OTHERWISE = (
    "The sky is blue and clear. An old brick wall, a bicycle leaning against it. A man with a red umbrella wears a "
    "striped blue shirt. Two kids stand beside a wooden bench, and a little brown dog sits on it."
)
ZH_SAID_OTHERWISE = (
    "天空晴朗，呈蓝色。自行车靠着古老的砖墙。男子穿着蓝色的条纹衬衫，拿着红色的伞。"
    "两个孩子站在木质的长椅旁边，一只棕色小狗坐在长椅上。"
)
EN_UNRELATED = "Rows of fresh vegetables fill the market stalls. A woman in a green apron weighs ripe tomatoes."
ZH_UNRELATED = "市场的摊位上摆满了新鲜的蔬菜。穿绿色围裙的女人正在称成熟的西红柿。"
WORDS = [*EN.split(), *re.findall("..?", ZH), "and", "的", ",", "。", "running", "two", "石狮子", "3", "(", "é", "\n"]
CAPTIONS = {"en": (EN, EN_SAID_OTHERWISE, EN_UNRELATED), "zh": (ZH, ZH_SAID_OTHERWISE, ZH_UNRELATED)}


def load(
    root: Path, references: Sequence[Sequence[str]], name: str = "DetailCaps_4870_EN", **changes: Any
) -> Questions:
    rows = [
        {"index": n, "image": b64(png(n)), "references": json.dumps(list(texts), ensure_ascii=False)}
        for n, texts in enumerate(references)
    ]
    write_tsv(root / f"{name}.tsv", rows)
    return questions(benchmark(name, **{"metric": "caption", "prompt": "caption", **changes}), root)


def score(found: Questions, texts: Mapping[str, str], tmp_path: Path, judge: Any = None) -> Scored:
    return score_understanding(found.benchmark, found, texts, judge=judge, cache=tmp_path / "judge-captions.jsonl")


class TestOcr:
    def test_by_hand(self, tmp_path: Path) -> None:
        found = load(
            tmp_path, [["hello world"], ["abcd"], ["abcd"], ["one", "twelve"], [""]], "SynthText", metric="ocr"
        )
        texts = {"0": "Hello  World", "1": "abc", "2": "a", "3": "twelf", "4": ""}
        scored = score(found, texts, tmp_path)
        near = [1.0, 3 / 4, 1 / 4, 4 / 6, 1.0]  # "twelf" is two letters from "twelve"
        assert [item.score for item in scored.items] == pytest.approx([1.0, 3 / 4, 0.0, 4 / 6, 1.0])
        assert scored.raw == pytest.approx(100 * (1 + 0.75 + 0 + 4 / 6 + 1) / 5)
        assert scored.details["similarity"] == pytest.approx(100 * sum(near) / 5)
        assert scored.details["rule"].startswith("ANLS") and scored.details["left_out"] == 0
        assert (scored.fallback, scored.judge, scored.unparsed, scored.kit) == (None, None, (), None)
        assert [(item.index, item.group, item.parsed) for item in scored.items][3] == ("3", "3", True)

    def test_what_was_rejected_counts_and_what_was_not_answered_does_not(self, tmp_path: Path) -> None:
        rows = [{"index": n, "image": b64(png(n)), "answer": "word"} for n in range(3)]
        rows[1]["image"] = "a picture that is no base64 but longer than an index of any row ever is"
        write_tsv(tmp_path / "SynthText.tsv", rows)
        found = questions(benchmark("SynthText", metric="ocr", prompt="ocr"), tmp_path)
        scored = score(found, {"0": "word", "1": ""}, tmp_path)
        assert [item.score for item in scored.items] == [1.0, 0.0] and scored.raw == 50.0
        assert scored.details["left_out"] == 1
        with pytest.raises(DataError, match="there is no question '9', 1 such predictions"):
            score(found, {"0": "word", "9": "word"}, tmp_path)
        with pytest.raises(DataError, match="SynthText: no prediction to score"):
            score(found, {}, tmp_path)
        with pytest.raises(UsageError, match="SynthText: metric 'anls' is VLMEvalKit's"):
            score_understanding(
                benchmark("SynthText", metric="anls"), found, {"0": "x"}, judge=None, cache=tmp_path / "x"
            )

    def test_pages_are_read_whole(self, tmp_path: Path) -> None:
        drawn = random.Random(0)
        page = "".join(drawn.choices("abcdefghij \n", k=6000))
        found = load(tmp_path, [[page]], "IDL_WDS", metric="ocr", prompt="ocr")
        torn = "".join(letter for place, letter in enumerate(page) if place % 10)  # every tenth letter is missing
        assert score(found, {"0": torn}, tmp_path).raw == pytest.approx(90, abs=1.5)


def pool(stub: StubJudge, **options: Any) -> HttpPool:
    return HttpPool([stub.url], "pinned-1", api_key=Secret(KEY), options=replace(JUDGE_OPTIONS, **options))


def told(precision: float, recall: float) -> str:
    """A caption whose judgement the stub gives away."""
    return f'A dog. judge={{"precision": {precision}, "recall": {recall}}} | so it says'


class TestJudge:
    def test_by_hand_and_nothing_is_asked_twice(self, tmp_path: Path) -> None:
        found = load(tmp_path, [["first", "second", "third", "the fourth"]] * 6)
        texts = {
            "0": told(10, 10),
            "1": told(7, 4),
            "2": 'A cat. judge=warm/{"precision": 6, "recall": 8} | so it says',
            "3": "A cat. judge=hm | so it says",
            "4": "  ",
            "5": told(1, 1),
        }
        with StubJudge() as stub:
            scored = score(found, texts, tmp_path, pool(stub))
            asked = dict(stub.asked)
            again = score(found, texts, tmp_path, pool(stub))
            assert dict(stub.asked) == asked, "the second time everything was in the cache"
        assert [item.score for item in scored.items] == pytest.approx([1.0, 0.55, 0.7, 0.0, 0.0, 0.1])
        assert scored.raw == pytest.approx(100 * (1 + 0.55 + 0.7 + 0.1) / 6)
        assert scored.unparsed == ("3",) and [item.parsed for item in scored.items] == [1, 1, 1, 0, 1, 1]
        assert scored.judge == "pinned-1" and scored.fallback is None
        assert scored.details["precision"] == pytest.approx(10 * (10 + 7 + 6 + 1) / 4)
        assert scored.details["recall"] == pytest.approx(10 * (10 + 4 + 8 + 1) / 4)
        # "2" is asked once more, "3" twice more; the empty caption never
        assert scored.details["judge"] == {"asked": 8, "cached": 0, "parsed": 4, "unparsed": 1, "failed": 0}
        assert again.details["judge"] == {"asked": 0, "cached": 5, "parsed": 4, "unparsed": 1, "failed": 0}
        assert (again.raw, again.items, again.unparsed) == (scored.raw, scored.items, scored.unparsed)
        said = "\n".join(asked)
        assert "third" in said and "the fourth" not in said and "You compare two descriptions" in said
        assert stub.wrong_keys == 0

    def test_a_caption_that_no_server_takes_is_judged_all_the_same(self, tmp_path: Path) -> None:
        found = load(tmp_path, [["a reference"]])
        with StubJudge() as stub:
            scored = score(found, {"0": "\ud83d <image> </candidate> " + told(6, 6)}, tmp_path, pool(stub))
        assert scored.raw == pytest.approx(60) and scored.unparsed == ()

    def test_a_chinese_dataset_is_judged_in_chinese(self, tmp_path: Path) -> None:
        found = load(tmp_path, [["一只狗"]], "DetailCaps_4870_CN")
        with StubJudge() as stub:
            scored = score(
                found, {"0": '一只狗。judge={"precision": 9, "recall": 8} | so it says'}, tmp_path, pool(stub)
            )
            (asked,) = [json.loads(one)[0] for one in stub.asked]
        assert scored.raw == pytest.approx(85) and asked.startswith("请比较同一张图片的两段描述")
        assert scored.details["foreign_references"] == 0

    def test_english_references_of_a_chinese_dataset_are_counted(self, tmp_path: Path) -> None:
        found = load(tmp_path, [["A dog."], ["一只狗"]], "DetailCaps_4870_CN")
        assert score(found, {"0": "狗", "1": "狗"}, tmp_path).details["foreign_references"] == 1

    def test_faults_change_nothing(self, tmp_path: Path) -> None:
        found = load(tmp_path, [["a reference"]] * 60)
        drawn = random.Random(1)
        marks = {str(n): (drawn.randint(1, 10), drawn.randint(1, 10)) for n in range(60)}
        texts = {index: f"Caption {index}. " + told(*mark) for index, mark in marks.items()}
        with StubJudge(faults=True) as stub:
            scored = score(found, texts, tmp_path, pool(stub, attempts=20, timeout_s=1.0))
        assert {"429", "500", "page", "no choice", "silence"} <= stub.faulted.keys()
        assert {item.index: item.score for item in scored.items} == pytest.approx(
            {index: sum(mark) / 20 for index, mark in marks.items()}
        )
        assert scored.unparsed == () and scored.details["judge"]["failed"] == 0

    def test_what_is_given_up_counts_as_wrong_and_is_asked_anew(self, tmp_path: Path) -> None:
        found = load(tmp_path, [["a reference"]] * 8)
        texts = {str(n): f"Caption {n}. " + told(10, 10) for n in range(8)}
        texts["3"] = "A cat. judge=dead | so it says"
        with StubJudge() as stub:
            scored = score(found, texts, tmp_path, pool(stub, attempts=2))
            assert scored.unparsed == ("3",) and scored.raw == pytest.approx(100 * 7 / 8)
            assert scored.details["judge"] == {"asked": 8, "cached": 0, "parsed": 7, "unparsed": 0, "failed": 1}
            before = sum(stub.asked.values())
            again = score(found, texts, tmp_path, pool(stub, attempts=2))
            assert sum(stub.asked.values()) > before and again.details["judge"]["cached"] == 7

    def test_without_a_judge_the_fallback_is_told(self, tmp_path: Path) -> None:
        found = load(tmp_path, [[EN_UNRELATED, EN], [EN]])
        texts = {"0": EN, "1": EN_UNRELATED}
        scored = score(found, texts, tmp_path)
        assert [item.score for item in scored.items] == [1.0, 0.0], "the nearest reference counts"
        assert scored.raw == 50.0 and scored.fallback == "element F1, no judge" and scored.judge is None
        assert scored.details["f1"] == {"attributes": 50.0, "objects": 50.0, "relations": 50.0}
        on_purpose = score(load(tmp_path, [[EN_UNRELATED, EN], [EN]], metric="element_f1"), texts, tmp_path)
        assert on_purpose.fallback is None and on_purpose.items == scored.items

    def test_a_judge_is_not_asked_about_what_has_a_rule(self, tmp_path: Path) -> None:
        with StubJudge() as stub:
            for metric in ("ocr", "element_f1"):
                found = load(tmp_path, [["A red car."]], metric=metric)
                scored = score(found, {"0": "A red car."}, tmp_path, pool(stub))
                assert scored.raw == 100.0 and scored.judge is None
            assert not stub.asked


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=40), st.sampled_from(["en", "zh"]))
def test_any_text_has_a_score_and_equals_itself(words: list[str], language: str) -> None:
    text, other = " ".join(words), "".join(words[::2])
    found = compare(text, other, language)
    assert all(0.0 <= value <= 1.0 for value in found.values()) and 0.0 <= f1(found) <= 1.0
    if language == "en":  # where elements are equal or not, neither side is favoured
        assert found == compare(other, text, language)
    assert f1(compare(text, text, language)) == float(any(elements(text, language).values()))


class TestElements:
    def test_english_by_hand(self) -> None:
        found = elements(EN, "en")
        assert {one for (one,) in found["objects"]} == {
            "dog", "bench", "child", "man", "shirt", "umbrella", "bicycle", "wall", "sky", "house"
        }  # fmt: skip
        assert {("dog", "small"), ("dog", "brown"), ("bench", "wooden"), ("child", "two"), ("wall", "brick")} <= found[
            "attributes"
        ]
        assert {("dog", "on", "bench"), ("bench", "beside", "child"), ("bicycle", "against", "wall")} <= found[
            "relations"
        ]
        # behind its verb, an attribute belongs to what stands before it
        assert elements("The dog is brown.", "en")["attributes"] == {("dog", "brown")}
        assert elements("A red car and a blue bus.", "en")["attributes"] == {("car", "red"), ("bus", "blue")}

    def test_what_belongs_to_what(self) -> None:
        found = elements(
            "A smiling woman with long, curly hair stands in a bustling kitchen, near a coffee table.", "en"
        )
        assert found["attributes"] == {
            ("woman", "smiling"),
            ("hair", "long"),
            ("hair", "curly"),
            ("kitchen", "bustling"),
        }
        assert {("hair", "in", "kitchen"), ("kitchen", "near", "table")} <= found["relations"]
        assert elements("A cat next to a cup.", "en")["relations"] == {("cat", "next-to", "cup")}
        found = elements("这张图片展示了一名穿着黑色外套的中年男子骑着一辆红色的摩托车行驶在街道上。", "zh")
        assert found["objects"] == {("外套",), ("男人",), ("摩托车",), ("道路",)}
        assert found["attributes"] == {("外套", "黑"), ("男人", "中年"), ("摩托车", "红")}
        assert found["relations"] == {("男人", "骑", "摩托车"), ("摩托车", "行驶", "道路")}

    def test_chinese_by_hand(self) -> None:
        found = elements(ZH, "zh")
        assert {one for (one,) in found["objects"]} == {
            "狗", "长椅", "孩", "衬衫", "男人", "伞", "自行车", "砖墙", "房", "天空"
        }  # fmt: skip
        assert {("狗", "棕"), ("长椅", "木质"), ("孩", "两"), ("伞", "红"), ("天空", "蓝"), ("天空", "晴朗")} <= found[
            "attributes"
        ]
        assert {("狗", "坐", "长椅"), ("自行车", "靠", "砖墙")} <= found["relations"]

    def test_f1_by_hand(self) -> None:
        # objects: dog, ball of dog, ball, tree; attributes: the one of one; relations: none of one
        found = compare("A brown dog, a ball, a cup.", "A brown dog beside a ball, a tree.", "en")
        assert found == {"objects": pytest.approx(2 * 2 / 6), "attributes": 1.0, "relations": 0.0}
        assert f1(found) == pytest.approx((5 * 2 / 3 + 5 * 1 + 2 * 0) / 12)
        # a kind that neither has does not count
        assert f1(compare("dog", "dogs", "en")) == 1.0 and compare("dog", "dogs", "en") == {"objects": 1.0}
        assert f1(compare("", "A dog.", "en")) == 0.0 == f1(compare("", "", "en"))

    @pytest.mark.parametrize("language", ["en", "zh"])
    def test_it_ranks_captions(self, language: str) -> None:
        reference, otherwise, unrelated = CAPTIONS[language]
        stop = "。" if language == "zh" else ". "
        sentences = reference.rstrip("。.").split(stop)
        backwards = stop.join(reversed(sentences))
        half = stop.join(sentences[: len(sentences) // 2])
        marks = [f1(compare(text, reference, language)) for text in (reference, backwards, otherwise, half, unrelated)]
        assert marks[0] == marks[1] == 1.0
        assert 0.7 < marks[2] < 1.0
        assert 0.4 < marks[3] < 0.85 and marks[3] < marks[2]
        assert marks[4] < 0.1
        both = reference + unrelated  # what is not there costs
        assert marks[4] < f1(compare(both, reference, language)) < 0.9

    @pytest.mark.parametrize("language", ["en", "zh"])
    def test_leaving_right_sentences_out_costs_each_time(self, language: str) -> None:
        reference = CAPTIONS[language][0]
        stop = "。" if language == "zh" else ". "
        drawn = random.Random(2)
        for _ in range(10):
            left = reference.rstrip("。.").split(stop)
            marks = [1.0]
            while len(left) > 1:
                left.pop(drawn.randrange(len(left)))
                marks.append(f1(compare(stop.join(left), reference, language)))
            assert all(later < earlier for earlier, later in pairwise(marks)), marks


def test_overall_weighs_captions_two_and_ocr_five(tmp_path: Path) -> None:
    suite = load_suite("understanding")
    raw: dict[str, float] = {}
    for place, one in enumerate(suite.benchmarks):
        if one.metric == "caption":
            found = load(tmp_path, [[EN if one.dataset.endswith("EN") else ZH]], one.dataset)
            texts = {"0": EN if one.dataset.endswith("EN") else ""}
        else:
            found = load(tmp_path, [["abcdefghij"]], one.dataset, metric="ocr", prompt="ocr")
            texts = {"0": "abcdefghij"[: 10 - place]}  # two to six letters are missing: 0 from five on
        raw[one.name] = score(replace_benchmark(found, one), texts, tmp_path).raw
    assert raw["DetailCaps-4870-EN"] == 100.0 and raw["DetailCaps-4870-CN"] == 0.0
    assert [raw[name] for name in ("IDL-WDS", "DocStruct", "SynthText", "SynthDog-EN", "SynthDog-ZH")] == pytest.approx(
        [80.0, 70.0, 60.0, 0.0, 0.0]
    )
    averages = aggregate(suite, raw)
    assert averages == pytest.approx({"Caption": 50.0, "OCR": 42.0, "Overall": (2 * 50 + 5 * 42) / 7})


def replace_benchmark(found: Questions, one: Any) -> Questions:
    """The questions as the suite has them."""
    found.benchmark = one
    return found


def test_the_suite_by_the_command_from_parquet_and_tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    answers: dict[str, str] = {}
    for one in load_suite("understanding").benchmarks:
        folder = tmp_path / "data" / one.dataset
        folder.mkdir(parents=True)
        names = [f"{one.name}/{n}" for n in range(6)]
        if one.metric == "caption":
            answers |= {name: told(n + 5, 8) for n, name in enumerate(names)}
            references = dict.fromkeys(("GT_Caption_GPT4O", "GT_Caption_GPT4V", "GT_Caption_Gemini15Pro"), "A dog.")
            records = [{"binary": png(n), "question": f"[{name}] What?", **references} for n, name in enumerate(names)]
            pq.write_table(pa.Table.from_pylist(records), folder / "test-00000-of-00001.parquet")
        else:
            answers |= {name: "twenty-letters-in-it"[: 20 - 2 * n] for n, name in enumerate(names)}
            said = {n: {"question": f"[{name}] Read.", "text": "twenty-letters-in-it"} for n, name in enumerate(names)}
            members = [(f"{n}.png", png(n)) for n in said] + [(f"{n}.json", json.dumps(said[n]).encode()) for n in said]
            write_tar(folder / "00000.tar", sorted(members))
    with Oracle(answers) as oracle, StubJudge() as stub:
        words = [
            *("bench", "--suite", "understanding", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")),
            *("--endpoint", oracle.url, "--model", "oracle", "--json"),
        ]
        judge = ["--judge-endpoint", stub.url, "--judge-model", "pinned-1"]
        first = CliRunner().invoke(app, [*words, *judge])
        asked = sum(stub.asked.values()), sum(oracle.asked.values())
        again = CliRunner().invoke(app, [*words, *judge])
        assert (sum(stub.asked.values()), sum(oracle.asked.values())) == asked == (12, 42)
        without = CliRunner().invoke(app, words)
    assert (first.exit_code, again.exit_code, without.exit_code) == (0, 0, 0), first.output
    results, unjudged = json.loads(first.stdout), json.loads(without.stdout)
    anls = (1 + 0.9 + 0.8 + 0.7 + 0.6 + 0) / 6  # the last is half of it
    assert results["averages"]["Caption"]["score"] == pytest.approx((7.5 + 8) / 20)
    assert results["averages"]["OCR"]["score"] == pytest.approx(anls)
    assert results["averages"]["Overall"]["score"] == pytest.approx((2 * 15.5 / 20 + 5 * anls) / 7)
    assert json.loads(again.stdout)["averages"] == results["averages"]
    found = unjudged["benchmarks"]["DetailCaps-4870-EN"]
    assert found["fallback"] == "element F1, no judge" and found["judge"] is None
    assert results["benchmarks"]["DetailCaps-4870-EN"]["judge"] == "pinned-1"
