"""Drawing without replacement: exact sizes, unequal chances, decided by ids and a seed alone. Pure arrays.

Every sample has a number in (0, 1) from its id and the seed, so neither order nor workers matter, a sample keeps its
number wherever it lies, and a smaller draw of equal chances lies within every larger one of the same seed. Exact
copies share a number and mostly a fate: drop them before.

N samples, M memberships of samples in concepts.
"""

from __future__ import annotations

import hashlib

import numpy as np


def uniform(ids: np.ndarray, seed: int) -> np.ndarray:
    """(N,) numbers in (0, 1) from (N, 2) uint64 ids, by two rounds of SplitMix64's finaliser (Steele et al., 2014)."""
    salt = int.from_bytes(hashlib.blake2b(f"sample {seed}".encode(), digest_size=8).digest(), "little")
    mixed = _mix(_mix(ids[:, 0] ^ np.uint64(salt)) ^ ids[:, 1])
    return ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def chances(weights: np.ndarray, size: int) -> np.ndarray:
    """(N,) chances min(1, λ·weight) that add up to `size`. Weights are positive; `size` is at most N."""
    if size >= len(weights):
        return np.ones(len(weights))
    order = np.argsort(-weights, kind="stable")
    falling = weights[order]
    tail = np.cumsum(falling[::-1])[::-1]  # of all from a place on
    left = size - np.arange(len(falling))
    fits = (left <= 0) | (falling * left < tail)  # so many are certain, and the next one is not
    certain = int(np.argmax(fits))
    chance: np.ndarray = np.minimum(1.0, left[certain] / tail[certain] * weights)
    chance[order[:certain]] = 1.0
    return chance


def draw(chance: np.ndarray, number: np.ndarray, size: int) -> np.ndarray:
    """Places of exactly `size` of (N,) samples, included with about these chances, which add up to `size`.

    Pareto sampling (Rosén, "On sampling with probability proportional to size", 1997): those with the smallest ratio of
    the odds of their number to the odds of their chance; who is certain has none. Of equal chances it is a simple
    random sample.
    """
    return np.sort(ranked(chance, number)[:size])


def ranked(chance: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Places of (N,) samples in the order in which `draw` takes them; who is certain, by number alone."""
    with np.errstate(divide="ignore"):
        rank = number / (1 - number) * ((1 - chance) / chance)
    return np.lexsort((number, rank))


def within_cap(order: np.ndarray, member: np.ndarray, concept: np.ndarray, cap: int, size: int | None) -> np.ndarray:
    """Places of those of `order`, from its first on, of which no concept has more than `cap`; `size` at most.

    A sample counts for each of its concepts: the (M,) pairs of `member`, rising, and `concept`. One that would exceed
    the cap of any is passed over.
    """
    starts = np.searchsorted(member, np.arange(len(order) + 1))
    left = np.full(int(concept.max(initial=0)) + 1, cap)
    taken: list[int] = []
    for at in order.tolist():
        if size is not None and len(taken) == size:
            break
        of = concept[starts[at] : starts[at + 1]]
        if left[of].all():
            left[of] -= 1
            taken.append(at)
    return np.sort(np.array(taken, dtype=np.int64))


def concept_chances(member: np.ndarray, concept: np.ndarray, counts: np.ndarray, samples: int, t: float) -> np.ndarray:
    """(N,) chances 1 - Π(1 - min(1, t / count)) over each sample's concepts, the (M,) pairs of `member` and `concept`.

    MetaCLIP's curation (Xu et al., 2024, algorithm 1): each of a text's concepts keeps it with min(1, t / count), and
    one that keeps it is enough. `counts` are those of the concepts; samples of no concept have no chance.
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # a concept that is certain, or that nobody names
        log_miss = np.log1p(-np.minimum(1.0, t / counts))
        return -np.expm1(np.bincount(member, weights=log_miss[concept], minlength=samples))


def concept_threshold(member: np.ndarray, concept: np.ndarray, counts: np.ndarray, samples: int, size: int) -> float:
    """The t at which `concept_chances` add up to `size`, found by halving; the largest count where they cannot."""
    low, high = 0.0, float(counts.max(initial=1))
    for _ in range(60):
        middle = (low + high) / 2
        if concept_chances(member, concept, counts, samples, middle).sum() < size:
            low = middle
        else:
            high = middle
    return high
