"""The cheap half of an audit: figures by hand, sides as probed, and what is called a problem."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import normalizers

import tiny
from dragoman.alignment import align
from dragoman.audit import (
    MappingAudit,
    Severity,
    audit_mapping,
    mapping_problems,
    require_safe,
    verdict,
)
from dragoman.audit.facts import Figures
from dragoman.audit.figures import Mapped, figures_of
from dragoman.audit.gate import is_gated
from dragoman.audit.mapping import MOST_PROMPTS
from dragoman.audit.mass import side_mass
from dragoman.audit.result import Audit
from dragoman.audit.run import context_limit, run_audit
from dragoman.audit.texts import PROMPTS, TEXTS
from dragoman.config import Config, StudentConfig, TeacherConfig, load_config
from dragoman.errors import TrainingError
from dragoman.methods import get_method, method_defaults
from dragoman.render import Renderer
from dragoman.report.audit_tables import audit_tables
from dragoman.types import Message, Prompt
from texts import tokens

NO_SYSTEM = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINKS = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message.reasoning_content is defined %}"
    "{{ '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
SYSTEM = Prompt(
    key="system",
    messages=(Message(role="system", content="Be brief."), Message(role="user", content="Hello world")),
)


def student_side(path: Path, **options: Any) -> Renderer:
    return Renderer.from_config(StudentConfig(model=str(tiny.byte_level(path / "student", **options))))


def teacher_side(
    path: Path, kwargs: dict[str, Any] | None = None, stops: tuple[str, ...] | None = None, **options: Any
) -> Renderer:
    folder = tiny.byte_level(path / "teacher", **options)
    return Renderer.from_config(
        TeacherConfig(model=str(folder), chat_template_kwargs=kwargs or {}, stop_tokens=stops)
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Renderer, Renderer]:
    folder = tmp_path_factory.mktemp("audit")
    teacher = tiny.sentencepiece(folder / "teacher")
    return student_side(folder), Renderer.from_config(TeacherConfig(model=str(teacher)))


@pytest.fixture(scope="module")
def mapping(pair: tuple[Renderer, Renderer]) -> MappingAudit:
    return audit_mapping(*pair)


def test_figures_by_hand() -> None:
    # |He|llo| wor|ld|  against  |Hello| wor|l|d|: n:1, 1:1, 1:n; 4 student tokens, 4 of the teacher
    one = Mapped(
        student=(s := tokens("He", "llo", " wor", "ld")),
        teacher=(t := tokens("Hello", " wor", "l", "d")),
        alignment=align(s, t),
    )
    # |a|b| against |a|c|d|: the second token's bytes differ
    two = Mapped(
        student=(s := tokens("a", "b")),
        teacher=(t := tokens("a", "c", "d")),
        alignment=align(s, t),
        altered=True,
    )
    found = figures_of("both", [one, two])
    assert (found.num_texts, found.num_bytes, found.altered) == (2, 13, 1)
    assert (found.student_tokens, found.teacher_tokens) == (6, 7)
    assert found.inflation == pytest.approx(7 / 6)
    assert (found.covered, found.coverage) == (5, pytest.approx(5 / 6))
    assert found.single == 2  # " wor" and "a"
    counts = {row.kind: (row.num_chunks, row.student_tokens) for row in found.kinds}
    assert counts == {"1:1": (2, 2), "1:n": (1, 1), "n:1": (1, 2), "impure": (1, 1)}
    assert found.reasons == {"bytes_differ": 1}


def test_mass_by_hand() -> None:
    ids = np.array([[3, 5], [5, 9], [0, 0]])
    logp = np.log(np.array([[0.5, 0.3], [0.6, 0.2], [1.0, 1.0]]))
    logp[2] = -np.inf  # beyond the context: no values, and no position
    found = side_mass(np.array([5, 7]), [(ids, logp)])
    # id 5 is shared: (.3 + .6) / 2 of mass, and 1 - (.8 + .8) / 2 lies beyond the two looked at
    assert found.shared == pytest.approx(0.45)
    assert found.tail == pytest.approx(0.2)
    assert (found.num_positions, found.k) == (2, 2)


def test_a_lossless_pair_is_covered_whatever_the_script(mapping: MappingAudit) -> None:
    assert [figures.name for figures in mapping.texts] == list(TEXTS)
    assert {figures.name: figures.coverage for figures in mapping.texts} == dict.fromkeys(TEXTS, 1.0)
    assert mapping.total.student_tokens == sum(figures.student_tokens for figures in mapping.texts)
    assert mapping.total.num_bytes == sum(len(text.encode()) for text in TEXTS.values())
    assert mapping.judged is mapping.total
    assert mapping.stop_maps
    assert mapping_problems(mapping) == ()


def test_sides_are_probed(mapping: MappingAudit) -> None:
    student, teacher = mapping.student, mapping.teacher
    assert (student.spelling, teacher.spelling) == ("byte-level", "sentencepiece")
    assert (student.byte_fallback, teacher.byte_fallback) == (False, True)
    assert student.lossless and teacher.lossless
    stops = mapping.events[0]
    assert "<|im_end|>" in stops.student
    assert "<end_of_turn>" in stops.teacher
    conversation = mapping.templates[0]
    assert "<|im_start|>user\nName a river.<|im_end|>" in conversation.student
    assert "<start_of_turn>model\nThe Rhine.<end_of_turn>" in conversation.teacher
    trimmed = next(row for row in mapping.templates if row.name == "white space around an earlier answer")
    assert (trimmed.student_status, trimmed.teacher_status) == ("ok", "trims")


def test_vocabularies_overlap_by_bytes(pair: tuple[Renderer, Renderer], mapping: MappingAudit) -> None:
    student, teacher = (set(side.tokenization.vocabulary_bytes()) - {b""} for side in pair)
    assert mapping.overlap.num_shared == len(student & teacher)
    assert not mapping.overlap.same_ids
    assert audit_mapping(pair[0], pair[0]).overlap.same_ids


def test_the_text_of_prompts_decides(pair: tuple[Renderer, Renderer]) -> None:
    prompts = (Prompt(key="a", text="The interpreter"), SYSTEM)
    found = audit_mapping(*pair, prompts)
    assert found.own is not None and found.judged is found.own
    assert found.own.num_bytes == len(b"The interpreter") + len(b"Be brief.\n\nHello world")
    assert found.context.num_prompts == 2


def test_a_lossy_teacher_is_a_warning_and_too_lossy_a_one_an_error(tmp_path: Path) -> None:
    student = student_side(tmp_path)
    teacher = teacher_side(tmp_path, normalizer=normalizers.Lowercase())
    found = audit_mapping(student, teacher, texts={"shouted": "HELLO World"})
    assert "case" in found.teacher.losses
    assert found.total.normalised > 0
    assert [problem.severity for problem in mapping_problems(found)] == [Severity.WARNING]

    gone = audit_mapping(student, teacher_side(tmp_path / "b", normalizer=normalizers.Replace("HELLO", "")))
    none_left = replace(
        gone, total=replace(gone.total, covered=gone.total.student_tokens // 3, reasons={"x": 9})
    )
    (problem, *_) = mapping_problems(none_left)
    assert problem.severity is Severity.ERROR
    assert "below 50%" in problem.what and "x 9" in problem.what
    assert "set train.min_coverage to what you accept" in problem.change
    assert not any(p.severity is Severity.ERROR for p in mapping_problems(none_left, min_coverage=0.2))


def test_a_refused_prompt_is_an_error_that_names_it(tmp_path: Path) -> None:
    found = audit_mapping(student_side(tmp_path), teacher_side(tmp_path, chat_template=NO_SYSTEM), (SYSTEM,))
    (problem,) = mapping_problems(found)
    assert problem.severity is Severity.ERROR
    assert "'system' by the teacher" in problem.what and "no system message" in problem.what
    row = next(row for row in found.templates if row.name == "system message")
    assert (row.student_status, row.teacher_status) == ("ok", "raises")


def test_a_text_that_spells_a_stop_token_is_left_out_and_no_refusal(tmp_path: Path) -> None:
    """As a prompt it is in order; only the response it is taken for here could not be written."""
    teacher = teacher_side(tmp_path, stops=(".", "<|im_end|>"))
    prompts = (Prompt(key="a", text="Hello."), Prompt(key="b", text="Hello"))
    texts = {"one": "Yes.", "two": "No", "three": "No. Yes."}
    found = audit_mapping(student_side(tmp_path), teacher, prompts, texts=texts)
    assert found.refusals == ()
    assert {one.name: (one.num_texts, one.left_out) for one in found.texts} == {
        "one": (0, 1),
        "two": (1, 0),
        "three": (0, 1),
    }
    assert (found.total.num_texts, found.total.left_out) == (1, 2)
    assert found.own is not None and (found.own.num_texts, found.own.left_out) == (1, 1)
    assert found.own.num_bytes == len("Hello")
    assert mapping_problems(found) == ()
    audit = Audit(mapping=found, pair=None, problems=(), verdict="verdict: safe", seconds=1.0)
    table = next(table for table in audit_tables(audit) if table.title == "Mapping of texts")
    assert table.note.endswith("spell a stop token: 2 of all built-in texts, 1 of the prompts.")


def test_prompts_that_are_all_left_out_do_not_decide(tmp_path: Path) -> None:
    teacher = teacher_side(tmp_path, stops=(".", "<|im_end|>"))
    found = audit_mapping(student_side(tmp_path), teacher, (Prompt(key="a", text="."),), texts={"one": "No"})
    assert found.own is not None and found.own.num_texts == 0
    assert found.judged is found.total


def test_every_prompt_is_rendered_however_many_there_are(tmp_path: Path) -> None:
    """Of three times as many as are mapped, the second has a turn the template refuses and is the longest
    for the student; the spread of 256 starts 0, 3, 6."""
    plain = [Prompt(key=str(number), text="Hello") for number in range(3 * MOST_PROMPTS)]
    prompts = [plain[0], SYSTEM, *plain[2:]]
    student = student_side(tmp_path)
    found = audit_mapping(student, teacher_side(tmp_path, chat_template=NO_SYSTEM), prompts, texts={})
    assert [(one.key, one.side) for one in found.refusals] == [("system", "teacher")]
    assert found.context.num_prompts == len(prompts)
    assert found.context.student_context == len(student.context_ids(SYSTEM))
    assert found.own is not None and found.own.num_texts == MOST_PROMPTS


@pytest.mark.parametrize(("kwargs", "warns"), [({}, True), ({"enable_thinking": False}, False)])
def test_a_teacher_that_would_think_first(tmp_path: Path, kwargs: dict[str, Any], warns: bool) -> None:
    teacher = teacher_side(tmp_path, kwargs, chat_template=THINKS)
    found = audit_mapping(student_side(tmp_path), teacher, texts={"one": "Hello"})
    assert found.teacher.thinks
    assert found.teacher.may_think_first is warns
    changes = [problem.change for problem in mapping_problems(found)]
    assert changes == (["set teacher.chat_template_kwargs.enable_thinking=false"] if warns else [])


def test_context_of_the_teacher(pair: tuple[Renderer, Renderer]) -> None:
    prompt = (Prompt(key="a", text="The interpreter"),)
    need = audit_mapping(*pair, prompt, max_new_tokens=100).context
    assert need.teacher_context == len(pair[1].context_ids(prompt[0]))
    assert need.teacher_response == int(np.ceil(100 * audit_mapping(*pair, prompt).judged.inflation))

    def severities(limit: int) -> list[Severity]:
        found = audit_mapping(*pair, prompt, max_new_tokens=100, teacher_limit=limit)
        return [problem.severity for problem in mapping_problems(found)]

    assert severities(need.teacher_need) == []
    assert severities(need.teacher_need - 1) == [Severity.WARNING]
    assert severities(need.teacher_context) == [Severity.ERROR]
    short = audit_mapping(*pair, prompt, max_new_tokens=100, student_limit=100)
    assert [problem.severity for problem in mapping_problems(short)] == [Severity.ERROR]


def test_one_prompt_without_room_is_a_warning(pair: tuple[Renderer, Renderer]) -> None:
    long = Prompt(key="long", text="The interpreter " * 9)
    prompts = (Prompt(key="a", text="Hello"), long, Prompt(key="b", text="Hello world"))
    limit = len(pair[1].context_ids(long))  # takes it, and not one token more
    found = audit_mapping(*pair, prompts, max_new_tokens=2, teacher_limit=limit)
    assert found.context.num_without_room == 1
    (problem,) = mapping_problems(found)
    assert problem.severity is Severity.WARNING
    assert "1 of 3 prompts leave it no room at all" in problem.what and "'long'" in problem.what
    none = audit_mapping(*pair, (long,), max_new_tokens=2, teacher_limit=limit)
    (problem,) = mapping_problems(none)
    assert problem.severity is Severity.ERROR


def test_no_shared_end_is_an_error(mapping: MappingAudit) -> None:
    (problem,) = mapping_problems(replace(mapping, stop_maps=False))
    assert problem.severity is Severity.ERROR
    assert "stop_tokens" in problem.change


def test_training_is_refused_below_min_coverage(mapping: MappingAudit) -> None:
    half = replace(mapping, total=replace(mapping.total, covered=mapping.total.student_tokens // 2))
    assert require_safe(half, 0.0) == ()
    assert require_safe(half, 0.4) == ()
    with pytest.raises(TrainingError, match="below 90%"):
        require_safe(half, 0.9)


def run_config(student: Path, teacher: Path, **method: str) -> Config:
    tree: dict[str, Any] = {
        "student": {"model": str(student)},
        "teacher": {"model": str(teacher), "max_length": 2},
        "data": {"train": "none"},
        "train": {"steps": 1},
        "method": method,
    }
    return load_config(tree, [], method_defaults)


@pytest.mark.parametrize(("name", "gated"), [("chunk", True), ("sft", False)])
def test_answers_that_are_only_imitated_need_no_mapping(tmp_path: Path, name: str, gated: bool) -> None:
    """A teacher without room for a token to score is no harm to sft; a prompt it refuses is."""
    student = tiny.byte_level(tmp_path / "student")
    config = run_config(student, tiny.sentencepiece(tmp_path / "teacher"), name=name)
    assert is_gated(get_method(name)) is gated
    assert run_audit(config, fast=True).safe is not gated
    strict = run_config(student, tiny.byte_level(tmp_path / "strict", chat_template=NO_SYSTEM), name=name)
    (first, *_) = run_audit(strict, (SYSTEM,), fast=True).problems
    assert first.severity is Severity.ERROR and "'system' by the teacher" in first.what


def test_the_limit_is_that_of_the_model_or_the_one_set(tmp_path: Path) -> None:
    model = tiny.byte_level_model(tmp_path / "model")
    own = json.loads((model / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    tokenizer = tiny.byte_level(tmp_path / "tokenizer")
    for folder, length, expected in (
        (model, None, own),
        (model, 7, 7),
        (model, own + 1, own),
        (tokenizer, 7, 7),
        (tokenizer, None, None),
    ):
        assert context_limit(TeacherConfig(model=str(folder), max_length=length)) == expected
    assert context_limit(StudentConfig(model=str(model))) == own


def test_the_verdict_names_the_first_error(mapping: MappingAudit) -> None:
    problems = mapping_problems(replace(mapping, stop_maps=False))
    assert verdict(()) == "verdict: safe"
    assert verdict([replace(problems[0], severity=Severity.WARNING)]) == "verdict: safe with warnings"
    assert verdict([*problems, *problems]).startswith("verdict: unsafe: the end of an answer")
    assert verdict([*problems, *problems]).endswith("(and 1 more)")


def test_json_is_valid_and_whole(mapping: MappingAudit) -> None:
    nothing = Figures(
        name="nothing",
        num_texts=0,
        num_bytes=0,
        student_tokens=0,
        teacher_tokens=0,
        covered=0,
        normalised=0,
        single=0,
        altered=0,
        kinds=(),
        reasons={},
    )
    audit = Audit(
        mapping=replace(mapping, own=nothing), pair=None, problems=(), verdict="verdict: safe", seconds=1.0
    )
    values = json.loads(json.dumps(audit.to_json(), allow_nan=False))
    assert values["safe"] is True
    assert values["mapping"]["own"]["inflation"] is None  # 0 / 0
    assert values["mapping"]["total"]["coverage"] == 1.0
    assert values["mapping"]["context"]["teacher_need"] == mapping.context.teacher_need


def test_built_in_prompts_are_distinct() -> None:
    assert len({prompt.key for prompt in PROMPTS}) == len({prompt.text for prompt in PROMPTS}) == len(PROMPTS)
