"""One step ahead: the same steps, the same states, errors in their turn."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest
import torch

from sailctl.core.data.ahead import Ahead, pinned
from sailctl.core.data.loader import Loader
from sailctl.core.errors import DataError
from sailctl.core.workers import StopAsked, stop_signals
from tests.data.test_loader import content
from tests.helpers_data import caption_samples, conversation, data_config, encoder, write_jsonl, write_tar


def opened(kind, config, batch=9):
    return kind(config, encoder(config), seed=1, global_batch_samples=batch)


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    samples = caption_samples(40)
    members = [m for i, (image, text) in enumerate(samples) for m in ((f"{i}.png", image), (f"{i}.txt", text.encode()))]
    members[20] = ("10.png", samples[10][0][:50])
    return write_tar(tmp_path_factory.mktemp("captions") / "captions.tar", members)


@pytest.mark.parametrize("workers", [0, 1])
def test_steps_and_states_are_those_of_the_loader(captions, workers):
    config = data_config(captions, lanes=2, workers=workers)
    with opened(Loader, config) as plain, opened(Ahead, config) as ahead:
        assert ahead.state_dict() == plain.state_dict()
        for number in range(8):
            assert content(next(ahead)) == content(next(plain))
            ahead._next.thread.join()  # the next one is there, and does not count
            assert ahead.state_dict() == plain.state_dict()
            if number == 4:
                state = json.loads(json.dumps(ahead.state_dict()))
                following = [content(next(plain)) for _ in range(3)]
                break
    with opened(Ahead, config) as again:
        again.load_state_dict(state)
        assert again.state_dict() == state
        assert [content(next(again)) for _ in range(3)] == following


def test_a_step_is_made_while_another_is_held_and_only_one(captions):
    with opened(Ahead, data_config(captions)) as ahead:
        made = []
        make = ahead._make
        ahead._make = lambda: (made.append(threading.current_thread().name), make())[1]
        next(ahead)
        ahead._next.thread.join()
        assert made == ["next step"] * 2
        next(ahead)
        ahead._next.thread.join()
        assert len(made) == 3


def test_a_wait_that_is_ended_leaves_the_step_to_be_waited_for_at_the_close(captions):
    with opened(Ahead, data_config(captions)) as ahead, stop_signals() as stop:
        make, ended = ahead._make, threading.Event()
        ahead._make = lambda: (time.sleep(0.5), make(), ended.set())[1]
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(StopAsked), stop.ending_waits():
            next(ahead)
        assert not ended.is_set()
    assert ended.is_set()


def test_what_fails_while_a_step_is_made_is_raised_in_its_turn(tmp_path):
    for name, count in (("a.tar", 60), ("b.tar", 8)):
        members = [(f"{i}.json", json.dumps({"conversations": conversation("q", "a")}).encode()) for i in range(count)]
        write_tar(tmp_path / name, members)
    with opened(Ahead, data_config(tmp_path, shuffle=False, pack_tokens=100, pack_window=1), batch=4) as ahead:
        next(ahead)
        ahead._next.thread.join()
        state = ahead.state_dict()
        (tmp_path / "b.tar").write_bytes(b"")
        with pytest.raises(DataError, match=r"b\.tar has changed"):
            for _ in range(40):
                next(ahead)
                assert ahead.state_dict() != state
                state = ahead.state_dict()
        assert ahead.state_dict() == state  # of the last step that was given


def test_closing_drops_what_is_being_made(captions, tmp_path):
    rows = write_jsonl(tmp_path / "r.jsonl", [{"conversations": conversation("q", "a")}] * 5)
    ahead = opened(Ahead, data_config(captions, rows, workers=1))
    next(ahead)
    ahead.close()
    assert not ahead._next.thread.is_alive()


@pytest.mark.gpu
def test_packs_are_pinned_and_copied_without_waiting(captions):
    with opened(Ahead, data_config(captions)) as ahead:
        pack = next(ahead).packs[0]
    assert pack.tiles_IPHW.is_pinned() and pack.input_ids_T.is_pinned()
    torch.cuda.set_sync_debug_mode("error")
    try:
        moved = pack.to("cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(moved.tiles_IPHW.cpu(), pack.tiles_IPHW)


def test_without_an_accelerator_a_pack_stays_as_it_is(captions):
    if torch.accelerator.is_available():
        pytest.skip("gpu: the test above looks at pinned packs")
    with opened(Loader, data_config(captions)) as plain:
        pack = next(plain).packs[0]
    assert torch.equal(pinned(pack).tiles_IPHW, pack.tiles_IPHW)
