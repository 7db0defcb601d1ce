"""Float64 reference twin of `shared`: one token at a time, plain Python, for tests."""

from __future__ import annotations

from collections.abc import Sequence

from dragoman.config import MethodConfig
from dragoman.objective.reference_rows import Row, row_divergence_reference


def shared_reference(rows: Sequence[Row | None], weight: Sequence[float], settings: MethodConfig) -> float:
    """The sum that `shared` computes; a row lists its candidates (T, S) without a bin for the rest."""
    conditional: list[Row | None] = []
    for row in rows:
        if row is None:
            conditional.append(None)
            continue
        kept = sorted(row, key=lambda bin: -bin[1])[: settings.student_topk]
        sum_t, sum_s = sum(t for t, _ in kept), sum(s for _, s in kept)
        conditional.append([*((t / sum_t, s / sum_s) for t, s in kept), (0.0, 0.0)])
    return row_divergence_reference(conditional, weight, settings)
