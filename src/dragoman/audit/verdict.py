"""From what was found to what is wrong with it, and what to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dragoman.audit.facts import MappingAudit, SideFacts
from dragoman.audit.pair_facts import PairAudit
from dragoman.audit.result import Problem, Severity

MIN_COVERAGE = 0.5
"""Least share of student tokens with a signal where `train.min_coverage` asks for none."""
MOST_NONCANONICAL = 0.05
FEW_STOPS = 1e-3
"""Probability the teacher gives to the student's own endings, below which it teaches never to end."""
_PLAIN_PROBES = ("system message", "several turns", "two turns of the user")


def verdict(problems: Sequence[Problem]) -> str:
    """One line: whether training would be safe."""
    errors = [problem for problem in problems if problem.severity is Severity.ERROR]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        return f"verdict: unsafe: {errors[0].what}{more}"
    return "verdict: safe with warnings" if problems else "verdict: safe"


def mapping_problems(mapping: MappingAudit, min_coverage: float = MIN_COVERAGE) -> tuple[Problem, ...]:
    """What speaks against training a pair, by its mapping alone."""
    return (
        *_coverage(mapping.judged.name, mapping.judged.coverage, mapping.judged.reasons, min_coverage),
        *_stops(mapping),
        *refusal_problems(mapping),
        *_lengths(mapping),
        *_thinking(mapping),
        *_losses(mapping),
        *_templates(mapping),
    )


def pair_problems(
    pair: PairAudit, *, min_coverage: float = MIN_COVERAGE, max_new_tokens: int
) -> tuple[Problem, ...]:
    """What speaks against it by what was sampled; `max_new_tokens` were allowed."""
    return (
        *_tests(pair),
        *_coverage(pair.sampled.figures.name, pair.sampled.coverage, pair.sampled.lost, min_coverage),
        *_methods(pair, min_coverage),
        *_samples(pair, max_new_tokens),
        *_memory(pair),
    )


def _error(what: str, change: str) -> Problem:
    return Problem(severity=Severity.ERROR, what=what, change=change)


def _warning(what: str, change: str) -> Problem:
    return Problem(severity=Severity.WARNING, what=what, change=change)


def _coverage(name: str, coverage: float, lost: Mapping[str, int], least: float) -> list[Problem]:
    if not coverage < least:
        return []
    reasons = ", ".join(f"{reason} {count}" for reason, count in lost.items())
    return [
        _error(
            f"of {name}, {coverage:.1%} of the student's tokens can be compared, below "
            f"{least:.0%} ({reasons})",
            "choose a teacher whose tokenizer keeps these texts; the losses are listed by side. If so little "
            "signal is wanted, set train.min_coverage to what you accept",
        )
    ]


def _stops(mapping: MappingAudit) -> list[Problem]:
    if mapping.stop_maps:
        return []
    return [
        _error(
            "the end of an answer is no event that both sides share, so stopping could not be taught",
            "name the tokens that end an answer with student.stop_tokens and teacher.stop_tokens",
        )
    ]


def refusal_problems(mapping: MappingAudit) -> list[Problem]:
    """Prompts that a side's template refuses: with any method the run would end at them."""
    if not mapping.refusals:
        return []
    first, keys = mapping.refusals[0], {refusal.key for refusal in mapping.refusals}
    return [
        _error(
            f"{len(keys)} prompts are refused; first {first.key!r} by the {first.side}: {first.message}",
            f"change these conversations, set {first.side}.template=plain, or, if it is tools that the "
            f"template does not know, {first.side}.tools=text",
        )
    ]


def _lengths(mapping: MappingAudit) -> list[Problem]:
    context = mapping.context
    found = []
    if context.student_limit is not None and context.student_need > context.student_limit:
        found.append(
            _error(
                f"the student needs {context.student_need} tokens, its context has {context.student_limit}",
                "shorten the prompts, or lower rollout.max_new_tokens",
            )
        )
    if context.teacher_limit is not None and context.teacher_need > context.teacher_limit:
        what = (
            f"the teacher needs {context.teacher_need} tokens ({context.teacher_context} for "
            f"{context.longest_prompt!r} and {context.teacher_response} for {context.max_new_tokens} of the "
            f"student), its context has {context.teacher_limit}: what lies beyond gets no signal"
        )
        if context.num_without_room:
            what += f"; {context.num_without_room} of {context.num_prompts} prompts leave it no room at all"
        change = (
            "lower rollout.max_new_tokens, shorten the prompts, or choose a teacher with a longer context"
        )
        none_left = context.num_without_room == context.num_prompts
        found.append((_error if none_left else _warning)(what, change))
    return found


def _thinking(mapping: MappingAudit) -> list[Problem]:
    student, teacher = mapping.student, mapping.teacher
    if teacher.may_think_first and not student.may_think_first:
        switch = teacher.no_thinking
        change = (
            f"set teacher.chat_template_kwargs.{switch}=false"
            if switch is not None
            else "give its template the variable that turns thinking off (teacher.chat_template_kwargs)"
        )
        return [_warning("the teacher expects to think before it answers, the student does not", change)]
    if student.may_think_first and not teacher.thinks:
        switch = student.no_thinking
        return [
            _warning(
                "the student may think before it answers, and the teacher's template has no thinking",
                (f"set student.chat_template_kwargs.{switch}=false, or " if switch is not None else "")
                + "set teacher.thinking=drop to train on answers only",
            )
        ]
    return []


def _losses(mapping: MappingAudit) -> list[Problem]:
    found, figures = [], mapping.judged
    if figures.altered:
        found.append(
            _warning(
                f"the student's tokenizer changes {figures.altered} of {figures.num_texts} texts "
                f"({figures.name}) when it reads them ({_lost(mapping.student)})",
                "prompts with such text reach it changed; what it samples itself is not affected",
            )
        )
    if figures.normalised:
        found.append(
            _warning(
                f"{figures.normalised / figures.student_tokens:.1%} of the student's tokens ({figures.name}) "
                "are compared in the form to which the teacher's tokenizer changes them "
                f"({_lost(mapping.teacher)})",
                "leave these out with method.normalised=mask, or use them as they are",
            )
        )
    return found


def _lost(side: SideFacts) -> str:
    return ", ".join(side.losses) or "no loss is known"


def _templates(mapping: MappingAudit) -> list[Problem]:
    found = []
    for row in mapping.templates:
        if row.name not in _PLAIN_PROBES:
            continue
        for side, status in (("student", row.student_status), ("teacher", row.teacher_status)):
            if status in ("drops", "reorders"):
                found.append(
                    _warning(
                        f"the {side}'s template {status} parts of a conversation ({row.name})",
                        f"see both texts below; avoid such prompts, or set {side}.template=plain",
                    )
                )
    return found


def _tests(pair: PairAudit) -> list[Problem]:
    found = []
    for row in pair.self_test:
        if row.passed is False and row.name == "known answer":
            found.append(
                _warning(
                    f"the teacher fails the check {row.name!r}: {row.detail}",
                    "check that its weights and template are what they should be",
                )
            )
        elif row.passed is False:
            found.append(
                _error(
                    f"the teacher fails the check {row.name!r}: {row.detail}",
                    "its log-probs are not what supervision takes them for; correct that before any training",
                )
            )
    return found


def _methods(pair: PairAudit, least: float) -> list[Problem]:
    found = []
    for row in pair.methods:
        if not row.configured:
            continue
        if not row.offered:
            found.append(
                _error(
                    f"method {row.name!r} needs {row.needs}, which this teacher does not offer", row.remedy
                )
            )
        if row.supervised is not None and row.supervised < min(least, pair.sampled.coverage):
            dropped = ", ".join(f"{name} {count}" for name, count in row.dropped.items())
            found.append(
                _error(
                    f"method {row.name!r} would train on {row.supervised:.1%} of the sampled tokens "
                    f"({dropped})",
                    "loosen what it drops (method.guard, method.max_chunk_tokens, method.normalised)",
                )
            )
    return found


def _samples(pair: PairAudit, max_new_tokens: int) -> list[Problem]:
    sampled = pair.sampled
    found = []
    if sampled.noncanonical_rate > MOST_NONCANONICAL:
        found.append(
            _warning(
                f"{sampled.noncanonical_rate:.1%} of the student's tokens are not its tokenizer's own choice",
                "keep a guard (method.guard=penalty), or sample less widely (rollout.top_p=0.95)",
            )
        )
    if sampled.stop_rate == 0:
        found.append(
            _warning(
                f"no response ended within {max_new_tokens} tokens",
                "audit with a larger --max-new-tokens; if the student never ends, set rollout.stop_strings "
                "or student.stop_tokens",
            )
        )
    if (
        sampled.teacher_stop is not None
        and sampled.student_stop is not None
        and sampled.teacher_stop < min(FEW_STOPS, sampled.student_stop)
    ):
        found.append(
            _warning(
                f"where the student ends its answer the teacher gives an end probability "
                f"{sampled.teacher_stop:.1g}: training would teach it not to end",
                "check teacher.template and teacher.stop_tokens; a base model may never end an answer",
            )
        )
    return found


def _memory(pair: PairAudit) -> list[Problem]:
    cost = pair.cost
    if cost.total_memory <= cost.available_bytes:
        return []
    return [
        _warning(
            f"a step needs about {cost.total_memory / 2**30:.1f} GiB, the machine has "
            f"{cost.available_bytes / 2**30:.1f}",
            "set student.lora, student.gradient_checkpointing=true, a smaller train.micro_batch_tokens or "
            "student.dtype=bfloat16",
        )
    ]
