"""Arrays through shared memory: what arrives, when a slot is free again, and what still goes through the pipe."""

from __future__ import annotations

import gc
import multiprocessing
import pickle

import numpy as np
import pytest

from sailctl.core.data import shared
from sailctl.core.data.fetch import Fetched, worker_context
from sailctl.core.data.order import Ref
from sailctl.core.data.packing import Encoded

TILES = (3, 3, 100, 100)  # 90,000 bytes: the slots of 128 KiB


def tiles(value: int, shape: tuple[int, ...] = TILES) -> np.ndarray:
    return np.full(shape, value, np.uint8)


@pytest.fixture
def fresh(monkeypatch):
    """A worker's and a trainer's books in one process, empty."""
    monkeypatch.setattr(shared, "_arenas", {})
    monkeypatch.setattr(shared, "_mapped", {})


def sent(array: np.ndarray):
    """What arrives of an array; nothing of it is in the message."""
    message = pickle.dumps(shared.share(array))
    assert len(message) < 2000
    return shared.opened(pickle.loads(message))


def slots_in_use() -> int:
    return sum(int(arena.in_use.sum()) for arena in shared._arenas.values())


def test_an_array_arrives_and_its_slot_is_free_when_nobody_holds_a_part_of_it(fresh):
    found = [sent(tiles(value)) for value in range(5)]
    assert all(np.array_equal(array, tiles(value)) for value, array in enumerate(found))
    assert slots_in_use() == 5 and len(shared._mapped) == 1
    part = found[2][1:, 0]
    del found
    gc.collect()
    assert slots_in_use() == 1 and part.min() == part.max() == 2
    again = sent(tiles(9))  # takes a free slot, not the one whose part is held
    assert part.max() == 2 and again.min() == 9 and slots_in_use() == 2
    del part, again
    gc.collect()
    assert slots_in_use() == 0


def test_a_long_stream_uses_as_many_slots_as_are_held_at_once(fresh):
    held: list[np.ndarray] = []
    highest = 0
    for value in range(1000):
        held = [*held[-3:], sent(tiles(value % 251))]
        highest = max(highest, int(np.flatnonzero(next(iter(shared._arenas.values())).in_use).max()))
        assert held[0].max() == max(0, value - 3) % 251
    assert highest < 6


def test_what_is_small_huge_or_too_many_goes_through_the_pipe(fresh, monkeypatch):
    small, many = tiles(1, (1, 3, 8, 8)), tiles(2)
    assert shared.share(small) is small
    held = [shared.share(many) for _ in range(shared._SLOTS)]
    assert not any(isinstance(array, np.ndarray) for array in held) and shared.share(many) is many
    monkeypatch.setattr(shared, "_LARGEST", 1 << 17)
    huge = tiles(3, (2, *TILES))
    assert shared.share(huge) is huge
    monkeypatch.delattr(shared.os, "memfd_create")
    assert shared.share(many) is many


def fetched(value: int) -> Fetched:
    tokens = np.arange(5, dtype=np.int32)
    return Fetched(Ref(0, value, 0, value, 0), Encoded(f"{value}", "k", "s", tokens, tokens > 2, tiles(value)))


def send(queue, count: int, received) -> None:
    """A worker: a few draws, among them a reject; it ends when they have been received."""
    for value in range(count):
        queue.put(fetched(value))
    queue.put(Fetched(Ref(0, 9, 0, 9, 0), reject={"reason": "bad_image"}))
    received.wait(60)


def test_draws_cross_processes_and_survive_the_worker(fresh):
    context = worker_context([__name__])
    assert "forkserver" in multiprocessing.get_all_start_methods()
    for _ in range(2):
        queue, received = context.Queue(), context.Event()
        worker = context.Process(target=send, args=(queue, 7, received))
        worker.start()
        found = [queue.get(timeout=60) for _ in range(8)]
        received.set()
        worker.join()
        for value, draw in enumerate(found[:7]):
            expected = fetched(value)
            assert draw.ref == expected.ref and draw.encoded.id == str(value)
            assert np.array_equal(draw.encoded.tiles, expected.encoded.tiles)
            assert np.array_equal(draw.encoded.input_ids, expected.encoded.input_ids)
        assert found[7].reject == {"reason": "bad_image"} and found[7].encoded is None
        assert len(shared._mapped) == 1  # the first worker's memory is let go when the second one's comes
