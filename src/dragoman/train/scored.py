"""From a padded batch to its loss: the student scores the supervised tokens, a slice of them at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dragoman.config import MethodConfig
from dragoman.models import Candidates, TokenScores
from dragoman.objective import LossOutput, Objective, Scored, ScoredRows, ScoredUnits
from dragoman.observe import Metrics
from dragoman.types import Rows, TrainBatch, Units


def batch_loss(
    scorer: nn.Module,
    batch: TrainBatch,
    objective: Objective,
    settings: MethodConfig,
    device: torch.device,
    *,
    scale: float = 1.0,
    in_place: bool = False,
) -> LossOutput:
    """`scale` times the loss of a batch under a `TokenScorer`, wrapped or not, as a sum over slices of its
    tokens; `in_place` is for a loss that is run backward as it is, in a process that shares its gradients
    with nobody (`dragoman.models.fused`).

    A batch without a token (each response refused, say) has the loss 0, but takes part in a reduction of
    gradients.
    """
    on_device = _OnDevice(batch, device)
    loss = _BatchLoss(on_device, objective, settings)
    total = scorer(**on_device.asked, loss=loss, unit_of=on_device.unit_of, scale=scale, in_place=in_place)
    return LossOutput(total=total, metrics=loss.metrics)


def score_batch(scorer: nn.Module, batch: TrainBatch, device: torch.device) -> Scored:
    """Score a whole batch by a `TokenScorer`, wrapped or not; gradients as it gives them."""
    on_device = _OnDevice(batch, device)
    return on_device.scored(scorer(**on_device.asked), slice(0, len(batch.target)))


class _BatchLoss:
    """A `SliceLoss`: the objective on the tokens of a slice. Keeps the metrics."""

    def __init__(self, batch: _OnDevice, objective: Objective, settings: MethodConfig) -> None:
        self._batch = batch
        self.metrics = Metrics()
        self._objective = objective
        self._settings = settings

    def __call__(self, scores: TokenScores, tokens: slice) -> Float[Tensor, ""]:
        if not len(scores.logp):
            return scores.logp.sum()
        output = self._objective(self._batch.scored(scores, tokens), self._settings)
        self.metrics = self.metrics.merge(output.metrics)
        return output.total


class _TeacherRows(NamedTuple):
    """The teacher's side of all rows; `rest` is the log of what is outside the candidates."""

    logp: Float[Tensor, " C"]
    rest: Float[Tensor, " N"]
    has_row: Bool[Tensor, " N"]
    partial: Bool[Tensor, " N"] | None


class _OnDevice:
    """A batch as tensors."""

    def __init__(self, batch: TrainBatch, device: torch.device) -> None:
        def moved(array: np.ndarray | None) -> Tensor | None:
            return None if array is None else torch.from_numpy(array).to(device)

        self.candidates = None if batch.rows is None else _candidates(batch.rows, device)
        self._weight = torch.from_numpy(batch.weight).to(device)
        self._behaviour_logp = moved(batch.behaviour_logp)
        self._reference_logp = moved(batch.reference_logp)
        self._credit = moved(batch.credit)
        self._teacher_sorted = moved(batch.sorted_logp)
        self._rows = None if batch.rows is None else _teacher_rows(batch.rows, device)
        self._units = None if batch.units is None else _units(batch.units, device)
        places = ("input_ids", "position_ids", "row", "column", "target", "is_stop")
        self.asked: dict[str, Any] = {name: moved(getattr(batch, name)) for name in places} | {
            "candidates": self.candidates,
            "num_sorted": 0 if batch.sorted_logp is None else batch.sorted_logp.shape[1],
        }
        """What a `TokenScorer` is called with."""

    @property
    def unit_of(self) -> Tensor | None:
        """The unit of each token."""
        return None if self._units is None else self._units.unit_of

    def scored(self, scores: TokenScores, tokens: slice) -> Scored:
        """Some of the tokens, of which these are the scores."""

        def own(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[tokens]

        return Scored(
            logp=scores.logp,
            weight=self._weight[tokens],
            behaviour_logp=own(self._behaviour_logp),
            reference_logp=own(self._reference_logp),
            credit=own(self._credit),
            rows=self._scored_rows(scores, tokens),
            units=self._scored_units(tokens),
            student_sorted=scores.sorted_logp,
            teacher_sorted=own(self._teacher_sorted),
        )

    def _scored_rows(self, scores: TokenScores, tokens: slice) -> ScoredRows | None:
        if self._rows is None or self.candidates is None:
            return None
        assert scores.candidate_logp is not None and scores.rest_logp is not None
        ends = torch.tensor([tokens.start, tokens.stop], device=self.candidates.row.device)
        first, last = torch.searchsorted(self.candidates.row, ends).tolist()
        teacher = self._rows
        return ScoredRows(
            row_of=self.candidates.row[first:last] - tokens.start,
            teacher_logp=teacher.logp[first:last],
            student_logp=scores.candidate_logp,
            teacher_rest=teacher.rest[tokens],
            student_rest=scores.rest_logp,
            has_row=teacher.has_row[tokens],
            partial=None if teacher.partial is None else teacher.partial[tokens],
        )

    def _scored_units(self, tokens: slice) -> ScoredUnits | None:
        """The units of some tokens, numbered from the first of them on."""
        if self._units is None:
            return None
        unit_of = self._units.unit_of[tokens]
        inside = unit_of[unit_of >= 0]
        first, last = (int(inside.min()), int(inside.max()) + 1) if len(inside) else (0, 0)
        return ScoredUnits(
            unit_of=torch.where(unit_of >= 0, unit_of - first, unit_of),
            teacher_logp=self._units.teacher_logp[first:last],
            num_teacher=self._units.num_teacher[first:last],
        )


def _candidates(rows: Rows, device: torch.device) -> Candidates:
    row = torch.from_numpy(np.repeat(np.arange(len(rows)), rows.num_candidates)).to(device)
    ids = torch.from_numpy(rows.ids).to(device)
    if rows.member_bounds is None:
        return Candidates(row, ids)
    members = np.repeat(np.arange(len(rows.logp)), np.diff(rows.member_bounds))
    weight = None if rows.log_weight is None else torch.from_numpy(rows.log_weight).to(device)
    return Candidates(row, ids, torch.from_numpy(members).to(device), weight)


def _teacher_rows(rows: Rows, device: torch.device) -> _TeacherRows:
    return _TeacherRows(
        logp=torch.from_numpy(rows.logp).to(device),
        rest=torch.from_numpy(rows.residual).to(device).log(),
        has_row=torch.from_numpy(rows.has_row).to(device),
        partial=None if rows.partial is None else torch.from_numpy(rows.partial).to(device),
    )


def _units(units: Units, device: torch.device) -> ScoredUnits:
    return ScoredUnits(
        unit_of=torch.from_numpy(units.unit_of).to(device),
        teacher_logp=torch.from_numpy(units.teacher_logp).to(device),
        num_teacher=torch.from_numpy(units.num_teacher).to(device),
    )
