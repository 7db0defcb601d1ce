"""Evaluation mode for a block."""

from __future__ import annotations

import pytest
from torch import nn

from dragoman.models import evaluating


def test_each_part_gets_its_own_mode_back() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
    model.train()
    model[1].eval()  # a frozen part
    with evaluating(model):
        assert not any(part.training for part in model.modules())
    assert [part.training for part in model.modules()] == [True, True, False]
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert model.training and not model[1].training
