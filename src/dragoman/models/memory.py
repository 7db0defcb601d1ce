"""Memory given back to the system between the stages of a step (Linux; elsewhere nothing happens).

Weights of safetensors on CPU are a file mapped into memory: between two uses their pages need not be held, as
the file has the same bytes. And what was freed in small pieces stays with the process until it is told
otherwise.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch import nn

_SMAPS = Path("/proc/self/smaps")
_HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)\s*(.*)")
_CHANGED = re.compile(r"(Anonymous|Swap|Locked): +(\d+) kB")
"""What a mapping has none of, if all its pages are the file's and may go. A system that does not say so much
as `Anonymous` is not believed."""
_DONTNEED = 4
"""MADV_DONTNEED of madvise(2): of a private mapping of a file, pages that were never written to are read from
the file again when they are next used. Pages of no file would be lost, so they are never named."""


class Mapping(NamedTuple):
    """Addresses [start, stop) that hold a file's bytes, none of them changed in memory."""

    start: int
    stop: int


def give_back_freed() -> None:
    """Give back what was freed, such as gradients and packed weights (malloc_trim(3), glibc)."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def give_back_pages(model: nn.Module) -> int:
    """Let go of the pages of a model's weights that are an unchanged file's; returns the bytes let go of.

    The weights stay as they are and can be used at once: the system reads a page again where it is touched,
    mostly from its own cache of the file. Weights that were converted, written to, or are not on CPU have no
    such pages, and nothing happens to them.
    """
    stretches = list(_stretches(model))
    mappings = list(file_mappings()) if stretches else []
    if not mappings:
        return 0
    advise = ctypes.CDLL(None, use_errno=True).madvise
    released = 0
    for start, stop in stretches:
        inside = next((m for m in mappings if m.start <= start and stop <= m.stop), None)
        first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, stop // mmap.PAGESIZE * mmap.PAGESIZE
        if inside is None or last <= first:
            continue
        if advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONTNEED) == 0:
            released += last - first
    return released


def file_mappings(smaps: Path = _SMAPS) -> Iterator[Mapping]:
    """Private mappings of files without a page that differs from the file, see proc_pid_smaps(5)."""
    if not smaps.exists():
        return
    found: Mapping | None = None
    held: dict[str, int] = {}

    def unchanged() -> Iterator[Mapping]:
        if found is not None and "Anonymous" in held and not any(held.values()):
            yield found

    for line in smaps.read_text(encoding="utf-8", errors="replace").splitlines():
        if header := _HEADER.fullmatch(line):
            yield from unchanged()
            start, stop, kind, inode, _ = header.groups()
            is_private_file = inode != "0" and kind.startswith("r") and kind.endswith("p")
            found, held = Mapping(int(start, 16), int(stop, 16)) if is_private_file else None, {}
        elif size := _CHANGED.fullmatch(line):
            held[size[1]] = int(size[2])
    yield from unchanged()


def _stretches(model: nn.Module) -> Iterator[tuple[int, int]]:
    """Where the weights on CPU lie; those that lie beside each other are one stretch."""
    places = sorted(
        {
            (weight.data_ptr(), weight.data_ptr() + weight.nbytes)
            for weight in model.parameters()
            if weight.device.type == "cpu" and weight.is_contiguous() and weight.numel()
        }
    )
    while places:
        start, stop = places.pop(0)
        while places and places[0][0] <= stop:
            stop = max(stop, places.pop(0)[1])
        yield start, stop
