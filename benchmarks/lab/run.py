"""Every method in every world of the lab, and the same claims in worlds that were not used to make them.

    make bench-lab
    python benchmarks/lab/run.py --runs runs/lab --results runs/lab --only markov-8-20

One run of `dragoman lab` for each world and group of methods; what is there is not run again, so that an
interrupted benchmark goes on where it was. Writes `results/lab.md` (the tables) and `results/lab.json` (all
figures but curves and single seeds).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

from lab_tables import TablesError, markdown, read_worlds, settings_text  # noqa: E402

from dragoman.lab.worlds import KINDS  # noqa: E402
from dragoman.report.lab_overview import overview  # noqa: E402

RATES = ".001,.003,.01,.03,.06,.1"
CREDITS = "dpca,semantic_prior,uniform,chunk,segment,span,marginal,marginal_rtg,sft"
BOTH = "canon_span"
DENSE = "bpm,retok,escd,canon,shared,simct,xtoken,xtoken_h,uld,gold,gold_normalised,alm,mixed"
DRIFTING = ",".join(
    f"{name}[guard=off]" for name in ("semantic_prior", "uniform", "chunk", "segment", "span")
)
DRIFT_RATE = ".03"
"""A rate at which methods learn fast. Tuned ones are lower without a guard, to keep the drift small."""
ROWS = "shared,bpm,retok,escd,canon"
HELD_OUT_SEED = 11
HELD_OUT = (
    ("lexicon", 300, 60),
    ("lexicon", 60, 240),
    ("lexicon", 120, 120),
    ("context", 90, 40),
    ("context", 40, 90),
    ("markov", 30, 12),
    ("markov", 10, 30),
    ("arithmetic", 80, 30),
    ("arithmetic", 30, 80),
    ("indentation", 40, 16),
    ("multibyte", 50, 20),
    ("multibyte", 20, 60),
)
"""Worlds, and merges of either side, that no method was developed on."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of `dragoman lab`: a world, some methods, and how often they are updated."""

    kind: str
    merges: tuple[int, int]
    seed: int
    group: str
    methods: str
    updates: int = 240
    seeds: int = 10
    rates: str = RATES

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.kind}-{self.merges[0]}-{self.merges[1]}-s{self.seed}-{self.group}"

    @property
    def arguments(self) -> list[str]:
        """Behind `dragoman`."""
        teacher, student = map(str, self.merges)
        world = ["--world", self.kind, "--teacher-merges", teacher, "--student-merges", student]
        training = ["--updates", str(self.updates), "--seeds", str(self.seeds), "--rates", self.rates]
        return ["lab", *world, "--seed", str(self.seed), "--methods", self.methods, *training]


def jobs() -> list[Job]:
    """All runs, in the order of their tables."""
    usual = [(kind, merges) for kind, found in KINDS.items() for merges in found.merges]
    found = []
    for group, methods in (("credits", CREDITS), ("dense", DENSE), ("both", BOTH)):
        for kind, merges in usual:
            own = f"{methods},gkd" if KINDS[kind].same_tokenizer and group == "dense" else methods
            found.append(Job(kind=kind, merges=merges, seed=0, group=group, methods=own))
    for kind in ("lexicon", "markov", "indentation"):
        for merges in KINDS[kind].merges[:2]:
            drift = {"group": "drift", "methods": DRIFTING, "rates": DRIFT_RATE}
            found.append(Job(kind=kind, merges=merges, seed=0, **drift))
    for kind, teacher, student in HELD_OUT:
        world = {"kind": kind, "merges": (teacher, student), "seed": HELD_OUT_SEED}
        found.append(Job(**world, group="heldout", methods="dpca,chunk,segment,span,sft"))
        found.append(Job(**world, group="heldout-both", methods=BOTH))
        found.append(Job(**world, group="rows", methods=ROWS, updates=1, seeds=1))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is not there yet and write the results; 1 if a run failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "bench-lab", help="folder of the runs")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--only", metavar="TEXT", help="run only what has this in its name")
    parser.add_argument("--no-runs", action="store_true", help="make tables of what is there")
    args = parser.parse_args(argv)
    args.runs.mkdir(parents=True, exist_ok=True)
    chosen = [job for job in jobs() if args.only is None or args.only in job.name]
    failed = [] if args.no_runs else [job.name for job in chosen if not run(job, args.runs)]
    missing = [job.name for job in jobs() if not (args.runs / f"{job.name}.json").is_file()]
    if missing and args.results == HERE / "results":
        print(f"not written, as {len(missing)} runs are missing: {', '.join(missing)}", file=sys.stderr)
    else:
        write(args.runs, args.results)
    if failed:
        print(f"failed: {', '.join(failed)}; see the .log files in {args.runs}", file=sys.stderr)
    return 1 if failed else 0


def run(job: Job, folder: Path) -> bool:
    """Make a run that is not there; whether it is there now."""
    file = folder / f"{job.name}.json"
    if file.is_file():
        check(job, file)
        return True
    print(job.name, file=sys.stderr)
    began = time.monotonic()
    command = [sys.executable, "-c", "from dragoman.cli import main; main()", *job.arguments, "--json", file]
    with (folder / f"{job.name}.log").open("w", encoding="utf-8") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)
    print(f"    {time.monotonic() - began:.0f} s", file=sys.stderr)
    return done.returncode == 0


def check(job: Job, file: Path) -> None:
    """Stop where a file holds another run than the one wanted, as of an earlier list of methods."""
    made = json.loads(file.read_text(encoding="utf-8"))
    settings = {name: made["settings"][name] for name in ("updates", "seeds", "rates")}
    wanted = {
        "updates": job.updates,
        "seeds": job.seeds,
        "rates": sorted(float(rate) for rate in job.rates.split(",")),
    }
    methods = job.methods.split(",")
    if settings != wanted or list(made["methods"]) != methods:
        raise SystemExit(
            f"error: {file} holds a run of {', '.join(made['methods'])} with {settings}, expected "
            f"{', '.join(methods)} with {wanted}; remove it, or name another folder with --runs"
        )


def write(runs: Path, results: Path) -> None:
    """The tables of the runs that are there."""
    found = jobs()
    groups = (
        ("credits", "dense", "both"),
        ("drift",),
        ("heldout", "heldout-both"),
        ("rows",),
    )
    usual, drift, held_out, rows = (
        merged(runs, [job for job in found if job.group in group]) for group in groups
    )
    parts = [
        section("Text KL, credits", usual, "text_kl", CREDITS),
        section("Text KL, rows, units and both", usual, "text_kl", f"span,{BOTH},{DENSE},gkd"),
        section("Total variation of rows", usual, "total_variation", ROWS),
        section("The same where all methods have rows", usual, "common_total_variation", ROWS),
        section(f"Text KL without a guard at rate {DRIFT_RATE}", drift, "text_kl"),
        section(f"Text KL, worlds {HELD_OUT_SEED}, not used in development", held_out, "text_kl"),
        section(f"Total variation of rows, worlds {HELD_OUT_SEED}", rows, "total_variation"),
        section(f"The same where all have rows, worlds {HELD_OUT_SEED}", rows, "common_total_variation"),
    ]
    results.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(["# The lab", *[part for part in parts if part]])
    (results / "lab.md").write_text(text + "\n", encoding="utf-8")
    trees = [*usual, *drift, *held_out, *rows]
    lines = ",\n".join(json.dumps(rounded(without_curves(tree))) for tree in trees)
    (results / "lab.json").write_text(f'{{"worlds": [\n{lines}\n]}}\n', encoding="utf-8")


def merged(runs: Path, found: Sequence[Job]) -> list[dict[str, Any]]:
    """The worlds of those runs that are there, each once with all its methods."""
    files = [file for job in found if (file := runs / f"{job.name}.json").is_file()]
    try:
        return read_worlds(files)
    except TablesError as error:
        raise SystemExit(f"error: {error}") from error


def section(title: str, trees: Sequence[dict[str, Any]], figure: str, methods: str | None = None) -> str:
    """A table with its heading; nothing where no world has any of it."""
    known = {label for tree in trees for label in tree["methods"]}
    labels = None if methods is None else [label for label in methods.split(",") if label in known]
    if not trees or labels == []:
        return ""
    table = overview(trees, figure=figure, labels=labels, intervals=True)
    return "\n".join([f"## {title}", "", *markdown(table), "", f"{table.note} {settings_text(trees[0])}"])


def rounded(value: Any) -> Any:
    """A tree with its numbers to six digits, far below what seeds leave open."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list) else value


def without_curves(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A world as it is committed: without what the runs' own files have of curves, single seeds and time."""
    left_out = {"curve", "summary", "by_seed", "noncanonical_by_seed", "seconds", "seconds_a_run"}
    methods = {
        label: {name: value for name, value in method.items() if name not in left_out}
        for label, method in tree["methods"].items()
    }
    return {**tree, "methods": methods}


if __name__ == "__main__":
    sys.exit(main())
