"""The scaling report: laws and correlations of curves, as `scaling.json`, pictures and one self-contained page.

Fits are `core/scaling`'s; this room groups points, says what came out, and draws it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sailctl.core.errors import DataError, UsageError
from sailctl.core.files import write_json
from sailctl.core.report.curves import SIZES, Series, read_curves
from sailctl.core.report.figures import short_count
from sailctl.core.scaling.correlation import Correlation, pearson
from sailctl.core.scaling.law import HeldOut, LogLaw, SaturatingLaw, Scaling, fit_log_law, hold_out, scaling

RESULT = "scaling.json"
FEWEST_PAIRS = 3

Table = tuple[str, list[str], list[list[str]]]


@dataclass(frozen=True, slots=True)
class Fit:
    """A series' laws over one axis, and every point foretold from those before it."""

    series: Series
    axis: str  # samples or tokens
    law: Scaling
    checks: Sequence[HeldOut]


@dataclass(frozen=True, slots=True)
class Pairing:
    """Two series at equal sizes: `x` and `y` their scores in points, `sizes` in `axis`, and how they correlate."""

    first: Series
    second: Series
    axis: str
    sizes: Sequence[float]
    x: Sequence[float]
    y: Sequence[float]
    correlation: Correlation
    line: LogLaw


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that is shown: series, fits of each axis, pairings, and remarks on what could not be fitted."""

    series: Sequence[Series]
    fits: Sequence[Fit]
    pairings: Sequence[Pairing]
    remarks: Sequence[str]

    def of(self, axis: str) -> list[Fit]:
        """The fits over one axis."""
        return [fit for fit in self.fits if fit.axis == axis]


def find(files: Sequence[Path]) -> Findings:
    """Read curves, fit every series that has two sizes or more, correlate those that share three."""
    series, remarks = read_curves(files)
    fits = []
    for one in series:
        for axis in SIZES:
            sizes, scores = _on(one, axis)
            if not sizes:
                continue
            try:
                fits.append(Fit(one, axis, scaling(sizes, scores), hold_out(sizes, scores)))
            except DataError as error:
                if axis == SIZES[0] or not _on(one, SIZES[0])[0]:
                    remarks.append(f"{one.name}: no law: {error}")
        if any(fit.series is one and fit.law.log_law.n == 2 for fit in fits):
            remarks.append(f"{one.name}: two points make a line without an interval; a third one gives it")
        if len(equal := {point.score for point in one.points}) == 1 and len(one.points) > 1:
            remarks.append(f"{one.name}: all scores are {equal.pop():.1f}: intervals without width say nothing then")
    pairings = []
    for first, second in _pairs(series):
        try:
            pairings.append(_pair(first, second))
        except DataError as error:
            remarks.append(f"{first.name} and {second.name}: no correlation: {error}")
    return Findings(series, fits, pairings, remarks)


def as_json(found: Findings) -> dict[str, Any]:
    """What scaling.json holds: scores in points, intervals at 95 %, null where one is infinite."""
    return {
        "series": [
            {
                "name": one.name,
                "origin": one.origin,
                "suite": one.suite,
                "kind": one.kind,
                "then": one.then,
                "points": [asdict(point) for point in one.points],
                "laws": {fit.axis: _law(fit) for fit in found.fits if fit.series is one},
            }
            for one in found.series
        ],
        "correlations": [_pairing(one) for one in found.pairings],
        "remarks": list(found.remarks),
    }


def folder_for(files: Sequence[Path], out: Path | None) -> Path:
    """Where results go: `--out`, else `scaling` beside the one curve. Raises UsageError where neither says."""
    if not files:
        raise UsageError(
            "no curve: give --run RUN, --curve FILE, or both; make one with: sailctl anneal --run RUN --every N"
        )
    if out is not None:
        return out
    if len(files) > 1:
        raise UsageError("--out DIR is missing: several curves have no folder in common")
    return (files[0] if files[0].is_dir() else files[0].parent) / "scaling"


def write_scaling(found: Findings, out: Path) -> dict[str, Path]:
    """Write scaling.json, the pictures and the page into a folder, each atomically; their paths by kind."""
    from sailctl.core.report.scaling_page import PAGE, write_page
    from sailctl.core.report.scaling_plots import write_pictures

    write_json(out / RESULT, as_json(found))
    return {"json": out / RESULT, **write_pictures(found, out), "html": write_page(found, out / PAGE)}


def tables(found: Findings) -> list[Table]:
    """For people: the laws of each axis, and the correlations."""
    shown: list[Table] = []
    for axis in SIZES:
        if rows := [_law_cells(fit) for fit in found.of(axis)]:
            columns = [
                "series",
                "n",
                "points a doubling",
                "R²",
                "next doubling at",
                "foretold",
                "held out",
                "law (AICc)",
            ]
            shown.append((f"score against {'real tokens' if axis == 'tokens' else axis}", columns, rows))
    if found.pairings:
        columns = ["first", "second", "pairs", "Pearson ρ", "R²", "p"]
        shown.append(("correlation of scores at equal sizes", columns, [_pairing_cells(one) for one in found.pairings]))
    return shown


def _on(series: Series, axis: str) -> tuple[list[float], list[float]]:
    known = [(size, point.score) for point in series.points if (size := point.at(axis)) is not None]
    return [size for size, _ in known], [score for _, score in known]


def _pairs(series: Sequence[Series]) -> Iterable[tuple[Series, Series]]:
    """Which series are compared: before and after SFT where there is such a thing, else suites of one kind."""
    for origin in dict.fromkeys(one.origin for one in series):
        own = [one for one in series if one.origin == origin]
        if after := [one for one in own if one.then is not None]:
            before = [one for one in own if one.then is None and one.kind != "trunk as it is"]
            yield from ((first, second) for second in after for first in before)
        else:
            for place, first in enumerate(own):
                yield from ((first, one) for one in own[place + 1 :] if one.suite != first.suite)


def _pair(first: Series, second: Series) -> Pairing:
    """Scores of two series at the sizes they share (means where a size was measured more than once)."""
    axis = next((axis for axis in SIZES if _on(first, axis)[0] and _on(second, axis)[0]), SIZES[0])
    left, right = (_means(*_on(one, axis)) for one in (first, second))
    sizes = sorted(left.keys() & right.keys())
    if len(sizes) < FEWEST_PAIRS:
        raise DataError(f"they share {len(sizes)} sizes in {axis}; {FEWEST_PAIRS} or more are needed")
    x, y = [left[size] for size in sizes], [right[size] for size in sizes]
    correlation = pearson(x, y)  # refuses a side that is constant
    line = fit_log_law([math.exp(value / 100) for value in x], y)  # straight in x, for ln undoes exp
    return Pairing(first, second, axis, sizes, x, y, correlation, line)


def _means(sizes: Sequence[float], scores: Sequence[float]) -> dict[float, float]:
    groups: dict[float, list[float]] = {}
    for size, score in zip(sizes, scores, strict=True):
        groups.setdefault(size, []).append(score)
    return {size: sum(group) / len(group) for size, group in groups.items()}


# --- what is said of a fit -------------------------------------------------------------------------------------------


def _law(fit: Fit) -> dict[str, Any]:
    law = fit.law.log_law
    value, low, high = fit.law.next_score
    return {
        "n": law.n,
        "intercept": law.intercept,
        "intercept_ci95": _finite(law.intercept_ci),
        "slope": law.slope,
        "slope_ci95": _finite(law.slope_ci),
        "points_a_doubling": law.per_doubling,
        "points_a_doubling_ci95": _finite(doubling_interval(law)),
        "residual_sd": _one(law.residual_sd),
        "r_squared": law.r_squared,
        "aicc": _one(law.aicc),
        "saturating": None if fit.law.saturating is None else _saturating(fit.law.saturating),
        "preferred": fit.law.preferred,
        "next": {fit.axis: fit.law.next_x, "expected": value, "interval": _finite((low, high))},
        "held_out": [{**asdict(check), "inside": check.inside} for check in fit.checks],
    }


def _saturating(law: SaturatingLaw) -> dict[str, float | None]:
    keys = ("ceiling", "drop", "alpha", "smallest", "residual_sd", "aicc")
    return {key: _one(getattr(law, key)) for key in keys}


def _pairing(one: Pairing) -> dict[str, Any]:
    squared, low, high = one.correlation.squared
    return {
        "first": one.first.name,
        "second": one.second.name,
        "n": one.correlation.n,
        "rho": one.correlation.value,
        "rho_ci95": [one.correlation.low, one.correlation.high],
        "r_squared": squared,
        "r_squared_ci95": [low, high],
        "p_value": one.correlation.p_value,
        "pairs": [
            {one.axis: size, "first": x, "second": y} for size, x, y in zip(one.sizes, one.x, one.y, strict=True)
        ],
    }


def doubling_interval(law: LogLaw) -> tuple[float, float]:
    """The 95 % interval of what twice as much brings, in points."""
    low, high = law.slope_ci
    return low * math.log(2), high * math.log(2)


def inside_of(checks: Sequence[HeldOut]) -> str:
    """How many points fell into the interval foretold from those before: "3 of 4 inside"."""
    return f"{sum(check.inside for check in checks)} of {len(checks)} inside" if checks else "–"


def interval(bounds: Sequence[float], digits: int = 2) -> str:
    """ "(1.20 to 3.40)", empty where it is infinite."""
    return f" ({bounds[0]:.{digits}f} to {bounds[1]:.{digits}f})" if all(map(math.isfinite, bounds)) else ""


def _law_cells(fit: Fit) -> list[str]:
    law, (value, low, high) = fit.law.log_law, fit.law.next_score
    exact = law.n < 3 or not law.residual_sd > 1e-9  # a line through all points knows nothing of its own error
    doubling = f"{law.per_doubling:+.2f}" + ("" if exact else interval(doubling_interval(law)))
    foretold = f"{value:.1f}" + ("" if exact else interval((low, high), 1))
    squared = "–" if exact else f"{law.r_squared:.3f}"
    preferred = {"either": "either", "log": "logarithmic", "saturating": "saturating"}[fit.law.preferred]
    preferred += "; growth not shown" if law.slope_ci[0] <= 0 <= law.slope_ci[1] and law.n > 2 else ""
    numbers = [str(law.n), doubling, squared, short_count(fit.law.next_x), foretold]
    return [fit.series.name, *numbers, inside_of(fit.checks), preferred]


def _pairing_cells(one: Pairing) -> list[str]:
    squared, low, high = one.correlation.squared
    rho = f"{one.correlation.value:.3f}" + interval((one.correlation.low, one.correlation.high), 3)
    p_value = "< 0.001" if one.correlation.p_value < 0.001 else f"{one.correlation.p_value:.3f}"
    return [
        one.first.name,
        one.second.name,
        str(one.correlation.n),
        rho,
        f"{squared:.3f}" + interval((low, high), 3),
        p_value,
    ]


def _finite(bounds: Sequence[float]) -> list[float] | None:
    return list(bounds) if all(map(math.isfinite, bounds)) else None


def _one(value: float) -> float | None:
    return value if math.isfinite(value) else None


def describe(found: Findings, paths: Mapping[str, Path]) -> dict[str, Any]:
    """The findings and where they were written, for `--json`."""
    return {**as_json(found), "files": {kind: str(path) for kind, path in paths.items()}}
