"""Numbers for people: three significant digits, a unit, and a dash where nothing was recorded."""

from __future__ import annotations

import math
from typing import Any

NOT_RECORDED = "–"
_FLOP_PREFIXES = ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def number(value: float | None) -> str:
    """Three significant digits; integers in full.

    >>> number(0.12345), number(12345), number(1e-6), number(None)
    ('0.123', '12,345', '1e-06', '–')
    """
    if value is None:
        return NOT_RECORDED
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e15:
        return _minus(f"{int(value):,}")
    if abs(value) >= 1000:
        return _minus(f"{value:,.0f}")
    return _minus(f"{value:.3g}")


def measured(value: float | None) -> str:
    """A measured figure with three significant digits, zeros included; large ones as in `number`.

    >>> measured(0.22), measured(1.0), measured(61.234)
    ('0.220', '1.00', '61.2')
    """
    if value is None or not math.isfinite(value) or abs(value) >= 100:
        return number(value)
    return _minus(f"{value:#.3g}")


def percent(value: float | None, *, signed: bool = False) -> str:
    """A share as a percentage with one decimal.

    >>> percent(0.9751), percent(-0.485, signed=True)
    ('97.5 %', '−48.5 %')
    """
    if value is None:
        return NOT_RECORDED
    return _minus(f"{100 * value:{'+' if signed else ''}.1f} %")


def interval(bounds: Any, *, as_percent: bool = False) -> str:
    """A 95 % interval in brackets; empty if there is none.

    >>> interval([0.1, 0.25]), interval(None)
    ('[0.100, 0.250]', '')
    """
    if not bounds or any(bound is None for bound in bounds):
        return ""
    low, high = bounds
    if as_percent:
        return f"[{percent(low, signed=True)}, {percent(high, signed=True)}]"
    return f"[{measured(low)}, {measured(high)}]"


def duration(seconds: float | None) -> str:
    """Seconds in the two largest units that matter.

    >>> duration(0.25), duration(75), duration(3 * 3600 + 125)
    ('0.25 s', '1 min 15 s', '3 h 2 min')
    """
    if seconds is None:
        return NOT_RECORDED
    if seconds < 60:
        return f"{number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def memory(num_bytes: float | None) -> str:
    """Bytes in binary units.

    >>> memory(3 * 2**30)
    '3 GiB'
    """
    if num_bytes is None:
        return NOT_RECORDED
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if num_bytes >= size:
            return f"{number(num_bytes / size)} {unit}"
    return f"{number(num_bytes)} B"


def flops(value: float | None) -> str:
    """Floating-point operations with an SI prefix.

    >>> flops(2.5e15)
    '2.5 PFLOP'
    """
    if value is None:
        return NOT_RECORDED
    for size, prefix in _FLOP_PREFIXES:
        if value >= size:
            return f"{number(value / size)} {prefix}FLOP"
    return f"{number(value)} FLOP"


def _minus(text: str) -> str:
    """Typographic minus, except inside an exponent."""
    return "−" + text[1:] if text.startswith("-") else text
