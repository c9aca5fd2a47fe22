"""Effects of mixtures against a baseline at one size, from runs that may or may not share the luck of their seeds.

Model of a run's score in points: y[arm, seed] = mean[arm] + luck[seed] + rest, with Var(luck) = r v, Var(rest) =
(1 - r) v, and the same v in all arms. The share r that pairing by seed cancels is unknown and differs between trainers:
results are averaged over r, weighted by the restricted likelihood of what was seen and a prior. With r = 0 all runs of
a shared baseline count fully; with r near 1 only the seeds count that both arms were trained with.

Legend: N runs, A arms (arm 0 is the baseline), S seeds, R values of r.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sailctl.core.scaling.distributions import t_cdf, t_quantile

SHARES_R = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
# Most weight on no shared luck: there a mistaken r > 0 would make errors too small (a flat prior: 1.5 times too many
# false accepts), while a mistaken r = 0 only costs runs.
PRIOR_R = np.array([0.8] + [0.02] * 10)
FLOOR = 1e-9  # variance of a run (points squared) below which runs are taken to be exact


@dataclass(frozen=True, eq=False, slots=True)
class Fit:
    """Effects against arm 0 in points: effects_A with covariance_AA (entries of arm 0 are 0), averaged over r.

    `freedom` is N - A; `variance` is that of one run; `share` is the posterior mean of r. `weights_R`, `effects_RA`,
    `errors_RA` (standard errors) are what tests average over. `seen_A` says which arms have runs.
    """

    effects_A: np.ndarray
    covariance_AA: np.ndarray
    freedom: int
    variance: float
    share: float
    weights_R: np.ndarray
    effects_RA: np.ndarray
    errors_RA: np.ndarray
    seen_A: np.ndarray

    def p_above(self, arm: int, bound: float, extra: float = 0.0) -> float:
        """P-value of effect <= `bound` against effect > `bound`: Student's t, averaged over r; 1 without freedom.

        `extra` is variance of the effect beyond that of the runs: of the benchmark's items.
        """
        if self.freedom < 1 or not self.seen_A[arm]:
            return 1.0
        return float(
            sum(
                weight * t_cdf((bound - effect) / math.sqrt(error**2 + extra + FLOOR), self.freedom)
                for weight, effect, error in zip(
                    self.weights_R, self.effects_RA[:, arm], self.errors_RA[:, arm], strict=True
                )
                if weight > 1e-4
            )
        )

    def error(self, arm: int, extra: float = 0.0) -> float:
        """Standard error of an arm's effect in points; infinite without freedom."""
        if self.freedom < 1 or not self.seen_A[arm]:
            return math.inf
        return math.sqrt(self.covariance_AA[arm, arm] + extra + FLOOR)

    def interval(self, arm: int, level: float, extra: float = 0.0) -> tuple[float, float]:
        """Both bounds at one-sided error `level` each, in points."""
        error = self.error(arm, extra)
        if math.isinf(error):
            return -math.inf, math.inf
        half = t_quantile(1 - level, self.freedom) * error
        return float(self.effects_A[arm]) - half, float(self.effects_A[arm]) + half


def fit(
    arms: Sequence[int],
    seeds: Sequence[int],
    scores: Sequence[float],
    *,
    count: int | None = None,
) -> Fit:
    """Effects of every arm against arm 0, which must have a run. Restricted likelihood: Patterson and Thompson 1971.

    `count` is the number of arms where the last ones may have no runs.
    """
    arm_N, y_N = np.asarray(arms), np.asarray(scores, dtype=np.float64)
    _, seed_N = np.unique(np.asarray(seeds), return_inverse=True)
    count = int(arm_N.max()) + 1 if count is None else count
    u_SA = np.zeros((int(seed_N.max()) + 1, count))
    np.add.at(u_SA, (seed_N, arm_N), 1.0)
    t_SA = np.zeros_like(u_SA)  # scores by seed and arm
    offset = float(y_N.mean())
    np.add.at(t_SA, (seed_N, arm_N), y_N - offset)
    seen_A = u_SA.sum(axis=0) > 0
    u_SA, t_SA = u_SA[:, seen_A], t_SA[:, seen_A]
    m_S = u_SA.sum(axis=1)

    rest_R = 1 - SHARES_R
    k_RS = SHARES_R[:, None] / (rest_R[:, None] + SHARES_R[:, None] * m_S)
    # X' V^-1 X, X' V^-1 y and y' V^-1 y of V = (1 - r) I + r Z Z', block by seed.
    xx_RAA = (np.diag(u_SA.sum(axis=0)) - np.einsum("rs,sa,sb->rab", k_RS, u_SA, u_SA)) / rest_R[:, None, None]
    xy_RA = (t_SA.sum(axis=0) - np.einsum("rs,sa,s->ra", k_RS, u_SA, t_SA.sum(axis=1))) / rest_R[:, None]
    yy_R = (((y_N - offset) ** 2).sum() - k_RS @ t_SA.sum(axis=1) ** 2) / rest_R
    inverse_RAA = np.linalg.inv(xx_RAA)
    means_RA = np.einsum("rab,rb->ra", inverse_RAA, xy_RA)
    freedom = len(y_N) - u_SA.shape[1]
    rss_R = np.maximum(yy_R - (means_RA * xy_RA).sum(axis=1), FLOOR * max(freedom, 1))
    log_R = (
        -0.5 * (m_S.sum() - len(m_S)) * np.log(rest_R)
        - 0.5 * np.log(rest_R[:, None] + SHARES_R[:, None] * m_S).sum(axis=1)
        - 0.5 * np.linalg.slogdet(xx_RAA)[1]
        - 0.5 * freedom * np.log(rss_R)
    )
    log_R += np.log(PRIOR_R)
    weights_R = np.exp(log_R - log_R.max())
    weights_R /= weights_R.sum()

    variance_R = rss_R / max(freedom, 1)
    full_RAA = np.zeros((len(SHARES_R), count, count))
    full_RA = np.zeros((len(SHARES_R), count))
    inner = np.flatnonzero(seen_A)
    # Contrasts against arm 0, which is the first seen.
    contrast_RAA = inverse_RAA - inverse_RAA[:, :1, :] - inverse_RAA[:, :, :1] + inverse_RAA[:, :1, :1]
    full_RAA[:, inner[:, None], inner[None, :]] = contrast_RAA * variance_R[:, None, None]
    full_RA[:, inner] = means_RA - means_RA[:, :1]
    return Fit(
        effects_A=weights_R @ full_RA,
        covariance_AA=np.einsum("r,rab->ab", weights_R, full_RAA),
        freedom=freedom,
        variance=float(weights_R @ variance_R),
        share=float(weights_R @ SHARES_R),
        weights_R=weights_R,
        effects_RA=full_RA,
        errors_RA=np.sqrt(np.maximum(np.einsum("raa->ra", full_RAA), 0.0)),
        seen_A=seen_A,
    )
