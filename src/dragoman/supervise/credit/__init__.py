"""Credit rules: how the budget D = L_T - L_S of a chunk reaches its m student tokens, a file each.

Chunks are as in arXiv 2606.09456; p_i are student log-probs, L_S and L_T the chunk's totals on either
side, all in nats. A chunk of one student token gives it all of D, taken as one subtraction, so that equal
tokenizers give plain on-policy distillation bit for bit; under `segment` and `span`, which look beyond the
chunk, that holds for equal tokenizers alone.
"""

from dragoman.supervise.credit import chunk, marginal, marginal_rtg, segment, semantic_prior, span, uniform
from dragoman.supervise.credit.chunks import Chunks, CreditRule
from dragoman.supervise.credit.semantic_prior import NEAR_CERTAIN
from dragoman.supervise.credit.span import OpenAccounts

Rule = CreditRule | OpenAccounts
"""How budgets become credits: at once, or when a whole step is known."""

CREDITS: dict[str, Rule] = {
    "chunk": chunk.credit,
    "uniform": uniform.credit,
    "semantic_prior": semantic_prior.credit,
    "segment": segment.credit,
    "span": span.credit,
    "marginal": marginal.credit,
    "marginal_rtg": marginal_rtg.credit,
}

BOUNDED = ("segment", "span")
"""Rules that look beyond the chunk, and need the pair's boundaries."""
STEPPED = ("marginal", "marginal_rtg")
"""Rules that need the teacher's log-prob of every student token."""

__all__ = [
    "BOUNDED",
    "CREDITS",
    "NEAR_CERTAIN",
    "STEPPED",
    "Chunks",
    "CreditRule",
    "OpenAccounts",
    "Rule",
]
