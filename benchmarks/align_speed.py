"""How fast are chunks found: `dragoman.alignment.align` against the aligner of TRL's GOLD trainer.

TRL lives in an environment of its own (`.venv-trl`, made on first use), so each side is a worker process
that imports once and times itself (`align_worker.py`). The driver alternates: for every text and length
the two sides take turns, and who begins changes each time, so that a slow minute of the machine falls on
both. Reported are medians over all timed calls, in seconds of the processor, and the ratio of medians.

Both sides are given the same token ids, and must find the same chunks, or the row says so. Three jobs:

* `chunks`: from where tokens begin and end to the chunks. TRL is given lists of byte offsets, dragoman
  two TokenText values (offsets, bytes, events). dragoman also verifies that the bytes are equal.
* `ids`: from token ids on both sides to the chunks. This is the equal job: it leaves nothing prepared.
* `sampled`: from the student's sampled ids to the chunks, tokenising the text for the teacher on the way,
  as each library does in training. dragoman's time includes the canonical flags of `Tokenization.view`,
  for which it tokenises the text a second time; TRL has no such flags.

Texts are made from the running interpreter's library: prose (the language reference), code, and mixed
Unicode; lengths are in student tokens, and a text is repeated where it is too short. TRL raises for
SentencePiece, so the pair is byte-level. From 65,536 tokens on, each job is timed five times only, and
`sampled`, which is little but tokenising, not at all.
"""

from __future__ import annotations

import argparse
import inspect
import json
import random
import subprocess
import sys
import unicodedata
import venv
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from tokenizers import Tokenizer
from worker_process import WorkerProcess

from dragoman.assets import resolve
from dragoman.observe.environment import describe_environment

REQUIREMENTS = ("trl==1.16.0", "torch==2.13.0")
CODE_MODULES = ("argparse", "ast", "configparser", "dataclasses", "difflib", "doctest", "enum", "inspect")
SIDES = ("trl", "dragoman")
NAMES = {"trl": "TRL", "dragoman": "dragoman"}
COLOURS = {"trl": "#c0563f", "dragoman": "#3b6fb6"}
LINES = {"prose": "-", "code": "--", "unicode": ":"}
JOBS = ("chunks", "ids", "sampled")
LONG = 65_536
"""Student tokens from which on less is measured."""
LONG_JOBS = ("chunks", "ids")
LONG_REPEATS = 5
ROOT = Path(__file__).parents[1]


def main(argv: list[str] | None = None) -> int:
    """Measure, print one line for each text and length, and write all timings with --json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--student", default="assets:qwen3", help="tokenizer folder or assets:NAME")
    parser.add_argument("--teacher", default="assets:llama3.1", help="tokenizer folder or assets:NAME")
    parser.add_argument("--tokens", type=int, nargs="+", default=[4**n for n in range(4, 11)])
    parser.add_argument("--repeats", type=int, default=7, help="turns of each side")
    parser.add_argument("--calls", type=int, default=5, help="timed calls in a turn")
    parser.add_argument("--trl-environment", type=Path, default=ROOT / ".venv-trl")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="growth with length, as SVG")
    args = parser.parse_args(argv)
    folders = [Path(resolve(args.student)), Path(resolve(args.teacher))]
    pythons = {"trl": trl_python(args.trl_environment), "dragoman": Path(sys.executable)}
    script = Path(__file__).with_name("align_worker.py")
    workers = {
        side: WorkerProcess(side, [python, script, side, *folders], threads=1)
        for side, python in pythons.items()
    }
    tokenizers = [Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in folders]
    show_header()
    rows = []
    for name, text in texts().items():
        for num_tokens in args.tokens:
            ids = token_ids(text, num_tokens, tokenizers)
            if num_tokens < LONG:
                row = measure(workers, ids, JOBS, args.repeats, args.calls, warm=True)
            else:
                row = measure(workers, ids, LONG_JOBS, LONG_REPEATS, calls=1, warm=False)
            row = {"text": name, **row}
            rows.append(row)
            show(row)
    for worker in workers.values():
        worker.close()
    if args.json:
        result = {
            "student": args.student,
            "teacher": args.teacher,
            "repeats": args.repeats,
            "calls": args.calls,
            "workers": {side: worker.greeting["packages"] for side, worker in workers.items()},
            "environment": describe_environment(),
            "rows": rows,
        }
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if args.plot:
        draw(rows, args.plot)
    return 0


def measure(
    workers: dict[str, WorkerProcess],
    ids: list[list[int]],
    jobs: Sequence[str],
    repeats: int,
    calls: int,
    warm: bool,
) -> dict[str, Any]:
    """All timings of one text and length, in seconds; the sides take turns."""
    chunks = {side: worker.ask(ids=ids, jobs=jobs)["chunks"] for side, worker in workers.items()}
    seconds: dict[str, dict[str, list[float]]] = {job: {side: [] for side in SIDES} for job in jobs}
    for repeat in range(repeats):
        for job in jobs:
            for side in SIDES if repeat % 2 == 0 else reversed(SIDES):
                seconds[job][side] += workers[side].ask(job=job, calls=calls, warm=warm)["seconds"]
    medians = {job: {side: median(times) for side, times in sides.items()} for job, sides in seconds.items()}
    return {
        "student_tokens": len(ids[0]),
        "teacher_tokens": len(ids[1]),
        "chunks": len(chunks["dragoman"]["ids"][0]) - 1,
        "same_chunks": chunks["trl"] == chunks["dragoman"],
        "median_seconds": medians,
        "ratio": {job: medians[job]["trl"] / medians[job]["dragoman"] for job in jobs},
        "seconds": seconds,
    }


def show_header() -> None:
    """The first lines of the table."""
    print(f"{'median milliseconds':<19}" + "".join(f"{job:>27}" for job in JOBS))
    print(f"{'text':<9}{'tokens':>10}" + f"{'TRL':>11}{'dragoman':>9}{'ratio':>7}" * len(JOBS))


def show(row: dict[str, Any]) -> None:
    """One line of the table."""
    cells = [f"{row['text']:<9}{row['student_tokens']:>10,}"]
    for job, ratio in row["ratio"].items():
        trl, ours = (1e3 * row["median_seconds"][job][side] for side in SIDES)
        cells.append(f"{trl:>11.2f}{ours:>9.3f}{ratio:>7.1f}")
    print("".join(cells) + ("" if row["same_chunks"] else "  (chunks differ)"), flush=True)


def draw(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """A panel a job: median milliseconds over student tokens, a line for each side and text."""
    from matplotlib import style
    from matplotlib.figure import Figure

    settings = {"svg.hashsalt": "dragoman", "svg.fonttype": "none", "font.size": 9}
    with style.context(["default", settings]):
        figure = Figure(figsize=(11, 4), layout="constrained")
        panels = figure.subplots(1, len(JOBS), sharey=True)
        for axes, job in zip(panels, JOBS, strict=True):
            for name, line in LINES.items():
                of_text = [row for row in rows if row["text"] == name and job in row["ratio"]]
                tokens = [row["student_tokens"] for row in of_text]
                for side in SIDES:
                    times = [1e3 * row["median_seconds"][job][side] for row in of_text]
                    axes.plot(
                        tokens, times, line, marker=".", color=COLOURS[side], label=f"{NAMES[side]}, {name}"
                    )
            axes.set(xscale="log", yscale="log", title=job, xlabel="student tokens")
            axes.grid(color="#e4e6ea", linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("milliseconds, median")
        panels[0].legend(frameon=False)
        figure.savefig(file, format="svg", metadata={"Date": None})


def token_ids(text: str, num_tokens: int, tokenizers: list[Tokenizer]) -> list[list[int]]:
    """Both sides' ids of the beginning of `text`, repeated if need be, that has about `num_tokens` student
    tokens."""
    encoded = tokenizers[0].encode(text, add_special_tokens=False)
    if len(encoded.ids) < num_tokens:
        return token_ids(text * -(-num_tokens // len(encoded.ids)), num_tokens, tokenizers)
    beginning = text[: encoded.offsets[num_tokens - 1][1]]
    return [tokenizer.encode(beginning, add_special_tokens=False).ids for tokenizer in tokenizers]


def texts() -> dict[str, str]:
    """Prose, code and mixed Unicode, in composed form (Qwen composes), the same on each call."""
    from pydoc_data.topics import topics

    code = "\n".join(inspect.getsource(__import__(module)) for module in CODE_MODULES)
    made = {"prose": "\n".join(topics[name] for name in sorted(topics)), "code": code, "unicode": mixed()}
    return {name: unicodedata.normalize("NFC", text) for name, text in made.items()}


def mixed(num_characters: int = 240_000) -> str:
    """Runs of neighbouring letters and symbols of all scripts, between their English names."""
    rng = random.Random(0)
    pieces: list[str] = []
    length = 0
    while length < num_characters:
        start = rng.choice(
            (rng.randrange(0xA1, 0x3000), rng.randrange(0x3000, 0xD7A0), rng.randrange(0x1F300, 0x1FA00))
        )
        run = "".join(characters(start, rng.randrange(1, 9)))
        pieces.append(f"{unicodedata.name(run[0]).lower()} {run}, ")
        length += len(pieces[-1])
    return "".join(pieces)


def characters(start: int, num: int) -> Iterator[str]:
    """The first `num` named characters at or behind a code point."""
    named = (chr(code) for code in count(start) if unicodedata.name(chr(code), ""))
    return (next(named) for _ in range(num))


def trl_python(folder: Path) -> Path:
    """The interpreter of TRL's environment, which is made if it is not there."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        print(f"making {folder} with {' '.join(REQUIREMENTS)} (1.5 GB)", file=sys.stderr)
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
    return python


if __name__ == "__main__":
    sys.exit(main())
