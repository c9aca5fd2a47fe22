"""Packs planned from lengths alone are those the loader makes of samples of these lengths."""

from collections import Counter

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
    packs = list(pack_stream(LENGTHS, Costs(100, 1), lanes=2, tokens=1_000, tiles=20, samples=20))
    steps = Counter((pack.step, pack.lane) for pack in packs)
    assert steps.most_common(1)[0][1] == 4
    sizes = Counter(len(pack.rows) for pack in packs if not pack.flush)
    assert max(sizes) == 5 and sizes[5] > 0.8 * sizes.total()
    assert not list(pack_stream([], Costs(), lanes=2, tokens=9, tiles=9))
