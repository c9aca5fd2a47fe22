"""Packs written out by hand, and what the chooser promises."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sailctl.core.data.packing import Encoded, FirstFit, merge


def encoded(name, ids, supervised, tiles=0):
    return Encoded(
        id=name,
        key=name,
        source="s",
        input_ids=np.array(ids, np.int32),
        supervised=np.array(supervised, bool),
        tiles=np.full((tiles, 3, 2, 2), 7, np.uint8),
    )


# 1 <|im_start|>, 2 <|im_end|>, 3 <img>, 4 <IMG_CONTEXT>, 5 </img>; 2 visual tokens
PICTURE = encoded("picture", [1, 10, 3, 4, 4, 5, 2, 1, 20, 21, 2], [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1], tiles=1)
TEXT = encoded("text", [1, 11, 2, 1, 20, 22, 2], [0, 0, 0, 0, 0, 1, 1])
TURNS = encoded("turns", [1, 12, 2, 20, 23, 2, 1, 13, 2, 20, 24, 25, 2], [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1])


def test_a_pack_written_out_by_hand():
    pack = merge([PICTURE, TEXT, TURNS], "sample")
    assert pack.input_ids_T.tolist() == [
        *[1, 10, 3, 4, 4, 5, 2, 1, 20, 21, 2],
        *[1, 11, 2, 1, 20, 22, 2],
        *[1, 12, 2, 20, 23, 2, 1, 13, 2, 20, 24, 25, 2],
    ]
    assert pack.position_ids_T.tolist() == [
        *[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
        *[0, 1, 2, 3, 4, 5, 6],
        *[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
    ]
    assert pack.cu_seqlens.tolist() == [0, 11, 18, 31]
    assert pack.max_seqlen == 13
    assert pack.target_index_N.tolist() == [8, 9, 15, 16, 21, 22, 27, 28, 29]
    assert pack.targets_N.tolist() == [21, 2, 22, 2, 23, 2, 24, 25, 2]
    np.testing.assert_allclose(pack.weights_N, [0.5, 0.5, 0.5, 0.5, 0.2, 0.2, 0.2, 0.2, 0.2])
    assert pack.loss_weight == pytest.approx(3.0)
    assert pack.tiles_IPHW.shape == (1, 3, 2, 2) and pack.tiles_IPHW.dtype == torch.uint8
    assert pack.sample_ids == ["picture", "text", "turns"]
    assert (pack.num_samples, pack.num_tokens, pack.num_targets) == (3, 31, 9)
    assert (pack.input_ids_T.dtype, pack.position_ids_T.dtype, pack.cu_seqlens.dtype) == (
        torch.int64,
        torch.int64,
        torch.int32,
    )
    assert pack.weights_N.dtype == torch.float32


def test_weightings():
    np.testing.assert_array_equal(merge([TEXT, TURNS]).weights_N, [1.0] * 7)
    root = merge([TEXT, TURNS], "sqrt").weights_N
    np.testing.assert_allclose(root, [1 / math.sqrt(2)] * 2 + [1 / math.sqrt(5)] * 5, rtol=1e-6)


def test_a_document_s_first_token_is_never_a_target():
    odd = encoded("odd", [31, 32], [1, 1])
    pack = merge([TEXT, odd, odd])
    assert 31 not in pack.targets_N.tolist()
    assert pack.target_index_N.tolist() == [4, 5, 7, 9] and pack.targets_N.tolist() == [22, 2, 32, 32]


def test_a_pack_without_pictures_and_one_with_many():
    assert merge([TEXT, TURNS]).tiles_IPHW.shape == (0, 3, 2, 2)
    assert merge([TEXT, PICTURE, PICTURE]).tiles_IPHW.shape == (2, 3, 2, 2)
    alone = merge([TEXT])
    assert alone.cu_seqlens.tolist() == [0, 7] and alone.to("cpu").sample_ids == ["text"]


@dataclass(frozen=True)
class Piece:
    name: int
    num_tokens: int
    num_tiles: int = 0


def names(groups):
    return [[piece.name for piece in group] for group in groups]


def test_first_fit_written_out_by_hand():
    packer = FirstFit(tokens=10, tiles=3, samples=9, window=2)
    sizes = [(6, 1), (5, 0), (3, 1), (4, 0), (8, 0), (1, 2), (2, 0)]
    found = [names(packer.add(Piece(i, *size))) for i, size in enumerate(sizes)]
    # 0 opens; 1 waits; 2 joins 0 (9 tokens); 3 waits; 4 is one too many: [0, 2] closes, 1 and 3 open the next (9);
    # 5 joins them: 10 tokens, full; 4 opens the next; 6 fills it
    assert found == [[], [], [], [], [[0, 2]], [[1, 3, 5]], [[4, 6]]]
    assert packer.flush() == []


def test_a_cap_of_samples_closes_at_once():
    packer = FirstFit(tokens=1000, tiles=3, samples=2, window=4)
    assert [names(packer.add(Piece(i, 5))) for i in range(4)] == [[], [[0, 1]], [], [[2, 3]]]


def test_many_small_samples_fill_a_pack_whatever_the_window():
    packer = FirstFit(tokens=1000, tiles=3, samples=10**9, window=2)
    groups = [group for i in range(500) for group in packer.add(Piece(i, 10))]
    assert [len(group) for group in groups] == [100] * 5


def test_what_can_never_fit_is_refused_with_its_numbers():
    packer = FirstFit(tokens=10, tiles=3, samples=2, window=4)
    with pytest.raises(ValueError, match=r"11 tokens and 0 tiles .* 10 tokens and 3 tiles"):
        packer.add(Piece(0, 11))


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 6)), max_size=120),
    st.integers(1, 12),
    st.integers(0, 6),
)
@settings(deadline=None)
def test_nothing_is_lost_caps_hold_and_nobody_waits_too_long(sizes, samples, window):
    packer = FirstFit(tokens=50, tiles=6, samples=samples, window=window)
    groups, closed_when_added = [], {}
    for index, size in enumerate(sizes):
        closed_when_added[index] = len(groups)
        groups += packer.add(Piece(index, *size))
        assert len(packer.waiting) <= window
    groups += packer.flush()
    assert sorted(piece.name for group in groups for piece in group) == list(range(len(sizes)))
    for number, group in enumerate(groups):
        assert 0 < len(group) <= samples
        assert sum(piece.num_tokens for piece in group) <= 50 and sum(piece.num_tiles for piece in group) <= 6
        assert all(number - closed_when_added[piece.name] <= window + 1 for piece in group)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(0, 59))
@settings(deadline=None)
def test_its_state_is_open_and_waiting(sizes, cut):
    whole = FirstFit(tokens=20, tiles=9, samples=5, window=3)
    for i, size in enumerate(sizes[:cut]):
        whole.add(Piece(i, size))
    again = FirstFit(tokens=20, tiles=9, samples=5, window=3)
    again.restore(whole.open, whole.waiting)
    rest = [Piece(cut + i, size) for i, size in enumerate(sizes[cut:])]
    assert [whole.add(piece) for piece in rest] == [again.add(piece) for piece in rest]
    assert whole.flush() == again.flush()
