"""Methods whose signal is a row of teacher mass on student tokens: divergences between distributions.

T is the teacher's distribution, S the student's; a row and its residual sum to 1.
"""

from __future__ import annotations

from functools import partial

from dragoman.methods.method import ROW_SETTINGS, TOPK, Method, Signal
from dragoman.methods.sampled import GUARDED
from dragoman.types import TeacherLevel

ROW_DIVERGENCE = "dragoman.objective.rows:row_divergence"

_rows = partial(
    Method,
    level=TeacherLevel.TOPK,
    signal=Signal.ROWS,
    objective=ROW_DIVERGENCE,
    settings=ROW_SETTINGS,
    defaults={"teacher.topk": TOPK},
)

ROWS: tuple[Method, ...] = (
    _rows(
        name="shared",
        summary="tokens that both vocabularies have, at 1:1 chunks, both sides renormalised",
        formula="KL(S(. | C) || T(. | C)) at 1:1 chunks, C the tokens with equal bytes on both sides",
        source="arXiv 2610.08448",
        supervise="dragoman.supervise.rows.shared:build",
        objective="dragoman.objective.shared:shared",
        caveat="mass outside the shared tokens may drift, as nothing holds it",
        settings=(ROW_SETTINGS | {"student_topk"}) - {"reliability"},
        defaults={"teacher.topk": TOPK, "method.divergence": "reverse"},
    ),
    _rows(
        name="bpm",
        summary="byte-prefix marginalisation: mass goes to the longest student prefix of a teacher token",
        formula="row(u) = sum of T(w) over w with longest student prefix u; inside a token, of its remainder",
        source="arXiv 2607.22334",
        supervise="dragoman.supervise.rows.bpm:build",
        caveat="rows of blanks alone are masked, as its authors found that code indentation collapses else",
        defaults={"teacher.topk": TOPK, "method.mask_whitespace": True},
    ),
    _rows(
        name="retok",
        summary="mass goes to the first token of the student's own tokenisation of a teacher token",
        formula="row(u) = sum of T(w) over w spelled (u, ...) by the student; later, (y_1, .., y_n, u, ...)",
        source="dragoman",
        supervise="dragoman.supervise.rows.retok:build",
        caveat="student tokens longer than the teacher's have mass along the sampled text only",
    ),
    _rows(
        name="escd",
        summary="bpm where the teacher draws, and what its longer tokens say of the next student token",
        formula="bpm row by forward KL; behind it -sum_g M_g log sum of S(u) over u that start with rest_g",
        source="arXiv 2609.34738",
        supervise="dragoman.supervise.rows.escd:build",
        caveat="forward KL alone",
        settings=ROW_SETTINGS - {"beta", "entropy_switch", "row_floor"},
    ),
    _rows(
        name="canon",
        summary="masses of sets of student tokens, as fine as the teacher's rows can tell them apart",
        formula="row(set) = sum of T(w) over w behind which the student's next token is in the set",
        source="dragoman",
        supervise="dragoman.supervise.rows.canon:build",
        caveat="inside a teacher token only the proportions of candidates are known",
    ),
    _rows(
        name="canon_span",
        summary="rows of canon, and the credit of span on every token",
        formula="-A_i log S(y_i) with A of span, + row_coef * divergence(row of canon, S)",
        source="dragoman",
        signal=Signal.MIXED,
        supervise="dragoman.supervise.mixed:build_span_canon",
        credit="span",
        objective="dragoman.objective.rows:mixed",
        caveat="two objectives, weighed by credit_coef and row_coef",
        settings=ROW_SETTINGS | {"credit_coef"},
        defaults={**GUARDED, "method.guard_penalty": 1.0, "method.row_coef": 0.1, "teacher.topk": TOPK},
    ),
    _rows(
        name="mixed",
        summary="policy gradient where a chunk's credit is positive, reverse KL to retok rows elsewhere",
        formula="A_i = D where D > 0 or there is no row, else KL(S || row)",
        source="after arXiv 2605.06387; credit and rows: dragoman",
        signal=Signal.MIXED,
        supervise="dragoman.supervise.mixed:build_chunk_retok",
        credit="chunk",
        objective="dragoman.objective.rows:mixed",
        caveat="two objectives, weighed by credit_coef and row_coef",
        settings=ROW_SETTINGS | {"negative", "credit_coef"},
        defaults={
            **GUARDED,
            "teacher.topk": TOPK,
            "method.negative": "divergence",
            "method.divergence": "reverse",
        },
    ),
    _rows(
        name="gkd",
        summary="generalised knowledge distillation: the teacher's row as it is",
        formula="row(u) = T(u); generalised Jensen-Shannon divergence",
        source="Agarwal et al. 2024 (arXiv 2306.13649)",
        supervise="dragoman.supervise.rows.gkd:build",
        caveat="for equal token ids only",
        equal_tokenizers=True,
        defaults={"teacher.topk": TOPK, "method.divergence": "jsd", "method.beta": 0.5},
    ),
)
