"""Batches of similar lengths, and padding on the right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.padding import length_buckets, right_padded

lengths_lists = st.lists(st.integers(0, 50), max_size=30)


def test_buckets_by_hand() -> None:
    # Longest first. 9 is alone: two rows of 9 are 18 > 10. Then 4 and 3 fill 2 × 4 = 8, and a third row
    # would make 3 × 4 = 12 > 10.
    assert list(length_buckets([2, 9, 3, 4], 10)) == [[1], [3, 2], [0]]


def test_equal_lengths_keep_their_order() -> None:
    assert list(length_buckets([5, 5, 5, 5], 10)) == [[0, 1], [2, 3]]


def test_a_sequence_longer_than_the_limit_is_alone() -> None:
    assert list(length_buckets([1, 20, 1], 10)) == [[1], [0, 2]]


def test_nothing_to_bucket() -> None:
    assert list(length_buckets([], 10)) == []


@given(lengths_lists, st.integers(1, 100))
def test_buckets_hold_everything_once_and_no_more_than_fits(lengths: list[int], limit: int) -> None:
    buckets = list(length_buckets(lengths, limit))
    assert sorted(index for bucket in buckets for index in bucket) == list(range(len(lengths)))
    padded = [len(bucket) * max(lengths[i] for i in bucket) for bucket in buckets]
    assert all(size <= limit or len(bucket) == 1 for size, bucket in zip(padded, buckets, strict=True))
    flat = [lengths[index] for bucket in buckets for index in bucket]
    assert flat == sorted(lengths, reverse=True)


@given(lengths_lists, st.integers(1, 100))
def test_a_bucket_is_closed_only_when_the_next_does_not_fit(lengths: list[int], limit: int) -> None:
    buckets = list(length_buckets(lengths, limit))
    for bucket in buckets[:-1]:
        assert lengths[bucket[0]] * (len(bucket) + 1) > limit


def test_right_padded() -> None:
    ids, mask = right_padded([np.array([7, 8]), np.array([9]), np.array([], np.int64)])
    assert ids.tolist() == [[7, 8], [9, 0], [0, 0]]
    assert mask.tolist() == [[1, 1], [1, 0], [0, 0]]
    assert ids.dtype == mask.dtype == np.int64


@pytest.mark.parametrize("size", [1, 4])
def test_equal_lengths_need_no_padding(size: int) -> None:
    ids, mask = right_padded([np.arange(size), np.arange(size) + 1])
    assert ids.shape == (2, size)
    assert mask.all()
