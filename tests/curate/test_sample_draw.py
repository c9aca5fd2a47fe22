"""The numbers of sampling: shares that add up, chances, exact draws, concepts, n-grams, clusters."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sailctl.core.curate.passes import write_table
from sailctl.core.curate.sample.clusters import cluster, kmeans
from sailctl.core.curate.sample.concepts import Concepts
from sailctl.core.curate.sample.draw import chances, concept_chances, concept_threshold, draw, uniform, within_cap
from sailctl.core.curate.sample.ngrams import GramCounts, gram_hashes, tokens
from sailctl.core.curate.sample.quota import allot, by_largest_remainder, evenly, naturally, parse_count, parse_quotas
from sailctl.core.errors import DataError, UsageError

COUNTS = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=3), st.integers(0, 50), min_size=1, max_size=12)


class TestShares:
    def test_even_by_hand(self) -> None:
        counts = {"a": 1, "b": 5, "c": 100}
        assert evenly(10, counts) == {"a": 1, "b": 5, "c": 4}, "t = 4, and one more for b, the first by name"
        assert evenly(11, counts) == {"a": 1, "b": 5, "c": 5}
        assert evenly(106, counts) == counts

    def test_largest_remainder_by_hand(self) -> None:
        assert by_largest_remainder(10, {"a": 1, "b": 1, "c": 1}) == {"a": 4, "b": 3, "c": 3}
        assert by_largest_remainder(7, {"a": 50, "b": 30, "c": 20}) == {"a": 4, "b": 2, "c": 1}, "3.5, 2.1, 1.4"

    def test_natural_shares_within_limits(self) -> None:
        counts = {"a": 10, "b": 40, "c": 50}
        assert naturally(50, counts, {"a": 10, "b": 5, "c": 50}) == {"a": 8, "b": 5, "c": 37}, "45 as 10 : 50"

    @given(COUNTS, st.integers(0, 600), st.integers(1, 60), st.booleans())
    def test_whatever_is_allotted_adds_up(self, counts: dict[str, int], total: int, cap: int, natural: bool) -> None:
        there = sum(min(count, cap) for count in counts.values())
        total = min(total, there)
        given = allot(total, counts, cap, {}, natural=natural)
        assert sum(given.values()) == total and given.keys() == counts.keys()
        assert all(0 <= given[name] <= min(counts[name], cap) for name in counts)
        if not natural:  # nobody has two fewer than another while there were some left
            assert all(given[a] >= given[b] - 1 for a in counts for b in counts if given[a] < min(counts[a], cap))

    def test_quotas(self) -> None:
        counts = {"a": 50, "b": 3, "c": 50}
        assert allot(10, counts, None, parse_quotas(["a=1/3"]), natural=False) == {"a": 3, "b": 3, "c": 4}
        assert allot(10, counts, None, parse_quotas(["a=60%", "c=0.4"]), natural=False) == {"a": 6, "b": 0, "c": 4}

    def test_fewer_than_asked_for(self) -> None:
        with pytest.raises(UsageError, match=r"--samples: 104 samples are asked for, there are 103; ask for fewer"):
            allot(104, {"a": 50, "b": 53}, None, {}, natural=False)
        with pytest.raises(UsageError, match=r"there are 10 under --cap 5"):
            allot(11, {"a": 50, "b": 53}, 5, {}, natural=True)
        with pytest.raises(UsageError, match=r"--quota b: 4 samples are asked for, it has 3; lower its share"):
            allot(8, {"a": 50, "b": 3}, None, {"b": Fraction(1, 2)}, natural=False)
        with pytest.raises(UsageError, match=r"there is no such group; groups: a, b"):
            allot(8, {"a": 50, "b": 3}, None, {"z": Fraction(1, 2)}, natural=False)
        with pytest.raises(UsageError, match="of groups without a quota are asked for, there are 3"):
            allot(10, {"a": 50, "b": 3}, None, {"a": Fraction(1, 2)}, natural=False)

    @pytest.mark.parametrize("text", ["0", "-3", "many", "1.5", "2G", "", "1e6"])
    def test_counts_that_are_none(self, text: str) -> None:
        with pytest.raises(UsageError, match="should be a whole number of samples"):
            parse_count(text)

    def test_counts(self) -> None:
        assert [parse_count(one) for one in ("5000", "50k", "1.5M", "2,000,000")] == [5000, 50000, 1500000, 2000000]

    @pytest.mark.parametrize("text", ["a", "=0.3", "a=", "a=1.2", "a=-1", "a=x", "a=1/0"])
    def test_quotas_that_are_none(self, text: str) -> None:
        with pytest.raises(UsageError, match="should be NAME=SHARE"):
            parse_quotas([text])

    def test_quotas_beyond_all(self) -> None:
        with pytest.raises(UsageError, match=r"add up to 1\.1; at most 1"):
            parse_quotas(["a=0.6", "b=50%"])
        with pytest.raises(UsageError, match="a has a quota already"):
            parse_quotas(["a=0.1", "a=0.2"])


def ids(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**63, (count, 2)).astype(np.uint64)


class TestDraws:
    def test_numbers_are_uniform_and_of_the_seed(self) -> None:
        numbers = uniform(ids(20_000), 0)
        assert numbers.min() > 0 and numbers.max() < 1
        largest = np.abs(np.sort(numbers) - np.linspace(0, 1, 20_000)).max()
        assert largest < 1.63 / math.sqrt(20_000), "Kolmogorov-Smirnov at 1%"
        assert abs(np.corrcoef(numbers, uniform(ids(20_000), 1))[0, 1]) < 0.03

    def test_ids_that_differ_little_have_numbers_that_differ(self) -> None:
        counted = np.stack([np.zeros(1000, np.uint64), np.arange(1000, dtype=np.uint64)], axis=1)
        assert abs(np.corrcoef(uniform(counted, 0), np.arange(1000))[0, 1]) < 0.1

    def test_chances_by_hand(self) -> None:
        assert chances(np.array([1.0, 1.0, 8.0]), 2).tolist() == [0.5, 0.5, 1.0]
        assert chances(np.array([1.0, 3.0]), 1).tolist() == [0.25, 0.75]
        assert chances(np.array([1.0, 3.0]), 2).tolist() == [1.0, 1.0]

    @given(st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=50), st.data())
    def test_chances_add_up(self, weights: list[float], data: st.DataObject) -> None:
        size = data.draw(st.integers(0, len(weights)))
        chance = chances(np.array(weights), size)
        assert chance.sum() == pytest.approx(size, rel=1e-6) and (chance <= 1).all() and (chance >= 0).all()
        assert len(draw(chance, uniform(ids(len(weights)), 0), size)) == size

    def test_draws_have_their_chances(self) -> None:
        """Over 3,000 seeds each is drawn about as often as its chance says, the certain always."""
        weights = np.array([1.0, 1.0, 2.0, 4.0, 4.0, 40.0])
        chance, some = chances(weights, 3), ids(6)
        counted = np.zeros(6)
        for seed in range(3000):
            counted[draw(chance, uniform(some, seed), 3)] += 1
        assert counted[5] == 3000
        assert np.abs(counted / 3000 - chance).max() < 0.03, "three standard errors; Pareto sampling is not exact"

    def test_a_smaller_draw_lies_within_a_larger_one(self) -> None:
        numbers = uniform(ids(100), 7)
        small, large = (set(draw(chances(np.ones(100), size), numbers, size)) for size in (10, 30))
        assert small < large

    def test_concepts_by_hand(self) -> None:
        # three samples: of concept 0 (4 captions), of both, of concept 1 (2 captions); t = 1
        member, concept = np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1])
        found = concept_chances(member, concept, np.array([4.0, 2.0]), 4, 1.0)
        assert found == pytest.approx([0.25, 1 - 0.75 * 0.5, 0.5, 0.0])
        t = concept_threshold(member, concept, np.array([4.0, 2.0]), 3, 2)
        assert concept_chances(member, concept, np.array([4.0, 2.0]), 3, t).sum() == pytest.approx(2)

    def test_a_cap_by_hand(self) -> None:
        # samples of concepts 0, 0 and 1, 1, 0; in this order, sample 1 would be the second of concept 0
        member, concept = np.array([0, 1, 1, 2, 3]), np.array([0, 0, 1, 1, 0])
        order = np.array([0, 1, 3, 2])
        assert within_cap(order, member, concept, 1, None).tolist() == [0, 2]
        assert within_cap(order, member, concept, 2, None).tolist() == [0, 1, 2]
        assert within_cap(order, member, concept, 2, 2).tolist() == [0, 1]


class TestConcepts:
    def read(self, folder: Path, text: str) -> Concepts:
        (folder / "c.txt").write_text(text)
        return Concepts.read(folder / "c.txt")

    def test_words_phrases_and_chinese(self, tmp_path: Path) -> None:
        concepts = self.read(tmp_path, "# a list\ncat\nTraffic light\n自行车\n\ncat\nmother-in-law\n")
        assert concepts.names == ("cat", "Traffic light", "自行车", "mother-in-law")
        assert concepts.found("A cat, a CAT; the traffic  light!") == [0, 1]
        assert concepts.found("cats in a category, light traffic") == []
        assert concepts.found("一辆红色自行车靠在墙边") == [2]
        assert concepts.found("my mother-in-law's cat") == [0]

    def test_lists_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="holds no concept"):
            self.read(tmp_path, "# nothing\n")
        with pytest.raises(UsageError, match=r"c\.txt:2: '!!' holds no word"):
            self.read(tmp_path, "cat\n!!\n")
        with pytest.raises(UsageError, match="cannot be read"):
            Concepts.read(tmp_path / "absent.txt")


class TestNgrams:
    def test_tokens(self) -> None:
        assert tokens("A red-brown Dog's 2 toys, 红色car") == [
            "a",
            "red-brown",
            "dog's",
            "2",
            "toys",
            "红",
            "色",
            "car",
        ]

    def test_rarity_by_hand(self) -> None:
        texts = ["a b", "a b", "a b c", "d"]
        grams = [gram_hashes(text, 2) for text in texts]
        counts = GramCounts()
        for one in grams:
            counts.add(one)
        rarity = counts.rarity(np.concatenate(grams), np.array([len(one) for one in grams]))
        assert rarity == pytest.approx([1 / 3, 1 / 3, (1 / 3 + 1) / 2, 1 / 3]), "d has no 2-gram"

    def test_spread_by_hand(self) -> None:
        counts = GramCounts()
        counts.add(gram_hashes("a b a b c d", 1))
        spread = counts.spread()
        assert (spread.total, spread.distinct) == (6, 4)
        assert spread.entropy_bits == pytest.approx(2 * (1 / 3) * math.log2(3) + 2 * (1 / 6) * math.log2(6))

    def test_distinct_ones_are_estimated_where_many_share_buckets(self) -> None:
        counts = GramCounts()
        counts.add(np.random.default_rng(0).integers(0, 1 << 24, 1_000_000))
        assert counts.spread().distinct == pytest.approx(1_000_000, rel=0.002)


class TestClusters:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Three bundles of directions, of 200, 60 and 40 vectors of any length."""
        rng = np.random.default_rng(0)
        axes = np.repeat(np.eye(8)[:3], [200, 60, 40], axis=0)
        vectors = (axes + rng.normal(0, 0.05, axes.shape)) * rng.uniform(0.5, 20, (300, 1))
        named = [f"{one:032x}" for one in rng.integers(1, 2**62, 300)]
        self.write(tmp_path, named, vectors)
        return tmp_path

    def write(self, folder: Path, named: list[str], vectors: np.ndarray) -> None:
        values = pa.array(list(vectors.astype(np.float32)), pa.list_(pa.float32()))
        write_table(folder / "e.parquet", pa.table({"id": named, "embedding": values}))

    def test_directions_are_found(self, folder: Path) -> None:
        labels = cluster(str(folder), 3, 0)["cluster"].to_numpy()
        assert [len(set(labels[a:b])) for a, b in ((0, 200), (200, 260), (260, 300))] == [1, 1, 1]
        assert len(set(labels)) == 3

    def test_the_order_of_rows_does_not_matter(self, folder: Path) -> None:
        before = cluster(str(folder), 5, 0).to_pydict()
        table = pa.parquet.read_table(folder / "e.parquet")
        write_table(folder / "e.parquet", table.take(np.random.default_rng(1).permutation(300)))
        after = cluster(str(folder), 5, 0).to_pydict()
        assert dict(zip(before["id"], before["cluster"], strict=True)) == dict(
            zip(after["id"], after["cluster"], strict=True)
        )

    def test_no_cluster_stays_empty(self) -> None:
        twice = np.repeat(np.eye(4, dtype=np.float32), 25, axis=0)
        labels = (twice @ kmeans(twice, 4).T).argmax(axis=1)
        assert len(set(labels)) == 4, "the first four vectors are all alike"

    def test_odd_embeddings(self, folder: Path) -> None:
        with pytest.raises(UsageError, match="holds 300 embeddings; ask for fewer clusters"):
            cluster(str(folder), 301, 0)
        self.write(folder, ["0" * 31 + "1"], np.array([[1.0, np.nan]]))
        with pytest.raises(DataError, match="NaN"):
            cluster(str(folder), 1, 0)
        write_table(folder / "e.parquet", pa.table({"id": ["0" * 31 + "1", "0" * 31 + "2"], "v": [[1.0], [1.0, 2.0]]}))
        with pytest.raises(DataError, match="of one length"):
            cluster(str(folder), 1, 0)
        write_table(folder / "e.parquet", pa.table({"id": ["0" * 31 + "1"], "v": [1.0]}))
        with pytest.raises(UsageError, match="should have a column id and one column of lists"):
            cluster(str(folder), 1, 0)
