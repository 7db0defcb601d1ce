"""Token texts written by hand, for tests."""

from __future__ import annotations

import numpy as np

from dragoman.types import Event, TokenText

Part = str | bytes | Event


def tokens(*parts: Part, odd: tuple[int, ...] = ()) -> TokenText:
    """Tokens that spell the parts; those numbered in `odd` are not canonical."""
    spelled = [
        b"" if isinstance(part, Event) else part if isinstance(part, bytes) else part.encode()
        for part in parts
    ]
    return TokenText(
        ids=np.arange(100, 100 + len(parts)),
        data=b"".join(spelled),
        bounds=np.cumsum([0, *map(len, spelled)], dtype=np.int64),
        event=np.array([part if isinstance(part, Event) else 0 for part in parts], np.uint8),
        canonical=np.array([i not in odd for i in range(len(parts))], bool),
    )
