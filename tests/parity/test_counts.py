"""What a slice of the fused loss and a step of decoding do, in operations and buffers: counts that a change
may lower, and raises only with a reason. They do not depend on the machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from dragoman.models import Candidates, Span, TokenScorer, TokenScores, score_spans
from dragoman.models.candidates import pieces
from dragoman.models.columns import EVEN_COLUMNS, scores_by_columns
from dragoman.models.fused import fused_loss
from dragoman.models.heads import HeadShape
from dragoman.models.onednn import is_available
from dragoman.models.scoring import scores_of_slice
from dragoman.models.slices import Asked
from dragoman.rollout import Sampling
from dragoman.rollout.decoder import Decoder, Job

POSITIONS, WIDTH, IDS = 8, 4, 1000


class Counts(TorchDispatchMode):
    """Operations by name, and tensors made anew that hold a position's whole vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.large = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations[func.__name__] += 1
        known = {address(one) for one in args if isinstance(one, Tensor)}
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else [out]:
            if isinstance(one, Tensor) and one.shape[-1:] == (IDS,) and one.dim() > 1:
                self.large += address(one) not in known
        return out


def address(tensor: Tensor) -> int:
    """Where its numbers are; a packed weight does not say."""
    try:
        return tensor.untyped_storage().data_ptr()
    except NotImplementedError:
        return id(tensor)


def counted(work: Callable[[], Any]) -> Counts:
    is_available()  # tries a product once, which is not to be counted
    with Counts() as counts:
        work()
    return counts


def loss(candidates: Candidates | None, num_slices: int) -> None:
    head = nn.Linear(WIDTH, IDS, bias=False)
    hidden = torch.randn(POSITIONS, WIDTH, requires_grad=True)
    size = POSITIONS // num_slices
    slices = [slice(at, at + size) for at in range(0, POSITIONS, size)]
    own = [None] * num_slices if candidates is None else pieces(candidates, slices)
    asked = [
        Asked(
            target=torch.arange(size),
            is_stop=torch.zeros(size, dtype=torch.bool),
            stop_ids=torch.tensor([3, 7]),
            candidates=some,
        )
        for some in own
    ]

    def value(scores: TokenScores, tokens: slice) -> Tensor:
        return scores.logp.sum() if scores.rest_logp is None else (scores.rest_logp + scores.logp).sum()

    fused_loss(hidden, head, slices, asked, value).backward()


ROWS = Candidates(torch.arange(POSITIONS), torch.arange(10, 10 + POSITIONS))


@pytest.mark.parametrize(
    ("candidates", "operations", "buffers"), [(None, 83, 1), (ROWS, 166, 2)], ids=["credit", "rows"]
)
def test_a_slice_of_the_loss(candidates: Candidates | None, operations: int, buffers: int) -> None:
    one, four = (counted(lambda n=n: loss(candidates, n)) for n in (1, 4))
    # Three further slices, so that what is done once does not count; the buffer is the logits, and their
    # exponentials in their place. With candidates, positions whose rest is tiny are copied: here none. Some
    # operations are views for oneDNN, where the head's gradient is its product
    assert (four.operations.total() - one.operations.total()) / 3 <= operations
    assert (four.large - one.large) / 3 <= buffers


@pytest.mark.parametrize(("topk", "buffers"), [(0, 1), (3, 1)])
def test_a_slice_of_a_teachers_scores(topk: int, buffers: int) -> None:
    head = nn.Linear(WIDTH, IDS, bias=False)
    asked = Asked(
        target=torch.arange(POSITIONS),
        is_stop=torch.zeros(POSITIONS, dtype=torch.bool),
        stop_ids=torch.tensor([3, 7]),
        topk=topk,
    )
    with torch.no_grad():
        counts = counted(lambda: scores_of_slice(head, torch.randn(POSITIONS, WIDTH), asked))
    # The logits, written over by their exponentials
    assert counts.large <= buffers
    assert counts.operations.total() <= 45


@pytest.mark.parametrize(("topk", "operations"), [(0, 22), (3, 30)])
def test_some_columns_of_a_teachers_scores(topk: int, operations: int) -> None:
    asked = Asked(
        target=torch.arange(POSITIONS),
        is_stop=torch.zeros(POSITIONS, dtype=torch.bool),
        stop_ids=torch.tensor([3, 7]),
        topk=topk,
    )

    def score(pieces: int) -> None:
        head = nn.Linear(WIDTH, pieces * EVEN_COLUMNS, bias=False)
        inputs = torch.randn(POSITIONS, WIDTH)
        scores_by_columns(head, HeadShape(), EVEN_COLUMNS * POSITIONS, inputs, asked)

    with torch.no_grad():
        one, ten = (counted(lambda n=n: score(n)) for n in (1, 10))
    assert (ten.operations.total() - one.operations.total()) / 9 <= operations


def test_tokens_that_a_teacher_reads() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=IDS, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    scorer = TokenScorer(LlamaForCausalLM(config).eval(), [0])
    rng = np.random.default_rng(0)
    prompt = rng.integers(1, IDS, 200)
    spans = [
        Span(ids=np.append(prompt, rng.integers(1, IDS, 20)), start=200, is_stop=np.zeros(20, dtype=bool))
        for _ in range(8)
    ]
    read: list[int] = []
    score_spans(scorer, spans[:2], batch_tokens=4096)  # tries once whether a prefix can be shared
    layers = scorer.model.model.embed_tokens
    layers.register_forward_hook(lambda module, given, out: read.append(given[0].numel()))
    score_spans(scorer, spans, batch_tokens=4096)
    # The prompt once, and all but the last token of 8 responses
    assert sum(read) == 200 + 8 * 19 and len(read) == 2


def test_a_slice_multiplies_three_times() -> None:
    one, four = (counted(lambda n=n: loss(None, n)) for n in (1, 4))
    names = ("_linear_pointwise.default", "mm.default", "addmm_.default", "linear.default", "addmm.default")
    assert sum(four.operations[name] - one.operations[name] for name in names) == 3 * 3


def test_a_step_of_decoding() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=IDS, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).eval()

    def write(limit: int) -> Counts:
        sampling = Sampling(max_new_tokens=limit, batch_size=4)
        jobs = [Job(np.arange(5, 15), limit, seed) for seed in range(4)]
        decoder = Decoder(model, [0], sampling, lambda index: b"")
        return counted(lambda: decoder.run(jobs))

    short, long = write(4), write(14)
    # Ten further steps. Of whole distributions: logits, log-probs, their exponentials
    assert (long.operations.total() - short.operations.total()) / 10 <= 123
    assert (long.large - short.large) / 10 <= 3
    # Keys and values are not copied: what is joined is the halves of turned keys and queries
    assert (long.operations["cat.default"] - short.operations["cat.default"]) / 10 <= 3
