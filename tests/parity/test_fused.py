"""Head and loss in one pass against the same loss on whole logits in float64, values and gradients."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from dragoman.models import Candidates, TokenScores
from dragoman.models.candidates import pieces
from dragoman.models.fused import fused_loss
from dragoman.models.heads import is_fusible
from dragoman.models.scoring import _slices
from dragoman.models.slices import Asked

NUM, WIDTH, IDS = 11, 8, 61
STOPS = torch.tensor([3, 7])
SLICES = [1, 2, 4, 100]


class Case(NamedTuple):
    """Hidden states and a head."""

    inputs: Tensor
    head: nn.Linear


def case(*, bias: bool = False, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Case:
    generator = torch.Generator().manual_seed(3)
    head = nn.Linear(WIDTH, IDS, bias=bias)
    for values in head.parameters():
        nn.init.normal_(values, std=scale, generator=generator)
    inputs = torch.randn((NUM, WIDTH), generator=generator)
    return Case(inputs.to(dtype).requires_grad_(), head.to(dtype))


def weighted_sets() -> Candidates:
    """One to four sets at every second position, the stop set among them, a token in two sets of a row."""
    rows = torch.tensor([0, 0, 2, 4, 4, 4, 6, 8, 10, 10])
    members = torch.tensor([1, 2, 3, 1, 1, 2, 1, 1, 2, 1])
    ids = torch.tensor([5, 6, 8, 3, 9, 10, 11, 12, 12, 13, 3, 20, 21, 22, 60])
    weight = torch.tensor([1, 0.5, 1, 1, 1, 0.1, 1, 0.25, 0.5, 1, 0.6, 1, 1, 1, 0.3])
    return Candidates(rows, ids, torch.arange(10).repeat_interleave(members), weight.log())


def asked(candidates: Candidates | None = None, num_sorted: int = 0) -> Asked:
    target = torch.arange(20, 20 + NUM)
    is_stop = torch.zeros(NUM, dtype=torch.bool)
    is_stop[4] = is_stop[10] = True
    return Asked(
        target=torch.where(is_stop, STOPS[1], target),
        is_stop=is_stop,
        stop_ids=STOPS,
        candidates=candidates,
        num_sorted=num_sorted,
    )


def credit(scores: TokenScores, tokens: slice) -> Tensor:
    """A policy gradient without a ratio."""
    factor = torch.linspace(-1.0, 2.0, NUM)[tokens].to(scores.logp)
    return (factor * scores.logp.exp() + scores.logp.square()).sum()


def divergence(scores: TokenScores, tokens: slice) -> Tensor:
    """Something of all that has a gradient."""
    assert scores.candidate_logp is not None and scores.rest_logp is not None
    inside = (scores.candidate_logp.exp() * scores.candidate_logp).sum()
    return inside + (scores.rest_logp * scores.rest_logp.exp()).sum() + credit(scores, tokens)


def uncertainty(scores: TokenScores, tokens: slice) -> Tensor:
    """Of entropy, with everything else."""
    assert scores.entropy is not None
    factor = torch.linspace(-1.0, 2.0, NUM)[tokens].to(scores.logp)
    inside = 0.0 if scores.rest_logp is None else divergence(scores, tokens)
    return (factor * scores.entropy.square()).sum() + inside


def ranks(scores: TokenScores, tokens: slice) -> Tensor:
    assert scores.sorted_logp is not None
    factor = torch.tensor([3.0, -1.0, 0.5], dtype=scores.logp.dtype)
    return (scores.sorted_logp.exp() * factor).sum()


LOSSES: dict[str, tuple[Callable[[TokenScores, slice], Tensor], Asked]] = {
    "credit": (credit, asked()),
    "rows": (divergence, asked(weighted_sets())),
    "single tokens": (divergence, asked(Candidates(torch.arange(NUM), torch.arange(30, 30 + NUM)))),
    "sorted": (ranks, asked(num_sorted=3)),
    "entropy": (uncertainty, replace(asked(), entropy=True)),
    "entropy and rows": (uncertainty, replace(asked(weighted_sets()), entropy=True)),
}


def dense_scores(logits: Tensor, of: Asked) -> TokenScores:
    """The same scores as one would type them, over whole distributions with the stop set merged."""
    law = logits.softmax(-1)
    stop = law[:, STOPS].sum(-1)
    merged = law * (~torch.isin(torch.arange(IDS), STOPS)) + stop[:, None] * (torch.arange(IDS) == STOPS[0])
    chosen = torch.where(of.is_stop, stop, law[torch.arange(NUM), of.target])
    none = torch.zeros(NUM, 0)
    found = TokenScores(chosen.log(), none.long(), none, stop.log(), -torch.xlogy(law, law).sum(-1))
    if of.candidates is not None:
        own = of.candidates
        weight = torch.ones(len(own.ids)) if own.log_weight is None else own.log_weight.exp()
        mass = weight * merged[own.row_of_member, own.ids]
        set_of = torch.arange(len(own.ids)) if own.member_of is None else own.member_of
        inside = torch.zeros(len(own.row), dtype=logits.dtype).index_add(0, set_of, mass.to(logits.dtype))
        rest = 1.0 - torch.zeros(NUM, dtype=logits.dtype).index_add(0, own.row, inside)
        found = found._replace(candidate_logp=inside.log(), rest_logp=rest.log())
    if of.num_sorted:
        found = found._replace(sorted_logp=merged.topk(of.num_sorted, -1).values.log())
    return found


def twin(name: str, at: Case) -> tuple[Tensor, dict[str, Tensor]]:
    """Value and gradients in float64."""
    loss, of = LOSSES[name]
    inputs = at.inputs.detach().double().requires_grad_()
    head = nn.Linear(WIDTH, IDS, bias=at.head.bias is not None).double()
    head.load_state_dict({key: value.double() for key, value in at.head.state_dict().items()})
    value = loss(dense_scores(head(inputs), of), slice(0, NUM))
    value.backward()
    return value.detach(), gradients(Case(inputs, head))


def gradients(at: Case) -> dict[str, Tensor]:
    found = {"inputs": at.inputs.grad} | {name: p.grad for name, p in at.head.named_parameters()}
    return {name: values for name, values in found.items() if values is not None}


def cut(of: Asked, slices: list[slice]) -> list[Asked]:
    own = [None] * len(slices) if of.candidates is None else pieces(of.candidates, slices)
    return [
        replace(of, target=of.target[piece], is_stop=of.is_stop[piece], candidates=some)
        for piece, some in zip(slices, own, strict=True)
    ]


def run(name: str, at: Case, size: int) -> Tensor:
    loss, of = LOSSES[name]
    slices = _slices(NUM, size, None)
    return fused_loss(at.inputs, at.head, slices, cut(of, slices), loss)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", SLICES)
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients(name: str, size: int, bias: bool) -> None:
    at = case(bias=bias)
    value = run(name, at, size)
    (2.5 * value).backward()
    expected, wanted = twin(name, at)
    torch.testing.assert_close(value.detach().double(), expected, rtol=1e-5, atol=1e-5)
    found = gradients(at)
    assert found.keys() == wanted.keys()
    for key, values in wanted.items():
        torch.testing.assert_close(found[key].double(), 2.5 * values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_no_less_exact_than_whole_logits(name: str) -> None:
    # Peaked distributions, where rounding shows
    at, plain = case(scale=4.0), case(scale=4.0)
    run(name, at, 3).backward()
    loss, of = LOSSES[name]
    loss(dense_scores(plain.head(plain.inputs), of), slice(0, NUM)).backward()
    _, wanted = twin(name, at)
    for key, values in wanted.items():
        error = (gradients(at)[key].double() - values).abs().max()
        obvious = (gradients(plain)[key].double() - values).abs().max()
        assert error <= 1.5 * obvious + 1e-6


def test_float64_stays_float64() -> None:
    at = case(dtype=torch.float64)
    run("rows", at, 3).backward()
    _, wanted = twin("rows", at)
    for key, values in wanted.items():
        # The weights of the sets are known in float32
        torch.testing.assert_close(gradients(at)[key], values, rtol=1e-6, atol=1e-6)


def test_a_low_precision_is_summed_in_float32() -> None:
    at = case(dtype=torch.bfloat16)
    run("credit", at, 1).backward()
    _, wanted = twin("credit", at)
    found = gradients(at)
    assert {values.dtype for values in found.values()} == {torch.bfloat16}
    for key, values in wanted.items():
        # bfloat16 has 8 bits: the logits themselves are known to 2^-8 of their size
        torch.testing.assert_close(found[key].double(), values, rtol=0.1, atol=0.1)


def test_autocast_applies() -> None:
    at, plain = case(), case()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run("credit", at, 3).backward()
        logits = plain.head(plain.inputs).float()
    credit(dense_scores(logits, LOSSES["credit"][1]), slice(0, NUM)).backward()
    for key, values in gradients(plain).items():
        assert gradients(at)[key].dtype == torch.float32
        torch.testing.assert_close(gradients(at)[key], values, rtol=0.05, atol=0.05)


def test_a_frozen_head_gets_no_gradient() -> None:
    at = case(bias=True)
    at.head.requires_grad_(False)
    run("rows", at, 4).backward()
    assert gradients(at).keys() == {"inputs"}
    torch.testing.assert_close(
        gradients(at)["inputs"].double(), twin("rows", at)[1]["inputs"], rtol=1e-4, atol=1e-5
    )


def test_a_second_backward_pass_is_refused() -> None:
    at = case()
    value = run("credit", at, 4)
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="make the loss again"):
        value.backward()


@pytest.mark.parametrize("times", [1, 3])
def test_the_gradient_of_the_head_in_place(times: int) -> None:
    at, other = case(bias=True), case(bias=True)
    loss, of = LOSSES["rows"]
    slices = _slices(NUM, 4, None)
    for _ in range(times):
        kept = at.head.weight.grad
        inputs = at.inputs.detach().requires_grad_()
        fused_loss(inputs, at.head, slices, cut(of, slices), loss, scale=2.5, in_place=True).backward()
        assert kept is None or kept is at.head.weight.grad  # no second tensor of its size
        (2.5 * run("rows", other, 4)).backward()
    for name, values in other.head.named_parameters():
        torch.testing.assert_close(getattr(at.head, name).grad, values.grad)
    torch.testing.assert_close(inputs.grad, other.inputs.grad / times)


@pytest.mark.parametrize("frozen", [False, True])
def test_in_place_with_tied_embeddings(frozen: bool) -> None:
    """The weight's gradient has two sources, and two micro-batches: one adds to what the other has left."""
    loss, of = LOSSES["rows"]
    slices = _slices(NUM, 4, None)
    ids = torch.randint(IDS, (2, NUM), generator=torch.Generator().manual_seed(4))
    found: list[Tensor] = []
    for in_place in (True, False):
        head = case().head
        embedding = nn.Embedding(IDS, WIDTH, _weight=head.weight.data)
        embedding.weight = head.weight
        assert embedding.weight is head.weight
        for batch in ids:
            inputs = embedding(batch).tanh()
            inputs = inputs.detach() if frozen else inputs
            value = fused_loss(inputs, head, slices, cut(of, slices), loss, scale=0.5, in_place=in_place)
            value.backward()
        assert head.weight.grad is not None
        found.append(head.weight.grad)
    torch.testing.assert_close(found[0], found[1])

    # Against whole logits in float64
    weight = case().head.weight.detach().double().requires_grad_()
    for batch in ids:
        inputs = nn.functional.embedding(batch, weight).tanh()
        inputs = inputs.detach() if frozen else inputs
        (0.5 * loss(dense_scores(inputs @ weight.T, of), slice(0, NUM))).backward()
    torch.testing.assert_close(found[0].double(), weight.grad, rtol=1e-4, atol=1e-5)


def test_a_gradient_in_place_is_final() -> None:
    at = case()
    slices = _slices(NUM, 4, None)
    value = fused_loss(at.inputs, at.head, slices, cut(asked(), slices), credit, in_place=True)
    with pytest.raises(RuntimeError, match="as `scale`"):
        (2.0 * value).backward()


def test_a_weight_with_hooks_is_told_of_its_gradient() -> None:
    at, told = case(), []
    at.head.weight.register_post_accumulate_grad_hook(lambda weight: told.append(weight.grad is not None))
    slices = _slices(NUM, 4, None)
    (2.0 * fused_loss(at.inputs, at.head, slices, cut(asked(), slices), credit, in_place=True)).backward()
    assert told == [True]


COMPILES = """
import torch
from dragoman.models.masses import Held, Places, Wanted, pull_back, read

place = torch.arange(4)
wanted = Wanted(Places(place, place), Held(place, place + 9, torch.full((4,), -1.0)), entropy=True)

def both(logits):
    found, behind = read(logits.clone(), wanted)
    return pull_back(behind, wanted, found, found)

logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(1)).sub(5.0)
torch._dynamo.config.capture_dynamic_output_shape_ops = True
compiled = torch.compile(both, backend="eager", fullgraph=True)
torch.testing.assert_close(compiled(logits), both(logits))
"""


def test_what_is_between_the_products_compiles() -> None:
    # In one graph, in a process without the checks of shapes; what becomes of it is the compiler's business
    subprocess.run([sys.executable, "-c", COMPILES], check=True, timeout=120)


def test_a_loss_without_gradient() -> None:
    at = case()
    slices = _slices(NUM, 4, None)
    value = fused_loss(at.inputs, at.head, slices, cut(asked(), slices), lambda s, _: s.logp.detach().sum())
    value.backward()
    assert all(not values.any() for values in gradients(at).values())


def test_no_tensor_of_positions_by_vocabulary() -> None:
    at = case()
    sizes: list[int] = []

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc,name-defined]
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            made = out if isinstance(out, tuple | list) else [out]
            sizes.extend(one.numel() for one in made if isinstance(one, Tensor))
            return out

    with Largest():
        run("rows", at, 2).backward()
    # Nothing is larger than the head and its gradient, 488 numbers; whole logits would be 671.
    assert max(sizes) == WIDTH * IDS


def test_slices_do_not_cut_units() -> None:
    unit_of = torch.tensor([0, 0, 0, -1, -1, 1, 1, 2, 3, 3, 3])
    assert [(one.start, one.stop) for one in _slices(11, 2, unit_of)] == [
        (0, 3),
        (3, 4),
        (4, 7),
        (7, 8),
        (8, 11),
    ]
    assert [(one.start, one.stop) for one in _slices(11, 100, unit_of)] == [(0, 11)]
    assert [(one.start, one.stop) for one in _slices(5, 2, None)] == [(0, 2), (2, 4), (4, 5)]
    assert [(one.start, one.stop) for one in _slices(0, 2, None)] == [(0, 0)]


def test_which_heads_are_a_matrix() -> None:
    head = nn.Linear(2, 3)
    assert is_fusible(head)
    assert not is_fusible(nn.Identity())
    assert not is_fusible(nn.utils.parametrizations.orthogonal(nn.Linear(2, 3)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert is_fusible(head)
    with torch.autocast("cpu", dtype=torch.float16):
        assert not is_fusible(head)
    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_pre_hook"):
        hooked = nn.Linear(2, 3)
        getattr(hooked, register)(lambda *call: None)
        assert not is_fusible(hooked)


def test_without_gradients_none_is_made() -> None:
    at = case()
    sizes: list[tuple[int, ...]] = []

    class Seen(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc,name-defined]
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            sizes.extend([tuple(out.shape)] if isinstance(out, Tensor) else [])
            return out

    expected = run("credit", at, 4).detach()
    with torch.no_grad(), Seen():
        found = run("credit", at, 4)
    assert torch.equal(found, expected)
    assert (IDS, WIDTH) not in sizes
