"""The benchmark of teacher scoring on a small model: every way finds the same, and operations are counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import teacher_scoring
import torch
from products import model_flops
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = LlamaConfig(
    vocab_size=1000, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
)


def test_all_jobs_and_growth(tmp_path: Path) -> None:
    LlamaForCausalLM(CONFIG).save_pretrained(tmp_path / "model")
    file, plot = tmp_path / "found.json", tmp_path / "growth.svg"
    asked = ["--models", str(tmp_path / "model"), "--tokens", "160", "--texts", "2", "--new-tokens", "10"]
    sizes = ["--longest", "256", "--largest", "1024", "--repeats", "1", "--threads", "1"]
    assert teacher_scoring.main([*asked, *sizes, "--json", str(file), "--plot", str(plot)]) == 0
    found = json.loads(file.read_text())
    assert [job["job"] for job in found["jobs"]] == ["views", "samples"]
    for job in found["jobs"]:
        assert job["largest_difference"] < 1e-4
        assert all(0 < share < 1 for share in job["share_of_peak"].values())
    assert sum(found["jobs"][0]["where"].values()) == pytest.approx(1.0)
    assert all(values for sides in found["growth"].values() for values in sides.values())
    assert plot.read_text().startswith("<?xml")


def test_operations_by_hand() -> None:
    model = LlamaForCausalLM(CONFIG)
    # q, k, v, o of 16 x 16, three layers of 16 x 24; a head of 1000 x 16; attention over half of a square
    dense = 2 * (4 * 16 * 16 + 3 * 16 * 24)
    spans = teacher_scoring.texts(2, 10, 4, 1000)
    expected = dense * 20 + 2 * 16_000 * 8 + 4 * 16 * 2 * (10**2 / 2)
    assert model_flops(model, spans) == expected
    # three tokens that the second span shares with the first: not read again, nor their pairs
    assert model_flops(model, spans, 3) == expected - dense * 3 - 4 * 16 * 3**2 / 2


def test_random_models_have_the_dtype_that_is_asked_for() -> None:
    scorer = teacher_scoring.small(1, 64, "bfloat16")
    assert {weight.dtype for weight in scorer.model.parameters()} == {torch.bfloat16}
