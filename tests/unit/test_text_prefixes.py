"""Strings in one buffer, their order and their trie: against sorting, slicing and loops of Python's own."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dragoman.text.prefixes import ByteTrie, PrefixOrder
from dragoman.text.strings import ByteStrings, byte_order, common_with_last, joined

# Few bytes, NUL among them, and lengths on both sides of 7 and 14, which are compared at once.
SYMBOL = st.sampled_from(b"\x00ab\xff")
WORD = st.lists(SYMBOL, max_size=17).map(bytes) | st.sampled_from([b"a" * n for n in (6, 7, 8, 14, 15)])
WORDS = st.lists(WORD, max_size=30)


@given(WORDS)
def test_strings_come_back(words: list[bytes]) -> None:
    strings = ByteStrings.of(words)
    assert len(strings) == len(words) and strings.tolist() == words
    assert [strings[n] for n in range(len(words))] == words
    backwards = np.arange(len(words))[::-1]
    assert strings.take(backwards).tolist() == words[::-1]
    assert joined([strings, ByteStrings.of([]), strings]).tolist() == words * 2


@given(WORDS, st.integers(0, 3))
def test_pieces_of_strings(words: list[bytes], skip: int) -> None:
    long = np.array([n for n, word in enumerate(words) if len(word) >= skip], np.int64)
    strings = ByteStrings.of(words)
    found = strings.cut(long, np.full(len(long), skip), strings.lengths[long])
    assert found.tolist() == [words[n][skip:] for n in long.tolist()]


@given(WORDS)
def test_order_is_that_of_python_and_stable(words: list[bytes]) -> None:
    assert byte_order(ByteStrings.of(words)).tolist() == sorted(range(len(words)), key=words.__getitem__)


@given(WORDS)
def test_common_prefixes(words: list[bytes]) -> None:
    wanted = [max(n for n in range(len(a) + 1) if b.startswith(a[:n])) for a, b in pairwise(words)]
    assert common_with_last(ByteStrings.of(words)).tolist() == ([0, *wanted] if words else [])


@given(WORDS, WORD)
def test_a_prefix_order_against_a_loop(words: list[bytes], prefix: bytes) -> None:
    words = [*words, b"\xff\xff", b"\xff", b"a\xff", b"b"]
    order = PrefixOrder.of(10 * np.arange(len(words)), ByteStrings.of(words))
    wanted = [n for n, word in sorted(enumerate(words), key=lambda pair: pair[1]) if word.startswith(prefix)]
    assert order.starting(prefix).tolist() == [10 * n for n in wanted]
    low, high = order.range(prefix)
    assert order.rests(low, high, len(prefix)).tolist() == [words[n][len(prefix) :] for n in wanted]
    again = PrefixOrder.from_arrays(order.arrays)
    assert again.keys.tolist() == sorted(words) and again.ids.tolist() == order.ids.tolist()


@given(WORDS, WORDS)
def test_a_trie_against_loops(words: list[bytes], asked: list[bytes]) -> None:
    keys = sorted(word for word in words if word)
    trie = ByteTrie.of_sorted(ByteStrings.of(keys))
    prefixes = sorted({key[:n] for key in keys for n in range(1, len(key) + 1)}, key=lambda p: (len(p), p))
    assert len(trie.edges) == len(prefixes)
    # nodes in order: by depth, then by what they spell
    for node, prefix in enumerate(prefixes, 1):
        own = [n for n, key in enumerate(keys) if key.startswith(prefix)]
        assert (trie.low[node], trie.high[node]) == (own[0], own[-1] + 1)
        assert trie.is_end[node] == (prefix in keys)
        parent = prefixes.index(prefix[:-1]) + 1 if len(prefix) > 1 else 0
        assert (trie.parents[node - 1], trie.symbols[node - 1]) == (parent, prefix[-1])
    depths = [len(prefix) for prefix in prefixes]
    assert np.diff(trie.levels).tolist() == [depths.count(d) for d in range(1, max(depths, default=0) + 1)]
    strings = ByteStrings.of(asked)
    again = ByteTrie.from_arrays(trie.arrays)
    assert again.arrays.keys() == trie.arrays.keys() == {field.name for field in fields(ByteTrie)}
    assert all(again.arrays[name] is array for name, array in trie.arrays.items())
    node, size, last = trie.walk(strings)
    for n, word in enumerate(asked):
        reached = max(k for k in range(len(word) + 1) if k == 0 or word[:k] in prefixes)
        ends = [k for k in range(1, reached + 1) if word[:k] in keys]
        assert size[n] == reached
        assert node[n] == (prefixes.index(word[:reached]) + 1 if reached else 0)
        assert last[n] == (prefixes.index(word[: ends[-1]]) + 1 if ends else 0)


def test_the_trie_of_a_set_leaves_out_what_is_empty_or_twice() -> None:
    trie = ByteTrie.of([b"ab", b"", b"a", b"ab"])
    assert trie.is_end.tolist() == [False, True, True]
    assert trie.longest(np.frombuffer(b"aabb", np.uint8).astype(np.uint16)).tolist() == [1, 2, 0, 0]
