"""Exact objectives of a student over all paths, and their gradients with respect to its logits.

`J_text` is KL(S_text || T_text), in nats a text. `J_token` is the sum over canonical token prefixes, each
weighted by the probability that the student takes it, of KL(S || q*), where S is the student's law among the
tokens that keep the text canonical: `q*` is zero on all others, which the share of non-canonical text counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from dragoman.lab.paths import Paths


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How far a student is: nats a text, and the share of its text that is not written canonically."""

    text_kl: float
    token_kl: float
    noncanonical: float


def standing(paths: Paths, logits: Float64[np.ndarray, " E"]) -> Standing:
    """The exact figures of a student."""
    edge_logp = paths.log_law(logits)
    prob = np.exp(paths.path_logp(edge_logp))
    law = paths.text_law(prob)
    written = law > 0  # a text may have become too unlikely for float64; it then adds nothing
    ratio = np.log(law[written]) - np.log(paths.world.teacher_law[written])
    return Standing(
        text_kl=float((law[written] * ratio).sum()),
        token_kl=float(_token_kl(paths, edge_logp)[0]),
        noncanonical=float(prob[~paths.is_canonical].sum()),
    )


def score_gradient(
    paths: Paths,
    edge_logp: Float64[np.ndarray, " E"],
    weight: Float64[np.ndarray, " N"],
) -> Float64[np.ndarray, " E"]:
    """Gradient of `sum_n weight[n] * log S(token n)` in the logits, over the tokens of all paths."""
    pushed = np.bincount(paths.edge, weight, len(edge_logp))
    return centred(paths, edge_logp, pushed)


def centred(
    paths: Paths, edge_logp: Float64[np.ndarray, " E"], pushed: Float64[np.ndarray, " E"]
) -> Float64[np.ndarray, " E"]:
    """Gradient with respect to the logits of `sum_e pushed[e] * log S(e)`."""
    by_state = np.bincount(paths.edge_state, pushed, paths.num_states)
    found: np.ndarray = pushed - np.exp(edge_logp) * by_state[paths.edge_state]
    return found


def canonical_share(paths: Paths, edge_logp: Float64[np.ndarray, " E"]) -> Float64[np.ndarray, " E"]:
    """The student's law among the canonical edges of each state; 0 on all others."""
    prob = np.where(paths.edge_is_canonical, np.exp(edge_logp), 0.0)
    inside = np.bincount(paths.edge_state, prob, paths.num_states)
    share: np.ndarray = prob / np.where(inside > 0, inside, 1.0)[paths.edge_state]
    return share


def text_gradient(paths: Paths, logits: Float64[np.ndarray, " E"]) -> Float64[np.ndarray, " E"]:
    """Gradient of `J_text`: E[(log S_text - log T_text) * grad log S(path)]."""
    edge_logp = paths.log_law(logits)
    prob = np.exp(paths.path_logp(edge_logp))
    ratio = np.log(paths.text_law(prob)) - np.log(paths.world.teacher_law)
    return score_gradient(paths, edge_logp, (prob * ratio[paths.text_of])[paths.path_of])


def token_gradient(paths: Paths, logits: Float64[np.ndarray, " E"]) -> Float64[np.ndarray, " E"]:
    """Gradient of `J_token` with every prefix's weight held fixed: each token is judged alone."""
    edge_logp = paths.log_law(logits)
    _, reach, own_logp, gap = _token_kl(paths, edge_logp)
    kept = paths.edge_is_canonical
    own = np.where(kept, np.exp(own_logp), 0.0)
    by_state = np.bincount(paths.edge_state, own * gap, paths.num_states)
    return np.where(kept, reach * own * (gap - by_state[paths.edge_state]), 0.0)


def _token_kl(paths: Paths, edge_logp: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """`J_token`; and for each edge the probability of reaching its state by canonical tokens, the student's
    log-law among canonical edges and its excess over `q*` (0 off them)."""
    kept = paths.edge_is_canonical
    inside = np.bincount(paths.edge_state, np.where(kept, np.exp(edge_logp), 0.0), paths.num_states)
    log_inside = np.log(np.maximum(inside, np.finfo(float).tiny))
    own_logp = edge_logp - log_inside[paths.edge_state]
    gap = np.where(kept, own_logp - np.log(np.where(kept, paths.target, 1.0)), 0.0)
    path_prob = np.exp(paths.path_logp(edge_logp))
    # Edges of canonical states that continue to complete texts: reach(state) = mass of paths that pass it.
    arriving = np.bincount(paths.edge, path_prob[paths.path_of], len(edge_logp))
    through = np.bincount(paths.edge_state, arriving, paths.num_states)
    reach = through[paths.edge_state]
    own = np.where(kept, np.exp(own_logp), 0.0)
    return float((reach * own * gap).sum()), reach, own_logp, gap
