"""The lab's own foundations: laws that sum to one, exact gradients, paths, samples, intervals."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest

from dragoman.alignment import align
from dragoman.errors import UsageError
from dragoman.lab.bench import Bench, make_bench, ragged
from dragoman.lab.exact import standing, text_gradient, token_gradient
from dragoman.lab.intervals import mean_interval
from dragoman.lab.signals import student_of
from dragoman.lab.training import PathSampler
from dragoman.lab.worlds import KINDS, WorldSettings, make_world, quick_size


@cache
def bench_of(kind: str) -> Bench:
    teacher, student = KINDS[kind].merges[0]
    settings = WorldSettings(
        kind=kind, teacher_merges=teacher, student_merges=student, size=quick_size(kind), seed=3
    )
    return make_bench(settings)


@pytest.mark.parametrize("kind", KINDS)
def test_laws_sum_to_one_and_the_target_writes_the_teachers_texts(kind: str) -> None:
    bench = bench_of(kind)
    paths = bench.paths
    for law in (paths.first, np.exp(paths.log_law(bench.first_logits))):
        np.testing.assert_allclose(np.bincount(paths.edge_state, law), 1.0, atol=1e-12)
    sums = np.bincount(paths.edge_state, paths.target)
    np.testing.assert_allclose(sums[paths.state_is_canonical], 1.0, atol=1e-12)
    assert (sums[~paths.state_is_canonical] == 0).all()
    prob = np.exp(paths.path_logp(paths.log_law(bench.first_logits)))
    assert prob.sum() == pytest.approx(1.0, abs=1e-12)
    ideal = standing(paths, bench.target_logits)
    assert ideal.text_kl == pytest.approx(0.0, abs=1e-9)
    assert ideal.token_kl == pytest.approx(0.0, abs=1e-9)
    assert ideal.noncanonical < 1e-9
    start = standing(paths, bench.first_logits)
    # first laws are drawn to be .45 nats away; the slip to other edges changes that a little
    assert start.text_kl == pytest.approx(0.45, abs=0.08)


@pytest.mark.parametrize("kind", KINDS)
def test_paths_are_texts_and_alignments_those_of_single_responses(kind: str) -> None:
    bench = bench_of(kind)
    paths, chunks, world = bench.paths, bench.chunks, bench.world
    for path in np.random.default_rng(0).integers(len(paths.text_of), size=40).tolist():
        ids = paths.edge_token[paths.edge[paths.bounds[path] : paths.bounds[path + 1]]]
        alone, text = world.student.view(ids), chunks.student_of(path)
        assert text.data == alone.data == world.texts[int(paths.text_of[path])]
        for name in ("ids", "bounds", "event", "canonical"):
            np.testing.assert_array_equal(getattr(text, name), getattr(alone, name), err_msg=name)
        assert alone.canonical.all() == paths.is_canonical[path]
        expected = align(alone, bench.teacher.texts[int(paths.text_of[path])])
        got = chunks.alignment_of(path)
        for name in ("student_bounds", "teacher_bounds", "kind"):
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)


@pytest.mark.parametrize("kind", ["lexicon", "markov"])
def test_exact_gradients_are_derivatives(kind: str) -> None:
    bench = bench_of(kind)
    paths = bench.paths
    rng = np.random.default_rng(1)
    logits = bench.first_logits + 0.3 * rng.normal(size=len(bench.first_logits))
    away = rng.normal(size=len(logits))
    step = 1e-5
    up, down = (standing(paths, logits + sign * step * away).text_kl for sign in (1, -1))
    assert text_gradient(paths, logits) @ away == pytest.approx((up - down) / (2 * step), rel=1e-6)


def test_the_token_gradient_is_that_of_each_prefix_alone() -> None:
    bench = bench_of("lexicon")
    paths = bench.paths
    logits = bench.first_logits
    edge_logp = paths.log_law(logits)
    prob = np.exp(paths.path_logp(edge_logp))
    gradient = token_gradient(paths, logits)
    # the place, the beginning aside, where most tokens keep the text canonical
    choices = np.bincount(paths.edge_state, paths.edge_is_canonical)
    state = 1 + int(np.argmax(choices[1:]))
    assert choices[state] > 2
    own = np.flatnonzero(paths.edge_state == state)
    kept = own[paths.edge_is_canonical[own]]
    passing = np.unique(paths.path_of[paths.edge_state[paths.edge] == state])
    reach = prob[passing].sum()

    def distance(values: np.ndarray) -> float:
        law = np.exp(values - values.max())
        law /= law.sum()
        return float((law * np.log(law / paths.target[kept])).sum())

    for place in range(len(kept)):
        step = np.zeros(len(kept))
        step[place] = 1e-6
        slope = (distance(logits[kept] + step) - distance(logits[kept] - step)) / 2e-6
        assert gradient[kept[place]] == pytest.approx(reach * slope, abs=1e-8)
    assert (gradient[~paths.edge_is_canonical] == 0).all()


def test_samples_follow_the_law_of_paths() -> None:
    bench = bench_of("markov")
    paths = bench.paths
    sampler = PathSampler(bench)
    student = student_of(bench, bench.first_logits)
    rng = np.random.default_rng(5)
    size = 40_000
    drawn = sampler.rollouts(student, rng.random((size, sampler.longest)))
    prob = np.exp(paths.path_logp(student.edge_logp))
    rate = np.bincount(drawn, minlength=len(prob)) / size
    error = np.sqrt(prob * (1 - prob) / size)
    assert (np.abs(rate - prob) < 5 * error + 3 / size).all()
    answers = sampler.answers(rng.random(size))
    assert paths.is_canonical[answers].all()
    shares = np.bincount(paths.text_of[answers], minlength=len(bench.world.texts)) / size
    law = bench.world.teacher_law
    assert (np.abs(shares - law) < 5 * np.sqrt(law * (1 - law) / size) + 3 / size).all()


def test_equal_settings_give_equal_worlds_and_other_seeds_others() -> None:
    settings = WorldSettings(kind="lexicon", size=30, seed=4)
    first, again = make_world(settings), make_world(settings)
    other = make_world(WorldSettings(kind="lexicon", size=30, seed=5))
    assert first.texts == again.texts and (first.student_law == again.student_law).all()
    assert first.teacher.vocabulary_bytes() == again.teacher.vocabulary_bytes()
    assert first.texts != other.texts
    assert first.teacher_law.sum() == pytest.approx(1.0) and first.teacher_law.min() > 0


def test_worlds_that_cannot_be_meant() -> None:
    with pytest.raises(UsageError, match="lexicon, context"):
        make_world(WorldSettings(kind="novel"))
    with pytest.raises(UsageError, match="one tokenizer"):
        make_world(WorldSettings(kind="same", teacher_merges=10, student_merges=11))
    with pytest.raises(UsageError, match=r"108 texts"):
        make_world(WorldSettings(kind="indentation", teacher_merges=9, student_merges=9, size=109))
    with pytest.raises(UsageError, match=r"at most [0-9.]+ nats") as refused:
        make_world(WorldSettings(size=30, start_kl=20.0))
    most = float(re.findall(r"at most ([0-9.]+) nats", str(refused.value))[0])
    world = make_world(WorldSettings(size=30, start_kl=most))
    ratio = np.log(world.student_law) - np.log(world.teacher_law)
    assert float(world.student_law @ ratio) == pytest.approx(most, abs=1e-9)
    same = make_world(WorldSettings(kind="same", teacher_merges=10, student_merges=10, size=20))
    assert same.student.same_ids_as(same.teacher)


def test_ragged_places() -> None:
    places, sizes = ragged(np.array([0, 2, 2, 5]), np.array([2, 1, 0, 2]))
    assert places.tolist() == [2, 3, 4, 0, 1, 2, 3, 4]
    assert sizes.tolist() == [3, 0, 2, 3]


def test_intervals_are_students_on_a_log_scale() -> None:
    # mean 2, standard deviation 1, standard error 1 / sqrt(3), relative to the mean half of that; 4.303 is
    # the two-sided 95 % point of 2 degrees of freedom
    mean, interval = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2.0 and interval is not None
    factor = np.exp(4.303 / (2 * 3**0.5))
    assert interval == pytest.approx((2 / factor, 2 * factor), abs=2e-3)
    assert mean_interval([4.0]) == (4.0, None)
    # of these Student's t on the plain scale would go from -.0019 on
    _, spread = mean_interval([1e-4, 1e-4, 4e-3])
    assert spread is not None and 0 < spread[0] < 1.4e-3 < spread[1]
    assert mean_interval([0.0, 0.0]) == (0.0, (0.0, 0.0))
    # a share is never above 1
    _, of_share = mean_interval([0.0, 0.0, 0.3], most=1.0)
    assert of_share is not None and of_share[1] == 1.0
