"""The results as Markdown tables and a plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

LABELS = {
    "dragoman": "dragoman",
    "trl": "TRL GOLD",
    "strings": "decoded strings",
    "offsets": "character offsets",
    "difflib": "difflib",
}
COLOURS = {
    "exact": "#1b7a5a",
    "coarse": "#9ad1b8",
    "wrong": "#c8353a",
    "unsupervised": "#c9ccd1",
    "raises": "#8b9099",
}
ORDER = (
    "byte-level on both sides",
    "Gemma 3 or Gemini on either side",
    "Llama 2 on either side",
    "J2 as student",
    "a text that this teacher cannot spell",
    "NFC teacher (Qwen 3)",
    "NFC teacher (Qwen 3), only what it changes",
    "NFKC teacher (Claude, J2)",
    "NFKC teacher (Claude, J2), only what it changes",
    "WordPiece teacher (MiniLM)",
)

Result = dict[str, Any]


def table(result: Result) -> str:
    """All tables, as one Markdown text."""
    own = _shares("The student's own ids and real rollouts", result["group"], ORDER)
    odd = _shares("Odd segmentations", result["odd"], ORDER)
    names = list(result["category"])
    by_category = _shares("By category, all pairs but those with MiniLM", result["category"], names)
    versions = {name: version for side in result["packages"].values() for name, version in side.items()}
    environment = result["environment"]
    machine = (
        f"{environment['machine']}, {environment['cpus']} cores, one thread; Python {environment['python']}, "
        + ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    )
    lines = [
        "# Alignment benchmark: results",
        "",
        "Written by `make bench-alignment`; what the numbers mean stands in "
        "[docs/benchmark.md](../../../docs/benchmark.md).",
        "",
        f"{machine}. Seed {result['seed']}. {result['responses']:,} alignments by each aligner, in "
        f"{result['minutes']} minutes.",
        "",
        "Cells: % of student tokens in exact / coarse / wrong chunks / unsupervised; *r* is the share for "
        "which the aligner raised, which is in none of the four.",
        "",
        *own,
        *odd,
        *_speeds(result),
        *_teacher_ids(result),
        *by_category,
    ]
    return "\n".join(lines).rstrip() + "\n"


def _shares(title: str, counts: Result, names: Sequence[str]) -> list[str]:
    rows = []
    for name in (name for name in names if name in counts):
        by_aligner = counts[name]
        tokens = sum(next(iter(by_aligner.values())))
        rows.append([name, f"{tokens:,}", *(_cell(by_aligner[aligner]) for aligner in LABELS)])
    return [f"## {title}", "", *_markdown(["", "tokens", *LABELS.values()], rows), ""]


def _cell(counts: Sequence[int]) -> str:
    total = sum(counts)
    *verdicts, raised = (percent(count, total) for count in counts)
    if counts[-1] == total:
        return "raises"
    return " / ".join(verdicts) + (f" (*r* {raised})" if counts[-1] else "")


def percent(count: int, total: int) -> str:
    """A share in percent that is 0 or 100 only if it is so exactly."""
    if count in (0, total):
        return "0" if count == 0 else "100"
    share = 100 * count / total
    return "< .01" if share < 0.01 else "> 99.99" if share > 99.99 else f"{share:.2f}"


def _speeds(result: Result) -> list[str]:
    rows = [
        [entry["pair"].replace(">", "→"), f"{entry['tokens']:,}"]
        + [f"{rate:,}" if (rate := entry["rate"][aligner]) else "raises" for aligner in LABELS]
        for entry in result["speed"]
    ]
    about = (
        "Student tokens a second for the whole job, from sampled ids to teacher ids and chunks: median of "
        f"{result['repeats']} turns."
    )
    return ["## Speed", "", about, "", *_markdown(["pair", "tokens", *LABELS.values()], rows), ""]


def _teacher_ids(result: Result) -> list[str]:
    rows = [[label, result["same_teacher_ids"].get(name, "none")] for name, label in LABELS.items()]
    about = (
        "How often the teacher's ids are those its tokenizer gives for the response as text within a text "
        "(no control token, no dummy space), of the responses that are UTF-8 and did not raise."
    )
    return ["## Teacher ids", "", about, "", *_markdown(["aligner", "same ids"], rows), ""]


def _markdown(head: Iterable[str], rows: Iterable[Sequence[str]]) -> list[str]:
    head = list(head)
    rule = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in (head, rule, *rows)]


def draw(result: Result, file: Path) -> None:
    """Stacked bars of the shares, one column an aligner, and below them the speeds."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    settings = {
        "svg.hashsalt": "dragoman",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with plt.rc_context(settings):
        figure = plt.figure(figsize=(13, 7.6), layout="constrained")
        grid = figure.add_gridspec(2, len(LABELS), height_ratios=[3, 1.5])
        first = None
        for column, aligner in enumerate(LABELS):
            axes = figure.add_subplot(grid[0, column], sharey=first)
            first = first or axes
            _bars(axes, result, aligner, labelled=column == 0)
        handles, labels = first.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(COLOURS), frameon=False)
        _speed_axes(figure.add_subplot(grid[1, :]), result)
        figure.savefig(file, metadata={"Date": None})
        plt.close(figure)


def _bars(axes: Any, result: Result, aligner: str, *, labelled: bool) -> None:
    names = [name for name in ORDER if name in result["group"]]
    left = [0.0] * len(names)
    for index, (verdict, colour) in enumerate(COLOURS.items()):
        shares = []
        for name in names:
            counts = result["group"][name][aligner]
            shares.append(100 * counts[index] / sum(counts))
        axes.barh(range(len(names)), shares, left=left, color=colour, height=0.72, label=verdict)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, labelleft=labelled)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 100)
    axes.set_title(LABELS[aligner], fontweight="bold" if aligner == "dragoman" else None)
    axes.set_xlabel("% of student tokens")


def _speed_axes(axes: Any, result: Result) -> None:
    markers = dict(zip(LABELS, "osD^v", strict=True))
    colours = dict(zip(LABELS, ("#1b7a5a", "#c8353a", "#3b6fb6", "#b08a2e", "#7d5ba6"), strict=True))
    pairs = [entry["pair"].replace(" > ", "\n→ ") for entry in result["speed"]]
    for aligner, label in LABELS.items():
        points = [(i, e["rate"][aligner]) for i, e in enumerate(result["speed"]) if e["rate"][aligner]]
        if points:
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, marker=markers[aligner], color=colours[aligner], s=42, label=label)
    axes.set_yscale("log")
    axes.set_xticks(range(len(pairs)), pairs)
    axes.set_xlim(-0.5, len(pairs) - 0.5)
    axes.set_ylabel("student tokens a second")
    axes.grid(axis="y", color="#e4e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(ncols=len(LABELS), frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
