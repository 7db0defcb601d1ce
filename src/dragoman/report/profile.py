"""A profile in the terminal and as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dragoman.train.profile import Profile

_COLUMNS = ("stage", "seconds", "share", "peak memory", "tokens/s", "of matmul", "of copy", "bound by")


def profile_lines(profile: Profile) -> Iterator[str]:
    """A line on the whole, a table of the stages, and what the shares are shares of."""
    yield (
        f"{profile.seconds:.2f} s a step (median of {profile.steps}), {profile.student_tokens:.0f} student "
        f"tokens, {profile.student_tokens / profile.seconds:.0f} a second"
    )
    rows = [_COLUMNS]
    for name, stage in profile.stages.items():
        rows.append(
            (
                name,
                f"{stage.seconds:.3f}",
                f"{stage.seconds / profile.seconds:.1%}",
                f"{stage.peak_bytes / 2**30:.2f} GiB" if stage.peak_bytes else "",
                f"{stage.tokens_per_second:,.0f}",
                _share(stage.matmul_share),
                _share(stage.copy_share),
                stage.bound_by,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if place in (0, len(row) - 1) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
    yield (
        f"peaks measured just now: matrix product {profile.peaks.matmul_flops / 1e9:,.0f} GFLOP/s, copy of "
        f"memory {profile.peaks.copy_bytes / 1e9:,.1f} GB/s (read and written)"
    )


def draw_profile(profile: Profile, file: Path) -> None:
    """Seconds and peak memory of the stages, as the suffix of the file says."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(profile.stages)
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(9, 0.4 * len(names) + 1.2), sharey=True, layout="constrained"
    )
    left.barh(names, [stage.seconds for stage in profile.stages.values()], color="#3b6fb6")
    for place, stage in enumerate(profile.stages.values()):
        left.text(stage.seconds, place, f" {stage.seconds / profile.seconds:.0%}", va="center", fontsize=8)
    left.set_xlabel(f"seconds, of {profile.seconds:.2f} a step")
    left.margins(x=0.15)
    left.invert_yaxis()
    right.barh(names, [stage.peak_bytes / 2**30 for stage in profile.stages.values()], color="#c8871b")
    right.set_xlabel("peak memory, GiB")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)
    pyplot.close(figure)


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
