"""What all figures made here share: colours, one style, and the way into a page as SVG or into a file as PNG.

In a page colours are its CSS variables, so that figures follow light and dark; a PNG is for paper and slides, light.
"""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEFT, RIGHT = 0.75, 0.05  # margins of a figure, in inches: numbers and the label of an axis need as much at any width
# Pixels an inch of figure on the page, at most and at least: text keeps its size however many stages there are.
PX_PER_INCH, LEAST_PX_PER_INCH = 98, 54


class Palette(NamedTuple):
    """Colours by the names of the page's CSS variables."""

    ink: str
    muted: str
    line: str
    accent: str
    warm: str
    good: str
    bad: str
    card: str


# Stand-ins for CSS variables: matplotlib wants colours it can parse. No two may be equal.
VARIABLES = Palette(*(f"#0{number}0{number}0{number}" for number in range(1, 9)))
LIGHT = Palette("#17202a", "#5d6b78", "#e2e5e4", "#0f6f6a", "#b4601a", "#12724f", "#a8322a", "#ffffff")


def style_of(palette: Palette) -> Any:
    """matplotlib's settings for a figure in these colours."""
    return {
        "svg.fonttype": "none",  # text stays text: small, sharp, in the page's font
        "font.size": 11,
        "text.parse_math": False,  # a "$" in a name is a dollar
        "text.color": palette.ink,
        "axes.edgecolor": palette.line,
        "axes.labelcolor": palette.muted,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": palette.line,
        "grid.linewidth": 0.8,
        "xtick.color": palette.muted,
        "ytick.color": palette.muted,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "lines.solid_capstyle": "round",
    }


def short_count(value: float) -> str:
    """12,345 as 12.3k; 4,000,000 as 4M."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"


def as_svg(figure: Figure, name: str, label: str) -> str:
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
    said = html.escape(label)  # names of suites come from files

    def head(match: re.Match[str]) -> str:
        return f'<svg viewBox="{match[1]}" role="img" aria-label="{said}" style="{limits}">'

    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', head, text, count=1)
    text = re.sub(r"font: ([0-9.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*;?", "", text)
    for variable, colour in VARIABLES._asdict().items():
        text = text.replace(colour, f"var(--{variable})")
    return text.replace("xlink:href", "href")
