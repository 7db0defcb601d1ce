"""The teacher's self-test: a sound teacher passes, and each defect seen in servers fails its own check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

import tiny
from dragoman.config import StudentConfig, TeacherConfig
from dragoman.render import Renderer
from dragoman.teach import Generation, SelfTest, Teacher, self_test
from dragoman.teach.questions import _COLOURS, _KNOWN
from dragoman.types import Prompt, Rollout, TeacherCaps, TeacherLevel, TeacherScores, TeacherView

NUM_LIKELY = 20
OTHER_END = 50
"""An id, an ordinary letter, after which another token is the likeliest."""


class Sound:
    """Log-probs that depend on the last id, and on whether what was said so far begins a known answer."""

    name = "sound"
    caps = TeacherCaps(level=TeacherLevel.TOPK, generates=True)
    place_of_known = 1

    def __init__(self, renderer: Renderer) -> None:
        self.renderer = renderer
        tokens = renderer.tokenization
        self.logits = np.random.default_rng(0).normal(size=(tokens.num_ids, tokens.num_ids))
        # one colour is the likely answer, so that logarithms to another base show
        self.logits[:, int(tokens.encode(_COLOURS[0].encode()).ids[0])] = 6.0
        self.logits[OTHER_END, OTHER_END + 1] = 12.0
        self.logits[:, [i for i in range(tokens.num_ids) if tokens.is_event(i)]] = -20.0
        self.known = [tokens.encode(answers[self.place_of_known].encode()).ids.tolist() for answers in _KNOWN]

    def view(self, rollout: Rollout) -> TeacherView:
        return self.renderer.view(rollout)

    def row(self, last: int, said: list[int]) -> np.ndarray:
        logits = self.logits[last].copy()
        for ids in self.known:
            if said and said == ids[: len(said)] and len(said) < len(ids):
                logits[ids[len(said)]] = 9.0
        return logits - np.log(np.exp(logits).sum())

    def rows(self, view: TeacherView) -> np.ndarray:
        said = view.completion.ids.tolist()
        before = view.ids[view.start - 1 : -1].tolist()
        return np.stack([self.row(last, said[:n]) for n, last in enumerate(before)])

    def values(self, view: TeacherView, index: int, count: int) -> np.ndarray:
        """Log-probs of the completion of request `index` of `count`."""
        ids = view.completion.ids
        return self.rows(view)[np.arange(len(ids)), ids]

    def score(self, views: Sequence[TeacherView]) -> list[TeacherScores]:
        found = []
        for index, view in enumerate(views):
            logp = self.values(view, index, len(views)).astype(np.float32)
            rows = self.likely(view)
            best = np.argsort(-rows, axis=1)[:, :NUM_LIKELY]
            found.append(
                TeacherScores(
                    logp=logp,
                    missing=np.zeros(len(logp), np.uint8),
                    topk_ids=best.astype(np.int32),
                    topk_logp=np.take_along_axis(rows, best, 1).astype(np.float32),
                )
            )
        return found

    def likely(self, view: TeacherView) -> np.ndarray:
        return self.rows(view)

    def full_row(self, view: TeacherView, index: int) -> np.ndarray:
        return self.likely(view)[index]

    def last_context_id(self, prompt: Prompt) -> int:
        return int(self.renderer.context_ids(prompt)[-1])

    def generate(self, prompt: Prompt, max_new_tokens: int) -> Generation:
        last, ids = self.last_context_id(prompt), []
        for _ in range(max_new_tokens):
            last = int(self.row(last, ids).argmax())
            ids.append(last)
        data = b"".join(self.renderer.tokenization.token_bytes(i) for i in ids)
        return Generation(data=data, ids=np.array(ids))


class Argmax(Sound):
    """The most likely token's value in place of the realised one's."""

    def values(self, view: TeacherView, index: int, count: int) -> np.ndarray:
        return self.rows(view).max(axis=1)


class ShiftedLate(Sound):
    """Every value is that of the token before."""

    def values(self, view: TeacherView, index: int, count: int) -> np.ndarray:
        own = super().values(view, index, count)
        return np.append(own[:1], own[:-1])


class ShiftedEarly(Sound):
    """Every value is that of the token behind."""

    def values(self, view: TeacherView, index: int, count: int) -> np.ndarray:
        own = super().values(view, index, count)
        return np.append(own[1:], own[-1:])


class OrderMatters(Sound):
    def values(self, view: TeacherView, index: int, count: int) -> np.ndarray:
        return super().values(view, index, count) - 0.5 * index


class BatchMatters(Sound):
    def values(self, view: TeacherView, index: int, count: int) -> np.ndarray:
        return super().values(view, index, count) - 0.5 * (count == 1)


class PaddingMatters(Sound):
    """Values of a text that is padded to more than twice its length: positions counted from the padding."""

    def score(self, views: Sequence[TeacherView]) -> list[TeacherScores]:
        self.width = max(len(view.ids) for view in views)
        return super().score(views)

    def values(self, view: TeacherView, index: int, count: int) -> np.ndarray:
        return super().values(view, index, count) - 0.5 * (self.width > 2 * len(view.ids))


class CacheMatters(Sound):
    """What was asked before comes back with other values."""

    def __init__(self, renderer: Renderer) -> None:
        super().__init__(renderer)
        self.seen: set[bytes] = set()

    def values(self, view: TeacherView, index: int, count: int) -> np.ndarray:
        known = view.ids.tobytes() in self.seen
        self.seen.add(view.ids.tobytes())
        return super().values(view, index, count) - 0.5 * known


class MissingIsZero(Sound):
    def values(self, view: TeacherView, index: int, count: int) -> np.ndarray:
        found = super().values(view, index, count)
        found[0] = 0.0
        return found


class Probabilities(Sound):
    def values(self, view: TeacherView, index: int, count: int) -> np.ndarray:
        return np.exp(super().values(view, index, count))


class BaseTen(Sound):
    def values(self, view: TeacherView, index: int, count: int) -> np.ndarray:
        return super().values(view, index, count) / np.log(10)

    def likely(self, view: TeacherView) -> np.ndarray:
        return self.rows(view) / np.log(10)


class RowOfTwo(Sound):
    """A row that counts one token twice."""

    def full_row(self, view: TeacherView, index: int) -> np.ndarray:
        row = super().full_row(view, index)
        return np.append(row, row.max())


class Backwards(Sound):
    """Knows the answers' words in the wrong order."""

    place_of_known = 2


class OtherTemplate(Sound):
    """Its own answers follow another end of the conversation."""

    def last_context_id(self, prompt: Prompt) -> int:
        return OTHER_END


DEFECTS: dict[type[Sound], str] = {
    Argmax: "realised",
    ShiftedLate: "realised",
    ShiftedEarly: "realised",
    OrderMatters: "order",
    BatchMatters: "batch",
    PaddingMatters: "batch",
    CacheMatters: "repeated",
    MissingIsZero: "logarithms",
    Probabilities: "logarithms",
    BaseTen: "mass",
    RowOfTwo: "row",
    Backwards: "known answer",
    OtherTemplate: "greedy",
}


@dataclass(frozen=True)
class Sides:
    student: Renderer
    teacher: Renderer


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    folder = tmp_path_factory.mktemp("selftest")
    student = tiny.sentencepiece(folder / "student")
    teacher = tiny.byte_level(folder / "teacher")
    return Sides(
        student=Renderer.from_config(StudentConfig(model=str(student))),
        teacher=Renderer.from_config(TeacherConfig(model=str(teacher))),
    )


Test = Callable[[Teacher], SelfTest]


@pytest.fixture
def tested(sides: Sides) -> Test:
    return lambda teacher: self_test(teacher, sides.student)


def test_a_sound_teacher_passes_everything(sides: Sides, tested: Test) -> None:
    found = tested(Sound(sides.teacher))
    assert [
        (check.name, check.passed, check.detail) for check in found.checks if check.passed is not True
    ] == []
    assert found.passed


@pytest.mark.parametrize(
    ("defective", "name"), DEFECTS.items(), ids=lambda value: getattr(value, "__name__", value)
)
def test_each_defect_fails_its_own_check(
    sides: Sides, tested: Test, defective: type[Sound], name: str
) -> None:
    found = tested(defective(sides.teacher))
    assert [check.name for check in found.failures] == [name], found
    assert not found.passed


def test_what_builds_on_a_failed_check_is_not_tried(sides: Sides, tested: Test) -> None:
    found = tested(Argmax(sides.teacher))
    assert found.check("mass").passed is None
    assert found.check("known answer").passed is None
    assert "'realised'" in found.check("greedy").detail
    # but what does not build on it is answered
    assert found.check("batch").passed is True


def test_a_teacher_that_only_scores_is_not_failed_for_it(sides: Sides, tested: Test) -> None:
    class Scores:
        """Views and values, as a plain server gives them."""

        name = "scores"
        caps = TeacherCaps(level=TeacherLevel.REALISED, generates=False)

        def __init__(self, inner: Sound) -> None:
            self.view = inner.view
            self._inner = inner

        def score(self, views: Sequence[TeacherView]) -> list[TeacherScores]:
            return [
                TeacherScores(logp=scores.logp, missing=scores.missing) for scores in self._inner.score(views)
            ]

    found = tested(Scores(Sound(sides.teacher)))
    assert found.passed
    assert found.check("row").passed is None
    assert found.check("greedy").passed is None
    assert found.check("known answer").passed is True


def test_the_padding_is_named(sides: Sides, tested: Test) -> None:
    check = tested(PaddingMatters(sides.teacher)).check("batch")
    assert check.worst == pytest.approx(0.5, abs=1e-6)
    assert check.detail == "asked beside a much longer text: values differ by up to 0.5 nats"
    sound = tested(Sound(sides.teacher)).check("batch")
    assert sound.detail == "asked alone and beside a much longer text: values differ by up to 0 nats"


def test_differences_within_the_tolerance_pass(sides: Sides) -> None:
    teacher = OrderMatters(sides.teacher)  # 0.5 nats a place, three texts a request: 1.0 at most
    assert self_test(teacher, sides.student, tolerance=0.99).check("order").passed is False
    assert self_test(teacher, sides.student, tolerance=1.01).check("order").passed is True
