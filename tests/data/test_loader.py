"""Steps of packs: the same from every layout, at every number of workers and ranks, and after a restart."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import textwrap
import time
import zlib
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sailctl.core.data.loader import Loader, Step
from sailctl.core.errors import DataError, UsageError
from sailctl.core.schema.data import SourceConfig
from tests.helpers_data import caption_samples, conversation, data_config, encoder, picture, write_jsonl, write_tar


def loader(config, *, seed=0, batch=16, **options):
    return Loader(config, encoder(config), seed=seed, global_batch_samples=batch, **options)


def content(step: Step):
    """Everything that matters of a step, comparable."""
    packs = [
        (
            pack.input_ids_T.tolist(),
            pack.position_ids_T.tolist(),
            pack.cu_seqlens.tolist(),
            zlib.crc32(pack.tiles_IPHW.numpy().tobytes()),
            pack.target_index_N.tolist(),
            pack.weights_N.tolist(),
            pack.sample_ids,
        )
        for pack in step.packs
    ]
    return packs, step.num_samples, step.num_tokens, step.loss_weight, step.rejects, step.truncated


def steps(count, config, **options):
    with loader(config, **options) as found:
        return [content(next(found)) for _ in range(count)]


@pytest.fixture(scope="module")
def captions(tmp_path_factory) -> Path:
    """60 captioned pictures in a tar, two of them broken."""
    folder = tmp_path_factory.mktemp("captions")
    samples = caption_samples(60)
    members = [m for i, (image, text) in enumerate(samples) for m in ((f"{i}.png", image), (f"{i}.txt", text.encode()))]
    members[20] = ("10.png", samples[10][0][:50])
    members[61] = ("30.txt", b"")
    return write_tar(folder / "captions.tar", members)


def test_a_step_adds_up(captions):
    with loader(data_config(captions), loss_weighting="sample") as found:
        step = next(found)
        assert found.samples_per_epoch == 60 and list(found.fingerprints()) == ["s0"]
        assert step.num_samples == sum(len(pack.sample_ids) for pack in step.packs) > 8
        assert step.num_tokens == sum(len(pack.input_ids_T) for pack in step.packs)
        assert step.loss_weight == pytest.approx(step.num_samples)  # "sample" weighting: one each
        assert len(step.packs) == found.packs_per_lane
        mean = sum(next(found).num_samples for _ in range(40)) / 40
        assert mean == pytest.approx(16, abs=1)
        for pack in step.packs:
            assert pack.num_tokens <= 400 and len(pack.tiles_IPHW) <= 12


def test_one_big_pack_holds_exactly_the_batch(captions):
    with loader(data_config(captions, pack_tokens=100_000, pack_tiles=1000), batch=24) as found:
        assert [next(found).num_samples for _ in range(6)] == [24] * 6
        assert found.packs_per_lane == 1 and found.target.samples == 24


def test_an_epoch_holds_every_sample_once_and_rejects_are_logged_again_in_the_next(captions):
    config = data_config(captions, pack_tokens=100_000, pack_tiles=1000)
    with loader(config, batch=29) as found:
        first, second, third = next(found), next(found), next(found)
    ids = [name for step in (first, second) for pack in step.packs for name in pack.sample_ids]
    assert len(ids) == len(set(ids)) == 58
    rejects = first.rejects + second.rejects
    assert sorted((row["key"], row["reason"], row["ordinal"], row["epoch"]) for row in rejects) == [
        ("10", "bad_image", 10, 0),
        ("30", "no_answer", 30, 0),
    ]
    assert set(rejects[0]) == {"source", "key", "ordinal", "epoch", "reason", "detail"}
    assert all(row["epoch"] == 1 for row in third.rejects)


def test_workers_do_not_matter_and_leave_the_global_generator_alone(captions):
    config = data_config(captions)
    expected = steps(8, config)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for workers in (1, 2):
        assert steps(8, config.model_copy(update={"workers": workers})) == expected
    assert torch.equal(before, torch.get_rng_state())
    assert sum(len(step[4]) for step in expected) >= 2  # the interesting case occurred


def test_ranks_do_not_matter(captions):
    config = data_config(captions, lanes=4)
    whole = steps(5, config, batch=32)
    halves = [steps(5, config, batch=32, rank=rank, world=2) for rank in range(2)]
    quarters = [steps(5, config, batch=32, rank=rank, world=4) for rank in range(4)]
    for number, step in enumerate(whole):
        assert step[0] == [pack for half in halves for pack in half[number][0]]
        assert step[0] == [pack for quarter in quarters for pack in quarter[number][0]]
        assert step[1] == sum(half[number][1] for half in halves)
    assert len({json.dumps(pack) for pack in whole[0][0]}) == len(whole[0][0])  # lanes differ


def test_lanes_that_ranks_do_not_divide_name_both_numbers(captions):
    with pytest.raises(UsageError, match=r"data.lanes 4 .* 3 ranks"):
        loader(data_config(captions, lanes=4), world=3)
    with pytest.raises(UsageError, match=r"global_batch_samples 2 < data.lanes 4"):
        loader(data_config(captions, lanes=4), batch=2)


def test_no_sources_and_missing_sources(tmp_path):
    with pytest.raises(UsageError, match="--data"):
        loader(data_config())
    with pytest.raises(UsageError, match=r"nowhere\.tar"):
        loader(data_config(tmp_path / "nowhere.tar"))


# --- restart equals continuation ----------------------------------------------------------------------------------


@given(st.integers(0, 12), st.integers(1, 3), st.integers(1, 8), st.integers(0, 3))
@settings(deadline=None, max_examples=12)
def test_resuming_anywhere_gives_the_identical_continuation(captions, at, lanes, window, seed):
    config = data_config(captions, lanes=lanes, pack_window=window, pack_tokens=330)
    with loader(config, seed=seed, batch=9) as found:
        for _ in range(at):
            next(found)
        state = json.loads(json.dumps(found.state_dict()))
        expected = [content(next(found)) for _ in range(6)]
        after = found.state_dict()
    with loader(config, seed=seed, batch=9) as again:
        again.load_state_dict(state)
        assert again.state_dict() == state
        assert [content(next(again)) for _ in range(6)] == expected
        assert again.state_dict() == after


def test_resuming_reads_the_packer_s_left_overs_again_with_workers_too(captions):
    config = data_config(captions, pack_tokens=330, workers=2)
    with loader(config) as found:
        for _ in range(5):
            next(found)
        state = found.state_dict()
        expected = [content(next(found)) for _ in range(4)]
    lane = state["lanes"]["0"]
    assert lane["waiting"] and any(lane["ages"])  # the interesting case occurred
    assert max(lane["waiting"]) < lane["position"]
    with loader(config) as again:
        again.load_state_dict(state)
        assert [content(next(again)) for _ in range(4)] == expected


def test_giants_that_are_held_back_are_held_back_again_after_a_restart(captions):
    config = data_config(captions, pack_tokens=330, lanes=2)
    with loader(config) as found:
        next(found)
        state = found.state_dict()
    state["target"] |= {"every": 8, "samples": None} | {part: state["target"][part] / 5 for part in ("vision", "llm")}
    del state["lanes"]["0"]["closed"], state["lanes"]["1"]["closed"]  # as before giants were held back
    with loader(config) as found:
        found.load_state_dict(state)
        for _ in range(3):
            next(found)
        state = found.state_dict()
        expected = [content(next(found)) for _ in range(6)]
    lane = state["lanes"]["0"]
    assert lane["closed"] % 8 and max(lane["ages"]) > 2  # one waits although it is the oldest
    with loader(config) as again:
        again.load_state_dict(state)
        assert [content(next(again)) for _ in range(6)] == expected


def test_a_state_goes_on_at_another_number_of_ranks(captions):
    config = data_config(captions, lanes=2)
    with loader(config) as whole:
        next(whole)
        state = whole.state_dict()
        expected = content(next(whole))
    parts = []
    for rank in range(2):
        with loader(config, rank=rank, world=2) as half:
            half.load_state_dict(state)
            parts += content(next(half))[0]
    assert parts == expected[0]


def test_a_state_of_other_data_is_refused(captions, tmp_path):
    with loader(data_config(captions)) as found:
        state = found.state_dict()
    other = write_jsonl(tmp_path / "x.jsonl", [{"conversations": conversation("q", "a")}] * 9)
    for config, seed, name in (
        (data_config(other), 0, "data.sources"),
        (data_config(captions, lanes=2), 0, "data.lanes"),
        (data_config(captions), 1, "train.seed"),
    ):
        with pytest.raises(UsageError, match=name), loader(config, seed=seed) as changed:
            changed.load_state_dict(state)


# --- four layouts -----------------------------------------------------------------------------------------------


def test_the_same_200_samples_give_the_same_first_batch_in_every_layout(tmp_path):
    samples = caption_samples(200)
    (tmp_path / "images").mkdir()
    for number, (image, _) in enumerate(samples):
        (tmp_path / "images" / f"{number}.png").write_bytes(image)
    names = [f"images/{number}.png" for number in range(200)]
    talks = [conversation("<image>\nwhat is it?", text, "sure?", "yes") for _, text in samples]
    bare = [conversation("<image>", text) for _, text in samples]
    pictures = [{"bytes": image, "path": None} for image, _ in samples]

    def tar(name, described):
        members = []
        for number, (image, _) in enumerate(samples):
            members += [(f"{number:03d}.png", image), (f"{number:03d}.{described[number][0]}", described[number][1])]
        return write_tar(tmp_path / name, members)

    def turns_json(turns):
        return ("json", json.dumps({"conversations": turns}).encode())

    talk_rows = [{"id": i, "image": name, "conversations": talks[i]} for i, name in enumerate(names)]
    (tmp_path / "talks.json").write_text(json.dumps(talk_rows))
    pq.write_table(pa.table({"image": pictures, "conversations": talks}), tmp_path / "talks.parquet", row_group_size=30)
    pq.write_table(pa.table({"image": pictures, "caption": [c for _, c in samples]}), tmp_path / "bare.parquet")
    layouts = {
        "bare": [
            tar("img2dataset.tar", [("txt", text.encode()) for _, text in samples]),
            tar("llava_bare.tar", [turns_json(turns) for turns in bare]),
            write_jsonl(tmp_path / "bare.jsonl", [{"image": n, "caption": samples[i][1]} for i, n in enumerate(names)]),
            tmp_path / "bare.parquet",
        ],
        "talks": [
            tar("llava.tar", [turns_json(turns) for turns in talks]),
            write_jsonl(tmp_path / "talks.jsonl", talk_rows),
            tmp_path / "talks.json",
            tmp_path / "talks.parquet",
        ],
    }
    for paths in layouts.values():
        found = [steps(1, data_config(path), batch=48) for path in paths]
        assert len(found) == 4 and all(other == found[0] for other in found[1:])
        assert found[0][0][1] > 30 and not found[0][0][4]
    assert steps(1, data_config(layouts["bare"][0])) != steps(1, data_config(layouts["talks"][0]))


def test_a_weighted_mixture(captions, tmp_path):
    texts = write_jsonl(tmp_path / "t.jsonl", [{"id": i, "conversations": conversation("q", str(i))} for i in range(5)])
    config = data_config(captions, texts)
    config.sources = [
        SourceConfig(name="pictures", path=str(captions), weight=0.75),
        SourceConfig(name="texts", path=str(texts), weight=0.25),
    ]
    with loader(config, batch=20) as found:
        taken = [next(found) for _ in range(20)]
    tiles = sum(len(pack.sample_ids) - (pack.input_ids_T == 259).sum().item() for step in taken for pack in step.packs)
    total = sum(step.num_samples for step in taken)
    assert tiles / total == pytest.approx(0.25, abs=0.02)


# --- broken data ------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 50000, 50000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_tar_of_1000_with_a_twentieth_broken_in_eight_ways_trains_through(tmp_path):
    whole = json.dumps({"conversations": conversation("<image>\nwhat?", "noise")}).encode()
    two = json.dumps({"conversations": conversation("<image><image>\nwhat?", "noise")}).encode()
    twice = [{"from": "human", "value": "<image>"}, {"from": "human", "value": "?"}, {"from": "gpt", "value": "x"}]
    unanswered = json.dumps({"conversations": [{"from": "human", "value": "<image>?"}]}).encode()
    fine = [picture(number, 30, 30, "JPEG") for number in range(20)]
    ways = [
        ("bad_image", lambda image: (image[: len(image) // 2], whole)),  # truncated JPEG
        ("bad_image", lambda image: (b"", whole)),  # no bytes
        ("bad_image", lambda image: (b"<html>404 Not Found</html>", whole)),
        ("image_too_large", lambda image: (bomb(), whole)),
        ("bad_json", lambda image: (image, b'{"conversations": [')),
        ("no_turns", lambda image: (image, b'{"conversations": []}')),
        ("placeholder_mismatch", lambda image: (image, two)),
        ("bad_turns", lambda image: (image, json.dumps({"conversations": twice}).encode())),
        ("no_answer", lambda image: (image, unanswered)),
    ]
    members, expected = [], {}
    for number in range(1000):
        image, turns = fine[number % 20], whole
        if number % 20 == 7:
            reason, damage = ways[number // 20 % len(ways)]
            image, turns = damage(image)
            expected[f"{number:04d}"] = reason
        members += [(f"{number:04d}.jpg", image), (f"{number:04d}.json", turns)]
    path = write_tar(tmp_path / "thousand.tar", members)
    assert len(expected) == 50 and len(set(expected.values())) >= 7
    with loader(data_config(path, pack_tokens=100_000, pack_tiles=1000, workers=1), batch=95) as found:
        taken = [next(found) for _ in range(10)]  # 950 good ones: the epoch
        rejects = [row for step in taken for row in step.rejects]
        assert sum(step.num_samples for step in taken) == 950
        missing = {row["key"] for row in rejects} ^ set(expected)
        if missing:  # those after the last good one come with the next step
            rejects += [row for row in next(found).rejects if row["epoch"] == 0]
    assert {row["key"]: row["reason"] for row in rejects} == expected
    assert Counter(row["reason"] for row in rejects) == Counter(expected.values()) and len(rejects) == 50
    assert all(row["detail"] and row["source"] == "s0" and int(row["key"]) == row["ordinal"] for row in rejects)


def test_too_many_rejects_stop_with_counts_per_reason(tmp_path):
    rows = [{"conversations": conversation("q", "a")}, {"conversations": []}, {"image": "../x.png", "text": "x"}] * 30
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    with pytest.raises(DataError, match=r"of \d+ samples rejected > data.max_reject_rate 0.5 \(") as caught:
        steps(50, data_config(path))
    assert "no_turns" in str(caught.value) and "unsafe_path" in str(caught.value) and "\n" not in str(caught.value)
    assert len(steps(3, data_config(path, max_reject_rate=0.9))) == 3


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_nothing_but_rejects_ends_rather_than_turning_for_ever(tmp_path, rate):
    path = write_jsonl(tmp_path / "x.jsonl", [{"conversations": []}] * 3)
    with pytest.raises(DataError, match="50 of 50"):
        steps(1, data_config(path, max_reject_rate=rate))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_vanishes_under_a_run_is_one_clear_line(tmp_path, workers):
    for name in ("a.tar", "b.tar"):
        members = [(f"{i}.json", json.dumps({"conversations": conversation("q", "a")}).encode()) for i in range(40)]
        write_tar(tmp_path / name, members)
    with loader(data_config(tmp_path, workers=workers)) as found:
        (tmp_path / "b.tar").unlink()
        with pytest.raises(DataError, match=r"b\.tar cannot be opened") as caught:
            for _ in range(20):
                next(found)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


def test_workers_that_cannot_start_are_one_clear_line(captions, monkeypatch):
    """A broken pipe that leaves the command line ends it without a word: so it must not be one."""

    def start(process):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with loader(data_config(captions, workers=2)) as found:
        monkeypatch.setattr(multiprocessing.get_context("forkserver").Process, "start", start)
        with pytest.raises(DataError, match=r"cannot start \(.*Broken pipe\); lower data\.workers 2"):
            next(found)


def test_truncated_samples_are_counted(tmp_path):
    rows = [{"conversations": conversation("q", "0123456789" * (1 + 9 * (i % 2)))} for i in range(20)]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    with loader(data_config(path, pack_tokens=80), batch=20) as found:
        taken = [next(found) for _ in range(2)]
    assert sum(step.truncated for step in taken) == pytest.approx(sum(s.num_samples for s in taken) / 2, abs=3)
    with loader(data_config(path, pack_tokens=80, overlong="reject", max_reject_rate=0.6), batch=20) as found:
        step = next(found)
    assert step.truncated == 0 and {row["reason"] for row in step.rejects} == {"too_long"}


# --- processes --------------------------------------------------------------------------------------------------

SCRIPT = """
def main():
    import signal, sys, time
    from sailctl.core.data.loader import Loader
    from tests.helpers_data import data_config, encoder
    stopped = []
    signal.signal(signal.SIGINT, lambda *_: stopped.append("SIGINT"))
    signal.signal(signal.SIGTERM, lambda *_: stopped.append("SIGTERM"))
    config = data_config(sys.argv[1], workers=2)
    loader = Loader(config, encoder(config), seed=0, global_batch_samples=8)
    next(loader)
    print(*(worker.pid for worker in loader._prefetched._workers), flush=True)
    while True:
        next(loader)
        time.sleep(0.005)
        if stopped:
            for _ in range(200):  # far more than was prefetched: the workers are still there
                next(loader)
            print(stopped.pop(), flush=True)


if __name__ == "__main__":
    main()
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_ignore_a_stop_meant_for_the_parent_and_die_with_it(captions, tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(captions)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    try:
        workers = [int(text) for text in process.stdout.readline().split()]
        assert len(workers) == 2 and all(map(is_alive, workers))
        for name in ("SIGINT", "SIGTERM"):  # as a terminal or a cluster sends them: to the whole group
            os.killpg(process.pid, getattr(signal, name))
            assert process.stdout.readline().strip() == name
            assert all(map(is_alive, workers))
        process.kill()
        end = time.monotonic() + 20
        while any(map(is_alive, workers)) and time.monotonic() < end:
            time.sleep(0.05)
        assert not any(map(is_alive, workers))
        assert "Traceback" not in process.communicate()[1]
    finally:
        process.kill()
        process.communicate()
