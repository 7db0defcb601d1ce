"""Gradients added in place are those of the ordinary layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from dragoman.models import onednn
from dragoman.models.training import gradients_in_place

BATCHES = [torch.arange(12).reshape(2, 6), torch.arange(5, 15).reshape(1, 10)]


def tiny(*, tied: bool = True, bias: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
        attention_bias=bias,
        pad_token_id=3,
    )
    return LlamaForCausalLM(config)


def gradients(model: LlamaForCausalLM, *, enabled: bool) -> dict[str, Tensor | None]:
    """After two micro-batches."""
    model.zero_grad()
    for ids in BATCHES:
        with gradients_in_place(model, enabled=enabled):
            model(input_ids=ids).logits.square().mean().backward()
    return {name: one.grad for name, one in model.named_parameters()}


def assert_same(model: LlamaForCausalLM) -> None:
    expected = gradients(model, enabled=False)
    found = gradients(model, enabled=True)
    assert found.keys() == expected.keys()
    for name, own in expected.items():
        if own is None:
            assert found[name] is None, name
        else:
            torch.testing.assert_close(found[name], own, rtol=2e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("at_home", [True, False])
def test_all_weights(tied: bool, bias: bool, at_home: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "mkl_is_at_home", lambda: at_home)
    assert_same(tiny(tied=tied, bias=bias))


def test_padding_has_no_gradient() -> None:
    model = tiny(tied=False)
    found = gradients(model, enabled=True)["model.embed_tokens.weight"]
    assert found is not None
    assert found[3].abs().max() == 0
    assert found[4].abs().max() > 0


def test_some_weights_frozen() -> None:
    model = tiny(tied=False)
    for name, one in model.named_parameters():
        one.requires_grad_("mlp" in name or "embed" in name)
    assert_same(model)


def test_checkpointed_layers() -> None:
    model = tiny()
    model.gradient_checkpointing_enable()
    model.train()
    assert_same(model)


def test_autocast_is_left_alone() -> None:
    model = tiny()
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(model)


def hooked(weight: nn.Parameter, called: list[str]) -> None:
    weight.register_hook(lambda grad: called.append("own"))


def hooked_behind(weight: nn.Parameter, called: list[str]) -> None:
    weight.register_post_accumulate_grad_hook(lambda _: called.append("own"))


@pytest.mark.parametrize("hook", [hooked, hooked_behind])
def test_hooks_of_a_weight_are_called(hook: Callable[[nn.Parameter, list[str]], None]) -> None:
    model, called = tiny(), list[str]()
    hook(model.model.layers[0].mlp.up_proj.weight, called)
    gradients(model, enabled=True)
    assert called == ["own"] * len(BATCHES)


def test_layers_are_as_before() -> None:
    model = tiny()
    with gradients_in_place(model):
        assert "forward" in vars(model.model.embed_tokens)
        assert "forward" in vars(model.model.layers[0].self_attn.o_proj)
        assert "forward" not in vars(model.lm_head)  # or a loss could not be made on it
    assert not any("forward" in vars(layer) for layer in model.modules())


def test_no_tensor_of_the_table() -> None:
    """One tensor of the table's size, its gradient, however many micro-batches there are."""
    model = tiny(tied=False)
    table = model.model.embed_tokens.weight
    made: list[int] = []
    zeros_like = torch.zeros_like

    def counted(like: Tensor) -> Tensor:
        made.append(like.numel())
        return zeros_like(like)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "zeros_like", counted)
        gradients(model, enabled=True)
    assert made.count(table.numel()) == 1
