"""Pictures of what the lab found, as inline SVG.

Methods can be told apart without colour: every line ends in its name, and has dashes of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dragoman.lab.result import MethodResult, Point, WorldResult
from dragoman.report.svg import GRID, INK, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (
    *("#2f7fc1", "#c8641f", "#2e9361", "#b8508f", "#8a6fd1"),
    *("#a08215", "#c0504d", "#3a98a6", "#808088", "#6d8f2f"),
)
"""Each can be seen on a light and on a dark background."""
_DASHES = ("solid", (0, (4, 1.5)), (0, (1, 1.2)))
_LEAST_KL = 1e-6
"""Text KL below which a curve is drawn along the lower edge."""
_WIDTH, _HEIGHT = 5.6, 3.4
_LINE = 0.17
"""Inches from one name to the next."""
_FRAME = 0.7
"""Inches of a drawing above and below its axes."""


@dataclass(frozen=True, kw_only=True)
class LabChart:
    """A drawing and what it is called."""

    title: str
    svg: str


def learning_charts(result: WorldResult) -> list[LabChart]:
    """Text KL and non-canonical text by update; none if there is no method."""
    if not result.methods:
        return []
    height = _height(result)
    return [
        _chart(result, "text KL by update", height, lambda axes: _text_kl(axes, result)),
        _chart(result, "non-canonical text by update", height, lambda axes: _noncanonical(axes, result)),
    ]


def cosine_chart(result: WorldResult) -> list[LabChart]:
    """Cosines of expected gradients, a line a method; none if there is no method."""
    if not result.methods:
        return []
    height = 1.0 + 0.24 * len(result.methods)
    return [_chart(result, "cosine to the exact gradient", height, lambda axes: _cosines(axes, result))]


def _chart(result: WorldResult, what: str, height: float, draw: Callable[[Axes], None]) -> LabChart:
    title = f"{result.world.name}: {what}"
    return LabChart(title=title, svg=drawn(title, (_WIDTH, height), draw))


def _text_kl(axes: Axes, result: WorldResult) -> None:
    axes.set_yscale("log")
    for number, method in enumerate(result.methods):
        bands = [point.text_kl_ci or (point.text_kl, point.text_kl) for point in method.curve]
        axes.fill_between(
            [point.update for point in method.curve],
            [max(low, _LEAST_KL) for low, _ in bands],
            [max(high, _LEAST_KL) for _, high in bands],
            color=_look(number)["color"],
            alpha=0.15,
            linewidth=0,
        )
    axes.set_ylabel("text KL, nats a text", color=INK)
    _lines(axes, result, lambda point: max(point.text_kl, _LEAST_KL))


def _noncanonical(axes: Axes, result: WorldResult) -> None:
    axes.set_ylabel("% of text", color=INK)
    _lines(axes, result, lambda point: 100 * point.noncanonical)


def _lines(axes: Axes, result: WorldResult, value: Callable[[Point], float]) -> None:
    """A line a method, with its name behind the end."""
    for number, method in enumerate(result.methods):
        updates = [point.update for point in method.curve]
        values = [value(point) for point in method.curve]
        end: dict[str, Any] = {"marker": "o", "markersize": 3, "markevery": [-1], "clip_on": False}
        axes.plot(updates, values, linewidth=1.6, **end, **_look(number))
    axes.set_xlabel("update", color=INK)
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0)
    last = max(method.curve[-1].update for method in result.methods)
    axes.set_xlim(0, last)
    low, high = axes.transData.inverted().transform(axes.transAxes.transform([(0, 0), (0, 1)]))[:, 1]
    scale = axes.yaxis.get_transform().transform
    bottom, top = scale([low, high])
    ends = [float(value(method.curve[-1])) for method in result.methods]
    heights = [float((end - bottom) / (top - bottom)) for end in scale(ends)]
    arrow = {"arrowstyle": "-", "linewidth": 0.8, "relpos": (0, 0.5), "shrinkA": 2, "shrinkB": 0}
    for number, place in enumerate(spread(heights, _LINE / (_height(result) - _FRAME))):
        axes.annotate(
            result.methods[number].label,
            xy=(last, ends[number]),
            xytext=(1.12, place),
            textcoords="axes fraction",
            va="center",
            color=INK,
            fontsize=8.5,
            annotation_clip=False,
            arrowprops={**arrow, **_look(number)},
        )


def _height(result: WorldResult) -> float:
    """Inches that leave room for all names."""
    return max(_HEIGHT, _FRAME + _LINE * (len(result.methods) + 1))


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Where names stand that belong at `heights`: in the same order from bottom to top, at least `gap` apart,
    as near as can be, and not below 0 or, as far as there is room, above 1.

    >>> [round(place, 2) for place in spread([0.5, 0.52, 0.0], 0.1)]
    [0.46, 0.56, 0.0]
    >>> [round(place, 2) for place in spread([0.0, 0.05], 0.1)]
    [0.0, 0.1]
    """
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    # Less the gaps below it, every name wants to be where none before it is higher: least squares under that
    # order are means of neighbours, joined as long as one is below the one before.
    groups: list[tuple[float, int]] = []
    for rank, place in enumerate(order):
        mean, size = heights[place] - gap * rank, 1
        while groups and groups[-1][0] >= mean:
            before, more = groups.pop()
            mean, size = (before * more + mean * size) / (size + more), size + more
        groups.append((mean, size))
    highest = max(1 - gap * (len(heights) - 1), 0.0)
    wanted = [min(max(mean, 0.0), highest) for mean, size in groups for _ in range(size)]
    found = [0.0] * len(heights)
    for rank, place in enumerate(order):
        found[place] = wanted[rank] + gap * rank
    return found


def _cosines(axes: Axes, result: WorldResult) -> None:
    places = range(len(result.methods))
    kinds: Sequence[tuple[str, str, Callable[[MethodResult], float | None]]] = (
        ("to J_token", "o", lambda method: method.gradient.token.cosine),
        ("to J_text", "D", lambda method: method.gradient.text.cosine),
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
    axes.set_ylim(len(result.methods) - 0.5, -0.5)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_xlabel("cosine of the expected gradient to the exact one", color=INK)
    axes.legend(
        frameon=False, labelcolor=INK, fontsize=8.5, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0)
    )


def _look(number: int) -> dict[str, Any]:
    """Colour and dashes of a method, different for the first thirty."""
    return {"color": _COLOURS[number % len(_COLOURS)], "linestyle": _DASHES[number % len(_DASHES)]}
