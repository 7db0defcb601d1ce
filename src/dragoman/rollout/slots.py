"""A key-value cache whose rows come and go, for decoding with a batch that is always full.

Keys and values are written in place into buffers that have room for what is to come; `DynamicCache` copies
all it holds for each token. Every row ends at the same column, so a new row is written in front of that
column, however long it is. Positions are given to the model apart, which turns keys by them before they come
here; a sliding window, which a model tells from columns, sees the right distances, as a row has no gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer


class SlotLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer: rows [0, num_rows), columns [0, length) of buffers that hold more."""

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()
        self.num_rows = 0
        self.length = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the states behind the last column, and return all there are as views."""
        size = key_states.shape[-2]
        own = (slice(0, self.num_rows), slice(None), slice(self.length, self.length + size))
        self.keys[own] = key_states
        self.values[own] = value_states
        self.length += size
        return self.keys[: self.num_rows, :, : self.length], self.values[: self.num_rows, :, : self.length]

    def get_seq_length(self, *args: Any) -> int:
        return self.length

    def get_mask_sizes(self, query: int | Tensor) -> tuple[int, int]:
        """Columns with the next `query` tokens, and the first of them (0)."""
        size = query if isinstance(query, int) else len(query)
        return self.length + size, 0

    def buffers(self) -> tuple[Tensor, Tensor]:
        return self.keys, self.values


class SlotCache(Cache):  # type: ignore[misc]
    """All layers of a model. A row is taken in with `write`, and left out with `drop`."""

    def __init__(self, num_layers: int, num_slots: int) -> None:
        self.num_slots = num_slots
        self._own = [SlotLayer() for _ in range(num_layers)]
        super().__init__(layers=self._own)

    @property
    def length(self) -> int:
        """The column behind the last."""
        return self._own[0].length

    @property
    def num_rows(self) -> int:
        """Rows in use, which come first."""
        return self._own[0].num_rows

    def reserve(self, source: DynamicCache, first: int, length: int, capacity: int) -> None:
        """Keep the columns [first, ...) and move them so that they end at `length`, with room for `capacity`
        columns in all; shapes are those of `source`."""
        for layer, example in zip(self._own, source.layers, strict=True):
            kept = slice(first, layer.length)
            moved = []
            for old, like in zip(
                layer.buffers() if layer.is_initialized else (None, None),
                (example.keys, example.values),
                strict=True,
            ):
                new = like.new_zeros((self.num_slots, like.shape[1], capacity, like.shape[3]))
                if old is not None and layer.num_rows:
                    size = layer.length - first
                    new[: layer.num_rows, :, length - size : length] = old[: layer.num_rows, :, kept]
                moved.append(new)
            layer.keys, layer.values = moved
            layer.dtype, layer.device, layer.is_initialized = moved[0].dtype, moved[0].device, True
            layer.length = length

    def write(self, source: DynamicCache, row: int, size: int) -> None:
        """Take in the first `size` columns of a row of another cache as a new row."""
        for layer, given in zip(self._own, source.layers, strict=True):
            for buffer, values in zip(layer.buffers(), (given.keys, given.values), strict=True):
                own = buffer[layer.num_rows, :, : layer.length]
                own[:, layer.length - size :] = values[row, :, :size]
                # Masked, but a number that is none would pass through a mask.
                own[:, : layer.length - size] = 0.0
            layer.num_rows += 1

    def drop(self, row: int) -> None:
        """Leave out a row; the last takes its place."""
        last = self.num_rows - 1
        for layer in self._own:
            if row != last:
                for buffer in layer.buffers():
                    buffer[row, :, : layer.length] = buffer[last, :, : layer.length]
            layer.num_rows = last


def fits_slots(layers: Sequence[Any]) -> bool:
    """Whether a model's cache is keys and values, one column a token, in all of its layers."""
    return bool(layers) and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def native_cache(config: Any) -> DynamicCache:
    """The cache that a model would make for itself."""
    return DynamicCache(config=config)


def plain_cache(num_layers: int) -> DynamicCache:
    """A cache that keeps every column, sliding windows or not."""
    cache = DynamicCache()
    cache.layers = [DynamicLayer() for _ in range(num_layers)]
    return cache
