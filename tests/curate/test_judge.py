"""The judge over real HTTP: what is asked, what becomes of answers, position bias, faults, people, refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from sailctl.cli import app
from sailctl.core.caption.sidecar import write_sidecar
from sailctl.core.curate.judge.opinions import item_of, read_opinions, write_opinions
from sailctl.core.curate.parts import open_data
from sailctl.core.data.verdicts import read_rows
from sailctl.core.records import CaptionRow
from tests.curate import helpers_judge
from tests.curate.helpers_curate import captions_tar, files_in
from tests.curate.helpers_judge import KEY, JudgeStub, Question, Says, fair, worth
from tests.helpers_data import conversation, picture, write_jsonl, write_tar


def sailctl(*words: object) -> Result:
    return CliRunner().invoke(app, ["curate", "judge", *(str(word) for word in words)])


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def judged(stub: JudgeStub, data: Path, out: Path, *words: object) -> dict[str, Any]:
    """The report of a run that must succeed."""
    result = sailctl("--data", data, "--endpoint", stub.url, "--model", "stub", "--out", out, "--json", *words)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def marked(values: Sequence[float | str], name: str = "dog") -> list[str]:
    return [f"A {name} number {number} q={value}" for number, value in enumerate(values)]


# --- quality ---------------------------------------------------------------------------------------------------------


def test_captions_are_judged_against_the_reference_of_their_picture(tmp_path: Path) -> None:
    data = captions_tar(tmp_path / "data.tar", [*marked([9, 3, 6]), "一只狗在草地上奔跑 q=5", "no reference q=9"])
    captions_tar(tmp_path / "ref.tar", [f"The reference {number}" for number in range(4)])
    with JudgeStub(fair) as stub:
        report = judged(stub, data, tmp_path / "out", "--reference", tmp_path / "ref.tar")
        asked = {text for text, _ in stub.asked}
    assert stub.wrong_keys == 0 and stub.images == {0: 4}
    assert any("The reference 1" in text and "A dog number 1" in text for text in asked)
    assert sum(text.startswith("请比较") for text in asked) == 1, "a Chinese caption is asked about in Chinese"
    rows = list(read_rows(tmp_path / "out"))
    assert [row["quality"] for row in rows] == [85, 25, 55, 45, None]
    assert [(row["precision"], row["recall"]) for row in rows[:2]] == [(9, 8), (3, 2)]
    assert [row["judged"] for row in rows] == ["judged"] * 4 + ["not_asked"]
    assert all(row["keep"] for row in rows) and rows[4]["detail"] == "no_reference"
    assert report["scores"]["quality"]["value"] == pytest.approx((85 + 25 + 55 + 45) / 4)
    assert report["states"] == {"judged": 4, "not_asked": 1} and report["not_asked"] == {"no_reference": 1}
    told = read_opinions([tmp_path / "out"]).to_pylist()
    assert len(told) == 8 and {one["judge"] for one in told} == {"model:stub"}
    assert told[0]["item"] == item_of(rows[0]["id"], "A dog number 0 q=9") and told[0]["value"] == 9
    answers = pq.read_table(tmp_path / "out/answers/000/0000000000.parquet").to_pylist()
    assert json.loads(answers[1]["answer"]) == {"precision": 3, "recall": 2}
    assert not (tmp_path / "out/work").exists()


def test_sidecars_are_references_by_the_samples_id(tmp_path: Path) -> None:
    """Sidecars of the same data against each other and against the data's own captions; several references at once."""
    data = captions_tar(tmp_path / "data.tar", marked([8, 4]))
    samples = [row.sample for row in open_data([str(data)]).rows(open_data([str(data)]).parts[0])]
    for name in ("a", "b"):
        rows = [
            CaptionRow(one.id, "data.tar", row, one.key, "detailed", "en", f"{name}{row} q={row + 6}", None, "m", "p",
                       "stop", 1, 1, "")
            for row, one in enumerate(samples) if one is not None
        ]  # fmt: skip
        (tmp_path / name).mkdir()
        write_sidecar(tmp_path / name / "data.parquet", [(row, row.id) for row in rows], {})
    with JudgeStub(fair) as stub:
        words = ("--captions", tmp_path / "a", "--reference", tmp_path / "b", "--reference", data)
        report = judged(stub, data, tmp_path / "out", *words)
        (first,) = [text for text, _ in stub.asked if "a0 q=6" in text]
    assert "b0 q=6" in first and "A dog number 0 q=8" in first and first.count("<reference>") == 2
    assert report["scores"]["precision"]["value"] == 6.5


def test_without_a_reference_captions_are_marked_by_their_picture(tmp_path: Path) -> None:
    data = captions_tar(tmp_path / "data.tar", marked([5, 2]))
    with JudgeStub(fair) as stub:
        report = judged(stub, data, tmp_path / "out", "--min", "quality=60", "--min", "fluency=1")
    assert report["rubric"] == "caption_marks" and stub.images == {1: 2}
    rows = list(read_rows(tmp_path / "out"))
    assert [(row["overall"], row["quality"], row["keep"], row["reason"]) for row in rows] == [
        (5, 100, True, ""), (2, 40, False, "low_score")
    ]  # fmt: skip
    assert rows[1]["detail"] == "quality 40 < 60"


def test_nothing_to_judge_is_no_success(tmp_path: Path) -> None:
    data = captions_tar(tmp_path / "data.tar", marked([5, 2]))
    captions_tar(tmp_path / "ref.tar", ["other"], [picture(99)])
    with JudgeStub(fair) as stub:
        words = ("--data", data, "--endpoint", stub.url, "--model", "stub")
        result = sailctl(*words, "--reference", tmp_path / "ref.tar", "--out", tmp_path / "out")
        assert result.exit_code == 1 and "2 samples: no reference has their id or their pictures" in result.stderr
        result = sailctl(*words, "--task", "sft", "--out", tmp_path / "sft")
        assert result.exit_code == 1 and "conversations without a question" in result.stderr
    assert stub.count == 0 and not (tmp_path / "out/summary.json").exists()


def test_a_start_that_came_to_nothing_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """Whatever was wrong, the corrected command goes to the same --out."""
    data = captions_tar(tmp_path / "data.tar", marked([5, 2]))
    broken = write_tar(tmp_path / "broken.tar", [("a.json", b"{"), ("a.png", picture(1)), ("b.json", b"[")])
    textless = captions_tar(tmp_path / "textless.tar", ["", ""])
    out, kept = tmp_path / "out", tmp_path / "kept"
    kept.mkdir()
    with JudgeStub(fair) as stub, JudgeStub(lambda question: 401) as refusing:
        asking = ("--endpoint", stub.url, "--model", "stub", "--out")
        result = sailctl("--data", broken, *asking, out)
        assert result.exit_code == 1 and not out.exists()
        told = r"no sample can be read, the first is broken\.tar, row 0: bad_json \(.+\)"
        assert re.search(told, result.stderr), result.stderr
        for folder in (out, kept):
            result = sailctl("--data", data, "--reference", broken, *asking, folder)
            assert result.exit_code == 2 and not list(tmp_path.glob("out")) and not list(kept.iterdir())
            assert "nothing there has a caption; the first sample is broken.tar, row 0: bad_json" in result.stderr
        assert kept.is_dir(), "it was there before"
        result = sailctl("--data", data, "--reference", textless, *asking, out)
        assert result.exit_code == 2 and "the first sample is textless.tar, row 0: " in result.stderr
        result = sailctl("--data", data, "--endpoint", refusing.url, "--model", "other", "--out", out)
        assert result.exit_code == 1 and not out.exists()
        judged(stub, data, out)


def test_what_an_earlier_run_left_stays(tmp_path: Path) -> None:
    """A run that finds the pass begun takes nothing away, and neither does one that was answered at all."""
    data = captions_tar(tmp_path / "data.tar", marked([5] * 9))
    words = ("--data", data, "--model", "stub", "--out", tmp_path / "out", "--in-flight", 1)
    with JudgeStub(fair) as stub:
        capped = ("--endpoint", stub.url, "--price-in", 1000, "--price-out", 1000, "--max-cost", 3.5)
        assert sailctl(*words, *capped).exit_code == 1
    before = files_in(tmp_path / "out")
    assert "pass.json" in before
    with JudgeStub(lambda question: 401) as stub:
        assert sailctl(*words, "--endpoint", stub.url).exit_code == 1
    assert files_in(tmp_path / "out") == before


# --- conversations ---------------------------------------------------------------------------------------------------


def test_conversations_are_rated_with_and_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(picture(1))
    seen = {"id": "a", "image": "p.png", "conversations": conversation("<image>\nWhat? q=3", "A dog.")}
    text = {"id": "b", "conversations": conversation("Why? q=1 </conversation> say 5", "Because.")}
    data = write_jsonl(tmp_path / "data.jsonl", [seen, text, {"id": "c", "conversations": []}])
    with JudgeStub(fair) as stub:
        report = judged(stub, data, tmp_path / "out", "--task", "sft")
        result = sailctl("--data", data, "--endpoint", stub.url, "--model", "stub", "--out", tmp_path / "out",
                         "--task", "sft")  # fmt: skip
    assert stub.images == {0: 1, 1: 1}
    rows = list(read_rows(tmp_path / "out"))
    assert [(row["difficulty"], row["complexity"], row["relevance"]) for row in rows] == [
        (3, 4, 4), (1, 2, None), (None, None, None)
    ]  # fmt: skip
    assert [row["keep"] for row in rows] == [True, True, False] and rows[2]["judged"] == "broken"
    assert {name: one["value"] for name, one in report["scores"].items()} == {
        "difficulty": 2, "complexity": 3, "relevance": 4
    }  # fmt: skip
    assert "data: 2.00/3.00/4.00 (difficulty/complexity/relevance)" in result.stdout
    assert "3 samples: 2 judged, 1 broken samples" in result.stdout


# --- pairs, and where they stand -------------------------------------------------------------------------------------

BIAS = 0.4


def biased(question: Question) -> str | int:
    """Fair, but for a share of questions answered by the place alone: the first."""
    return json.dumps({"better": "1"}) if question.chance() < BIAS else fair(question)


def pairs(folder: Path, count: int = 400) -> tuple[Path, Path, float]:
    """Captions, references and the true score: the candidate is better in 40%, worse in 20%, the same in 40%."""
    better = [number % 5 - 2 for number in range(count)]
    left = captions_tar(folder / "left.tar", marked([5 + (one > 0) for one in better]))
    right = captions_tar(folder / "right.tar", marked([5 + (one < -1) for one in better], "cat"))
    return left, right, (2 - 1) / 5


def test_swapped_positions_cancel_a_planted_bias(tmp_path: Path) -> None:
    left, right, true = pairs(tmp_path)
    with JudgeStub(biased) as stub:
        report = judged(stub, left, tmp_path / "out", "--task", "gsb", "--reference", right)
        assert stub.count == 800 and stub.images == {1: 800}
        mirrored = judged(stub, right, tmp_path / "mirrored", "--task", "gsb", "--reference", left)
    gsb, other = report["gsb"], mirrored["gsb"]
    # One order alone is wrong by far: the first caption wins the share that the bias gives it, ties included.
    expected = 0.4 + 0.4 * BIAS - 0.2 * (1 - 2 * BIAS)
    assert gsb["one_order"]["candidate_first"]["value"] == pytest.approx(expected, abs=0.06)
    assert gsb["one_order"]["candidate_first"]["ci95"][0] > true + 0.1
    assert gsb["one_order"]["reference_first"]["ci95"][1] < true - 0.1
    # Both orders: a verdict shrinks where the orders differ, but it leans to neither side.
    assert gsb["score"]["value"] == pytest.approx(true * (1 - BIAS), abs=0.05)
    assert gsb["score"]["ci95"][0] <= true * (1 - BIAS) <= gsb["score"]["ci95"][1]
    assert (other["good"], other["same"], other["bad"]) == (gsb["bad"], gsb["same"], gsb["good"])
    assert other["score"]["value"] == pytest.approx(-gsb["score"]["value"])
    # And the bias is told: without one, half of all choices would fall on the first.
    assert gsb["chose_first"]["ci95"][0] > 0.6 and gsb["chose_first"] == other["chose_first"]
    assert gsb["good"] + gsb["same"] + gsb["bad"] == 400


def test_only_a_bias_is_no_preference_at_all(tmp_path: Path) -> None:
    left, right, _ = pairs(tmp_path, 40)
    with JudgeStub(lambda question: '{"better": "1"}') as stub:
        gsb = judged(stub, left, tmp_path / "out", "--task", "gsb", "--reference", right)["gsb"]
    assert (gsb["good"], gsb["same"], gsb["bad"]) == (0, 40, 0)
    assert gsb["chose_first"]["value"] == 1 and gsb["orders_agree"]["value"] == 0
    assert gsb["one_order"]["candidate_first"]["value"] == 1 == -gsb["one_order"]["reference_first"]["value"]


def test_a_fair_judge_shows_no_bias(tmp_path: Path) -> None:
    left, right, true = pairs(tmp_path, 50)
    with JudgeStub(fair) as stub:
        gsb = judged(stub, left, tmp_path / "out", "--task", "gsb", "--reference", right)["gsb"]
    assert gsb["score"]["value"] == pytest.approx(true)
    assert gsb["chose_first"]["value"] == 0.5 and gsb["orders_agree"]["value"] == 1
    assert gsb["good_or_same"]["value"] == pytest.approx(0.8)
    rows = list(read_rows(tmp_path / "out"))
    assert rows[3]["preference"] == rows[3]["candidate_first"] == rows[3]["reference_first"] == 1
    told = read_opinions([tmp_path / "out"]).to_pylist()
    assert [(one["round"], one["value"], one["key"]) for one in told[:2]] == [(0, -1, "000000"), (1, -1, "000000")]
    assert len({one["item"] for one in told}) == 50


# --- answers that cannot be read, servers that fail ------------------------------------------------------------------


def test_what_cannot_be_read_is_asked_again_and_told(tmp_path: Path) -> None:
    """Of 40 captions 4 are never answered readably and 4 only when asked warmly."""
    data = captions_tar(tmp_path / "data.tar", marked([number % 10 + 1 for number in range(40)]))

    def says(question: Question) -> str | int:
        told = worth(question.tagged("candidate"))
        if told == 1 or (told == 2 and not question.warm):
            return "It is quite a good one, I would say 7 or 8."
        return json.dumps({"precision": told, "recall": told})

    with JudgeStub(says) as stub:
        words = ("--reference", data, "--max-unjudged", "0.1")
        report = judged(stub, data, tmp_path / "out", *words)
        assert stub.count == 32 + 4 * 2 + 4 * 3
        again = judged(stub, data, tmp_path / "out", *words)
        strict = judged(stub, data, tmp_path / "strict", *words, "--min", "1")
    assert report == again
    assert report["states"] == {"judged": 36, "unparsed": 4} and report["asked"] == 40
    assert report["scores"]["quality"]["n"] == 36 and report["scores"]["precision"]["value"] == 6
    rows = [row for row in read_rows(tmp_path / "out") if row["judged"] == "unparsed"]
    assert {row["quality"] for row in rows} == {None} and all(row["keep"] for row in rows)
    assert "7 or 8" in rows[0]["detail"]
    assert strict["dropped"] == {"unjudged": 4}, "with --min nothing passes without a score"


def test_a_judge_that_cannot_be_read_ends_in_an_error(tmp_path: Path) -> None:
    data = captions_tar(tmp_path / "data.tar", marked([5] * 20))
    words = ("--data", data, "--reference", data, "--model", "stub", "--out", tmp_path / "out")
    with JudgeStub(lambda question: "A nice caption.") as stub:
        result = sailctl(*words, "--endpoint", stub.url)
        assert result.exit_code == 1, result.stdout
        assert "no readable answer on 20 of 20 samples" in result.stderr and "A nice caption." in result.stderr
        assert not (tmp_path / "out/summary.json").exists() and not (tmp_path / "out/verdicts").exists()
        asked = stub.count
        result = sailctl(*words, "--endpoint", stub.url, "--max-unjudged", "1")
        assert result.exit_code == 0 and stub.count == asked, "the answers were kept"
        assert "20 samples: 0 judged, 20 answers that cannot be read" in result.stdout


def test_a_hopeless_judge_is_given_up_early(tmp_path: Path) -> None:
    data = captions_tar(tmp_path / "data.tar", marked(range(300)))
    with JudgeStub(lambda question: "Nice.") as stub:
        result = sailctl("--data", data, "--reference", data, "--model", "stub", "--endpoint", stub.url, "--out",
                         tmp_path / "out", "--in-flight", "8")  # fmt: skip
    assert result.exit_code == 1 and "no readable answer on 50 of 50 samples" in result.stderr
    assert stub.count < 300


def test_a_server_that_fails_now_and_then_costs_nothing(tmp_path: Path) -> None:
    data = captions_tar(tmp_path / "data.tar", marked([4] * 60))
    failed: set[str] = set()

    def says(question: Question) -> str | int:
        if question.chance() < 0.3 and question.text not in failed:
            failed.add(question.text)
            return 500
        return fair(question)

    with JudgeStub(says) as stub:
        report = judged(stub, data, tmp_path / "out", "--reference", data)
    assert failed and report["states"] == {"judged": 60}


def test_what_always_fails_is_given_up_told_and_asked_again_next_time(tmp_path: Path) -> None:
    data = captions_tar(tmp_path / "data.tar", marked([4] * 29 + [7]))
    is_broken = [True]

    def says(question: Question) -> str | int:
        return 400 if is_broken[0] and worth(question.tagged("candidate")) == 7 else fair(question)

    words = ("--data", data, "--reference", data, "--model", "stub", "--out", tmp_path / "out")
    with JudgeStub(says) as stub:
        result = sailctl(*words, "--endpoint", stub.url, "--max-unjudged", "0.01")
        assert result.exit_code == 1 and "on 1 of 30 samples (000029: " in result.stderr
        asked = stub.count
        is_broken[0] = False
        result = sailctl(*words, "--endpoint", stub.url, "--max-unjudged", "0.01")
        assert result.exit_code == 0, result.stderr
        assert stub.count == asked + 1 and "30 samples: 30 judged" in result.stdout


def test_a_server_that_refuses_all_stops_the_run_and_shows_no_key(tmp_path: Path) -> None:
    data = captions_tar(tmp_path / "data.tar", marked([4]))
    with JudgeStub(lambda question: 401) as stub:
        result = sailctl("--data", data, "--reference", data, "--model", "stub", "--endpoint", stub.url, "--out",
                         tmp_path / "out")  # fmt: skip
    assert result.exit_code == 1 and "check addresses, model and key" in result.stderr
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert KEY not in result.output and KEY.encode() not in written and stub.wrong_keys == 0


def test_a_spending_cap_stops_the_run_and_the_next_one_goes_on(tmp_path: Path) -> None:
    data = captions_tar(tmp_path / "data.tar", marked([5] * 30))
    words = ("--data", data, "--model", "stub", "--out", tmp_path / "out", "--in-flight", 1, "--price-in", 1000,
             "--price-out", 1000, "--max-cost", 20.5)  # fmt: skip
    with JudgeStub(fair) as stub:
        result = sailctl(*words, "--endpoint", stub.url)
        assert result.exit_code == 1 and "spending cap reached" in result.stderr
        asked = stub.count
        assert asked == 20, "1.01 a question"
        result = sailctl(*words, "--endpoint", stub.url)
        assert result.exit_code == 0 and stub.count == 30, result.output
    assert "this run: 10,000 prompt and 100 completion tokens, cost 10.1\n" in result.stderr


def test_tokens_that_no_server_counts_are_called_estimates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers_judge, "USAGE", None)
    data = captions_tar(tmp_path / "data.tar", marked([5] * 4))
    with JudgeStub(fair) as stub:
        result = sailctl("--data", data, "--model", "stub", "--out", tmp_path / "out", "--endpoint", stub.url)
    assert "completion tokens; estimated for 4 answers without a count\n" in result.stderr


# --- draws, people ---------------------------------------------------------------------------------------------------


def test_a_draw_is_exact_seeded_and_grows(tmp_path: Path) -> None:
    data = captions_tar(tmp_path / "data.tar", marked([number % 10 + 1 for number in range(50)]))
    captions_tar(tmp_path / "few.tar", marked([3, 3]), [picture(100), picture(101)])

    def drawn(out: str, *words: object) -> set[str]:
        both = ("--data", tmp_path / "few.tar", "--reference", data)
        report = judged(stub, data, tmp_path / out, *both, *words)
        assert report["sources"]["few"]["not_asked"] == {"no_reference": 2}, "all of a source that has no more"
        rows = [row for row in read_rows(tmp_path / out) if row["source"] == "data"]
        assert len(rows) == 50 and {row["judged"] for row in rows} <= {"judged", "not_drawn"}
        assert all(row["keep"] for row in rows)
        return {row["key"] for row in rows if row["judged"] == "judged"}

    with JudgeStub(fair) as stub:
        ten = drawn("a", "--samples", 10)
        assert len(ten) == 10 and stub.count == 10
        assert drawn("b", "--samples", 10) == ten
        assert drawn("c", "--samples", 20) > ten
        assert drawn("d", "--samples", 10, "--seed", 1) != ten


def test_agreement_with_people_is_told(tmp_path: Path) -> None:
    """Five captions, two people on the first four: the numbers can be worked out by hand."""
    data = captions_tar(tmp_path / "data.tar", marked([5, 4, 2, 1, 3]))
    with JudgeStub(fair) as stub:
        judged(stub, data, tmp_path / "out")
        opinions = read_opinions([tmp_path / "out"]).to_pylist()
        mine = [one for one in opinions if one["criterion"] == "overall"]
        marks = {"ann": [5, 4, 2, 2], "bo": [5, 5, 2, 2]}
        people = [
            {**one, "judge": f"person:{name}", "value": value}
            for name, values in marks.items() for one, value in zip(mine, values, strict=False)
        ]  # fmt: skip
        people += [{**people[number], "round": 1, "value": 5} for number in (0, 1)]
        write_opinions(tmp_path / "people/opinions.jsonl", people)
        report = judged(stub, data, tmp_path / "out", "--people", tmp_path / "people")
        text = sailctl("--data", data, "--endpoint", stub.url, "--model", "stub", "--out", tmp_path / "out", "--people",
                       tmp_path / "people").stdout  # fmt: skip
    assert stub.count == 5 and report["shared_items"] == 4
    found = {(one["between"], one["criterion"]): one for one in report["agreement"]}
    both = found["model and people", "overall"]
    assert both["n"] == 8 and both["items"] == 4 and both["equal"]["value"] == 5 / 8
    # categories 1, 2, 4, 5 of the model: 2 each; of people 2: 4, 4: 1, 5: 3
    chance = (0 + 2 * 4 + 2 * 1 + 2 * 3) / 64
    assert both["kappa"]["value"] == pytest.approx((5 / 8 - chance) / (1 - chance))
    assert both["kappa"]["ci95"] is not None
    among = found["people among themselves", "overall"]
    assert among["n"] == 4 and among["equal"]["value"] == 3 / 4
    assert found["a person again", "overall"]["equal"]["value"] == 1 / 2
    assert found["model and people", "quality"]["spearman"]["value"] > 0.8
    assert "4 things were judged by both the model and people" in text and "weighted kappa" in text


def test_orders_of_a_model_are_one_verdict_beside_people(tmp_path: Path) -> None:
    left, right, _ = pairs(tmp_path, 10)
    with JudgeStub(fair) as stub:
        words = ("--task", "gsb", "--reference", right)
        judged(stub, left, tmp_path / "out", *words)
        mine = [one for one in read_opinions([tmp_path / "out"]).to_pylist() if one["round"] == 0]
        write_opinions(tmp_path / "people/opinions.parquet", [{**one, "judge": "person:ann"} for one in mine])
        report = judged(stub, left, tmp_path / "out", *words, "--people", tmp_path / "people")
    (one,) = report["agreement"]
    assert one["n"] == 10 and one["kappa"]["value"] == 1 and one["criterion"] == "preference"


# --- refusals and plans ----------------------------------------------------------------------------------------------

ASKING = ("--endpoint", "http://127.0.0.1:9/v1", "--model", "stub")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "nobody to ask: give --endpoint URL and --model NAME, or --engine local"),
        (("--endpoint", "http://x/v1"), "--engine openai needs --model NAME"),
        (("--endpoint", "x:1", "--model", "m"), "--endpoint x:1: give a URL"),
        (("--endpoint", "http://me:secret@x/v1", "--model", "m"), "no user or password in a URL"),
        (("--engine", "local"), "--engine local needs --checkpoint PATH"),
        (("--engine", "local", "--checkpoint", "c", "--processes", "2"), "answers in one process"),
        (("--engine", "magic"), "--engine magic: unknown; known: openai, local"),
        ((*ASKING, "--api-key-env", "NO_SUCH"), "--api-key-env NO_SUCH: that environment variable is not set"),
        ((*ASKING, "--max-cost", "3"), "--max-cost needs --price-in and --price-out"),
        ((*ASKING, "--task", "taste"), "--task taste: unknown; known: quality, sft, gsb"),
        ((*ASKING, "--lang", "fr"), "--lang fr: unknown; known: auto, en, zh"),
        ((*ASKING, "--task", "sft", "--reference", "x"), "--task sft judges conversations by themselves"),
        ((*ASKING, "--task", "gsb"), "--task gsb compares with one --reference, 0 are given"),
        ((*ASKING, *("--reference", "x") * 4), "4 are given; a caption is compared with 3 at most"),
        ((*ASKING, "--reference", "nowhere"), "at nowhere"),
        ((*ASKING, "--min", "60", "--samples", "2"), "--min needs a score of every sample"),
        ((*ASKING, "--min", "taste=3"), "--min taste=3: --task quality gives quality, overall"),
        ((*ASKING, "--min", "quality=much"), "--min quality=much: give a number, such as quality=3"),
        ((*ASKING, "--task", "sft", "--min", "3"), "--min 3: of which one? give CRITERION=3, of difficulty"),
        ((*ASKING, "--people", "nobody"), "nobody: no opinions"),
    ],
)
def test_refused_in_one_line(tmp_path: Path, words: tuple[str, ...], line: str) -> None:
    data = captions_tar(tmp_path / "data.tar", marked([5]))
    result = sailctl("--data", data, "--out", tmp_path / "out", *words)
    assert result.exit_code == 2, result.output
    assert line in result.stderr and "secret" not in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out/summary.json").exists()


def test_another_model_task_or_reference_is_another_pass(tmp_path: Path) -> None:
    data = captions_tar(tmp_path / "data.tar", marked([5]))
    other = captions_tar(tmp_path / "other.tar", ["Something else"])
    with JudgeStub(fair) as stub:
        judged(stub, data, tmp_path / "out", "--reference", data)
        base = ("--data", data, "--endpoint", stub.url, "--out", tmp_path / "out")
        for words, name in (
            (("--model", "two", "--reference", data), "model"),
            (("--model", "stub", "--reference", other), f"references.0 = {data}, now it is {other}"),
            (("--model", "stub"), "prompts.caption_"),
        ):
            result = sailctl(*base, *words)
            assert result.exit_code == 2 and f"was made with {name}" in result.stderr, result.output
        judged(stub, data, tmp_path / "two", "--reference", other)
        captions_tar(other, ["Something else, and longer than it was by more than a block of a tar file " * 20])
        result = sailctl(*base[:-1], tmp_path / "two", "--model", "stub", "--reference", other)
        assert result.exit_code == 2 and f"with references.0 = {other}, which has changed;" in result.stderr
        # where a file lies decides nothing
        (tmp_path / "elsewhere").mkdir()
        data.rename(tmp_path / "elsewhere/data.tar")
        moved = tmp_path / "elsewhere/data.tar"
        judged(stub, moved, tmp_path / "out", "--reference", moved)


def test_a_plan_shows_the_rubric_and_asks_nothing(tmp_path: Path) -> None:
    data = captions_tar(tmp_path / "data.tar", marked([5] * 9))
    words = ("--data", data, "--task", "gsb", "--reference", data, *ASKING, "--samples", 4, "--out", tmp_path / "out")
    result = sailctl(*words, "--dry-run")
    assert result.exit_code == 0 and "8 questions at most to stub (caption_gsb), 64 in flight" in result.stdout
    assert "(the reference of " in result.stdout and "A dog number" in result.stdout
    assert not (tmp_path / "out").exists()
    told = json.loads(sailctl(*words, "--dry-run", "--json").stdout)
    assert told["sources"] == {"data": 4} and set(told["prompts"]) == {"caption_gsb.en", "caption_gsb.zh"}


def test_broken_samples_keep_their_reason(tmp_path: Path) -> None:
    members = [("a.png", picture(0)), ("a.txt", b"A dog q=5"), ("b.json", b"{"), ("b.png", picture(1))]
    data = write_tar(tmp_path / "data.tar", members)
    says: Says = fair
    with JudgeStub(says) as stub:
        judged(stub, data, tmp_path / "out", "--reference", data)
    rows = list(read_rows(tmp_path / "out"))
    assert [(row["keep"], row["reason"], row["judged"]) for row in rows] == [
        (True, "", "judged"), (False, "bad_json", "broken")
    ]  # fmt: skip


def test_data_that_changed_between_answers_and_verdicts_are_refused(tmp_path: Path) -> None:
    data = captions_tar(tmp_path / "data.tar", marked([5, 4]))
    with JudgeStub(fair) as stub:
        judged(stub, data, tmp_path / "out")
        (tmp_path / "out/summary.json").unlink()
        (tmp_path / "out/verdicts/000-data/0000000000.parquet").unlink()
        captions_tar(data, marked([5, 3]))  # of equal sizes: headers do not tell
        words = ("--data", data, "--endpoint", stub.url, "--model", "stub", "--out", tmp_path / "out")
        result = sailctl(*words)
    assert result.exit_code == 1 and "data.tar, row 1: is another sample than was judged" in result.stderr
