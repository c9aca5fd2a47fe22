"""Annotation without a browser: who judges what, what is kept, who gets in, what people's answers add up to."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from sailctl.core.curate.annotate import server
from sailctl.core.curate.annotate.items import Item, assign, draw, is_swapped, order_for, read_items
from sailctl.core.curate.annotate.pictures import shown
from sailctl.core.curate.annotate.request import AnnotateRequest
from sailctl.core.curate.annotate.results import agreed, describe, means, preferences
from sailctl.core.curate.annotate.store import CRITERIA, Answers, Book, fields_of, opinions
from sailctl.core.curate.judge.opinions import item_of, opinions_table
from sailctl.core.curate.judge.people import compare
from sailctl.core.curate.parts import open_data
from sailctl.core.errors import DataError, MissingExtra, UsageError
from sailctl.core.reporter import Quiet
from tests.curate.helpers_annotate import Heard, Served, serving
from tests.curate.helpers_curate import captions_tar
from tests.helpers_data import conversation, picture, write_jsonl, write_tar

ROOT = Path(__file__).resolve().parents[2]


def thing(number: int, *annotators: str, reference: str | None = None) -> Item:
    place = ("s", "s.tar", number, f"{number:06d}", 0, number)
    turns = (("assistant", f"caption {number}"),)
    return Item(number, f"{number:032x}", *place, turns, f"caption {number}", reference, annotators)


@pytest.fixture
def pairs(tmp_path: Path) -> AnnotateRequest:
    """Eight pictures with two captions each, judged by two people, half of them by both."""
    pictures = [picture(number) for number in range(8)]
    captions_tar(tmp_path / "secretsource.tar", [f"first {n}" for n in range(8)], pictures)
    captions_tar(tmp_path / "hiddenother.tar", [f"second {n}" for n in range(8)], pictures)
    return AnnotateRequest(
        [str(tmp_path / "secretsource.tar")], tmp_path / "out", "gsb", reference=str(tmp_path / "hiddenother.tar"),
        samples=8, annotators="ann,bo", double=0.5,
    )  # fmt: skip


class TestItems:
    def test_a_draw_is_the_seeds(self, tmp_path: Path) -> None:
        members = [("a.png", picture(0)), ("a.txt", b"one"), ("b.json", b"{"), ("b.png", picture(1))]
        members += [("c.png", picture(0)), ("c.txt", b"one"), ("d.png", picture(3)), ("d.txt", b"two")]
        data = open_data([str(write_tar(tmp_path / "a.tar", members))])
        items, left_out = draw(data, 4, 0)
        assert sorted(item.candidate for item in items) == ["one", "two"]
        assert left_out == {"bad_json": 1, "seen": 1}
        many = open_data([str(captions_tar(tmp_path / "many.tar", [f"text {n}" for n in range(40)]))])
        first, again, other = (draw(many, 10, seed)[0] for seed in (1, 1, 2))
        assert first == again and [item.key for item in first] != [item.key for item in other]
        assert draw(many, 5, 1)[0] == first[:5] and len({item.key for item in first}) == 10

    def test_nothing_to_judge_is_told(self, tmp_path: Path) -> None:
        rows = [{"id": "1", "conversations": conversation("2 + 3?", "5")}]
        with pytest.raises(UsageError, match=r"no sample with a picture .* \(no_image 1\)"):
            draw(open_data([str(write_jsonl(tmp_path / "a.jsonl", rows))]), 4, 0)

    def test_work_is_shared_out(self) -> None:
        shared = assign([thing(n) for n in range(30)], ("ann", "bo"), 0.1, 0)
        assert Counter(len(item.annotators) for item in shared) == {1: 27, 2: 3}
        assert Counter(item.annotators[0] for item in shared) == {"ann": 15, "bo": 15}
        assert all(len(set(item.annotators)) == len(item.annotators) for item in shared)
        assert Counter(item.annotators[0] for item in shared if len(item.annotators) == 2) == {"ann": 2, "bo": 1}
        three = assign([thing(n) for n in range(100)], ("a", "b", "c"), 0.25, 0)
        load = Counter(name for item in three for name in item.annotators)
        assert sum(load.values()) == 125 and max(load.values()) - min(load.values()) <= 1
        assert Counter(len(item.annotators) for item in assign([thing(n) for n in range(3)], ("a", "b"), 1, 0)) == {
            2: 3
        }
        assert all(len(item.annotators) == 1 for item in assign([thing(n) for n in range(9)], ("a",), 0.5, 0))
        assert (
            Counter(len(item.annotators) for item in assign([thing(n) for n in range(4)], ("a", "b"), 0.1, 0))[2] == 1
        )

    def test_orders_and_sides_differ_between_people(self) -> None:
        items = [thing(n, "ann", "bo") for n in range(100)]
        mine, theirs = order_for(items, "ann", 0), order_for(items, "bo", 0)
        assert mine != theirs != items != mine
        assert sorted(mine, key=lambda item: item.number) == items
        sides = Counter((is_swapped(item, "ann", 0), is_swapped(item, "bo", 0)) for item in items)
        assert all(15 < sides[one, other] < 35 for one in (True, False) for other in (True, False))

    def test_a_caption_is_shown_without_what_would_give_it_away(self, tmp_path: Path) -> None:
        turns = conversation("<image>\nWhat is shown?", "A tree.")
        members = [("a.png", picture(0)), ("a.json", json.dumps({"conversations": turns}).encode())]
        data = open_data([str(write_tar(tmp_path / "a.tar", members))])
        assert draw(data, 1, 0)[0][0].turns == (("assistant", "A tree."),)
        assert draw(data, 1, 0, whole=True)[0][0].turns == (("user", "What is shown?"), ("assistant", "A tree."))


class TestAnswers:
    def test_the_last_word_counts_and_outlives_the_server(self, tmp_path: Path) -> None:
        fields = fields_of("sft", pair=False)
        book = Book(tmp_path / "a/ann.journal", fields, [0, 1])
        for field, value in zip(fields, (1, 2, 3), strict=True):
            book.note(0, field, value)
        book.note(0, "candidate.difficulty", 5)
        book.note(1, "skip", "broken")
        with pytest.raises(UsageError, match="another sailctl curate annotate is running"):
            Book(tmp_path / "a/ann.journal", fields, [0, 1])
        assert book.done == 2
        book.note(1, "candidate.difficulty", 4)
        book.note(1, "candidate.difficulty", None)
        assert book.done == 1 and not book.skipped(1)
        book.close()
        read = Answers.read(tmp_path / "a/ann.journal", fields, [0, 1])
        assert read.state == {
            0: {"candidate.difficulty": 5, "candidate.complexity": 2, "candidate.relevance": 3}, 1: {}
        }  # fmt: skip

    def test_opinions_of_a_pair(self) -> None:
        item = thing(7, "ann", "bo", reference="the other")
        fields = fields_of("quality", pair=True)
        said = Answers(fields, [7])
        said.state[7] = {field: value for value, field in enumerate(fields)} | {"preference": -1}
        half = Answers(fields, [7])
        half.state[7] = {"preference": 1}
        rows = opinions("quality", [item], {"ann": said, "bo": half})
        assert {row["judge"] for row in rows} == {"person:ann"}, "what is half done is no opinion yet"
        assert [(row["task"], row["criterion"], row["value"]) for row in rows[:2]] == [
            ("gsb", "preference", -1.0), ("quality", "hallucination", 1.0)
        ]  # fmt: skip
        names = [row["item"] for row in rows]
        assert names[0] == item_of(item.id, "caption 7", "the other")
        assert set(names[1:5]) == {item_of(item.id, "caption 7")} and set(names[5:]) == {item_of(item.id, "the other")}
        assert [row["value"] for row in rows[5:]] == [5.0, 6.0, 7.0, 8.0]

    def test_agreement_and_means_by_hand(self) -> None:
        people = [("ann", "bo"), ("bo", "ann")]  # whoever had it first is on no other side for that
        items = [thing(n, *people[n % 2], reference="r") for n in range(10)] + [thing(10, "ann", reference="r")]
        ann, bo = (Answers(("preference",), range(11)) for _ in range(2))
        for number, (one, other) in enumerate(zip([1] * 5 + [-1] * 5, [1] * 4 + [-1] * 5 + [1], strict=True)):
            ann.state[number], bo.state[number] = {"preference": one}, {"preference": other}
        ann.state[10] = {"preference": 0}
        answers = {"ann": ann, "bo": bo}
        found = agreed(items, answers)["preference"]
        assert found["percent"]["value"] == pytest.approx(0.8) and found["percent"]["n"] == 10
        assert found["kappa"]["value"] == pytest.approx(0.6)  # (0.8 - 0.5) / (1 - 0.5)
        assert means(items, answers)["preference"]["value"] == pytest.approx(0.0)  # 4 of +1, 4 of -1, 2 split, one 0
        assert preferences(items, answers) == {"good": 10, "same": 1, "bad": 10}

    @pytest.mark.parametrize("task", ["quality", "sft"])
    def test_the_judge_tells_the_same_of_people(self, task: str) -> None:
        """`curate judge --people` reads their opinions: equal numbers, both captions of an item being one draw."""
        generator = random.Random(5)
        people = ("cy", "ann")  # the list is in no order
        items = [thing(n, *people, reference=f"other {n}" if task == "quality" else None) for n in range(25)]
        fields = fields_of(task, pair=task == "quality")
        answers = {name: Answers(fields, range(25)) for name in people}
        for said in answers.values():
            for number in range(25):
                said.state[number] = {field: generator.choice((0, 1) if field == "preference" else (3, 4, 5))
                                      for field in fields}  # fmt: skip
        told = agreed(items, answers)
        judged = compare(opinions_table([]), opinions_table(opinions(task, items, answers)))
        judged = [one for one in judged if one["criterion"] != "quality"]
        assert {one["criterion"] for one in judged} == set(told)
        for one in judged:
            mine = told[one["criterion"]]
            for name, theirs in (("percent", "equal"), ("kappa", "kappa"), ("weighted", "quadratic_kappa")):
                assert mine[name]["value"] == pytest.approx(one[theirs]["value"])
                assert mine[name]["ci95"] == pytest.approx(one[theirs]["ci95"])
                assert (mine[name]["n"], mine[name]["items"]) == (one["n"], one["items"])
        both = next(one for one in judged if one["criterion"] in ("fluency", "difficulty"))
        assert (both["n"], both["items"]) == ((50, 25) if task == "quality" else (25, 25))

    def test_a_kappa_of_one_who_never_varies_is_not_told(self) -> None:
        items = [thing(n, "ann", "bo") for n in range(4)]
        ann, bo = (Answers(("fluency",), range(4)) for _ in range(2))
        for number, mark in enumerate((5, 5, 4, 5)):
            ann.state[number], bo.state[number] = {"fluency": mark}, {"fluency": 5}
        found = agreed(items, {"ann": ann, "bo": bo})
        result = {"annotators": [], "means": {}, "agreement": found, "task": "quality", "items": 4, "doubled": 4}
        tables, _ = describe({**result, "preferences": None, "rows": 8, "opinions": "o"})
        assert tables[-1][2] == [["fluency", "4", "75.0%", "-", "-"]]

    def test_nothing_answered_is_described_too(self, pairs: AnnotateRequest) -> None:
        with serving(pairs):
            pass
        told = replace(pairs, data=[]).perform(Quiet(), report_only=True)
        tables, lines = describe(told)
        assert not told["complete"] and told["rows"] == 0 and len(tables) == 1
        assert "agreement: none yet; 4 items are for two, none is complete by both" in lines


class TestServer:
    def test_who_gets_in(self, pairs: AnnotateRequest) -> None:
        with serving(pairs) as served:
            token = served.token("ann")
            assert served.ask("GET", "/ann/state")[0] == 403
            assert served.ask("GET", "/ann/?token=wrong")[0] == 403
            assert served.ask("GET", f"/ann/state?token={token[:-1]}")[0] == 403
            assert served.ask("GET", f"/bo/state?token={token}")[0] == 403, "an annotator is not another one"
            status, _, body = served.ask("GET", f"/eve/?token={token}")
            assert status == 403 and b"none of those that sailctl curate annotate printed" in body
            assert served.ask("GET", f"/?token={token}")[0] == 403
            status, headers, _ = served.ask("GET", f"/ann/?token={token}")
            cookie = headers["set-cookie"]
            assert status == 303 and headers["location"] == "/ann/" and token not in headers["location"]
            assert "HttpOnly" in cookie and "Path=/ann/" in cookie and "SameSite=lax" in cookie
            assert served.ask("GET", "/ann/state", Cookie=cookie.partition(";")[0])[0] == 200
            assert served.ask("GET", "/bo/state", Cookie=cookie.partition(";")[0])[0] == 403
            own = {"Authorization": f"Bearer {token}"}
            for host, expected in [("evil.example:80", 421), ("localhost:1", 200), ("127.0.0.1.evil.example", 421)]:
                assert served.ask("GET", "/ann/state", Host=host, **own)[0] == expected, host
            said = {"place": 0, "field": "preference", "value": 1}
            assert served.ask("POST", "/ann/answer", said, Origin="http://evil.example", **own)[0] == 403
            assert served.ask("POST", "/ann/answer", said, Origin="null", **own)[0] == 403
            assert served.ask("POST", "/ann/answer", said, **own, **{"Content-Type": "text/plain"})[0] == 415
            assert served.ask("POST", "/ann/answer", b"x" * 5000, **own)[0] == 400
            assert served.ask("POST", "/ann/answer", b"{", **own)[0] == 400
            assert served.ask("POST", "/ann/answer", said)[0] == 403
            assert served.ask("DELETE", "/ann/answer", **own)[0] == 405
            assert served.get("ann", "state")["done"] == 0, "nothing of that was taken"

    def test_what_every_reply_forbids(self, pairs: AnnotateRequest) -> None:
        with serving(pairs) as served:
            for path in ("", "page.js", "page.css", "state", "item/0", "picture/0/0", "nothing"):
                _, headers, _ = served.ask("GET", f"/ann/{path}", Authorization=f"Bearer {served.token('ann')}")
                assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
                assert "frame-ancestors 'none'" in headers["content-security-policy"]
                assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
                assert "access-control-allow-origin" not in headers and "server" not in headers

    def test_it_is_blind(self, pairs: AnnotateRequest) -> None:
        with serving(pairs) as served:
            firsts = set()
            for place in range(served.get("ann", "state")["total"]):
                item = served.get("ann", f"item/{place}")
                told = json.dumps(item)
                assert not any(word in told for word in ("secret", "hidden", "candidate", "reference", "0000", ".tar"))
                firsts.add(item["texts"][0][0]["text"].split()[0])
                assert [one["width"] for one in item["pictures"]] == [40]
            assert firsts == {"first", "second"}, "the sides change"

    def test_a_preference_is_for_the_candidate_on_either_side(self, pairs: AnnotateRequest) -> None:
        with serving(pairs) as served:
            for name in ("ann", "bo"):
                for place in range(served.get(name, "state")["total"]):
                    left = served.get(name, f"item/{place}")["texts"][0][0]["text"]
                    status, reply = served.answer(name, place, "preference", 1 if left.startswith("first") else -1)
                    assert status == 200 and reply["complete"]
                    assert served.get(name, f"item/{place}")["values"] == reply["values"]
            assert served.get("bo", "agreement")["agreement"]["preference"]["percent"]["value"] == 1.0
        rows = pq.read_table(pairs.out / "opinions.parquet").to_pylist()
        assert [row["value"] for row in rows] == [1.0] * 12
        assert served.result["next"].startswith("sailctl curate judge --data ") and "--people" in served.result["next"]
        assert served.result["complete"] and served.result["preferences"] == {"good": 12, "same": 0, "bad": 0}

    def test_answers_that_are_none(self, pairs: AnnotateRequest) -> None:
        wrong: list[tuple[object, object, object, str]] = [
            (99, "preference", 1, "there are items 0 to"),
            (-1, "preference", 1, "there are items"),
            ("0", "preference", 1, "there are items"),
            (True, "preference", 1, "there are items"),
            (0, "1.fluency", 1, "nothing of that name is asked; known: preference"),
            (0, ["preference"], 1, "nothing of that name"),
            (0, "preference", 2, "preference goes from -1 to 1"),
            (0, "preference", 0.5, "goes from"),
            (0, "preference", True, "goes from"),
            (0, "preference", "1", "goes from"),
            (0, "skip", "dull", "skipped as 'broken'"),
        ]
        with serving(pairs) as served:
            for place, field, value, told in wrong:
                status, reply = served.answer("ann", place, field, value)
                assert status == 400 and told in reply["error"], (place, field, value)
            assert served.ask("GET", "/ann/item/x", Authorization=f"Bearer {served.token('ann')}")[0] == 400
        assert served.result["rows"] == 0

    def test_a_full_disk_is_told_and_nothing_pretended(
        self, pairs: AnnotateRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(self: Book, number: int, field: str, value: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Book, "_write", refuse)
        with serving(pairs) as served:
            status, reply = served.answer("ann", 0, "preference", 1)
            assert status == 507 and "No space left" in reply["error"]
            assert served.get("ann", "item/0")["values"] == {}

    def test_a_second_server_is_refused(self, pairs: AnnotateRequest) -> None:
        with serving(pairs) as served:
            port = int(served.address("ann").split(":")[2].split("/")[0])
            with pytest.raises(UsageError, match="another sailctl curate annotate is running"):
                replace(pairs, port=0).perform(Heard(), report_only=False)
            with pytest.raises(UsageError, match=rf"--port {port}: Address already in use; give another"):
                replace(pairs, port=port, out=pairs.out.with_name("other")).perform(Heard(), report_only=False)


class TestPictures:
    @pytest.mark.parametrize("kind", ["TIFF", "JPEG2000", "PNG", "BMP"])
    def test_any_format_is_shown_as_it_is(self, kind: str) -> None:
        buffer = io.BytesIO()
        source = Image.open(io.BytesIO(picture(3)))
        source.save(buffer, kind, **({"irreversible": False} if kind == "JPEG2000" else {}))
        made = shown(buffer.getvalue())
        assert made.kind == "image/png" and (made.width, made.height) == (40, 30)
        assert Image.open(io.BytesIO(made.data)).tobytes() == source.tobytes()

    def test_large_ones_are_made_smaller(self) -> None:
        buffer = io.BytesIO()
        Image.new("RGB", (6000, 300)).save(buffer, "JPEG")
        made = shown(buffer.getvalue())
        assert (made.kind, made.width, made.height) == ("image/jpeg", 4096, 205)

    def test_bombs_and_rubbish_are_problems(self) -> None:
        sound = picture(0)  # its first chunk, 13 bytes of IHDR, says how large it is
        header = b"IHDR" + (60000).to_bytes(4, "big") * 2 + sound[24:29]
        bomb = sound[:12] + header + zlib.crc32(header).to_bytes(4, "big") + sound[33:]
        assert "image_too_large: 60000x60000" in shown(bomb).problem
        assert shown(b"rubbish").problem.startswith("bad_image")
        assert "bad_image" in shown(picture(0)[:-200]).problem

    def test_a_broken_one_is_told_and_the_item_can_be_skipped(self, tmp_path: Path) -> None:
        tar = captions_tar(tmp_path / "a.tar", ["one"], [b"rubbish"])
        request = AnnotateRequest([str(tar)], tmp_path / "out", annotators="ann")
        with serving(request) as served:
            assert "bad_image" in served.get("ann", "item/0")["pictures"][0]["problem"]
            assert served.ask("GET", "/ann/picture/0/0", Authorization=f"Bearer {served.token('ann')}")[0] == 400
            assert served.answer("ann", 0, "skip", "broken")[1]["done"] == 1
        assert served.result["annotators"] == [{"name": "ann", "items": 1, "done": 1, "skipped": 1}]
        assert any("only 1 can be judged" in line for line in served.heard.lines)
        assert any(line.startswith("one annotator") for line in served.heard.lines)


class TestRequest:
    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"out": None}, "give --out"),
            ({"data": []}, "no data"),
            ({"task": "taste"}, "--task taste: known: quality, sft, gsb"),
            ({"reference": None}, "compares two captions"),
            ({"task": "sft"}, "leave out --reference"),
            ({"annotators": None}, "give --annotators"),
            ({"annotators": "ann,../bo"}, "'../bo' is no name"),
            ({"annotators": "ann,ann"}, "ann is there twice"),
            ({"double": 1.5}, "a share, 0 to 1"),
            ({"lang": "fr"}, "en or zh"),
            ({"port": 99999}, "--port 99999"),
        ],
    )
    def test_what_is_asked_wrongly(self, pairs: AnnotateRequest, changes: dict[str, object], told: str) -> None:
        with pytest.raises(UsageError, match=told):
            replace(pairs, **changes).perform(Heard(), report_only=False)  # type: ignore[arg-type]

    def test_another_annotation_in_the_same_folder(self, pairs: AnnotateRequest) -> None:
        with serving(pairs):
            pass
        with pytest.raises(UsageError, match=r"annotators = .*ann.*bo.*now it is"):
            replace(pairs, annotators="ann").perform(Heard(), report_only=False)
        with pytest.raises(UsageError, match="holds no annotation"):
            replace(pairs, out=pairs.out / "answers").perform(Heard(), report_only=True)
        with pytest.raises(UsageError, match="holds no annotation"):
            replace(pairs, out=pairs.out.with_name("none")).perform(Heard(), report_only=True)
        (pairs.out / "items.jsonl").write_text("{}\n")
        with pytest.raises(DataError, match="cannot be read"):
            replace(pairs).perform(Heard(), report_only=True)

    def test_the_next_command_goes_on(self, pairs: AnnotateRequest) -> None:
        with serving(pairs) as served:
            pass
        told = served.result["next"]
        assert told == AnnotateRequest([], pairs.out).perform(Quiet(), report_only=True)["next"]
        assert told.startswith("sailctl curate annotate --data ") and "--double 0.5" in told and "--seed" not in told

    def test_sidecars_are_a_reference(self, tmp_path: Path) -> None:
        import pyarrow as pa

        tar = captions_tar(tmp_path / "a.tar", [f"own {n}" for n in range(4)])
        data = open_data([str(tar)])
        rows = [
            {**row.place(), "text": f"sidecar {row.row}", "turns": None}
            for row in data.rows(data.parts[0]) if row.row != 2
        ]  # fmt: skip
        for name, texts in (("captions", rows), ("mine", [{**row, "text": f"mine {row['row']}"} for row in rows])):
            (tmp_path / name).mkdir()
            pq.write_table(pa.Table.from_pylist(texts), tmp_path / name / "a.parquet")
        request = AnnotateRequest(
            [str(tar)], tmp_path / "out", reference=str(tmp_path / "captions"), samples=4, annotators="ann"
        )
        with serving(request) as served:
            assert served.get("ann", "state")["total"] == 3
            assert len(served.get("ann", "state")["fields"]) == 9
        items = read_items(tmp_path / "out/items.jsonl")
        assert {(item.candidate, item.reference) for item in items} == {(f"own {n}", f"sidecar {n}") for n in (0, 1, 3)}
        assert not (tmp_path / "out/references").exists()
        with serving(replace(request, captions=str(tmp_path / "mine"), out=tmp_path / "both")) as served:
            assert served.get("ann", "item/0")["pictures"][0]["width"] == 40
        items = read_items(tmp_path / "both/items.jsonl")
        assert {item.candidate for item in items} == {"mine 0", "mine 1", "mine 3"}


def test_words_are_there_in_both_languages() -> None:
    def keys(value: object) -> object:
        return {name: keys(one) for name, one in value.items()} if isinstance(value, dict) else type(value)

    english, chinese = server.words("en"), server.words("zh")
    assert keys(english) == keys(chinese)
    asked = {criterion for criteria in CRITERIA.values() for criterion in criteria}
    for words in (english, chinese):
        assert words["criteria"].keys() == asked | {"preference"} and words["tasks"].keys() == CRITERIA.keys()
        assert {name: len(one["scale"]) for name, one in words["criteria"].items()} == {
            name: 3 if name == "preference" else 5 for name in asked | {"preference"}
        }


def start(pairs: AnnotateRequest, heard: Heard | None = None) -> subprocess.Popen[str]:
    """The command itself, up and waiting for people."""
    command = [sys.executable, "-m", "sailctl", "curate", "annotate", "--data", *pairs.data, "--task", "gsb"]
    command += ["--reference", str(pairs.reference), "--samples", "8", "--annotators", "ann,bo", "--double", "0.5"]
    command += ["--port", "0", "--out", str(pairs.out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stderr is not None
    for line in process.stderr:
        if heard is not None:
            heard.lines.append(line.strip())
        if "Ctrl-C" in line:
            break
    return process


def test_ctrl_c_tells_how_to_go_on(pairs: AnnotateRequest) -> None:
    process = start(pairs)
    process.send_signal(signal.SIGINT)
    said, remarks = process.communicate(timeout=60)
    assert process.returncode == 0, remarks
    assert "opinions.parquet" in said and "Traceback" not in remarks
    assert remarks.strip().splitlines()[-1].startswith("next: sailctl curate annotate --data ")


def test_killed_at_any_instant_no_answer_is_lost(pairs: AnnotateRequest) -> None:
    heard = Heard()
    process = start(pairs, heard)
    served = Served(heard)
    saved: dict[int, int] = {}
    asked = (0, 0)
    timer = threading.Timer(random.uniform(0.1, 0.5), process.kill)
    timer.start()
    with contextlib.suppress(OSError, http.client.HTTPException):
        for turn in range(10_000):
            asked = (turn % 6, turn % 3 - 1)
            assert served.answer("ann", asked[0], "preference", asked[1])[0] == 200
            saved[asked[0]] = asked[1]
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    with serving(pairs) as again:
        known = {place: again.get("ann", f"item/{place}")["values"].get("preference") for place in range(6)}
        wrong = {place: value for place, value in known.items() if value != saved.get(place)}
        assert wrong in ({}, {asked[0]: asked[1]}), "only what was on its way may be there as well"
        assert again.token("ann") != served.token("ann")
        for name in ("ann", "bo"):
            for place in range(6):
                assert again.answer(name, place, "preference", 1)[0] == 200
    whole = replace(pairs, out=pairs.out.with_name("whole"))
    with serving(whole) as served:
        for name in ("ann", "bo"):
            for place in range(6):
                served.answer(name, place, "preference", 1)
    assert (pairs.out / "opinions.parquet").read_bytes() == (whole.out / "opinions.parquet").read_bytes()


@pytest.mark.parametrize("package", ["starlette.applications", "uvicorn"])
def test_without_a_package_the_extra_is_named(
    pairs: AnnotateRequest, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"is not installed; install it with: pip install .*\[annotate\]"):
        replace(pairs, port=0).perform(Heard(), report_only=False)
