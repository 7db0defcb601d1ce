"""The figures of one finished run, from its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

STAGES = ("rollout", "reference", "teacher", "align", "update")
HELDOUT = (
    "kl_per_byte",
    "forward_kl_per_byte",
    "noncanonical_rate",
    "coverage",
    "forward_coverage",
    "length_bytes",
)
SAME = ("kl_per_byte", "forward_kl_per_byte")


def outcome(folder: Path) -> dict[str, Any]:
    """What the tables show of a run.

    `signal` is the share of student tokens that were trained on, of all steps together; `row_residual` the
    teacher's mass outside the candidates of a row, mean over steps, None for a method without such rows.
    """
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.resolved.json").read_text(encoding="utf-8"))
    environment = json.loads((folder / "env.json").read_text(encoding="utf-8"))
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [line for line in map(json.loads, lines) if line["phase"] == "train"]
    tokens = summary["tokens"]
    return {
        "steps": len(steps),
        "lr": config["train"]["lr"],
        "commit": environment["commit"],
        "seconds": seconds(steps),
        "signal": tokens["supervised"] / tokens["student"],
        "dropped": {name: count / tokens["student"] for name, count in summary["dropped"].items()},
        "row_residual": mean_of(steps, "row_residual"),
        "grad_norm": mean_of(steps, "grad_norm"),
        "before": heldout(summary["before"]),
        "after": heldout(summary["after"]),
        "change": summary["change"],
        "peak_memory_bytes": summary["peak_memory_bytes"],
    }


def heldout(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of an evaluation that are of interest here, with their intervals."""
    return {name + end: figures[name + end] for name in HELDOUT for end in ("", "_ci")}


def seconds(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Median seconds of each stage, and of a whole step with its quartiles; the first step warms up and does
    not count, unless it is the only one."""
    counted = steps[1:] or steps
    by_stage = {
        stage: median(line[f"seconds_{stage}"] for line in counted)
        for stage in STAGES
        if f"seconds_{stage}" in counted[0]
    }
    whole = [sum(line[f"seconds_{stage}"] for stage in by_stage) for line in counted]
    low, middle, high = quantiles(whole, n=4, method="inclusive") if len(whole) > 1 else whole * 3
    return {**by_stage, "step": middle, "step_quartiles": [low, high]}


def mean_of(steps: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Mean of a figure over the steps that have it."""
    values = [line[name] for line in steps if line.get(name) is not None]
    return sum(values) / len(values) if values else None


def differing(made: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Settings that differ, in words; where a run is written does not matter."""
    found = []
    for key in sorted(made.keys() | wanted.keys()):
        name, got, expected = prefix + key, made.get(key), wanted.get(key)
        if isinstance(got, Mapping) and isinstance(expected, Mapping):
            found += differing(got, expected, f"{name}.")
        elif got != expected and name != "run.dir":
            found.append(f"{name} is {got!r}, expected {expected!r}")
    return found


def same_start(outcomes: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What is wrong if the runs do not all begin at the same distances; None where they do."""
    first = next(iter(outcomes), None)
    for name, found in outcomes.items():
        for figure in SAME:
            expected, got = outcomes[first or name]["before"][figure], found["before"][figure]
            if not math.isclose(got, expected, rel_tol=1e-3):
                return (
                    f"before training {figure} is {got:.5f} in the run of {name!r}, but {expected:.5f} in "
                    f"that of {first!r}: they did not begin with the same student, teacher and prompts, "
                    "so they cannot be compared. Remove the older of the two folders"
                )
    return None
