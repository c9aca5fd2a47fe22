"""Curves as inline SVG whose colours are the page's CSS variables, so that they follow light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sailctl.core.report.read import StageRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Stand-ins for CSS variables: matplotlib wants colours it can parse. No two may be equal.
INK, MUTED, GRID, ACCENT, WARM = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line", ACCENT: "accent", WARM: "warm"}
LEFT, RIGHT = 0.75, 0.05  # margins of a figure, in inches: numbers and the label of an axis need as much at any width
# Pixels an inch of figure on the page, at most and at least: text keeps its size however many stages there are.
PX_PER_INCH, LEAST_PX_PER_INCH = 98, 54
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small, sharp, in the page's font
    "font.size": 11,
    "text.parse_math": False,  # a "$" in a name is a dollar
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
}


def loss_curves(stages: Sequence[StageRun]) -> str:
    """One panel a stage, loss over samples on a common scale: every step thin, its running mean thick."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    with matplotlib.rc_context(_STYLE):
        width = max(3.6, 1.75 * len(stages))
        figure = Figure(figsize=(width, 2.9))
        panels = figure.subplots(1, len(stages), sharey=True, squeeze=False)[0]
        top = max(_ceiling([float(row["loss"]) for row in stage.rows]) for stage in stages)
        for panel, stage in zip(panels, stages, strict=True):
            samples = [float(row["samples"]) for row in stage.rows]
            losses = [float(row["loss"]) for row in stage.rows]
            panel.plot(samples, losses, color=ACCENT, linewidth=0.8, alpha=0.35)
            panel.plot(samples, running_mean(losses), color=ACCENT, linewidth=2.0)
            panel.set_title(stage.name, fontsize=11, loc="left", color=INK)
            # None near the right edge: its label would run into the first one of the next panel.
            ticks = [
                tick for tick in MaxNLocator(2, integer=True).tick_values(0, samples[-1]) if tick < 0.85 * samples[-1]
            ]
            panel.xaxis.set_major_locator(FixedLocator(ticks))
            panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
            panel.margins(x=0.02)
            panel.set_ylim(0, top)
        panels[0].set_ylabel("loss per supervised token")
        figure.supxlabel("samples", fontsize=11, color=MUTED, y=0.01)
        figure.subplots_adjust(left=LEFT / width, right=1 - RIGHT / width, top=0.87, bottom=0.2, wspace=0.12)
        return _svg(figure, "loss", "Loss over samples, a panel for each stage")


def stage_scores(stages: Sequence[StageRun]) -> str:
    """Overall score with its 95% interval after each stage that was benchmarked, over the same untrained model."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    measured = [(stage, stage.results["overall"]) for stage in stages if stage.results is not None]
    with matplotlib.rc_context(_STYLE):
        width = max(3.6, 1.75 * len(measured))
        figure = Figure(figsize=(width, 2.9))
        axes = figure.subplots()
        places = list(range(len(measured)))
        scores = [float(overall["score"]) for _, overall in measured]
        below = [score - float(overall["ci95"][0]) for score, (_, overall) in zip(scores, measured, strict=True)]
        above = [float(overall["ci95"][1]) - score for score, (_, overall) in zip(scores, measured, strict=True)]
        axes.plot(places, scores, color=ACCENT, linewidth=1.4, alpha=0.5)
        axes.errorbar(places, scores, yerr=[below, above], fmt="o", color=ACCENT, markersize=7, elinewidth=2)
        for place, score, high in zip(places, scores, above, strict=True):
            axes.annotate(
                f"{score:.3f}", (place, score + high), (0, 5), textcoords="offset points", ha="center", fontsize=11
            )
        legend = []
        for tier, colour in (("blind", WARM), ("untrained", MUTED)):
            known = [(p, overall[tier]) for p, (_, overall) in enumerate(measured) if overall.get(tier) is not None]
            if known:
                axes.plot(*zip(*known, strict=True), "_", color=colour, markersize=26, markeredgewidth=2, clip_on=False)
                legend.append(Line2D([], [], color=colour, linewidth=2, label=tier))
        if legend:  # above the axes, where it meets no number and is seen on a narrow screen, too
            axes.legend(
                handles=legend, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0.2
            )
        axes.set_xticks(places, [stage.name for stage, _ in measured])
        axes.tick_params(axis="x", labelcolor=INK)
        axes.set_xlim(-0.5, len(measured) - 0.5)
        axes.set_ylim(0, min(1.08, max(score + high for score, high in zip(scores, above, strict=True)) * 1.2 + 0.05))
        axes.set_ylabel("overall score")
        figure.subplots_adjust(left=LEFT / width, right=1 - RIGHT / width, top=0.88, bottom=0.13)
        return _svg(figure, "scores", "Overall score after each stage")


def running_mean(values: Sequence[float]) -> list[float]:
    """Centred mean over about a twentieth of the values, narrower at the ends."""
    half = max(1, len(values) // 40)
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def short_count(value: float) -> str:
    """12,345 as 12.3k; 4,000,000 as 4M."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def _ceiling(losses: Sequence[float]) -> float:
    """A little above the running mean's highest point: one early spike does not flatten every other curve."""
    return 1.1 * max(running_mean(losses)) or 1.0


def _svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an SVG element: no prolog, no metadata, ids of its own, CSS variables for colours."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{name}-", text)
    width = figure.get_figwidth()
    limits = f"max-width: {width * PX_PER_INCH:.0f}px; min-width: {width * LEAST_PX_PER_INCH:.0f}px"
    head = rf'<svg viewBox="\1" role="img" aria-label="{label}" style="{limits}">'
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', head, text, count=1)
    text = re.sub(r"font: ([0-9.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*;?", "", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text.replace("xlink:href", "href")
