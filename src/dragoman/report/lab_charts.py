"""Pictures of what the lab found, as inline SVG.

Ink and grid leave here as CSS variables; the colours of methods can be told from either background. Text
stays text, and the same figures give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dragoman.lab.result import MethodResult, WorldResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _GRID = "#010203", "#010204"
_VARIABLES = {_INK: "--muted", _GRID: "--line"}
_COLOURS = (
    *("#2f7fc1", "#c8641f", "#2e9361", "#b8508f", "#8a6fd1"),
    *("#a08215", "#c0504d", "#3a98a6", "#808088", "#6d8f2f"),
)
_DASHES = ("solid", (0, (4, 1.5)), (0, (1, 1.2)))
_LEAST_KL = 1e-6
"""Text KL below which a curve is drawn along the lower edge."""


@dataclass(frozen=True, kw_only=True)
class LabChart:
    """A drawing and what it is called."""

    title: str
    svg: str


def lab_charts(result: WorldResult) -> list[LabChart]:
    """The pictures of one world."""
    if not result.methods:
        return []
    size = len(result.methods)
    name = result.world.name
    return [
        _drawn(f"{name}: text KL by update", (7.6, 3.6), lambda axes: _curves(axes, result)),
        _drawn(f"{name}: non-canonical text by update", (7.6, 3.0), lambda axes: _odd(axes, result)),
        _drawn(f"{name}: cosine", (7.6, 0.9 + 0.24 * size), lambda axes: _cosines(axes, result)),
    ]


def _curves(axes: Axes, result: WorldResult) -> None:
    for number, method in enumerate(result.methods):
        updates = [point.update for point in method.curve]
        values = [max(point.text_kl, _LEAST_KL) for point in method.curve]
        bands = [point.text_kl_ci or (point.text_kl, point.text_kl) for point in method.curve]
        axes.plot(updates, values, **_look(number), linewidth=1.6, label=method.label)
        axes.fill_between(
            updates,
            [max(low, _LEAST_KL) for low, _ in bands],
            [max(high, _LEAST_KL) for _, high in bands],
            color=_look(number)["color"],
            alpha=0.15,
            linewidth=0,
        )
    axes.set_yscale("log")
    axes.set_ylabel("text KL, nats", color=_INK)
    axes.set_xlabel("update", color=_INK)
    _legend(axes, outside=True)


def _odd(axes: Axes, result: WorldResult) -> None:
    for number, method in enumerate(result.methods):
        axes.plot(
            [point.update for point in method.curve],
            [100 * point.noncanonical for point in method.curve],
            **_look(number),
            linewidth=1.6,
            label=method.label,
        )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("% of text", color=_INK)
    axes.set_xlabel("update", color=_INK)
    _legend(axes, outside=True)


def _cosines(axes: Axes, result: WorldResult) -> None:
    places = range(len(result.methods))
    kinds: Sequence[tuple[str, str, Callable[[MethodResult], float | None]]] = (
        ("J_token", "o", lambda method: method.gradient.token.cosine),
        ("J_text", "D", lambda method: method.gradient.text.cosine),
    )
    for colour, (label, marker, value) in zip(_COLOURS, kinds, strict=False):
        known = [(value(method), place) for place, method in zip(places, result.methods, strict=True)]
        points = [(x, y) for x, y in known if x is not None]
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            marker=marker,
            linestyle="none",
            color=colour,
            markersize=5,
            fillstyle="full" if marker == "o" else "none",
            label=label,
        )
    axes.set_yticks(list(places), [method.label for method in result.methods])
    axes.invert_yaxis()
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    axes.set_xlabel("cosine of the expected gradient to the exact one", color=_INK)
    _legend(axes, outside=True)


def _look(number: int) -> dict[str, Any]:
    """Colour and dashes of a method, different for the first thirty."""
    dashes = _DASHES[number // len(_COLOURS) % len(_DASHES)]
    return {"color": _COLOURS[number % len(_COLOURS)], "linestyle": dashes}


def _legend(axes: Axes, *, outside: bool) -> None:
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)} if outside else {}
    axes.legend(frameon=False, labelcolor=_INK, fontsize=8, **place)


def _drawn(title: str, size: tuple[float, float], draw: Callable[[Axes], None]) -> LabChart:
    """Draw on quiet axes: a grid, no box."""
    from matplotlib import style
    from matplotlib.figure import Figure

    options: dict[str, Any] = {"svg.hashsalt": "dragoman", "svg.fonttype": "none", "font.size": 9}
    with style.context(["default", options]):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(_GRID)
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        draw(axes)
        axes.tick_params(which="both", colors=_INK, length=0)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return LabChart(title=title, svg=_inline(buffer.getvalue(), title))


def _inline(svg: str, title: str) -> str:
    """The drawing as an element of the page: no prologue, own identifiers, ink as variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    prefix = re.sub(r"[^a-z0-9]+", "-", title.lower())
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    head = rf'<svg viewBox="\1" role="img" aria-label="{title}">'
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', head, svg, count=1)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
