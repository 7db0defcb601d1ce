"""Small worlds of the lab in which every method is held to what it promises, and what is computed of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from dragoman.config import MethodConfig
from dragoman.lab import sampled
from dragoman.lab.bench import Bench, make_bench
from dragoman.lab.figures import drawn_paths
from dragoman.lab.methods import LabMethod, parse_method, signal_of
from dragoman.lab.scores import ScoreBook
from dragoman.lab.signals import Signal, student_of
from dragoman.lab.worlds import WorldSettings
from dragoman.methods import BUILT_IN
from dragoman.supervise import settle as settling
from dragoman.supervise.rows import canon
from dragoman.supervise.sampled import Supervise
from dragoman.supervise.settle import settle
from dragoman.text import PairTables
from dragoman.types import Alignment, Prompt, Rollout, Supervision, TeacherLevel, TeacherScores

WORLDS = {
    # the student's tokens are the shorter ones; then the longer ones
    "fine": WorldSettings(kind="lexicon", teacher_merges=60, student_merges=25, size=30),
    "coarse": WorldSettings(kind="lexicon", teacher_merges=20, student_merges=60, size=30),
    # two words, and student tokens that are the longer ones but leave no account open
    "hard": WorldSettings(kind="context", teacher_merges=12, student_merges=25, size=5),
    "markov": WorldSettings(kind="markov", teacher_merges=12, student_merges=8, size=30),
    "blanks": WorldSettings(kind="indentation", teacher_merges=12, student_merges=10, size=10),
    "bytes": WorldSettings(kind="multibyte", teacher_merges=12, student_merges=8, size=20),
    # one way to write each text
    "digits": WorldSettings(kind="arithmetic", teacher_merges=20, student_merges=8, size=15),
    "same": WorldSettings(kind="same", teacher_merges=30, student_merges=30, size=20),
}
METHODS = tuple(method.name for method in BUILT_IN if method.level is not TeacherLevel.REFERENCE)
"""All that the lab can run; `compass` compares with a model that worlds do not have."""
CREDITS = ("chunk", "uniform", "segment", "span", "marginal", "marginal_rtg", "semantic_prior", "dpca")
ROWS = ("shared", "bpm", "retok", "escd", "canon", "canon_span", "mixed", "xtoken")
PLAIN = "guard=off;clamp=null"


@cache
def bench_of(world: str) -> Bench:
    return make_bench(WORLDS[world])


@cache
def signal_on(world: str, spec: str) -> Signal:
    return signal_of(bench_of(world), parse_method(spec))


def runs_on(world: str, name: str) -> bool:
    return world == "same" or not parse_method(name).method.equal_tokenizers


@contextmanager
def shared_accounts(share: float) -> Iterator[None]:
    """Span credit with a given lambda in place of the measured one, in the lab and in training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampled, "coupling", lambda pairs, weight: share)
        patch.setattr(settling, "coupling_of", lambda sums: share)
        yield


def gradient(bench: Bench, signal: Signal, logits: np.ndarray, spec: str, cover: float = 1.0) -> np.ndarray:
    """The exactly expected gradient of a method's loss over the likeliest paths that have `cover` of the
    probability."""
    by_teacher = parse_method(spec).by_teacher
    picked, prob = drawn_paths(bench, logits, by_teacher=by_teacher, cover=cover)
    total: np.ndarray = signal.push(student_of(bench, logits), picked, prob).total
    return total


def at_target(world: str, spec: str) -> np.ndarray:
    """The expected gradient where the student is `q*`."""
    bench = bench_of(world)
    return gradient(bench, signal_on(world, spec), bench.target_logits, spec, cover=1.0 - 1e-6)


@cache
def at_start(world: str, spec: str) -> np.ndarray:
    """The expected gradient before training, with the accounts shared as they are measured."""
    bench = bench_of(world)
    return gradient(bench, signal_on(world, spec), bench.first_logits, spec)


def odd_edges(bench: Bench) -> np.ndarray:
    """Edges that leave the canonical tokenisations."""
    paths = bench.paths
    return ~paths.edge_is_canonical & paths.state_is_canonical[paths.edge_state]


def canonical_logits(bench: Bench) -> np.ndarray:
    """A student that writes as its tokenizer does and is not at the target."""
    return np.where(odd_edges(bench), -80.0, bench.first_logits)


def path_logp(bench: Bench, path: int) -> np.ndarray:
    """The first student's log-probs of a path's tokens."""
    paths = bench.paths
    edges = paths.edge[paths.bounds[path] : paths.bounds[path + 1]]
    return paths.log_law(bench.first_logits)[edges].astype(np.float32)


@cache
def _book(world: str, topk: int | str) -> ScoreBook:
    return ScoreBook(bench_of(world), topk)


def scores_on(world: str, method: LabMethod, path: int) -> TeacherScores:
    return _book(world, method.topk).of_text(int(bench_of(world).paths.text_of[path]))


@cache
def supervisor(world: str, spec: str) -> Supervise | None:
    method = parse_method(spec)
    return method.method.build(bench_of(world).tables, method.config)


def parts_of(world: str, path: int, logp: np.ndarray | None = None) -> tuple[Rollout, Alignment]:
    """A path as a rollout, of the first student if `logp` does not say otherwise, and its alignment."""
    chunks = bench_of(world).chunks
    known = path_logp(bench_of(world), path) if logp is None else logp.astype(np.float32)
    rollout = Rollout(
        prompt=Prompt(key=f"path-{path}", messages=()),
        sample=0,
        context_ids=np.zeros(0, np.int64),
        completion=chunks.student_of(path),
        behaviour_logp=known,
    )
    return rollout, chunks.alignment_of(path)


def unsettled(
    world: str,
    spec: str,
    path: int,
    scores: TeacherScores | None = None,
    logp: np.ndarray | None = None,
) -> Supervision:
    """What the shipped code says about one path, before anything is known of its step."""
    supervise = supervisor(world, spec)
    assert supervise is not None
    rollout, alignment = parts_of(world, path, logp)
    known = scores_on(world, parse_method(spec), path) if scores is None else scores
    return supervise(rollout, known, alignment)


def supervised(world: str, spec: str, path: int, scores: TeacherScores | None = None) -> Supervision:
    """What the shipped code says about one path, settled as a step of its own."""
    return settle([unsettled(world, spec, path, scores)])[0]


def build_whole_canon(tables: PairTables, config: MethodConfig) -> Supervise:
    """`canon` without its partial rows."""
    supervise = canon.build(tables, config)

    def whole(rollout: Rollout, scores: TeacherScores, alignment: Alignment) -> Supervision:
        found = supervise(rollout, scores, alignment)
        if found.rows is None or found.rows.partial is None:
            return found
        return replace(found, weight=np.where(found.rows.partial, 0.0, found.weight).astype(np.float32))

    return whole


def whole_canon(world: str, spec: str = "canon") -> Signal:
    """`canon` on the rows of which all is known."""
    method = parse_method(spec)
    named = replace(method, method=replace(method.method, supervise="lab_truth:build_whole_canon"))
    return signal_of(bench_of(world), named)
