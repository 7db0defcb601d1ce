"""Drawings as inline SVG: one look for all, colours as variables of the page, the same bytes every time.

Colours leave here as CSS variables, so that one picture serves light and dark pages; text stays text.
Identifiers are salted with a constant and nothing is dated.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Colours that occur nowhere else in a drawing, each standing for a variable of the page's style sheet.
INK, GRID = "#010203", "#010204"
_VARIABLES = {INK: "--muted", GRID: "--line"}


def drawn(
    title: str,
    size: tuple[float, float],
    draw: Callable[[Axes], None],
    variables: Mapping[str, str] | None = None,
) -> str:
    """An `<svg>` of `size` inches that `draw` fills: quiet axes, with a horizontal grid and no box.

    `title` is its name for those who do not see it, and makes its identifiers its own, so it has to be the
    only one of the page. `variables` are further colours and what they stand for.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    options: dict[str, Any] = {"svg.hashsalt": "dragoman", "svg.fonttype": "none", "font.size": 9}
    with style.context(["default", options]):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(GRID)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        draw(axes)
        # Behind `draw`, which may have chosen a scale with ticks of its own.
        axes.tick_params(which="both", colors=INK, length=0)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), title, {**_VARIABLES, **(variables or {})})


def _inline(svg: str, title: str, variables: Mapping[str, str]) -> str:
    """The drawing as an element of the page: no prologue, own identifiers, colours as variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    prefix = re.sub(r"[^a-z0-9]+", "-", title.lower())
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    label = escape(title, {'"': "&quot;"})
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>',
        lambda found: f'<svg viewBox="{found[1]}" role="img" aria-label="{label}">',
        svg,
        count=1,
    )
    for colour, variable in variables.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
