"""With one tokenizer on both sides the method is plain on-policy distillation, bit for bit.

The reference samples nothing and aligns nothing: from the recorded ids it scores each sequence with
both models, takes the difference of the log-probs as advantage and descends PPO's loss.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import tiny
from dragoman import distill
from dragoman.api import Distillation
from dragoman.config import StudentConfig, TeacherConfig
from dragoman.models import Span, TokenScorer, TokenScores, load_model, score_spans
from dragoman.models.training import gradients_in_place
from dragoman.observe import read_records

STEPS, LR = 2, 1e-3
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
STOPS = (0, 1, 2, 3)
"""Every control token ends an answer."""
NUM_IDS = 400
"""Bytes, control tokens and merges: an untrained student cuts words oddly, and the teacher scores that."""
CLIP_LOW, CLIP_HIGH, DUAL_CLIP = 0.2, 0.28, 10.0

METHODS: dict[str, dict[str, Any]] = {
    "chunk": {"method.guard": "off", "method.clamp": None},
    "uniform": {"method.guard": "off", "method.clamp": None},
    # the credit rule `semantic_prior`, without its paper's learning rate and limits
    "dpca": {"method.clamp": None, "method.max_chunk_tokens": None, "train.warmup_steps": 0},
}


class Sequences(NamedTuple):
    """Padded ids, and where the answers' tokens are."""

    ids: Tensor
    row: Tensor
    place: Tensor

    def arguments(self) -> tuple[Tensor, ...]:
        target = self.ids[self.row, self.place]
        return self.ids, self.row, self.place - 1, target, torch.isin(target, torch.tensor(STOPS))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.byte_level_model(tmp_path_factory.mktemp("opd") / "student", seed=1, vocab_size=NUM_IDS)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.byte_level_model(tmp_path_factory.mktemp("opd") / "teacher", seed=2, vocab_size=NUM_IDS)


def trained(student: Path, teacher: Path, out: Path, method: str, **changes: Any) -> Distillation:
    settings = {
        "run.threads": 1,
        "run.trackers": [],
        "student.stop_tokens": CONTROL,
        "teacher.stop_tokens": CONTROL,
        "rollout.max_new_tokens": 32,
        "train.prompts_per_step": 4,
        "train.lr": LR,
        "train.max_grad_norm": None,
        **METHODS[method],
        **changes,
    }
    prompts = ["The interpreter", "A", "Hello world, hello", "What is"]
    return distill(
        student=str(student),
        teacher=str(teacher),
        prompts=prompts,
        method=method,
        steps=STEPS,
        out=out,
        settings=settings,
    )


def sequences(rows: list[tuple[np.ndarray, np.ndarray]]) -> Sequences:
    """Context and answer of each row, longest first as batches are made, padded with 0."""
    rows = sorted(rows, key=lambda pair: -(len(pair[0]) + len(pair[1])))
    sizes = [len(context) + len(answer) for context, answer in rows]
    ids = torch.zeros(len(rows), max(sizes), dtype=torch.long)
    for number, (context, answer) in enumerate(rows):
        ids[number, : sizes[number]] = torch.from_numpy(np.concatenate([context, answer]))
    row = torch.cat([torch.full((len(answer),), n) for n, (_, answer) in enumerate(rows)])
    place = torch.cat([torch.arange(len(c), len(c) + len(a)) for c, a in rows])
    return Sequences(ids, row, place)


def ppo(logp: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
    ratio = (logp - old).exp()
    loss = torch.maximum(-ratio * advantage, -ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH) * advantage)
    return torch.where(advantage < 0, torch.minimum(loss, -DUAL_CLIP * advantage), loss)


def reference(student: Path, teacher: Path, run: Path) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and weights of plain on-policy distillation on the ids that a run sampled."""
    policy = load_model(StudentConfig(model=str(student)))
    scorer = TokenScorer(policy, STOPS, logit_slice=512)
    expert = TokenScorer(load_model(TeacherConfig(model=str(teacher))), STOPS, logit_slice=512)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=LR, weight_decay=0.0, fused=True)
    losses = []
    for step in range(1, STEPS + 1):
        rollouts = [r.rollout for r in read_records(run / "rollouts" / f"step-{step:06d}.jsonl")]
        batch = sequences([(r.context_ids, r.completion.ids) for r in rollouts])
        old = sequences_logp(rollouts)
        wanted = teacher_logp(expert, rollouts)
        advantage = (wanted.double() - old.double()).float()

        def loss(scores: TokenScores, own: slice, old: Tensor = old, advantage: Tensor = advantage) -> Tensor:
            return ppo(scores.logp, old[own], advantage[own]).sum()

        with gradients_in_place(policy):  # the products of an update, to the last bit
            total = scorer(*batch.arguments(), loss=loss, scale=1.0 / len(old))
            total.backward()
        losses.append(float(total.detach()))
        optimizer.step()
        optimizer.zero_grad()
    return losses, {name: value.detach() for name, value in policy.named_parameters()}


def teacher_logp(expert: TokenScorer, rollouts: list[Any]) -> Tensor:
    """The teacher's log-probs in the order of `sequences`, by its own pass: another one differs in last bits
    (`test_sharing.py` holds it against whole logits)."""
    rows = sorted(rollouts, key=lambda r: -(len(r.context_ids) + len(r.completion)))
    spans = [
        Span(
            ids=np.concatenate([r.context_ids, r.completion.ids]),
            start=len(r.context_ids),
            is_stop=np.isin(r.completion.ids, STOPS),
        )
        for r in rows
    ]
    return torch.from_numpy(
        np.concatenate([one.logp for one in score_spans(expert, spans, batch_tokens=16384)])
    )


def sequences_logp(rollouts: list[Any]) -> Tensor:
    """The log-probs with which the tokens were sampled, in the order of `sequences`."""
    rows = sorted(rollouts, key=lambda r: -(len(r.context_ids) + len(r.completion)))
    return torch.from_numpy(np.concatenate([r.behaviour_logp for r in rows]))


@pytest.mark.parametrize("method", METHODS)
def test_one_tokenizer_gives_plain_on_policy_distillation(
    student: Path, teacher: Path, tmp_path: Path, method: str
) -> None:
    found = trained(student, teacher, tmp_path / "run", method)
    lines = [json.loads(line) for line in (found.path / "metrics.jsonl").read_text().splitlines()]
    losses, weights = reference(student, teacher, found.path)
    assert [line["loss"] for line in lines] == losses
    saved = load_file(found.model / "model.safetensors")
    assert saved.keys() == weights.keys()
    assert all(torch.equal(saved[name], weights[name]) for name in saved)
    start = load_file(student / "model.safetensors")
    assert not torch.equal(saved["lm_head.weight"], start["lm_head.weight"])
    assert [line["supervised_rate"] for line in lines] == [1.0, 1.0]
    assert max(line["noncanonical_rate"] for line in lines) > 0.0


def test_the_credit_rules_are_one_rule(student: Path, teacher: Path, tmp_path: Path) -> None:
    saved = [
        load_file(trained(student, teacher, tmp_path / method, method).model / "model.safetensors")
        for method in METHODS
    ]
    assert all(torch.equal(saved[0][name], other[name]) for other in saved[1:] for name in saved[0])
