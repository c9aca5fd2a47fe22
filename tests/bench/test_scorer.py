"""Scores of sail18's 18 benchmarks, on tables made by hand: ours, the ones reckoned here, and VLMEvalKit's own."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from sailctl.core.bench.judge_proxy import JUDGE_OPTIONS, JudgeProxy
from sailctl.core.bench.scorer import Job, Scored, ScoringError, score, score_all
from sailctl.core.bench.scorer_run import PYTHON_VARIABLE, find_python
from sailctl.core.engines.pool import HttpPool, PoolStopped
from sailctl.core.engines.secret import Secret
from sailctl.core.errors import DataError, SailctlError, UsageError
from tests.bench import kit_tables
from tests.bench.kit_tables import BENCHMARKS, Made
from tests.bench.stub_judge import KEY, StubJudge

WITNESS = Path(__file__).with_name("plain_kit.py")
JUDGED = ("MMVet", "MathVista_MINI")  # VLMEvalKit does not score these without a judge


@dataclass
class Batch:
    made: dict[str, Made]
    scored: dict[str, Scored]


def jobs(made: list[Made], folder: Path) -> list[Job]:
    return [Job(one.benchmark, one.write(folder), one.predictions) for one in made]


def batch(made: list[Made], folder: Path, **how: Any) -> Batch:
    scored = score_all(jobs(made, folder / "tables"), folder / "scoring", **how)
    failed = [one for one in scored if isinstance(one, SailctlError)]
    assert not failed, failed
    names = [one.benchmark.name for one in made]
    return Batch(dict(zip(names, made, strict=True)), dict(zip(names, scored, strict=True)))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """VLMEvalKit on its own, beside the batch below."""
    folder = tmp_path_factory.mktemp("plain")
    names = []
    for made in kit_tables.without_judge():
        if made.benchmark.name not in JUDGED:
            names.append(made.benchmark.dataset)
            made.write(folder)
            asked = [
                row | {"prediction": made.predictions[row["index"]]}
                for row in made.rows
                if row["index"] in made.predictions
            ]
            (folder / "said").mkdir(exist_ok=True)
            kit_tables.write_tsv(
                folder / "said" / f"{names[-1]}.tsv", [{k: v for k, v in row.items() if k != "image"} for row in asked]
            )
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([find_python(), WITNESS, folder, *names], stdout=log, stderr=log, cwd=folder)
        yield lambda: process.wait(200) == 0 and json.loads((folder / "told.json").read_text())
    process.kill()


@pytest.fixture(scope="session")
def alone(plain: Any, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """All 18 without a judge, in one process."""
    return batch(kit_tables.without_judge(), tmp_path_factory.mktemp("alone"))


@dataclass
class Judged(Batch):
    again: dict[str, Scored]
    asked: dict[str, int]
    counts: list[dict[str, int]]
    faulted: dict[str, int]
    models: set[str]
    wrong_keys: int


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    """What a judge is asked about, most of it twice; a quarter of what is asked meets a fault at first."""
    folder = tmp_path_factory.mktemp("judged")
    batches, counts = [], []
    with StubJudge(faults=True) as stub:
        for names in (None, ("MMVet", "MathVista_MINI", "MMBench_DEV")):
            made = [one for one in kit_tables.with_judge() if names is None or one.benchmark.name in names]
            pool = HttpPool(
                [stub.url], "pinned-1", api_key=Secret(KEY), options=replace(JUDGE_OPTIONS, timeout_s=1.0, attempts=12)
            )
            with JudgeProxy(pool, folder / "judge.jsonl") as judge:
                batches.append(batch(made, folder, judge=judge))
                counts.append(judge.counts())
        return Judged(
            batches[0].made, batches[0].scored, batches[1].scored, dict(stub.answered), counts, dict(stub.faulted),
            stub.models, stub.wrong_keys,
        )  # fmt: skip


# --- the raw scores, reckoned from the rows alone --------------------------------------------------------------------


def reckoned(made: Made) -> float:
    """A benchmark's raw score from what each answer is worth."""
    rows = [row for row in made.rows if row["index"] in made.predictions]
    worth = made.worth
    name = made.benchmark.name
    if name == "MMBench_DEV":
        whole: dict[int, float] = {}
        for row in rows:
            base = int(row["index"]) % 1_000_000
            whole[base] = min(whole.get(base, 1.0), worth[row["index"]])
        return 100 * mean(whole.values())
    if name == "MME":
        total = 0.0
        for kind in kit_tables.MME_KINDS:
            mine = [worth[row["index"]] for row in rows if row["category"] == kind]
            pairs = [mine[place] * mine[place + 1] for place in range(0, len(mine), 2)]
            total += 100 * mean(mine) + 100 * mean(pairs)
        return total
    if name == "HallusionBench":
        figures, questions = defaultdict(list), defaultdict(list)
        for row in rows:
            _, kind, _, group, figure, question = row["index"].split("_")
            figures[kind, group, figure].append(worth[row["index"]])
            questions[kind, group, question].append(worth[row["index"]])
        rates = [mean(worth.values()), mean(map(min, figures.values())), mean(map(min, questions.values()))]
        return 100 * mean(rates)
    if name == "POPE":
        right_yes = wrong_yes = all_yes = 0
        for row in rows:
            times = row["category"].count(",") + 1
            is_read = row["index"] not in made.unread
            said_yes = is_read and (worth[row["index"]] == 1) == (row["answer"] == "Yes")
            right_yes += times * (said_yes and row["answer"] == "Yes")
            wrong_yes += times * (said_yes and row["answer"] == "No")
            all_yes += times * (row["answer"] == "Yes")
        precision, recall = right_yes / (right_yes + wrong_yes), right_yes / all_yes
        return 100 * 2 * precision * recall / (precision + recall)
    if name == "OCRBench":
        return sum(worth.values())
    return 100 * mean(worth.values())


def kits_own(name: str, table: Any) -> float:
    """The same number in VLMEvalKit's own table."""
    if name == "OCRBench":
        return table["Final Score"]
    if name == "MME":
        return table[0]["perception"] + table[0]["reasoning"]
    if name == "HallusionBench":
        (overall,) = [row for row in table if row["split"] == "Overall"]
        return mean(overall[rate] for rate in ("aAcc", "fAcc", "qAcc"))
    if name == "POPE":
        (overall,) = [row for row in table if row["split"] == "Overall"]
        return overall["Overall"]
    if name == "MMVet":
        (overall,) = [row for row in table if row["Category"] == "Overall"]
        return overall["acc"]
    if name == "MathVista_MINI":
        (overall,) = [row for row in table if row["Task&Skill"] == "Overall"]
        return overall["acc"]
    metric = BENCHMARKS[name].metric
    (row,) = table
    return row["Overall"] * (100 if metric in ("accuracy", "circular_accuracy") else 1)


def check_items(made: Made, scored: Scored) -> None:
    found = {item.index: (item.score, item.parsed) for item in scored.items}
    wanted = {index: (pytest.approx(worth), index not in made.unread) for index, worth in made.worth.items()}
    assert found == wanted
    assert set(scored.unparsed) == made.unread


@pytest.mark.parametrize("name", BENCHMARKS)
def test_without_a_judge(name: str, alone: Batch) -> None:
    made, scored = alone.made[name], alone.scored[name]
    assert len(scored.items) >= 40
    check_items(made, scored)
    assert scored.raw == pytest.approx(reckoned(made))
    assert 0 < scored.raw < made.benchmark.full_marks
    by_rule = name in ("DocVQA_VAL", "InfoVQA_VAL", "ChartQA_TEST", "TextVQA_VAL", "OCRVQA_TEST", "OCRBench")
    assert (scored.fallback is None) == by_rule and scored.judge is None
    if name in JUDGED:
        assert scored.kit is None and "judge" in str(scored.fallback)


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in JUDGED])
def test_as_vlmevalkit_on_its_own(name: str, alone: Batch, plain: Any) -> None:
    table = plain()[BENCHMARKS[name].dataset]
    assert alone.scored[name].raw == pytest.approx(kits_own(name, table))
    assert kits_own(name, alone.scored[name].details["table"]) == pytest.approx(kits_own(name, table))


def test_the_kits_pick_errs_where_ours_does_not(alone: Batch) -> None:
    for name in ("MME", "HallusionBench"):
        assert alone.scored[name].kit != pytest.approx(alone.scored[name].raw)
    for name in ("MMStar", "DocVQA_VAL", "POPE"):
        assert alone.scored[name].kit == pytest.approx(alone.scored[name].raw)


def test_units_of_what_is_judged_together(alone: Batch) -> None:
    sizes: dict[str, set[int]] = {}
    for name, scored in alone.scored.items():
        groups = defaultdict(int)
        for item in scored.items:
            groups[item.group] += 1
        sizes[name] = set(groups.values())
    assert sizes["MME"] == {2} and sizes["MMBench_DEV"] == {2, 3, 4} and sizes["HallusionBench"] == {2}
    assert sizes["MMStar"] == sizes["OCRBench"] == {1}


# --- with a judge ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MMVet", "MathVista_MINI", "MMStar", "MMBench_DEV", "POPE"])
def test_with_a_judge(name: str, judged: Judged) -> None:
    made, scored = judged.made[name], judged.scored[name]
    check_items(made, scored)
    assert made.unread and scored.raw == pytest.approx(reckoned(made))
    assert scored.judge == "pinned-1" and scored.fallback is None
    assert scored.raw == pytest.approx(kits_own(name, scored.details["table"]))


def test_the_judge_failed_and_was_asked_again(judged: Judged) -> None:
    assert all(judged.faulted[kind] for kind in ("429", "500", "page", "no choice", "silence"))
    assert max(judged.asked.values()) == 1, "a question that was answered is not asked again"
    assert judged.models == {"pinned-1"} and judged.wrong_keys == 0
    assert judged.counts[0]["asked"] == len(judged.asked) and judged.counts[0]["failed"] == 0
    assert judged.counts[0]["unparsed"] == sum(len(made.unread) for made in judged.made.values())


def test_scoring_again_asks_nothing(judged: Judged) -> None:
    assert judged.counts[1]["asked"] == 0 and judged.counts[1]["cached"] > 100
    for name, again in judged.again.items():
        assert (again.raw, again.items) == (judged.scored[name].raw, judged.scored[name].items)


# --- what goes wrong -------------------------------------------------------------------------------------------------


def interpreter(path: Path, body: str) -> Path:
    """A stand-in for the scorer's python: says that the kit is there, then does what it is told instead of scoring.

    In `body`, $jobs is the file of jobs.
    """
    path.write_text(f'#!/bin/sh\n[ "$2" = "-c" ] && exit 0\nfor jobs; do :; done\n{body}\n')
    path.chmod(0o755)
    return path


def small(name: str = "MMStar") -> Made:
    made = Made(BENCHMARKS[name])
    for number in range(3):
        made.add(number, "A", 1, answer="A", A="x", B="y", category="all")
    return made


def test_a_judge_that_is_gone_stops_scoring(tmp_path: Path) -> None:
    with StubJudge() as stub:
        url = stub.url
    pool = HttpPool([url], "pinned-1", options=replace(JUDGE_OPTIONS, patience_s=0.3, attempts=50))
    asks = """python3 - <<'E' || sleep 60
import json, os, urllib.request
body = {"messages": [{"role": "user", "content": "hello"}]}
head = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
urllib.request.urlopen(urllib.request.Request(os.environ["OPENAI_API_BASE"], json.dumps(body).encode(), head))
E"""
    made = small()
    with JudgeProxy(pool, tmp_path / "judge.jsonl") as judge, pytest.raises(PoolStopped, match="no endpoint in order"):
        score(
            made.benchmark, made.write(tmp_path), made.predictions, tmp_path / "work",
            scorer_python=interpreter(tmp_path / "python", asks), judge=judge,
        )  # fmt: skip


def test_no_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small()
    table = made.write(tmp_path)
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    with pytest.raises(UsageError, match=r"not installed for .*python; .*\[bench\].*--scorer-python"):
        score(made.benchmark, table, made.predictions, tmp_path / "work", scorer_python=bare)
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="nowhere: cannot be started"):
        score(made.benchmark, table, made.predictions, tmp_path / "work")


def test_a_crash_costs_its_own_benchmark_alone(tmp_path: Path) -> None:
    """The first job is done, the second takes the process with it, the third finds a new one."""
    body = f"""
{find_python()} - "$jobs" <<'E'
import json, os, signal, sys
open(sys.argv[1] + ".ready", "w")
for job in json.load(open(sys.argv[1])):
    if job["name"] == "SEEDBench_IMG":
        print("Segmentation fault, core dumped somewhere", file=sys.stderr, flush=True)
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()
    rows = {{str(n): {{"hit": "1", "log": ""}} for n in range(3)}}
    json.dump({{"table": None, "picked": 1.0, "rows": rows}}, open(job["result"], "w"))
E"""
    made = [small(name) for name in ("MMStar", "SEEDBench_IMG", "AI2D_TEST")]
    scored = score_all(jobs(made, tmp_path), tmp_path / "work", scorer_python=interpreter(tmp_path / "python", body))
    assert isinstance(scored[0], Scored) and isinstance(scored[2], Scored) and scored[2].raw == 100
    assert isinstance(scored[1], ScoringError)
    assert "SEEDBench_IMG: VLMEvalKit was ended by signal 9" in str(scored[1])
    assert "scorer.log" in str(scored[1]) and "core dumped somewhere" in str(scored[1])


def test_a_kit_that_cannot_be_loaded_is_tried_once(tmp_path: Path) -> None:
    made = [small(name) for name in ("MMStar", "SEEDBench_IMG", "AI2D_TEST")]
    python = interpreter(tmp_path / "python", f"echo tried >> {tmp_path}/tries; echo No module named numpy; exit 1")
    for scored in score_all(jobs(made, tmp_path), tmp_path / "work", scorer_python=python):
        assert isinstance(scored, ScoringError) and "exit code 1; " in str(scored) and "No module named" in str(scored)
    assert (tmp_path / "tries").read_text() == "tried\n"


def test_too_slow(tmp_path: Path) -> None:
    made = small()
    python = interpreter(tmp_path / "python", "echo busy; sleep 60")
    with pytest.raises(ScoringError, match=r"MMStar: VLMEvalKit took more than 0\.4 s; .*scorer\.log: busy"):
        score(
            made.benchmark,
            made.write(tmp_path),
            made.predictions,
            tmp_path / "work",
            scorer_python=python,
            timeout_s=0.4,
        )


def test_no_key_reaches_the_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-real")
    monkeypatch.setenv("SOME_TOKEN", "sk-other")
    made = small()
    python = interpreter(tmp_path / "python", f"env > {tmp_path}/env; exit 3")
    with pytest.raises(ScoringError, match="exit code 3"):
        score(made.benchmark, made.write(tmp_path), made.predictions, tmp_path / "work", scorer_python=python)
    told = (tmp_path / "env").read_text()
    assert "PRED_FORMAT=tsv" in told and "sk-" not in told


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("MMStar", {"B": None}, r"MMStar\.tsv: lacks the column B; found: index, image"),
        ("MME", {}, r"MME\.tsv: lacks the column image_path"),
        ("HallusionBench", {}, r"lacks the column l2-category"),
    ],
)
def test_wrong_columns(name: str, change: dict[str, Any], error: str, tmp_path: Path) -> None:
    made = small(name)
    made.rows = [{key: text for key, text in row.items() if key not in change} for row in made.rows]
    with pytest.raises(UsageError, match=error):
        score(made.benchmark, made.write(tmp_path), made.predictions, tmp_path / "work")


def test_predictions_that_are_not_of_the_table(tmp_path: Path) -> None:
    made = small()
    table = made.write(tmp_path)
    with pytest.raises(DataError, match="there is no question '77', 1 such"):
        score(made.benchmark, table, {"77": "A"}, tmp_path / "work")
    with pytest.raises(DataError, match="no prediction to score"):
        score(made.benchmark, table, {}, tmp_path / "work")


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Made, Scored | SailctlError]]:
    """Tables the kit misreads, crashes on or does not know, and a judge that never answers one thing."""
    folder = tmp_path_factory.mktemp("odd")
    texts = Made(BENCHMARKS["OCRVQA_TEST"])
    # pandas would read 007 as 7, and None as nothing
    hard = [("007", "007", 1), ("None", "N/A", 0), ("None", "None", 1), ("7", "007", 0), ('a "b"', 'a "b"', 1)]
    ends = [
        ("x", "x\r", 1),
        ("x", "x\ty\n", 0),
        ("x", "x\ry", 0),
        ("x", "\0x", 0),
        ("x", "\ud800", 0),
        ("x", "\u2028x", 1),
    ]
    for number, (answer, told, worth) in enumerate([*hard, *ends]):
        texts.add(number, told, worth, answer=answer)
    crash = Made(BENCHMARKS["OCRBench"])
    for number in range(3):
        crash.add(number, "x", 0, answer="['x']", category="No such kind")
    unknown = small()
    unknown.benchmark = replace(unknown.benchmark, name="Mine", dataset="Mine", metric="kit")
    silent = Made(BENCHMARKS["MMVet"])
    for number in range(6):
        read = number != 3
        told = f"a [{number}] judge={'0.5' if read else 'dead'}"
        silent.add(number, told, 0.5 * read, read=read, answer="b", category="rec,ocr,know,gen,spat,math")
    own = [Made(replace(BENCHMARKS[name], name=name, dataset=f"Own-{name}")) for name in ("DocVQA_VAL", "OCRVQA_TEST")]
    for one in own:
        for number, told in enumerate(["hello", "hallo", "other"]):
            one.add(number, told, worth_by_metric(one.benchmark.metric, told), answer="['hello', 'hullo']")
        one.benchmark = replace(one.benchmark, name=one.benchmark.dataset, dataset=f"Signs{len(one.benchmark.metric)}")
    mixed = small("OCRVQA_TEST")
    mixed.benchmark = replace(mixed.benchmark, name="mixed", dataset="ChartQA_TEST")
    made = [texts, crash, unknown, silent, *own, mixed]
    with StubJudge() as stub:
        pool = HttpPool([stub.url], "pinned-1", api_key=Secret(KEY), options=replace(JUDGE_OPTIONS, attempts=2))
        with JudgeProxy(pool, folder / "judge.jsonl") as judge:
            scored = score_all(jobs(made, folder / "tables"), folder / "scoring", judge=judge)
            assert judge.counts()["failed"] == 1
    assert len({one.benchmark.name for one in made}) == len(made)
    return {one.benchmark.name: (one, found) for one, found in zip(made, scored, strict=True)}


def worth_by_metric(metric: str, told: str) -> float:
    if metric == "anls":
        return {"hello": 1.0, "hallo": 0.8, "other": 0.0}[told]
    return float(told == "hello")


def test_texts_are_not_numbers_and_not_absent(odd: dict[str, tuple[Made, Any]]) -> None:
    check_items(*odd["OCRVQA_TEST"])


def test_the_kit_fails_over_one_table(odd: dict[str, tuple[Made, Any]]) -> None:
    error = odd["OCRBench"][1]
    assert isinstance(error, ScoringError)
    assert "OCRBench: VLMEvalKit failed: KeyError: 'No such kind'; its log is" in str(error)


def test_a_dataset_of_ones_own(odd: dict[str, tuple[Made, Any]]) -> None:
    scored = odd["Mine"][1]
    assert isinstance(scored, Scored), scored
    assert scored.raw == scored.kit == 100 and [item.score for item in scored.items] == [1, 1, 1]


@pytest.mark.parametrize("name", ["Own-DocVQA_VAL", "Own-OCRVQA_TEST"])
def test_a_rule_for_a_dataset_of_ones_own(name: str, odd: dict[str, tuple[Made, Any]]) -> None:
    made, scored = odd[name]
    assert isinstance(scored, Scored), scored
    check_items(made, scored)


def test_a_rule_the_dataset_does_not_have(odd: dict[str, tuple[Made, Any]]) -> None:
    assert "ChartQA_TEST is scored by a rule of its own, not by exact_match" in str(odd["mixed"][1])


def test_a_question_the_judge_never_answers_is_told(odd: dict[str, tuple[Made, Any]]) -> None:
    check_items(*odd["MMVet"])
    assert odd["MMVet"][1].unparsed == ("3",)
