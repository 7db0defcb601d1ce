"""Which processors have MKL at home."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dragoman.models import processor


@pytest.mark.parametrize(("vendor", "expected"), [("GenuineIntel", True), ("AuthenticAMD", False)])
def test_by_vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: str, expected: bool) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    monkeypatch.setattr(processor, "_CPUINFO", file)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert processor.mkl_is_at_home.__wrapped__() is expected
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert not processor.mkl_is_at_home.__wrapped__()
