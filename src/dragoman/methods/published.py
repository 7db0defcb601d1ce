"""Baselines of the literature with a signal of their own, and imitation of answers."""

from __future__ import annotations

from functools import partial

from dragoman.methods.method import ROW_SETTINGS, TOPK, Method, Signal, Writer
from dragoman.methods.rows import ROW_DIVERGENCE
from dragoman.methods.sampled import GUARDED, POLICY_GRADIENT
from dragoman.types import TeacherLevel

CROSS_ENTROPY = "dragoman.objective.cross_entropy:cross_entropy"

_HYBRID = frozenset({"divergence", "beta", "row_topk", "row_floor", "row_coef", "mask_whitespace"})
"""What the objectives of `gold` read."""

_gold = partial(
    Method,
    level=TeacherLevel.LOGITS,
    signal=Signal.SORTED,
    supervise="dragoman.supervise.sorted:build_gold",
    settings=_HYBRID,
    defaults={"teacher.topk": "all", "method.divergence": "jsd", "method.beta": 0.5},
)

PUBLISHED: tuple[Method, ...] = (
    Method(
        name="simct",
        summary="shared tokens and the realised unit as choices among each other, both sides renormalised",
        formula="KL(S' || T') at the start of a unit: softmax of log-probs of tokens, means of units",
        source="Sun et al. 2026 (arXiv 2605.07711)",
        level=TeacherLevel.TOPK,
        signal=Signal.UNITS,
        supervise="dragoman.supervise.units:build_simct",
        objective="dragoman.objective.simct:simct",
        caveat="no distance to the teacher: a student equal to it can have a gradient",
        settings=frozenset({"row_topk", "mask_whitespace"}),
        defaults={"teacher.topk": TOPK},
    ),
    Method(
        name="xtoken",
        summary="X-Token, P-KL: the student's probabilities projected onto the teacher's tokens",
        formula="KL(T || W'S) at the start of a chunk; W: equal bytes 1, else .9 * .1^i on the spelling",
        source="Turuvekere Sreenivas et al. 2026 (arXiv 2605.21699)",
        level=TeacherLevel.TOPK,
        signal=Signal.ROWS,
        supervise="dragoman.supervise.xtoken:build_pkl",
        objective=ROW_DIVERGENCE,
        caveat="made of vocabularies alone: a token spelled in two has mass at its second before its first",
        settings=ROW_SETTINGS,
        defaults={"teacher.topk": TOPK, "method.divergence": "forward"},
    ),
    Method(
        name="xtoken_h",
        summary="X-Token, H-KL: tokens with a main counterpart by KL, the others by rank",
        formula="sum of T (log T - log W'S) over mapped tokens (weight >= .6) + sum_r |s_(r) - t_(r)|",
        source="Turuvekere Sreenivas et al. 2026 (arXiv 2605.21699)",
        level=TeacherLevel.LOGITS,
        signal=Signal.SORTED,
        supervise="dragoman.supervise.xtoken:build_hkl",
        objective="dragoman.objective.sorted:gold",
        caveat="blind to which unmapped token has which probability; the KL of a part is no divergence",
        settings=_HYBRID,
        defaults={"teacher.topk": "all", "method.divergence": "forward"},
    ),
    Method(
        name="uld",
        summary="universal logit distillation: L1 between sorted probabilities",
        formula="sum_r |s_(r) - t_(r)| over ranks r of both vocabularies, at the start of a chunk",
        source="Boizard et al. 2024 (arXiv 2402.12030)",
        level=TeacherLevel.LOGITS,
        signal=Signal.SORTED,
        supervise="dragoman.supervise.sorted:build_uld",
        objective="dragoman.objective.sorted:uld",
        caveat="blind to which token has which probability",
        settings=frozenset({"row_topk", "mask_whitespace"}),
        defaults={"teacher.topk": "all"},
    ),
    _gold(
        name="gold",
        summary="a divergence on tokens with equal bytes, sorted L1 on the rest, as published",
        formula="D over common tokens as they are + sum_r |s_(r) - t_(r)| over the others",
        source="Patino et al. 2025, General On-Policy Logit Distillation",
        objective="dragoman.objective.sorted:gold",
        caveat="D over a part of the vocabulary pushes the rest down even where the student is right",
    ),
    _gold(
        name="gold_normalised",
        summary="gold with one more bin for all mass outside the common tokens",
        formula="D over common tokens and their residual + sum_r |s_(r) - t_(r)| over the others",
        source="dragoman, after Patino et al. 2025",
        objective="dragoman.objective.sorted:gold_normalised",
        caveat="blind to which uncommon token has which probability",
    ),
    Method(
        name="alm",
        summary="approximate likelihood matching: a chunk as an event that happens or does not",
        formula="f(T_c^(1/tau) || S_c^(1/tau)) + f(1 - T_c^(1/tau) || 1 - S_c^(1/tau)) for every chunk c",
        source="Minixhofer, Vulic and Ponti 2025 (arXiv 2503.20083)",
        level=TeacherLevel.REALISED,
        signal=Signal.UNITS,
        supervise="dragoman.supervise.units:build_alm",
        objective="dragoman.objective.alm:alm",
        caveat="the authors' factor for a next token that starts a word is not offered",
        settings=frozenset({"divergence", "beta", "tau"}),
    ),
    Method(
        name="compass",
        summary="the teacher's change against a small reference of its family, less a share of the student's",
        formula="A_i = (L_T - L_T') - alpha (L_S - L_S'), ' under the reference of each side",
        source="arXiv 2609.10154",
        level=TeacherLevel.REFERENCE,
        signal=Signal.CREDIT,
        supervise="dragoman.supervise.compass:build",
        objective=POLICY_GRADIENT,
        caveat="two more models in memory: a smaller one with the teacher's tokenizer, and the first student",
        student_reference=True,
        settings=frozenset({"reference_alpha"}),
        defaults={**GUARDED, "method.reference_alpha": 0.5},
    ),
    Method(
        name="sft",
        summary="cross-entropy on answers the teacher writes, re-tokenised for the student",
        formula="l_i = -log S(a_i | a_<i) on the teacher's answer a",
        source="baseline: sequence-level distillation, Kim and Rush 2016 (arXiv 1606.07947)",
        level=None,
        writer=Writer.TEACHER,
        signal=Signal.ANSWERS,
        supervise=None,
        objective=CROSS_ENTROPY,
        caveat="off-policy: the student never sees its own mistakes; the teacher's sampling is the cost",
    ),
)
