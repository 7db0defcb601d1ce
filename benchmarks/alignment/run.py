"""Alignment quality and speed of dragoman, TRL's GOLD trainer and naive baselines, on real tokenizers.

    make bench-alignment

Every ordered pair of tokenizers (a WordPiece one as teacher only), every response of `cases.py`, every
aligner in turn; chunks are judged by `judge.py` against the ground truth of `truth.py`. Then the speed of the
whole job on a longer response. Writes `results/alignment.{json,md,svg}`; docs/benchmark.md explains them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from functools import cache, lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from align_speed import QUIET, trl_python  # noqa: E402
from cases import ODD, Response, own_ids, plain_tokenizer, responses, rollouts, speed_response  # noqa: E402
from facts import TOKENIZERS, Speller  # noqa: E402
from judge import judge  # noqa: E402
from normalise import TruthError  # noqa: E402
from show import draw, table  # noqa: E402
from truth import changes, sources  # noqa: E402

from dragoman.assets import resolve  # noqa: E402
from dragoman.observe.environment import describe_environment  # noqa: E402
from dragoman.text import Tokenization  # noqa: E402

ALIGNERS = ("dragoman", "trl", "strings", "offsets", "difflib")
SEED = 0
SAMPLED_BY = "smollm2-135m-instruct"
SPEED_PAIRS = (
    ("qwen3", "llama3.1"),
    ("smollm2-135m-instruct", "gemma-3-270m"),
    ("llama3.1", "llama2"),
    ("gemma3", "gpt-oss"),
    ("llama2", "deepseek-v3"),
    ("llama3.1", "qwen3"),
)
REPEATS = 5


class Worker:
    """A process of `worker.py` and the pipe to it."""

    def __init__(self, environment: str, python: Path, folders: list[Path]) -> None:
        self.process = subprocess.Popen(
            [python, HERE / "worker.py", environment, *folders],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **QUIET},
        )

    def read(self) -> dict[str, Any]:
        """The next answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a worker ended with exit code {self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.read()


class Bench:
    """Tokenizers, workers, and what has been counted so far."""

    def __init__(self, names: list[str], trl_environment: Path) -> None:
        self.folders = {name: Path(resolve(f"assets:{name}")) for name in names}
        self.spellers = {name: Speller(self.folders[name], TOKENIZERS[name]) for name in names}
        self.plain = {name: plain_tokenizer(folder) for name, folder in self.folders.items()}
        pythons = {"trl": trl_python(trl_environment), "dragoman": Path(sys.executable)}
        paths = list(self.folders.values())
        self.workers = {side: Worker(side, python, paths) for side, python in pythons.items()}
        self.packages = {side: worker.read()["packages"] for side, worker in self.workers.items()}
        self.counts: dict[tuple[str, ...], np.ndarray] = defaultdict(lambda: np.zeros(5, np.int64))
        self.agree: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self.raised: dict[str, set[str]] = defaultdict(set)
        self.examples: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.sources = lru_cache(64)(lambda teacher, *case: sources(self.spellers[teacher], *case))
        self.changes = cache(lambda teacher, data: changes(self.spellers[teacher], data))
        self.own_ids = cache(lambda name, data: own_ids(self.plain[name], data))

    def responses(self, student: str) -> list[Response]:
        """All responses of one student."""
        speller = self.spellers[student]
        tokenization = Tokenization.from_pretrained(str(self.folders[student]))
        found = list(
            responses(
                lambda data: tokenization.encode(data).ids.tolist(), speller.spell, speller.text_tokens, SEED
            )
        )
        return found + (list(rollouts(speller.spell)) if student == SAMPLED_BY else [])

    def align(self, aligner: str, student: str, teacher: str, ids: list[int]) -> dict[str, Any]:
        """Ask the worker that has this aligner."""
        worker = self.workers["trl" if aligner == "trl" else "dragoman"]
        return worker.ask(aligner=aligner, student=student, teacher=teacher, ids=ids)

    def measure(self, aligner: str, student: str, teacher: str, response: Response) -> None:
        """Align one response and count the verdicts."""
        answer = self.align(aligner, student, teacher, response.ids)
        counts = self._verdict(aligner, student, teacher, response, answer)
        changed = self.changes(teacher, response.data)
        odd = response.category == ODD
        for group in groups(student, teacher, changed):
            self.counts["odd" if odd else "group", aligner, group] += counts
        self.counts["pair", aligner, f"{student} > {teacher}"] += counts
        if TOKENIZERS[teacher].spelling != "wordpiece":
            self.counts["category", aligner, response.category] += counts

    def _verdict(
        self, aligner: str, student: str, teacher: str, response: Response, answer: dict[str, Any]
    ) -> np.ndarray:
        if "raises" in answer:
            self.raised[aligner].add(answer["raises"])
            return np.array([0, 0, 0, 0, len(response.ids)])
        expected = self.own_ids(teacher, response.data)
        if expected is not None:
            self.agree[aligner][0] += expected == answer["teacher_ids"]
            self.agree[aligner][1] += 1
        where = {"student": student, "teacher": teacher, "response": response.name}
        try:
            truth = self.sources(teacher, tuple(answer["teacher_ids"]), response.data, answer["text"])
        except TruthError as error:
            raise SystemExit(f"{aligner} {where}: {error}") from error
        spelled = map(len, map(self.spellers[student].spell, response.ids))
        bounds = np.cumsum([0, *spelled])
        verdict = judge(bounds, truth, answer["chunks"])
        if verdict.wrong_chunk is not None and len(self.examples[aligner]) < 5:
            self.examples[aligner].append({**where, "chunk": verdict.wrong_chunk})
        return np.array([*verdict.counts, 0])

    def speed(self, student: str, teacher: str) -> dict[str, Any]:
        """Tokens a second of every aligner on one long response: medians, the aligners taking turns."""
        encoded = Tokenization.from_pretrained(str(self.folders[student])).encode(speed_response())
        ids = encoded.ids.tolist()
        seconds: dict[str, list[float]] = {aligner: [] for aligner in ALIGNERS}
        for repeat in range(REPEATS + 1):
            for aligner in ALIGNERS if repeat % 2 else reversed(ALIGNERS):
                answer = self.align(aligner, student, teacher, ids)
                if repeat and "seconds" in answer:  # the first turn warms up
                    seconds[aligner].append(answer["seconds"])
        rates = {a: round(len(ids) / median(s)) if s else None for a, s in seconds.items()}
        spread = {a: [round(min(s), 5), round(max(s), 5)] for a, s in seconds.items() if s}
        return {"pair": f"{student} > {teacher}", "tokens": len(ids), "rate": rates, "seconds": spread}


def groups(student: str, teacher: str, changed: bool) -> list[str]:
    """The lines of the table that a response belongs to."""
    family = TOKENIZERS[teacher].family
    normalising = {
        "nfc": "NFC teacher (Qwen 3)",
        "nfkc": "NFKC teacher (Claude, J2)",
        "wordpiece": "WordPiece teacher (MiniLM)",
    }
    if family in normalising:
        name = normalising[family]
        return [name, f"{name}, only what it changes"] if changed and family != "wordpiece" else [name]
    if changed:
        return ["a text that this teacher cannot spell"]
    families = {family, TOKENIZERS[student].family}
    if "llama2" in families:
        return ["Llama 2 on either side"]
    if "gemma" in families:
        return ["Gemma 3 or Gemini on either side"]
    return ["J2 as student" if student == "j2" else "byte-level on both sides"]


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tokenizers", nargs="+", default=list(TOKENIZERS), choices=list(TOKENIZERS))
    parser.add_argument("--trl-environment", type=Path, default=HERE.parents[1] / ".venv-trl")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    args = parser.parse_args(argv)
    began = time.monotonic()
    bench = Bench(args.tokenizers, args.trl_environment)
    num_responses = 0
    for student in args.tokenizers:
        if TOKENIZERS[student].spelling == "wordpiece":
            continue
        cases = bench.responses(student)
        for teacher in args.tokenizers:
            if teacher != student:
                num_responses += len(cases)
                for case in cases:
                    for aligner in ALIGNERS:
                        bench.measure(aligner, student, teacher, case)
        print(
            f"{time.monotonic() - began:5.0f} s  {student} as student: {len(cases)} responses",
            file=sys.stderr,
        )
    pairs = [pair for pair in SPEED_PAIRS if set(pair) <= set(args.tokenizers)]
    result = {
        "seed": SEED,
        "responses": num_responses,
        "verdicts": ["exact", "coarse", "wrong", "unsupervised", "raises"],
        "packages": bench.packages,
        "environment": describe_environment(),
        "repeats": REPEATS,
        **collected(bench),
        "speed": [bench.speed(*pair) for pair in pairs],
    }
    result["minutes"] = round((time.monotonic() - began) / 60, 1)
    args.results.mkdir(exist_ok=True)
    (args.results / "alignment.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (args.results / "alignment.md").write_text(table(result), encoding="utf-8")
    draw(result, args.results / "alignment.svg")
    print(table(result))
    return 0


def collected(bench: Bench) -> dict[str, Any]:
    """What was counted, as nested plain values."""
    found: dict[str, Any] = {"group": {}, "odd": {}, "pair": {}, "category": {}}
    for (kind, aligner, name), counts in bench.counts.items():
        found[kind].setdefault(name, {})[aligner] = counts.tolist()
    return found | {
        "same_teacher_ids": {a: f"{same} of {total}" for a, (same, total) in bench.agree.items()},
        "raised": {a: sorted(messages) for a, messages in bench.raised.items()},
        "first_wrong": dict(bench.examples),
    }


if __name__ == "__main__":
    sys.exit(main())
