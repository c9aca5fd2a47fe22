"""From data to sealed sidecars with an engine in this process: rows by hand, tasks, duplicates, failures, resume."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sailctl.core.caption import job as jobs
from sailctl.core.caption.job import Job
from sailctl.core.engines.ask import Ask, Failed
from sailctl.core.errors import StorageError, UsageError
from sailctl.core.files import append_jsonl
from sailctl.core.journal import Journal
from sailctl.core.records import Turn, sample_id
from tests.caption.helpers_caption import (
    RuleEngine,
    all_lines,
    caption,
    make_job,
    picture_tar,
    sidecar_rows,
    told,
)
from tests.helpers_data import picture, write_jsonl, write_tar

PAIRS = "Q: What is it?\nA: A picture.\nQ: How many?\nA: One."


def of(number: int) -> str:
    return "picture " + hashlib.sha256(picture(number, 12, 10)).hexdigest()[:12]


def test_a_row_by_hand(tmp_path: Path) -> None:
    data = write_tar(tmp_path / "00007.tar", [("a/b.jpg", picture(1, kind="JPEG")), ("a/b.txt", b" A cat. ")])
    job = make_job(tmp_path / "out", data)
    caption(job)
    (row,) = sidecar_rows(tmp_path / "out")
    assert {key: row[key] for key in row if key not in ("prompt_id", "question")} == {
        "id": sample_id([picture(1, kind="JPEG")], [Turn("assistant", "A cat.")]),
        "shard": "00007.tar",
        "row": 0,
        "key": "a/b",
        "task": "detailed",
        "lang": "en",
        "text": "picture " + hashlib.sha256(picture(1, kind="JPEG")).hexdigest()[:12],
        "turns": None,
        "model": "rule",
        "finish": "stop",
        "prompt_tokens": 10,
        "completion_tokens": 2,
    }
    manifest = json.loads((tmp_path / "out" / "manifests" / "00007.json").read_text())
    sidecar = tmp_path / "out" / "detailed-en" / "00007.parquet"
    assert manifest["files"] == {
        "detailed-en/00007.parquet": {
            "bytes": sidecar.stat().st_size,
            "sha256": hashlib.sha256(sidecar.read_bytes()).hexdigest(),
        }
    }
    assert manifest["outcomes"] == {"detailed": {"captioned": 1}} and manifest["tokens"] == {
        "prompt": 10,
        "completion": 2,
    }
    assert manifest["lengths"] == {"detailed": {"2": 1}} and manifest["rows"] == [0, 1] and manifest["requests"] == 1
    assert not list((tmp_path / "out" / "journals").iterdir())


def layouts(folder: Path) -> dict[str, Path]:
    """Three pictures, the last without any text, in each of the four layouts."""
    photos = folder / "photos"
    photos.mkdir(parents=True)
    for number in range(3):
        (photos / f"{number}.png").write_bytes(picture(number, 12, 10))
    texts = ["one", "two", None]
    records = [
        {"id": f"k{number}", "image": f"photos/{number}.png"} | ({} if text is None else {"caption": text})
        for number, text in enumerate(texts)
    ]
    members = []
    for number, text in enumerate(texts):
        members.append((f"k{number}.png", picture(number, 12, 10)))
        if text is not None:
            members.append((f"k{number}.txt", text.encode()))
    turned = []
    for number, text in enumerate(texts):
        turned.append((f"k{number}.png", picture(number, 12, 10)))
        if text is not None:
            turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": text}]
            turned.append((f"k{number}.json", json.dumps({"conversations": turns}).encode()))
    rows = [{**record, "image": {"bytes": picture(n, 12, 10), "path": None}} for n, record in enumerate(records)]
    (folder / "list.json").write_text(json.dumps(records))
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return {
        "img2dataset": write_tar(folder / "captions.tar", members),
        "llava tar": write_tar(folder / "chat.tar", turned),
        "json": folder / "list.json",
        "jsonl": write_jsonl(folder / "lines.jsonl", records),
        "parquet": folder / "rows.parquet",
    }


@pytest.mark.parametrize("layout", ["img2dataset", "llava tar", "json", "jsonl", "parquet"])
def test_every_layout_and_pictures_without_text(layout: str, tmp_path: Path) -> None:
    data = layouts(tmp_path / "data")[layout]
    caption(make_job(tmp_path / "out", data))
    rows = sidecar_rows(tmp_path / "out")
    assert [(row["key"], row["row"], row["text"]) for row in rows] == [(f"k{n}", n, of(n)) for n in range(3)]
    said = [("one",), ("two",), ()]
    assert [row["id"] for row in rows] == [
        sample_id([picture(n, 12, 10)], [Turn("assistant", text) for text in texts]) for n, texts in enumerate(said)
    ]
    assert all_lines(tmp_path / "out", "rejects") == []


class TestTasks:
    def answer(self, ask: Ask) -> str:
        text = ask.turns[0].text
        if "Q: a question" in text:
            return PAIRS
        return f"said of: {text}"

    def test_several_in_one_pass(self, tmp_path: Path) -> None:
        data = picture_tar(tmp_path / "a.tar", range(2))
        engine = RuleEngine(self.answer)
        caption(make_job(tmp_path / "out", data, tasks=("detailed", "recaption", "ocr", "qa")), engine)
        assert len(engine.asked) == 8
        details, again, read, pairs = (
            sidecar_rows(tmp_path / "out", f"{task}-en") for task in ("detailed", "recaption", "ocr", "qa")
        )
        assert '"alt 1"' in again[1]["text"] and "{" not in again[1]["text"] and again[1]["turns"] is None
        question, answer = read[0]["turns"]
        assert question["role"] == "user" and question["content"].startswith("<image>\n")
        assert answer == {"role": "assistant", "content": read[0]["text"]}
        assert pairs[0]["turns"] == [
            {"role": "user", "content": "<image>\nWhat is it?"},
            {"role": "assistant", "content": "A picture."},
            {"role": "user", "content": "How many?"},
            {"role": "assistant", "content": "One."},
        ]
        about = [ask.turns[0].text for ask in engine.asked if "Q: a question" in ask.turns[0].text]
        assert all(any(row["text"] in text for text in about) for row in details), "made from the pass's description"
        assert all(ask.images for ask in engine.asked)

    def test_questions_from_the_samples_own_caption(self, tmp_path: Path) -> None:
        members = [("a.png", picture(0)), ("a.txt", b"A red bicycle."), ("b.png", picture(1))]
        engine = RuleEngine(self.answer)
        caption(make_job(tmp_path / "out", write_tar(tmp_path / "a.tar", members), tasks=("qa",)), engine)
        assert ["A red bicycle." in ask.turns[0].text for ask in engine.asked] == [True]
        (reject,) = all_lines(tmp_path / "out", "rejects")
        assert (reject["key"], reject["task"], reject["reason"]) == ("b", "qa", "no_turns")

    def test_without_alt_text_the_paragraph_goes(self, tmp_path: Path) -> None:
        data = picture_tar(tmp_path / "a.tar", [3], captions=False)
        engine = RuleEngine()
        caption(make_job(tmp_path / "out", data, tasks=("recaption",)), engine)
        (ask,) = engine.asked
        assert "web page" not in ask.turns[0].text and "new caption" in ask.turns[0].text

    @pytest.mark.parametrize("second", [PAIRS, "still nothing"])
    def test_an_answer_of_no_use_is_asked_for_once_more(self, second: str, tmp_path: Path) -> None:
        answers = ["I cannot.", second]
        engine = RuleEngine(lambda ask: answers.pop(0))
        caption(make_job(tmp_path / "out", picture_tar(tmp_path / "a.tar", [0]), tasks=("qa",)), engine)
        first, again = engine.asked
        assert (first.seed, first.temperature) == (None, 0.0) and (again.seed, again.temperature) == (1, 0.7)
        assert first.key != again.key
        rows, quarantined = sidecar_rows(tmp_path / "out", "qa-en"), all_lines(tmp_path / "out", "quarantine")
        if second == PAIRS:
            assert len(rows) == 1 and quarantined == []
        else:
            assert rows == [] and [(row["reason"], row["attempts"]) for row in quarantined] == [("unparsable", 2)]
            assert "still nothing" in quarantined[0]["detail"]


class TestBrokenInput:
    def test_rejects_have_a_reason_and_the_rest_goes_on(self, tmp_path: Path) -> None:
        members = [
            ("a.png", picture(0)),
            ("b.png", b"no picture"),
            ("c.txt", b"text alone"),
            ("d.json", b"{"),
            ("e.png", picture(1)),
        ]
        caption(make_job(tmp_path / "out", write_tar(tmp_path / "a.tar", members)))
        rejects = all_lines(tmp_path / "out", "rejects")
        assert [(row["key"], row["row"], row["reason"]) for row in rejects] == [
            ("b", 1, "bad_image"),
            ("c", 2, "no_image"),
            ("d", 3, "bad_json"),
        ]
        assert set(rejects[0]) == {"source", "key", "shard", "row", "task", "reason", "detail"}
        assert [row["key"] for row in sidecar_rows(tmp_path / "out")] == ["a", "e"]
        manifest = json.loads((tmp_path / "out" / "manifests" / "a.json").read_text())
        assert manifest["rejected"] == 3 and manifest["reasons"]["rejected"] == {
            "bad_image": 1,
            "no_image": 1,
            "bad_json": 1,
        }

    def test_tars_that_cannot_be_read_to_their_end_are_named_not_sealed_and_done_when_mended(
        self, tmp_path: Path
    ) -> None:
        data = tmp_path / "data"
        data.mkdir()
        (data / "a.tar").write_bytes(b"")
        (data / "b.tar").write_bytes(b"junk" * 5000)
        whole = picture_tar(data / "c.tar", range(3)).read_bytes()
        (data / "c.tar").write_bytes(whole[: len(whole) // 2])
        picture_tar(data / "d.tar", [3])
        pipeline = caption(make_job(tmp_path / "out", data))
        assert [Path(line.split()[1]).name for line in pipeline.feed.broken] == ["a.tar", "b.tar", "c.tar"]
        assert [row["shard"] for row in sidecar_rows(tmp_path / "out")] == ["d.tar"]
        assert [path.name for path in (tmp_path / "out" / "manifests").iterdir()] == ["d.json"]
        (data / "c.tar").write_bytes(whole)
        picture_tar(data / "a.tar", [4])
        (data / "b.tar").unlink()
        job = make_job(tmp_path / "out", data).claim()
        assert job.news == (
            f"data shards that have changed since, not sealed yet: {data / 'a.tar'}, {data / 'c.tar'}",
            f"data shards of earlier runs that are not in --data, whose captions stay: {data / 'b.tar'}",
        )
        assert caption(job).feed.broken == []
        assert [row["text"] for row in sidecar_rows(tmp_path / "out")] == [of(number) for number in (4, 0, 1, 2, 3)]

    def test_a_parquet_file_without_a_footer_does_not_stop_the_others(self, tmp_path: Path) -> None:
        data = layouts(tmp_path / "data")["parquet"]
        (tmp_path / "data" / "broken.parquet").write_bytes(data.read_bytes()[:100])
        pipeline = caption(make_job(tmp_path / "out", tmp_path / "data" / "*.parquet"))
        assert len(sidecar_rows(tmp_path / "out")) == 3
        assert len(pipeline.feed.broken) == 1 and "broken.parquet cannot be read" in pipeline.feed.broken[0]


def test_equal_samples_of_a_shard_are_asked_once_and_each_has_its_row(tmp_path: Path) -> None:
    members = [(f"{key}.png", picture(key in "bd")) for key in "abcd"]
    engine = RuleEngine()
    caption(make_job(tmp_path / "out", write_tar(tmp_path / "a.tar", members)), engine)
    assert len(engine.asked) == 2
    rows = sidecar_rows(tmp_path / "out")
    assert [row["key"] for row in rows] == list("abcd")
    assert rows[0]["text"] == rows[2]["text"] != rows[1]["text"] == rows[3]["text"]


def test_equal_samples_with_different_alt_texts_are_different_questions(tmp_path: Path) -> None:
    rows = [{"id": f"k{n}", "image": "p.png", "caption": "same", "alt_text": f"alt {n}"} for n in range(2)]
    (tmp_path / "p.png").write_bytes(picture(0))
    (tmp_path / "qa.en.txt").write_text("Of {caption}\n\nCalled {alt_text}")
    engine = RuleEngine(lambda ask: PAIRS if "Called" in ask.turns[0].text else told(ask))
    data = write_jsonl(tmp_path / "a.jsonl", rows)
    caption(make_job(tmp_path / "out", data, tasks=("detailed", "qa"), prompts=tmp_path), engine)
    texts = sorted(ask.turns[0].text for ask in engine.asked)
    assert len(texts) == 3 and [text[-5:] for text in texts if "Called" in text] == ["alt 0", "alt 1"]
    assert len(sidecar_rows(tmp_path / "out", "qa-en")) == len(sidecar_rows(tmp_path / "out")) == 2


def test_a_shard_of_nothing_is_sealed_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n")
    caption(make_job(tmp_path / "out", tmp_path / "a.jsonl"))
    assert sidecar_rows(tmp_path / "out") == [] and (tmp_path / "out" / "manifests" / "a.json").is_file()


def test_data_behind_a_url(tmp_path: Path) -> None:
    import fsspec

    store = fsspec.filesystem("memory")
    for shard in range(2):
        data = picture_tar(tmp_path / "x.tar", range(shard * 2, shard * 2 + 2)).read_bytes()
        store.pipe(f"/captioning/{shard}.tar", data)
    caption(make_job(tmp_path / "out", "memory://captioning/*.tar"))
    assert [(row["shard"], row["text"]) for row in sidecar_rows(tmp_path / "out")] == [
        (f"{number // 2}.tar", of(number)) for number in range(4)
    ]
    store.rm("/captioning", recursive=True)


def test_equal_names_in_different_folders_stay_apart(tmp_path: Path) -> None:
    for number, name in enumerate("xy"):
        (tmp_path / name).mkdir()
        picture_tar(tmp_path / name / "00000.tar", [number])
    caption(make_job(tmp_path / "out", tmp_path / "x", tmp_path / "y"))
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.parquet")) == [
        "detailed-en/x/00000.parquet",
        "detailed-en/y/00000.parquet",
    ]
    assert [row["text"] for row in sidecar_rows(tmp_path / "out")] == [of(0), of(1)]


def test_the_next_shard_begins_while_a_straggler_of_the_last_is_out(tmp_path: Path) -> None:
    for shard in range(4):
        picture_tar(tmp_path / f"{shard}.tar", range(shard * 3, shard * 3 + 3))
    engine = RuleEngine(held=(of(0), 12))
    caption(make_job(tmp_path / "out", tmp_path / "*.tar"), engine)
    assert len(sidecar_rows(tmp_path / "out")) == 12


def test_a_long_shard_is_sealed_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PART_ROWS", 4)
    data = picture_tar(tmp_path / "a.tar", range(10))
    job = make_job(tmp_path / "out", data)
    engine = RuleEngine()
    for worker in range(3):
        caption(job, engine, worker=worker, workers=3)
    assert sorted(path.name for path in (tmp_path / "out" / "manifests").iterdir()) == [
        "a.part-00000.json",
        "a.part-00001.json",
    ]
    assert [row["text"] for row in sidecar_rows(tmp_path / "out")] == [of(number) for number in range(10)]
    caption(job, engine)
    assert len(engine.asked) == 10


class TestResume:
    @pytest.fixture
    def job(self, tmp_path: Path) -> Job:
        for shard in range(3):
            picture_tar(tmp_path / f"{shard}.tar", range(shard * 4, shard * 4 + 4))
        return make_job(tmp_path / "out", tmp_path / "*.tar")

    def test_a_broken_engine_costs_no_answer(self, job: Job) -> None:
        texts = []
        for given in (2, 3, 1):
            engine = RuleEngine(fail_after=given)
            with pytest.raises(RuntimeError, match="the engine broke"):
                caption(job, engine)
            texts += [ask.images for ask in engine.asked]
        last = RuleEngine()
        caption(job, last)
        assert len(last.asked) == 12 - 6
        assert [row["text"] for row in sidecar_rows(job.out)] == [of(number) for number in range(12)]
        again = RuleEngine()
        caption(job, again)
        assert again.asked == []

    def test_stopping_on_request_lets_what_is_in_flight_arrive(self, job: Job) -> None:
        engine = RuleEngine()
        pipeline = caption(job, engine, stop=lambda: True, grace_s=0.0)
        assert pipeline.stopped or len(sidecar_rows(job.out)) == 12
        caption(job)
        assert [row["text"] for row in sidecar_rows(job.out)] == [of(number) for number in range(12)]

    def test_a_flipped_bit_in_a_sealed_shard_is_seen_and_mended(self, job: Job) -> None:
        caption(job)
        path = job.out / "detailed-en" / "1.parquet"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        engine = RuleEngine()
        pipeline = caption(job, engine)
        assert len(engine.asked) == 4 and any("1.parquet: sha256 is" in line for line in pipeline.feed.remarks)
        assert [row["text"] for row in sidecar_rows(job.out)] == [of(number) for number in range(12)]

    def test_of_two_tasks_only_the_damaged_one_is_asked_again(self, job: Job, tmp_path: Path) -> None:
        both = make_job(tmp_path / "both", tmp_path / "*.tar", tasks=("detailed", "ocr"))
        caption(both)
        (both.out / "ocr-en" / "0.parquet").unlink()
        engine = RuleEngine()
        caption(both, engine)
        assert len(engine.asked) == 4 and all("Copy out" in ask.turns[0].text for ask in engine.asked)
        assert len(sidecar_rows(both.out)) == len(sidecar_rows(both.out, "ocr-en")) == 12

    def test_a_truncated_journal_costs_what_was_cut(self, job: Job) -> None:
        with pytest.raises(RuntimeError):
            caption(job, RuleEngine(fail_after=3))
        (journal,) = [path for path in (job.out / "journals").iterdir() if path.name == "0.jsonl"]
        with open(journal, "rb+") as file:
            file.truncate(journal.stat().st_size - 20)
        engine = RuleEngine()
        caption(job, engine)
        assert len(engine.asked) == 12 - 2
        assert [row["text"] for row in sidecar_rows(job.out)] == [of(number) for number in range(12)]

    def test_a_unit_held_by_another_process_is_passed_by(self, job: Job) -> None:
        job.claim()
        with Journal.open(job.out / "journals" / "1.jsonl"):
            pipeline = caption(job)
        assert pipeline.feed.busy == ["1"] and len(sidecar_rows(job.out)) == 8
        caption(job)
        assert [row["text"] for row in sidecar_rows(job.out)] == [of(number) for number in range(12)]

    def test_halves_are_the_whole(self, job: Job, tmp_path: Path) -> None:
        for worker in range(2):
            caption(job, worker=worker, workers=2)
        whole = make_job(tmp_path / "whole", tmp_path / "*.tar")
        caption(whole)
        assert sidecar_rows(job.out) == sidecar_rows(whole.out)

    def test_questions_wait_for_their_description_over_any_number_of_breaks(self, job: Job, tmp_path: Path) -> None:
        both = make_job(tmp_path / "both", tmp_path / "*.tar", tasks=("detailed", "qa"))
        rule = TestTasks().answer
        asked, taken = [], 0
        for given in (1, 2, 3, 5, 4):
            engine = RuleEngine(rule, fail_after=given)
            with pytest.raises(RuntimeError):
                caption(both, engine)
            asked += engine.asked
            taken += given
        engine = RuleEngine(rule)
        caption(both, engine)
        assert len(engine.asked) == 24 - taken
        details, pairs = sidecar_rows(both.out), sidecar_rows(both.out, "qa-en")
        assert len(details) == len(pairs) == 12
        whole = make_job(tmp_path / "whole", tmp_path / "*.tar", tasks=("detailed", "qa"))
        caption(whole, RuleEngine(rule))
        assert sidecar_rows(whole.out, "qa-en") == pairs and sidecar_rows(whole.out) == details

    def test_a_first_try_of_no_use_is_not_asked_a_third_time(self, tmp_path: Path) -> None:
        job = make_job(tmp_path / "out", picture_tar(tmp_path / "x.tar", [0]), tasks=("qa",))
        first = RuleEngine(lambda ask: "nothing", fail_after=1)
        with pytest.raises(RuntimeError):
            caption(job, first)
        second = RuleEngine(lambda ask: "nothing")
        caption(job, second)
        assert [ask.seed for ask in second.asked] == [1]
        (row,) = all_lines(job.out, "quarantine")
        assert (row["reason"], row["attempts"]) == ("unparsable", 2)

    def test_a_shard_that_changed_under_its_journal_keeps_the_answers_to_what_is_still_there(
        self, job: Job, tmp_path: Path
    ) -> None:
        first = RuleEngine(fail_after=2)
        with pytest.raises(RuntimeError):
            caption(job, first)
        picture_tar(tmp_path / "0.tar", [20, 3, 2, 1, 0])
        again = RuleEngine(fail_after=1)
        with pytest.raises(RuntimeError):
            caption(make_job(job.out, tmp_path / "*.tar"), again)
        last = RuleEngine()
        pipeline = caption(make_job(job.out, tmp_path / "*.tar"), last)
        assert not pipeline.feed.broken and len(last.asked) == 13 - 3
        assert [row["text"] for row in sidecar_rows(job.out)] == [of(n) for n in (20, 3, 2, 1, 0, *range(4, 12))]

    def test_a_disk_that_fills_while_sealing(self, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
        from sailctl.core.caption import sidecar

        with monkeypatch.context() as full:

            def refuse(*_: object) -> None:
                raise StorageError("cannot write: no space left")

            full.setattr(sidecar, "write_manifest", refuse)
            with pytest.raises(StorageError, match="no space left"):
                caption(job)
        engine = RuleEngine()
        caption(job, engine)
        assert len(engine.asked) < 12
        assert [row["text"] for row in sidecar_rows(job.out)] == [of(number) for number in range(12)]


class TestQuarantine:
    def poison(self, ask: Ask) -> str | Failed:
        if of(1) == told(ask):
            return Failed("", "http_500", "the server ends early", 6)
        return told(ask)

    def test_reason_picture_and_replay_and_no_second_try_unasked(self, tmp_path: Path) -> None:
        job = make_job(tmp_path / "out", picture_tar(tmp_path / "a.tar", range(3)))
        caption(job, RuleEngine(self.poison))
        (row,) = all_lines(job.out, "quarantine")
        assert (row["key"], row["reason"], row["detail"]) == ("00001", "http_500", "the server ends early")
        assert row["attempts"] == 6 and row["replay"] == f"sailctl caption --retry-quarantined --only {row['id']}"
        assert [(job.out / name).read_bytes() for name in row["images"]] == [picture(1, 12, 10)]
        assert [row["key"] for row in sidecar_rows(job.out)] == ["00000", "00002"]
        engine = RuleEngine()
        caption(job, engine)
        assert engine.asked == []
        caption(job, engine, retry=True, only="00000")
        assert engine.asked == []
        caption(job, engine, retry=True, only=row["id"])
        assert [told(ask) for ask in engine.asked] == [of(1)]
        assert [row["key"] for row in sidecar_rows(job.out)] == ["00000", "00001", "00002"]
        assert all_lines(job.out, "quarantine") == [] and not (job.out / "quarantine" / "a").exists()

    def test_questions_about_a_description_that_failed(self, tmp_path: Path) -> None:
        job = make_job(tmp_path / "out", picture_tar(tmp_path / "a.tar", range(2)), tasks=("detailed", "qa"))
        caption(job, RuleEngine(lambda ask: PAIRS if "Q: a" in ask.turns[0].text else self.poison(ask)))
        assert [(row["task"], row["reason"]) for row in all_lines(job.out, "quarantine")] == [
            ("detailed", "http_500"),
            ("qa", "no_caption"),
        ]

    def test_poison_in_an_unsealed_unit_is_not_asked_again_either(self, tmp_path: Path) -> None:
        job = make_job(tmp_path / "out", picture_tar(tmp_path / "a.tar", range(8)))
        with pytest.raises(RuntimeError):
            caption(job, RuleEngine(self.poison, fail_after=6))
        engine = RuleEngine()
        caption(job, engine)
        assert of(1) not in [told(ask) for ask in engine.asked]


class TestTheFolder:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"model": "other"}, "model is 'rule', asked for 'other'"),
            ({"max_tokens": 7}, "parameters.max_tokens is 1024, asked for 7"),
            ({"tasks": ("ocr",)}, "tasks is ['detailed'], asked for ['ocr']"),
            ({"lang": "zh"}, "lang is 'en', asked for 'zh'"),
        ],
    )
    def test_another_job_is_refused_with_key_and_values(
        self, options: dict[str, object], message: str, tmp_path: Path
    ) -> None:
        data = picture_tar(tmp_path / "a.tar", [0])
        make_job(tmp_path / "out", data).claim()
        with pytest.raises(UsageError) as refused:
            make_job(tmp_path / "out", data, **options).claim()  # type: ignore[arg-type]
        assert message in str(refused.value)

    def test_other_data_are_refused(self, tmp_path: Path) -> None:
        make_job(tmp_path / "out", picture_tar(tmp_path / "a.tar", [0])).claim()
        with pytest.raises(UsageError, match=r"holds captions of other data \(.*a.tar\), none of which is in --data"):
            make_job(tmp_path / "out", picture_tar(tmp_path / "b.tar", [0])).claim()

    def test_data_may_be_added_and_move_but_what_is_sealed_may_not_change(self, tmp_path: Path) -> None:
        for name in "xyz":
            (tmp_path / name).mkdir()
        picture_tar(tmp_path / "x" / "0.tar", [0])
        caption(make_job(tmp_path / "out", tmp_path / "x"))
        picture_tar(tmp_path / "x" / "1.tar", [1])
        picture_tar(tmp_path / "y" / "0.tar", [2])
        job = make_job(tmp_path / "out", tmp_path / "y", tmp_path / "x").claim()
        assert job.news == (f"new data shards: {tmp_path / 'y' / '0.tar'}, {tmp_path / 'x' / '1.tar'}",)
        engine = RuleEngine()
        caption(job, engine)
        assert len(engine.asked) == 2
        folder = tmp_path / "out" / "detailed-en"
        assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.parquet")) == [
            *("0.parquet", "1.parquet", "y/0.parquet"),
        ]
        (tmp_path / "y").rename(tmp_path / "w")
        caption(make_job(tmp_path / "out", tmp_path / "x", tmp_path / "w"), engine)
        assert len(engine.asked) == 2
        picture_tar(tmp_path / "z" / "0.tar", [3])  # of the same size, but another
        with pytest.raises(UsageError, match=r"z/0.tar has changed since its captions were sealed \(it was .*w/0.tar"):
            make_job(tmp_path / "out", tmp_path / "x", tmp_path / "z").check()
        picture_tar(tmp_path / "x" / "1.tar", range(40))
        with pytest.raises(UsageError, match=r"x/1.tar has changed since .* bytes then, .* now\); put back"):
            make_job(tmp_path / "out", tmp_path / "x", tmp_path / "w").check()
        (tmp_path / "out" / "manifests" / "1.json").unlink()
        caption(make_job(tmp_path / "out", tmp_path / "x", tmp_path / "w"), engine)
        assert len(engine.asked) == 42 and len(sidecar_rows(tmp_path / "out")) == 42

    def test_another_prompt_is_named(self, tmp_path: Path) -> None:
        data = picture_tar(tmp_path / "a.tar", [0])
        make_job(tmp_path / "out", data).claim()
        (tmp_path / "detailed.en.txt").write_text("What?")
        with pytest.raises(UsageError, match=r"the prompt of detailed \(.*/detailed.en.txt\) is not what the captions"):
            make_job(tmp_path / "out", data, prompts=tmp_path).claim()

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for out in (tmp_path / "file" / "out", Path("/proc/x/out")):
            with pytest.raises(StorageError, match=rf"^--out {out} cannot be made: [^(]*; choose another --out$"):
                make_job(out, picture_tar(tmp_path / "a.tar", [0])).claim()

    def test_a_folder_of_something_else_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        append_jsonl(tmp_path / "out" / "mine.jsonl", [1])
        with pytest.raises(UsageError, match="is not empty and holds no captions"):
            make_job(tmp_path / "out", picture_tar(tmp_path / "a.tar", [0])).claim()


def test_pictures_go_as_they_are_unless_a_size_limit_asks_otherwise(tmp_path: Path) -> None:
    import io

    from PIL import Image

    big, small = picture(1, 80, 40, "JPEG"), picture(2, 20, 30)
    data = write_tar(tmp_path / "a.tar", [("a.jpg", big), ("b.png", small)])
    engine = RuleEngine()
    caption(make_job(tmp_path / "whole", data), engine)
    assert [ask.images for ask in engine.asked] == [(big,), (small,)]
    engine = RuleEngine()
    caption(make_job(tmp_path / "less", data, max_image_side=32), engine)
    (first,), (second,) = [ask.images for ask in engine.asked]
    with Image.open(io.BytesIO(first)) as image:
        assert (image.size, image.format) == ((32, 16), "JPEG")
    assert second == small
    assert [row["id"] for row in sidecar_rows(tmp_path / "less")] == [
        row["id"] for row in sidecar_rows(tmp_path / "whole")
    ]
