"""Packs written out by hand, and what the chooser promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sailctl.core.data.packing import Encoded, merge


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
