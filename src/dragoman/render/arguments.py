"""The JSON arguments of a tool call, in symbols: where they end and where their keys and values stand."""

from __future__ import annotations

import json
import re

_MOST_NESTED = 32
"""Deeper arguments count as malformed: templates and the JSON reader recurse."""
# A string that does not end is one as well, lest the search for its end begins anew at every quote.
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[{}\[\],:]|[^\s{}\[\],:"]+')

Leaf = tuple[str | int, ...]
"""Keys and indices that lead to a key or a value, and which of the two it is."""


def arguments_end(symbols: str, start: int, end: int) -> int | None:
    """Where the JSON object at `start` ends; None if there is none, or none that a template can write: its
    numbers are finite and within what Python reads, its text is Unicode, its nesting bounded."""
    if _nesting(symbols, start, end) > _MOST_NESTED:
        return None
    try:
        value, stop = json.JSONDecoder().raw_decode(symbols[:end], start)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return None
    return stop if isinstance(value, dict) else None


def leaves(symbols: str, start: int) -> dict[Leaf, tuple[int, int]]:
    """Where the keys and values of the valid object at `start` stand, quotes left out; those of a key given
    twice are the last ones."""
    found: dict[Leaf, tuple[int, int]] = {}
    path: list[str | int] = []
    expects_key: list[bool] = []
    for match in _TOKEN.finditer(symbols, start):
        token = match[0]
        if token in "{[":
            path.append(0)
            expects_key.append(token == "{")
        elif token in "}]":
            path.pop()
            expects_key.pop()
            if not path:
                break
        elif token == ",":
            place = path[-1]
            if isinstance(place, int):
                path[-1] = place + 1
            else:
                expects_key[-1] = True
        elif token == ":":
            expects_key[-1] = False
        else:
            quoted = token.startswith('"')
            if expects_key[-1]:
                path[-1] = json.loads(token)
            found[(*path, "key" if expects_key[-1] else "value")] = (
                match.start() + quoted,
                match.end() - quoted,
            )
    return found


def _nesting(symbols: str, start: int, end: int) -> int:
    """How deep the brackets from `start` on nest, until they close or are too many."""
    depth = deepest = 0
    for match in _TOKEN.finditer(symbols, start, end):
        depth += (match[0] in "{[") - (match[0] in "}]")
        deepest = max(deepest, depth)
        if depth <= 0 or deepest > _MOST_NESTED:
            break
    return deepest
