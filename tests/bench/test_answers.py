"""Answers over engines: what is asked, in which order, once; kills, two processes, workers, endpoints that die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sailctl.core.bench import remote
from sailctl.core.bench.answers import Store, answer, answer_all
from sailctl.core.bench.questions import Questions, questions
from sailctl.core.engines.ask import Answer, Ask, Failed, Outcome
from sailctl.core.engines.pool import PoolStopped
from sailctl.core.errors import Interrupted, UsageError
from tests.helpers_bench import b64, benchmark, choice, png, write_tsv
from tests.helpers_model import tiny_checkpoint
from tests.stub_engine import Stub, digest, told

ROOT = Path(__file__).resolve().parents[2]


class Scripted:
    """An engine that answers what it is told, and remembers what it was asked."""

    def __init__(self, fail: tuple[str, ...] = (), model: str = "scripted") -> None:
        self.model, self.fail = model, fail
        self.asked: list[Ask] = []
        self.interrupt_at = -1

    async def run(self, asks: AsyncIterator[Ask]) -> AsyncIterator[Outcome]:
        async for ask in asks:
            if len(self.asked) == self.interrupt_at:
                raise KeyboardInterrupt
            self.asked.append(ask)
            if any(word in ask.turns[0].text for word in self.fail):
                yield Failed(ask.key, "timeout", "no answer within 3 s", 6)
            else:
                finish = "length" if "cut" in ask.turns[0].text else "stop"
                yield Answer(ask.key, f"said {ask.turns[0].text[:12]}", finish, 1, 1, "here", 1, 0.0)

    async def close(self) -> None:
        """Nothing to let go of."""


def table(folder: Path, number: int = 6, name: str = "MMStar", **changes: Any) -> Questions:
    write_tsv(folder / f"{name}.tsv", [choice(index) for index in range(number)])
    return questions(benchmark(name, **changes), folder)


def test_a_rerun_asks_nothing_and_limits_ask_anew(tmp_path: Path) -> None:
    first = Scripted()
    with Store(tmp_path / "out") as store:
        found = answer(first, table(tmp_path), store)
        assert len(first.asked) == found.asked == 6 and found.kept == 0
        ask = first.asked[0]
        assert (ask.max_tokens, ask.max_tiles, ask.temperature, ask.seed) == (12, 4, 0.0, None)
    with Store(tmp_path / "out") as store:
        again = Scripted()
        same = answer(again, table(tmp_path), store)
        assert not again.asked and dict(same.texts) == dict(found.texts) and (same.asked, same.kept) == (0, 6)
        # other limits, another model: other answers
        for changes, engine in (({"max_tiles": 2}, again), ({"max_new_tokens": 9}, again), ({}, Scripted(model="x"))):
            answer(engine, table(tmp_path, **changes), store)
        assert len(again.asked) == 12
        # the model under another name for itself: the same answers
        answer(renamed := Scripted(model="moved"), table(tmp_path), store, identity="scripted")
        assert not renamed.asked


def test_equal_questions_are_asked_once_whatever_the_benchmark(tmp_path: Path) -> None:
    same = {"image": b64(png(9)), "question": "The same?"}
    rows = [choice(1, **same), choice(2, **same), choice(3)]
    sets = []
    for name in ("MMStar", "BLINK"):
        write_tsv(tmp_path / f"{name}.tsv", rows)
        sets.append(questions(benchmark(name), tmp_path))
    engine = Scripted()
    with Store(tmp_path / "out") as store:
        found = answer_all(engine, sets, store)
    assert len(engine.asked) == 2
    assert dict(found["BLINK"].texts) == dict(found["MMStar"].texts)
    assert found["MMStar"].texts["1"] == found["MMStar"].texts["2"] == "said The same?\nA."


def test_what_has_no_answer_is_told_and_asked_again(tmp_path: Path) -> None:
    rows = [choice(1), choice(2, question="this is bad"), choice(3, "99"), choice(4, question="to be cut")]
    write_tsv(tmp_path / "MMStar.tsv", rows)
    asked = questions(benchmark(), tmp_path)
    with Store(tmp_path / "out") as store:
        found = answer(Scripted(fail=("bad",)), asked, store)
        assert found.texts == {"1": "said Which one, 1", "2": "", "3": "", "4": "said to be cut\nA."}
        assert found.failed["2"] == "timeout: no answer within 3 s"
        assert found.failed["3"].startswith("bad_image: MMStar.tsv line 4: image '99' is neither")
        assert found.cut == ("4",) and found.asked == 2
        again = answer(engine := Scripted(), asked, store)
        assert [ask.turns[0].text[:11] for ask in engine.asked] == ["this is bad"]
        assert again.failed.keys() == {"3"} and (again.asked, again.kept) == (1, 2)


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    engine = Scripted()
    engine.interrupt_at = 3
    with Store(tmp_path / "out") as store, pytest.raises(Interrupted, match="the same command asks only the others"):
        answer(engine, table(tmp_path), store)
    with Store(tmp_path / "out") as store:
        assert len(store) == 3
        answer(rest := Scripted(), table(tmp_path), store)
    assert len(rest.asked) == 3


def test_workers_share_the_work_and_another_number_of_them_loses_nothing(tmp_path: Path) -> None:
    found, asked = table(tmp_path, 40), 0
    for worker in range(3):
        with Store(tmp_path / "out", worker) as store:
            answers = answer(engine := Scripted(), found, store, share=(worker, 3))
            asked += len(engine.asked)
            assert 0 < len(engine.asked) < 40
            waiting = {index: why for index, why in answers.failed.items() if not answers.texts[index]}
            assert set(waiting.values()) <= {"not asked: another worker's part"}
    assert asked == 40 and not waiting  # the last one has seen the others' answers
    for worker in range(2):
        with Store(tmp_path / "out", worker) as store:
            answers = answer(engine := Scripted(), found, store, share=(worker, 2))
            assert not engine.asked and answers.kept == 40


def test_two_processes_at_one_folder_are_refused(tmp_path: Path) -> None:
    with Store(tmp_path), pytest.raises(UsageError, match=r"predictions\.jsonl: another bench is writing there"):
        Store(tmp_path)
    with Store(tmp_path, 1):
        Store(tmp_path).close()


def test_another_suites_answers_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"key": "k", "prediction": "p"}\n')
    with pytest.raises(UsageError, match="holds another suite's answers; choose another --out"):
        Store(tmp_path)
    assert path.read_text() == '{"key": "k", "prediction": "p"}\n'


# --- the model of this process ---------------------------------------------------------------------------------------


def test_the_local_model_takes_like_lengths_together(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "model")
    rows = [choice(index, b64(png(index, 60 + 50 * (index % 4), 60))) for index in range(12)]
    rows += [
        choice(12, str([b64(png(1)), b64(png(2))]), question="<image 2> or <image 1>?"),
        choice(13, b64(b"x" * 90)),
    ]
    write_tsv(tmp_path / "MMStar.tsv", rows)
    asked = questions(benchmark(), tmp_path)
    batches: list[list[int]] = []
    texts = {}
    for size in (4, 1):
        who = remote.local(str(tmp_path / "model"), "cpu", size)
        local = who.engine._engine  # type: ignore[attr-defined]
        complete = local.complete

        def seen(prepared: list[Any], complete: Any = complete, **options: Any) -> Any:
            batches.append([one.num_tiles for one in prepared])
            return complete(prepared, **options)

        local.complete = seen
        with Store(tmp_path / f"out{size}") as store:
            found = answer(who.engine, asked, store, identity=who.identity)
        texts[size] = dict(found.texts)
        assert found.failed.keys() == {"13"} and found.asked == 13
        assert found.cut  # a random model does not stop: its answers count as they are
    assert texts[4] == texts[1] and len(set(texts[1].values())) > 6
    tiles = [count for batch in batches[:4] for count in batch]
    assert [len(batch) for batch in batches[:4]] == [4, 4, 4, 1]
    assert tiles == sorted(tiles, reverse=True) and tiles[0] > tiles[-1]
    moved = tmp_path / "elsewhere"
    (tmp_path / "model").rename(moved)
    with Store(tmp_path / "out4") as store:
        who = remote.local(str(moved), "cpu")
        assert answer(who.engine, asked, store, identity=who.identity).kept == 13
        fewer = questions(benchmark(max_tiles=1), tmp_path)
        who = remote.local(str(moved), "cpu")
        assert answer(who.engine, fewer, store, identity=who.identity).asked == 13


# --- endpoints -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Stub]:
    with Stub() as running:
        yield running


def test_endpoints_answer_and_their_words_count_as_they_are(tmp_path: Path, server: Stub) -> None:
    found = table(tmp_path, 8)
    names = [digest(question.images, question.prompt) for question in found]
    kinds = dict(zip(names, ("cut", "looping", "empty", "status_400"), strict=False))
    stub = server.reset(always=kinds)
    who = remote.endpoints([stub.url], "stub")
    with Store(tmp_path / "out") as store:
        answers = answer(who.engine, found, store, identity=who.identity)
    assert answers.texts["7"] == told(found[7].images, found[7].prompt)
    assert answers.texts["1"].startswith("the cat sat") and answers.texts["2"] == "" and "2" not in answers.failed
    assert answers.cut == ("0", "1")
    assert answers.failed.keys() == {"3"} and answers.failed["3"].startswith("status_4xx: HTTP 400")
    assert all(count == 1 for name, count in stub.counts().items() if name != names[3])


def test_an_endpoint_that_dies_midway_is_resumed(tmp_path: Path, server: Stub) -> None:
    found = table(tmp_path, 40)
    stub = server.reset(mean_s=0.02)
    died = False

    class Progress:
        def info(self, line: str) -> None: ...
        def start(self, label: str, total: float | None = None, *, completed: float = 0, unit: str = "") -> None: ...
        def finish(self) -> None: ...
        def update(self, completed: float) -> None:
            nonlocal died
            if completed >= 10 and not died:
                died = True
                stub.control(dead="refuse", drop=True)

    who = remote.endpoints([stub.url], "stub", in_flight=4, patience_s=1.0)
    with Store(tmp_path / "out") as store, pytest.raises(PoolStopped, match="what is done is kept"):
        answer(who.engine, found, store, identity=who.identity, reporter=Progress())
    stub.control(dead="")
    before = stub.counts()
    with Store(tmp_path / "out") as store:
        assert 10 <= len(store) < 40
        kept = len(store)
        who = remote.endpoints([stub.url], "stub", in_flight=4)
        answers = answer(who.engine, found, store, identity=who.identity)
    assert (answers.kept, answers.asked, answers.failed) == (kept, 40 - kept, {})
    after = stub.counts()
    assert sum(after.values()) - sum(before.values()) == 40 - kept


DRIVER = """
import sys
from pathlib import Path
from sailctl.core.bench import remote
from sailctl.core.bench.answers import Store, answer
from sailctl.core.bench.questions import questions
from tests.helpers_bench import benchmark

root, url = Path(sys.argv[1]), sys.argv[2]
who = remote.endpoints([url], "stub", in_flight=4)
with Store(root / "out") as store:
    found = answer(who.engine, questions(benchmark(), root), store, identity=who.identity)
print(found.asked, found.kept, len(found.failed))
"""


def run(root: Path, url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DRIVER, str(root), url]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."})


def test_kill_9_loses_what_is_in_flight_and_nothing_else(tmp_path: Path, server: Stub) -> None:
    found = table(tmp_path, 120)
    stub = server.reset(mean_s=0.02)
    for target in (20, 60):
        process = run(tmp_path, stub.url)
        deadline = time.monotonic() + 60
        while stub.control()["answers"].get("ok", 0) < target and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert stub.control()["answers"]["ok"] >= target
    while stub.control()["in_flight"]:
        time.sleep(0.01)
    last = run(tmp_path, stub.url)
    out, _ = last.communicate(timeout=60)
    asked, kept, failed = map(int, out.split())
    assert asked + kept == 120 and failed == 0 and kept >= 50
    counts = stub.counts()
    assert len(counts) == 120 and set(counts.values()) <= {1, 2, 3}
    # at most the four in flight at each of the two kills, and what was answered but not yet read, were asked again
    assert sum(counts.values()) <= 120 + 2 * 2 * 4
    with Store(tmp_path / "out") as store:
        texts = answer(Scripted(), found, store, identity="endpoint stub").texts
    assert texts == {question.index: told(question.images, question.prompt) for question in found}
    assert json.dumps(stub.counts()) == json.dumps(counts)
