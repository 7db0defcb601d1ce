"""What of a run's configuration is set for the whole process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from dragoman.config import RunConfig
from dragoman.models.settings import use_settings


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


def test_threads_and_precision_are_those_of_the_run() -> None:
    use_settings(RunConfig(threads=2, matmul_precision="medium"))
    assert torch.get_num_threads() == 2
    assert torch.get_float32_matmul_precision() == "medium"


def test_by_default_products_are_in_float32_and_threads_stay() -> None:
    torch.set_num_threads(3)
    torch.set_float32_matmul_precision("medium")
    use_settings(RunConfig())
    assert torch.get_num_threads() == 3
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's parameters")
def test_freed_blocks_are_kept() -> None:
    """In a process of its own, as the allocator's settings are the process's: blocks of 16 MB that
    were freed are given out again without the system filling their pages."""
    script = (
        "import resource, torch\n"
        "from dragoman.models.settings import keep_freed_memory\n"
        "assert keep_freed_memory()\n"
        "def faults():\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for turn in range(3):\n"
        "    before = faults()\n"
        "    blocks = [torch.ones(2**22) for _ in range(8)]\n"
        "    del blocks\n"
        "print(faults() - before)\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    # 128 MB are 32,768 pages
    assert int(found.stdout) < 100
