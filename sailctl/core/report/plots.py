"""Curves as inline SVG whose colours are the page's CSS variables, so that they follow light and dark."""

from __future__ import annotations

from collections.abc import Sequence

from sailctl.core.report.figures import LEFT, RIGHT, VARIABLES, as_svg, short_count, style_of
from sailctl.core.report.read import StageRun

INK, MUTED, ACCENT, WARM = VARIABLES.ink, VARIABLES.muted, VARIABLES.accent, VARIABLES.warm


def loss_curves(stages: Sequence[StageRun]) -> str:
    """One panel a stage, loss over samples on a common scale: every step thin, its running mean thick."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

    with matplotlib.rc_context(style_of(VARIABLES)):
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
        return as_svg(figure, "loss", "Loss over samples, a panel for each stage")


def stage_scores(stages: Sequence[StageRun]) -> str:
    """Overall score with its 95% interval after each stage that was benchmarked, over the same untrained model."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    measured = [(stage, stage.results["overall"]) for stage in stages if stage.results is not None]
    with matplotlib.rc_context(style_of(VARIABLES)):
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
        return as_svg(figure, "scores", "Overall score after each stage")


def running_mean(values: Sequence[float]) -> list[float]:
    """Centred mean over about a twentieth of the values, narrower at the ends."""
    half = max(1, len(values) // 40)
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _ceiling(losses: Sequence[float]) -> float:
    """A little above the running mean's highest point: one early spike does not flatten every other curve."""
    return 1.1 * max(running_mean(losses)) or 1.0
