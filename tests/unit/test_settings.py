"""What of a run's configuration is set for the whole process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dragoman.api import run_training
from dragoman.audit.pair import audit_pair
from dragoman.config import RunConfig
from dragoman.errors import UsageError
from dragoman.models.settings import settings_kept, use_settings


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


def test_what_was_set_within_ends_with_it() -> None:
    torch.set_num_threads(3)
    torch.set_float32_matmul_precision("high")
    with settings_kept():
        use_settings(RunConfig(threads=2))
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (3, "high")
    with pytest.raises(KeyError), settings_kept():
        use_settings(RunConfig(threads=2))
        raise KeyError
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (3, "high")


def test_a_run_and_an_audit_leave_the_process_as_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = RunConfig(threads=2, matmul_precision="medium", dir=str(tmp_path / "run"))
    seen: list[int] = []

    def fail(*given: Any, **more: Any) -> Any:
        use_settings(run)
        seen.append(torch.get_num_threads())
        raise UsageError("no")

    torch.set_num_threads(3)
    torch.set_float32_matmul_precision("high")
    monkeypatch.setattr("dragoman.api.build_session", fail)
    monkeypatch.setattr("dragoman.audit.pair.use_settings", fail)
    config: Any = SimpleNamespace(run=run)
    nothing: Any = None
    with pytest.raises(UsageError):
        run_training(config, text="")
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (3, "high")
    with pytest.raises(UsageError):
        audit_pair(config, nothing, nothing)
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == (3, "high")
    assert seen == [2, 2]
