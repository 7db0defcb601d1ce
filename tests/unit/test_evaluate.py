"""Figures of rollouts by hand, intervals by resampling prompts, and an evaluation from end to end."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from dragoman.config import MethodConfig, StudentConfig, TeacherConfig
from dragoman.evaluate import Evaluation, evaluate, measure, ratio_change_interval, ratio_interval
from dragoman.evaluate.heldout import REPORTED
from dragoman.methods import get_method
from dragoman.models import load_model
from dragoman.observe import Metrics, Ratio, Record
from dragoman.pipeline import Pipeline, supervisor
from dragoman.render import Renderer
from dragoman.rollout import Sampler, Sampling
from dragoman.supervise import CREDITS, SampledSettings
from dragoman.teach import InProcessTeacher
from dragoman.text.pair import PairTables
from dragoman.types import (
    DropReason,
    Message,
    Prompt,
)
from recorded import STUDENT, STUDENT_LOGP, TEACHER, TEACHER_LOGP, record_of

NAN = float("nan")


# --- one record


def test_measure_by_hand() -> None:
    settings = SampledSettings(credit=CREDITS["chunk"], clamp=2.0)
    ratios = measure(record_of(STUDENT, STUDENT_LOGP, TEACHER, TEACHER_LOGP, settings)).ratios
    # Student -7.75, teacher -4.5 in all, the stop included, over 11 bytes: (-7.75 + 4.5) / 11
    assert ratios["kl_per_byte"] == Ratio(-3.25, 11)
    assert ratios["teacher_bits_per_byte"] == Ratio(4.5 / math.log(2), 11)
    assert ratios["coverage"] == Ratio(5, 5)
    assert ratios["length_tokens"] == Ratio(5, 1)
    assert ratios["length_bytes"] == Ratio(11, 1)
    assert ratios["stop_rate"] == Ratio(1.0, 1)
    assert ratios["noncanonical_rate"] == Ratio(0, 5)
    assert ratios["entropy"] == Ratio(2.5, 5)
    assert ratios["repetition"] == Ratio(0, 2)
    # Credits 1, 1, -0.25, -0.25 and 2.5, which is cut to 2
    assert ratios["credit"] == Ratio(3.5, 5)
    assert ratios["clamp_rate"] == Ratio(1, 5)
    assert ratios["supervised_rate"] == Ratio(5, 5)
    dropped = {name: ratio for name, ratio in ratios.items() if name.startswith("dropped/")}
    assert len(dropped) == len(DropReason) - 1
    assert set(dropped.values()) == {Ratio(0, 5)}


def test_a_missing_value_takes_its_chunk_out_of_every_sum() -> None:
    settings = SampledSettings(credit=CREDITS["chunk"])
    record = record_of(STUDENT, STUDENT_LOGP, TEACHER, (NAN, -1.0, -1.5), settings)
    ratios = measure(record).ratios
    # Without "Hello": student -4.75, teacher -2.5, over the 6 bytes of " world" and the stop's none
    assert ratios["kl_per_byte"] == Ratio(-2.25, 6)
    assert ratios["teacher_bits_per_byte"] == Ratio(2.5 / math.log(2), 6)
    assert ratios["coverage"] == Ratio(3, 5)
    assert ratios["dropped/non_finite"] == Ratio(2, 5)
    assert ratios["supervised_rate"] == Ratio(3, 5)


def test_an_impossible_token_does_not_make_the_sums_infinite() -> None:
    record = record_of(STUDENT, (-1.0, -np.inf, *STUDENT_LOGP[2:]), TEACHER, TEACHER_LOGP)
    assert measure(record).ratios["kl_per_byte"] == Ratio(-2.25, 6)


def test_chunks_that_differ_do_not_count() -> None:
    # "b" meets "x": 2 of the 3 bytes and tokens are left, at D = -(-3 + 1) each
    record = record_of([b"a", b"b", b"c"], [-1.0] * 3, [b"a", b"x", b"c"], [-3.0] * 3)
    ratios = measure(record).ratios
    assert ratios["kl_per_byte"] == Ratio(4.0, 2)
    assert ratios["coverage"] == Ratio(2, 3)
    assert ratios["stop_rate"] == Ratio(0.0, 1)


def test_student_equal_to_teacher() -> None:
    ratios = measure(record_of(STUDENT, STUDENT_LOGP, STUDENT, STUDENT_LOGP)).ratios
    assert ratios["kl_per_byte"] == Ratio(0.0, 11)


def test_without_scores_only_what_needs_no_teacher() -> None:
    whole = record_of(STUDENT, STUDENT_LOGP, TEACHER, TEACHER_LOGP)
    record = Record(rollout=replace(whole.rollout, behaviour_logp=None, entropy=None), step=1)
    ended = ["ended/context", "ended/length", "ended/stop", "ended/stop_string"]
    names = ["length_bytes", "length_tokens", "noncanonical_rate", "repetition", "stop_rate"]
    assert measure(record).names == [*ended, *names]


def test_a_response_without_tokens() -> None:
    ratios = measure(record_of([], [], [], [])).ratios
    assert ratios["kl_per_byte"] == ratios["coverage"] == ratios["repetition"] == Ratio(0.0, 0.0)
    assert ratios["length_tokens"] == Ratio(0, 1)


def test_noncanonical_tokens() -> None:
    record = record_of(STUDENT, STUDENT_LOGP, TEACHER, TEACHER_LOGP)
    flags = np.array([True, False, True, False, True])
    rollout = replace(record.rollout, completion=replace(record.rollout.completion, canonical=flags))
    assert measure(replace(record, rollout=rollout)).ratios["noncanonical_rate"] == Ratio(2, 5)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([], Ratio(0.0, 0.0)),
        ([1, 1, 1], Ratio(0.0, 0.0)),
        ([1, 2, 3, 4], Ratio(0, 1)),
        # 1111 three times: two of them are repeats
        ([1] * 6, Ratio(2, 3)),
        # 1234, 2341, 3412, 4123, 1234: one of five
        ([1, 2, 3, 4, 1, 2, 3, 4], Ratio(1, 5)),
        # Order matters: 1234, 2344, 3444, 4443, 4432, 4321
        ([1, 2, 3, 4, 4, 4, 3, 2, 1], Ratio(0, 6)),
    ],
)
def test_repetition(ids: list[int], expected: Ratio) -> None:
    record = record_of([b"a"] * len(ids), [-1.0] * len(ids), [b"a"] * len(ids), [-1.0] * len(ids))
    text = replace(record.rollout.completion, ids=np.array(ids, np.int64))
    rollout = replace(record.rollout, completion=text)
    assert measure(replace(record, rollout=rollout)).ratios["repetition"] == expected


def test_figures_add_up_over_rollouts() -> None:
    short = measure(record_of([b"a"], [-1.0], [b"a"], [-3.0]))
    long = measure(record_of(STUDENT, STUDENT_LOGP, TEACHER, TEACHER_LOGP))
    # (2 - 3.25) / (1 + 11), not the mean of 2 and -3.25 / 11
    assert short.merge(long).ratios["kl_per_byte"] == Ratio(-1.25, 12)


# --- intervals


RATIOS = [Ratio(float(n), d) for n, d in ((3, 10), (8, 20), (1, 10), (9, 10), (2, 5), (4, 15), (6, 30))]

ratio_lists = st.lists(
    st.builds(Ratio, st.floats(0.5, 10.0), st.integers(1, 50).map(float)), min_size=2, max_size=12
)


def test_interval_is_seeded() -> None:
    assert ratio_interval(RATIOS) == ratio_interval(RATIOS)
    assert ratio_interval(RATIOS, seed=1) != ratio_interval(RATIOS, seed=2)


@given(ratio_lists)
def test_interval_lies_between_the_extremes(ratios: list[Ratio]) -> None:
    low, high = ratio_interval(ratios)
    values = [ratio.value for ratio in ratios]
    assert min(values) * (1 - 1e-12) <= low <= high <= max(values) * (1 + 1e-12)


def test_interval_of_equal_prompts_is_a_point() -> None:
    assert ratio_interval([Ratio(1.0, 4)] * 5) == (0.25, 0.25)


@pytest.mark.parametrize("ratios", [[], [Ratio(1.0, 2)]])
def test_interval_of_less_than_two_prompts(ratios: list[Ratio]) -> None:
    assert all(math.isnan(bound) for bound in ratio_interval(ratios))
    assert all(math.isnan(bound) for bound in ratio_change_interval(ratios, ratios))


def test_interval_where_nothing_was_counted() -> None:
    assert all(math.isnan(bound) for bound in ratio_interval([Ratio(0.0, 0.0)] * 3))


def test_interval_leaves_out_resamples_without_a_count() -> None:
    # A quarter of the resamples draw the empty prompt twice; all others divide 1 by 2
    assert ratio_interval([Ratio(1.0, 2), Ratio(0.0, 0.0)]) == (0.5, 0.5)


def test_interval_is_that_of_the_normal_law_for_many_prompts() -> None:
    # The mean of 400 values of deviation 1 has the interval ±1.96 / 20 = ±0.098
    values = np.random.default_rng(0).standard_normal(400)
    values = (values - values.mean()) / values.std()
    low, high = ratio_interval([Ratio(float(value), 1) for value in values])
    assert low == pytest.approx(-0.098, abs=0.01)
    assert high == pytest.approx(0.098, abs=0.01)


def test_interval_covers_the_truth_at_its_level() -> None:
    # 200 studies of 40 prompts whose mean is 1: 95 % is 190, and 3.5 deviations are 11
    generator = np.random.default_rng(0)
    covered = 0
    for values in generator.gamma(4.0, 0.25, size=(200, 40)):
        low, high = ratio_interval([Ratio(float(value), 1) for value in values])
        covered += low <= 1.0 <= high
    assert 176 <= covered <= 198


def test_change_is_paired() -> None:
    # Every prompt halves, so that the change is exactly -1/2 however prompts are drawn
    halved = [Ratio(ratio.numerator / 2, ratio.denominator) for ratio in RATIOS]
    assert ratio_change_interval(RATIOS, halved) == pytest.approx((-0.5, -0.5), abs=1e-12)
    low, high = ratio_interval(RATIOS)
    assert high - low > 0.1


def test_change_of_nothing() -> None:
    assert ratio_change_interval(RATIOS, RATIOS) == (0.0, 0.0)


def test_change_is_seeded_and_one_sided_where_it_should_be() -> None:
    after = [Ratio(r.numerator * (0.5 + 0.05 * i), r.denominator) for i, r in enumerate(RATIOS)]
    found = ratio_change_interval(RATIOS, after)
    # Factors run from 0.5 to 0.8
    assert -0.5 < found.low < found.high < -0.2
    assert found == ratio_change_interval(RATIOS, after)
    assert found != ratio_change_interval(RATIOS, after, seed=1)


def test_change_from_zero_is_unknown() -> None:
    nothing = [Ratio(0.0, ratio.denominator) for ratio in RATIOS]
    assert all(math.isnan(bound) for bound in ratio_change_interval(nothing, RATIOS))


def test_change_needs_the_same_prompts() -> None:
    with pytest.raises(ValueError, match="need the same prompts: 7 before, 6 after"):
        ratio_change_interval(RATIOS, RATIOS[:-1])


# --- an evaluation


PROMPTS = [Prompt(key=f"p{n}", text=f"What is {n} + 30?") for n in range(5)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    return tiny.byte_level_model(root / "student", seed=1), tiny.sentencepiece_model(root / "teacher", seed=2)


def pipeline_of(student: Path, teacher: Path, stop_strings: tuple[str, ...] = ()) -> Pipeline:
    side = StudentConfig(model=str(student))
    other = TeacherConfig(model=str(teacher))
    renderer, teacher_side = Renderer.from_config(side), Renderer.from_config(other)
    return Pipeline(
        student=renderer,
        engine=Sampler(
            load_model(side),
            renderer,
            Sampling(max_new_tokens=16, batch_size=4, stop_strings=stop_strings),
        ),
        teacher=InProcessTeacher(load_model(other), teacher_side, other),
        supervise=supervisor(
            get_method("chunk"),
            MethodConfig(),
            PairTables(renderer.tokenization, teacher_side.tokenization),
        ),
    )


def test_evaluation(folders: tuple[Path, Path]) -> None:
    pipeline = pipeline_of(*folders)
    found = evaluate(pipeline, PROMPTS, samples=2, seed=3)
    assert [record.rollout.key for record in found.records] == [f"p{n}/{k}" for n in range(5) for k in (0, 1)]
    assert len(found.by_prompt) == len(PROMPTS)
    for prompt, metrics in enumerate(found.by_prompt):
        pair = map(measure, found.records[2 * prompt : 2 * prompt + 2])
        assert metrics == Metrics().merge(*pair)
    kl = [metrics.ratios["kl_per_byte"] for metrics in found.by_prompt]
    assert found.value("kl_per_byte") == pytest.approx(
        sum(r.numerator for r in kl) / sum(r.denominator for r in kl), rel=1e-12
    )
    # Another model with another tokenizer: far from the student, and every byte compared
    low, high = found.interval("kl_per_byte")
    assert 0 < low < found.value("kl_per_byte") < high


def test_a_conversation_is_one_prompt_with_all_its_turns(folders: tuple[Path, Path]) -> None:
    ask, slot = Message(role="user", content="What is it?"), Message(role="assistant", sampled=True)
    conversation = Prompt(key="turns", messages=(ask, slot, ask, slot))
    prompts = [PROMPTS[0], conversation, PROMPTS[1]]
    pipeline = pipeline_of(*folders, stop_strings=("e", "t", " "))
    found = evaluate(pipeline, prompts, samples=8, seed=3)
    turns = Counter(record.rollout.prompt.key for record in found.records)
    assert turns["p0"] == turns["p1"] == 8 < turns["turns"] <= 16
    assert [metrics.ratios["stop_rate"].denominator for metrics in found.by_prompt] == [
        turns[prompt.key] for prompt in prompts
    ]
    parts = evaluate(pipeline, prompts, samples=8, seed=3, batch=1)
    assert [r.rollout.key for r in parts.records] == [r.rollout.key for r in found.records]


def test_evaluation_does_not_depend_on_its_batches(folders: tuple[Path, Path]) -> None:
    pipeline = pipeline_of(*folders)
    whole = evaluate(pipeline, PROMPTS, samples=2, seed=3)
    parts = evaluate(pipeline, PROMPTS, samples=2, seed=3, batch=2)
    for one, other in zip(whole.records, parts.records, strict=True):
        assert np.array_equal(one.rollout.completion.ids, other.rollout.completion.ids)
    assert parts.flat() == pytest.approx(whole.flat(), rel=1e-4, nan_ok=True)
    other_seed = evaluate(pipeline, PROMPTS, samples=2, seed=4)
    assert other_seed.value("kl_per_byte") != whole.value("kl_per_byte")


def test_a_student_that_is_its_teacher_has_no_distance(folders: tuple[Path, Path]) -> None:
    student, _ = folders
    found = evaluate(pipeline_of(student, student), PROMPTS, samples=2, seed=3)
    # The teacher scores the canonical ids of the same text, without control tokens inside it.
    own = [r for r in found.records if np.array_equal(r.view.completion.ids, r.rollout.completion.ids)]
    assert len(own) > len(found.records) // 2
    total = Metrics().merge(*map(measure, own))
    assert total.ratios["kl_per_byte"].value == pytest.approx(0.0, abs=1e-5)
    assert total.ratios["coverage"].value == 1.0


def test_reported_figures() -> None:
    assert {"stop_probability/student", "stop_probability/teacher"} <= set(REPORTED)
    ratios = {name: Ratio(1.0, 2) for name in REPORTED[1:]}
    found = Evaluation(by_prompt=(Metrics(ratios), Metrics(ratios)), records=())
    flat, summary = found.flat(), found.summary()
    assert flat.keys() == {f"{name}{end}" for name in REPORTED for end in ("", "_low", "_high")}
    assert summary.keys() == {f"{name}{end}" for name in REPORTED for end in ("", "_ci")}
    assert (flat["coverage"], flat["coverage_low"], flat["coverage_high"]) == (0.5, 0.5, 0.5)
    assert summary["coverage_ci"] == [0.5, 0.5]
    # A figure that no prompt has is unknown and not 0
    assert math.isnan(flat["kl_per_byte"])
    assert math.isnan(flat["kl_per_byte_low"])
