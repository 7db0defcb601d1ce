"""Sampled-token supervision: credits from the teacher's log-probs of what the student wrote.

Every student token ends with a credit or with the one reason why it has none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from dragoman.config import MethodConfig
from dragoman.supervise.boundaries import Boundaries
from dragoman.supervise.credit import CREDITS, Chunks, CreditRule
from dragoman.supervise.credit.span import Accounts, accounts
from dragoman.supervise.guard import Guard, Guarded, guarded, spread
from dragoman.supervise.marginal import Marginals
from dragoman.supervise.reasons import check_axes, chunk_reasons, odd_chunks
from dragoman.text.pair import PairTables
from dragoman.types import Account, Alignment, DropReason, Rollout, Supervision, TeacherScores

Supervise = Callable[[Rollout, TeacherScores, Alignment], Supervision]
Build = Callable[[PairTables, MethodConfig], Supervise]


@dataclass(frozen=True, kw_only=True)
class SampledSettings:
    """Constants of sampled supervision: credits in nats, sizes in tokens.

    Under a guard an odd chunk does not count: its log-probs reach no rule, so it adds nothing to the sums
    of chunks before it, and it ends its segment. Under `penalty` each of its tokens has the credit
    `-guard_penalty`, which the clamp does not touch and which is in no sum either.
    """

    credit: CreditRule
    guard: Guard = Guard.OFF
    guard_penalty: float = 3.0
    clamp: float | None = None
    max_chunk_tokens: int | None = None
    mask_normalised: bool = False
    boundaries: Boundaries | None = None
    """Where segments end; needed by `segment` and `span`."""
    spans: bool = False
    """Whether segments are spans (`Boundaries.span_of`), of which one odd chunk makes all odd. Credits are
    then of the own span alone until `settle` has seen the whole step."""
    marginals: Marginals | None = None
    """Needed by `marginal` and `marginal_rtg`."""


def builder(rule: str) -> Build:
    """The supervision of a credit rule by its name in `CREDITS`, for a pair and the settings of a run."""

    def build(tables: PairTables, config: MethodConfig) -> Supervise:
        settings = SampledSettings(
            credit=CREDITS[rule],
            guard=Guard(config.guard),
            guard_penalty=config.guard_penalty,
            clamp=config.clamp,
            max_chunk_tokens=config.max_chunk_tokens,
            mask_normalised=config.normalised == "mask",
            boundaries=Boundaries.of_pair(tables) if rule in ("segment", "span") else None,
            spans=rule == "span",
            marginals=Marginals(tables) if rule in ("marginal", "marginal_rtg") else None,
        )
        return lambda rollout, scores, alignment: supervise_sampled(rollout, scores, alignment, settings)

    return build


build_chunk = builder("chunk")
build_uniform = builder("uniform")
build_semantic_prior = builder("semantic_prior")
build_segment = builder("segment")
build_span = builder("span")
build_marginal = builder("marginal")
build_marginal_rtg = builder("marginal_rtg")


def supervise_sampled(
    rollout: Rollout, scores: TeacherScores, alignment: Alignment, settings: SampledSettings
) -> Supervision:
    """Credits for the sampled tokens of one rollout.

    Raises ValueError for a rollout without behaviour log-probs, whose axes do not fit the alignment, or
    whose settings or scores lack what the rule needs.
    """
    if rollout.behaviour_logp is None:
        raise ValueError(f"rollout {rollout.key} has no behaviour log-probs, which sampled credit needs")
    check_axes(rollout, scores, alignment)
    reason = chunk_reasons(
        rollout,
        scores,
        alignment,
        max_chunk_tokens=settings.max_chunk_tokens,
        mask_normalised=settings.mask_normalised,
    )
    odd = odd_chunks(rollout, alignment)
    span_of = None
    if settings.spans and settings.boundaries is not None:
        span_of = settings.boundaries.span_of(rollout.completion, alignment, reason == DropReason.NONE)
        odd = spread(odd, span_of)
    verdict = guarded(settings.guard, reason, odd)
    chunks = _chunks(rollout, scores, alignment, verdict.counts, settings, span_of)
    of = alignment.chunk_of
    account = None
    if settings.spans:
        account = _account(accounts(chunks), of, verdict, settings)
        credit = account.own
    else:
        credit = settings.credit(chunks)
    num_clamped = 0
    if settings.clamp is not None:
        num_clamped = int((np.abs(credit[verdict.counts[of]]) > settings.clamp).sum())
        credit = np.clip(credit, -settings.clamp, settings.clamp)
    credit = np.where(verdict.counts[of], credit, 0.0)
    credit = np.where(verdict.penalised[of], -settings.guard_penalty, credit)
    return Supervision(
        weight=(verdict.reason == DropReason.NONE)[of].astype(np.float32),
        reason=verdict.reason[of],
        chunk_of=of,
        credit=credit.astype(np.float32),
        num_clamped=num_clamped,
        account=account,
    )


def _account(
    found: Accounts, of: Int64[np.ndarray, " S"], verdict: Guarded, settings: SampledSettings
) -> Account:
    """The accounts of chunks as those of tokens."""
    return Account(
        own=found.own[of],
        neighbours=found.neighbours[of],
        is_open=verdict.counts[of],
        is_penalised=verdict.penalised[of],
        penalty=settings.guard_penalty,
        pairs=found.pairs,
        clamp=settings.clamp,
    )


def _chunks(
    rollout: Rollout,
    scores: TeacherScores,
    alignment: Alignment,
    counts: Bool[np.ndarray, " C"],
    settings: SampledSettings,
    span_of: Int64[np.ndarray, " C"] | None,
) -> Chunks:
    """What the rule is given: the log-probs of chunks that count, zeros for the others."""
    logp, of = rollout.behaviour_logp, alignment.chunk_of
    assert logp is not None
    text = rollout.completion
    segment_of, step_logp = span_of, None
    if settings.boundaries is not None and segment_of is None:
        segment_of = settings.boundaries.segment_of(text, alignment, counts)
    if settings.marginals is not None:
        step_logp = settings.marginals.steps(text, scores, alignment, counts).logp
    return Chunks(
        logp=np.where(counts[of], logp, 0.0).astype(np.float64),
        chunk_of=of,
        num_student=np.diff(alignment.student_bounds),
        student_sum=np.where(counts, chunk_sums(logp, alignment.student_bounds), 0.0),
        teacher_sum=np.where(counts, chunk_sums(scores.logp, alignment.teacher_bounds), 0.0),
        segment_of=segment_of,
        step_logp=step_logp,
    )


def chunk_sums(values: np.ndarray, bounds: Int64[np.ndarray, " C_plus_1"]) -> Float64[np.ndarray, " C"]:
    """Sums of `values[bounds[c]:bounds[c + 1]]` in float64; exact for one value, 0 for none."""
    if len(bounds) == 1:
        return np.zeros(0, np.float64)
    padded = np.append(values.astype(np.float64), 0.0)
    return np.where(np.diff(bounds) > 0, np.add.reduceat(padded, bounds[:-1]), 0.0)
