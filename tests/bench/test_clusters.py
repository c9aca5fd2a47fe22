"""Intervals of clustered, graded and composed scores against the truth; paired tests against their level."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from sailctl.core.bench.clusters import Tally, compare, score
from sailctl.core.bench.statistics import wilson
from sailctl.core.bench.tally import tally

Maker = Callable[[np.random.Generator], Tally]
Pair = Callable[[np.random.Generator], tuple[Tally, Tally]]


def plain(values: np.ndarray) -> Tally:
    return Tally(np.stack([values, np.ones(len(values))], axis=1).astype(float), len(values))


def anls(n: int, none: float, full: float) -> tuple[Maker, float]:
    """Graded answers: `none` score 0, `full` score 1, the others between 0.5 and 1 as ANLS does; and their mean."""

    def make(rng: np.random.Generator) -> Tally:
        u = rng.random(n)
        return plain(np.where(u < none, 0, np.where(u < none + full, 1, 0.5 + 0.5 * rng.beta(4, 1, n))))

    return make, full + (1 - none - full) * 0.9


def clustered(clusters: int, p: float, correlation: float = 0.4) -> Maker:
    """One to five yes/no items a picture, alike within it."""
    prior = (1 - correlation) / correlation

    def make(rng: np.random.Generator) -> Tally:
        share, sizes = rng.beta(p * prior, (1 - p) * prior, clusters), rng.integers(1, 6, clusters)
        return Tally(np.stack([rng.binomial(sizes, share), sizes], axis=1).astype(float), int(sizes.sum()))

    return make


def yes_rows(rng: np.random.Generator, n: int) -> list[dict[str, object]]:
    truth = rng.random(n) < 0.5
    right = np.where(truth, rng.random(n) < 0.8, rng.random(n) < 0.9)
    return [{"index": k, "score": float(right[k]), "answer": "yes" if truth[k] else "no"} for k in range(n)]


def coverage(make: Maker, truth: float, trials: int) -> float:
    rng = np.random.default_rng(7)
    intervals = [score(make(rng), resamples=400, seed=trial).ci95 for trial in range(trials)]
    return sum(low <= truth <= high for low, high in intervals) / trials


def test_a_plain_proportion_is_wilsons() -> None:
    found = score(plain(np.array([1, 0, 1, 1])))
    assert (found.score, found.n, found.ci95) == (0.75, 4, wilson(3, 4))


def test_reproducible_and_seeded() -> None:
    made = clustered(50, 0.5)(np.random.default_rng(1))
    assert score(made) == score(made)
    assert score(made).ci95 != score(made, seed=1).ci95
    assert score(made).ci95 == pytest.approx(score(made, seed=1).ci95, abs=0.01)


def test_the_bootstrap_variance_is_the_one_of_the_formula() -> None:
    values = np.random.default_rng(2).random(200)
    low, high = score(plain(values)).ci95
    assert high - low == pytest.approx(2 * 1.972 * values.std() / 199**0.5, rel=0.03)


def test_items_that_share_a_picture_are_worth_less() -> None:
    alike = Tally(np.repeat([[5.0, 5.0], [0.0, 5.0]], 20, axis=0), 200)  # 40 pictures, five items each, all or nothing
    low, high = score(alike).ci95
    as_40 = wilson(20, 40)
    assert (low, high) == pytest.approx(as_40, abs=0.015)
    assert high - low > 2 * (wilson(100, 200)[1] - wilson(100, 200)[0])


def test_nothing_and_one_cluster() -> None:
    assert score(Tally(np.zeros((0, 2)), 0)).ci95 == (0.0, 1.0)
    assert score(Tally(np.array([[3.0, 4.0]]), 4)).ci95 == (0.0, 1.0)


@pytest.mark.parametrize(("none", "full"), [(0.25, 0.6), (0.08, 0.8), (0.03, 0.9), (0.95, 0.03), (0.5, 0.2)])
def test_graded_scores_of_40_items_are_covered(none: float, full: float) -> None:
    make, truth = anls(40, none, full)
    assert 0.93 <= coverage(make, truth, 1000) <= 0.99  # measured in 1,000 trials: 0.947 to 0.979


def test_quantiles_of_the_bootstrap_would_not_do() -> None:
    """Why the interval has Wilson's shape: of 40 items with 90% full marks, resampling covers far too seldom."""
    make, truth = anls(40, 0.03, 0.9)
    rng = np.random.default_rng(8)
    inside = 0
    for _ in range(500):
        values = make(rng).rows_GK[:, 0]
        means = values[rng.integers(0, 40, (400, 40))].mean(axis=1)
        inside += np.quantile(means, 0.025) <= truth <= np.quantile(means, 0.975)
    assert inside / 500 < 0.8


@pytest.mark.parametrize(("clusters", "p"), [(15, 0.5), (40, 0.05), (40, 0.5), (40, 0.95), (150, 0.5)])
def test_clustered_yes_no_items_are_covered(clusters: int, p: float) -> None:
    assert 0.93 <= coverage(clustered(clusters, p), p, 1000) <= 0.985  # measured: 0.946 to 0.975


def test_f1_is_covered() -> None:
    truth = 2 * 0.4 / (2 * 0.4 + 0.05 + 0.1)
    assert 0.93 <= coverage(lambda rng: tally("f1", yes_rows(rng, 100))[0], truth, 500) <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("n", [40, 300, 5000])
@pytest.mark.parametrize(("none", "full"), [(0.25, 0.6), (0.08, 0.8), (0.03, 0.9), (0.95, 0.03), (0.5, 0.2)])
def test_graded_scores_are_covered(n: int, none: float, full: float) -> None:
    make, truth = anls(n, none, full)
    assert 0.93 <= coverage(make, truth, 2000) <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("clusters", [15, 40, 150, 1000])
@pytest.mark.parametrize("p", [0.05, 0.5, 0.95])
def test_clusters_are_covered(clusters: int, p: float) -> None:
    assert 0.915 <= coverage(clustered(clusters, p), p, 2000) <= 0.985  # 0.92 where p = .05 and 150 are very unlike


def test_strata_keep_their_sizes() -> None:
    """A score that only depends on how many clusters each stratum has does not vary; without strata it would."""
    rows = np.zeros((30, 2))
    rows[:10, 0] = rows[10:, 1] = 1.0
    of = lambda sums: sums[..., 0] / (sums[..., 0] + sums[..., 1])  # noqa: E731
    fixed = score(Tally(rows, 30, of, np.array([0] * 10 + [1] * 20)))
    drawn = score(Tally(rows, 30, of))
    assert fixed.score == drawn.score == pytest.approx(1 / 3)
    assert fixed.ci95[1] - fixed.ci95[0] < 0.5 * (drawn.ci95[1] - drawn.ci95[0])


def yes_no_pair(n: int, gain: float = 0.0) -> Pair:
    def make(rng: np.random.Generator) -> tuple[Tally, Tally]:
        left = rng.random(n) < 0.7
        right = np.where(rng.random(n) < 0.3, left, rng.random(n) < 0.7 - gain)
        return plain(left), plain(right)

    return make


def clustered_pair(clusters: int, gain: float = 0.0) -> Pair:
    """Each picture is as hard as it is, and each model has its own luck with it."""

    def make(rng: np.random.Generator) -> tuple[Tally, Tally]:
        hard, sizes = rng.beta(1, 1, clusters), rng.integers(1, 6, clusters)
        hits = [rng.binomial(sizes, np.clip(hard + rng.normal(0, 0.2, clusters) + more, 0, 1)) for more in (gain, 0.0)]
        left, right = (Tally(np.stack([hit, sizes], axis=1).astype(float), int(sizes.sum())) for hit in hits)
        return left, right

    return make


def skewed_pair(n: int) -> Pair:
    """Equal means, though the differences are anything but symmetric: 0.8 always, against 1 four times of five."""
    return lambda rng: (plain(np.full(n, 0.8)), plain(rng.random(n) < 0.8))


def f1_pair(n: int) -> Pair:
    return lambda rng: (tally("f1", yes_rows(rng, n))[0], tally("f1", yes_rows(rng, n))[0])


def rejections(make: Pair, trials: int) -> tuple[float, float]:
    """Shares of trials with p ≤ 0.05, and with 0 inside the interval."""
    rng = np.random.default_rng(9)
    found = [compare(*make(rng), resamples=200, permutations=499, seed=trial) for trial in range(trials)]
    inside = sum(one.ci95[0] <= 0 <= one.ci95[1] for one in found)
    return sum(one.p_value <= 0.05 for one in found) / trials, inside / trials


NULL = {
    "40 yes/no items": yes_no_pair(40),
    "300 yes/no items": yes_no_pair(300),
    "15 clusters": clustered_pair(15),
    "60 clusters": clustered_pair(60),
    "40 skewed differences": skewed_pair(40),
    "F1 of 100": f1_pair(100),
}


@pytest.mark.parametrize("name", NULL)
def test_the_paired_test_holds_its_level(name: str) -> None:
    rejected, covered = rejections(NULL[name], 600)
    assert rejected <= 0.05 + 3 * (0.05 * 0.95 / 600) ** 0.5  # measured in 1,000 trials: 0.023 to 0.050
    assert covered >= 0.92


@pytest.mark.slow
@pytest.mark.parametrize("name", NULL)
def test_the_paired_test_holds_its_level_in_5000_trials(name: str) -> None:
    assert rejections(NULL[name], 5000)[0] <= 0.05 + 3 * (0.05 * 0.95 / 5000) ** 0.5


def test_ignoring_the_clusters_would_break_the_level() -> None:
    """The same items with every one a cluster of its own: the test must now call differences that are only luck."""
    rng = np.random.default_rng(10)
    called = 0
    for _ in range(300):
        share = rng.beta(0.5, 0.5, (2, 30))
        left, right = (np.repeat(rng.random(30) < one, 8).astype(float) for one in share)
        called += compare(plain(left), plain(right)).p_value <= 0.05
    assert called / 300 > 0.3


def test_the_paired_test_finds_what_is_there() -> None:
    assert rejections(yes_no_pair(300, gain=0.2), 200)[0] > 0.9
    assert rejections(clustered_pair(100, gain=0.2), 200)[0] > 0.9


def test_permutation_by_hand() -> None:
    """Four clusters, all exchanges counted out: the p-value is near the exact share."""
    left, right = np.array([[3.0, 3], [2, 2], [1, 3], [2, 4]]), np.array([[1.0, 3], [0, 2], [1, 3], [1, 4]])
    differences = left[:, 0] - right[:, 0]
    exact = np.mean([abs(np.dot(signs, differences)) >= 5 for signs in product((-1, 1), repeat=4)])
    found = compare(Tally(left, 12), Tally(right, 12))
    assert exact == 0.25 and found.p_value == pytest.approx(exact, abs=0.02)
    assert (found.difference, found.n, found.clusters) == (pytest.approx(5 / 12), 12, 4)


def test_equal_answers_have_no_difference() -> None:
    made = clustered(20, 0.5)(np.random.default_rng(3))
    found = compare(made, made)
    assert (found.difference, found.p_value) == (0.0, 1.0) and found.ci95[0] < 0 < found.ci95[1]
    found = compare(plain(np.ones(5)), plain(np.ones(5)))
    assert (found.p_value, found.test) == (1.0, "McNemar's exact test")


def test_sides_change_the_sign_only() -> None:
    left, right = clustered_pair(30, gain=0.1)(np.random.default_rng(4))
    one, other = compare(left, right), compare(right, left)
    assert (one.difference, one.p_value) == (pytest.approx(-other.difference), pytest.approx(other.p_value, abs=0.02))
    assert one.ci95 == pytest.approx((-other.ci95[1], -other.ci95[0]))


def test_pairing_narrows_the_interval() -> None:
    rng = np.random.default_rng(5)
    base = rng.random(300)
    found = compare(plain(np.clip(base + 0.05, 0, 1)), plain(base))
    alone = score(plain(base)).ci95
    assert found.ci95[1] - found.ci95[0] < 0.5 * (alone[1] - alone[0]) and found.p_value < 0.001


def test_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="same items"):
        compare(plain(np.ones(3)), plain(np.ones(4)))
