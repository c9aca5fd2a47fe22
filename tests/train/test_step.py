"""A wish to stop while a step waits for a store that stalls: heard at once, alone and on all ranks; nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sailctl.core.errors import Interrupted
from sailctl.core.train import checkpoint
from tests.helpers_data import picture, write_tar
from tests.helpers_train import Job, Silent, contents, error_file, rows, start_ranks, train, write_recipe
from tests.test_stores import Store, serving

SAMPLES, STEPS = 24, 8
STALLED_AFTER = 1 + SAMPLES + 4 * 6  # the index, the samples measured first, those of four steps


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    members = [m for i in range(SAMPLES) for m in ((f"{i}.png", picture(i)), (f"{i}.txt", b"noise"))]
    with serving() as store:
        store.files["/a.tar"] = write_tar(tmp_path / "a.tar", members).read_bytes()
        yield store


def options(store: Store, *more: str) -> tuple[str, ...]:
    source = f"data.sources=[{{name: a, path: '{store.url('a.tar')}'}}]"
    return (source, f"train.max_steps={STEPS}", "train.save_every=100", "data.pack_window=1", *more)


def once_it_stalls(store: Store, out: Path, act: Callable[[], None]) -> None:
    """Call `act` in a thread once the store has stalled and a step has been made."""

    def watch() -> None:
        metrics, deadline = out / "metrics.jsonl", time.monotonic() + 60
        while not (store.asked and store.asked[-1][3] == "stall" and metrics.stat().st_size):
            assert time.monotonic() < deadline, "the run does not get there"
            time.sleep(0.01)
        time.sleep(0.3)  # whatever it has left to compute
        act()

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.parametrize("workers", [0, 1])
def test_asked_to_stop_while_it_waits_for_data_a_run_saves_and_says_so_at_once(
    workers: int, store: Store, tmp_path: Path
) -> None:
    recipe, out, reporter = write_recipe(tmp_path / "recipe"), tmp_path / "out", Silent()
    own = options(store, f"data.workers={workers}")
    straight = train(recipe, tmp_path / "straight", "alignment", *options(store))
    store.asked.clear()
    store.faults.extend([""] * STALLED_AFTER + ["stall"] * 99)
    asked: list[float] = []

    def interrupt() -> None:
        asked.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    once_it_stalls(store, out, interrupt)
    with pytest.raises(Interrupted, match=r"stopped after step \d, saved in .*step-0000000\d; go on with: again$"):
        train(recipe, out, "alignment", *own, reporter=reporter, resume_command="again")
    assert time.monotonic() - asked[0] < 5  # a stalled request has a minute
    assert "SIGINT: stopping once what is done is saved; a second signal stops at once" in reporter.lines
    made = rows(out)[-1]["step"]
    assert 0 < made < STEPS and checkpoint.latest(out).path.name == f"step-{made:08d}"
    store.faults.clear()
    train(recipe, out, "alignment", *own, resume=True)
    assert rows(out) == rows(straight.run_dir)
    assert contents(checkpoint.latest(out).path / "weights") == contents(straight.checkpoint / "weights")


def test_before_its_first_step_there_is_nothing_to_save(store: Store, tmp_path: Path) -> None:
    recipe, out = write_recipe(tmp_path / "recipe"), tmp_path / "out"
    store.faults.extend([""] * 9 + ["stall"] * 99)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Interrupted, match=r"^stopped before the first step; go on with: again$"):
        train(recipe, out, "alignment", *options(store), resume_command="again")
    assert not (out / "latest").exists()
    store.faults.clear()
    assert train(recipe, out, "alignment", *options(store), resume=True).steps == STEPS


def test_all_ranks_stop_at_the_same_step(store: Store, tmp_path: Path) -> None:
    recipe, out = write_recipe(tmp_path / "recipe"), tmp_path / "out"
    own = ("parent=null", "data.lanes=2", *options(store))
    straight = train(recipe, tmp_path / "straight", "knowledge", *own)
    store.asked.clear()
    store.faults.extend([""] * (STALLED_AFTER + SAMPLES) + ["stall"] * 99)  # each rank measures
    processes = start_ranks(2, recipe, [Job(out, "knowledge", own)])
    once_it_stalls(store, out, lambda: [os.kill(process.pid, signal.SIGTERM) for process in processes])
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [130, 130]
    told = {error_file(out, rank).read_text() for rank in (0, 1)}
    assert len(told) == 1 and "stopped after step" in told.pop()
    store.faults.clear()
    train(recipe, out, "knowledge", *own, resume=True)
    assert rows(out) == rows(straight.run_dir)
