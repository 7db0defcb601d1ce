"""What the lab might have found, made up by hand, for views of it."""

from __future__ import annotations

import numpy as np

from dragoman.lab.figures import GradientFigures, Likeness
from dragoman.lab.result import QUICK, LabSettings, MethodResult, Point, WorldFacts, WorldResult
from dragoman.lab.row_figures import Places, RowFigures
from dragoman.lab.worlds import WorldSettings

START = 0.4281


def method_result(
    label: str,
    text_kl: float,
    noncanonical: float = 0.01,
    *,
    total_variation: float | None = None,
    odd_push: float = 0.2,
) -> MethodResult:
    """A method that goes straight from the start to `text_kl` in 4 updates, with rows if these have a total
    variation; the student's own is .15."""
    curve = tuple(
        Point(
            update=update,
            text_kl=START + (text_kl - START) * update / 4,
            text_kl_ci=None if update == 0 else (0.9 * text_kl, 1.1 * text_kl),
            token_kl=0.1,
            noncanonical=noncanonical,
            noncanonical_ci=None,
        )
        for update in (0, 1, 4)
    )
    rows = None
    if total_variation is not None:
        rows = RowFigures(
            total_variation=total_variation,
            student_total_variation=0.15,
            residual=0.03,
            row_rate=0.98,
            labels={"lower": 1.0},
            kept={"lower": 0.75},
            places=Places(weight=np.ones(1), total_variation=np.full(1, total_variation)),
            common_total_variation=total_variation,
            common_rate=0.98,
        )
    like = Likeness(cosine=0.9, norm_ratio=1.1, bias=0.4, rmse=0.8)
    return MethodResult(
        label=label,
        name=label.partition("[")[0],
        summary=f"what {label} does",
        level=0 if rows is None else 1,
        signal="credit" if rows is None else "rows",
        lr=0.03,
        tuning={0.01: 0.2, 0.03: 0.1, 0.1: 0.3},
        curve=curve,
        early=curve[1],
        by_seed=(text_kl,),
        noncanonical_by_seed=(noncanonical,),
        gradient=GradientFigures(covered=1.0, token=like, text=like, variance=40.0, odd_push=odd_push),
        rows=rows,
        seconds=2.0,
        seconds_a_run=0.5,
    )


def world_result(
    *methods: MethodResult, kind: str = "lexicon", seed: int = 0, settings: LabSettings = QUICK
) -> WorldResult:
    """A world of 60 texts, for whose teacher 250 merges were asked and 197 found."""
    world = WorldSettings(kind=kind, seed=seed, teacher_merges=250, student_merges=80, size=60)
    facts = WorldFacts(
        num_texts=60,
        num_paths=733,
        num_states=426,
        num_edges=806,
        teacher_merges=197,
        student_merges=80,
        student_vocabulary=99,
        teacher_vocabulary=216,
        shared=0.42,
        student_tokens=3.5,
        teacher_tokens=2.0,
        entropy=3.6,
        text_kl=START,
        token_kl=0.43,
        noncanonical=0.01,
    )
    return WorldResult(world=world, settings=settings, facts=facts, methods=methods)
