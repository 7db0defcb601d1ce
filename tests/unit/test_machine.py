"""What a machine can do at best."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dragoman.train import machine
from dragoman.train.machine import measure_peaks

CPU = torch.device("cpu")


@pytest.mark.parametrize(("by_torch", "by_onednn"), [(4.0, 2.0), (2.0, 4.0)])
def test_the_best_product_counts_whose_ever_it_is(
    monkeypatch: pytest.MonkeyPatch, by_torch: float, by_onednn: float
) -> None:
    """Shares of a peak that is half of what the machine does would be twice the truth."""
    asked: list[str] = []
    product, multiplied = machine.linear, torch.Tensor.__matmul__

    def linear(*given: torch.Tensor | None) -> torch.Tensor:
        asked.append("onednn")
        return product(*given)

    def matmul(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        asked.append("torch")
        return multiplied(left, right)

    def seconds(work: Callable[[], object], device: torch.device) -> float:
        asked.clear()
        work()
        return {"torch": by_torch, "onednn": by_onednn}[asked[0]] if asked else 8.0

    monkeypatch.setattr(machine, "linear", linear)
    monkeypatch.setattr(torch.Tensor, "__matmul__", matmul)
    monkeypatch.setattr(machine, "_seconds", seconds)
    found = measure_peaks(CPU, torch.float32, width=8, wide=16, repeats=2)
    assert found.matmul_flops == 2 * 1024 * 8 * 16 / 2.0
    assert found.copy_bytes == 2 * 4 * 2**26 / 8.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_peaks_of_every_precision(dtype: torch.dtype) -> None:
    found = measure_peaks(CPU, dtype, width=8, wide=16, repeats=1)
    assert found.matmul_flops > 0 and found.copy_bytes > 0
