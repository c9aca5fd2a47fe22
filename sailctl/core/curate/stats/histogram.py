"""Distributions of whole numbers in constant memory: exact below 1,024, in bins of 0.2% above; mean and ends exact."""

from __future__ import annotations

from typing import Any

import numpy as np

_EXACT = 1024
_HALF = _EXACT // 2  # bins of each power of two above
QUANTILES = {"p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}


class Histogram:
    """Counts of whole numbers from 0 on, added an array at a time."""

    def __init__(self) -> None:
        self._counts = np.zeros(_EXACT, dtype=np.int64)
        self.number, self.total = 0, 0
        self._least: int | None = None
        self._most = 0

    def add(self, values: np.ndarray) -> None:
        """Count the numbers of an array."""
        if not len(values):
            return
        values = np.asarray(values, dtype=np.int64)
        counts = np.bincount(_bins(values), minlength=len(self._counts))
        counts[: len(self._counts)] += self._counts
        self._counts = counts
        self.number += len(values)
        self.total += int(values.sum())
        least, self._most = int(values.min()), max(self._most, int(values.max()))
        self._least = least if self._least is None else min(self._least, least)

    def quantile(self, share: float) -> int:
        """The smallest number that so large a share of all does not exceed."""
        place = int(np.searchsorted(np.cumsum(self._counts), share * self.number, side="left"))
        return min(max(_value(place), self._least or 0), self._most)

    def described(self) -> dict[str, Any] | None:
        """Number, mean, ends and quantiles; None of nothing."""
        if not self.number:
            return None
        quantiles = {name: self.quantile(share) for name, share in QUANTILES.items()}
        return {"n": self.number, "mean": self.total / self.number, "min": self._least, **quantiles, "max": self._most}


def _bins(values: np.ndarray) -> np.ndarray:
    _, exponents = np.frexp(values.astype(np.float64))
    shift = np.maximum(exponents.astype(np.int64) - 10, 0)
    return np.where(shift > 0, _EXACT + (shift - 1) * _HALF + (values >> shift) - _HALF, values)


def _value(place: int) -> int:
    """The middle of a bin."""
    if place < _EXACT:
        return place
    shift, within = divmod(place - _EXACT, _HALF)
    return ((within + _HALF) << (shift + 1)) + (1 << shift)
