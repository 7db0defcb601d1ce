"""Input that cannot be used: one paragraph that says what and where, an exit code, no half-made run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import tiny
from dragoman.api import Distillation
from dragoman.config import MethodConfig, StudentConfig
from dragoman.errors import RenderError, TrainingError
from dragoman.methods import Method, get_method
from dragoman.objective import LossOutput, Scored
from dragoman.observe import Metrics, Record, read_records, write_records
from dragoman.render import Renderer
from dragoman.train.loop import train
from dragoman.train.setup import Session, build_session
from dragoman.types import Rollout, StopReason, TeacherLevel

Lines = Callable[..., Path]
Run = Callable[..., Distillation]
ReadMetrics = Callable[[Path], list[dict[str, Any]]]


Refused = Callable[..., Any]


def copied(folder: Path, place: Path) -> Path:
    shutil.copytree(folder, place)
    return place


def test_an_unknown_key(refused: Refused, tmp_path: Path) -> None:
    code, message = refused({"train.learning_rate": 1.0, "rollout.max_new_token": 4})
    assert code == 2
    assert "rollout.max_new_token" in message
    assert "did you mean" in message
    assert "max_new_tokens" in message
    assert "train.learning_rate" in message
    assert not (tmp_path / "run").exists()


def test_an_unknown_method(refused: Refused) -> None:
    code, message = refused({"method.name": "chunks"})
    assert code == 2
    assert message == "error: method.name is 'chunks', which is no method; did you mean 'chunk'?\n"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"teacher.device": "gpu"}, "teacher.device is 'gpu'"),
        ({"teacher.device": "cpu", "teacher.quantization": "torchao-int8"}, "teacher.quantization is"),
    ],
)
def test_a_place_where_no_teacher_scores_is_named_before_weights_are_read(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], named: str
) -> None:
    monkeypatch.setattr("dragoman.train.setup.load_student", lambda *given, **more: pytest.fail("too late"))
    code, message = refused(changes)
    assert code == 2
    assert named in message


def test_an_unknown_tracker(refused: Refused) -> None:
    code, message = refused({"run.trackers": ["tensorbord"]})
    assert (code, "run.trackers=['tensorbord']" in message) == (2, True)


@pytest.fixture
def hungry(monkeypatch: pytest.MonkeyPatch) -> Method:
    """A method that needs the whole vocabulary of the teacher."""
    import dragoman.methods as home

    method = replace(get_method("chunk"), name="hungry", level=TeacherLevel.LOGITS, defaults={})
    monkeypatch.setattr(home, "methods", lambda: MappingProxyType({"hungry": method}))
    return method


def test_a_method_that_needs_more_than_the_teacher_offers(
    refused: Refused, hungry: Method, teacher: Path, tmp_path: Path
) -> None:
    code, message = refused({"method.name": hungry.name})
    assert code == 2
    assert message.startswith("error: method 'hungry' needs a teacher of level 2 (logits), but ")
    assert f"{str(teacher)!r} offers level 0 (realised)" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_folder_that_is_not_there(refused: Refused, tmp_path: Path, side: str) -> None:
    code, message = refused({f"{side}.model": str(tmp_path / "absent")})
    assert code == 1
    assert str(tmp_path / "absent") in message


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_missing_weights(refused: Refused, student: Path, teacher: Path, tmp_path: Path, side: str) -> None:
    folder = copied(student if side == "student" else teacher, tmp_path / "copy")
    (folder / "model.safetensors").unlink()
    code, message = refused({f"{side}.model": str(folder)})
    assert code == 1
    assert message.startswith(f"error: cannot load the model {str(folder)!r}: ")
    assert "Expected a folder or hub repository with config.json and safetensors weights" in message


def test_corrupt_weights(refused: Refused, student: Path, tmp_path: Path) -> None:
    folder = copied(student, tmp_path / "copy")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, message = refused({"student.model": str(folder)})
    assert code == 1
    assert message.startswith(f"error: cannot load the model {str(folder)!r}: ")


def test_weights_that_lack_a_tensor(refused: Refused, student: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(student, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    code, message = refused({"student.model": str(folder)})
    assert code == 1
    assert "lack 1 tensors the model needs, such as 'lm_head.weight'" in message


def test_no_prompts(refused: Refused, lines: Lines) -> None:
    path = lines("none.jsonl", ())
    code, message = refused({"data.train": str(path)})
    assert code == 2
    assert message.startswith(f"error: {path} holds no prompts, expected one a line")


def test_bad_lines_are_named_by_file_and_line(refused: Refused, lines: Lines, tmp_path: Path) -> None:
    path = lines("bad.jsonl", ({"prompt": "good"}, {"prompt": 3}, {"text": "other field"}))
    code, message = refused({"data.train": str(path)})
    assert code == 2
    assert f"\n  {path}:2: `prompt` is 3, expected text" in message
    assert f"\n  {path}:3: got the fields 'text'" in message
    assert f"{path}:1" not in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("data", ["train", "heldout"])
def test_a_prompt_longer_than_the_context(refused: Refused, lines: Lines, data: str) -> None:
    path = lines("long.jsonl", ({"prompt": "short"}, {"prompt": "ab " * 1100}))
    code, message = refused({f"data.{data}": str(path)})
    assert code == 1
    assert message.startswith(f"error: prompt 'long:2' ({path}:2) has ")
    assert "more than the 1024 of the model" in message


def test_a_tokenizer_without_a_stop_token(refused: Refused, tmp_path: Path) -> None:
    folder = tiny.byte_level_model(tmp_path / "endless", eos=None, chat_template=None)
    code, message = refused({"student.model": str(folder)})
    assert code == 1
    assert "no token is known to end a response" in message
    assert "Set student.stop_tokens" in message


def test_a_folder_that_holds_something(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    kept = tmp_path / "run" / "notes.txt"
    kept.write_text("mine")
    code, message = refused()
    assert code == 2
    assert message.startswith(f"error: the run folder {tmp_path / 'run'} is not empty; ")
    assert "--resume" in message
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]
    assert kept.read_text() == "mine"


def test_coverage_below_the_floor(refused: Refused) -> None:
    code, message = refused({"teacher.max_length": 24, "train.min_coverage": 0.99})
    assert code == 1
    assert message.startswith("error: step 1: coverage ")
    assert "below train.min_coverage 99.0%" in message
    assert "teacher_context" in message


def test_what_the_teachers_context_cuts_off_is_counted(run: Run, metrics: ReadMetrics) -> None:
    # Under `chunk`, as a span is judged by its neighbours as well.
    changes = {"teacher.max_length": 24, "data.heldout": None, "train.steps": 1, "method.name": "chunk"}
    found = run(changes=changes)
    (line,) = metrics(found.path)
    assert 0 < line["dropped/teacher_context"] < 1
    assert line["supervised_rate"] == pytest.approx(1 - line["dropped/teacher_context"])
    assert line["coverage"] < 1
    assert found.summary["dropped"].keys() == {"teacher_context"}
    whole = run("whole", changes | {"teacher.max_length": None})
    cut, full = (read_records(each.path / "rollouts" / "step-000001.jsonl") for each in (found, whole))
    for one, other in zip(cut, full, strict=True):
        assert one.supervision is not None and one.supervision.credit is not None
        assert other.supervision is not None and other.supervision.credit is not None
        kept = one.supervision.weight > 0
        # what is left is supervised as if all of the response had been seen
        np.testing.assert_allclose(one.supervision.credit[kept], other.supervision.credit[kept], atol=1e-5)


class Recorded(NamedTuple):
    """A run of one step, and its rollouts."""

    path: Path
    rollouts: list[Rollout]

    def replaced(self, *rollouts: Rollout) -> dict[str, Any]:
        """The settings that replay these rollouts in place of the first ones."""
        place = self.path.parent / "replayed.jsonl"
        kept = [*rollouts, *self.rollouts[len(rollouts) :]]
        write_records(place, [Record(rollout=rollout, step=1) for rollout in kept])
        return {"rollout.engine": "replay", "rollout.replay": str(place)}


SHORT = {"train.steps": 1, "data.heldout": None}


@pytest.fixture
def recorded(run: Run) -> Recorded:
    path = run("recorded", SHORT).path
    return Recorded(path, [r.rollout for r in read_records(path / "rollouts" / "step-000001.jsonl")])


def empty(rollout: Rollout, student: Path) -> Rollout:
    tokenization = Renderer.from_config(StudentConfig(model=str(student))).tokenization
    none = np.zeros(0, np.float32)
    return replace(
        rollout,
        completion=tokenization.view([]),
        behaviour_logp=none,
        entropy=none,
        stop_logp=none,
        stop=StopReason.LENGTH,
    )


def only_a_stop(rollout: Rollout, student: Path) -> Rollout:
    renderer = Renderer.from_config(StudentConfig(model=str(student)))
    return replace(
        rollout,
        completion=renderer.completion(b"", StopReason.STOP),
        behaviour_logp=np.array([-3.0], np.float32),
        entropy=np.array([1.0], np.float32),
        stop_logp=np.array([-3.0], np.float32),
        stop=StopReason.STOP,
    )


@pytest.mark.parametrize("normalise", ["token", "sequence", "byte"])
def test_a_response_without_tokens_is_passed_over(
    run: Run, metrics: ReadMetrics, recorded: Recorded, student: Path, normalise: str
) -> None:
    replay = recorded.replaced(empty(recorded.rollouts[0], student))
    found = run("replayed", SHORT | replay | {"method.normalise": normalise})
    (line,) = metrics(found.path)
    assert np.isfinite(line["loss"])
    # three responses of 8 tokens and one of none
    assert line["length_tokens"] == 6.0
    assert line["supervised_rate"] == 1.0


def test_responses_without_any_tokens_are_no_signal(run: Run, recorded: Recorded, student: Path) -> None:
    replay = recorded.replaced(*(empty(rollout, student) for rollout in recorded.rollouts))
    with pytest.raises(TrainingError, match=r"not one student token has a signal \(empty responses\)"):
        run("replayed", SHORT | replay)


@pytest.mark.parametrize("normalise", ["token", "sequence", "byte"])
def test_a_response_that_is_only_a_stop_is_supervised(
    run: Run, metrics: ReadMetrics, recorded: Recorded, student: Path, normalise: str
) -> None:
    changes = {"method.normalise": normalise, "method.clamp": None}
    replay = recorded.replaced(*(only_a_stop(rollout, student) for rollout in recorded.rollouts))
    found = run("replayed", SHORT | replay | changes)
    (line,) = metrics(found.path)
    assert (line["supervised_rate"], line["stop_rate"]) == (1.0, 1.0)
    assert np.isfinite(line["loss"])
    assert line["loss"] != 0.0
    # no bytes, so that a distance per byte cannot be told
    assert line["kl_per_byte"] is None
    records = list(read_records(found.path / "rollouts" / "step-000001.jsonl"))
    for record in records:
        assert record.supervision is not None and record.supervision.credit is not None
        assert record.scores is not None
        assert record.supervision.credit[0] == pytest.approx(record.scores.logp[0] + 3.0, abs=1e-6)


def test_a_stop_that_is_denied_is_refused(run: Run, recorded: Recorded, student: Path) -> None:
    wrong = replace(only_a_stop(recorded.rollouts[0], student), stop=StopReason.LENGTH)
    with pytest.raises(RenderError, match=r"ended by 'length', so that it should hold no stop event"):
        run("replayed", SHORT | recorded.replaced(wrong))


def test_a_rollout_that_was_not_recorded(refused: Refused, recorded: Recorded) -> None:
    place = recorded.path.parent / "few.jsonl"
    write_records(place, [Record(rollout=rollout, step=1) for rollout in recorded.rollouts[:3]])
    code, message = refused(SHORT | {"rollout.engine": "replay", "rollout.replay": str(place)})
    assert code == 2
    assert f"asks for rollout {recorded.rollouts[3].key}, which {place} does not hold" in message


def test_rollouts_of_another_tokenizer(refused: Refused, recorded: Recorded) -> None:
    first = recorded.rollouts[0]
    other = replace(first, completion=replace(first.completion, data=first.completion.data[::-1]))
    code, message = refused(SHORT | recorded.replaced(other))
    assert code == 2
    assert f"rollout {first.key} was not written with the tokenizer of " in message


def test_rollouts_with_ids_beyond_the_vocabulary(
    refused: Refused, recorded: Recorded, tmp_path: Path
) -> None:
    small = tiny.byte_level_model(tmp_path / "small", vocab_size=300)
    assert max(rollout.completion.ids.max() for rollout in recorded.rollouts) >= 300
    code, message = refused(SHORT | recorded.replaced() | {"student.model": str(small)})
    assert code == 1

    assert str(small) in message


def not_a_number(scored: Scored, settings: MethodConfig) -> LossOutput:
    """A loss whose value is NaN."""
    return LossOutput(total=(scored.logp * float("nan")).sum(), metrics=Metrics())


def infinite_gradient(scored: Scored, settings: MethodConfig) -> LossOutput:
    """A loss of 0 with the derivative of a square root at 0, which is infinite."""
    return LossOutput(total=(scored.logp - scored.logp.detach()).sqrt().sum(), metrics=Metrics())


@pytest.mark.parametrize("objective", [not_a_number, infinite_gradient])
@pytest.mark.parametrize("limit", [1.0, None])
def test_an_update_that_is_not_finite_is_not_made(
    configured: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    objective: Callable[..., LossOutput],
    limit: float | None,
) -> None:
    from dragoman.observe import RunDirectory

    monkeypatch.setattr(Method, "load_objective", lambda method: objective)
    config = configured(SHORT | {"train.max_grad_norm": limit})
    session: Session = build_session(config, tmp_path / "run")
    before = {name: value.clone() for name, value in session.model.state_dict().items()}
    run = RunDirectory.create(tmp_path / "run", config.to_json(), config.to_json())
    with pytest.raises(TrainingError, match=r"step 1: loss .+ expected finite values\. The weights are as"):
        train(session, run)
    assert all(torch.equal(before[name], value) for name, value in session.model.state_dict().items())
    assert all(parameter.grad is None for parameter in session.model.parameters())
    assert session.optimizer.state_dict()["state"] == {}
    assert not (tmp_path / "run" / "final").exists()


def test_a_learning_rate_that_breaks_the_weights_stops_the_run(refused: Refused) -> None:
    code, message = refused(SHORT | {"train.lr": 1e30, "train.steps": 4, "train.max_grad_norm": None})
    assert code == 1
    assert message.startswith("error: step ")
