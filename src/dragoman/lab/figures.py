"""How faithful a method's gradient is: its exact expectation against the exact gradients of the objectives.

Gradients are those of losses with respect to a student's logits, summed over the tokens of a path, so a
method is measured against `J_token` and `J_text` in their own units: nats a text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from dragoman.lab.bench import Bench
from dragoman.lab.exact import canonical_share, text_gradient, token_gradient
from dragoman.lab.paths import Paths
from dragoman.lab.signals import Signal, student_of


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """A method's expected gradient g against an exact one g*, and its error at a batch of B paths.

    `bias` is |g - g*| / |g*|, `rmse` sqrt(|g - g*|^2 + trace of the covariance / B) / |g*|: what a batch
    misses the exact gradient by, root mean square. None where either gradient is zero.
    """

    cosine: float | None
    norm_ratio: float | None
    bias: float | None
    rmse: float | None


@dataclass(frozen=True, kw_only=True)
class GradientFigures:
    """Figures of one method at one student.

    `covered` is the probability of the paths summed over. `variance` is the trace of the covariance of one
    path's gradient over the squared norm of the mean. `odd_push` is how far a step along the mean raises
    the logits of tokens that leave the canonical tokenisations, as a part of its norm: above 0, odd
    segmentations are rewarded.
    """

    covered: float
    token: Likeness
    text: Likeness
    variance: float | None
    odd_push: float | None


def gradient_figures(
    bench: Bench,
    signal: Signal,
    logits: Float64[np.ndarray, " E"],
    *,
    by_teacher: bool = False,
    cover: float = 1.0,
    batch: int = 128,
) -> GradientFigures:
    """Measure a method at a student. `cover` below 1 sums over the likeliest paths that have so much of the
    probability, which is then divided by what they have."""
    paths, student = bench.paths, student_of(bench, logits)
    picked, prob = drawn_paths(bench, logits, by_teacher=by_teacher, cover=cover)
    covered = float(prob.sum())
    push = signal.push(student, picked, prob)
    mean = push.total / covered
    inside = within_canonical(paths, student.edge_logp, mean)
    trace = _trace(push.squares, prob, mean)
    norm = float(np.linalg.norm(mean))
    odd = ~paths.edge_is_canonical & paths.state_is_canonical[paths.edge_state]
    return GradientFigures(
        covered=covered,
        token=likeness(
            inside, token_gradient(paths, logits), _trace(push.canonical_squares, prob, inside) / batch
        ),
        text=likeness(mean, text_gradient(paths, logits), trace / batch),
        variance=trace / norm**2 if norm else None,
        odd_push=-float(mean[odd].sum()) / norm if norm else None,
    )


def _trace(
    squares: Float64[np.ndarray, " P"], prob: Float64[np.ndarray, " P"], mean: Float64[np.ndarray, " E"]
) -> float:
    """Trace of the covariance of one path's gradient, from its squared norms and its mean."""
    return max(float(np.average(squares, weights=prob) - mean @ mean), 0.0)


def drawn_paths(
    bench: Bench, logits: Float64[np.ndarray, " E"], *, by_teacher: bool, cover: float
) -> tuple[Int64[np.ndarray, " P"], Float64[np.ndarray, " P"]]:
    """The likeliest paths that have `cover` of the probability, and theirs."""
    paths = bench.paths
    if by_teacher:
        return paths.canonical_path, bench.world.teacher_law
    prob = np.exp(paths.path_logp(paths.log_law(logits)))
    if cover >= 1.0:
        return np.arange(len(prob)), prob
    order = np.argsort(-prob, kind="stable")
    size = int(np.searchsorted(np.cumsum(prob[order]), cover)) + 1
    picked = np.sort(order[:size])
    return picked, prob[picked]


def within_canonical(
    paths: Paths, edge_logp: Float64[np.ndarray, " E"], gradient: Float64[np.ndarray, " E"]
) -> Float64[np.ndarray, " E"]:
    """The part of a gradient that `J_token` is about: what it does to the law among canonical tokens.

    A gradient on the canonical edges of a state has a sum b, the push on staying canonical; in logits that
    push is b times the law among them, which is taken off. Zero elsewhere.
    """
    kept = paths.edge_is_canonical
    sums = np.bincount(paths.edge_state, np.where(kept, gradient, 0.0), paths.num_states)
    share = canonical_share(paths, edge_logp)
    return np.where(kept, gradient - share * sums[paths.edge_state], 0.0)


def likeness(got: Float64[np.ndarray, " E"], exact: Float64[np.ndarray, " E"], variance: float) -> Likeness:
    """Compare two gradients; `variance` is the trace of the covariance of the estimate."""
    own, norm = float(np.linalg.norm(got)), float(np.linalg.norm(exact))
    if norm == 0:
        return Likeness(cosine=None, norm_ratio=None, bias=None, rmse=None)
    gap = float(np.linalg.norm(got - exact))
    return Likeness(
        cosine=float(got @ exact) / (own * norm) if own else None,
        norm_ratio=own / norm,
        bias=gap / norm,
        rmse=float(np.sqrt(gap**2 + variance)) / norm,
    )
