"""Figures of the scaling report: score over log size with fitted lines and bands, and scatters of two suites.

As Figures 2 to 5 and 11 of the SAIL-VL paper (arXiv 2501.05952), with the intervals they lack. Every figure is drawn
once for the page, in its colours, and once as PNG.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sailctl.core.files import atomic_write
from sailctl.core.report.figures import LIGHT, VARIABLES, Palette, as_svg, short_count, style_of
from sailctl.core.report.scaling import Findings, Fit, Pairing, doubling_interval, interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT, BELOW = 7.6, 3.8, 0.55  # inches: a panel, its axes with the numbers and the label below them
LINE = 0.21  # inches a line of a legend takes
SCATTER = 4.6
PNG_DPI = 160
DODGE = 0.006  # of the axis, between series measured at the same sizes
STEPS = 80  # points a line is drawn through
MANY = 7  # sizes up to which each has a tick of its own
UNIT = {"samples": "samples", "tokens": "real tokens"}


def write_pictures(found: Findings, out: Path) -> dict[str, Path]:
    """Write scaling.png, scaling-tokens.png and correlation.png as far as there is something in them."""
    written = {}
    for name, axis in (("png", "samples"), ("png_tokens", "tokens")):
        if fits := found.of(axis):
            path = out / ("scaling.png" if axis == "samples" else f"scaling-{axis}.png")
            written[name] = _save(_curves(panels_of(fits), axis, LIGHT), path)
    if found.pairings:
        written["png_correlation"] = _save(_scatters(found.pairings, LIGHT), out / "correlation.png")
    return written


def panels_of(fits: Sequence[Fit]) -> list[list[Fit]]:
    """Fits by what shares a scale: the same suite of the same origin."""
    panels: dict[tuple[str, str], list[Fit]] = {}
    for fit in fits:
        panels.setdefault((fit.series.origin, fit.series.suite), []).append(fit)
    return list(panels.values())


def curve_svg(panel: Sequence[Fit], axis: str, name: str) -> str:
    """One panel as SVG for the page; `name` makes its ids its own."""
    return as_svg(_curves([panel], axis, VARIABLES), name, f"{_title(panel)}: score over {UNIT[axis]}")


def scatter_svg(pairing: Pairing, name: str) -> str:
    """One scatter as SVG for the page."""
    return as_svg(_scatters([pairing], VARIABLES), name, f"{pairing.second.name} against {pairing.first.name}")


def _save(figure: Figure, path: Path) -> Path:
    with atomic_write(path) as file:
        # no date and no version inside: the same findings, the same bytes
        figure.savefig(file, format="png", dpi=PNG_DPI, facecolor=LIGHT.card, metadata={"Software": None})
    return path


def _curves(panels: Sequence[Sequence[Fit]], axis: str, palette: Palette) -> Figure:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(style_of(palette)):
        columns = min(2, len(panels))
        rows = math.ceil(len(panels) / columns)
        lines = max(map(len, panels))
        legend = LINE * lines + 0.5  # inches above the axes: a line a series, and the title
        figure = Figure(figsize=(WIDTH * columns, (HEIGHT + legend) * rows))
        grid = figure.subplots(rows, columns, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place < len(panels):
                _curve(axes, panels[place], axis, palette, lines)
            else:
                axes.set_axis_off()
        height = (HEIGHT + legend) * rows
        figure.subplots_adjust(
            left=0.75 / (WIDTH * columns),
            right=1 - 0.2 / (WIDTH * columns),
            top=1 - legend / height,
            bottom=BELOW / height,
            wspace=0.16,
            hspace=(legend + BELOW) / (HEIGHT - BELOW),
        )
        return figure


def _curve(axes: Axes, panel: Sequence[Fit], axis: str, palette: Palette, lines: int) -> None:
    """Points with intervals, the log law with the interval of the line (dark) and of one score (light), the next."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    handles = []
    sizes = sorted({size for fit in panel for point in fit.series.points if (size := point.at(axis)) is not None})
    next_x = max(fit.law.next_x for fit in panel)
    axes.set_xscale("log")
    left, right = sizes[0] / _pad(sizes[0], next_x), next_x * _pad(sizes[0], next_x)
    low, high, ends = [], [], []
    for place, (fit, colour) in enumerate(zip(panel, _colours(panel, palette), strict=True)):
        aside = (right / left) ** (DODGE * (place - (len(panel) - 1) / 2))  # whiskers do not hide one another
        known = [(size, point) for point in fit.series.points if (size := point.at(axis)) is not None]
        handles.append(_line(axes, fit, known[0][0], known[-1][0], right, colour))
        for size, point in known:
            if point.ci95 is not None:
                axes.plot([size * aside] * 2, point.ci95, color=colour, linewidth=1.4, alpha=0.55, zorder=3)
                low.append(point.ci95[0])
                high.append(point.ci95[1])
            low.append(point.score)
            high.append(point.score)
        places = [size * aside for size, _ in known]
        axes.plot(places, [point.score for _, point in known], "o", color=colour, markersize=6.5,
                  markeredgecolor=palette.card, markeredgewidth=1.0, zorder=4)  # fmt: skip
        value, below, above = fit.law.next_score
        if math.isfinite(below):
            axes.plot(
                [fit.law.next_x * aside] * 2,
                [below, above],
                color=colour,
                linewidth=1.4,
                linestyle=(0, (2, 2)),
                zorder=3,
            )
        axes.plot([fit.law.next_x * aside], [value], "o", color=palette.card, markeredgecolor=colour, markersize=7,
                  markeredgewidth=1.6, zorder=4)  # fmt: skip
        low.append(value)
        high.append(value)
        ends += [below, above] if math.isfinite(below) else []
    room = max(max(high) - min(low), 1.0)
    # What is next is shown with its interval, but a wild one, of few points, does not flatten what was measured.
    bottom, top = max(min(*low, *ends), min(low) - room / 2), min(max(*high, *ends), max(high) + room / 2)
    axes.set_ylim(bottom - 0.07 * room, top + 0.07 * room)
    axes.set_xlim(left, right)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_locator(
        FixedLocator([*sizes, next_x]) if _apart(sizes, right / left) else LogLocator(subs=(1.0, 2.0, 5.0))
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axes.set_xlabel(f"{UNIT[axis]}, logarithmic")
    axes.set_ylabel("points")
    top = LINE * lines + 0.12  # inches: titles of panels side by side stand at one height, legends right below
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0, 1 + top / (HEIGHT - BELOW)), frameon=False,
        borderaxespad=0, borderpad=0, handlelength=1.6, labelspacing=0.3,
    )  # fmt: skip
    axes.set_title(_title(panel), loc="left", color=palette.ink, fontweight="bold", pad=72 * top + 9)


def _line(axes: Axes, fit: Fit, first: float, last: float, right: float, colour: str) -> Any:
    """Draw a fit: solid where there are points, dashed beyond; the saturating law dotted where it is preferred."""
    import numpy as np

    law = fit.law.log_law
    inside, beyond = np.geomspace(first, last, STEPS), np.geomspace(last, min(fit.law.next_x, right), STEPS)
    every = np.concatenate([inside, beyond])
    for bounds, strength in ((law.predict, 0.09), (law.mean, 0.16)):
        ends = [bounds(float(size))[1:] for size in every]
        if math.isfinite(ends[0][0]):
            axes.fill_between(every, *zip(*ends, strict=True), color=colour, alpha=strength, linewidth=0, zorder=1)
    kind = f"{fit.series.kind}:  " if fit.series.kind else ""  # the suite is the title
    said = f"{kind}{law.per_doubling:+.2f}{interval(doubling_interval(law))} a doubling"
    (handle,) = axes.plot(
        inside, [law.at(float(size)) for size in inside], color=colour, linewidth=2.0, label=said, zorder=2
    )
    axes.plot(
        beyond, [law.at(float(size)) for size in beyond], color=colour, linewidth=1.6, linestyle=(0, (4, 3)), zorder=2
    )
    if fit.law.preferred == "saturating" and fit.law.saturating is not None:
        curve = [fit.law.saturating.at(float(size)) for size in every]
        axes.plot(every, curve, color=colour, linewidth=1.6, linestyle=(0, (1, 1.6)), zorder=2)
        handle.set_label(f"{said}; saturates (dotted)")
    return handle


def _scatters(pairings: Sequence[Pairing], palette: Palette) -> Figure:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**style_of(palette), "axes.grid.axis": "both"}):
        columns = min(2, len(pairings))
        rows = math.ceil(len(pairings) / columns)
        figure = Figure(figsize=(WIDTH * columns, SCATTER * rows))
        grid = figure.subplots(rows, columns, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place < len(pairings):
                _scatter(axes, pairings[place], palette)
            else:
                axes.set_axis_off()
        width, height = WIDTH * columns, SCATTER * rows
        figure.subplots_adjust(
            left=0.8 / width,
            right=1 - 0.25 / width,
            top=1 - 0.55 / height,
            bottom=0.65 / height,
            wspace=0.2,
            hspace=0.34,
        )
        return figure


def _scatter(axes: Axes, one: Pairing, palette: Palette) -> None:
    """Pairs of scores, the line of least squares with its interval, ρ and R² above; sizes beside the points."""
    import numpy as np

    along = np.linspace(min(one.x), max(one.x), STEPS)
    ends = [one.line.mean(math.exp(value / 100))[1:] for value in along]
    if math.isfinite(ends[0][0]):
        axes.fill_between(along, *zip(*ends, strict=True), color=palette.accent, alpha=0.14, linewidth=0, zorder=1)
    line = [one.line.at(math.exp(value / 100)) for value in along]
    axes.plot(along, line, color=palette.accent, linewidth=2.0, zorder=2)
    axes.plot(one.x, one.y, "o", color=palette.accent, markersize=7, markeredgecolor=palette.card, zorder=3)
    rising = one.line.slope >= 0
    for size, x, y in zip(one.sizes, one.x, one.y, strict=True):
        axes.annotate(
            short_count(size), (x, y), (7, -4 if rising else 4), textcoords="offset points", color=palette.muted,
            fontsize=9.5, va="top" if rising else "bottom", zorder=4,
        )  # fmt: skip
    axes.margins(0.09)
    spread = max(max(one.y) - min(one.y), 0.5)
    axes.set_ylim(min(one.y) - 0.18 * spread, max(one.y) + 0.14 * spread)
    squared, _, _ = one.correlation.squared
    rho = f"ρ = {one.correlation.value:.3f}{interval((one.correlation.low, one.correlation.high), 3)}"
    axes.set_title(
        f"{rho},  R² = {squared:.3f},  n = {one.correlation.n}", loc="left", color=palette.ink, fontweight="bold"
    )
    axes.set_xlabel(f"{one.first.name}, points")
    axes.set_ylabel(f"{one.second.name}, points")


def _title(panel: Sequence[Fit]) -> str:
    return " · ".join(part for part in (panel[0].series.origin, panel[0].series.suite) if part)


def _colours(panel: Sequence[Fit], palette: Palette) -> list[str]:
    """One colour a series: the trunk is grey, what was trained on is warm, the rest goes through what is left."""
    rest = iter([palette.accent, palette.bad, palette.good, palette.ink] * len(panel))
    warm = iter([palette.warm, palette.bad, palette.good, palette.ink] * len(panel))
    chosen = []
    for fit in panel:
        if fit.series.kind == "trunk as it is":
            chosen.append(palette.muted)
        else:
            chosen.append(next(warm if fit.series.then is not None else rest))
    return chosen


def _pad(first: float, last: float) -> float:
    """A factor that leaves a twentieth of the axis free at either end."""
    return (last / first) ** 0.05


def _apart(sizes: Sequence[float], span: float) -> bool:
    """Whether each size can have a label of its own: few of them, none close to the next."""
    gaps = [later / size for size, later in itertools.pairwise(sizes)]
    return len(sizes) <= MANY and all(math.log(gap) > 0.07 * math.log(span) for gap in gaps)
