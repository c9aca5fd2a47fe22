"""`sailctl caption` as its user meets it: plans, refusals, the report, resuming, budgets, and a key nobody sees."""

from __future__ import annotations

import asyncio
import itertools
import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sailctl.cli import app
from sailctl.core.caption import worker
from sailctl.core.caption.display import Display
from sailctl.core.caption.feed import Feed
from sailctl.core.caption.pipeline import Pipeline
from sailctl.core.caption.report import quantiles
from sailctl.core.caption.request import CaptionRequest
from sailctl.core.caption.spend import TOKENS, Spent, spent, spent_by
from sailctl.core.caption.worker import together
from sailctl.core.engines.ask import Ask, Failed
from sailctl.core.engines.choice import EngineChoice, open_pool
from sailctl.core.errors import SailctlError
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
    assert "50 prompt and 10 completion tokens, 5 requests, cost 0.0002, over all runs" in result.stdout
    next_line = result.stderr.strip().splitlines()[-1]
    captions = f"data.sources.0.captions={tmp_path / 'out dir' / 'detailed-en'}"
    command = shlex.join(["sailctl", "pretrain", "--stage", "alignment", "--data", str(data), "--set", captions])
    assert next_line == f"next: {command}"
    report = json.loads((tmp_path / "out dir" / "report.json").read_text())
    again = sailctl(*words, "--json")
    assert len(engine.asked) == 5
    second = json.loads(again.stdout)
    assert second["session"]["samples"] == 0 and second["complete"]
    assert "this run: nothing was left to do" in sailctl(*words).stdout
    assert {**report, "session": 0} == {**second, "session": 0}
    assert set(report) == {
        *("out", "complete", "shards", "samples", "model", "tasks", "rejected", "quarantined", "tokens", "requests"),
        *("tokens_unreported", "cost", "session", "warnings", "next"),
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
    assert report["session"]["samples"] == 4 and json.loads(replayed.stdout)["session"]["samples"] == 1
    assert [row["key"] for row in sidecar_rows(tmp_path / "out")] == ["a", "c"]
    assert len(engine.asked) == 3


def test_the_plan_asks_nothing_and_writes_nothing(data: Path, tmp_path: Path, engine: RuleEngine) -> None:
    before = sorted(tmp_path.rglob("*"))
    words = ("caption", "--data", data, *ASKING, "--task", "ocr", "--task", "qa", "--out", tmp_path / "out")
    plan = json.loads(sailctl(*words, "--dry-run", "--json", "--shard", "1/2").stdout)
    assert (plan["data_shards"], plan["mine"], plan["sealed"], plan["tasks"]) == (2, 1, 0, ["ocr", "qa"])
    assert "Copy out all the writing" in plan["prompts"]["ocr"]
    plan_lines = sailctl(*words, "--dry-run").stdout.splitlines()
    assert f"out          {tmp_path / 'out'}" in plan_lines and "tasks        ocr, qa" in plan_lines
    assert plan_lines[plan_lines.index("ocr:") + 1].startswith("Copy out all the writing")
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
        (
            ("--endpoint", "http://h/v1?api_key=secret", "--model", "m"),
            "--endpoint http://h/v1: no query but api-version",
        ),
        (("--endpoint", "http://h/v1?api-version=1&k=secret", "--model", "m"), "name it with --api-key-env"),
        (("--endpoint", "http://h/v1#secret", "--model", "m"), "and no fragment in a URL"),
        (("--endpoint", "h?api_key=secret", "--model", "m"), "--endpoint h: give a URL such as"),
        (("--endpoint", "http://[h", "--model", "m"), "--endpoint http://[h: give a URL such as"),
        ((*ASKING, "--task", "dense"), "--task dense: unknown"),
        ((*ASKING, "--lang", "fr"), "--lang fr: unknown; known: en, zh"),
        ((*ASKING, "--shard", "2/2"), "--shard 2/2: give i/n, i from 0 to n - 1"),
        ((*ASKING, "--shard", "half"), "--shard half: give i/n"),
        ((*ASKING, "--temperature", "-1"), "--temperature -1.0: must be 0"),
        ((*ASKING, "--api-key-env", "NOPE"), "--api-key-env NOPE: that environment variable is not set"),
        ((*ASKING, "--api-key-env", "sk-secret"), "--api-key-env: give the name of an environment variable"),
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
    assert "1 of the data shards could not be read, the others are done: shard " in result.stderr
    assert "rows/b.parquet cannot be read as Parquet" in result.stderr and "next:" not in result.stderr
    assert len(sidecar_rows(tmp_path / "out")) == 2
    machine = sailctl("caption", "--data", tmp_path / "rows", *ASKING, "--out", tmp_path / "out", "--json")
    report = json.loads(machine.stdout)
    assert machine.exit_code == 1 and not report["complete"] and report["next"] is None
    assert "b.parquet" in report["error"] and report["samples"] == 2


class TestBudgets:
    def choice(self, **options: Any) -> EngineChoice:
        return EngineChoice("openai", "m", ("http://h:1",), price_in=1e6, price_out=2e6, **options)

    def test_what_was_spent_is_remembered_and_shared_out(self, tmp_path: Path) -> None:
        first = Spent.open(tmp_path, 0, 1)
        first.note(40, 8)
        beside = Spent.open(tmp_path, 0, 1)  # another command at the same share
        beside.note(0, 0)
        beside.note(6, 2, reported=False, answered=False)
        beside.note(4, 0, reported=False)
        assert first.session == {"prompt": 40, "completion": 8, "requests": 1}
        first.close()
        again = Spent.open(tmp_path, 0, 1)
        again.note(2, 1)
        other = Spent.open(tmp_path, 1, 2)
        other.note(6, 3)
        for one in (again, beside, other):
            one.close()
        assert dict(spent(tmp_path)) == {
            "prompt": 48, "completion": 12, "requests": 6, "unreported_prompt": 10, "unreported_completion": 2,
            "uncounted": 1,
        }  # fmt: skip
        mine = [spent_by(tmp_path, worker, 2) for worker in range(2)]  # of two, where there was one before
        assert [(one["prompt"], one["completion"]) for one in mine] == [(21, 5), (27, 8)]
        with pytest.raises(SailctlError, match=r"^spending cap reached$"):
            open_pool(self.choice(max_cost=60), processes=1, workers=1, spent=(50, 10))
        (tmp_path / "spent" / "0-of-1.json").write_bytes(b"{torn")
        with pytest.raises(SailctlError, match=r"0-of-1.json: what was spent cannot be read"):
            spent(tmp_path)

    def test_what_was_answered_before_a_failure_counts_too(
        self, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker, "open_pool", lambda *_, **__: RuleEngine(fail_after=2))
        with pytest.raises(RuntimeError):
            CliRunner().invoke(
                app, ["caption", "--data", str(data), *ASKING, "--out", str(tmp_path / "out")], catch_exceptions=False
            )
        assert (spent(tmp_path / "out")["prompt"], spent(tmp_path / "out")["completion"]) == (20, 4)


def test_the_next_command_names_every_source_and_what_it_names_can_be_read(tmp_path: Path, engine: RuleEngine) -> None:
    from sailctl.core.data.sources import open_source
    from sailctl.core.schema.load import load_recipe

    for number, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        picture_tar(tmp_path / name / "x.tar", range(10 * number, 10 * number + 3))
    words = ("caption", "--data", tmp_path / "a", "--data", tmp_path / "b", *ASKING, "--out", tmp_path / "out")
    command = shlex.split(json.loads(sailctl(*words, "--json").stdout)["next"])
    given = list(itertools.pairwise(command))
    data, sets = ([value for name, value in given if name == option] for option in ("--data", "--set"))
    recipe, _ = load_recipe(None, "alignment", sets, data)
    for number, config in enumerate(recipe.data.sources):
        source = open_source(config)
        assert [source.read(row).turns[0].text for row in range(3)] == [
            told(Ask("", (), (picture(10 * number + row, 12, 10),))) for row in range(3)
        ]
        source.close()
    assert len(recipe.data.sources) == 2


def test_one_picture_alone_is_asked_again(tmp_path: Path, engine: RuleEngine) -> None:
    data = picture_tar(tmp_path / "a.tar", range(4))
    words = ("caption", "--data", data, *ASKING, "--out", tmp_path / "out")
    engine.rule = lambda ask: Failed("", "http_500", "broken", 6) if ask.images[0] in poison else told(ask)
    poison = [picture(number, 12, 10) for number in (1, 2)]
    sailctl(*words)
    first, second = lines(tmp_path / "out" / "quarantine" / "a.jsonl")
    engine.rule, engine.asked = told, []
    assert json.loads(sailctl(*shlex.split(second["replay"])[1:], "--json").stdout)["quarantined"] == {"http_500": 1}
    assert [ask.images for ask in engine.asked] == [(picture(2, 12, 10),)]
    assert lines(tmp_path / "out" / "quarantine" / "a.jsonl") == [first]
    wrong = sailctl(*words, "--only", "00002")
    assert wrong.exit_code == 2 and "--only 00002: nothing was given up of a sample with that key or id" in wrong.stderr
    assert sailctl(*words, "--only", "00001").exit_code == 0 and len(sidecar_rows(tmp_path / "out")) == 4


class TestAJobOfNoUse:
    def test_no_samples(self, tmp_path: Path, engine: RuleEngine) -> None:
        (tmp_path / "a.jsonl").write_text("\n")
        result = sailctl("caption", "--data", tmp_path / "a.jsonl", *ASKING, "--out", tmp_path / "out", "--json")
        assert result.exit_code == 1 and "the data hold no samples" in result.stderr
        assert json.loads(result.stdout)["next"] is None and "the data hold" in json.loads(result.stdout)["error"]

    def test_a_task_that_never_gets_an_answer_of_use_ends_early(self, tmp_path: Path, engine: RuleEngine) -> None:
        data = picture_tar(tmp_path / "a.tar", range(400))
        words = ("caption", "--data", data, "--task", "detailed,qa", *ASKING, "--out", tmp_path / "out")
        result = sailctl(*words)
        assert result.exit_code == 1 and len(engine.asked) < 700
        assert "--task qa: none of the first 200 questions got an answer of use (unparsable 200" in result.stderr

    def test_of_few_it_is_a_warning_and_the_next_command_takes_the_other_task(
        self, tmp_path: Path, engine: RuleEngine
    ) -> None:
        data = picture_tar(tmp_path / "a.tar", range(3))
        alone = sailctl("caption", "--data", data, "--task", "qa", *ASKING, "--out", tmp_path / "alone")
        assert alone.exit_code == 1 and "none of 3 samples has a caption (unparsable 3)" in alone.stderr
        assert f"alone; to ask once more: sailctl caption --data {data} " in alone.stderr
        assert alone.stderr.strip().endswith("--retry-quarantined")
        both = sailctl("caption", "--data", data, "--task", "ocr,qa", *ASKING, "--out", tmp_path / "out")
        assert both.exit_code == 0 and "captions=" + str(tmp_path / "out" / "ocr-en") in both.stderr
        assert "warning: qa: none of 3 questions got an answer of use" in both.stdout


def test_a_run_that_goes_on_tells_of_its_own_samples(tmp_path: Path, engine: RuleEngine) -> None:
    data = picture_tar(tmp_path / "a.tar", range(12))
    words = ("caption", "--data", data, *ASKING, "--out", tmp_path / "out", "--json")
    engine.fail_after = 5
    with pytest.raises(RuntimeError):
        CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    engine.fail_after = None
    report = json.loads(sailctl(*words).stdout)
    assert report["samples"] == 12 and report["session"]["samples"] == report["session"]["answered"] == 7


def test_half_of_a_job_names_no_next_command(data: Path, tmp_path: Path, engine: RuleEngine) -> None:
    words = ("caption", "--data", data, *ASKING, "--out", tmp_path / "out", "--shard")
    for half, told_next in ((0, False), (1, True)):
        result = sailctl(*words, f"{half}/2")
        assert result.exit_code == 0 and ("next: sailctl pretrain" in result.stderr) == told_next


def test_a_damaged_and_a_deleted_sidecar_are_told_once_each_as_what_they_are(
    data: Path, tmp_path: Path, engine: RuleEngine
) -> None:
    words = ("caption", "--data", data, *ASKING, "--out", tmp_path / "out")
    sailctl(*words)
    (tmp_path / "out" / "detailed-en" / "0.parquet").unlink()
    (tmp_path / "out" / "detailed-en" / "1.parquet").write_bytes(b"?")
    told_lines = [line for line in sailctl(*words).stderr.splitlines() if "made again" in line]
    assert len(told_lines) == 2
    assert "0.parquet: it is gone" in told_lines[0] and "1.parquet: 1 bytes" in told_lines[1]


def test_an_address_of_ray_where_nobody_answers_is_one_line_at_once(data: Path, tmp_path: Path) -> None:
    for address in ("127.0.0.1:9", "ray://nowhere.invalid:1"):
        result = sailctl("caption", "--data", data, *ASKING, "--out", tmp_path / "out", "--ray", address)
        assert result.exit_code == 2 and f"--ray {address}: nobody answers there (" in result.stderr


def test_progress_only_rises_and_says_the_important_first(tmp_path: Path) -> None:
    shown: list[tuple[float, list[str]]] = []

    class Reporter:
        def info(self, line: str) -> None: ...
        def start(self, label: str, total: float | None = None, **_: Any) -> None: ...
        def expect(self, total: float) -> None: ...
        def update(self, completed: float, **fields: float | int | str) -> None:
            shown.append((completed, [f"{name} {value}" for name, value in fields.items()]))

    show = Display(Reporter())
    few = {"http://a:1/v1": {"ok": 3, "errors": {"reset": 3}}, "http://b:1/v1": {"ok": 10, "errors": {}}}
    many = {"http://a:1/v1": {"ok": 30, "errors": {"reset": 10}}, "http://b:1/v1": {"ok": 40, "errors": {}}}
    base = {"total": 50, "before": 0, "failed": 0, **dict.fromkeys(TOKENS, 2)}
    show({**base, "samples": 20, "engine": {"in_flight": 4, "endpoints": few}})
    show({**base, "samples": 18, "failed": 2, "engine": {"in_flight": 4, "cost": 0.5, "endpoints": many}})
    assert shown == [
        (20, ["in flight 4", "tokens 8"]),
        (20, ["errors 12%", "given up 2", "cost 0.5", "in flight 4", "tokens 8", "most errors at a:1"]),
    ]
    for shard in range(6):
        picture_tar(tmp_path / f"{shard}.tar", range(shard * 7, shard * 7 + 7))
    seen: list[int] = []
    told_rule = RuleEngine()
    pipeline: list[Any] = []

    def rule(ask: Ask) -> str:
        if pipeline:
            seen.append(pipeline[0].progress()["samples"])
        return told(ask)

    told_rule.rule = rule
    job = make_job(tmp_path / "out", tmp_path / "*.tar").claim()

    async def run() -> None:
        pipeline.append(Pipeline(job, told_rule, Feed(job)))
        await pipeline[0].run()

    asyncio.run(run())
    assert len(seen) == 42 and seen == sorted(seen) and pipeline[0].progress()["samples"] == 42


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
