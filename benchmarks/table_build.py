"""How long the tables of a pair of tokenizers take: made, and read from disk.

    python benchmarks/table_build.py --json FILE --plot FILE

Each measurement is a process of its own that loads two tokenizers and then asks for every table of the pair,
in both directions, one after the other: `cold` with an empty folder for tables, `warm` with one that holds
all of them. Loading (`tokenizer.json` parsed by the `tokenizers` library, the copy of it that reads plain
text) is reported apart, and Python's imports are not measured. Seconds are those of the wall clock; beside
them stand those of the processors. Reported are medians.

* `bytes`: what every id spells.
* `words`: text tokens in the order of their bytes, and their trie.
* `counterparts`: tokens with equal bytes, and longest prefixes.
* `spellings`: every token tokenised by the other side's tokenizer.
* `trie`: tokens in the order of their spelling.
* `projection`: the weights of `xtoken` and `xtoken_h`.
* `others`: longer tokens and white space (`canon`), groups (`escd`), ranks (`marginal`).

Then the same for the first `--largest` pair cut to its first 1,024 ids on both sides, 4,096 and so on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from growth_plot import plot_growth

from dragoman.assets import resolve
from dragoman.config import MethodConfig
from dragoman.observe.environment import describe_environment
from dragoman.supervise.rows.escd import Groups
from dragoman.supervise.rows.longer import Continued, LongerTokens
from dragoman.supervise.xtoken import HklSupervision, stored_projection
from dragoman.text import PairTables, Tokenization
from dragoman.text.files import TokenizerFiles, read_tokenizer_files

PAIRS = (
    "gpt-4o,gemma3",
    "gpt-oss,gemini",
    "smollm2-135m-instruct,gemma-3-270m",
    "qwen3,llama3.1",
)
STATES = ("cold", "warm")
THREADS = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")
"""What says how many threads work: products, tokenising. Without it as many as there are cores."""
Seconds = dict[str, dict[str, float]]


def main(argv: list[str] | None = None) -> int:
    """Measure, print a line for each pair and size, write everything with --json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--pairs", nargs="*", default=PAIRS, help="STUDENT,TEACHER: assets or folders")
    parser.add_argument(
        "--largest", type=int, default=2**18, help="largest vocabulary of the growth; 0: none"
    )
    parser.add_argument("--repeats", type=int, default=5, help="processes, cold and warm")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--one", nargs=2, type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(worked(*args.one)))
        return 0
    print(f"{'pair':<40}{'ids':>16}{'loading':>9}{'cold':>8}{'warm':>8}   median seconds")
    folders = {pair: [located(side) for side in pair.split(",")] for pair in args.pairs}
    pairs = {pair: measured(pair, *sides, args.repeats) for pair, sides in folders.items()}
    growth = grown(*folders[args.pairs[0]], args.largest, args.repeats) if args.pairs else {}
    if args.json:
        result = {
            "environment": describe_environment(),
            "repeats": args.repeats,
            "threads": {name: os.environ.get(name) for name in THREADS},
            "pairs": pairs,
            "growth": {"of": args.pairs[0] if args.pairs else None, "sizes": growth},
        }
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if args.plot:
        lines = {
            state: {size: row["median_seconds"][state]["all"] for size, row in growth.items()}
            for state in STATES
        }
        plot_growth(args.plot, {"ids of each vocabulary": lines}, "seconds for all tables")
    return 0


def located(side: str) -> Path:
    """The folder of a tokenizer: an asset's, or one that is named."""
    return Path(side) if Path(side).is_dir() else Path(resolve(f"assets:{side}"))


def measured(name: str, student: Path, teacher: Path, repeats: int) -> dict[str, Any]:
    """All timings of one pair. Every cold process has an empty folder, and the warm one behind it has its.

    Raises RuntimeError if a warm process writes a table, as then it did not read it.
    """
    found: dict[str, list[dict[str, Any]]] = {state: [] for state in STATES}
    num_bytes = 0
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as home:
            files: dict[str, set[Path]] = {}
            for state in STATES:
                found[state].append(asked(student, teacher, Path(home)))
                files[state] = set(Path(home).rglob("*.npy"))
            if more := files["warm"] - files["cold"]:
                names = sorted(str(file.relative_to(home)) for file in more)
                raise RuntimeError(f"{name}: the warm process made {names}, expected all to be there")
            num_bytes = sum(file.stat().st_size for file in files["cold"])
    medians = {state: medians_of([run["seconds"] for run in runs]) for state, runs in found.items()}
    row = {
        "ids": found["cold"][0]["ids"],
        "bytes_on_disk": num_bytes,
        "median_seconds": medians,
        "median_cpu_seconds": {
            state: medians_of([r["cpu_seconds"] for r in runs]) for state, runs in found.items()
        },
        "runs": found,
    }
    ids = "{:,} {:,}".format(*row["ids"])
    loading = median(run["seconds"]["loading"] for runs in found.values() for run in runs)
    print(
        f"{name:<40}{ids:>16}{loading:>9.2f}{medians['cold']['all']:>8.2f}{medians['warm']['all']:>8.3f}",
        flush=True,
    )
    return row


def medians_of(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each part, and that of the sums of all tables."""
    parts = {part: median(run[part] for run in runs) for part in runs[0]}
    return parts | {"all": median(sum(run.values()) - run["loading"] for run in runs)}


def asked(student: Path, teacher: Path, home: Path) -> dict[str, Any]:
    """What a new process measures."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", student, teacher],
        env={**os.environ, "DRAGOMAN_HOME": str(home), "DRAGOMAN_TABLES": "on"},
        stdout=subprocess.PIPE,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def worked(student: Path, teacher: Path) -> dict[str, Any]:
    """Load two tokenizers and ask for every table."""
    found: Seconds = {"seconds": {}, "cpu_seconds": {}}
    with timed("loading", found):
        files = [read_tokenizer_files(str(folder)) for folder in (student, teacher)]
    with timed("bytes", found):
        sides = [made(file) for file in files]
    with timed("loading", found):
        for side in sides:
            side.encode(b" ")
    tables = PairTables(*sides)
    for name, make in jobs(tables).items():
        with timed(name, found):
            make()
    return {"ids": [side.num_ids for side in sides], **found}


def made(files: TokenizerFiles) -> Tokenization:
    """A tokenizer with the bytes of its ids, and what its tables on disk are named by."""
    side = Tokenization(files)
    assert side.strings.data.flags and side.fingerprint
    return side


def jobs(tables: PairTables) -> dict[str, Callable[[], object]]:
    """How each table is asked for."""
    both = (tables, tables.reversed)
    config = MethodConfig(name="xtoken_h")

    def others() -> object:
        longer = LongerTokens(tables)
        return (
            longer.able,
            Continued(tables).unsettled,
            Groups(tables)._found,
            tables.by_bytes,
            tables.by_spelling,
        )

    return {
        "words": lambda: [side.words for side in (tables.student, tables.teacher)],
        "counterparts": lambda: [
            (t.same_ids, t.shared, t.student_of_teacher, t.longest_prefix) for t in both
        ],
        "spellings": lambda: [(t.spelling_bounds, t.first_token) for t in both],
        "trie": lambda: [t.spelling_order for t in both],
        "projection": lambda: (stored_projection(tables), HklSupervision(tables, config).ranked),
        "others": others,
    }


@contextmanager
def timed(name: str, found: Seconds) -> Iterator[None]:
    """Add the seconds of the block, by the clock and by the processors, to those of its name."""
    start, cpu = time.perf_counter(), time.process_time()
    yield
    for kind, spent in (
        ("seconds", time.perf_counter() - start),
        ("cpu_seconds", time.process_time() - cpu),
    ):
        found[kind][name] = found[kind].get(name, 0.0) + spent


def grown(student: Path, teacher: Path, largest: int, repeats: int) -> dict[int, dict[str, Any]]:
    """Timings of a pair cut to ever larger vocabularies."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        size = 1024
        while size <= largest:
            cut = [
                shortened(side, size, Path(folder) / f"{size}-{n}")
                for n, side in enumerate((student, teacher))
            ]
            found[size] = measured(f"first {size:,} ids", *cut, repeats)
            size *= 4
    return found


def shortened(source: Path, size: int, folder: Path) -> Path:
    """A BPE tokenizer with its first ids, the merges that these are made by, and its control tokens among
    them."""
    state = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    model = state["model"]
    kept = {token: index for token, index in model["vocab"].items() if index < size}
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    merges = [[a, b] for a, b in pairs if a in kept and b in kept and a + b in kept]
    state["model"] = {**model, "vocab": kept, "merges": merges}
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < size]
    state["post_processor"] = None
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
    return folder


if __name__ == "__main__":
    sys.exit(main())
