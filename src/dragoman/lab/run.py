"""Methods against each other in one world: learning rates tuned alike, then the same seeds for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from dragoman.lab.bench import Bench
from dragoman.lab.exact import standing
from dragoman.lab.figures import drawn_paths, gradient_figures
from dragoman.lab.intervals import mean_interval
from dragoman.lab.methods import LabMethod, signal_of
from dragoman.lab.result import LabSettings, MethodResult, Point, WorldFacts, WorldResult
from dragoman.lab.row_figures import RowFigures, row_figures, with_common
from dragoman.lab.signals import CreditSignal, Signal
from dragoman.lab.tokenizers import num_merges
from dragoman.lab.training import EARLY, Course, train

Progress = Callable[[str], None]
"""Told in words what is being done."""

_TUNING, _RUNS = 0, 1
"""Streams of random numbers, so that no seed is used both to tune and to measure."""


def silent(text: str) -> None:
    """Progress that nobody watches."""


def run_world(
    bench: Bench, methods: Sequence[LabMethod], settings: LabSettings, progress: Progress = silent
) -> WorldResult:
    """Measure methods in a world."""
    found = []
    for method in methods:
        progress(f"{bench.world.settings.name}: {method.label}")
        found.append(run_method(bench, method, settings))
    rows = with_common([one.rows for one in found])
    found = [replace(one, rows=of_one) for one, of_one in zip(found, rows, strict=True)]
    return WorldResult(
        world=bench.world.settings, settings=settings, facts=world_facts(bench), methods=tuple(found)
    )


def run_method(bench: Bench, method: LabMethod, settings: LabSettings) -> MethodResult:
    """Tune, train and measure one method."""
    began = time.perf_counter()
    signal = signal_of(bench, method)

    def course(rate: float, stream: int, seed: int, marks: Sequence[int] | None = None) -> Course:
        return train(
            bench,
            signal,
            lr=rate,
            seed=(stream, seed),
            updates=settings.updates,
            samples=settings.samples,
            by_teacher=method.by_teacher,
            marks=marks,
        )

    tuning = {
        rate: float(
            np.mean(
                [
                    course(rate, _TUNING, seed, (settings.updates,)).last.text_kl
                    for seed in range(settings.tuning_seeds)
                ]
            )
        )
        for rate in (settings.rates if len(settings.rates) > 1 else ())
    }
    rate = min(tuning, key=lambda one: tuning[one]) if tuning else settings.rates[0]
    tuned = time.perf_counter()
    courses = [course(rate, _RUNS, seed) for seed in range(settings.seeds)]
    seconds_a_run = (time.perf_counter() - tuned) / settings.seeds
    curve = tuple(_point(courses, update) for update in courses[0].updates)
    early = next(point for point in curve if point.update == settings.updates // EARLY)
    return MethodResult(
        label=method.label,
        name=method.method.name,
        summary=method.method.summary,
        level=None if method.method.level is None else int(method.method.level),
        signal=method.method.signal.value,
        lr=rate,
        tuning=tuning,
        curve=curve,
        early=early,
        by_seed=tuple(one.last.text_kl for one in courses),
        noncanonical_by_seed=tuple(one.last.noncanonical for one in courses),
        gradient=gradient_figures(
            bench,
            signal,
            bench.first_logits,
            by_teacher=method.by_teacher,
            cover=1.0 if isinstance(signal, CreditSignal) else settings.cover,
            batch=settings.samples,
        ),
        rows=_rows(bench, signal, settings),
        seconds=time.perf_counter() - began,
        seconds_a_run=seconds_a_run,
    )


def world_facts(bench: Bench) -> WorldFacts:
    """What a world is like."""
    world, paths = bench.world, bench.paths
    law = world.teacher_law
    start = standing(paths, bench.first_logits)
    shared = bench.tables.shared
    teacher_text = sum(1 for data in world.teacher.vocabulary_bytes() if data)
    lengths = np.diff(paths.bounds)[paths.canonical_path]
    return WorldFacts(
        num_texts=len(world.texts),
        num_paths=len(paths.text_of),
        num_states=paths.num_states,
        num_edges=len(paths.edge_state),
        teacher_merges=num_merges(world.teacher),
        student_merges=num_merges(world.student),
        student_vocabulary=world.student.num_ids,
        teacher_vocabulary=world.teacher.num_ids,
        shared=len(shared.teacher_ids) / teacher_text,
        student_tokens=float((law * lengths).sum()),
        teacher_tokens=float((law * np.array([len(text) for text in bench.teacher.texts])).sum()),
        entropy=-float((law * np.log(law)).sum()),
        text_kl=start.text_kl,
        token_kl=start.token_kl,
        noncanonical=start.noncanonical,
    )


def _rows(bench: Bench, signal: Signal, settings: LabSettings) -> RowFigures | None:
    if isinstance(signal, CreditSignal):
        return None
    from dragoman.lab.dense import ObjectiveSignal

    assert isinstance(signal, ObjectiveSignal)
    picked, prob = drawn_paths(bench, bench.first_logits, by_teacher=False, cover=settings.cover)
    return row_figures(bench, signal, bench.first_logp, picked, prob)


def _point(courses: Sequence[Course], update: int) -> Point:
    """Means over runs at one time."""
    standings = [one.after(update) for one in courses]
    text_kl, text_kl_ci = mean_interval([one.text_kl for one in standings])
    noncanonical, noncanonical_ci = mean_interval([one.noncanonical for one in standings], most=1.0)
    return Point(
        update=update,
        text_kl=text_kl,
        text_kl_ci=text_kl_ci,
        token_kl=float(np.mean([one.token_kl for one in standings])),
        noncanonical=noncanonical,
        noncanonical_ci=noncanonical_ci,
    )
