"""Draws from whole distributions, in two races."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from dragoman.rollout.chooser import _BLOCK, choose

NUM_DRAWS = 20_000


def drawn(logits: torch.Tensor) -> np.ndarray:
    """Draws from one distribution, each by a generator of its own."""
    rows = [
        choose(
            logits.expand(500, -1),
            [torch.Generator().manual_seed(first + row) for row in range(500)],
            torch.tensor([0]),
            [],
        ).ids
        for first in range(0, NUM_DRAWS, 500)
    ]
    return torch.cat(rows).numpy()


@pytest.mark.parametrize("num_ids", [7, _BLOCK, 3 * _BLOCK + 11])
def test_draws_have_the_distribution(num_ids: int) -> None:
    logits = torch.randn(num_ids, generator=torch.Generator().manual_seed(num_ids)) * 1.5
    expected = logits.double().softmax(-1).numpy() * NUM_DRAWS
    found = np.bincount(drawn(logits), minlength=num_ids)
    rare = expected < 5.0
    counts, wanted = (np.append(values[~rare], values[rare].sum()) for values in (found, expected))
    kept = wanted > 0
    assert chisquare(counts[kept], wanted[kept]).pvalue > 1e-3


def test_what_is_impossible_is_never_drawn() -> None:
    logits = torch.full((2 * _BLOCK + 3,), -torch.inf)
    logits[[5, _BLOCK - 1, 2 * _BLOCK + 2]] = torch.tensor([0.0, 1.0, 2.0])
    assert set(drawn(logits).tolist()) == {5, _BLOCK - 1, 2 * _BLOCK + 2}


def test_a_draw_does_not_depend_on_its_batch() -> None:
    logits = torch.randn(9, 1000, generator=torch.Generator().manual_seed(1))
    stops = torch.tensor([0])

    def ids(rows: list[int]) -> list[int]:
        generators = [torch.Generator().manual_seed(row) for row in rows]
        return choose(logits[rows], generators, stops, []).ids.tolist()

    whole = ids(list(range(9)))
    assert [ids([row])[0] for row in range(9)] == whole
    assert ids([4, 2]) == [whole[4], whole[2]]
