"""The scaling page: one HTML file that needs nothing else; laws, what they foretell, correlations, and the points."""

from __future__ import annotations

from pathlib import Path

from sailctl.core.files import atomic_write
from sailctl.core.html import render_page
from sailctl.core.report.curves import SIZES
from sailctl.core.report.figures import short_count
from sailctl.core.report.scaling import Findings, tables
from sailctl.core.report.scaling_plots import UNIT, curve_svg, panels_of, scatter_svg

PAGE = "scaling.html"
_TEMPLATES = Path(__file__).parent / "templates"


def write_page(found: Findings, path: Path) -> Path:
    """Write the page, atomically, and return its path."""
    html = render(found)
    with atomic_write(path, "w") as file:
        file.write(html)
    return path


def render(found: Findings) -> str:
    """The page as text."""
    from markupsafe import Markup

    axes = [
        {
            "name": axis,
            "unit": UNIT[axis],
            "figures": [
                Markup(curve_svg(panel, axis, f"{axis}-{number}"))
                for number, panel in enumerate(panels_of(found.of(axis)))
            ],
            "checks": [
                {"series": fit.series.name, "check": check, "inside": check.inside}
                for fit in found.of(axis)
                for check in fit.checks
            ],
        }
        for axis in SIZES
        if found.of(axis)
    ]
    laws = [table for table in tables(found) if not table[0].startswith("correlation")]
    return render_page(
        _TEMPLATES / "scaling.html.j2",
        styles=("report.css", "scaling.css"),
        script="scaling.js",
        images="data:",
        filters={"count": short_count, "points": lambda value: f"{value:.1f}"},
        axes=axes,
        laws=laws,
        correlations=[table for table in tables(found) if table[0].startswith("correlation")],
        scatters=[Markup(scatter_svg(one, f"scatter-{number}")) for number, one in enumerate(found.pairings)],
        series=found.series,
        remarks=found.remarks,
    )
