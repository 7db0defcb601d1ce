"""Linear layers by oneDNN against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dragoman.models import onednn
from dragoman.models.onednn import add_product, fast_linears, linear


@pytest.fixture(autouse=True)
def has_onednn() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch is built without oneDNN")
    assert onednn.is_available(), "torch has oneDNN, but its product is missing or wrong"


def net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 24, bias=False)).to(dtype)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (3, 5, 24), (0, 24)])
def test_the_same_values(packed: bool, shape: tuple[int, ...]) -> None:
    model, inputs = net(), torch.randn(shape)
    with torch.no_grad():
        expected = model(inputs)
        with fast_linears(model, packed=packed):
            assert "forward" in vars(model[0])
            torch.testing.assert_close(model(inputs), expected, rtol=1e-5, atol=1e-6)
    assert "forward" not in vars(model[0])


def test_weights_are_read_anew_each_time() -> None:
    model, inputs = net(), torch.randn(2, 24)
    with torch.no_grad():
        with fast_linears(model, packed=True):
            before = model(inputs)
        model[2].weight.mul_(2.0)
        with fast_linears(model, packed=True):
            torch.testing.assert_close(model(inputs), 2.0 * before)


def test_a_shared_weight_is_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    packed: list[torch.Tensor] = []
    pack = onednn._pack
    monkeypatch.setattr(onednn, "_pack", lambda weight: packed.append(weight) or pack(weight))
    with torch.no_grad(), fast_linears(model, packed=True):
        model(torch.randn(3, 8))
    assert len(packed) == 1


def test_all_is_restored_when_something_fails() -> None:
    model = net()
    with pytest.raises(ValueError, match="inside"), torch.no_grad(), fast_linears(model, packed=True):
        raise ValueError("inside")
    assert all("forward" not in vars(layer) for layer in model)


def test_a_forward_of_another_is_left_alone() -> None:
    model = net()
    own = model[0].forward
    vars(model[0])["forward"] = lambda inputs: 0.0 * own(inputs)
    inputs = torch.randn(2, 24)
    with torch.no_grad(), fast_linears(model, packed=True), fast_linears(model, packed=False):
        assert not model[0](inputs).any()
        assert "forward" in vars(model[2])
    assert not model[0](inputs).any()
    assert "forward" not in vars(model[2])


def test_autocast_is_obeyed() -> None:
    model, inputs = net(), torch.randn(2, 24)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(inputs)
        with fast_linears(model, packed=True):
            found = model(inputs)
    assert found.dtype == expected.dtype == torch.bfloat16
    assert torch.equal(found, expected)


def test_nothing_changes_with_gradients_or_in_other_precisions() -> None:
    model = net()
    with fast_linears(model, packed=False):
        assert "forward" not in vars(model[0])
        model(torch.randn(2, 24)).sum().backward()
    assert model[0].weight.grad is not None
    low = net(torch.bfloat16)
    with torch.no_grad(), fast_linears(low, packed=True):
        assert "forward" not in vars(low[0])
        assert low(torch.randn(2, 24).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_product(dtype: torch.dtype) -> None:
    inputs, weight, bias = (torch.randn(size, dtype=dtype) for size in ((5, 7), (11, 7), (11,)))
    with torch.no_grad():
        for own in (None, bias):
            torch.testing.assert_close(
                linear(inputs, weight, own), nn.functional.linear(inputs, weight, own), rtol=1e-5, atol=1e-6
            )


def test_columns_of_a_larger_matrix_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN multiplies them one by one: a second in place of a third of a millisecond."""
    asked: list[torch.Tensor] = []
    product = onednn._product
    monkeypatch.setattr(onednn, "_product", lambda *given: asked.append(given[1]) or product(*given))
    inputs, wide = torch.randn(5, 7), torch.randn(11, 20)
    with torch.no_grad():
        found = linear(inputs, wide[:, 2:9], None)
        torch.testing.assert_close(found, inputs @ wide[:, 2:9].T, rtol=1e-5, atol=1e-6)
        assert not asked
        for whole in (wide[:, :7].contiguous(), wide[:, :7].T.contiguous().T):
            linear(inputs, whole, None)
    assert len(asked) == 2


@pytest.mark.parametrize("at_home", [True, False])
@pytest.mark.parametrize("values", [1, 21, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_that_are_added(
    at_home: bool, values: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "mkl_is_at_home", lambda: at_home)
    monkeypatch.setattr(onednn, "SUM_VALUES", values)
    left, right = torch.randn(5, 11, dtype=dtype), torch.randn(5, 7, dtype=dtype)
    expected = left.T @ right
    total = torch.full((11, 7), torch.nan, dtype=dtype)
    for given in (right, right.T.contiguous().T):
        add_product(total, left, given, first=True)
        torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)
        add_product(total, left, given)
        torch.testing.assert_close(total, 2 * expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("at_home", [True, False])
def test_a_product_of_nothing(at_home: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "mkl_is_at_home", lambda: at_home)
    total = torch.full((11, 7), torch.nan)
    add_product(total, torch.empty(0, 11), torch.empty(0, 7), first=True)
    assert not total.any()


def test_products_that_are_added_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "mkl_is_at_home", lambda: False)
    monkeypatch.setattr(onednn, "is_available", lambda: False)
    monkeypatch.setattr(onednn, "SUM_VALUES", 1)
    left, right, total = torch.randn(5, 11), torch.randn(5, 7), torch.zeros(11, 7)
    add_product(total, left, right)
    torch.testing.assert_close(total, left.T @ right)


def test_without_onednn_torch_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "is_available", lambda: False)
    model, inputs = net(), torch.randn(2, 24)
    with torch.no_grad(), fast_linears(model, packed=True):
        assert "forward" not in vars(model[0])
        assert torch.equal(linear(inputs, model[0].weight, None), inputs @ model[0].weight.T)


class Attention(nn.Module):
    """Siblings as transformers names them, one of them without a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q_proj, self.k_proj = nn.Linear(8, 12), nn.Linear(8, 4, bias=False)
        self.v_proj = nn.Linear(8, 4)

    def forward(self, inputs: torch.Tensor, changed: bool = False) -> torch.Tensor:
        first = self.q_proj(inputs)
        if changed:
            inputs.mul_(2.0)
        return torch.cat([first, self.k_proj(inputs), self.v_proj(inputs)], dim=-1)


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("shape", [(2, 8), (3, 1, 8)])
def test_layers_with_one_input_are_one_product(changed: bool, shape: tuple[int, ...]) -> None:
    model, inputs = Attention(), torch.randn(shape)
    with torch.no_grad():
        expected = [model(factor * inputs, changed) for factor in (1.0, 3.0)]
        with fast_linears(model, packed=True):
            found = [model(factor * inputs, changed) for factor in (1.0, 3.0)]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert "forward" not in vars(model.q_proj)


def test_siblings_are_multiplied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, times = Attention(), []
    product = onednn._by_onednn
    monkeypatch.setattr(onednn, "_by_onednn", lambda *given: times.append(1) or product(*given))
    with torch.no_grad(), fast_linears(model, packed=True):
        model(torch.randn(2, 8))
    assert len(times) == 1


def test_siblings_under_inference_mode_and_autocast() -> None:
    model, inputs = Attention(), torch.randn(2, 8)
    with torch.inference_mode():
        expected = model(inputs)
        with fast_linears(model, packed=True):
            torch.testing.assert_close(model(inputs), expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = model(inputs)
        with fast_linears(model, packed=True):
            torch.testing.assert_close(model(inputs), expected)


def test_a_sibling_of_another_kind_leaves_all_alone() -> None:
    model = Attention()
    vars(model.v_proj)["forward"] = model.v_proj.forward
    inputs = torch.randn(2, 8)
    with torch.no_grad():
        expected = model(inputs)
        with fast_linears(model, packed=True):
            assert not isinstance(vars(model.q_proj)["forward"].func, onednn._Joint)
            torch.testing.assert_close(model(inputs), expected, rtol=1e-5, atol=1e-6)
