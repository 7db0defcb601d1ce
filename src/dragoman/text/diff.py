"""Which bytes of two strings correspond, when they are not equal.

Lossy tokenizers change bytes here and there (case, accents, white space), so the strings are followed
in step and, where they part, a longest common subsequence of two windows is found and its first half
kept. The cost is linear in the length, however many differences there are.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64, UInt16

_WINDOW = 4096
"""Symbols of either side compared at once where they part."""
_TRUSTED = _WINDOW // 2
"""How far into a window its correspondence is taken up. Beyond, symbols of the side that runs ahead lure
the longest subsequence away: dropped blanks, say, onto the blanks between words of far behind."""

Run = tuple[int, int, int]


def matching_runs(a: UInt16[np.ndarray, " A"], b: UInt16[np.ndarray, " B"]) -> Int64[np.ndarray, "R 3"]:
    """Maximal stretches of corresponding symbols, as rows (start in a, start in b, length).

    Runs are in order and disjoint on both sides; symbols outside them have no counterpart. Symbols
    are any uint16 values (bytes, or codes above 255 for events). Strings that part within one window of
    their ends correspond by a longest common subsequence.

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
    """The trusted runs from (i, j), where the strings part, and where to go on."""
    runs = [
        (i + x, j + y, length)
        for x, y, length in _longest_common(a[i : i + _WINDOW].tolist(), b[j : j + _WINDOW].tolist())
    ]
    if i + _WINDOW >= len(a) and j + _WINDOW >= len(b):
        return runs, len(a), len(b)
    cut = [(x, y, min(length, _TRUSTED - max(x - i, y - j))) for x, y, length in runs]
    trusted = [run for run in cut if run[2] > 0]
    if not trusted:
        return [], min(i + _TRUSTED, len(a)), min(j + _TRUSTED, len(b))
    x, y, length = trusted[-1]
    return trusted, x + length, y + length


def _longest_common(a: list[int], b: list[int]) -> list[Run]:
    """Runs of a longest common subsequence, by bit-parallel rows (Hyyrö 2004).

    Bit x of row y is 0 where the subsequence of a[:x + 1] and b[:y + 1] is longer than that of a[:x] and
    b[:y + 1]; a row follows from the one before by an addition, whose carries are the matches.
    """
    places: dict[int, int] = {}
    for x, symbol in enumerate(a):
        places[symbol] = places.get(symbol, 0) | (1 << x)
    full = (1 << len(a)) - 1
    rows = [full]
    for symbol in b:
        row = rows[-1]
        matches = row & places.get(symbol, 0)
        rows.append(((row + matches) | (row - matches)) & full)
    pairs = []
    x, y = len(a), len(b)
    while x and y:
        if rows[y] >> (x - 1) & 1:
            x -= 1
        elif not rows[y - 1] >> (x - 1) & 1:
            y -= 1
        else:
            x, y = x - 1, y - 1
            pairs.append((x, y))
    runs: list[Run] = []
    for x, y in reversed(pairs):
        _append(runs, (x, y, 1))
    return runs
