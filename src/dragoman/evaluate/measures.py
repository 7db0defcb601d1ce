"""What can be said of scored rollouts: distances per byte, the only unit two tokenizers share."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from jaxtyping import Float32

from dragoman.observe import Metrics, Ratio, Record
from dragoman.supervise.credit.chunks import chunk_sums
from dragoman.types import ChunkKind, DropReason, Event, StopReason, TokenText

REPEAT_LENGTH = 4
"""Repetition is the share of token 4-grams that occurred before in the same response."""


def measure(record: Record) -> Metrics:
    """The figures of one rollout as ratios that add up over rollouts.

    `kl_per_byte`: sum of L_S - L_T over comparable chunks with finite values on both sides, stops
    included, over the bytes of those chunks (nats a byte); its expectation over the student's own
    samples is the reverse KL of the responses. `teacher_bits_per_byte`: the teacher's cost of the same
    bytes. `coverage`: student tokens in those chunks; none of a turn that the teacher's template refuses.
    `normalised_rate`: student tokens in chunks whose bytes the teacher's tokenizer changes.
    `token_inflation`: teacher tokens a student token. `ended/REASON`: rates of the ways to end. Without
    scores only what needs no teacher.
    """
    rollout = record.rollout
    text = rollout.completion
    size = len(text)
    metrics = {
        "noncanonical_rate": Ratio(text.num_noncanonical, size),
        "stop_rate": Ratio(float(rollout.stop is StopReason.STOP), 1),
        "length_tokens": Ratio(size, 1),
        "length_bytes": Ratio(len(text.data), 1),
        "repetition": _repetition(text.ids),
        **{f"ended/{reason.value}": Ratio(float(rollout.stop is reason), 1) for reason in StopReason},
    }
    if rollout.entropy is not None:
        metrics["entropy"] = Ratio(float(rollout.entropy.sum(dtype=np.float64)), size)
    metrics |= _stopping(record) | _distances(record)
    if record.supervision is not None:
        supervised = int((record.supervision.weight > 0).sum())
        metrics["supervised_rate"] = Ratio(supervised, size)
        if record.supervision.credit is not None:
            metrics["clamp_rate"] = Ratio(record.supervision.num_clamped, supervised)
            metrics["credit"] = Ratio(float(record.supervision.credit.sum(dtype=np.float64)), supervised)
        account = record.supervision.account
        if account is not None and account.share is not None:
            metrics["account_share"] = Ratio(account.share, 1)
        reasons = Counter(record.supervision.reason.tolist())
        for reason in DropReason:
            if reason is not DropReason.NONE:
                metrics[f"dropped/{reason.label}"] = Ratio(reasons[reason], size)
        if record.view is None and reasons[DropReason.REFUSED]:
            metrics["coverage"] = Ratio(0, size)
    return Metrics(metrics)


def _distances(record: Record) -> dict[str, Ratio]:
    if record.alignment is None or record.scores is None or record.rollout.behaviour_logp is None:
        return {}
    alignment = record.alignment
    sizes = np.diff(alignment.student_bounds)
    student = chunk_sums(record.rollout.behaviour_logp, alignment.student_bounds)
    teacher = chunk_sums(record.scores.logp, alignment.teacher_bounds)
    known = alignment.comparable & np.isfinite(student) & np.isfinite(teacher)
    num_bytes = int(np.diff(record.rollout.completion.bounds[alignment.student_bounds])[known].sum())
    return {
        "kl_per_byte": Ratio(float((student - teacher)[known].sum()), num_bytes),
        "teacher_bits_per_byte": Ratio(float(-teacher[known].sum()) / math.log(2), num_bytes),
        "coverage": Ratio(int(sizes[known].sum()), int(sizes.sum())),
        "normalised_rate": Ratio(int(sizes[alignment.kind == ChunkKind.NORMALISED].sum()), int(sizes.sum())),
        "token_inflation": Ratio(len(record.scores.logp), int(sizes.sum())),
    }


def _stopping(record: Record) -> dict[str, Ratio]:
    """How likely each side finds an end, at the stops of its own tokens and where these go on.

    `stop_probability`: the stop set's probability at the stop of finished responses. A teacher that is not
    shown the stop, as what precedes it was dropped, has none. `stop_mass`: its mean at the places that are
    no stop, as far as it is known.
    """
    metrics = _stops(
        "student", record.rollout.completion, record.rollout.behaviour_logp, record.rollout.stop_logp
    )
    if record.view is not None and record.scores is not None:
        metrics |= _stops("teacher", record.view.completion, record.scores.logp, record.scores.stop_logp)
    return metrics


def _stops(
    side: str,
    text: TokenText,
    logp: Float32[np.ndarray, " N"] | None,
    stop_logp: Float32[np.ndarray, " N"] | None,
) -> dict[str, Ratio]:
    is_stop = text.event == Event.STOP
    metrics: dict[str, Ratio] = {}
    if logp is not None:
        metrics[f"stop_probability/{side}"] = _mean_probability(logp[is_stop])
    if stop_logp is not None:
        metrics[f"stop_mass/{side}"] = _mean_probability(stop_logp[~is_stop])
    return metrics


def _mean_probability(logp: Float32[np.ndarray, " N"]) -> Ratio:
    """Mean of the probabilities that are known."""
    known = logp[~np.isnan(logp)].astype(np.float64)
    return Ratio(float(np.exp(known).sum()), len(known))


def _repetition(ids: np.ndarray) -> Ratio:
    if len(ids) < REPEAT_LENGTH:
        return Ratio(0.0, 0.0)
    grams = np.lib.stride_tricks.sliding_window_view(ids, REPEAT_LENGTH)
    return Ratio(len(grams) - len(np.unique(grams, axis=0)), len(grams))
