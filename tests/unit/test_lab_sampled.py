"""Credits of many paths at once are those that the shipped supervision gives path by path."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import lab_truth
from dragoman.lab.dense import ObjectiveSignal, RowBank
from dragoman.lab.methods import parse_method, signal_of
from dragoman.lab.sampled import PathCredits
from dragoman.lab.scores import ScoreBook
from dragoman.lab.signals import student_of
from dragoman.supervise.settle import settle
from dragoman.train.ragged import joined_rows

WORLDS = ("fine", "coarse", "hard", "markov", "blanks", "same")
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


def path_credits(world: str, spec: str) -> PathCredits:
    bench, method = lab_truth.bench_of(world), parse_method(spec)
    assert method.rule is not None
    return PathCredits(bench, method.rule, method.config, ScoreBook(bench, method.topk))


def both_ways(
    world: str, spec: str, paths: Sequence[int], edge_logp: np.ndarray, counts: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Credits of some paths, each as often as it was drawn: the lab's, and those of training for a step."""
    bounds, edge = lab_truth.bench_of(world).paths.bounds, lab_truth.bench_of(world).paths.edge
    logps = [edge_logp[edge[bounds[path] : bounds[path + 1]]] for path in paths]
    got = path_credits(world, spec).credit(np.array(paths), np.concatenate(logps), np.array(counts))
    parts = np.split(got, np.cumsum([len(logp) for logp in logps])[:-1])
    step = settle(
        [
            lab_truth.unsettled(world, spec, path, logp=logp)
            for path, logp, count in zip(paths, logps, counts, strict=True)
            for _ in range(count)
        ]
    )
    return (
        np.concatenate([np.tile(part, count) for part, count in zip(parts, counts, strict=True)]),
        np.concatenate([one.credit for one in step if one.credit is not None]),
    )


def drawn_anyhow(world: str, seed: int = 3) -> tuple[list[int], list[int], np.ndarray]:
    """Paths by chance, not by probability, so that most are odd; how often each, as in training some come
    more than once; and log-probs of some student."""
    bench, rng = lab_truth.bench_of(world), np.random.default_rng(seed)
    paths = np.sort(rng.choice(len(bench.paths.text_of), size=24, replace=False)).tolist()
    counts = rng.integers(1, 4, size=len(paths)).tolist()
    student = student_of(bench, bench.first_logits + rng.normal(size=len(bench.first_logits)))
    return paths, counts, student.edge_logp


@pytest.mark.parametrize("spec", METHODS)
@pytest.mark.parametrize("world", WORLDS)
def test_credits_of_many_paths_are_those_of_each(world: str, spec: str) -> None:
    paths, counts, edge_logp = drawn_anyhow(world)
    got, expected = both_ways(world, spec, paths, edge_logp, counts)
    assert np.abs(expected).max() > 0.1
    # float32 log-probs of up to 30 nats, sums of a few, and ratios of two
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("world", ["fine", "hard", "markov"])
def test_neighbours_of_spans_are_those_of_each_path(world: str) -> None:
    # Of these paths few have accounts that are seen to be open, and neighbours would not be added.
    paths, counts, edge_logp = drawn_anyhow(world)
    with lab_truth.shared_accounts(0.7):
        got, expected = both_ways(world, "span", paths, edge_logp, counts)
    with lab_truth.shared_accounts(0.0):
        without, _ = both_ways(world, "span", paths, edge_logp, counts)
    assert np.abs(got - without).max() > 0.1
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_a_penalty_is_none_above_0_where_the_mean_credit_is() -> None:
    # A student that is far below the teacher on all that it wrote canonically, and some odd paths.
    bench = lab_truth.bench_of("fine")
    canonical = bench.paths.canonical_path[:12].tolist()
    odd = np.flatnonzero(~bench.paths.is_canonical)[:6].tolist()
    paths = sorted([*canonical, *odd])
    got, expected = both_ways("fine", "span", paths, bench.first_logp - 2.0, [1] * len(paths))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    penalised = got == -1.0
    assert penalised.any() and got[~penalised].mean() > 1


def test_a_mixed_method_has_the_credits_of_its_rule() -> None:
    bench = lab_truth.bench_of("fine")
    assert parse_method("mixed").rule == "chunk"
    path = int(np.flatnonzero(bench.paths.is_canonical)[0])
    got, expected = both_ways("fine", "mixed", [path], bench.first_logp, [1])
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("spec", ["chunk", "dpca", "span", "segment[guard=mask]"])
def test_the_policy_gradient_is_that_of_the_shipped_objective(spec: str) -> None:
    bench, method = lab_truth.bench_of("fine"), parse_method(spec)
    student = student_of(bench, bench.first_logits)
    paths = np.arange(0, len(bench.paths.text_of), 7)
    counts = 1 + paths % 3
    plain = signal_of(bench, method).push(student, paths, counts)
    credits = path_credits("fine", spec)
    shipped_way = ObjectiveSignal(bench, method.method, method.config, ScoreBook(bench, method.topk), credits)
    through_torch = shipped_way.push(student, paths, counts)
    size = np.abs(plain.total).max()
    np.testing.assert_allclose(through_torch.total, plain.total, atol=1e-5 * size)
    np.testing.assert_allclose(through_torch.squares, plain.squares, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(through_torch.canonical_squares, plain.canonical_squares, rtol=1e-4, atol=1e-6)


def test_rows_from_the_bank_are_those_of_the_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = lab_truth.bench_of("fine")
    signal = lab_truth.signal_on("fine", "xtoken")
    assert isinstance(signal, ObjectiveSignal)
    monkeypatch.setattr(RowBank, "LOT", 5)
    bank = RowBank(len(bench.paths.text_of))
    rng = np.random.default_rng(8)
    for _ in range(12):
        drawn = np.unique(rng.integers(60, size=7))
        paths = drawn[bank.order(drawn)]
        rows = [signal.supervision(path).rows for path in paths.tolist()]
        kept = [np.flatnonzero(rng.random(len(own)) < 0.7) for own in rows]
        expected, got = joined_rows(rows, kept), bank.joined(paths, rows, kept)
        assert expected is not None and got is not None and len(expected.logp)
        for name in ("bounds", "ids", "logp", "residual", "label", "member_bounds", "log_weight"):
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)
    assert bank.order(np.arange(60)).tolist() != list(range(60))
