"""Which bytes of two strings correspond, when they are not equal.

Lossy tokenizers change a few bytes here and there (case, accents, white space), so the strings are
followed in step and, where they part, an edit script is found in a window and its trusted part kept.
The cost is linear in the length for a bounded density of differences.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64, UInt16

_WINDOW = 256
_MAX_WINDOW = 4096
_TRUSTED_SHARE = 0.75
"""The last quarter of a window is not trusted: what follows it might have changed the script."""
_MAX_DISTANCE = 512
"""Edits beyond which two windows have nothing to do with each other: any two of the first size fit."""
_SOLID_RUN = 4
"""A script is taken up at a run of at least this many symbols; shorter ones may be chance."""

Run = tuple[int, int, int]


def matching_runs(a: UInt16[np.ndarray, " A"], b: UInt16[np.ndarray, " B"]) -> Int64[np.ndarray, "R 3"]:
    """Maximal stretches of corresponding symbols, as rows (start in a, start in b, length).

    Runs are in order and disjoint on both sides; symbols outside them have no counterpart. Symbols
    are any uint16 values (bytes, or codes above 255 for events). Within a window the script is a
    shortest one (Myers 1986, the greedy algorithm).

    >>> matching_runs(*(np.frombuffer(s, np.uint8).astype(np.uint16) for s in (b"aXbc", b"abc"))).tolist()
    [[0, 0, 1], [2, 1, 2]]
    """
    prefix = _common_prefix(a, b)
    suffix = _common_prefix(a[prefix:][::-1], b[prefix:][::-1])
    runs = _runs_between(a[: len(a) - suffix], b[: len(b) - suffix])
    if suffix:
        _append(runs, (len(a) - suffix, len(b) - suffix, suffix))
    return np.array(runs, np.int64).reshape(-1, 3)


def _runs_between(a: UInt16[np.ndarray, " A"], b: UInt16[np.ndarray, " B"]) -> list[Run]:
    runs: list[Run] = []
    i = j = 0
    while True:
        length = _common_prefix(a[i:], b[j:])
        if length:
            _append(runs, (i, j, length))
            i, j = i + length, j + length
        if i == len(a) or j == len(b):
            break
        window_runs, i_next, j_next = _resynchronise(a, b, i, j)
        for run in window_runs:
            _append(runs, run)
        i, j = i_next, j_next
    return runs


def _append(runs: list[Run], run: Run) -> None:
    """Append a run, joining it to the last one where both continue."""
    if runs and runs[-1][0] + runs[-1][2] == run[0] and runs[-1][1] + runs[-1][2] == run[1]:
        runs[-1] = (runs[-1][0], runs[-1][1], runs[-1][2] + run[2])
    else:
        runs.append(run)


def _common_prefix(a: UInt16[np.ndarray, " A"], b: UInt16[np.ndarray, " B"]) -> int:
    """How many leading symbols agree; looks at doubling stretches, so a short answer is cheap."""
    limit = min(len(a), len(b))
    start, size = 0, 64
    while start < limit:
        stop = min(start + size, limit)
        different = np.flatnonzero(a[start:stop] != b[start:stop])
        if len(different):
            return start + int(different[0])
        start, size = stop, size * 2
    return limit


def _resynchronise(
    a: UInt16[np.ndarray, " A"], b: UInt16[np.ndarray, " B"], i: int, j: int
) -> tuple[list[Run], int, int]:
    """The runs of a trusted script from (i, j), where the strings part, and where to go on."""
    size = _WINDOW
    while True:
        window_a, window_b = a[i : i + size].tolist(), b[j : j + size].tolist()
        is_last = i + size >= len(a) and j + size >= len(b)
        script = _shortest_script(window_a, window_b, to_the_end=is_last)
        runs = [(i + x, j + y, length) for x, y, length in script]
        if is_last:
            return runs, len(a), len(b)
        limit = int(size * _TRUSTED_SHARE)
        trusted = [(x, y, min(length, limit - max(x - i, y - j))) for x, y, length in runs]
        trusted = [run for run in trusted if run[2] > 0]
        if trusted and trusted[-1][2] >= _SOLID_RUN:
            last = trusted[-1]
            return trusted, last[0] + last[2], last[1] + last[2]
        if size >= _MAX_WINDOW:
            return trusted, min(i + limit, len(a)), min(j + limit, len(b))
        size *= 2


def _shortest_script(a: list[int], b: list[int], *, to_the_end: bool) -> list[Run]:
    """Runs of a shortest edit script; it ends at both ends, or (`to_the_end=False`) at either. None where
    it would take more than `_MAX_DISTANCE` edits."""
    num_a, num_b = len(a), len(b)
    furthest = {1: 0}
    history: list[dict[int, int]] = []
    for distance in range(min(num_a + num_b, _MAX_DISTANCE) + 1):
        history.append(dict(furthest))
        for k in range(-distance, distance + 1, 2):
            down = k == -distance or (k != distance and furthest[k - 1] < furthest[k + 1])
            x = furthest[k + 1] if down else furthest[k - 1] + 1
            y = x - k
            while x < num_a and y < num_b and a[x] == b[y]:
                x, y = x + 1, y + 1
            furthest[k] = x
            done = (x >= num_a and y >= num_b) if to_the_end else (x >= num_a or y >= num_b)
            if done:
                return _backtrack(history, x, y)
    return []


def _backtrack(history: list[dict[int, int]], x: int, y: int) -> list[Run]:
    runs: list[Run] = []
    for distance in range(len(history) - 1, -1, -1):
        furthest = history[distance]
        k = x - y
        if distance == 0:
            previous_x, previous_y = 0, 0
            start_x, start_y = 0, 0
        else:
            down = k == -distance or (k != distance and furthest[k - 1] < furthest[k + 1])
            previous_k = k + 1 if down else k - 1
            previous_x = furthest[previous_k]
            previous_y = previous_x - previous_k
            start_x, start_y = (previous_x, previous_y + 1) if down else (previous_x + 1, previous_y)
        if x > start_x:
            runs.append((start_x, start_y, x - start_x))
        x, y = previous_x, previous_y
    return runs[::-1]
