"""compose-eval --strategy joint: one shrinkage regression over all mixtures trained, and the mixture to try next.

score = level + sum over groups of slope x log2(group's share / its share in the base) + noise, slopes shrunk towards 0
by a normal prior whose width the data choose (empirical Bayes: Morris, JASA 78, 1983). It lends every run to every
group, and assumes that effects add up and go on as they began: it proposes, `compose` decides.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sailctl.core.errors import UsageError
from sailctl.core.scaling.distributions import t_quantile

SMALLEST_SHARE = 1 / 1024  # stands for a group that is absent: ten halvings
WIDTHS = np.geomspace(1e-3, 1e3, 61)  # prior variance of a slope over the variance of a run


@dataclass(frozen=True, slots=True)
class Observed:
    """A mixture (samples of each group) that was trained at the size in question, and its score in points."""

    mixture: Mapping[str, int]
    score: float


@dataclass(frozen=True, slots=True)
class Slope:
    """Points that doubling a group's share brings, with a 95% interval (posterior, Student's t)."""

    group: str
    points: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Proposal:
    """Slopes, and the mixture (sizes) with the best chance of beating the base; `gain` and `error` in points.

    `halve` names its halved groups; empty where no halving promises anything.
    """

    slopes: tuple[Slope, ...]
    halve: tuple[str, ...]
    mixture: dict[str, int]
    gain: float
    error: float


def propose(observed: Sequence[Observed], base: Mapping[str, int], *, explore: float = 0.5) -> Proposal:
    """Fit all mixtures and propose which groups to halve in the next one.

    Among all sets of halvings the one with the highest gain + `explore` x error is taken that was not tried yet.
    Raises UsageError below three runs, for one mixture only, where all score the same, or for more than 16 groups.
    """
    groups = list(base)
    if len(groups) > 16:
        raise UsageError(f"{len(groups)} groups: joint proposals go through all sets of at most 16; join some")
    if len(observed) < 3:
        raise UsageError(f"{len(observed)} runs: a joint fit needs 3 or more of different mixtures")
    x_NG = np.array([_features(one.mixture, base) for one in observed])
    y_N = np.array([one.score for one in observed])
    if np.ptp(x_NG, axis=0).max() < 1e-9:
        raise UsageError("all runs are of one mixture: a joint fit needs different ones")
    if np.ptp(y_N) < 1e-9:
        raise UsageError(f"all {len(y_N)} runs score {y_N[0]:.2f}: a joint fit needs scores that differ")
    centre_G, level = x_NG.mean(axis=0), float(y_N.mean())
    slopes_G, covariance_GG, freedom = _shrunk(x_NG - centre_G, y_N - level)
    half = t_quantile(0.975, freedom) * np.sqrt(np.diag(covariance_GG))
    slopes = tuple(
        Slope(group, float(slope), float(slope - width), float(slope + width))
        for group, slope, width in zip(groups, slopes_G, half, strict=True)
    )
    tried = {tuple(np.round(row, 2)) for row in x_NG}
    best: tuple[float, tuple[str, ...], float, float] = (0.0, (), 0.0, 0.0)
    for count in range(1, len(groups)):
        for halve in itertools.combinations(groups, count):
            row_G = _features(_halved(base, halve), base)
            gain, error = float(row_G @ slopes_G), math.sqrt(float(row_G @ covariance_GG @ row_G))
            if gain + explore * error > best[0] and gain > 0 and tuple(np.round(row_G, 2)) not in tried:
                best = (gain + explore * error, halve, gain, error)
    return Proposal(slopes, best[1], _halved(base, best[1]), best[2], best[3])


def _halved(base: Mapping[str, int], halve: Sequence[str]) -> dict[str, int]:
    return {name: size // 2 if name in halve else size for name, size in base.items()}


def _features(mixture: Mapping[str, int], base: Mapping[str, int]) -> np.ndarray:
    """log2 of every group's share against its share in the base."""
    total, whole = sum(mixture.get(name, 0) for name in base), sum(base.values())
    return np.array(
        [
            math.log2(max(mixture.get(name, 0) / max(total, 1), SMALLEST_SHARE) / max(size / whole, SMALLEST_SHARE))
            for name, size in base.items()
        ]
    )


def _shrunk(x_NG: np.ndarray, y_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Posterior mean and covariance of slopes, their prior's width averaged over its marginal likelihood."""
    freedom = len(y_N) - 1
    logs, means, covariances = [], [], []
    for width in WIDTHS:
        marginal_NN = np.eye(len(y_N)) + width * x_NG @ x_NG.T
        solved_N = np.linalg.solve(marginal_NN, y_N)
        variance = max(float(y_N @ solved_N), 1e-12) / freedom
        logs.append(-0.5 * np.linalg.slogdet(marginal_NN)[1] - 0.5 * freedom * math.log(variance))
        means.append(width * x_NG.T @ solved_N)
        inner_GG = np.eye(x_NG.shape[1]) / width + x_NG.T @ x_NG
        covariances.append(variance * np.linalg.inv(inner_GG))
    weights = np.exp(np.array(logs) - max(logs))
    weights /= weights.sum()
    mean_G = np.einsum("w,wg->g", weights, np.array(means))
    apart_WG = np.array(means) - mean_G
    covariance_GG = np.einsum("w,wgh->gh", weights, np.array(covariances))
    return mean_G, covariance_GG + np.einsum("w,wg,wh->gh", weights, apart_WG, apart_WG), freedom
