"""Runs of two steps on tiny models: what they leave behind, and what their figures may not depend on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from dragoman import distill
from dragoman.api import Distillation
from dragoman.errors import UsageError
from dragoman.observe import read_records

Run = Callable[..., Distillation]
Metrics = Callable[[Path], list[dict[str, Any]]]

FIGURES = ("kl_per_byte", "teacher_bits_per_byte", "coverage", "noncanonical_rate", "stop_rate")


def losses(lines: list[dict[str, Any]]) -> list[float]:
    return [line["loss"] for line in lines if line["phase"] == "train"]


@pytest.mark.parametrize("method", ["chunk", "dpca", "uniform", "sft"])
def test_a_run_leaves_everything_behind(run: Run, student: Path, method: str) -> None:
    found = run(changes={"method.name": method})
    names = {path.name for path in found.path.iterdir()}
    assert names == {
        "config.yaml",
        "config.resolved.json",
        "env.json",
        "final",
        "metrics.jsonl",
        "report.html",
        "rollouts",
        "summary.json",
    }
    assert json.loads((found.path / "config.resolved.json").read_text())["method"]["name"] == method
    assert [path.name for path in sorted((found.path / "rollouts").iterdir())] == [
        "step-000001.jsonl",
        "step-000002.jsonl",
    ]
    records = list(read_records(found.path / "rollouts" / "step-000002.jsonl"))
    assert len(records) == 4
    assert {record.step for record in records} == {2}
    before, after = load_file(student / "model.safetensors"), load_file(found.model / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in ("lm_head.weight", "model.norm.weight"))


def test_the_summary(run: Run, metrics: Metrics) -> None:
    found = run()
    summary = json.loads((found.path / "summary.json").read_text())
    assert (summary["method"], summary["steps"]) == ("span", 2)
    assert summary["seconds"] > 0
    assert summary["peak_memory_bytes"] > 1e7
    for part in ("before", "after"):
        for name in FIGURES:
            assert math.isfinite(summary[part][name])
            low, high = summary[part][f"{name}_ci"]
            assert low <= summary[part][name] <= high
    # two steps of 4 answers of at most 8 tokens
    assert summary["tokens"]["rollouts"] == 8
    assert 8 <= summary["tokens"]["supervised"] <= summary["tokens"]["student"] <= 8 * 8
    assert summary["tokens"]["supervised"] + sum(summary["dropped"].values()) == summary["tokens"]["student"]
    assert set(summary["flops"]) == {"rollout", "teacher", "update", "eval"}
    assert all(value > 0 for value in summary["flops"].values())
    # a backward pass costs twice a forward pass, over the same student tokens
    assert summary["flops"]["update"] == 3 * summary["flops"]["rollout"]
    assert summary["change"]["relative"] == pytest.approx(
        summary["after"]["kl_per_byte"] / summary["before"]["kl_per_byte"] - 1
    )
    phases = [(line["phase"], line["step"]) for line in metrics(found.path)]
    assert phases == [("eval", 0), ("train", 1), ("train", 2), ("eval", 2)]
    assert found.summary == summary


def test_the_final_model_loads_as_any_other(run: Run, student: Path) -> None:
    found = run()
    model = AutoModelForCausalLM.from_pretrained(found.model)
    saved = load_file(found.model / "model.safetensors")
    assert torch.equal(model.state_dict()["lm_head.weight"], saved["lm_head.weight"])
    tokenizer, own = AutoTokenizer.from_pretrained(found.model), AutoTokenizer.from_pretrained(student)
    assert tokenizer("Hello world")["input_ids"] == own("Hello world")["input_ids"]
    assert tokenizer.chat_template == own.chat_template
    card = (found.model / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "method `span`" in card
    assert f"{found.summary['after']['kl_per_byte']:.4f}" in card


def test_trackers_receive_the_figures(run: Run) -> None:
    found = run(changes={"run.trackers": ["tensorboard"], "train.steps": 1, "data.heldout": None})
    assert list(found.path.rglob("events.out.tfevents.*"))


def test_checkpoints_are_kept_as_asked(run: Run) -> None:
    changes = {"train.steps": 3, "train.save_every": 1, "train.keep_checkpoints": 2, "data.heldout": None}
    found = run(changes=changes)
    kept = sorted(path.name for path in (found.path / "checkpoints").iterdir())
    assert kept == ["step-000002", "step-000003"]
    assert found.summary["before"] is None
    assert found.summary["change"] is None


@pytest.mark.parametrize("method", ["chunk", "sft"])
def test_the_same_configuration_gives_the_same_run(run: Run, metrics: Metrics, method: str) -> None:
    changes = {"method.name": method, "train.minibatches": 2, "train.epochs": 2, "rollout.batch_size": 3}
    first, second = run("first", changes), run("second", changes)
    assert metrics(first.path) == metrics(second.path)
    one, two = (load_file(found.model / "model.safetensors") for found in (first, second))
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = run("other", changes | {"run.seed": 1})
    assert losses(metrics(other.path)) != losses(metrics(first.path))


def test_minibatches_and_epochs_are_optimiser_steps(
    run: Run, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    step = torch.optim.AdamW.step

    def counted(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    changes = {"train.minibatches": 2, "train.epochs": 3, "train.warmup_steps": 2, "data.heldout": None}
    found = run(changes=changes)
    # 2 steps of 3 passes over 2 parts; the rate rises from half of 1e-3 to all of it
    assert rates == [5e-4] * 6 + [1e-3] * 6
    assert metrics(found.path)[0]["policy_shift"] > 0


@pytest.mark.parametrize("method", ["chunk", "sft"])
@pytest.mark.parametrize("normalise", ["token", "sequence", "byte"])
def test_micro_batches_do_not_change_the_update(
    run: Run, metrics: Metrics, normalise: str, method: str
) -> None:
    changes = {"method.name": method, "method.normalise": normalise, "data.heldout": None, "train.steps": 1}
    whole, single = (
        run(f"{size}", changes | {"train.micro_batch_tokens": size, "train.lr": 0.0}) for size in (4096, 1)
    )
    (line,), (other,) = metrics(whole.path), metrics(single.path)
    assert line["loss"] == pytest.approx(other["loss"], abs=1e-6)
    assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


def test_what_the_loss_is_divided_by(run: Run, metrics: Metrics) -> None:
    """On given answers -log p of every token is known to be positive, so the three means differ."""
    found = {}
    for normalise in ("token", "sequence", "byte"):
        changes = {"method.name": "sft", "method.normalise": normalise, "train.steps": 1}
        path = run(normalise, changes | {"data.heldout": None}).path
        (line,) = metrics(path)
        records = list(read_records(path / "rollouts" / "step-000001.jsonl"))
        found[normalise] = line["loss"]
    tokens = sum(len(record.rollout.completion) for record in records)
    num_bytes = sum(len(record.rollout.completion.data) for record in records)
    # the sum is the same, whether shared by tokens or by bytes
    assert found["token"] * tokens == pytest.approx(found["byte"] * num_bytes, rel=1e-5)
    assert found["sequence"] != pytest.approx(found["token"], rel=1e-6)


def test_lora_trains_and_saves_an_adapter(run: Run, student: Path) -> None:
    found = run(changes={"student.lora": {"r": 2, "alpha": 4}, "train.save_every": 1})
    assert not (found.model / "model.safetensors").exists()
    adapter = load_file(found.model / "adapter_model.safetensors")
    assert all("lora" in name for name in adapter)
    assert any(value.abs().max() > 0 for name, value in adapter.items() if "lora_B" in name)
    card = (found.model / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft\n")
    model = AutoModelForCausalLM.from_pretrained(found.model)
    base = load_file(student / "model.safetensors")
    assert torch.equal(model.get_parameter("lm_head.weight"), base["lm_head.weight"])
    checkpoint = load_file(found.path / "checkpoints" / "step-000002" / "model.safetensors")
    assert all("lora" in name for name in checkpoint)


def test_gradient_checkpointing_gives_the_same_gradients(run: Run, metrics: Metrics) -> None:
    plain, recomputed = (
        run(f"{on}", {"student.gradient_checkpointing": on, "data.heldout": None}) for on in (False, True)
    )
    for line, other in zip(metrics(plain.path), metrics(recomputed.path), strict=True):
        assert line["loss"] == pytest.approx(other["loss"], abs=1e-6)
        assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)


def test_replaying_rollouts_gives_the_same_first_step(run: Run, metrics: Metrics) -> None:
    sampled = run("sampled", {"data.heldout": None, "train.steps": 1})
    replay = {"rollout.engine": "replay", "rollout.replay": str(sampled.path / "rollouts")}
    replayed = run("replayed", {"data.heldout": None, "train.steps": 1, **replay})
    assert metrics(replayed.path) == metrics(sampled.path)
    assert replayed.summary["flops"]["rollout"] == 0 < sampled.summary["flops"]["rollout"]


def test_distillation_teaches(tmp_path: Path) -> None:
    """Within 30 steps a random student comes much closer to a random teacher with the same tokenizer."""
    student = tiny.byte_level_model(tmp_path / "student", seed=1)
    teacher = tiny.byte_level_model(tmp_path / "teacher", seed=2)
    found = distill(
        student=str(student),
        teacher=str(teacher),
        prompts=["Hello", "The answer", "A teacher", [{"role": "user", "content": "What?"}]],
        heldout=["Hello", "The answer", "A teacher", "The other tokenizer"],
        steps=30,
        out=tmp_path / "run",
        settings={
            "method.guard": "off",  # an untrained student writes little that is canonical
            "train.lr": 2e-2,
            "train.prompts_per_step": 32,
            "rollout.max_new_tokens": 8,
            "eval.samples": 8,
            "run.threads": 1,
            "run.trackers": [],
        },
    )
    before, after = found.summary["before"], found.summary["after"]

    assert after["kl_per_byte"] < 0.7 * before["kl_per_byte"]


def test_prompts_given_in_python_may_not_be_none_at_all(student: Path, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no train prompts: the list is empty"):
        distill(student=str(student), teacher=str(teacher), prompts=[], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
