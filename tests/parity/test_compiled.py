"""Layers compiled for the steps of decoding against the layers as they are, and where that fails.

Kernels come from inductor, which needs a C++ compiler; what the tests of fallbacks hold needs none.
"""

from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest
import torch
from test_decoder import MODELS, STOPS, assert_same, by_decoder, jobs, llama, token_bytes, with_one_beginning
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from dragoman.models.onednn import fast_linears
from dragoman.rollout import Sampling, compiled
from dragoman.rollout.compiled import compiled_layers
from dragoman.rollout.decoder import Decoder, Job
from dragoman.rollout.grouped import attend, grouped_attention

needs_compiler = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("g++", "clang++", "c++")), reason="no C++ compiler"
)
FIRST = torch.tensor([0])


def made(name: str) -> PreTrainedModel:
    torch.manual_seed(4)
    model = MODELS[name]()
    with torch.no_grad():
        for values in model.parameters():
            values.mul_(3.0)
    return model.eval()


def sampling(batch_size: int, compile: bool) -> Sampling:
    return Sampling(max_new_tokens=12, batch_size=batch_size, compile=compile)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", MODELS)
def test_as_layers_that_are_not_compiled(name: str) -> None:
    model, wanted = made(name), [*jobs(2), *with_one_beginning()]
    for batch_size in (1, 3, 16):
        found = by_decoder(model, sampling(batch_size, True), wanted)
        assert_same(found, by_decoder(model, sampling(batch_size, False), wanted))
    assert compiled_layers(model) is not None


@needs_compiler
def test_compiled_runs_repeat_and_see_new_weights() -> None:
    model, wanted = made("llama"), jobs(1)
    one, two = (by_decoder(model, sampling(4, True), wanted) for _ in range(2))
    for first, second in zip(one, two, strict=True):
        for part in ("ids", "logp", "entropy", "stop_logp"):
            assert np.array_equal(getattr(first, part), getattr(second, part)), part
    layers = compiled_layers(model)
    assert layers is not None and layers.works
    with torch.no_grad():
        for values in model.parameters():
            values.mul_(0.7)
    assert_same(by_decoder(model, sampling(4, True), wanted), by_decoder(model, sampling(4, False), wanted))
    assert compiled_layers(model) is layers
    left = {"forward", "_slot", "_place", "_eager"}
    assert not any(left & vars(part).keys() for part in model.modules())
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1]
    assert model.config._attn_implementation == "sdpa"


def test_without_a_compiler_layers_run_as_they_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(graph: object, inputs: object) -> None:
        raise RuntimeError("no C++ compiler was found\nand more")

    monkeypatch.setattr(compiled, "_joined", refuse)
    model, wanted = made("llama"), jobs(1)
    with caplog.at_level(logging.WARNING):
        found = by_decoder(model, sampling(3, True), wanted)
    assert_same(found, by_decoder(model, sampling(3, False), wanted))
    assert "layers of LlamaForCausalLM are not compiled" in caplog.text
    assert "no C++ compiler was found" in caplog.text


def test_other_values_are_not_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(graph: torch.fx.GraphModule, inputs: object) -> object:
        return lambda *given: tuple(1.5 * one for one in graph(*given))

    monkeypatch.setattr(compiled, "_joined", wrong)
    with caplog.at_level(logging.WARNING):
        found = by_decoder(made("llama"), sampling(3, True), jobs(1))
    assert_same(found, by_decoder(made("llama"), sampling(3, False), jobs(1)))
    assert "compiled they give other values" in caplog.text


def test_layers_that_are_wrapped_or_unknown_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    wrapped, unknown = llama().eval(), llama().eval()
    vars(wrapped.model.layers[1])["forward"] = wrapped.model.layers[1].forward
    unknown.model.layers[1].self_attn.layer_idx = 0
    with caplog.at_level(logging.WARNING), torch.no_grad():
        assert compiled_layers(wrapped) is None
        assert compiled_layers(unknown) is None
    assert "wrapped by another library" in caplog.text
    assert "does not say which they are" in caplog.text


def test_siblings_are_one_product_in_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers of four products each, siblings joined; without the head."""
    counted: list[int] = []
    runs: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: object) -> object:
        joined(graph, inputs)
        number = len(counted)
        counted.append(sum(node.target is compiled.PRODUCT for node in graph.graph.nodes))
        return lambda *given: runs.append(number) or graph(*given)

    joined = compiled._joined
    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: lambda graph, inputs: graph)
    monkeypatch.setattr(compiled, "_joined", count)
    model = made("llama")
    found = by_decoder(model, sampling(3, True), jobs(1))
    assert_same(found, by_decoder(model, sampling(3, False), jobs(1)))
    # One graph for one row and one for several, whatever the number of layers; run by both in the trial, and
    # then in each of the steps
    assert counted == [4, 4]
    assert runs[:8] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert runs[8:].count(1) >= 2 * 8


@pytest.mark.parametrize("mask", [True, False])
def test_grouped_attention(mask: bool) -> None:
    """Two heads of keys for six of queries, in float64, against a sum by hand."""
    torch.manual_seed(0)
    query = torch.randn(3, 6, 1, 4, dtype=torch.float64)
    key, value = (torch.randn(3, 2, 5, 4, dtype=torch.float64) for _ in range(2))
    seen = torch.rand(3, 1, 1, 5) > 0.3 if mask else None
    module = nn.Module()
    module.num_key_value_groups = 3
    found, _ = attend(module, query, key, value, seen, scaling=0.5)
    assert found.shape == (3, 1, 6, 4)
    for row in range(3):
        for head in range(6):
            scores = 0.5 * key[row, head // 3] @ query[row, head, 0]
            if seen is not None:
                scores = scores.masked_fill(~seen[row, 0, 0], -torch.inf)
            expected = scores.softmax(-1) @ value[row, head // 3]
            torch.testing.assert_close(found[row, 0, head], expected)


def test_another_attention_is_left_alone() -> None:
    model = llama()
    model.set_attn_implementation("eager")
    with grouped_attention(model.config):
        assert model.config._attn_implementation == "eager"


@needs_compiler
def test_a_model_with_three_heads_of_keys() -> None:
    """As many as there may be rows or slots: graphs must not take one for the other."""
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=36,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    model = LlamaForCausalLM(config).eval()
    for batch_size in (2, 1, 3, 4):
        found = by_decoder(model, sampling(batch_size, True), jobs(1))
        assert_same(found, by_decoder(model, sampling(batch_size, False), jobs(1)))
    assert compiled_layers(model) is not None


@needs_compiler
def test_one_row_and_the_smallest_batch() -> None:
    """A batch of one has buffers for two, so that it is one of the cases that were tried. A token is ruled
    out, as by a model that pads its vocabulary."""
    model = made("llama")
    model.lm_head.register_forward_hook(lambda _, given, logits: logits.index_fill(-1, FIRST, -torch.inf))
    decoder = Decoder(model, STOPS, sampling(1, True), token_bytes)
    found = decoder.run([Job(np.arange(4, 8), 6, 0)])
    assert_same(found, by_decoder(model, sampling(1, False), [Job(np.arange(4, 8), 6, 0)]))
    assert compiled_layers(model) is not None


def test_traced_layers_are_the_same_without_a_compiler() -> None:
    model = made("llama")
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        with fast_linears(model, packed=True):
            expected = model(ids).logits
        with fast_linears(model, packed=True, traced=True):
            assert torch.equal(model(ids).logits, expected)
