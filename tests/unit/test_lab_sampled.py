"""Credits of many paths at once are those that the shipped supervision gives path by path."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

from dragoman.lab.bench import Bench, make_bench
from dragoman.lab.dense import ObjectiveSignal, RowBank
from dragoman.lab.methods import parse_method, signal_of
from dragoman.lab.sampled import PathCredits
from dragoman.lab.scores import ScoreBook
from dragoman.lab.signals import student_of
from dragoman.lab.worlds import WorldSettings
from dragoman.supervise.settle import settle
from dragoman.train.ragged import joined_rows
from dragoman.types import Prompt, Rollout, Supervision

WORLDS = (
    WorldSettings(kind="lexicon", teacher_merges=60, student_merges=25, size=30),
    WorldSettings(kind="context", teacher_merges=20, student_merges=40, size=5),
    WorldSettings(kind="markov", teacher_merges=12, student_merges=8, size=30),
    WorldSettings(kind="indentation", teacher_merges=12, student_merges=10, size=10),
    WorldSettings(kind="same", teacher_merges=30, student_merges=30, size=20),
)
METHODS = (
    "dpca",
    "semantic_prior",
    "chunk",
    "chunk[guard=off;max_chunk_tokens=2]",
    "uniform",
    "segment[guard=mask]",
    "segment[guard=off]",
    "span",
    "span[guard=mask;max_chunk_tokens=3]",
    "marginal",
    "marginal[teacher.topk=3]",
    "marginal_rtg[guard=off]",
)


@cache
def bench_of(world: WorldSettings) -> Bench:
    return make_bench(world)


def shipped(bench: Bench, spec: str, paths: Sequence[int], logps: Sequence[np.ndarray]) -> np.ndarray:
    """Credits of some paths as training makes them for a step."""
    found = settle([_supervised(bench, spec, path, logp) for path, logp in zip(paths, logps, strict=True)])
    return np.concatenate([one.credit for one in found if one.credit is not None])


def _supervised(bench: Bench, spec: str, path: int, logp: np.ndarray) -> Supervision:
    method = parse_method(spec)
    supervise = method.method.build(bench.tables, method.config)
    assert supervise is not None
    index = int(bench.paths.text_of[path])
    rollout = Rollout(
        prompt=Prompt(key="path", text=""),
        sample=path,
        context_ids=np.zeros(0, np.int64),
        completion=bench.chunks.student_of(path),
        behaviour_logp=logp.astype(np.float32),
    )
    scores = ScoreBook(bench, method.topk).of_text(index)
    return supervise(rollout, scores, bench.chunks.alignment_of(path))


@pytest.mark.parametrize("spec", METHODS)
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.kind)
def test_credits_of_many_paths_are_those_of_each(world: WorldSettings, spec: str) -> None:
    bench = bench_of(world)
    method = parse_method(spec)
    rule = method.rule
    assert rule is not None
    credits = PathCredits(bench, rule, method.config, ScoreBook(bench, method.topk))
    rng = np.random.default_rng(3)
    # Paths by chance, not by probability: most are odd. Some come more than once, as in training.
    paths = np.sort(rng.choice(len(bench.paths.text_of), size=24, replace=False))
    counts = rng.integers(1, 4, size=len(paths))
    student = student_of(bench, bench.first_logits + rng.normal(size=len(bench.first_logits)))
    logps = [
        student.edge_logp[bench.paths.edge[bench.paths.bounds[p] : bench.paths.bounds[p + 1]]] for p in paths
    ]
    got = credits.credit(paths, np.concatenate(logps), counts)
    got = np.concatenate(
        [
            np.tile(part, count)
            for part, count in zip(
                np.split(got, np.cumsum([len(p) for p in logps])[:-1]), counts, strict=True
            )
        ]
    )
    drawn = np.repeat(np.arange(len(paths)), counts).tolist()
    expected = shipped(bench, spec, [int(paths[k]) for k in drawn], [logps[k] for k in drawn])
    assert len(got) == len(expected)
    assert np.abs(expected).max() > 0.1
    # float32 log-probs of up to 30 nats, sums of a few, and ratios of two
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_a_mixed_method_has_the_credits_of_its_rule() -> None:
    bench = bench_of(WORLDS[0])
    method = parse_method("mixed")
    assert method.rule == "chunk"
    path = int(np.flatnonzero(bench.paths.is_canonical)[0])
    logp = bench.paths.log_law(bench.first_logits)[
        bench.paths.edge[bench.paths.bounds[path] : bench.paths.bounds[path + 1]]
    ]
    credits = PathCredits(bench, "chunk", method.config, ScoreBook(bench, method.topk))
    got = credits.credit(np.array([path]), logp, np.ones(1))
    np.testing.assert_allclose(got, shipped(bench, "mixed", [path], [logp]), atol=1e-5)


@pytest.mark.parametrize("spec", ["chunk", "dpca", "span", "segment[guard=mask]"])
def test_the_policy_gradient_is_that_of_the_shipped_objective(spec: str) -> None:
    bench = bench_of(WORLDS[0])
    student = student_of(bench, bench.first_logits)
    paths = np.arange(0, len(bench.paths.text_of), 7)
    counts = 1 + paths % 3
    plain = signal_of(bench, parse_method(spec)).push(student, paths, counts)
    method = parse_method(spec)
    assert method.rule is not None
    scores = ScoreBook(bench, method.topk)
    credits = PathCredits(bench, method.rule, method.config, scores)
    shipped_way = ObjectiveSignal(bench, method.method, method.config, scores, credits)
    through_torch = shipped_way.push(student, paths, counts)
    size = np.abs(plain.total).max()
    np.testing.assert_allclose(through_torch.total, plain.total, atol=1e-5 * size)
    np.testing.assert_allclose(through_torch.squares, plain.squares, rtol=1e-4, atol=1e-6)


def test_rows_from_the_bank_are_those_of_the_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_of(WORLDS[0])
    signal = signal_of(bench, parse_method("xtoken"))
    monkeypatch.setattr(RowBank, "LOT", 5)
    bank = RowBank(len(bench.paths.text_of))
    rng = np.random.default_rng(8)
    for _ in range(12):
        drawn = np.unique(rng.integers(60, size=7))
        paths = drawn[bank.order(drawn)]
        rows = [signal.supervision(path).rows for path in paths.tolist()]  # type: ignore[attr-defined]
        kept = [np.flatnonzero(rng.random(len(own)) < 0.7) for own in rows]
        expected, got = joined_rows(rows, kept), bank.joined(paths, rows, kept)
        assert expected is not None and got is not None and len(expected.logp)
        for name in ("bounds", "ids", "logp", "residual", "label", "member_bounds", "log_weight"):
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)
    assert bank.order(np.arange(60)).tolist() != list(range(60))
