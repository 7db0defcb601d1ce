"""The questions of the self-test: each puts a few short texts to a teacher and looks for one defect.

An answer is whether it passed (None: not offered), in words, and the largest difference found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64

from dragoman.render import Renderer
from dragoman.teach.capabilities import FullRows, Generates
from dragoman.teach.teacher import Teacher
from dragoman.types import DropReason, Prompt, Rollout, StopReason, TeacherScores, TeacherView

MASS_TOLERANCE = 1e-3
NUM_GENERATED = 8
_WORDS = ("piano", "and", "forty")
_NONSENSE = "Purple seven under Thursday "
"""No model finds these words likely after each other: none of them has log-prob 0."""
_NUM_LONG = 12
"""Times the text is repeated for one so much longer that the others are mostly padding beside it."""
_COLOURS = ("Blue", "Red", "Green", "Black", "White")
_KNOWN = (
    (
        "Count from one to eight.",
        "One, two, three, four, five, six, seven, eight.",
        "One, six, three, eight, five, two, seven, four.",
    ),
    (
        "Name the days of the week.",
        "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.",
        "Monday, Friday, Sunday, Tuesday, Thursday, Saturday, Wednesday.",
    ),
)
"""Question, the answer, and the same words in an order that no model of language prefers."""


Answer = tuple[bool | None, str, float | None]


@dataclass
class Asked:
    """The teacher, and what it has said so far."""

    teacher: Teacher
    student: Renderer
    tolerance: float
    nonce: str
    first: list[TeacherScores] = field(default_factory=list)

    def view(self, question: str, answer: str | bytes, number: int = 0) -> TeacherView:
        """A view of an answer that was cut off behind its last word."""
        prompt = Prompt(key=f"self-test:{question}", text=f"{self.nonce} {question}".strip())
        data = answer.encode() if isinstance(answer, str) else answer
        return self.teacher.view(
            Rollout(
                prompt=prompt,
                sample=number,
                context_ids=self.student.context_ids(prompt),
                completion=self.student.completion(data, StopReason.LENGTH),
                behaviour_logp=None,
                stop=StopReason.LENGTH,
            )
        )

    def nonsense(self) -> list[TeacherView]:
        """Texts that differ in their last word only."""
        return [self.view("Say something.", _NONSENSE + word, n) for n, word in enumerate(_WORDS)]

    def total(self, views: Sequence[TeacherView]) -> list[float]:
        """The log-prob of each completion, in nats."""
        return [float(scores.logp.sum(dtype=np.float64)) for scores in self.teacher.score(views)]


def logarithms(asked: Asked) -> Answer:
    views = asked.nonsense()
    asked.first = asked.teacher.score(views)
    for view, scores in zip(views, asked.first, strict=True):
        if len(scores.logp) != len(view.completion):
            return False, f"{len(scores.logp)} values for {len(view.completion)} tokens", None
        if (scores.missing != DropReason.NONE).any():
            reason = DropReason(int(scores.missing[scores.missing != DropReason.NONE][0])).label
            return False, f"values of a text of {len(scores.logp)} tokens are missing ({reason})", None
    values = np.concatenate([scores.logp for scores in asked.first])
    if (values == 0).any():
        return False, "a token of a text that nobody would write has log-prob 0, certainty: filled in?", 0.0
    if (values > 0).mean() > 0.5:
        return (
            False,
            "most values are above 0: probabilities instead of their logarithms?",
            float(max(values)),
        )
    return True, f"{len(values)} values, {values.min():.1f} to {values.max():.2f} nats", None


def _differences(asked: Asked, found: Sequence[TeacherScores], what: str) -> Answer:
    """Compare scores of the texts of the first request with what was said then."""
    worst = 0.0
    for before, now in zip(asked.first, found, strict=False):
        if not np.array_equal(before.missing, now.missing):
            return False, f"{what}: other values are missing than at first", None
        worst = max(worst, float(np.abs(before.logp - now.logp).max()))
    passed = worst <= asked.tolerance
    return passed, f"{what}: values differ by up to {worst:.2g} nats", worst


def repeated(asked: Asked) -> Answer:
    return _differences(asked, asked.teacher.score(asked.nonsense()), "asked again, with the prefixes known")


def reordered(asked: Asked) -> Answer:
    return _differences(asked, asked.teacher.score(asked.nonsense()[::-1])[::-1], "asked in reverse order")


def batched(asked: Asked) -> Answer:
    """One text by itself, then all of them in a request that one of quite another length pads."""
    passed, detail, alone = _differences(asked, asked.teacher.score(asked.nonsense()[:1]), "asked alone")
    if alone is None or not passed:
        return passed, detail, alone
    views = [*asked.nonsense(), asked.view("Say something.", _NONSENSE * _NUM_LONG, len(_WORDS))]
    beside = "beside a much longer text"
    passed, detail, worst = _differences(asked, asked.teacher.score(views), f"asked {beside}")
    if worst is None or not passed:
        return passed, detail, worst
    worst = max(alone, worst)
    return True, f"asked alone and {beside}: values differ by up to {worst:.2g} nats", worst


def realised(asked: Asked) -> Answer:
    """Texts with a common beginning: values agree before the first token that differs, and differ at it."""
    views = asked.nonsense()
    ids = [view.completion.ids for view in views]
    size = min(map(len, ids))
    same = np.array([len({int(row[place]) for row in ids}) == 1 for place in range(size)])
    place = int(np.argmin(same)) if not same.all() else size
    if place == size:
        return None, "the texts do not differ in this teacher's tokens", None
    before = np.stack([scores.logp[:place] for scores in asked.first])
    drift = float((before.max(axis=0) - before.min(axis=0)).max()) if place else 0.0
    if drift > asked.tolerance:
        return False, f"a value changes by {drift:.2g} nats with the token behind it: shifted by one?", drift
    at = np.array([scores.logp[place] for scores in asked.first])
    spread = float(at.max() - at.min())
    if spread <= asked.tolerance:
        return (
            False,
            f"different tokens at one place have one value ({at[0]:.2f}): not looked up by id",
            spread,
        )
    return _agrees_with_topk(asked, views, spread)


def _agrees_with_topk(asked: Asked, views: Sequence[TeacherView], spread: float) -> Answer:
    for view, scores in zip(views, asked.first, strict=True):
        if scores.topk_ids is None or scores.topk_logp is None:
            continue
        row, rank = np.nonzero(scores.topk_ids == view.completion.ids[:, None])
        worst = float(np.abs(scores.topk_logp[row, rank] - scores.logp[row]).max(initial=0.0))
        if worst > asked.tolerance:
            return False, f"values differ from the top-k list's by up to {worst:.2g} nats", worst
    return True, f"different tokens at one place have values {spread:.2g} nats apart", None


def mass(asked: Asked) -> Answer:
    views = [asked.view("Which colour is it?", colour, n) for n, colour in enumerate(_COLOURS)]
    sums = [float(np.exp(asked.total(views)).sum())]
    for scores in asked.first:
        if scores.topk_logp is not None:
            sums.append(float(np.exp(scores.topk_logp.astype(np.float64)).sum(axis=1).max()))
    most = max(sums)
    if most > 1 + MASS_TOLERANCE:
        return False, f"alternatives have probability {most:.3g} together: not natural logarithms?", most - 1
    return True, f"no alternatives have more than probability {most:.3g} together", max(most - 1, 0.0)


def row(asked: Asked) -> Answer:
    if not isinstance(asked.teacher, FullRows):
        return None, "whole rows are not offered", None
    view = asked.nonsense()[0]
    row = asked.teacher.full_row(view, 0).astype(np.float64)
    off = abs(float(np.exp(row).sum()) - 1)
    if not off <= MASS_TOLERANCE:
        return False, f"the row of {len(row)} probabilities sums to 1 within {off:.2g} only", off
    difference = abs(float(row[view.completion.ids[0]] - asked.first[0].logp[0]))
    if difference > asked.tolerance:
        return False, f"the row's value of the realised token is {difference:.2g} nats off", difference
    return True, f"the row of {len(row)} probabilities sums to 1 within {off:.2g}", off


def known(asked: Asked) -> Answer:
    totals = asked.total([asked.view(question, text) for question, *answers in _KNOWN for text in answers])
    margins = [right - wrong for right, wrong in zip(totals[::2], totals[1::2], strict=True)]
    worst = min(margins)
    words = f"what everyone knows is at least {worst:.1f} nats likelier than the same words out of order"
    if worst > 0:
        return True, words, None
    return False, f"words out of order are up to {-worst:.1f} nats likelier than what everyone knows", -worst


def greedy(asked: Asked) -> Answer:
    """What the teacher writes by itself must be the most likely under its scores."""
    if not isinstance(asked.teacher, Generates):
        return None, "answers of its own are not offered", None
    question = "Name a river and a mountain."
    wanted = Prompt(key="self-test:greedy", text=f"{asked.nonce} {question}".strip())
    written = asked.teacher.generate(wanted, NUM_GENERATED)
    view = asked.view(question, written.data)
    size = _num_common(view.completion.ids, written.ids)
    if not size:
        return (
            None,
            f"it wrote no text that could be compared{f' ({written.note})' if written.note else ''}",
            None,
        )
    (scores,) = asked.teacher.score([view])
    worst: list[float] = []
    if written.logp is not None:
        worst.append(float(np.abs(scores.logp[:size] - written.logp[:size]).max()))
    if scores.topk_logp is not None:
        worst.append(float((scores.topk_logp[:size].max(axis=1) - scores.logp[:size]).max()))
    elif isinstance(asked.teacher, FullRows):
        worst.append(float(asked.teacher.full_row(view, 0).max() - scores.logp[0]))
    if not worst:
        return None, "neither its own log-probs nor those of other tokens are offered", None
    off = max(worst)
    shown = written.data.decode("utf-8", "replace")
    if off > asked.tolerance:
        return (
            False,
            f"its own answer {shown!r} is {off:.2g} nats off under its scores: another template?",
            off,
        )
    return True, f"its own answer {shown!r} is the most likely, within {max(off, 0.0):.2g} nats", off


def _num_common(ids: Int64[np.ndarray, " T"], written: Int64[np.ndarray, " N"] | None) -> int:
    """Tokens of a view that are those the teacher wrote; without ids, all but the last, which a limit on
    length may have cut off before its text would be one token."""
    if written is None:
        return max(len(ids) - 1, 0)
    size = min(len(ids), len(written))
    same = ids[:size] == written[:size]
    return size if same.all() else int(np.argmin(same))


Question = Callable[[Asked], Answer]
