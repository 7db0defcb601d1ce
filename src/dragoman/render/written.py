"""Symbols as the tokens one side writes them with, and correspondences carried through that."""

from __future__ import annotations

import numpy as np

from dragoman.render.symbols import event_id, is_event_symbol, runs
from dragoman.text import Tokenization
from dragoman.types import Correspondence, PairKind, TokenText

Row = tuple[int, int, int, int, int]


def write_symbols(symbols: str, tokenization: Tokenization) -> tuple[TokenText, Correspondence | None]:
    """Canonical tokens of some symbols, text and events apart from each other, and what of the symbols
    each stands for: None where the tokens spell just these symbols.
    """
    texts: list[TokenText] = []
    rows: list[Row] = []
    changed = False
    place = 0
    for start, run in runs(symbols):
        if is_event_symbol(run):
            texts.append(tokenization.view([event_id(run)]))
            rows.append((start, start + 1, place, place + 1, PairKind.EXACT))
            place += 1
            continue
        placed = tokenization.place(run.encode("latin-1"))
        texts.append(placed.text)
        width = len(placed.text.data) + int((placed.text.event != 0).sum())
        if placed.correspondence is None:
            rows.append((start, start + len(run), place, place + width, PairKind.EXACT))
        else:
            changed = True
            for (a, b, c, d), kind in zip(
                placed.correspondence.spans.tolist(), placed.correspondence.kind.tolist(), strict=True
            ):
                rows.append((start + a, start + b, place + c, place + d, kind))
        place += width
    return joined(texts), _correspondence(rows) if changed else None


def joined(texts: list[TokenText]) -> TokenText:
    """Texts one after another."""
    ends = np.cumsum([0, *(len(text.data) for text in texts)])
    bounds = [text.bounds[1:] + end for text, end in zip(texts, ends[:-1], strict=True)]
    empty = np.zeros(0, np.int64)
    return TokenText(
        ids=np.concatenate([empty, *(text.ids for text in texts)]),
        data=b"".join(text.data for text in texts),
        bounds=np.concatenate([np.zeros(1, np.int64), *bounds]),
        event=np.concatenate([empty.astype(np.uint8), *(text.event for text in texts)]),
        canonical=np.concatenate([empty.astype(bool), *(text.canonical for text in texts)]),
    )


def through(first: Correspondence, second: Correspondence | None) -> Correspondence:
    """What corresponds to what by way of a text in between: `first` leads to it, `second` from it on.

    A stretch is carried on whole or, between exact spans, piece by piece; what `second` does not hold, or
    holds only together with something else, has no counterpart any longer.
    """
    if second is None:
        return first
    found: list[Row] = []
    starts = second.spans[:, 0]
    end = 0
    for (a, b, c, d), kind in zip(first.spans.tolist(), first.kind.tolist(), strict=True):
        if kind > PairKind.MARKER:
            found.append((a, b, end, end, kind))
            continue
        row = max(int(np.searchsorted(starts, c, side="right")) - 1, 0)
        inside: list[Row] = []
        while row < len(starts) and starts[row] < d:
            piece = _clipped(second, row, c, d)
            if piece is not None:
                inside.append(piece)
            row += 1
        if kind == PairKind.EXACT:
            found += [(a + e - c, a + f - c, g, h, k) for e, f, g, h, k in inside]
        elif inside and sum(f - e for e, f, *_ in inside) == d - c:
            found.append((a, b, inside[0][2], inside[-1][3], kind))
        end = found[-1][3] if found else 0
    return _correspondence(found)


def _clipped(second: Correspondence, row: int, start: int, stop: int) -> Row | None:
    """The part of a row within `start:stop`; None if there is none or if only the whole could be used."""
    e, f, g, h = second.spans[row].tolist()
    kind = int(second.kind[row])
    low, high = max(e, start), min(f, stop)
    if low >= high:
        return None
    if kind != PairKind.EXACT:
        return (e, f, g, h, kind) if (low, high) == (e, f) else None
    return low, high, g + low - e, g + high - e, kind


def _correspondence(rows: list[Row]) -> Correspondence:
    array = np.array(rows, np.int64).reshape(-1, 5)
    return Correspondence(spans=array[:, :4], kind=array[:, 4].astype(np.uint8))
