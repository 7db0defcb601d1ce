"""What of a run's configuration is set for the whole process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dragoman.config import RunConfig
from dragoman.models.settings import use_settings


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


def test_threads_and_precision_are_those_of_the_run() -> None:
    use_settings(RunConfig(threads=2, matmul_precision="medium"))
    assert torch.get_num_threads() == 2
    assert torch.get_float32_matmul_precision() == "medium"


def test_by_default_products_are_in_float32_and_threads_stay() -> None:
    torch.set_num_threads(3)
    torch.set_float32_matmul_precision("medium")
    use_settings(RunConfig())
    assert torch.get_num_threads() == 3
    assert torch.get_float32_matmul_precision() == "highest"
