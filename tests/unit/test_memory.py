"""Pages of mapped weights are let go of, and only those that a file has unchanged."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dragoman.models import memory
from dragoman.models.memory import Mapping, file_mappings, give_back_pages

linux = pytest.mark.skipif(sys.platform != "linux", reason="pages are let go of on Linux only")

SMAPS = """\
1000-3000 rw-p 00000000 fe:00 77                    /data/model.safetensors
Size:                  8 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd wr mr mw me ac
3000-5000 rw-p 00002000 fe:00 77                    /data/model.safetensors
Anonymous:             4 kB
Swap:                  0 kB
5000-6000 rw-p 00000000 00:00 0
Anonymous:             0 kB
6000-8000 rw-s 00000000 fe:00 78                    /data/shared
Anonymous:             0 kB
8000-9000 rw-p 00000000 fe:00 79                    /data/swapped
Anonymous:             0 kB
Swap:                  4 kB
9000-a000 rw-p 00000000 fe:00 81                    /data/of a system that does not say
Swap:                  0 kB
a000-c000 r--p 00000000 fe:00 80                    /data/with a blank.safetensors
Anonymous:             0 kB
d000-e000 r--p 00000000 fe:00 82                    /data/cut short
"""


def test_only_private_files_without_a_changed_page_count(tmp_path: Path) -> None:
    smaps = tmp_path / "smaps"
    smaps.write_text(SMAPS)
    # The second has a written page, the third is no file, the fourth is shared, the fifth was swapped out,
    # of the sixth and the last nothing is known.
    assert list(file_mappings(smaps)) == [Mapping(0x1000, 0x3000), Mapping(0xA000, 0xC000)]
    assert list(file_mappings(tmp_path / "none")) == []


def mapped_layer(folder: Path, *, size: int = 1024) -> nn.Linear:
    """A layer whose weight is a file's, of 4 MB."""
    weight = torch.arange(size * size, dtype=torch.float32).view(size, size)
    save_file({"weight": weight}, folder / "layer.safetensors")
    layer = nn.Linear(size, size, bias=False)
    layer.weight = nn.Parameter(load_file(folder / "layer.safetensors")["weight"], requires_grad=False)
    return layer


def resident(address: int) -> int:
    """Kilobytes held of the mapping an address lies in."""
    inside = False
    for line in Path("/proc/self/smaps").read_text(errors="replace").splitlines():
        bounds = line.split(" ", 1)[0].split("-")
        if len(bounds) == 2:
            inside = int(bounds[0], 16) <= address < int(bounds[1], 16)
        elif inside and line.startswith("Rss:"):
            return int(line.split()[1])
    raise AssertionError(f"no mapping holds {address:#x}")


@linux
def test_pages_are_let_go_of_and_read_again(tmp_path: Path) -> None:
    layer = mapped_layer(tmp_path)
    total = layer.weight.double().sum()
    held = resident(layer.weight.data_ptr())
    released = give_back_pages(layer)
    # All of 4 MB but for a page at either end at most
    assert 2**22 - 2 * 4096 <= released <= 2**22
    assert held >= 4000 and resident(layer.weight.data_ptr()) <= 64
    assert layer.weight.double().sum() == total == 2**20 * (2**20 - 1) / 2


@linux
def test_weights_that_were_written_to_stay(tmp_path: Path) -> None:
    layer = mapped_layer(tmp_path)
    layer.weight.data[512, 512] = -1.0
    assert give_back_pages(layer) == 0
    assert layer.weight[512, 512] == -1.0


def test_nothing_is_read_where_no_weight_is_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "file_mappings", lambda: pytest.fail("the mappings were read"))
    assert give_back_pages(nn.Linear(4, 4, device="meta")) == 0


@linux
def test_weights_of_no_file_stay() -> None:
    layer = nn.Linear(1024, 1024)
    before = layer.weight.detach().clone()
    assert give_back_pages(layer) == 0
    assert torch.equal(layer.weight, before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc_trim")
def test_freed_blocks_go_back_to_the_system() -> None:
    """In a process of its own, as the memory of other tests is the process's too: small blocks with one that
    stays behind them, so that the heap cannot shrink by itself."""
    script = (
        "from pathlib import Path\n"
        "from dragoman.models.memory import give_back_freed\n"
        "def anonymous():\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith('RssAnon'))\n"
        "blocks = [b'x' * 65536 for _ in range(1000)]\n"
        "last = b'x' * 65536\n"
        "del blocks\n"
        "before = anonymous()\n"
        "give_back_freed()\n"
        "print(before - anonymous())\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    # Kilobytes; the blocks were 64,000
    assert int(found.stdout) > 50_000
