"""Corresponding stretches of two strings: what must hold of any, and where one change is made."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.text import matching_runs


def symbols(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8).astype(np.uint16)


class TestMatchingRuns:
    @staticmethod
    def check(a: bytes, b: bytes) -> list[list[int]]:
        runs: list[list[int]] = matching_runs(symbols(a), symbols(b)).tolist()
        end_a = end_b = 0
        for start_a, start_b, length in runs:
            assert length > 0
            assert start_a >= end_a and start_b >= end_b
            # Maximal: a run that goes on where the last one ended, on both sides, is the same run.
            assert (start_a, start_b) != (end_a, end_b) or end_a == 0
            end_a, end_b = start_a + length, start_b + length
            assert a[start_a:end_a] == b[start_b:end_b]
        assert end_a <= len(a) and end_b <= len(b)
        return runs

    @given(a=st.text("abc", max_size=60), b=st.text("abc", max_size=60))
    def test_ordered_disjoint_and_equal(self, a: str, b: str) -> None:
        self.check(a.encode(), b.encode())

    @given(a=st.text("ab", max_size=25), b=st.text("ab", max_size=25))
    def test_as_long_as_a_longest_common_subsequence(self, a: str, b: str) -> None:
        # The prefix that both share belongs to some longest common subsequence, and the rest is one window.
        rows = [[0] * (len(b) + 1)]
        for x in a:
            row = [0]
            for j, y in enumerate(b):
                row.append(rows[-1][j] + 1 if x == y else max(rows[-1][j + 1], row[j]))
            rows.append(row)
        runs = self.check(a.encode(), b.encode())
        assert sum(length for _, _, length in runs) == rows[-1][-1]

    @given(data=st.binary(max_size=700))
    def test_equal(self, data: bytes) -> None:
        runs = matching_runs(symbols(data), symbols(data)).tolist()
        assert runs == ([[0, 0, len(data)]] if data else [])

    @given(
        base=st.binary(min_size=1, max_size=900),
        edits=st.lists(st.tuples(st.integers(0, 899), st.binary(max_size=3)), max_size=5),
    )
    def test_edits(self, base: bytes, edits: list[tuple[int, bytes]]) -> None:
        changed = base
        for place, new in edits:
            place %= len(base)
            changed = changed[:place] + new + changed[place + 1 :]
        self.check(base, changed)

    @pytest.mark.parametrize("place", [0, 1, 500, 5_000, 9_999])
    def test_one_change_costs_its_place(self, place: int) -> None:
        data = np.random.default_rng(0).integers(97, 123, 10_000).astype(np.uint8).tobytes()
        changed = data[:place] + b"#" + data[place + 1 :]
        expected = [[0, 0, place], [place + 1, place + 1, 9_999 - place]]
        assert self.check(data, changed) == [run for run in expected if run[2]]

    @pytest.mark.parametrize("size", [1, 7, 100])
    def test_insertion_and_deletion(self, size: int) -> None:
        data = np.random.default_rng(1).integers(97, 123, 4_000).astype(np.uint8).tobytes()
        longer = data[:2_000] + b"#" * size + data[2_000:]
        assert self.check(data, longer) == [[0, 0, 2_000], [2_000, 2_000 + size, 2_000]]
        assert self.check(longer, data) == [[0, 0, 2_000], [2_000 + size, 2_000, 2_000]]

    @pytest.mark.parametrize("gap", ["  ", "\n        ", " " * 80])
    def test_dense_changes_cost_only_themselves(self, gap: str) -> None:
        """Every word loses its capital and the white space before it shrinks to one blank, without end."""
        draw = np.random.default_rng(0)
        words = ["".join(draw.choice(list("abcdefgh"), draw.integers(1, 6))) for _ in range(1500)]
        runs = self.check(gap.join(w.capitalize() for w in words).encode(), " ".join(words).encode())
        kept = sum(len(word) - 1 for word in words) + len(words) - 1
        assert sum(length for _, _, length in runs) >= 0.99 * kept

    def test_codes_above_255(self) -> None:
        a, b = np.array([300, 97, 301], np.uint16), np.array([97, 300, 301], np.uint16)
        runs = matching_runs(a, b).tolist()
        assert sum(length for _, _, length in runs) == 2

    def test_nothing_in_common(self) -> None:
        assert self.check(b"a" * 500, b"b" * 500) == []
