"""The benchmark of sampling on a small model: every job is written in full by every way."""

from __future__ import annotations

import json
from pathlib import Path

import rollouts
from transformers import LlamaConfig, LlamaForCausalLM


def test_all_jobs_and_growth(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=1000, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    file, plot = tmp_path / "found.json", tmp_path / "growth.svg"
    asked = ["--model", str(tmp_path / "model"), "--rows", "1", "3", "--new-tokens", "4", "--threads", "1"]
    sizes = ["--prompt-tokens", "40", "--longest", "256", "--largest", "1024", "--repeats", "1"]
    assert rollouts.main([*asked, *sizes, "--json", str(file), "--plot", str(plot)]) == 0
    found = json.loads(file.read_text())
    assert [(job["job"], job["rows"]) for job in found["jobs"]] == [
        (name, rows) for rows in (1, 3) for name in rollouts.JOBS
    ]
    for job in found["jobs"]:
        assert job["tokens_per_second"].keys() == rollouts.WAYS.keys()
        assert job["tokens"] <= 2 * job["rows"] * 4
    # 1000 ids x 16 for the head, which is not the embedding; a layer has 4 x 16 x 16 + 3 x 16 x 16 and two
    # norms of 16, the model one more. 32 + 2 columns of keys and values of 16
    weights = 16 * 1000 + 7 * 16 * 16 + 3 * 16
    for part, compiled in zip(found["jobs"][0]["parts"], (False, True), strict=True):
        assert part["compile"] is compiled
        assert part["bytes_a_step"] == 4 * weights + 4 * 2 * 16 * 34
        assert part["share_of_copy"] == part["read_per_second"] / part["copy_per_second"] > 0
        assert abs(sum(part["shares"].values()) - 1.0) < 1e-9
        assert min(part["shares"].values()) >= 0 and part["shares"]["products"] > 0
    assert all(values for sides in found["growth"].values() for values in sides.values())
    assert plot.read_text().startswith("<?xml")
