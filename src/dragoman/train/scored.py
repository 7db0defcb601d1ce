"""From a padded batch to what a loss is a function of: the student scores the supervised tokens."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dragoman.models import Candidates, TokenScores
from dragoman.objective import Scored, ScoredRows, ScoredUnits
from dragoman.types import Rows, TrainBatch, Units


def score_batch(scorer: nn.Module, batch: TrainBatch, device: torch.device) -> Scored:
    """Score a batch by a `TokenScorer`, wrapped or not; gradients as it gives them."""

    def on_device(array: np.ndarray | None) -> Tensor | None:
        return None if array is None else torch.from_numpy(array).to(device)

    places = (batch.input_ids, batch.attention_mask, batch.row, batch.column, batch.target, batch.is_stop)
    candidates = None if batch.rows is None else _candidates(batch.rows, device)
    num_sorted = 0 if batch.sorted_logp is None else batch.sorted_logp.shape[1]
    scores: TokenScores = scorer(
        *(on_device(array) for array in places), candidates=candidates, num_sorted=num_sorted
    )
    return Scored(
        logp=scores.logp,
        entropy=scores.entropy,
        weight=torch.from_numpy(batch.weight).to(device),
        behaviour_logp=on_device(batch.behaviour_logp),
        reference_logp=on_device(batch.reference_logp),
        credit=on_device(batch.credit),
        rows=_rows(batch.rows, candidates, scores),
        units=None if batch.units is None else _units(batch.units, device),
        student_sorted=scores.sorted_logp,
        teacher_sorted=on_device(batch.sorted_logp),
    )


def _candidates(rows: Rows, device: torch.device) -> Candidates:
    row = torch.from_numpy(np.repeat(np.arange(len(rows)), rows.num_candidates)).to(device)
    ids = torch.from_numpy(rows.ids).to(device)
    if rows.member_bounds is None:
        return Candidates(row, ids)
    members = np.repeat(np.arange(len(rows.logp)), np.diff(rows.member_bounds))
    weight = None if rows.log_weight is None else torch.from_numpy(rows.log_weight).to(device)
    return Candidates(row, ids, torch.from_numpy(members).to(device), weight)


def _rows(rows: Rows | None, candidates: Candidates | None, scores: TokenScores) -> ScoredRows | None:
    if rows is None or candidates is None:
        return None
    assert scores.candidate_logp is not None and scores.rest_logp is not None
    device = scores.logp.device
    return ScoredRows(
        row_of=candidates.row,
        teacher_logp=torch.from_numpy(rows.logp).to(device),
        student_logp=scores.candidate_logp,
        teacher_rest=torch.from_numpy(rows.residual).to(device).log(),
        student_rest=scores.rest_logp,
        has_row=torch.from_numpy(rows.has_row).to(device),
        partial=None if rows.partial is None else torch.from_numpy(rows.partial).to(device),
    )


def _units(units: Units, device: torch.device) -> ScoredUnits:
    return ScoredUnits(
        unit_of=torch.from_numpy(units.unit_of).to(device),
        teacher_logp=torch.from_numpy(units.teacher_logp).to(device),
        num_teacher=torch.from_numpy(units.num_teacher).to(device),
    )
