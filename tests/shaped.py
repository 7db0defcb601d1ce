"""Small causal models whose logits are as large as those of real ones, plain, scaled and capped."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


def make(kind: str, num_ids: int, factor: float = 50.0) -> PreTrainedModel:
    """A model of a kind (any unknown one is a Llama), its head multiplied by a factor."""
    torch.manual_seed(0)
    sizes = {**SIZES, "vocab_size": num_ids, "tie_word_embeddings": False}
    model: PreTrainedModel
    match kind:
        case "cohere":
            model = CohereForCausalLM(CohereConfig(**sizes, logit_scale=0.5))
        case "granite":
            model = GraniteForCausalLM(GraniteConfig(**sizes, logits_scaling=3.0))
        case "gemma2":
            model = Gemma2ForCausalLM(Gemma2Config(**sizes, final_logit_softcapping=3.0))
        case _:
            model = LlamaForCausalLM(LlamaConfig(**sizes))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(factor)
    return model.eval()
