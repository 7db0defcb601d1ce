"""What a run left behind, read once for its report. Nothing is required: a run may stop at any point."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dragoman.errors import DataError
from dragoman.observe import Record, read_metrics, read_records

_FILES = ("config.resolved.json", "env.json", "metrics.jsonl", "summary.json")


@dataclass(frozen=True, kw_only=True)
class RunSource:
    """The files of a run folder; empty where there is none, and then named in `missing`."""

    name: str
    config: dict[str, Any]
    env: dict[str, Any]
    summary: dict[str, Any]
    train: list[dict[str, Any]]
    held_out: list[dict[str, Any]]
    rollouts: list[Record]
    missing: list[str]

    @property
    def last_step(self) -> int:
        """The last step with a metric; 0 if there is none."""
        return max((line["step"] for line in [*self.train, *self.held_out]), default=0)


def read_run(run_dir: Path, *, rollouts_a_step: int) -> RunSource:
    """Read a run folder, and `rollouts_a_step` rollouts of its first and of its last recorded step.

    Raises DataError if the folder holds no file of a run, or if a file is not what its name promises.
    """
    rollout_files = sorted((run_dir / "rollouts").glob("*.jsonl"))
    missing = [name for name in _FILES if not (run_dir / name).is_file()]
    if len(missing) == len(_FILES) and not rollout_files:
        raise DataError(
            f"{run_dir} is not a run folder: expected at least one of {', '.join(_FILES)} or "
            "rollouts/*.jsonl. Give the folder that training wrote (run.dir)"
        )
    metrics = run_dir / "metrics.jsonl"
    lines = list(read_metrics(metrics)) if metrics.is_file() else []
    return RunSource(
        name=run_dir.resolve().name,
        config=_read_object(run_dir / "config.resolved.json"),
        env=_read_object(run_dir / "env.json"),
        summary=_read_object(run_dir / "summary.json"),
        train=[line for line in lines if line.get("phase") == "train"],
        held_out=[line for line in lines if line.get("phase") == "eval"],
        rollouts=_first_and_last(rollout_files, rollouts_a_step),
        missing=missing,
    )


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path}: got no JSON ({error}). Runs replace this file as a whole, so it was changed since; "
            "restore it, or remove it to report without it"
        ) from error
    if not isinstance(value, dict):
        raise DataError(
            f"{path}: got a JSON {type(value).__name__}, expected an object as written by dragoman"
        )
    return value


def _first_and_last(paths: Iterable[Path], rollouts_a_step: int) -> list[Record]:
    """A few records of the earliest and of the latest step, in the order written."""
    by_step: dict[int, list[Record]] = {}
    for path in paths:
        for record in read_records(path):
            kept = by_step.setdefault(record.step, [])
            if len(kept) < rollouts_a_step:
                kept.append(record)
        for step in sorted(by_step)[1:-1]:
            del by_step[step]
    return [record for step in sorted(by_step) for record in by_step[step]]
