"""The progress bar: step, distance per byte, coverage and where the time goes."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class ProgressDisplay:
    """A bar on stderr where that is a terminal, a line a step elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("loading", total=None, figures="")

    def __enter__(self) -> ProgressDisplay:
        from transformers.utils import logging

        logging.disable_progress_bar()
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, phase: str, step: int, steps: int, values: Mapping[str, float]) -> None:
        """Show where the run is; see `dragoman.train.loop.Progress`."""
        figures = _figures(values)
        name = "held-out" if phase == "evaluate" else "training"
        self._bar.update(self._task, description=name, completed=step, total=steps, figures=figures)
        if values and (phase == "evaluate" or not self._console.is_terminal):
            self._console.print(f"{name} {step}/{steps}  {figures}", soft_wrap=True)


def _figures(values: Mapping[str, float]) -> str:
    parts = []
    if "kl_per_byte" in values:
        parts.append(f"KL {values['kl_per_byte']:.4f} nats/byte")
    elif "loss" in values:
        parts.append(f"loss {values['loss']:.4f}")
    if "coverage" in values:
        parts.append(f"coverage {values['coverage']:.1%}")
    seconds = {k.removeprefix("seconds_"): v for k, v in values.items() if k.startswith("seconds_")}
    parts += [f"{name} {seconds[name]:.1f} s" for name in ("rollout", "teacher", "update") if name in seconds]
    return ", ".join(parts)
