"""Methods whose signal is a credit for each sampled token: policy gradients.

`L_S`, `L_T` and `D = L_T - L_S` are a chunk's log-probs on either side and its budget, `p_i` the student's
log-prob of token i, `m` the chunk's student tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from dragoman.methods.method import TOPK, Method, Signal
from dragoman.types import TeacherLevel

POLICY_GRADIENT = "dragoman.objective.policy_gradient:policy_gradient"

GUARDED: Mapping[str, Any] = MappingProxyType(
    {"method.guard": "penalty", "method.guard_penalty": 3.0, "method.clamp": 10.0}
)
"""The guard and clamp with which credit rules were compared in `docs/methods.md`."""

PAPER_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "method.guard": "off",
        "method.max_chunk_tokens": 6,
        "method.clamp": 10.0,
        "method.clip_low": 0.2,
        "method.clip_high": 0.28,
        "method.dual_clip": 10.0,
        "method.log_ratio_clamp": 20.0,
        "method.normalise": "token",
        "train.lr": 1e-6,
        "train.warmup_steps": 10,
        "train.prompts_per_step": 128,
        "train.steps": 500,
        "rollout.samples_per_prompt": 1,
        "rollout.temperature": 1.0,
    }
)
"""The full recipe of arXiv 2606.09456: no KL or entropy bonus, one response a prompt."""

_credit = partial(
    Method, level=TeacherLevel.REALISED, signal=Signal.CREDIT, objective=POLICY_GRADIENT, defaults=GUARDED
)

SAMPLED = (
    _credit(
        name="chunk",
        summary="every token of a chunk receives the whole log-ratio; odd segmentations are penalised",
        formula="A_i = D",
        source="score-function gradient of the chunk-level KL",
        supervise="dragoman.supervise.sampled:build_chunk",
        credit="chunk",
        caveat="a chunk of m tokens moves m times as far as under uniform at the same learning rate",
    ),
    _credit(
        name="uniform",
        summary="the chunk's log-ratio in equal parts; odd segmentations are penalised",
        formula="A_i = D / m",
        source="baseline",
        supervise="dragoman.supervise.sampled:build_uniform",
        credit="uniform",
        caveat="the direction of chunk at 1/m of its length",
    ),
    _credit(
        name="segment",
        summary="log-ratios from the chunk on to the next hard boundary; odd segmentations are penalised",
        formula="A_i = sum of D over the chunks from the token's own to the next hard boundary",
        source="dragoman",
        supervise="dragoman.supervise.sampled:build_segment",
        credit="segment",
        caveat="needs the guard: a prototype collapsed without; steps are longer than under chunk",
    ),
    _credit(
        name="span",
        summary="log-ratios of the token's span and, as far as accounts are open, of what borders on it",
        formula="A_i = D(own span) + lambda N_i, N_i = D of the next span's first chunk and the span before",
        source="dragoman",
        supervise="dragoman.supervise.sampled:build_span",
        credit="span",
        caveat="lambda is found from all responses of a step; needs the guard",
        defaults={**GUARDED, "method.guard_penalty": 1.0},
    ),
    _credit(
        name="marginal",
        summary="every token is judged by the teacher's own mass of it; odd segmentations are penalised",
        formula="A_i = log M_i - log M_(i-1) - p_i, with M_0 = 1 and log M_m = L_T; D / m where M is unknown",
        source="dragoman",
        level=TeacherLevel.TOPK,
        supervise="dragoman.supervise.sampled:build_marginal",
        credit="marginal",
        caveat="of a top-k teacher M is a lower bound",
        defaults={**GUARDED, "teacher.topk": TOPK},
    ),
    _credit(
        name="marginal_rtg",
        summary="the return-to-go of marginal inside the chunk; odd segmentations are penalised",
        formula="A_i = sum over k >= i in the chunk of log M_k - log M_(k-1) - p_k; D where M is unknown",
        source="dragoman",
        level=TeacherLevel.TOPK,
        supervise="dragoman.supervise.sampled:build_marginal_rtg",
        credit="marginal_rtg",
        caveat="the mean of chunk at another variance",
        defaults={**GUARDED, "teacher.topk": TOPK},
    ),
    _credit(
        name="dpca",
        summary="dual-pointer chunk alignment: the chunk's log-ratio in proportion to the student's surprise",
        formula="A_i = (L_T / L_S - 1) p_i; L_T / m - p_i where |L_S| < 1e-8",
        source="arXiv 2606.09456",
        supervise="dragoman.supervise.sampled:build_semantic_prior",
        credit="semantic_prior",
        caveat="the ratio explodes near L_S = 0; without a guard the student drifts to odd segmentations",
        defaults=PAPER_DEFAULTS,
    ),
    _credit(
        name="semantic_prior",
        summary="the credit rule of dpca alone; odd segmentations are penalised",
        formula="A_i = (L_T / L_S - 1) p_i; L_T / m - p_i where |L_S| < 1e-8",
        source="arXiv 2606.09456; with a guard",
        supervise="dragoman.supervise.sampled:build_semantic_prior",
        credit="semantic_prior",
        caveat="the ratio explodes near L_S = 0",
    ),
)
