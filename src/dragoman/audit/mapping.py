"""The cheap half of an audit: tokenizers, templates and texts, no weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dragoman.alignment import align
from dragoman.audit.facts import ContextNeed, Figures, MappingAudit, Refusal
from dragoman.audit.figures import Mapped, figures_of
from dragoman.audit.sides import event_map, overlap, side_facts, template_rows
from dragoman.audit.texts import PROMPTS, TEXTS
from dragoman.errors import RenderError
from dragoman.render import Renderer
from dragoman.types import ChunkKind, Prompt, Rollout, StopReason

MOST_PROMPTS = 256
MOST_BYTES = 2000
_ASKED = Prompt(key="audit:text", text="Write something.")


def audit_mapping(
    student: Renderer,
    teacher: Renderer,
    prompts: Sequence[Prompt] = (),
    *,
    texts: Mapping[str, str] | None = None,
    max_new_tokens: int = 256,
    student_limit: int | None = None,
    teacher_limit: int | None = None,
) -> MappingAudit:
    """What the mapping makes of a pair, before any weights are read.

    `texts` (default: the built-in ones) and the words of up to 256 of the `prompts` are taken as responses
    of the student, and go through the same view and alignment as in training; one that no response could
    be, as it spells a stop token of a side, is left out and counted. All of the prompts are rendered by both
    sides, for their lengths and for what a template refuses. Limits are the longest conversations of either
    side, in its tokens; None where they are not known.
    """
    asked = [prompt.until_last_turn() for prompt in prompts]
    refusals: list[Refusal] = []
    mapper = _Mapper(student, teacher)
    built_in = {name: [mapper.mapped(text)] for name, text in (texts or TEXTS).items()}
    own = [mapper.mapped(_words(prompt)) for prompt in _spread(asked)]
    total = _figures("all built-in texts", [one for found in built_in.values() for one in found])
    of_prompts = _figures("the prompts", own) if asked else None
    of_texts = tuple(_figures(name, found) for name, found in built_in.items())
    longest_of = (of_prompts,) if of_prompts is not None and of_prompts.num_texts else of_texts
    return MappingAudit(
        student=side_facts(student),
        teacher=side_facts(teacher),
        overlap=overlap(student, teacher),
        texts=of_texts,
        total=total,
        own=of_prompts,
        events=event_map(student, teacher),
        stop_maps=mapper.stop_maps(),
        templates=template_rows(student, teacher),
        context=_context(
            student,
            teacher,
            asked or PROMPTS,
            refusals,
            inflation=_most_inflation(longest_of),
            max_new_tokens=max_new_tokens,
            limits=(student_limit, teacher_limit),
        ),
        refusals=tuple(refusals),
    )


class _Mapper:
    """Takes texts as responses of the student to one question."""

    def __init__(self, student: Renderer, teacher: Renderer) -> None:
        self._student = student
        self._teacher = teacher
        self._context = student.context_ids(_ASKED)
        self._keep_ids = student.tokenization.same_ids_as(teacher.tokenization)

    def mapped(self, text: str) -> Mapped | None:
        """The text on both sides; None where a side cannot take it as a response."""
        try:
            return self._aligned(text.encode(), StopReason.LENGTH)
        except RenderError:
            return None

    def stop_maps(self) -> bool:
        """Whether the stop behind an answer is a chunk of its own with the teacher's. The answer has no
        words, so that none of them can be a stop token."""
        found = self._aligned(b"", StopReason.STOP).alignment
        return bool(len(found.kind)) and bool(found.kind[-1] == ChunkKind.EVENT)

    def _aligned(self, data: bytes, stop: StopReason) -> Mapped:
        completion = self._student.completion(data, stop)
        rollout = Rollout(
            prompt=_ASKED,
            sample=0,
            context_ids=self._context,
            completion=completion,
            behaviour_logp=None,
            stop=stop,
        )
        view = self._teacher.view(rollout, student=self._student, keep_ids=self._keep_ids)
        alignment = align(completion, view.completion, view.correspondence)
        return Mapped(
            student=completion,
            teacher=view.completion,
            alignment=alignment,
            altered=completion.data != data,
        )


def _figures(name: str, found: Sequence[Mapped | None]) -> Figures:
    mapped = [one for one in found if one is not None]
    return figures_of(name, mapped, left_out=len(found) - len(mapped))


def _context(
    student: Renderer,
    teacher: Renderer,
    prompts: Sequence[Prompt],
    refusals: list[Refusal],
    *,
    inflation: float,
    max_new_tokens: int,
    limits: tuple[int | None, int | None],
) -> ContextNeed:
    """The lengths of the prompts' contexts; a prompt that a side refuses goes to `refusals`."""
    sizes: dict[str, list[int]] = {"student": [0], "teacher": [0]}
    longest, num_without_room = "", 0
    for prompt in prompts:
        for side, renderer in (("student", student), ("teacher", teacher)):
            try:
                size = len(renderer.context_ids(prompt))
            except RenderError as error:
                refusals.append(Refusal(key=prompt.key, side=side, message=str(error)))
                continue
            if side == "teacher":
                longest = prompt.key if size > max(sizes[side]) else longest
                num_without_room += limits[1] is not None and size >= limits[1]
            sizes[side].append(size)
    return ContextNeed(
        num_prompts=len(prompts),
        max_new_tokens=max_new_tokens,
        longest_prompt=longest,
        student_context=max(sizes["student"]),
        teacher_context=max(sizes["teacher"]),
        teacher_response=math.ceil(max_new_tokens * inflation),
        student_limit=limits[0],
        teacher_limit=limits[1],
        num_without_room=num_without_room,
    )


def _most_inflation(found: Sequence[Figures]) -> float:
    """The largest inflation among some texts: how long a response may become for the teacher."""
    return max((one.inflation for one in found if one.student_tokens), default=1.0)


def _spread(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Up to `MOST_PROMPTS` of the prompts, evenly over all of them."""
    if len(prompts) <= MOST_PROMPTS:
        return list(prompts)
    places = np.linspace(0, len(prompts) - 1, MOST_PROMPTS).round().astype(int)
    return [prompts[place] for place in places.tolist()]


def _words(prompt: Prompt) -> str:
    """What is said in a prompt, cut to the length of a response."""
    text = prompt.text or "\n\n".join(turn.content for turn in prompt.messages or () if turn.content)
    return text.encode()[:MOST_BYTES].decode("utf-8", errors="ignore")
