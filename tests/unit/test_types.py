"""The data types: what they refuse, what they derive, and their names in reports."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest

from dragoman.errors import AlignmentError, TeacherError, TokenizerError
from dragoman.types import (
    Alignment,
    ChunkKind,
    Correspondence,
    DropReason,
    Event,
    HeldLogp,
    Message,
    PairKind,
    Prompt,
    Rollout,
    Supervision,
    TeacherLevel,
    TeacherScores,
    TokenText,
)

# "é" split over two byte tokens, "ab" as one, then the end of the turn.
TEXT = TokenText(
    ids=np.array([136, 102, 64, 2]),
    data="éab".encode(),
    bounds=np.array([0, 1, 2, 4, 4]),
    event=np.array([0, 0, 0, Event.STOP], np.uint8),
    canonical=np.array([False, True, True, True]),
)


def scores(logp: list[float], missing: list[DropReason]) -> TeacherScores:
    return TeacherScores(logp=np.array(logp, np.float32), missing=np.array(missing, np.uint8))


# --- prompts


def test_prompt_is_text_or_messages() -> None:
    turn = (Message(role="user", content="x"),)
    assert Prompt(key="p", text="").text == ""
    assert Prompt(key="p", messages=turn).messages == turn
    with pytest.raises(ValueError, match=r"prompt 'p' needs exactly one of `text` and `messages`"):
        Prompt(key="p")
    with pytest.raises(ValueError, match="exactly one"):
        Prompt(key="p", text="x", messages=turn)


# --- texts


def test_token_text() -> None:
    assert [TEXT.token_bytes(i) for i in range(4)] == [b"\xc3", b"\xa9", b"ab", b""]
    assert (len(TEXT), list(TEXT)) == (4, [136, 102, 64, 2])
    assert np.asarray(TEXT).tolist() == [136, 102, 64, 2]
    assert np.asarray(TEXT, np.int32).dtype == np.int32
    assert (TEXT.num_stops, TEXT.num_noncanonical) == (1, 1)


def test_ids_taken_out_of_a_text_are_a_copy() -> None:
    taken = np.asarray(TEXT)
    taken[0] = 0
    assert TEXT.ids[0] == 136


def test_values_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        TEXT.data = b""  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bounds": np.array([0, 1, 2, 4])}, r"4 ids, 4 bounds \(expected 5\), 4 events, 4 canonical"),
        ({"event": np.zeros(3, np.uint8)}, r"4 ids, 5 bounds \(expected 5\), 3 events, 4 canonical"),
        ({"canonical": np.ones(5, bool)}, r"4 ids, 5 bounds \(expected 5\), 4 events, 5 canonical"),
        ({"bounds": np.array([1, 2, 3, 4, 4])}, r"bounds run from 1 to 4, but the data has 4 bytes"),
        ({"bounds": np.array([0, 1, 2, 3, 3])}, r"bounds run from 0 to 3, but the data has 4 bytes"),
        # Token 0 with no bytes that is no event, then token 3 with bytes that is one.
        ({"bounds": np.array([0, 0, 2, 4, 4])}, r"token 0 \(id 136\) must have bytes or be an event"),
        ({"bounds": np.array([0, 1, 2, 3, 4])}, r"token 3 \(id 2\) must have bytes or be an event"),
    ],
)
def test_token_text_that_contradicts_itself(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        replace(TEXT, **change)


def test_rollout_key() -> None:
    rollout = Rollout(
        prompt=Prompt(key="a/b", text="x"),
        sample=3,
        context_ids=np.array([1]),
        completion=TEXT,
        behaviour_logp=None,
    )
    assert rollout.key == "a/b/3"


# --- scores


def test_missing_scores_have_a_reason() -> None:
    kept = scores([-1.0, float("nan")], [DropReason.NONE, DropReason.TEACHER_CONTEXT])
    assert np.isnan(kept.logp[1])
    assert len(scores([], []).logp) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_needs_a_reason(value: float) -> None:
    message = r"log-prob (nan|-?inf) at token 1 does not match its reason 'none'"
    with pytest.raises(TeacherError, match=message):
        scores([-1.0, value], [DropReason.NONE, DropReason.NONE])


def test_whole_rows_are_of_all_tokens() -> None:
    full = HeldLogp(np.log(np.full((1, 4), 0.25, np.float32)))
    assert replace(scores([-1.0], [DropReason.NONE]), full_logp=full).full_logp is full
    with pytest.raises(TeacherError, match=r"whole rows at 1 places of 2 tokens; expected one for each"):
        replace(scores([-1.0, -1.0], [DropReason.NONE] * 2), full_logp=full)


def test_a_missing_score_may_not_be_filled_in() -> None:
    with pytest.raises(TeacherError, match=r"log-prob 0.0 at token 0 does not match its reason 'non_finite'"):
        scores([0.0, -1.0], [DropReason.NON_FINITE, DropReason.NONE])


def test_a_score_above_zero_is_no_log_probability() -> None:
    # Rounding may lift a certain token's log-prob over 0 by a little: up to 0.001 passes
    assert scores([5e-4], [DropReason.NONE]).logp[0] > 0
    with pytest.raises(TeacherError, match=r"log-prob 0\.5000 at token 1 is above 0"):
        scores([-1.0, 0.5], [DropReason.NONE, DropReason.NONE])


# --- alignments


def alignment(student: list[int], teacher: list[int], kind: list[ChunkKind]) -> Alignment:
    return Alignment(
        student_bounds=np.array(student), teacher_bounds=np.array(teacher), kind=np.array(kind, np.uint8)
    )


def test_alignment() -> None:
    # 2 student tokens in a comparable chunk, 1 only the student has, 1 stop: coverage 3 / 4
    found = alignment(
        [0, 2, 3, 4], [0, 1, 1, 2], [ChunkKind.MANY_TO_ONE, ChunkKind.STUDENT_ONLY, ChunkKind.EVENT]
    )
    assert found.num_chunks == 3
    assert found.comparable.tolist() == [True, False, True]
    assert found.chunk_of.tolist() == [0, 0, 1, 2]
    assert found.coverage == 0.75


def test_alignment_of_nothing() -> None:
    empty = alignment([0], [0], [])
    assert (empty.num_chunks, empty.coverage, empty.chunk_of.tolist()) == (0, 1.0, [])
    # Only the teacher has a token: no student token is left uncovered.
    assert alignment([0, 0], [0, 1], [ChunkKind.TEACHER_ONLY]).coverage == 1.0


def test_comparable_kinds() -> None:
    bounds = list(range(len(ChunkKind) + 1))
    kinds = alignment(bounds, bounds, list(ChunkKind))
    lost = {ChunkKind.STUDENT_ONLY, ChunkKind.TEACHER_ONLY, ChunkKind.IMPURE}
    assert {kind for kind, ok in zip(ChunkKind, kinds.comparable, strict=True) if not ok} == lost


@pytest.mark.parametrize(("student", "teacher"), [([0, 1], [0, 1, 2]), ([0, 1, 2], [0, 1]), ([0], [0])])
def test_alignment_axes(student: list[int], teacher: list[int]) -> None:
    message = rf"2 chunks, {len(student)} student and {len(teacher)} teacher bounds"
    with pytest.raises(AlignmentError, match=message):
        alignment(student, teacher, [ChunkKind.ONE_TO_ONE] * 2)


# --- supervision and names


def test_dropped_counts_by_reason() -> None:
    reason = [DropReason.NONE, DropReason.NON_FINITE, DropReason.STUDENT_ONLY, DropReason.NON_FINITE]
    supervision = Supervision(
        weight=np.array([1, 0, 0, 0], np.float32),
        reason=np.array(reason, np.uint8),
        chunk_of=np.arange(4),
        credit=None,
    )
    assert supervision.dropped == {"student_only": 1, "non_finite": 2}


def test_labels() -> None:
    labels = ["1:1", "1:n", "n:1", "n:m", "event", "normalised", "student-only", "teacher-only", "impure"]
    assert [kind.label for kind in ChunkKind] == labels
    assert [kind.comparable for kind in ChunkKind] == [True] * 6 + [False] * 3
    assert DropReason.CHUNK_TOO_LONG.label == "chunk_too_long"
    assert len({reason.label for reason in DropReason}) == len(DropReason)


def test_events_written_to_files_do_not_change() -> None:
    """Records hold the events of a text as numbers; chunk kinds and reasons are written by their labels."""
    markers = ["THINK_OPEN", "THINK_CLOSE", "TOOL_OPEN", "TOOL_CLOSE"]
    assert [(event.name, event.value) for event in Event] == [
        (name, code) for code, name in enumerate(["NONE", "STOP", "CONTROL", *markers])
    ]


def test_reasons_of_chunks() -> None:
    # Left out, they follow from the kinds; given, they are taken as they are.
    plain = alignment(
        [0, 1, 2, 2, 3],
        [0, 1, 1, 2, 3],
        [ChunkKind.NORMALISED, ChunkKind.STUDENT_ONLY, ChunkKind.TEACHER_ONLY, ChunkKind.IMPURE],
    )
    assert plain.reasons.tolist() == [
        DropReason.NONE, DropReason.STUDENT_ONLY, DropReason.BYTES_DIFFER, DropReason.BYTES_DIFFER
    ]  # fmt: skip
    given = np.array([0, DropReason.THINKING, 0, DropReason.TOOL_SYNTAX], np.uint8)
    assert replace(plain, reason=given).reasons.tolist() == given.tolist()


# --- correspondences


def correspondence(spans: list[list[int]], kind: list[PairKind]) -> Correspondence:
    return Correspondence(spans=np.array(spans, np.int64).reshape(-1, 4), kind=np.array(kind, np.uint8))


@pytest.mark.parametrize(
    ("spans", "kind", "message"),
    [
        ([[0, 1, 0, 1]], [], "1 spans, 0 kinds"),
        ([[0, 2, 0, 1]], [PairKind.EXACT], "equally long"),
        ([[1, 0, 0, 1]], [PairKind.MARKER], "in order and disjoint"),
        ([[-1, 1, 0, 1]], [PairKind.MARKER], "in order and disjoint"),
        ([[0, 2, 0, 2], [1, 3, 2, 4]], [PairKind.EXACT] * 2, "in order and disjoint"),
        ([[0, 2, 0, 2], [2, 3, 1, 2]], [PairKind.EXACT] * 2, "in order and disjoint"),
    ],
)
def test_a_correspondence_that_contradicts_itself(
    spans: list[list[int]], kind: list[PairKind], message: str
) -> None:
    with pytest.raises(AlignmentError, match=message):
        correspondence(spans, kind)


def test_a_correspondence() -> None:
    assert len(correspondence([], []).kind) == 0
    # Wholes need not be equally long, and what has no counterpart may be empty on one side.
    correspondence([[0, 3, 0, 1], [3, 7, 1, 1]], [PairKind.NORMALISED, PairKind.THINKING])


def test_levels_include_those_before() -> None:
    assert list(TeacherLevel) == sorted(TeacherLevel)
    assert TeacherLevel.REALISED < TeacherLevel.TOPK < TeacherLevel.LOGITS < TeacherLevel.REFERENCE
