"""Packs planned from lengths alone are those the loader makes of samples of these lengths."""

from collections import Counter

import pytest

from sailctl.core.data.choose import Costs
from sailctl.core.data.simulate import Length, pack_stream

LENGTHS = [Length(row, 50 + 37 * row % 211, row % 4, 9) for row in range(700)]


def test_every_row_once_in_steps_of_one_pack_a_lane():
    packs = list(pack_stream(LENGTHS, Costs(100, 1), lanes=4, tokens=1_000, tiles=20))
    assert Counter(row for pack in packs for row in pack.rows) == Counter(range(700))
    assert all(row % 4 == pack.lane for pack in packs for row in pack.rows)
    for lane in range(4):
        mine = [pack for pack in packs if pack.lane == lane]
        assert [pack.step for pack in mine] == list(range(len(mine)))
        assert [pack.flush for pack in mine] == sorted(pack.flush for pack in mine)  # at the end only
    assert sum(pack.flush for pack in packs) < len(packs) / 4


def test_a_share_of_the_batch_takes_several_packs_a_step():
    packs = list(pack_stream(LENGTHS, Costs(100, 1), lanes=1, tokens=1_000, tiles=20, samples=20))
    assert Counter(pack.step for pack in packs).most_common(1)[0][1] == 4
    sizes = Counter(len(pack.rows) for pack in packs if not pack.flush)
    assert max(sizes) == 5 and sizes[5] > 0.8 * sizes.total()


def test_lanes_that_wait_for_one_another_hold_the_batch_on_average_and_cost_the_same():
    costs = Costs(100, 1)
    packs = [
        pack for pack in pack_stream(LENGTHS, costs, lanes=3, tokens=1_000, tiles=20, samples=20) if not pack.flush
    ]
    assert sum(len(pack.rows) for pack in packs) / len(packs) == pytest.approx(5, rel=0.03)
    found = [sum(sum(costs.of(LENGTHS[row])) for row in pack.rows) for pack in packs]
    assert sorted(found)[int(0.95 * len(found))] < 1.01 * sum(found) / len(found)
    assert not list(pack_stream([], Costs(), lanes=2, tokens=9, tiles=9))
