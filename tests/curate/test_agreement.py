"""Agreement and means against numbers worked out by hand, plain loops over drawn lists, and known coverage."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sailctl.core.curate.judge.agreement import (
    Agreement,
    kappa,
    mean,
    percent_agreement,
    quadratic_kappa,
    ratio,
    spearman,
)
from sailctl.core.errors import DataError

ALL = (percent_agreement, kappa, quadratic_kappa, spearman)


def test_by_hand() -> None:
    a, b = [1, 1, 1, 2, 2], [1, 1, 2, 2, 2]
    assert percent_agreement(a, b).value == pytest.approx(4 / 5)
    assert kappa(a, b).value == pytest.approx((0.8 - 0.48) / (1 - 0.48))  # chance: 3/5 · 2/5 + 2/5 · 3/5
    assert quadratic_kappa([1, 2, 3], [1, 3, 3]).value == pytest.approx(1 - (1 / 3) / (2 / 3 + 8 / 9 + 1 / 9))
    assert spearman([1, 2, 2, 3], [10, 20, 30, 40]).value == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]).value == pytest.approx(1 - 6 * 4 / (5 * 24))


def test_of_a_published_table() -> None:
    """The example of Cohen 1960 as textbooks have it: 20 yes-yes, 5 and 10 apart, 15 no-no make 0.4."""
    a = [1] * 25 + [0] * 25
    b = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    found = kappa(a, b)
    assert found.value == pytest.approx(0.4) and found.n == found.items == 50
    assert quadratic_kappa(a, b).value == pytest.approx(0.4)  # two categories: every weight is 0 or 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=30))
def test_quadratic_weights_are_those_of_the_table(pairs: list[tuple[int, int]]) -> None:
    n = len(pairs)
    left, right = [one[0] for one in pairs], [one[1] for one in pairs]
    observed = sum((a - b) ** 2 for a, b in pairs) / n
    chance = sum((a - b) ** 2 for a in left for b in right) / n**2
    found = quadratic_kappa(left, right).value
    if len(set(left)) == 1 or len(set(right)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(1 - observed / chance)


def test_at_the_ends() -> None:
    up, down = [1, 2, 3, 4], [4, 3, 2, 1]
    for function in ALL:
        assert function(up, up).value == pytest.approx(1)
    assert spearman(up, down).value == pytest.approx(-1)
    assert percent_agreement(up, down).value == 0
    assert quadratic_kappa(up, down).value == pytest.approx(-1)


def test_what_is_not_defined_is_none() -> None:
    assert kappa([3, 3], [3, 3]) == Agreement(None, 2, 2, None)
    assert quadratic_kappa([3, 3], [3, 3]).value is None
    for function in (kappa, quadratic_kappa):  # the formula gives 0 of one silent side, whatever the other says
        for items in (None, ["a", "b", "c"]):
            assert function([3, 3, 3], [1, 2, 3], items) == function([1, 2, 3], [3, 3, 3], items)
            assert function([3, 3, 3], [1, 2, 3], items) == Agreement(None, 3, 3, None)
    assert spearman([3, 3], [1, 2]).value is None
    assert percent_agreement([3, 3], [3, 3]).value == 1
    for function in ALL:
        assert function([], []) == Agreement(None, 0, 0, None)
        assert function([2], [2]).ci95 is None  # one item tells nothing of others


@pytest.mark.parametrize("function", ALL)
def test_refuses(function: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="2 and 3 values"):
        function([1, 2], [1, 2, 3])
    with pytest.raises(DataError, match="not a finite number"):
        function([1, math.nan], [1, 2])
    with pytest.raises(DataError, match="2 pairs and the names of 1 items"):
        function([1, 2], [1, 2], ["a"])


@pytest.mark.parametrize("function", ALL)
def test_intervals_are_those_of_lists_drawn_by_item(function: Callable[..., Agreement]) -> None:
    """Weights and repeated rows are one and the same: the bootstrap by plain loops gives nearly equal bounds."""
    generator = np.random.default_rng(3)
    a = generator.integers(1, 6, 60)
    b = np.clip(a + generator.integers(-1, 2, 60), 1, 5)
    items = [number // 2 for number in range(60)]  # two pairs an item
    found = function(a, b, items)
    assert found.n == 60 and found.items == 30 and found.ci95 is not None and found.value is not None
    drawn = []
    for _ in range(1000):
        chosen = generator.integers(30, size=30)
        rows = np.concatenate([[2 * item, 2 * item + 1] for item in chosen])
        drawn.append(point(function, a[rows], b[rows]))
    low, high = np.quantile(drawn, (0.025, 0.975))
    assert found.ci95 == pytest.approx((low, high), abs=0.04)
    assert found.ci95[0] < found.value < found.ci95[1]


def point(function: Callable[..., Agreement], a: Sequence[float], b: Sequence[float]) -> float:
    """The statistic alone: of one item all pairs are drawn together, so there is nothing to resample."""
    value = function(a, b, [0] * len(a)).value
    assert value is not None
    return value


def test_pairs_of_one_item_are_no_more_evidence() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 2, 40), generator.integers(0, 2, 40)
    once = percent_agreement(a, b)
    tenfold = percent_agreement(np.tile(a, 10), np.tile(b, 10), list(range(40)) * 10)
    assert once.ci95 is not None and tenfold.ci95 is not None
    assert tenfold.ci95 == pytest.approx(once.ci95, abs=0.05)
    assert tenfold.n == 400 and tenfold.items == 40


@pytest.mark.parametrize("function", ALL)
def test_the_order_of_pairs_decides_nothing(function: Callable[..., Agreement]) -> None:
    generator = np.random.default_rng(4)
    a, b, items = generator.integers(1, 4, 30), generator.integers(1, 4, 30), [number // 2 for number in range(30)]
    order = generator.permutation(30)
    found, other = function(a, b, items), function(a[order], b[order], [items[place] for place in order])
    assert found.ci95 == pytest.approx(other.ci95) and found.value == pytest.approx(other.value)


def test_the_seed_decides() -> None:
    a, b = [1, 2, 3, 4, 5, 5, 1], [1, 3, 3, 4, 4, 5, 2]
    assert spearman(a, b, seed=1) == spearman(a, b, seed=1)
    assert spearman(a, b, seed=1).ci95 != spearman(a, b, seed=2).ci95
    assert mean(a, 1) == mean(a, 1) and mean(a, 1).ci95 != mean(a, 2).ci95


def test_a_ratio_of_sums() -> None:
    found = ratio([1, 2, 0, 1] * 20, [2, 2, 0, 1] * 20)
    assert found.value == pytest.approx(4 / 5) and found.items == 80
    assert found.ci95 is not None and 0.6 < found.ci95[0] < 0.8 < found.ci95[1] < 0.95
    assert ratio([0], [0]).value is None


@pytest.mark.parametrize("function", ALL)
def test_equal_pairs_counted_are_equal_pairs_listed(function: Callable[..., Agreement]) -> None:
    """Without names of items pairs are counted, with one for each pair they are listed: nearly equal intervals."""
    generator = np.random.default_rng(1)
    a = generator.integers(1, 4, 200)
    b = np.where(generator.random(200) < 0.7, a, generator.integers(1, 4, 200))
    counted, listed = function(a, b), function(a, b, list(range(200)))
    assert counted.value == pytest.approx(listed.value) and counted.items == listed.items == 200
    assert counted.ci95 == pytest.approx(listed.ci95, abs=0.03)


def test_means() -> None:
    found = mean([1, 2, 3, 4])
    assert found.value == 2.5 and found.n == 4 and found.ci95 is not None
    assert found.ci95[0] < 2.5 < found.ci95[1]
    assert mean([]).value is None
    assert mean([3, 3, 3]).ci95 == (3, 3)


def test_intervals_of_means_cover() -> None:
    """Of 400 samples of 60 scores nearly 95% have the true mean in their interval."""
    generator = np.random.default_rng(5)
    scores = generator.choice([1, 2, 3, 4, 5], size=(400, 60), p=[0.1, 0.1, 0.2, 0.3, 0.3])
    held = [mean(one, number, 500) for number, one in enumerate(scores)]
    covered = np.mean([one.ci95[0] <= 3.6 <= one.ci95[1] for one in held if one.ci95])
    assert 0.91 <= covered <= 0.98
