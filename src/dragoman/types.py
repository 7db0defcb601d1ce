"""The data a rollout passes through, as frozen values (numpy; no torch).

    Prompt -> Rollout -> TeacherView -> TeacherScores -> Alignment -> Supervision -> TrainBatch

Axes: S student tokens, T teacher tokens, C chunks, B sequences, L padded length, N supervised tokens.
Offsets named `*_bounds` have one entry more than what they delimit. Log-probabilities are in nats.
`docs/concepts.md` follows one rollout through all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

from dragoman.conversation import Message, Prompt, ToolCall
from dragoman.errors import TeacherError, TokenizerError
from dragoman.full_logp import FullLogp, HeldLogp
from dragoman.kinds import ChunkKind, DropReason, Event, PairKind, RowLabel, StopReason, TeacherLevel
from dragoman.pairing import Alignment, Correspondence
from dragoman.targets import Account, Rows, Units

__all__ = [
    "Account",
    "Alignment",
    "ChunkKind",
    "Correspondence",
    "DropReason",
    "Event",
    "FullLogp",
    "HeldLogp",
    "Message",
    "PairKind",
    "Prompt",
    "Rollout",
    "RowLabel",
    "Rows",
    "StopReason",
    "Supervision",
    "TeacherCaps",
    "TeacherLevel",
    "TeacherScores",
    "TeacherView",
    "TokenText",
    "ToolCall",
    "TrainBatch",
    "Units",
]


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenText:
    """Token ids and the exact bytes they spell: token i spells `data[bounds[i]:bounds[i + 1]]`.

    Events (control tokens) are zero-width and named in `event`. `data` may be invalid UTF-8: a token
    may hold part of a character. `canonical[i]` says that the tokenizer, given this text, would itself
    have produced token i at this place. Iterating yields the ids.

    >>> # "é" split over two byte tokens, then the end of the turn
    >>> text = TokenText(
    ...     ids=np.array([136, 102, 2]), data="é".encode(), bounds=np.array([0, 1, 2, 2]),
    ...     event=np.array([0, 0, Event.STOP], np.uint8), canonical=np.array([True, True, True]))
    >>> text.token_bytes(0), text.token_bytes(1), text.token_bytes(2)
    (b'\\xc3', b'\\xa9', b'')
    """

    ids: Int64[np.ndarray, " S"]
    data: bytes
    bounds: Int64[np.ndarray, " S_plus_1"]
    event: UInt8[np.ndarray, " S"]
    canonical: Bool[np.ndarray, " S"]

    def __post_init__(self) -> None:
        size = len(self.ids)
        if len(self.bounds) != size + 1 or len(self.event) != size or len(self.canonical) != size:
            raise TokenizerError(
                f"TokenText axes disagree: {size} ids, {len(self.bounds)} bounds (expected {size + 1}), "
                f"{len(self.event)} events, {len(self.canonical)} canonical flags"
            )
        if self.bounds[0] != 0 or self.bounds[-1] != len(self.data):
            raise TokenizerError(
                f"TokenText bounds run from {self.bounds[0]} to {self.bounds[-1]}, "
                f"but the data has {len(self.data)} bytes"
            )
        is_wrong = (self.bounds[1:] == self.bounds[:-1]) != (self.event != Event.NONE.value)
        if is_wrong.any():
            wrong = int(is_wrong.argmax())
            raise TokenizerError(
                f"token {wrong} (id {self.ids[wrong]}) must have bytes or be an event, and not both"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids.tolist())

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.ids, dtype=dtype)

    def token_bytes(self, index: int) -> bytes:
        """The bytes of one token; empty for an event."""
        return self.data[self.bounds[index] : self.bounds[index + 1]]

    @property
    def num_stops(self) -> int:
        """How many stop events the sequence holds."""
        return int((self.event == Event.STOP).sum())

    @property
    def num_noncanonical(self) -> int:
        """How many tokens the tokenizer would not have produced for this text."""
        return int((~self.canonical).sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """One response of the student, with the ids exactly as they were sampled.

    `behaviour_logp[i]` is log S(y_i | y_<i) under the weights that sampled it, at temperature 1 and
    before any truncation (decision 0004); for a stop it is the log of the whole stop set's mass. It is
    None where the response was not written by the student (`sft`). `stop_logp[i]` is the log of the stop
    set's mass at every place; `reference_logp[i]` is what the student gave y_i before training, where a
    method asks for it. In a conversation with several turns of the student each is a rollout of its own,
    number `turn`, whose prompt is the conversation so far.
    """

    prompt: Prompt
    sample: int
    context_ids: Int64[np.ndarray, " P"]
    completion: TokenText
    behaviour_logp: Float32[np.ndarray, " S"] | None
    entropy: Float32[np.ndarray, " S"] | None = None
    stop_logp: Float32[np.ndarray, " S"] | None = None
    reference_logp: Float32[np.ndarray, " S"] | None = None
    temperature: float = 1.0
    stop: StopReason = StopReason.STOP
    policy_version: int = 0
    turn: int = 0

    @property
    def key(self) -> str:
        """Names the rollout in errors and files: prompt key, sample number, turn if not the first."""
        return f"{self.prompt.key}/{self.sample}" + (f".{self.turn}" if self.turn else "")


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherView:
    """The same response inside the teacher's own conversation: `ids[start:]` is the completion.

    `correspondence` says what belongs to what where the completion is not the same symbols as the
    student's; None leaves that to the aligner.
    """

    rollout_key: str
    teacher: str
    ids: Int64[np.ndarray, " L"]
    start: int
    completion: TokenText
    correspondence: Correspondence | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherScores:
    """Teacher log-probs of the realised tokens; for a stop, of the whole stop set.

    A value the teacher could not give is NaN and has a reason in `missing`; nothing else may be
    non-finite, and no value is ever filled in (a log-prob of 0 would be certainty).
    """

    logp: Float32[np.ndarray, " T"]
    missing: UInt8[np.ndarray, " T"]
    topk_ids: Int32[np.ndarray, "T K"] | None = None
    topk_logp: Float32[np.ndarray, "T K"] | None = None
    stop_logp: Float32[np.ndarray, " T"] | None = None
    """Log of the stop set's mass at every place, where the teacher offers it."""
    full_logp: FullLogp | None = None
    """The whole distribution at every place, by teacher id."""
    reference_logp: Float32[np.ndarray, " T"] | None = None
    """The same tokens under a small reference of the teacher's family; NaN where missing."""
    tokens: TokenText | None = None
    """The realised tokens themselves, as in the view; the pipeline puts them here for supervision."""

    def __post_init__(self) -> None:
        present = self.missing == DropReason.NONE
        if not np.array_equal(np.isfinite(self.logp), present):
            bad = int(np.flatnonzero(np.isfinite(self.logp) != present)[0])
            raise TeacherError(
                f"teacher log-prob {self.logp[bad]} at token {bad} does not match its reason "
                f"{DropReason(int(self.missing[bad])).label!r}: a missing value must be NaN with a reason"
            )
        if self.full_logp is not None and len(self.full_logp) != len(self.logp):
            raise TeacherError(
                f"the teacher gave whole rows at {len(self.full_logp)} places of {len(self.logp)} tokens; "
                "expected one for each, of missing values too"
            )
        if present.any() and float(self.logp[present].max()) > 1e-3:
            bad = int(np.flatnonzero(present & (self.logp > 1e-3))[0])
            raise TeacherError(
                f"teacher log-prob {self.logp[bad]:.4f} at token {bad} is above 0: not a log-probability. "
                "Check that the server returns natural logarithms of probabilities"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Supervision:
    """What the loss is told about each student token.

    `weight` is a factor of the token's loss, above 0 where it is trained on (1 in all methods but `escd`) and
    0 where `reason` says why not. `credit` is the advantage in nats (None for cross-entropy and for methods
    of rows alone); `num_clamped` counts credits cut to the clamp. `rows`, `units` and `sorted_logp` are for
    methods that compare distributions.
    """

    weight: Float32[np.ndarray, " S"]
    reason: UInt8[np.ndarray, " S"]
    chunk_of: Int64[np.ndarray, " S"]
    credit: Float32[np.ndarray, " S"] | None
    num_clamped: int = 0
    rows: Rows | None = None
    units: Units | None = None
    account: Account | None = None
    sorted_logp: Float32[np.ndarray, "S R"] | None = None
    """The teacher's log-probs of tokens without a counterpart, largest first, padded with -inf."""

    @property
    def dropped(self) -> dict[str, int]:
        """Student tokens without signal, by reason."""
        codes, counts = np.unique(self.reason[self.reason != DropReason.NONE], return_counts=True)
        return {DropReason(int(c)).label: int(n) for c, n in zip(codes, counts, strict=True)}


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainBatch:
    """Sequences in rows, padded on the right, and, flat, the N supervised tokens in them. Where a row holds
    several sequences one behind the other, `position_ids` counts within each.

    Supervised token n is `target[n]`, predicted from the hidden state at `[row[n], column[n]]`; where
    `is_stop[n]`, its probability is that of the whole stop set. `weight[n]` already holds the
    normalisation chosen (per token, sequence or byte), so that loss sums add up over micro-batches. Other
    values are None where a supervised token has none; but `rows`, `units` and `sorted_logp` only where no
    response has any.
    """

    input_ids: Int64[np.ndarray, "B L"]
    row: Int64[np.ndarray, " N"]
    column: Int64[np.ndarray, " N"]
    target: Int64[np.ndarray, " N"]
    is_stop: Bool[np.ndarray, " N"]
    weight: Float32[np.ndarray, " N"]
    credit: Float32[np.ndarray, " N"] | None
    behaviour_logp: Float32[np.ndarray, " N"] | None
    reference_logp: Float32[np.ndarray, " N"] | None = None
    rows: Rows | None = None
    units: Units | None = None
    sorted_logp: Float32[np.ndarray, "N R"] | None = None
    position_ids: Int64[np.ndarray, "B L"] | None = None


@dataclass(frozen=True, kw_only=True)
class TeacherCaps:
    """What a teacher offers: its level up to `LOGITS`, and apart from it whether it comes with a reference
    model of its family (`TeacherLevel.REFERENCE`)."""

    level: TeacherLevel
    generates: bool
    has_reference: bool = False
    full_row: int = 0
    """Values it holds for each of its full rows as long as these may be read; 0 where it gives none."""
