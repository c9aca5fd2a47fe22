"""`sailctl caption` as its user meets it: plans, refusals, the report, resuming, budgets, and a key nobody sees."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sailctl.cli import app
from sailctl.core.caption import worker
from sailctl.core.caption.engine import EngineChoice, open_pool
from sailctl.core.caption.report import quantiles
from sailctl.core.caption.request import CaptionRequest
from sailctl.core.caption.worker import Part, spent_before, together
from sailctl.core.engines.ask import Ask, Failed
from sailctl.core.errors import UsageError
from tests.caption.helpers_caption import RuleEngine, lines, make_job, picture_tar, sidecar_rows, told
from tests.helpers_data import picture, write_tar

ASKING = ("--endpoint", "http://127.0.0.1:9/v1", "--model", "rule")


def sailctl(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> RuleEngine:
    """What the command asks instead of a pool."""
    made = RuleEngine()
    monkeypatch.setattr(worker, "open_pool", lambda *_, **__: made)
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    picture_tar(tmp_path / "data" / "0.tar", range(3))
    picture_tar(tmp_path / "data" / "1.tar", range(3, 5), captions=False)
    return tmp_path / "data"


def test_report_next_command_and_a_second_run_that_asks_nothing(data: Path, tmp_path: Path, engine: RuleEngine) -> None:
    words = ("caption", "--data", data, *ASKING, "--out", tmp_path / "out dir", "--price-in", 2, "--price-out", 10)
    result = sailctl(*words)
    assert result.exit_code == 0, result.stderr
    assert "5 samples of 2/2 data shards, by rule" in result.stdout
    assert "detailed: 5 captioned, 0 quarantined; words: mean 2, median 2, p95 2" in result.stdout
    assert "50 prompt and 10 completion tokens, 5 requests, cost 0.0002" in result.stdout
    next_line = result.stderr.strip().splitlines()[-1]
    captions = f"data.sources.0.captions={tmp_path / 'out dir' / 'detailed-en'}"
    command = shlex.join(["sailctl", "pretrain", "--stage", "alignment", "--data", str(data), "--set", captions])
    assert next_line == f"next: {command}"
    report = json.loads((tmp_path / "out dir" / "report.json").read_text())
    again = sailctl(*words, "--json")
    assert len(engine.asked) == 5
    second = json.loads(again.stdout)
    assert second["session"]["samples"] == 0 and second["complete"]
    assert {**report, "session": 0} == {**second, "session": 0}
    assert set(report) == {
        *("out", "complete", "shards", "samples", "model", "tasks", "rejected", "quarantined", "tokens", "requests"),
        *("cost", "session", "next"),
    }


def test_rejects_and_quarantine_reach_the_report_and_the_replay_works(
    tmp_path: Path, engine: RuleEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [("a.png", picture(0)), ("b.png", b"?"), ("c.png", picture(1)), ("d.txt", b"text")]
    data = write_tar(tmp_path / "a.tar", members)

    def poison(ask: Ask) -> str | Failed:
        return Failed("", "http_500", "broken", 6) if ask.images == (picture(1),) else told(ask)

    engine.rule = poison
    result = sailctl("caption", "--data", data, *ASKING, "--out", tmp_path / "out", "--json")
    report = json.loads(result.stdout)
    assert report["rejected"] == {"samples": 2, "reasons": {"bad_image": 1, "no_image": 1}}
    assert report["quarantined"] == {"http_500": 1} and report["tasks"]["detailed"]["captioned"] == 1
    assert [row["reason"] for row in lines(tmp_path / "out" / "rejects.jsonl")] == ["bad_image", "no_image"]
    (row,) = lines(tmp_path / "out" / "quarantine" / "a.jsonl")
    engine.rule = told
    replayed = sailctl(*shlex.split(row["replay"])[1:], "--json")
    assert json.loads(replayed.stdout)["quarantined"] == {} and replayed.exit_code == 0
    assert [row["key"] for row in sidecar_rows(tmp_path / "out")] == ["a", "c"]
    assert len(engine.asked) == 3


def test_the_plan_asks_nothing_and_writes_nothing(data: Path, tmp_path: Path, engine: RuleEngine) -> None:
    before = sorted(tmp_path.rglob("*"))
    words = ("caption", "--data", data, *ASKING, "--task", "ocr", "--task", "qa", "--out", tmp_path / "out")
    plan = json.loads(sailctl(*words, "--dry-run", "--json", "--shard", "1/2").stdout)
    assert (plan["data_shards"], plan["mine"], plan["sealed"], plan["tasks"]) == (2, 1, 0, ["ocr", "qa"])
    assert "Copy out all the writing" in plan["prompts"]["ocr"]
    assert "Copy out all the writing" in sailctl(*words, "--dry-run").stdout
    assert sorted(tmp_path.rglob("*")) == before and engine.asked == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nobody to ask: give --endpoint URL and --model NAME"),
        (("--endpoint", "http://h:1"), "--engine openai needs --model NAME, as the server calls it"),
        (("--engine", "openai", "--model", "m"), "--engine openai needs --endpoint URL"),
        (("--engine", "vllm"), "--engine vllm: unknown; known: openai, local, lmdeploy"),
        (("--engine", "local"), "--engine local needs --checkpoint PATH"),
        (("--endpoint", "h:1", "--model", "m"), "--endpoint h:1: give a URL such as http://host:23333/v1"),
        (("--endpoint", "http://me:secret@h:1", "--model", "m"), "--endpoint …@h: no user or password in a URL"),
        ((*ASKING, "--task", "dense"), "--task dense: unknown"),
        ((*ASKING, "--lang", "fr"), "--lang fr: unknown; known: en, zh"),
        ((*ASKING, "--shard", "2/2"), "--shard 2/2: give i/n, i from 0 to n - 1"),
        ((*ASKING, "--shard", "half"), "--shard half: give i/n"),
        ((*ASKING, "--temperature", "-1"), "--temperature -1.0: must be 0"),
        ((*ASKING, "--max-cost", "1"), "--max-cost needs --price-in and --price-out"),
        ((*ASKING, "--prompts", "nowhere"), "--prompts nowhere is no folder"),
        ((*ASKING, "--image-root", "nowhere"), "image_root nowhere is no folder"),
        (("--engine", "local", "--checkpoint", "c", "--processes", "2"), "--engine local answers in one process"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    words: tuple[str, ...], message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = sailctl("caption", "--data", data, "--out", "out", *words)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert "secret" not in result.stderr and not (tmp_path / "out").exists()


def test_no_data_no_out_and_data_given_twice(data: Path, tmp_path: Path) -> None:
    assert "no data: give --data PATH" in sailctl("caption", *ASKING, "--out", tmp_path / "out").stderr
    assert "no --out" in sailctl("caption", "--data", data, *ASKING).stderr
    twice = sailctl("caption", "--data", data, "--data", data / "0.tar", *ASKING, "--out", tmp_path / "out")
    assert twice.exit_code == 2 and "0.tar is given twice" in twice.stderr


def test_a_shard_that_cannot_be_read_fails_the_run_when_the_others_are_done(
    data: Path, tmp_path: Path, engine: RuleEngine
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "rows").mkdir()
    pq.write_table(pa.table({"image": [picture(0), picture(1)]}), tmp_path / "rows" / "a.parquet")
    (tmp_path / "rows" / "b.parquet").write_bytes(b"PAR1")
    result = sailctl("caption", "--data", tmp_path / "rows", *ASKING, "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "1 of the data shards could not be read, the others are done; the first: " in result.stderr
    assert len(sidecar_rows(tmp_path / "out")) == 2


class TestBudgets:
    def choice(self, **options: Any) -> EngineChoice:
        return EngineChoice("openai", "m", ("http://h:1",), price_in=1e6, price_out=2e6, **options)

    def test_what_earlier_runs_paid_counts(self, data: Path, tmp_path: Path, engine: RuleEngine) -> None:
        sailctl("caption", "--data", data, *ASKING, "--out", tmp_path / "out")
        job = make_job(tmp_path / "out", data)
        assert spent_before(Part(job, self.choice(), 0, 1)) == (50, 10)
        assert [spent_before(Part(job, self.choice(), half, 2)) for half in range(2)] == [(30, 6), (20, 4)]
        with pytest.raises(UsageError, match=r"--max-cost 60: its part for this worker, 60, is spent \(70.0000\)"):
            open_pool(self.choice(max_cost=60), processes=1, workers=1, spent=(50, 10))

    def test_what_is_journaled_counts_too(self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(worker, "open_pool", lambda *_, **__: RuleEngine(fail_after=2))
        with pytest.raises(RuntimeError):
            CliRunner().invoke(
                app, ["caption", "--data", str(data), *ASKING, "--out", str(tmp_path / "out")], catch_exceptions=False
            )
        assert spent_before(Part(make_job(tmp_path / "out", data), self.choice(), 0, 1)) == (20, 4)


def test_the_printed_command_is_the_one_given() -> None:
    request = CaptionRequest(["a b"], Path("o"), tasks=["ocr,qa"], endpoints=["http://h:1"], model="m", processes=3)
    line = request.command_line("--retry-quarantined")
    assert line == (
        "sailctl caption --data 'a b' --task ocr,qa --endpoint http://h:1 --model m --processes 3 --out o "
        "--retry-quarantined"
    )


def test_quantiles_by_hand() -> None:
    assert quantiles(Counter({1: 10, 3: 9, 100: 1})) == {"mean": 6.85, "median": 1, "p95": 3}
    assert quantiles(Counter({4: 1})) == {"mean": 4, "median": 4, "p95": 4}
    assert quantiles(Counter()) == {"mean": None, "median": None, "p95": None}


def test_many_workers_words_as_one() -> None:
    one = {"samples": 1, "engine": {"cost": 0.5, "endpoints": {"a": {"ok": 1, "state": "open"}}}, "stopped": False}
    two = {"samples": 2, "engine": {"endpoints": {"a": {"ok": 2, "state": "closed"}, "b": {"ok": 1}}}, "stopped": True}
    assert together([one, two]) == {
        "samples": 3,
        "engine": {"cost": 0.5, "endpoints": {"a": {"ok": 3, "state": "open, closed"}, "b": {"ok": 1}}},
        "stopped": True,
    }
    assert together([]) == {}
