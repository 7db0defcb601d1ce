"""Scores made some columns of the vocabulary at a time are those of whole rows."""

from __future__ import annotations

import weakref
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from dragoman.models import TokenScorer, TokenScores, columns
from dragoman.models.columns import is_divisible, scores_by_columns
from dragoman.models.heads import HeadShape, ShapedHead
from dragoman.models.onednn import fast_linears
from dragoman.models.slices import Asked, scores_of_slice

NUM, WIDTH, IDS = 6, 8, 41
AT_ONCE = [1, 3 * NUM, 7 * NUM, 100 * NUM]


def case(*, bias: bool = False, scale: float = 1.0) -> tuple[Tensor, nn.Linear]:
    """Hidden states and a head, in float64."""
    generator = torch.Generator().manual_seed(5)
    head = nn.Linear(WIDTH, IDS, bias=bias).double()
    for values in head.parameters():
        nn.init.normal_(values, std=scale, generator=generator)
    return torch.randn((NUM, WIDTH), generator=generator, dtype=torch.float64), head


def asked(stops: tuple[int, ...] = (3, 40), topk: int = 0, entropy: bool = False) -> Asked:
    is_stop = torch.zeros(NUM, dtype=torch.bool)
    is_stop[2] = bool(stops)
    return Asked(
        target=torch.tensor([0, 40, 40, 13, 39, 7]),
        is_stop=is_stop,
        stop_ids=torch.tensor(stops, dtype=torch.long),
        topk=topk,
        entropy=entropy,
    )


def compare(found: TokenScores, expected: TokenScores, rtol: float = 1e-12, atol: float = 1e-12) -> None:
    for name, own, other in zip(found._fields, found, expected, strict=True):
        assert (own is None) == (other is None), name
        if own is not None:
            torch.testing.assert_close(own, other, rtol=rtol, atol=atol, msg=name)


@pytest.mark.parametrize("values", AT_ONCE)
@pytest.mark.parametrize("stops", [(), (3,), (3, 40)])
@pytest.mark.parametrize(("topk", "entropy"), [(0, False), (0, True), (1, False), (8, True), (60, False)])
def test_all_scores(values: int, stops: tuple[int, ...], topk: int, entropy: bool) -> None:
    inputs, head = case(bias=True)
    wanted = asked(stops, min(topk, IDS), entropy)
    with torch.no_grad():
        compare(
            scores_by_columns(head, HeadShape(), values, inputs, wanted),
            scores_of_slice(head, inputs, wanted),
        )


@pytest.mark.parametrize("values", AT_ONCE)
@pytest.mark.parametrize("shape", [HeadShape(scale=0.25), HeadShape(scale=2.0, cap=3.0)])
def test_scaled_and_capped_logits(values: int, shape: HeadShape) -> None:
    inputs, head = case(scale=3.0)
    wanted = asked(topk=4, entropy=True)
    with torch.no_grad():
        compare(
            scores_by_columns(head, shape, values, inputs, wanted),
            scores_of_slice(ShapedHead(head, shape), inputs, wanted),
        )


@pytest.mark.parametrize("ruled_out", [range(14), range(20, 41), [*range(3), *range(5, 41)]])
def test_tokens_that_cannot_be(ruled_out: list[int]) -> None:
    """Also a whole piece of them, the first among them."""
    inputs, head = case(bias=True)
    with torch.no_grad():
        head.bias[list(ruled_out)] = -torch.inf
        wanted = asked(topk=2, entropy=True)
        found = scores_by_columns(head, HeadShape(), 7 * NUM, inputs, wanted)
        compare(found, scores_of_slice(head, inputs, wanted))
    assert torch.isneginf(found.logp[[bool(target in ruled_out) for target in (0, 40, -1, 13, 39, 7)]]).all()


@pytest.mark.parametrize("scale", [1.0, 30.0, 300.0])
def test_digits_in_float32(scale: float) -> None:
    """A likely token is as far from 0 as in float64, however large logits are."""
    inputs, head = case(scale=scale)
    likeliest = (inputs @ head.weight.T).argmax(-1)
    wanted = Asked(
        target=likeliest,
        is_stop=torch.zeros(NUM, dtype=torch.bool),
        stop_ids=torch.tensor([], dtype=torch.long),
        entropy=True,
    )
    narrow, low = inputs.float(), nn.Linear(WIDTH, IDS, bias=False)
    low.weight = nn.Parameter(head.weight.detach().float())
    head.weight = nn.Parameter(low.weight.detach().double())
    with torch.no_grad():
        found = scores_by_columns(low, HeadShape(), 7 * NUM, narrow, wanted)
        whole = scores_of_slice(low, narrow, wanted)
        truth = scores_of_slice(head, narrow.double(), wanted)
    assert found.entropy is not None and truth.entropy is not None and whole.entropy is not None
    for own, other, exact in (
        (found.logp, whole.logp, truth.logp),
        (found.entropy, whole.entropy, truth.entropy),
    ):
        error, known = (own - exact).abs().amax(), (other - exact).abs().amax()
        assert error <= 2 * known + 1e-6


@pytest.mark.parametrize("tail", [1e-5, 5e-6])
def test_many_unlikely_tokens_are_not_lost_beside_a_likely_one(tail: float) -> None:
    """As they would be if one piece after the other was added to a sum near 1."""
    num_ids = 2**18
    head = nn.Linear(1, num_ids, dtype=torch.float32)
    bias = torch.full((num_ids,), tail / (num_ids - 1)).log()
    bias[0] = 0.0
    head.bias = nn.Parameter(bias)
    size = 2
    wanted = Asked(
        target=torch.zeros(size, dtype=torch.long),
        is_stop=torch.zeros(size, dtype=torch.bool),
        stop_ids=torch.tensor([], dtype=torch.long),
        entropy=True,
    )
    with torch.no_grad():
        found = scores_by_columns(head, HeadShape(), 1024 * size, torch.zeros(size, 1), wanted)
    wide = bias.double().log_softmax(0)
    assert found.entropy is not None
    assert found.logp.tolist() == pytest.approx([float(wide[0])] * size, rel=0.1)
    assert found.entropy.tolist() == pytest.approx([-float((wide.exp() * wide).sum())] * size, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("values", AT_ONCE)
def test_other_precisions(dtype: torch.dtype, values: int) -> None:
    inputs, head = case(bias=True)
    inputs, head = inputs.to(dtype), head.to(dtype)
    wanted = asked(topk=1, entropy=True)
    with torch.no_grad():
        found = scores_by_columns(head, HeadShape(), values, inputs, wanted)
        truth = scores_of_slice(head.double(), inputs.double(), wanted)
    assert found.logp.dtype == torch.float32
    assert (found.logp - truth.logp).abs().max() < (0.05 if dtype == torch.bfloat16 else 1e-5)


def test_autocast_is_obeyed() -> None:
    inputs, head = case()
    inputs, head = inputs.float(), head.float()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = scores_by_columns(head, HeadShape(), 10**6, inputs, asked())
        compare(found, scores_of_slice(head, inputs, asked()), rtol=1e-6, atol=1e-6)


def test_what_is_no_number_and_who_has_no_row() -> None:
    inputs, head = case()
    inputs[4] = torch.nan
    with torch.no_grad():
        plain = scores_by_columns(head, HeadShape(), 7 * NUM, inputs, asked((3, 40)))
        wanted = asked((3, 40, IDS))
        wanted.target[1] = IDS + 1
        found = scores_by_columns(head, HeadShape(), 7 * NUM, inputs, wanted)
    assert torch.isneginf(found.logp).tolist() == [False, True, False, False, False, False]
    assert found.logp.isnan().tolist() == [False, False, False, False, True, False]
    # A stop that cannot be adds nothing to the set
    torch.testing.assert_close(found.stop_logp, plain.stop_logp, equal_nan=True)


def test_a_mask_of_large_numbers() -> None:
    inputs, head = case(bias=True)
    with torch.no_grad():
        head, inputs = head.float(), inputs.float()
        head.bias[:20] = torch.finfo(torch.float32).min
        wanted = asked((), entropy=True)
        found = scores_by_columns(head, HeadShape(), 7 * NUM, inputs, wanted)
        compare(found, scores_of_slice(head, inputs, wanted), rtol=1e-5, atol=1e-5)


def test_one_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, head = case()
    made: list[weakref.ref[Tensor]] = []
    product = columns.fastest_linear

    def kept(*given: Tensor | None) -> Tensor:
        assert all(one() is None for one in made)
        found = product(*given)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(columns, "fastest_linear", kept)
    with torch.no_grad():
        scores_by_columns(head, HeadShape(), 7 * NUM, inputs, asked(topk=2, entropy=True))
    assert len(made) == 6


def test_no_positions() -> None:
    inputs, head = case()
    nothing = torch.empty(0, dtype=torch.long)
    wanted = Asked(target=nothing, is_stop=nothing.bool(), stop_ids=torch.tensor([3]), topk=2)
    with torch.no_grad():
        found = scores_by_columns(head, HeadShape(), 50, inputs[:0], wanted)
    assert found.logp.shape == (0,) and found.topk_ids.shape == (0, 2)


def test_which_heads() -> None:
    head = nn.Linear(WIDTH, IDS)
    assert is_divisible(head)
    with torch.no_grad(), fast_linears(head, packed=False):
        assert is_divisible(head)
    vars(head)["forward"] = partial(nn.functional.linear, weight=head.weight)
    assert not is_divisible(head)
    del vars(head)["forward"]
    assert not is_divisible(nn.Sequential(head))
    vars(head)["forward"] = lambda inputs: inputs
    assert not is_divisible(head)
    hooked = nn.Linear(WIDTH, IDS)
    hooked.register_forward_hook(lambda *given: None)
    assert not is_divisible(hooked)


@pytest.mark.parametrize(
    ("topk", "entropy", "divided"), [(0, True, True), (8, False, True), (9, False, False)]
)
def test_a_scorer_takes_columns_where_they_are_enough(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch, topk: int, entropy: bool, divided: bool
) -> None:
    monkeypatch.setitem(columns.VALUES, "cpu", 1024)
    num_ids = model.get_output_embeddings().weight.shape[0]
    ids = torch.arange(4, 24).view(2, 10)
    row, column = torch.arange(2).repeat_interleave(9), torch.arange(9).repeat(2)
    target = ids[row, column + 1]
    given = (ids, row, column, target, torch.zeros_like(target, dtype=torch.bool))
    scorer = TokenScorer(model, (0, 2), topk=topk, entropy=entropy)
    assert scorer.values_at_once == (1024 if divided else scorer.logit_slice * num_ids)

    seen: list[int] = []
    product = columns.fastest_linear
    monkeypatch.setattr(
        columns,
        "fastest_linear",
        lambda *some: seen.append(some[0].shape[0] * len(some[1])) or product(*some),
    )
    with torch.no_grad():
        found = scorer(*given)
    assert bool(seen) == divided
    assert max(seen, default=0) <= 1024
    own = scorer(*given)  # with gradients, by slices of positions
    torch.testing.assert_close(found.logp, own.logp.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.topk_logp, own.topk_logp, rtol=1e-5, atol=1e-5)
    if entropy:
        torch.testing.assert_close(found.entropy, own.entropy.detach(), rtol=1e-5, atol=1e-5)
