"""The ledger: what is put comes back, failures give way, facts are found out once, strangers are refused."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sailctl.core.errors import DataError, StorageError, UsageError
from sailctl.core.valuation.ledger import FILE, VERSION, Entry, Ledger, digest, workspace
from sailctl.core.valuation.seam import Outcome, Trial


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with workspace(tmp_path / "workspace") as opened:
        yield opened


def entry(key: str, outcome: Outcome, **values: Any) -> Entry:
    own: dict[str, Any] = {
        "recipe": "r",
        "suite": "s",
        "parent": None,
        "trial": Trial({"a": 3, "ü": 5}, 7),
        "manifest": [["content", 8]],
        "train_s": 2.0,
        "bench_s": 0.5,
        "predicted_s": None,
        "folder": f"trials/{key}",
    }
    return Entry(key=key, outcome=outcome, **{**own, **values})


FAILED = Outcome(float("nan"), 0, error="the loss is not a number at step 3")


def test_a_trial_with_its_items_comes_back_bit_for_bit(ledger: Ledger) -> None:
    items, weights = np.array([0.0, 100 / 3, 100.0]), np.array([0.2, 0.3, 0.5])
    ledger.put(entry("one", Outcome(float(items @ weights), 3, items, ("ids",), weights)))
    ledger.put(entry("bare", Outcome(12.5, 40)))
    for again in (ledger, Ledger(ledger.path)):
        found = again.outcome("one")
        assert found is not None and found.score == float(items @ weights) and found.n == 3 and found.error == ""
        assert found.items is not None and found.weights is not None
        assert found.items.tolist() == items.tolist() and found.weights.tolist() == weights.tolist()
        assert found.ids == ("ids",)
        bare = again.outcome("bare")
        assert bare is not None and (bare.score, bare.n, bare.items, bare.ids, bare.weights) == (12.5, 40, *[None] * 3)
        assert again.outcome("other") is None
    first, second = ledger.rows()
    assert (first["key"], second["key"]) == ("one", "bare")
    assert first["mixture"] == {"a": 3, "ü": 5} and first["samples"] == 8 and first["seed"] == 7


def test_failures_are_replaced_and_results_are_not(ledger: Ledger) -> None:
    ledger.put(entry("one", FAILED))
    found = ledger.outcome("one")
    assert found is not None and found.error == FAILED.error and np.isnan(found.score)
    ledger.put(entry("one", Outcome(40.0, 5)))
    ledger.put(entry("one", Outcome(99.0, 5)))
    ledger.put(entry("one", FAILED))
    assert [(row["score"], row["error"]) for row in ledger.rows()] == [(40.0, "")]
    ledger.put(entry("two", FAILED))
    assert ledger.forget_failures() == 1 and ledger.forget_failures() == 0
    assert ledger.outcome("two") is None and ledger.outcome("one") is not None


def facts(ledger: Ledger) -> set[str]:
    with closing(sqlite3.connect(ledger.path)) as rows:
        return {key for (key,) in rows.execute("SELECT key FROM facts")}


def test_a_fact_is_found_out_once(ledger: Ledger) -> None:
    made: list[int] = []

    def make() -> list[float]:
        made.append(1)
        return [0.125, 3.0]

    assert facts(ledger) == set()
    assert ledger.fact("rate", make) == ledger.fact("rate", make) == [0.125, 3.0]
    assert Ledger(ledger.path).fact("rate", make) == [0.125, 3.0] and len(made) == 1
    assert facts(ledger) == {"rate"}

    def fails() -> float:
        raise DataError("not now")

    with pytest.raises(DataError):
        ledger.fact("other", fails)
    assert facts(ledger) == {"rate"}


def test_decisions_are_kept_under_their_question(ledger: Ledger) -> None:
    result = {"trials": ["one"], "cost": {"samples": 8, "predicted_s": None, "actual_s": 2.5}, "mixture": {"ü": 5}}
    assert ledger.decision("question") is None
    ledger.decide("question", "compose-eval", {"alpha": 0.05}, result)
    assert ledger.decision("question") == result and ledger.decision("another") is None
    ledger.decide("question", "compose-eval", {"alpha": 0.05}, result | {"trials": []})
    assert ledger.decision("question") == result | {"trials": []}


def test_seconds_are_those_of_the_trials_asked_for(ledger: Ledger) -> None:
    ledger.put(entry("one", Outcome(1.0, 1), train_s=10.0, bench_s=2.0))
    ledger.put(entry("two", Outcome(1.0, 1), train_s=20.0, bench_s=3.0, predicted_s=21.0))
    ledger.put(entry("other", Outcome(1.0, 1), train_s=500.0))
    assert ledger.seconds({"one", "two", "nobody"}) == 35.0
    assert ledger.seconds(set()) == 0.0
    assert [row["predicted_s"] for row in ledger.rows()] == [None, 21.0, None]


def test_scores_of_other_suites_are_counted_by_recipe(ledger: Ledger) -> None:
    for key, recipe, suite in (("1", "r", "s"), ("2", "r", "t"), ("3", "r", "u"), ("4", "q", "t")):
        ledger.put(entry(key, Outcome(1.0, 1), recipe=recipe, suite=suite))
    assert ledger.of_other_suites("r", "s") == 2 and ledger.of_other_suites("r", "t") == 2
    assert ledger.of_other_suites("q", "t") == 0 and ledger.of_other_suites("x", "s") == 0


def test_a_ledger_of_a_later_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / FILE
    Ledger(path).close()
    with sqlite3.connect(path) as rows:
        rows.execute(f"PRAGMA user_version = {VERSION + 1}")
    rows.close()
    before = path.read_bytes()
    with pytest.raises(DataError) as refused:
        Ledger(path)
    assert str(refused.value) == f"{path}: is a ledger of version 2, this sailctl writes 1; upgrade it"
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["no database", "torn", "overwritten"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    path = tmp_path / FILE
    Ledger(path).close()
    whole = path.read_bytes()
    broken = {"no database": b"a text, no database" * 99, "torn": whole[:700], "overwritten": b"\xff" * len(whole)}
    path.write_bytes(broken[damage])
    with pytest.raises(DataError) as refused:
        Ledger(path)
    line = str(refused.value)
    assert line.startswith(f"{path}: is no usable ledger: ") and "move it away to begin anew" in line
    assert "\n" not in line and path.read_bytes() == broken[damage]


def test_pages_that_are_damaged_are_told_in_one_line_where_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with Ledger(path)._rows as rows:
        for number in range(40):
            rows.execute("INSERT INTO facts VALUES (?, ?)", (str(number), "1" * 4000))
    rows.close()
    whole = bytearray(path.read_bytes())
    for page in range(12, len(whole) // 4096):  # those of the schema stay
        whole[page * 4096 : (page + 1) * 4096] = b"\xff" * 4096
    path.write_bytes(bytes(whole))
    with pytest.raises(DataError) as told, workspace(tmp_path) as ledger:
        for number in range(40):
            ledger.fact(str(number), lambda: 0)
    assert str(told.value).startswith(f"{path}: is a damaged ledger: ") and "\n" not in str(told.value)


def _holds(folder: Path, ready: Any) -> None:
    with workspace(folder):
        ready.set()
        time.sleep(60)


def test_two_campaigns_in_one_workspace_are_refused(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=_holds, args=(tmp_path, ready))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(UsageError) as refused, workspace(tmp_path):
            pass
        assert str(refused.value) == (
            f"{tmp_path} is in use by another evaluation; wait for it, or give another --workspace"
        )
        with workspace(tmp_path / "another"):
            pass
        other.kill()  # however it ends, the lock goes with it
        other.join()
        with workspace(tmp_path) as ledger:
            assert ledger.rows() == []
    finally:
        other.kill()
        other.join()


def test_to_look_takes_no_turn_and_leaves_all_as_it_was(tmp_path: Path) -> None:
    with workspace(tmp_path / "none", look_only=True) as ledger:
        assert ledger.rows() == []
    assert not (tmp_path / "none").exists()
    folder = tmp_path / "a b?"
    with workspace(folder) as ledger:
        ledger.put(entry("one", Outcome(40.0, 5)))
        before = (folder / FILE).read_bytes()
        with workspace(folder, look_only=True) as looking:
            assert looking.outcome("one") is not None and looking.fact("rate", lambda: 3) == 3
        assert (folder / FILE).read_bytes() == before and facts(ledger) == set()
    (folder / FILE).write_bytes(b"a text, no database" * 99)
    with pytest.raises(DataError, match="is no usable ledger"), workspace(folder, look_only=True):
        pass


def test_a_workspace_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be used as a workspace"), workspace(tmp_path / "file"):
        pass


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [1, "ü"]}) == digest({"b": [1, "ü"], "a": 1}) != digest({"a": 1, "b": ["ü", 1]})
    assert len(digest(json.loads("[1.5]"))) == 32
