"""Record responses of the embedded student, with the ids as it sampled them.

    python benchmarks/alignment/record_rollouts.py

SmolLM2-135M-Instruct continues prompts of the quickstart recipe at temperature 1, one response each, so that
ids that its tokenizer would not choose occur as they do in training. Stops are left out: what a stop
corresponds to is a matter of templates, not of alignment. Written once to `data/rollouts.jsonl`.
"""

from __future__ import annotations

import base64
import json
import sys

import torch
from cases import DATA

from dragoman.config import StudentConfig
from dragoman.models.loading import load_model
from dragoman.render import Renderer
from dragoman.rollout.engine import Request
from dragoman.rollout.sampler import Sampler, Sampling
from dragoman.types import Event, Prompt

PROMPTS = DATA.parents[2] / "recipes" / "data" / "docs-train.jsonl"
SEED = 0
NUM_ROLLOUTS = 32
NUM_TOKENS = 64


def main() -> int:
    """Sample and write."""
    torch.set_num_threads(1)
    config = StudentConfig(model="assets:smollm2-135m-instruct", template="plain")
    renderer = Renderer.from_config(config)
    sampler = Sampler(load_model(config), renderer, Sampling(max_new_tokens=NUM_TOKENS, batch_size=16))
    rows = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()[:NUM_ROLLOUTS]]
    requests = [Request(prompt=Prompt(key=row["id"], text=row["prompt"]), sample=0) for row in rows]
    lines = []
    odd = 0
    for rollout in sampler.rollouts(requests, seed=SEED, step=0):
        completion = rollout.completion
        is_text = completion.event == Event.NONE
        odd += int((~completion.canonical).sum())
        line = {
            "id": rollout.key,
            "seed": SEED,
            "stop": rollout.stop.value,
            "ids": completion.ids[is_text].tolist(),
            "base64": base64.b64encode(completion.data).decode(),
        }
        lines.append(json.dumps(line))
    (DATA / "rollouts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    total = sum(len(json.loads(line)["ids"]) for line in lines)
    print(f"{len(lines)} rollouts, {total} tokens, {odd} of them non-canonical", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
