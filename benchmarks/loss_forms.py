"""Losses on an output head in several forms, for `loss_kernels.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dragoman.config import MethodConfig
from dragoman.models import Candidates, TokenScores
from dragoman.models.candidates import pieces
from dragoman.models.fused import fused_loss
from dragoman.models.scoring import LEAST_SLICE, SLICE_VALUES
from dragoman.models.slices import Asked, scores_of_slice
from dragoman.objective import Scored, ScoredRows, row_divergence

CANDIDATES = 32
SETTINGS = MethodConfig(divergence="reverse")


class Problem(NamedTuple):
    """Hidden states and a head, what is wanted of them, and the teacher's rows."""

    hidden: Tensor
    head: nn.Linear
    target: Tensor
    credit: Tensor
    candidates: Candidates
    teacher: Tensor
    slice_size: int


def make_problem(positions: int, num_ids: int, width: int) -> Problem:
    """Peaked random distributions, as a language model's are; rows of the likeliest of a second one."""
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(width, num_ids, bias=False)
    nn.init.normal_(head.weight, std=3.0 * width**-0.5, generator=generator)
    hidden = torch.randn((positions, width), generator=generator).requires_grad_()
    first = torch.randperm(num_ids, generator=generator)[:CANDIDATES]
    shift = torch.randint(num_ids, (positions, 1), generator=generator)
    ids = ((first + shift) % num_ids).sort().values  # different ones in each row
    mass = torch.rand((positions, CANDIDATES), generator=generator) + 1e-3
    teacher = 0.9 * mass / mass.sum(-1, keepdim=True)
    return Problem(
        hidden=hidden,
        head=head,
        target=ids[:, 0].clone(),
        credit=torch.randn(positions, generator=generator),
        candidates=Candidates(torch.arange(positions).repeat_interleave(CANDIDATES), ids.reshape(-1)),
        teacher=teacher,
        slice_size=max(LEAST_SLICE, SLICE_VALUES["cpu"] // num_ids),
    )


# --- losses, on the scores of a slice and on whole log-probs


def credit_of_slice(problem: Problem, scores: TokenScores, tokens: slice) -> Tensor:
    return -(problem.credit[tokens] * scores.logp).sum()


def credit_plain(problem: Problem, logp: Tensor) -> Tensor:
    return -(problem.credit * logp.gather(-1, problem.target[:, None])[:, 0]).sum()


def rows_of_slice(problem: Problem, scores: TokenScores, tokens: slice) -> Tensor:
    """The objective that training runs."""
    assert scores.candidate_logp is not None and scores.rest_logp is not None
    size = len(scores.logp)
    rows = ScoredRows(
        row_of=torch.arange(size).repeat_interleave(CANDIDATES),
        teacher_logp=problem.teacher[tokens].log().reshape(-1),
        student_logp=scores.candidate_logp,
        teacher_rest=torch.full((size,), 0.1).log(),
        student_rest=scores.rest_logp,
        has_row=torch.ones(size, dtype=torch.bool),
    )
    return row_divergence(Scored(logp=scores.logp, weight=torch.ones(size), rows=rows), SETTINGS).total


def rows_plain(problem: Problem, logp: Tensor) -> Tensor:
    inside = logp.gather(-1, problem.candidates.ids.view(len(logp), -1))
    rest = (1.0 - inside.exp().sum(-1)).log()
    gap = (inside.exp() * (inside - problem.teacher.log())).sum()
    return gap + (rest.exp() * (rest - torch.tensor(0.1).log())).sum()


class Loss(NamedTuple):
    """One loss in its two forms."""

    of_slice: Callable[[Problem, TokenScores, slice], Tensor]
    plain: Callable[[Problem, Tensor], Tensor]
    has_rows: bool
    has_entropy: bool = False


def entropy_of_slice(problem: Problem, scores: TokenScores, tokens: slice) -> Tensor:
    assert scores.entropy is not None
    return credit_of_slice(problem, scores, tokens) - 0.1 * scores.entropy.sum()


def entropy_plain(problem: Problem, logp: Tensor) -> Tensor:
    return credit_plain(problem, logp) + 0.1 * (logp.exp() * logp).sum()


LOSSES = {
    "credit": Loss(credit_of_slice, credit_plain, False),
    "rows": Loss(rows_of_slice, rows_plain, True),
    "entropy": Loss(entropy_of_slice, entropy_plain, False, True),
}


# --- forms


def plain(problem: Problem, loss: Loss) -> Tensor:
    return loss.plain(problem, problem.head(problem.hidden).log_softmax(-1))


def recomputed(problem: Problem, loss: Loss) -> Tensor:
    slices, asked = parts(problem, loss)
    total = torch.zeros(())
    for piece, own in zip(slices, asked, strict=True):
        scores = checkpoint(scores_of_slice, problem.head, problem.hidden[piece], own, use_reentrant=False)
        total = total + loss.of_slice(problem, scores, piece)
    return total


def fused(problem: Problem, loss: Loss) -> Tensor:
    slices, asked = parts(problem, loss)

    def of_slice(scores: TokenScores, own: slice) -> Tensor:
        return loss.of_slice(problem, scores, own)

    return fused_loss(problem.hidden, problem.head, slices, asked, of_slice, in_place=True)


def parts(problem: Problem, loss: Loss) -> tuple[list[slice], list[Asked]]:
    """Slices of positions, and what is wanted of each."""
    size = problem.slice_size
    slices = [slice(at, min(at + size, len(problem.hidden))) for at in range(0, len(problem.hidden), size)]
    own = pieces(problem.candidates, slices) if loss.has_rows else [None] * len(slices)
    nothing = torch.zeros(len(problem.hidden), dtype=torch.bool)
    stops = torch.zeros(0, dtype=torch.long)
    return slices, [
        Asked(
            target=problem.target[piece],
            is_stop=nothing[piece],
            stop_ids=stops,
            candidates=some,
            entropy=loss.has_entropy,
        )
        for piece, some in zip(slices, own, strict=True)
    ]


FORMS: dict[str, Callable[[Problem, Loss], Tensor]] = {
    "plain": plain,
    "recomputed": recomputed,
    "fused": fused,
}
