"""Settings of a method: what gives a signal, how sampled tokens are credited, how rows are compared."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from dragoman.config.section import Section


class MethodConfig(Section):
    """From teacher scores to a loss. Methods bring their own defaults for these keys."""

    name: str = Field(
        default="span",
        min_length=1,
        description="Method, by its name in the list of methods. If none is named: `canon_span` where "
        "`teacher.topk` asks for likely tokens, else `span`.",
    )
    guard: Literal["off", "mask", "penalty"] = Field(
        default="off",
        description="Treatment of tokens that the student's tokenizer would not have produced for the text: "
        "`off` none, `mask` no signal, `penalty` a fixed negative credit.",
    )
    guard_penalty: float = Field(
        default=3.0, gt=0, description="Size of the negative credit under `guard: penalty`, in nats."
    )
    clamp: float | None = Field(
        default=None,
        gt=0,
        description="Largest absolute credit of a token, in nats, the guard's penalty aside; null has no "
        "limit.",
    )
    normalised: Literal["use", "mask"] = Field(
        default="use",
        description="Chunks in which a lossy tokenizer of the teacher changes the bytes: `use` their signal, "
        "or `mask` it.",
    )
    max_chunk_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Longest chunk that gives a signal, in tokens of either side; null is any.",
    )
    clip_low: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="The ratio to the sampling policy is clipped below at 1 minus this.",
    )
    clip_high: float = Field(
        default=0.28, gt=0, description="The ratio to the sampling policy is clipped above at 1 plus this."
    )
    dual_clip: float | None = Field(
        default=10.0,
        gt=1,
        description="Largest ratio that counts where the credit is negative; null has no limit.",
    )
    log_ratio_clamp: float = Field(
        default=20.0, gt=0, description="Largest absolute log-ratio to the sampling policy, in nats."
    )
    normalise: Literal["token", "sequence", "byte"] = Field(
        default="token",
        description="What the loss summed over a step is divided by: its supervised tokens, its responses "
        "(each token then weighs by 1 / tokens of its response) or its supervised bytes.",
    )
    divergence: Literal["forward", "reverse", "jsd", "skewed"] = Field(
        default="forward",
        description="How a row of teacher mass T is compared with the student's S: `forward` is KL(T || S), "
        "`reverse` KL(S || T), `jsd` the generalised Jensen-Shannon divergence, `skewed` KL(T || beta T + "
        "(1 - beta) S).",
    )
    beta: float = Field(
        default=0.5, gt=0, lt=1, description="Weight of the teacher in the mixture of `jsd` and `skewed`."
    )
    row_topk: int | None = Field(
        default=256,
        ge=1,
        description="Most candidates of a row, the largest kept; the mass of the others is part of its "
        "residual. Null keeps all: student tokens x vocabulary x 12 bytes, refused above 4 GiB a step.",
    )
    row_floor: float = Field(
        default=1e-6,
        gt=0,
        lt=1,
        description="Least teacher mass of a candidate or residual where a divergence takes its logarithm.",
    )
    student_topk: int | None = Field(
        default=None,
        ge=1,
        description="Candidates that `shared` compares: this many of those to which the student gives most; "
        "null compares all.",
    )
    mask_whitespace: bool = Field(
        default=False, description="Whether a sampled token of white space alone has no row."
    )
    entropy_switch: float | None = Field(
        default=None,
        ge=0,
        description="Entropy of a row, in nats, from which on it is compared by forward KL whatever "
        "`divergence` says; null never switches.",
    )
    negative: Literal["credit", "divergence"] = Field(
        default="credit",
        description="What acts on a token that has both a row and a credit that is not positive: `credit` "
        "both, as on any other; `divergence` the row alone, while a positive credit acts without the row.",
    )
    row_coef: float = Field(
        default=1.0, ge=0, description="Factor of the divergence in a loss that has rows and credits."
    )
    credit_coef: float = Field(
        default=1.0, ge=0, description="Factor of the policy gradient in a loss that has rows and credits."
    )
    reference_kl: float = Field(
        default=0.0,
        ge=0,
        description="Factor of a KL penalty towards the student before training, on the sampled tokens. "
        "Above 0 a frozen copy of the student is kept in memory, or with adapters the weights under them.",
    )
    reference_alpha: float = Field(
        default=0.5,
        ge=0,
        description="Share of the student's own change that `compass` takes off the teacher's.",
    )
    reliability: Literal["off", "mass"] = Field(
        default="off",
        description="Weight of a token with a row: `off` is 1, `mass` the teacher mass of its candidates.",
    )
    max_policy_shift: float | None = Field(
        default=None,
        gt=0,
        description="Tokens whose log-prob has moved by more than this since sampling, in nats, are left "
        "out of the update; null leaves none out.",
    )
    tau: float = Field(
        default=100.0,
        gt=0,
        description="Temperature of the chunk probabilities of `alm`: they are raised to the power 1 / tau.",
    )

    @model_validator(mode="after")
    def _switch_has_two_sides(self) -> Self:
        if self.entropy_switch is not None and self.divergence == "forward":
            raise ValueError(
                f"entropy_switch is {self.entropy_switch}, but divergence is 'forward' already, so nothing "
                "would switch; set method.divergence to 'reverse', 'jsd' or 'skewed', or leave "
                "method.entropy_switch out"
            )
        return self
