"""A plot of how something grows: a panel for each thing that is made larger, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def plot_growth(file: Path, growth: Mapping[str, Mapping[str, Mapping[int, float]]], unit: str) -> None:
    """`growth[what][side][size]`, in `unit`; an empty panel is left out."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = {what: sides for what, sides in growth.items() if any(sides.values())}
    figure, axes = plt.subplots(1, max(len(panels), 1), figsize=(5 * max(len(panels), 1), 3.6), squeeze=False)
    for axis, (what, sides) in zip(axes[0], panels.items(), strict=True):
        for side, values in sides.items():
            axis.plot(list(values), list(values.values()), marker="o", markersize=4, label=side)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xlabel(what)
        axis.set_ylabel(unit)
        axis.grid(True, which="both", linewidth=0.3)
        axis.legend()
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)
