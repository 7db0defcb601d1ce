"""Forward KL of the teacher's texts: by hand, and with a teacher and a student that are made up."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sides
import tiny
from dragoman.alignment import align
from dragoman.errors import RenderError
from dragoman.evaluate import Evaluation, ForwardKL, TeacherText, forward_metrics
from dragoman.evaluate.heldout import FORWARD, REPORTED
from dragoman.models import TokenScorer, TokenScores
from dragoman.observe import Metrics, Ratio
from dragoman.render import Renderer
from dragoman.rollout import Request
from dragoman.types import Event, Prompt, Rollout, StopReason, TeacherView
from naive import token_text

NAN = float("nan")
Pieces = Sequence[bytes | Event]

# |Hello| world|stop| of the teacher is read as |Hel|lo| wor|ld|stop|
WRITTEN, WRITTEN_LOGP = (b"Hello", b" world", Event.STOP), (-2.0, -1.0, -1.5)
READ, READ_LOGP = (b"Hel", b"lo", b" wor", b"ld", Event.STOP), (-1.0, -2.0, -0.5, -0.25, -4.0)


def text_of(written: Pieces, logp: Sequence[float] | None, read: Pieces) -> TeacherText:
    completion, reading = token_text(written), token_text(read)
    rollout = Rollout(
        prompt=Prompt(key="p", text="x"),
        sample=0,
        context_ids=np.array([7]),
        completion=completion,
        behaviour_logp=None if logp is None else np.array(logp, np.float32),
        stop=StopReason.STOP if completion.num_stops else StopReason.LENGTH,
    )
    view = TeacherView(
        rollout_key="p/0", teacher="s", ids=np.append([3], reading.ids), start=1, completion=reading
    )
    return TeacherText(written=rollout, reading=view, alignment=align(completion, reading))


def figures(written: Pieces, logp: Sequence[float], read: Pieces, read_logp: Sequence[float]) -> Metrics:
    return forward_metrics(text_of(written, logp, read), np.array(read_logp, np.float32))


# --- one text


def test_by_hand() -> None:
    ratios = figures(WRITTEN, WRITTEN_LOGP, READ, READ_LOGP).ratios
    # The teacher -4.5, the student -7.75 in all, the stop included, over 11 bytes
    assert ratios == {"forward_kl_per_byte": Ratio(3.25, 11), "forward_coverage": Ratio(3, 3)}


def test_a_missing_value_takes_its_chunk_out() -> None:
    # Without "Hello": -2.5 + 4.75 over the 6 bytes of " world" and the stop's none; 2 of the teacher's tokens
    for missing in (NAN, -np.inf):
        ratios = figures(WRITTEN, WRITTEN_LOGP, READ, (missing, *READ_LOGP[1:])).ratios
        assert ratios == {"forward_kl_per_byte": Ratio(2.25, 6), "forward_coverage": Ratio(2, 3)}


def test_what_the_student_cannot_spell_is_left_out_by_chunk() -> None:
    # "b" is read as "x": two bytes and tokens are left, at -1 + 3 each
    ratios = figures([b"a", b"b", b"c"], [-1.0] * 3, [b"a", b"x", b"c"], [-3.0] * 3).ratios
    assert ratios == {"forward_kl_per_byte": Ratio(4.0, 2), "forward_coverage": Ratio(2, 3)}


def test_what_the_student_cannot_be_shown_is_not_covered() -> None:
    text = TeacherText(written=text_of(WRITTEN, None, READ).written, reading=None, alignment=None)
    ratios = forward_metrics(text, np.zeros(0, np.float32)).ratios
    assert ratios == {"forward_kl_per_byte": Ratio(0.0, 0.0), "forward_coverage": Ratio(0, 3)}


def test_a_text_without_log_probs() -> None:
    with pytest.raises(ValueError, match="p/0 has no log-probs"):
        forward_metrics(text_of(WRITTEN, None, READ), np.array(READ_LOGP, np.float32))


def test_reported_where_texts_were_read() -> None:
    by_prompt = tuple(Metrics({"forward_kl_per_byte": Ratio(n, 4.0)}) for n in (1.0, 3.0))
    found = Evaluation(by_prompt=by_prompt, records=(), texts=())
    assert found.flat()["forward_kl_per_byte"] == 0.5
    assert found.summary()["forward_kl_per_byte_ci"] == [0.25, 0.75]
    assert math.isnan(found.flat()["forward_coverage"])
    assert found.reported == REPORTED + FORWARD
    assert "forward_kl_per_byte" not in Evaluation(by_prompt=by_prompt, records=()).flat()


# --- a teacher and a student


class Student(TokenScorer):
    """Gives every token the same log-prob."""

    def __init__(self, logp: float, context: int = 1024) -> None:
        nn.Module.__init__(self)
        self.model = nn.Linear(1, 1)
        config = SimpleNamespace(max_position_embeddings=context)
        config.get_text_config = lambda: config  # type: ignore[attr-defined]
        self.model.config = config  # type: ignore[assignment]
        self.logp = logp
        self.was_training: list[bool] = []

    def forward(self, ids: Tensor, mask: Tensor, row: Tensor, *others: Tensor) -> TokenScores:  # type: ignore[override]
        self.was_training.append(self.model.training)
        value = torch.full((len(row),), self.logp)
        none = torch.zeros(len(row), 0)
        return TokenScores(value, none.long(), none, value)


class Writer:
    """Answers "abc" to every prompt, -1 nats a token."""

    def __init__(self, side: Renderer) -> None:
        self.side = side
        self.calls: list[tuple[int, int, int]] = []

    def rollouts(self, requests: Sequence[Request], *, seed: int, step: int) -> list[Rollout]:
        self.calls.append((len(requests), seed, step))
        return [sides.rollout_of(self.side, b"abc", request.prompt) for request in requests]


PROMPTS = [Prompt(key="one", text="Hello"), Prompt(key="two", text="What is it?")]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Renderer, Renderer]:
    """A student and a teacher of two tokenizers."""
    root: Path = tmp_path_factory.mktemp("sides")
    return (
        sides.student(tiny.byte_level(root / "student")),
        sides.teacher(tiny.sentencepiece(root / "teacher")),
    )


def forward_of(pair: tuple[Renderer, Renderer], student: Student) -> tuple[ForwardKL, Writer]:
    reader, teacher = pair
    writer = Writer(teacher)
    forward = ForwardKL(
        write=writer.rollouts,
        teacher=teacher,
        student=reader,
        scorer=student,
        batch_tokens=64,
    )
    return forward, writer


def test_the_teacher_writes_once(pair: tuple[Renderer, Renderer]) -> None:
    student = Student(-2.0)
    forward, writer = forward_of(pair, student)
    sizes = [len(side.completion(b"abc", StopReason.STOP)) for side in pair]
    first = forward.measured(PROMPTS, seed=5)
    # Each token of the teacher costs 1, each of the student 2, and "abc" has three bytes
    expected = Ratio(2.0 * sizes[0] - sizes[1], 3)
    assert [m.ratios["forward_kl_per_byte"] for m in first] == [expected] * 2
    assert [m.ratios["forward_coverage"] for m in first] == [Ratio(sizes[1], sizes[1])] * 2
    texts = forward.texts(PROMPTS, seed=5)
    student.logp = -1.0
    second = forward.measured(PROMPTS[::-1], seed=5)
    assert second[0].ratios["forward_kl_per_byte"] == Ratio(sizes[0] - sizes[1], 3)
    assert forward.texts(PROMPTS, seed=5) == texts
    assert writer.calls == [(2, 5, 0)]
    forward.measured(PROMPTS[:1], seed=6)
    assert writer.calls == [(2, 5, 0), (1, 6, 0)]


def test_the_student_reads_as_it_would_not_train(pair: tuple[Renderer, Renderer]) -> None:
    student = Student(-2.0)
    for training in (True, False):
        student.train(training)
        forward_of(pair, student)[0].measured(PROMPTS, seed=0)
        assert student.model.training == training
    assert not any(student.was_training)


def test_tokens_beyond_the_students_context(pair: tuple[Renderer, Renderer]) -> None:
    context = len(pair[0].context_ids(PROMPTS[0]))
    forward, _ = forward_of(pair, Student(-2.0, context=context + 1))
    found = forward.measured(PROMPTS[:1], seed=0)[0].ratios
    (text,) = forward.texts(PROMPTS[:1], seed=0)[0]
    assert text.reading is not None
    assert text.reading.completion.token_bytes(0) == text.written.completion.token_bytes(0) == b"a"
    assert found == {"forward_kl_per_byte": Ratio(1.0, 1), "forward_coverage": Ratio(1, 4)}
    # A prompt that fills the context leaves nothing to be scored
    forward, _ = forward_of(pair, Student(-2.0, context=context - 1))
    assert forward.measured(PROMPTS[:1], seed=0)[0].ratios["forward_coverage"] == Ratio(0, 4)


def test_a_template_that_refuses(
    pair: tuple[Renderer, Renderer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object, **others: object) -> TeacherView:
        raise RenderError("no such turn")

    monkeypatch.setattr(Renderer, "view", refuse)
    with caplog.at_level(logging.WARNING):
        found = forward_of(pair, Student(-2.0))[0].measured(PROMPTS[:1], seed=0)[0]
    assert found.ratios == {"forward_kl_per_byte": Ratio(0.0, 0.0), "forward_coverage": Ratio(0, 4)}
    assert "the student cannot read the teacher's text one/0: no such turn" in caplog.text
