"""Learning curves as inline SVG, one small chart a metric. The same metrics give the same bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dragoman.report.svg import INK, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MetricLine = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One chart: its unit, and the name of its metric in the training and in the evaluation lines.

    A `share` is drawn in per cent; what is `noisy` gets a running mean.
    """

    title: str
    unit: str
    train: str | None = None
    held_out: str | None = None
    share: bool = False
    noisy: bool = True


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawn panel; `smoothed_over` is the window of its running mean, 1 if there is none."""

    title: str
    svg: str
    smoothed_over: int


PANELS = (
    Panel(title="Held-out KL per byte", unit="nats/byte", held_out="kl_per_byte"),
    Panel(title="Training KL per byte", unit="nats/byte", train="kl_per_byte"),
    Panel(
        title="Teacher's bits per byte",
        unit="bits/byte",
        train="teacher_bits_per_byte",
        held_out="teacher_bits_per_byte",
    ),
    Panel(title="Coverage", unit="% of tokens", train="coverage", held_out="coverage", share=True),
    Panel(
        title="Non-canonical tokens",
        unit="% of tokens",
        train="noncanonical_rate",
        held_out="noncanonical_rate",
        share=True,
    ),
    Panel(title="Stop rate", unit="% of rollouts", train="stop_rate", held_out="stop_rate", share=True),
    Panel(title="Response length", unit="tokens", train="length_tokens", held_out="length_tokens"),
    Panel(title="Student entropy", unit="nats/token", train="entropy", held_out="entropy"),
    Panel(title="Clamped credits", unit="% of tokens", train="clamp_rate", share=True),
    Panel(title="Clipped ratios", unit="% of tokens", train="clip_rate", share=True),
    Panel(title="Repetition", unit="share", train="repetition", held_out="repetition"),
    Panel(title="Loss", unit="loss", train="loss"),
    Panel(title="Gradient norm", unit="norm", train="grad_norm"),
    Panel(title="Learning rate", unit="rate", train="lr", noisy=False),
)

_MAX_POINTS = 400
_MIN_POINTS_TO_SMOOTH = 24
_TRAIN, _HELD_OUT = "#010205", "#010206"
_VARIABLES = {_TRAIN: "--train", _HELD_OUT: "--held-out"}


def draw_curves(train: Sequence[MetricLine], held_out: Sequence[MetricLine]) -> list[Chart]:
    """A chart for every panel that has a value; panels without one are left out."""
    steps = [line["step"] for line in [*train, *held_out]]
    if not steps:
        return []
    first, last = min(steps), max(steps)
    margin = max(0.02 * (last - first), 0.5)
    charts = []
    for panel in PANELS:
        chart = _draw_panel(panel, train, held_out, (first - margin, last + margin))
        if chart is not None:
            charts.append(chart)
    return charts


def _draw_panel(
    panel: Panel, train: Sequence[MetricLine], held_out: Sequence[MetricLine], steps: tuple[float, float]
) -> Chart | None:
    """Draw one panel, or None if nothing was recorded for it."""
    scale = 100.0 if panel.share else 1.0
    curve = _points(train, panel.train, scale)
    tests = _points(held_out, panel.held_out, scale)
    if not len(curve) and not len(tests):
        return None
    smoothed = panel.noisy and len(curve) >= _MIN_POINTS_TO_SMOOTH
    window = max(5, len(curve) // 12) if smoothed else 1

    def draw(axes: Axes) -> None:
        _name_axes(axes, panel.unit)
        axes.set_xlim(*steps)
        if len(curve):
            _draw_train(axes, _thin(curve), _thin(_smooth(curve, window)) if window > 1 else None)
        if len(tests):
            _draw_held_out(axes, tests, _band(held_out, panel.held_out, scale))
        if panel.share:
            _limit_to_shares(axes)

    return Chart(
        title=panel.title,
        svg=drawn(f"{panel.title}, {panel.unit}, by step", (3.6, 2.2), draw, _VARIABLES),
        smoothed_over=window,
    )


def _points(lines: Iterable[MetricLine], name: str | None, scale: float) -> np.ndarray:
    """Float64 [n, 2] of (step, value); a null or non-finite value leaves a gap."""
    if name is None:
        return np.empty((0, 2))
    found = [(line["step"], scale * line[name]) for line in lines if line.get(name) is not None]
    return np.array([point for point in found if math.isfinite(point[1])], dtype=float).reshape(-1, 2)


def _band(lines: Iterable[MetricLine], name: str | None, scale: float) -> np.ndarray:
    """Float64 [n, 3] of (step, low, high) where the evaluation recorded an interval."""
    low, high = f"{name}_low", f"{name}_high"
    found = [
        (line["step"], scale * line[low], scale * line[high])
        for line in lines
        if line.get(low) is not None and line.get(high) is not None
    ]
    return np.array(found, dtype=float).reshape(-1, 3)


def _smooth(points: np.ndarray, window: int) -> np.ndarray:
    """Centred mean over `window` steps, shorter at the ends."""
    kernel = np.ones(window)
    total = np.convolve(points[:, 1], kernel, mode="same")
    count = np.convolve(np.ones(len(points)), kernel, mode="same")
    return np.column_stack([points[:, 0], total / count])


def _thin(points: np.ndarray) -> np.ndarray:
    """At most `_MAX_POINTS` points, each the mean of its neighbours, so that long runs stay small pages."""
    if len(points) <= _MAX_POINTS:
        return points
    return np.array([part.mean(axis=0) for part in np.array_split(points, _MAX_POINTS)])


def _name_axes(axes: Axes, unit: str) -> None:
    """Few ticks and named units."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.set_xlabel("step", color=INK)
    axes.set_ylabel(unit, color=INK)


def _limit_to_shares(axes: Axes) -> None:
    """No axis runs past 0 or 100 %, and none blows up a difference below one point."""
    low, high = axes.get_ylim()
    if high - low < 1.0:
        low, high = (low + high) / 2 - 0.5, (low + high) / 2 + 0.5
    margin = 0.03 * (high - low)
    axes.set_ylim(max(low, -margin), min(high, 100.0 + margin))


def _draw_train(axes: Axes, points: np.ndarray, smooth: np.ndarray | None) -> None:
    """The training curve: thin for single steps, bold for the running mean."""
    marker = "o" if len(points) == 1 else None
    width, alpha = (1.6, 1.0) if smooth is None else (1.0, 0.4)
    axes.plot(*points.T, color=_TRAIN, marker=marker, markersize=4, linewidth=width, alpha=alpha)
    if smooth is not None:
        axes.plot(*smooth.T, color=_TRAIN, linewidth=1.8)


def _draw_held_out(axes: Axes, points: np.ndarray, band: np.ndarray) -> None:
    """The held-out curve with its interval: a band, and a bar at each evaluation."""
    if len(band):
        axes.fill_between(band[:, 0], band[:, 1], band[:, 2], color=_HELD_OUT, alpha=0.15, linewidth=0)
        axes.vlines(band[:, 0], band[:, 1], band[:, 2], color=_HELD_OUT, linewidth=1.2, alpha=0.6)
    axes.plot(*points.T, color=_HELD_OUT, linewidth=1.6, marker="o", markersize=3.5)
