"""Which prompts a step answers, as a function of the step alone: a resumed run needs no saved position."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64


def prompt_indices(
    num_prompts: int, step: int, prompts_per_step: int, seed: int, shuffle: bool
) -> Int64[np.ndarray, " P"]:
    """The prompts of one step (the first is 1), as indices into the list of prompts.

    Epochs follow one another without a gap: each is every prompt once, in an order drawn from (seed,
    epoch), or in file order. So no prompt comes twice within an epoch, but a step that reaches into the
    next epoch may hold one twice; see `occurrences`.

    >>> [prompt_indices(3, step, 2, seed=0, shuffle=False).tolist() for step in (1, 2, 3)]
    [[0, 1], [2, 0], [1, 2]]

    Raises ValueError if there are no prompts or `step` is less than 1.
    """
    if num_prompts < 1 or prompts_per_step < 1 or step < 1:
        raise ValueError(
            f"got {num_prompts} prompts, {prompts_per_step} a step, step {step}; expected at least 1 of each"
        )
    first = (step - 1) * prompts_per_step
    epochs, places = np.divmod(np.arange(first, first + prompts_per_step, dtype=np.int64), num_prompts)
    if not shuffle:
        return places
    orders = {epoch: _epoch_order(num_prompts, epoch, seed) for epoch in np.unique(epochs).tolist()}
    drawn = [orders[epoch][place] for epoch, place in zip(epochs.tolist(), places.tolist(), strict=True)]
    return np.array(drawn, np.int64)


def occurrences(indices: Int64[np.ndarray, " P"]) -> Int64[np.ndarray, " P"]:
    """How often each index came before within the same step.

    Rollouts of a prompt that comes twice need sample numbers of their own, or both would be named and
    seeded alike: with k samples a prompt, occurrence o takes the numbers o k to o k + k - 1.

    >>> occurrences(np.array([7, 2, 7, 7])).tolist()
    [0, 0, 1, 2]
    """
    seen: dict[int, int] = {}
    earlier = []
    for index in indices.tolist():
        earlier.append(seen.get(index, 0))
        seen[index] = earlier[-1] + 1
    return np.array(earlier, np.int64)


def _epoch_order(num_prompts: int, epoch: int, seed: int) -> Int64[np.ndarray, " P"]:
    return np.random.default_rng([seed, epoch]).permutation(num_prompts).astype(np.int64)
