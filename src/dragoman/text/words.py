"""The text tokens of one tokenizer by their bytes: sorted, as a trie, and which id stands for what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from dragoman.text.prefixes import ByteTrie, PrefixOrder
from dragoman.text.strings import ByteStrings

NOWHERE = -1
"""The entry of a token that no token of the other side stands for."""

EncodeMany = Callable[[Sequence[bytes]], tuple[Int64[np.ndarray, " N_plus_1"], Int64[np.ndarray, " M"]]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Words:
    """Text tokens in the order of their bytes, and their trie.

    `token_at[n]` is the id that spells node n of the trie, `NOWHERE` where none does. Of several that spell
    the same (a byte token beside the character's own) it is the one that the tokenizer itself would use.
    """

    order: PrefixOrder
    trie: ByteTrie
    token_at: Int64[np.ndarray, " E_plus_1"]

    @classmethod
    def of(cls, ids: Int64[np.ndarray, " N"], strings: ByteStrings, encode_many: EncodeMany) -> Words:
        """Of ids in ascending order, and what each of them spells, which is never nothing."""
        order = PrefixOrder.of(ids, strings)
        trie = ByteTrie.of_sorted(order.keys)
        token_at = np.full(len(trie.is_end), NOWHERE)
        token_at[trie.is_end] = order.ids[trie.low[trie.is_end]]
        node = trie.node_of
        rivals = np.unique(node[1:][node[1:] == node[:-1]])
        bounds, own = encode_many(order.keys.take(trie.low[rivals].astype(np.int64)).tolist())
        alone = np.diff(bounds) == 1
        chosen, rivals = own[bounds[:-1][alone]], rivals[alone]
        # Of the rivals itself: another id may be made of bytes that the tokenizer changes.
        node_of = np.full(int(ids.max(initial=-1)) + 1, NOWHERE)
        node_of[order.ids] = node
        known = chosen < len(node_of)
        chosen, rivals = chosen[known], rivals[known]
        own_node = node_of[chosen] == rivals
        token_at[rivals[own_node]] = chosen[own_node]
        return cls(order=order, trie=trie, token_at=token_at)

    def id_of(self, data: bytes) -> int:
        """The id that spells some bytes, `NOWHERE` where none does."""
        node, size, _ = self.trie.walk(ByteStrings.of([data]))
        return int(self.token_at[node[0]]) if size[0] == len(data) else NOWHERE

    def longest_of(self, strings: ByteStrings) -> Int64[np.ndarray, " N"]:
        """The longest token that each of some strings starts with, which may be all of it."""
        _, _, last = self.trie.walk(strings)
        # Nothing spells the root.
        return self.token_at[last]

    def meet(self, other: Words) -> tuple[Int64[np.ndarray, " E_plus_1"], Int64[np.ndarray, " E_plus_1"]]:
        """For every node of the trie the other side's token that spells the same, and the longest one that it
        starts with: (same, longest)."""
        place = np.full(len(self.token_at), NOWHERE)
        longest = np.full(len(self.token_at), NOWHERE)
        place[0] = 0
        # One level after the other: a node can be where its parent is.
        for start, stop in zip(self.trie.levels[:-1].tolist(), self.trie.levels[1:].tolist(), strict=True):
            parent = self.trie.parents[start:stop]
            longest[start + 1 : stop + 1] = longest[parent]
            alive = np.flatnonzero(place[parent] != NOWHERE)
            found, matches = other.trie.step(place[parent[alive]], self.trie.symbols[start:stop][alive])
            alive, found = alive[matches] + start + 1, found[matches]
            place[alive] = found
            spelled = other.token_at[found] != NOWHERE
            longest[alive[spelled]] = other.token_at[found[spelled]]
        here = place != NOWHERE
        same = np.where(here, other.token_at[np.where(here, place, 0)], NOWHERE)
        return same, longest

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What it is made of, by name."""
        return {
            **{f"order_{name}": array for name, array in self.order.arrays.items()},
            **{f"trie_{name}": array for name, array in self.trie.arrays.items()},
            "token_at": self.token_at,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Words:
        """What `arrays` gave."""
        order, trie = (
            {name.removeprefix(part): array for name, array in arrays.items() if name.startswith(part)}
            for part in ("order_", "trie_")
        )
        return cls(
            order=PrefixOrder.from_arrays(order),
            trie=ByteTrie.from_arrays(trie),
            token_at=arrays["token_at"],
        )
