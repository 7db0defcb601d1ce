"""Sampled-token supervision: credits from the teacher's log-probs of what the student wrote.

Every student token ends with a credit or with the one reason why it has none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float64, Int64

from dragoman.config import MethodConfig
from dragoman.supervise.boundaries import Boundaries
from dragoman.supervise.credit import BOUNDED, CREDITS, STEPPED, Chunks, OpenAccounts, Rule
from dragoman.supervise.credit.chunks import chunk_sums
from dragoman.supervise.credit.span import Accounts
from dragoman.supervise.guard import Guarded
from dragoman.supervise.marginal import Marginals
from dragoman.supervise.reasons import Limits, limits_of, verdict
from dragoman.text.pair import PairTables
from dragoman.types import Account, Alignment, DropReason, Rollout, Supervision, TeacherScores

Supervise = Callable[[Rollout, TeacherScores, Alignment], Supervision]
Build = Callable[[PairTables, MethodConfig], Supervise]


@dataclass(frozen=True, kw_only=True)
class SampledSettings(Limits):
    """Constants of sampled supervision: credits in nats, sizes in tokens.

    Under a guard an odd chunk does not count: its log-probs reach no rule, so it adds nothing to the sums
    of chunks before it, and it ends its segment. Under `penalty` each of its tokens has the credit
    `-guard_penalty`, which the clamp does not touch and which is in no sum either.

    Under a rule of open accounts segments are spans (`Boundaries.span_of`), of which one odd chunk makes all
    odd; credits are of the own span alone and not clamped until `settle` has seen the whole step.
    """

    credit: Rule
    guard_penalty: float = 3.0
    clamp: float | None = None
    boundaries: Boundaries | None = None
    """Where segments end; needed by `segment` and `span`."""
    marginals: Marginals | None = None
    """Needed by `marginal` and `marginal_rtg`."""


def settings_of(
    config: MethodConfig,
    credit: Rule,
    *,
    boundaries: Boundaries | None = None,
    marginals: Marginals | None = None,
) -> SampledSettings:
    """The settings of a rule under a configuration."""
    return SampledSettings(
        **vars(limits_of(config)),
        credit=credit,
        guard_penalty=config.guard_penalty,
        clamp=config.clamp,
        boundaries=boundaries,
        marginals=marginals,
    )


def builder(rule: str) -> Build:
    """The supervision of a credit rule by its name in `CREDITS`, for a pair and the settings of a run."""

    def build(tables: PairTables, config: MethodConfig) -> Supervise:
        settings = settings_of(
            config,
            CREDITS[rule],
            boundaries=Boundaries.of_pair(tables) if rule in BOUNDED else None,
            marginals=Marginals(tables) if rule in STEPPED else None,
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
    rule, boundaries, of = settings.credit, settings.boundaries, alignment.chunk_of
    spans = None
    if isinstance(rule, OpenAccounts) and boundaries is not None:
        spans = partial(boundaries.span_of, rollout.completion, alignment)
    found = verdict(rollout, scores, alignment, settings, span_of=spans)
    chunks = _chunks(rollout, scores, alignment, found, settings)
    account, num_clamped = None, 0
    credit: Float64[np.ndarray, " S"]
    if isinstance(rule, OpenAccounts):
        account = _account(rule.accounts(chunks), of, found, settings)
        credit = account.own
    else:
        credit = rule(chunks)
        if settings.clamp is not None:
            num_clamped = int((np.abs(credit[found.counts[of]]) > settings.clamp).sum())
            credit = np.clip(credit, -settings.clamp, settings.clamp)
    credit = np.where(found.counts[of], credit, 0.0)
    credit = np.where(found.penalised[of], -settings.guard_penalty, credit)
    return Supervision(
        weight=(found.reason == DropReason.NONE)[of].astype(np.float32),
        reason=found.reason[of],
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
    verdict: Guarded,
    settings: SampledSettings,
) -> Chunks:
    """What the rule is given: the log-probs of chunks that count, zeros for the others."""
    logp, of, counts = rollout.behaviour_logp, alignment.chunk_of, verdict.counts
    assert logp is not None
    text = rollout.completion
    segment_of, step_logp = verdict.span_of, None
    if settings.boundaries is not None and segment_of is None:
        segment_of = settings.boundaries.segment_of(text, alignment, counts)
    if settings.marginals is not None:
        step_logp = settings.marginals.steps(text, scores, alignment, counts)
    return Chunks(
        logp=np.where(counts[of], logp, 0.0).astype(np.float64),
        chunk_of=of,
        num_student=np.diff(alignment.student_bounds),
        student_sum=np.where(counts, chunk_sums(logp, alignment.student_bounds), 0.0),
        teacher_sum=np.where(counts, chunk_sums(scores.logp, alignment.teacher_bounds), 0.0),
        counts=counts,
        segment_of=segment_of,
        step_logp=step_logp,
    )
