"""The results as Markdown tables and a plot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from outcome import STAGES

Result = Mapping[str, Any]

COLOURS = {
    "rollout": "#3b6fb6",
    "reference": "#7d5ba6",
    "teacher": "#c98a1b",
    "align": "#8b9099",
    "update": "#1b7a5a",
}
DISTANCES = {"kl_per_byte": "relative", "forward_kl_per_byte": "forward_relative"}
NAMES = {"kl_per_byte": "reverse KL", "forward_kl_per_byte": "forward KL"}


def tables(result: Result) -> str:
    """All tables, as one Markdown text."""
    settings, environment = result["settings"], result["environment"]
    lines = [
        "# Methods on the embedded pair: results",
        "",
        "Written by `make bench-methods`; what the figures are stands in [the benchmarks](../../README.md).",
        "",
        f"{settings['teacher']} teaches {settings['student']}: {settings['steps']} steps of "
        f"{settings['prompts_per_step']} prompts, {settings['max_new_tokens']} new tokens, AdamW at "
        f"{settings['lr']:g}, seed {settings['seed']}, {settings['heldout_prompts']} held-out prompts. "
        f"{environment['machine']}, {environment['cpus']} cores, threads: {settings['threads']}; dragoman "
        f"{environment['packages']['dragoman']}, torch {environment['packages']['torch']}.",
        "",
    ]
    if result["methods"]:
        lines += [*_distances(result["methods"]), "", *_costs(result["methods"]), ""]
    for title, found in (("Not run", result["left_out"]), ("Failed", result["failed"])):
        if found:
            lines += [f"## {title}", "", *(f"* `{name}`: {reason}" for name, reason in found.items()), ""]
    return "\n".join(lines).rstrip() + "\n"


def _distances(methods: Mapping[str, Any]) -> list[str]:
    before = next(iter(methods.values()))["before"]
    reverse, forward = (_with_interval(before, name) for name in DISTANCES)
    rows = [["*before training*", "", reverse, "", forward, "", percent(before["noncanonical_rate"]), "", ""]]
    for name, found in methods.items():
        cells = [f"`{name}`", found["learns_from"]]
        for figure, change in DISTANCES.items():
            cells += [_with_interval(found["after"], figure), _change(found["change"], change)]
        after = found["after"]
        residual = found["row_residual"]
        cells += [percent(after["noncanonical_rate"]), percent(found["signal"])]
        rows.append([*cells, "" if residual is None else percent(residual)])
    head = ["method", "learns from", "reverse KL", "change, %", "forward KL", "change, %"]
    return [
        "## Held-out distances",
        "",
        "Nats a byte, with 95 % intervals over prompts; changes are paired by prompt. *Non-canonical*: of "
        "the student's held-out tokens. *Signal*: student tokens trained on. *Residual*: teacher mass "
        "outside a row's candidates, for methods that have such rows.",
        "",
        *_markdown([*head, "non-canonical, %", "signal, %", "residual, %"], rows),
    ]


def _with_interval(figures: Mapping[str, Any], name: str) -> str:
    low, high = figures[f"{name}_ci"]
    return f"{figures[name]:.3f} ({low:.3f} to {high:.3f})"


def _change(change: Mapping[str, Any], name: str) -> str:
    low, high = change[f"{name}_ci"]
    return f"{100 * change[name]:+.0f} ({100 * low:+.0f} to {100 * high:+.0f})"


def percent(share: float) -> str:
    """A share in percent that is 0 or 100 only if it is so exactly."""
    if share in (0, 1):
        return "0" if share == 0 else "100"
    return f"{min(max(100 * share, 0.01), 99.99):.2f}"


def _costs(methods: Mapping[str, Any]) -> list[str]:
    stages = [stage for stage in STAGES if any(stage in found["seconds"] for found in methods.values())]
    rows = []
    for name, found in methods.items():
        spent = found["seconds"]
        low, high = spent["step_quartiles"]
        by_stage = [f"{spent[stage]:.2f}" if stage in spent else "" for stage in stages]
        rows.append(
            [
                f"`{name}`",
                str(found["steps"]),
                f"{found['lr']:g}",
                f"{spent['step']:.2f} ({low:.2f} to {high:.2f})",
                *by_stage,
                f"{found['peak_memory_bytes'] / 2**30:.2f}",
            ]
        )
    return [
        "## Costs",
        "",
        "Seconds a step: medians over steps, of a whole step with quartiles. Memory: the most that the "
        "process held, evaluation included, GiB.",
        "",
        *_markdown(
            ["method", "steps", "learning rate", "step, s", *(f"{s}, s" for s in stages), "memory"], rows
        ),
    ]


def _markdown(head: Iterable[str], rows: Iterable[Sequence[str]]) -> list[str]:
    head = list(head)
    rule = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def draw(result: Result, file: Path) -> None:
    """Three panels with a line a method: change of reverse KL, of forward KL, seconds a step by stage."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    methods = result["methods"]
    settings = {
        "svg.hashsalt": "dragoman",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with plt.rc_context(settings):
        figure, panels = plt.subplots(
            1, 3, figsize=(12, 1.6 + 0.27 * len(methods)), sharey=True, layout="constrained"
        )
        for axes, name in zip(panels, DISTANCES, strict=False):
            _change_axes(axes, methods, name)
        _seconds_axes(panels[2], methods)
        panels[0].set_yticks(range(len(methods)), list(methods))
        panels[0].set_ylim(len(methods) - 0.4, -0.6)
        for axes in panels:
            axes.tick_params(axis="y", length=0)
        figure.savefig(file, format="svg", metadata={"Date": None})
        plt.close(figure)


def _change_axes(axes: Any, methods: Mapping[str, Any], figure: str) -> None:
    """Relative changes with their intervals, which are paired by prompt and so the narrower ones."""
    name = DISTANCES[figure]
    for place, found in enumerate(methods.values()):
        value, (low, high) = 100 * found["change"][name], found["change"][f"{name}_ci"]
        axes.plot(
            [100 * low, 100 * high],
            [place, place],
            color="#3b6fb6",
            linewidth=2,
            solid_capstyle="butt",
            alpha=0.45,
        )
        axes.plot([value], [place], "o", color="#3b6fb6", markersize=5)
    axes.axvline(0, color="#8b9099", linewidth=1, linestyle="--")
    axes.grid(axis="y", color="#e4e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    before = next(iter(methods.values()))["before"][figure]
    axes.set_xlabel(f"change of held-out {NAMES[figure]}, %\n({before:.3f} nats a byte before training)")


def _seconds_axes(axes: Any, methods: Mapping[str, Any]) -> None:
    left = [0.0] * len(methods)
    for stage in STAGES:
        spent = [found["seconds"].get(stage, 0.0) for found in methods.values()]
        if any(spent):
            axes.barh(range(len(methods)), spent, left=left, color=COLOURS[stage], height=0.7, label=stage)
            left = [a + b for a, b in zip(left, spent, strict=True)]
    axes.set_xlabel("seconds a step, medians of stages")
    axes.legend(
        ncols=5,
        frameon=False,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        handlelength=1,
        columnspacing=1,
        handletextpad=0.5,
    )
