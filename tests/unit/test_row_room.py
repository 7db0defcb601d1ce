"""Rows that keep every id are refused above a limit, before any is made."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from test_pipeline_groups import Teacher, pipeline

from dragoman.config import load_config
from dragoman.errors import ConfigError
from dragoman.methods import get_method
from dragoman.pipeline import Pipeline
from dragoman.supervise.room import check_row_room, row_bytes
from dragoman.train.checks import row_width

MINIMAL = {
    "student": {"model": "s"},
    "teacher": {"model": "t"},
    "data": {"train": "d.jsonl"},
    "train": {"steps": 1},
}


def width(*settings: str) -> int:
    config = load_config(MINIMAL, list(settings))
    return row_width(config, get_method(config.method.name), 262_144)


def test_the_limit() -> None:
    # 1,365 tokens x 262,144 ids x 12 bytes are 4,293,918,720 bytes, 4 GiB 4,294,967,296
    assert row_bytes(1365, 262_144) == 4_293_918_720
    check_row_room(1365, 262_144)
    check_row_room(10**9, 0)
    with pytest.raises(
        ConfigError, match=r"1,366 x 262,144 x 12 bytes, 4\.0 GiB, .* limit is 4\.0 GiB; set met"
    ):
        check_row_room(1366, 262_144)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("method.name=bpm", "method.row_topk=null"), 262_144),
        (("method.name=bpm",), 0),
        (("method.name=uld", "method.row_topk=null"), 262_144),
        (("method.name=span", "method.row_topk=null"), 0),
        (("method.name=sft", "method.row_topk=null"), 0),
    ],
)
def test_which_rows_nothing_limits(settings: tuple[str, ...], expected: int) -> None:
    assert width(*settings) == expected


def test_another_methods_settings_are_not_known() -> None:
    config = load_config(MINIMAL, ["method.name=bpm", "method.row_topk=null"])
    assert row_width(config, replace(get_method("bpm"), settings=None), 7) == 7


def test_a_warning_before_the_first_step(caplog: pytest.LogCaptureFixture) -> None:
    small = ("train.prompts_per_step=1", "rollout.samples_per_prompt=1", "rollout.max_new_tokens=1000")
    with caplog.at_level(logging.WARNING):
        width("method.name=bpm", "method.row_topk=null", *small)
        assert not caplog.messages
        width("method.name=bpm", "method.row_topk=null", *small[:2], "rollout.max_new_tokens=2000")
    assert (
        "2,000 x 262,144 x 12 bytes, 5.9 GiB" in caplog.text and "a step above it is refused" in caplog.text
    )


def test_a_step_is_refused_before_anything_is_scored() -> None:
    teacher = Teacher(0)
    small: Pipeline = replace(pipeline(teacher, [3, 4]), row_width=1000)
    assert len(small.records([], seed=0, step=1)) == 2 and len(teacher.calls) == 1
    with pytest.raises(
        ConfigError, match=r"method.row_topk is null.* 7 student tokens .*set method.row_topk"
    ):
        replace(small, row_width=2**26).records([], seed=0, step=1)
    assert len(teacher.calls) == 1
